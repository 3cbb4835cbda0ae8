"""How the cost of a training step grows: its time and memory, and the exponent of each quantity."""

import multiprocessing
import pathlib
import re
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.benchmarks.timing import clocked
from experiments.benchmarks.training_groups import STEPS, Step, our_step

# The Int step of MNIST Small, and what is varied of it: heading -> (value, step, devices).
BASE = STEPS["mnist_small"]
SCALING: dict[str, list[tuple[int, Step, int]]] = {
    "classes": [(n, BASE._replace(num_classes=n), 1) for n in (10, 100, 1000)],
    "image side": [(n, BASE._replace(image_shape=(n, n, 1)), 1) for n in (28, 56, 112)],
    "batch": [(n, BASE._replace(batch=n), 1) for n in (25, 50, 100, 200)],
    "attack steps": [(n, BASE._replace(attack_steps=n), 1) for n in (10, 20, 40, 80)],
    "width": [(n, BASE._replace(width=n), 1) for n in (1, 2, 4)],
    "devices": [(n, BASE._replace(batch=48), n) for n in (1, 2, 4, 8)],
}


def measured_in_process(connection: Any, of: Step, rounds: int) -> None:
    """Sends the number of devices, the median seconds of an Int step, and the largest memory of the process in bytes."""
    from experiments.runtime import devices
    from experiments.runtime.process import keep_freed_memory

    keep_freed_memory()  # as the commands do
    step = our_step(of, "int")
    step()
    seconds = statistics.median(clocked(step)[0] for _ in range(rounds))
    connection.send((devices.num_devices(), seconds, most_memory()))


def most_memory() -> int:
    """The most memory of the host that this process had at a time, in bytes. (`ru_maxrss` begins at that of the parent.)"""
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])  # type: ignore[index]


def scaling(rounds: int) -> dict[str, Any]:
    """Measures every variation in a process of its own, with as many fake devices as it asks for."""
    from experiments.runtime import devices

    context = multiprocessing.get_context("spawn")
    rows = []
    for what, variations in SCALING.items():
        for value, of, count in variations:
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=measured_in_process, args=(sender, of, rounds), daemon=True)
            with devices.fake_devices(count):
                process.start()
            sender.close()  # so that a process that dies ends the wait
            try:
                seen, seconds, memory = receiver.recv()
            except EOFError as error:
                raise RuntimeError(f"the process that timed {what} {value} died") from error
            process.join()
            if seen != count:
                raise RuntimeError(f"{seen} devices where {count} were asked for")
            rows.append({"what": what, "value": value, "devices": seen, "seconds": seconds, "memory": memory})
    return {
        "name": "scaling",
        "title": "Int step, MNIST Small, batch 50, 40 attack steps, one of these varied (devices: fake ones, which share the cores; batch 48)",
        "scaling": rows,
        "exponents": {what: exponent([row for row in rows if row["what"] == what]) for what in SCALING},
        "contenders": {},
    }


def exponent(rows: Sequence[dict[str, Any]]) -> float | None:
    """The p of `seconds ~ value^p`, by least squares of the logarithms; None of one row."""
    if len(rows) < 2:
        return None
    slope, _ = np.polyfit(np.log([row["value"] for row in rows]), np.log([row["seconds"] for row in rows]), 1)
    return float(slope)
