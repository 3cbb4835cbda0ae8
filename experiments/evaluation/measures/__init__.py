"""Every measure, one file each. A file here with a `MEASURE` is a measure by the name of the file; `MEASURES` finds them."""

import importlib
import pkgutil

from experiments.evaluation.measure import Measure
from experiments.runtime.errors import UserError
from experiments.runtime.names import find

MEASURES: dict[str, Measure] = {
    module.name: importlib.import_module(f"{__name__}.{module.name}").MEASURE for module in pkgutil.iter_modules(__path__)
}


def find_measure(name: str) -> Measure:
    """A measure by name, or by `package.module:attribute`."""
    found = find(MEASURES, name, "measure")
    if not isinstance(found, Measure):
        raise UserError(f"measure {name!r} is not a Measure record (see experiments.evaluation.measure)")
    return found
