"""Progress of long work: a bar on a terminal, in a log file a line now and then, with the time that is left."""

import sys
import time
from typing import Any, ClassVar, TextIO

SECONDS_BETWEEN_LINES = 60.0


class ProgressLines:
    """Prints a line at most so often, in the whole process, however many pieces of work follow one another. It has the interface of a tqdm bar."""

    last: ClassVar[float] = time.monotonic()

    def __init__(self, total: int, unit: str, text: str, done: int, stream: TextIO):
        self.total, self.unit, self.text, self.stream = total, unit, text, stream
        self.done, self.beside = done, ""
        self.began: tuple[float, int] | None = None  # when the first update came, which holds the compilation, and what was done then

    def __enter__(self) -> "ProgressLines":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def set_postfix(self, refresh: bool = False, **values: str) -> None:
        """What stands behind the numbers of the next lines."""
        self.beside = "".join(f", {name} {value}" for name, value in values.items())

    def update(self, more: int) -> None:
        """So much more is done."""
        self.done += more
        now = time.monotonic()
        if now - ProgressLines.last >= SECONDS_BETWEEN_LINES:
            ProgressLines.last = now
            print(f"{self.text}: {self.done:,} of {self.total:,} {self.unit}s{self.speed(now)}{self.beside}", file=self.stream, flush=True)
        self.began = self.began or (now, self.done)

    def speed(self, now: float) -> str:
        """Units a second since the first update, and the time that the rest takes at that rate; nothing before there is a second update."""
        if self.began is None or self.done == self.began[1]:
            return ""
        rate = (self.done - self.began[1]) / max(now - self.began[0], 1e-9)
        return f", {rate:.3g} a second, {duration((self.total - self.done) / rate)} left"

    def close(self) -> None:
        """Nothing is left to be printed at the end."""


def duration(seconds: float) -> str:
    """Seconds in words, as precisely as it matters."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def progress(total: int, unit: str, text: str, done: int = 0, show: bool = True, leave: bool = True) -> Any:
    """A tqdm bar on a terminal, lines elsewhere; both have `update`, `set_postfix` and `close`, and are context managers.

    Args:
      total: number of units.
      unit: its name, in the singular.
      text: of the work.
      done: units that were done before.
      show: false for nothing at all.
      leave: whether the bar stays when the work is done.
    """
    if show and not sys.stderr.isatty():
        return ProgressLines(total, unit, text, done, sys.stderr)
    import tqdm

    return tqdm.tqdm(total=total, initial=done, unit=unit, desc=text, disable=not show, leave=leave, delay=0 if leave else 1)
