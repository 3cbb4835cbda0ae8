"""SIGTERM and SIGINT as requests to stop at the next good place."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

from experiments.runtime.errors import Stopped


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], int | None]]:
    """Meanwhile the first SIGTERM or SIGINT is only noted; a second one ends the process at once, as without this.

    Yields:
      A function that returns the number of the signal, None while there is none.
    """
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        if received:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stopped_by(number: int, what: str) -> Stopped:
    """The exception of a run that was asked to stop and is saved: exit code 0 for SIGTERM (preemption), 130 for SIGINT.

    what: was saved.
    """
    return Stopped(f"{signal.Signals(number).name}: {what}; the same command resumes", 0 if number == signal.SIGTERM else 130)
