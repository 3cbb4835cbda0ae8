"""Options of measures: dataclasses of plain values, from which the flags of `evaluate`, the settings of a result and its file name are derived."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from experiments.evaluation.examples import First, Images
from experiments.runtime.errors import UserError, refuse
from experiments.runtime.values import Kind

# The flags of `experiments.evaluate` that decide a result, besides the options of measures.
SETTINGS = ("measure", "protocol", "eps", "norm", "seed", "step", "parameters", "split", "classes", "num_examples", "batch_size")


@dataclasses.dataclass(frozen=True)
class MeasureOptions:
    """What every measure has. images: the test images that it takes, by default all."""

    images: Images = dataclasses.field(default_factory=First)


def option(default: Any, kind: Kind, meaning: str, in_name: bool = False) -> Any:
    """A field that is a flag, too.

    Args:
      default: of the preset `standard`.
      kind: how the text of the flag is read, and what it must be.
      meaning: the help of the flag.
      in_name: whether a value given by flag is part of the default name of a result file.
    """
    return dataclasses.field(default=default, metadata={"kind": kind, "meaning": meaning, "in_name": in_name})


def flag_fields(options: Any) -> dict[str, dataclasses.Field[Any]]:
    """The fields of a dataclass (or of an instance) that are flags."""
    return {field.name: field for field in dataclasses.fields(options) if "kind" in field.metadata}


def define_option_flags(measures: Mapping[str, Any]) -> list[str]:
    """Defines a string flag for every option of some measures, and returns their names. Options of one name are one flag.

    measures: name -> an instance of its options.
    """
    meanings: dict[str, dict[str, list[str]]] = {}  # flag -> meaning -> measures
    for measure, options in measures.items():
        for field in flag_fields(options).values():
            meanings.setdefault(field.name, {}).setdefault(field.metadata["meaning"], []).append(measure)
    for flag, by_meaning in meanings.items():
        refuse(flag in flags.FLAGS, f"the option {flag!r} of a measure is a flag of the command itself: give it another name")
        flags.DEFINE_string(flag, None, "; ".join(f"of {', '.join(names)}: {meaning}" for meaning, names in by_meaning.items()))
    return list(meanings)


def with_flags(options: Any, given: Mapping[str, str]) -> Any:
    """Options with the values of flags.

    Args:
      options: a dataclass instance.
      given: flag -> text, of any flags; those of other names are left alone.

    Raises:
      UserError: names the flag, its value and what it must be.
    """
    values = {}
    for name, field in flag_fields(options).items():
        if name in given:
            try:
                values[name] = field.metadata["kind"].read(given[name])
            except ValueError as error:
                raise UserError(f"--{name}={given[name]}: {error}") from error
    return dataclasses.replace(options, **values)


def refuse_unused(given: Sequence[str], measures: Mapping[str, Any]) -> None:
    """A `UserError` for a flag that none of the chosen measures has.

    measures: name -> options, of those that are measured.
    """
    for name in given:
        if not any(name in flag_fields(options) for options in measures.values()):
            raise UserError(f"--{name}: none of {', '.join(measures)} has this option")


def settings(options: Any) -> dict[str, Any]:
    """The values of options for the record, as JSON has them."""
    return {field.name: plain_value(getattr(options, field.name)) for field in dataclasses.fields(options)}


def plain_value(value: Any) -> Any:
    """A value as JSON has it: a record as a dictionary, a tuple as a list."""
    if hasattr(value, "_asdict"):
        return {"kind": type(value).__name__, **{key: plain_value(part) for key, part in value._asdict().items()}}
    return [plain_value(part) for part in value] if isinstance(value, tuple | list) else value
