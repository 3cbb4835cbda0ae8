"""A group of the benchmark: contenders that do the same."""

import importlib.util
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from experiments.benchmarks.floors import Cost


class Group(NamedTuple):
    """title. ours: to be timed. peers: `peers(*arguments)` makes name -> something to time, in its process. cost: the least that ours must do.

    check: raises unless all did the same, by what each returned; else says what they did.
    """

    title: str
    ours: Callable[[], Any]
    peers: Callable[..., dict[str, Callable[[], Any]]]
    arguments: tuple[Any, ...]
    cost: "Cost | None" = None
    check: Callable[[dict[str, Any]], str] | None = None


def installed(*packages: str) -> bool:
    """Whether peers are there; says so on stderr if not."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        extra = "tensorflow" if "tensorflow" in missing else "benchmark"
        print(f"left out: {', '.join(missing)} not installed (pip install '.[{extra}]')", file=sys.stderr)
    return not missing
