"""Names in configs and flags: a key of a table, or `package.module:attribute` for anything of one's own."""

import importlib
from collections.abc import Mapping
from typing import Any, TypeVar

from experiments.runtime.errors import UserError, one_line

T = TypeVar("T")
NEEDS = {  # kind of thing -> what one's own must have, as the rows of its table have it
    "map": ("make", "gradients", "by_class"),
    "norm": ("project", "ascend", "random_point", "length", "diameter", "max_eps"),
}


def find(table: Mapping[str, T], name: str, what: str) -> T:
    """What a name stands for.

    Args:
      table: the rows that come with the project.
      name: a key of the table, or `package.module:attribute`.
      what: kind of thing, for the message.

    Raises:
      UserError: if there is no such row, module or attribute; it lists the table and says how to bring one's own.
    """
    if name in table:
        return table[name]
    if ":" not in name:
        raise UserError(f"unknown {what} {name!r}: choose one of {', '.join(table)}, or bring your own as package.module:attribute")
    found = imported(name, what)
    if lacking := [part for part in NEEDS.get(what, ()) if not hasattr(found, part)]:
        raise UserError(f"{what} {name!r}: it has no {', '.join(lacking)}, as {', '.join(table)} have")
    return found


def imported(name: str, what: str) -> Any:
    """Imports `package.module:attribute`."""
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise UserError(f"{what} {name!r}: give package.module:attribute, both parts of it")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{what} {name!r}: there is no module {error.name!r}; its folder must be the current one or on PYTHONPATH"
        ) from error
    except Exception as error:  # whatever the module raises
        raise UserError(f"{what} {name!r}: importing {module_name} raised {type(error).__name__}: {one_line(error)}") from error
    if not hasattr(module, attribute):
        raise UserError(f"{what} {name!r}: {module_name} has no attribute {attribute!r}")
    return getattr(module, attribute)
