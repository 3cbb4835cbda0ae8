"""Protocols: presets for every measure under one name. A protocol is a record; each measure has its own presets."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.evaluation.options import flag_fields
from experiments.runtime.errors import UserError, refuse
from experiments.runtime.names import find


class Protocol(NamedTuple):
    """An evaluation protocol.

    description: one phrase, for --help.
    base: the preset of each measure that it starts from, a key of `Measure.presets`.
    options: measure -> option -> value, instead of the preset's.
    norms: in which a perturbation may be measured; empty for all.
    """

    description: str
    base: str
    options: Mapping[str, Mapping[str, Any]] = {}
    norms: tuple[str, ...] = ()


PROTOCOLS = {
    "standard": Protocol("the strongest attacks of this project, worst case for each image", "standard"),
    "paper": Protocol("as the authors of the paper measured, on the images that they drew", "paper", norms=("linf",)),
}


def options_of(protocol: str, measure: str, presets: Mapping[str, Any]) -> Any:
    """The options of a measure under a protocol.

    Raises:
      UserError: if there is no such protocol, the measure has no such preset, or the preset no such option or value.
    """
    row = find(PROTOCOLS, protocol, "protocol")
    refuse(not isinstance(row, Protocol), f"--protocol={protocol} is not a Protocol record (see experiments.evaluation.presets)")
    refuse(row.base not in presets, f"the measure {measure} has no preset {row.base!r}, which --protocol={protocol} asks for")
    changed, kinds = row.options.get(measure, {}), flag_fields(presets[row.base])
    for name, value in changed.items():
        if name in kinds:
            try:
                kinds[name].metadata["kind"].check(value)
            except ValueError as error:
                raise UserError(f"--protocol={protocol}: {name} = {value!r} of {measure}: {error}") from error
    try:
        return dataclasses.replace(presets[row.base], **changed)
    except TypeError as error:
        raise UserError(f"--protocol={protocol}: the measure {measure} has no option {', '.join(changed)}") from error
