"""How the cost of a training step grows."""

import multiprocessing
import statistics
from typing import Any

from experiments.benchmarks.timing import clocked
from experiments.benchmarks.training_groups import STEPS, Step, our_step

# The Int step of MNIST Small, and what is varied of it: heading -> (label, step, devices).
BASE = STEPS["mnist_small"]
SCALING: dict[str, list[tuple[str, Step, int]]] = {
    "batch": [(str(n), BASE._replace(batch=n), 1) for n in (25, 50, 100, 200)],
    "attack steps": [(str(n), BASE._replace(attack_steps=n), 1) for n in (10, 20, 40, 80)],
    "image side": [(str(n), BASE._replace(image_shape=(n, n, 1)), 1) for n in (28, 56, 112)],
    "devices": [(str(n), BASE, n) for n in (1, 2)],
}


def seconds_of(connection: Any, of: Step, rounds: int) -> None:
    """Sends the number of devices and the median seconds of an Int step."""
    from experiments.runtime import devices
    from experiments.runtime.process import keep_freed_memory

    keep_freed_memory()  # as the commands do
    step = our_step(of, "int")
    step()
    connection.send((devices.num_devices(), statistics.median(clocked(step)[0] for _ in range(rounds))))


def scaling(rounds: int) -> dict[str, Any]:
    """Times every variation in a process of its own, with as many fake devices as it asks for."""
    from experiments.runtime import devices

    context = multiprocessing.get_context("spawn")
    rows = []
    for what, variations in SCALING.items():
        for label, of, count in variations:
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=seconds_of, args=(sender, of, rounds), daemon=True)
            with devices.fake_devices(count):
                process.start()
            sender.close()  # so that a process that dies ends the wait
            try:
                seen, seconds = receiver.recv()
            except EOFError as error:
                raise RuntimeError(f"the process that timed {what} {label} died") from error
            process.join()
            if seen != count:
                raise RuntimeError(f"{seen} devices where {count} were asked for")
            rows.append({"what": what, "value": label, "devices": seen, "seconds": seconds})
    return {
        "name": "scaling",
        "title": "Int step, MNIST Small, batch 50, 40 attack steps, one of these varied",
        "scaling": rows,
        "contenders": {},
    }
