"""Options of a method: the parameters of its row, with their defaults. Keyword-only parameters are how it is computed, not options."""

import inspect
from collections.abc import Callable
from typing import Any

from experiments.runtime.errors import UserError
from experiments.runtime.values import Kind, kind_like


def defaults(row: Callable[..., Any]) -> dict[str, Any]:
    """The options of a method with their defaults.

    Raises:
      UserError: if it is not a function with named parameters.
    """
    try:
        inspect.signature(row)
    except (TypeError, ValueError) as error:
        raise UserError(f"the method {row!r:.60} is not a function whose parameters are its options") from error
    return {
        name: parameter.default for name, parameter in inspect.signature(row).parameters.items() if parameter.kind != parameter.KEYWORD_ONLY
    }


def keyword_only(row: Callable[..., Any]) -> set[str]:
    """The names of the keyword-only parameters."""
    return {name for name, parameter in inspect.signature(row).parameters.items() if parameter.kind == parameter.KEYWORD_ONLY}


def kinds(row: Callable[..., Any]) -> dict[str, Kind]:
    """The options of a method with what each may be, by the type of its default."""
    return {name: kind_like(default) for name, default in defaults(row).items()}


def in_words(kinds: dict[str, Kind]) -> str:
    """The names of options, in words."""
    return f"the options {', '.join(kinds)}" if kinds else "no options"
