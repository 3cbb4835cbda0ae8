"""Kinds of values of a config field or a flag: how its text is read, and what it must be."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.runtime.errors import UserError
from experiments.runtime.names import find

NUMBER = "must be a number or a fraction, such as 0.03 or 8/255 (in Python without quotes)"


class Kind(NamedTuple):
    """read: text -> value. check: value -> the value in its canonical type. Both raise a ValueError that says what it must be."""

    read: Callable[[str], Any]
    check: Callable[[Any], Any]


def integer(least: int = 0, most: int | None = None, limit: int = 2**31 - 1) -> Kind:
    """A whole number in least .. most; where there is no natural end, up to a limit, by default what 32 bits hold."""
    must = "must be a whole number, " + (f"at least {least}" if most is None else f"from {least} to {most}")

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
            raise ValueError(must)
        if most is None and value > limit:
            raise ValueError(f"{must} and at most {limit}")
        return value

    def read(text: str) -> int:
        digits = text.strip().replace("_", "")
        if not re.fullmatch(r"[+-]?[0-9]{1,4000}", digits):
            raise ValueError(must)
        return check(int(digits))

    return Kind(read, check)


def number(positive: bool = False, below: float | None = None) -> Kind:
    """A finite number that is not negative, or positive, and below another; as text also a fraction such as 8/255."""
    must = "must be positive and finite" if positive else "must be finite and not negative"
    must += "" if below is None else f", below {below:g}"

    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(NUMBER)
        if not math.isfinite(value) or value < 0 or (positive and value == 0) or (below is not None and value >= below):
            raise ValueError(must)
        with np.errstate(over="ignore", under="ignore"):
            rounded = float(np.float32(value))
        if (positive and rounded == 0) or rounded == math.inf or (below is not None and rounded >= below):
            raise ValueError(f"{must}, which {value:g} is not in float32")
        return float(value)

    def read(text: str) -> float:
        numerator, slash, denominator = text.partition("/")
        try:
            value = float(numerator) / float(denominator) if slash else float(numerator)
        except (ValueError, ZeroDivisionError) as error:
            raise ValueError(NUMBER) from error
        return check(value)

    return Kind(read, check)


def several(kind: Kind, least: int = 0, most: int | None = None) -> Kind:
    """A tuple of such values; as text separated by commas, in parentheses or not."""

    def checked(values: Sequence[Any]) -> tuple[Any, ...]:
        if len(values) < least or (most is not None and len(values) > most):
            raise ValueError(f"must be {least if least == most else f'at least {least}'} values, separated by commas")
        return tuple(values)

    def check(values: Any) -> tuple[Any, ...]:
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise ValueError("must be several values, separated by commas")
        return checked([kind.check(value) for value in values])

    def read(text: str) -> tuple[Any, ...]:
        bare = text.strip()
        if bare[:1] + bare[-1:] in ("()", "[]"):
            bare = bare[1:-1]
        return checked([kind.read(part.strip().strip("'\"")) for part in bare.rstrip(",").split(",")] if bare.strip() else [])

    return Kind(read, check)


def distinct(kind: Kind) -> Kind:
    """Such values, no two of them equal."""

    def checked(values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) < len(values):
            raise ValueError("must not name one value twice")
        return values

    return Kind(lambda text: checked(kind.read(text)), lambda values: checked(kind.check(values)))


def row_of(table: Mapping[str, Any], what: str) -> Kind:
    """A key of a table, or `package.module:attribute`."""
    return named(lambda name: find(table, name, what), what)


def named(finder: Callable[[str], Any], what: str) -> Kind:
    """A name that a function finds."""

    def check(value: Any) -> str:
        try:
            finder(str(value))
        except UserError as error:
            raise ValueError(str(error).removeprefix(f"unknown {what} {str(value)!r}: ")) from error
        return str(value)

    return Kind(check, check)


def choice(*options: str) -> Kind:
    """One of the given words."""

    def check(value: Any) -> str:
        if value not in options:
            raise ValueError(f"choose one of {', '.join(options)}")
        return value

    return Kind(check, check)


def boolean() -> Kind:
    """True or False; as text true or false."""

    def check(value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        return value

    def read(text: str) -> bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("must be true or false")
        return text.lower() == "true"

    return Kind(read, check)


def nonempty_text() -> Kind:
    """Any text that is not empty."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or not value.strip():
            raise ValueError("must not be empty")
        return value

    return Kind(check, check)


def any_text() -> Kind:
    """Any text, also an empty one."""

    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError("must be a text")
        return value

    return Kind(check, check)


def optional(kind: Kind) -> Kind:
    """Such a value or None, which no text says."""
    return Kind(kind.read, lambda value: None if value is None else kind.check(value))


def kind_like(default: Any) -> Kind:
    """The kind of an option by its default: a positive whole number, a number that is not negative, true or false, or text."""
    if isinstance(default, bool):
        return boolean()
    return integer(1) if isinstance(default, int) else number() if isinstance(default, float) else nonempty_text()
