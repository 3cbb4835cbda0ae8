"""Contenders in turn, the peers in a process of their own."""

import contextlib
import multiprocessing
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from experiments.runtime.process import keep_freed_memory

OURS = "irob"  # the contender that is ours
PEER_PACKAGES = ("torch", "captum", "quantus", "torchattacks", "foolbox", "adversarial-robustness-toolbox", "tensorflow")


class Timing(NamedTuple):
    """Seconds: of the first call, and of each later one."""

    first: float
    later: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.later)


class Peers:
    """The peers of a group in a process of their own, one call at a time. A context manager: leaving it ends the process."""

    def __init__(self, make: Callable[..., dict[str, Callable[[], Any]]], arguments: tuple[Any, ...]):
        context = multiprocessing.get_context("spawn")
        self.connection, self.theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(self.theirs, make, arguments), daemon=True)

    def __enter__(self) -> "Peers":
        self.process.start()
        self.theirs.close()  # so that a process that dies ends the wait
        self.names: list[str] = self.connection.recv()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):  # it died
            self.connection.send(None)
        self.process.join()

    def run(self, name: str) -> tuple[float, Any]:
        """Seconds and what was returned."""
        self.connection.send(name)
        return self.connection.recv()


def serve(connection: Any, make: Callable[..., dict[str, Callable[[], Any]]], arguments: tuple[Any, ...]) -> None:
    """In the process of the peers: makes them, then runs the one that is asked for until none is."""
    keep_freed_memory()  # as ours does
    contenders = make(*arguments)
    connection.send(list(contenders))
    while (name := connection.recv()) is not None:
        connection.send(clocked(contenders[name]))


def clocked(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and what was returned."""
    started = time.perf_counter()
    returned = run()
    return time.perf_counter() - started, returned


def timed(runs: dict[str, Callable[[], tuple[float, Any]]], rounds: int, least: float) -> tuple[dict[str, Timing], dict[str, Any]]:
    """Contenders in turn, `rounds` times or until each has had `least` seconds, whichever is later; what each returned first.

    Before each call that counts there is one that does not, since the first of a turn finds the caches as the contender before left them.
    """
    first = {name: run() for name, run in runs.items()}
    later: dict[str, list[float]] = {name: [] for name in runs}
    while len(later[OURS]) < rounds or min(sum(times) for times in later.values()) < least:
        for name, run in runs.items():
            run()
            later[name].append(run()[0])
    return {name: Timing(first[name][0], later[name]) for name in runs}, {name: returned for name, (_, returned) in first.items()}
