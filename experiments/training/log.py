"""The log of a run: progress bar, metrics.jsonl, TensorBoard events."""

import collections
import json
import pathlib
import time
from typing import Any

import jax
import ml_collections
import numpy as np

from experiments.runtime import devices, storage
from experiments.runtime.progress import progress
from experiments.training.recipe import eps_at, learning_rate_at
from experiments.training.step import MetricSums


class Log:
    """Progress bar, metrics.jsonl and TensorBoard events. Lines of steps after `start`, left by an interrupted run, are dropped."""

    def __init__(self, directory: pathlib.Path, start: int, config: ml_collections.ConfigDict, quiet: bool = False):
        import tensorboardX

        self.config, self.writes = config, devices.is_first_process()
        self.since = (time.monotonic(), start)
        self.under_way: collections.deque[MetricSums] = collections.deque()
        if self.writes:
            self.path = directory / "metrics.jsonl"
            kept = [line for line in self._lines() if line["step"] <= start]
            storage.save_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
            self.file = self.path.open("a")
            self.board = tensorboardX.SummaryWriter(str(directory / "tensorboard"), purge_step=start + 1)
        self.bar = progress(config.num_steps, "step", f"{config.dataset} {config.method}", start, show=self.writes and not quiet)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        if self.writes:
            self.file.close()
            self.board.close()

    def advance(self, sums: MetricSums, steps: int) -> None:
        """Moves the bar; waits for the call before the last, so that the device is never idle and never far behind."""
        self.under_way.append(sums)
        if len(self.under_way) > 2:
            jax.block_until_ready(self.under_way.popleft())
        self.bar.update(steps)

    def training(self, step: int, loss: float) -> None:
        """The mean loss since the last line."""
        now = time.monotonic()
        rate = (step - self.since[1]) / max(now - self.since[0], 1e-9)
        self.since = (now, step)
        self.bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        last = np.int32(step - 1)
        schedules = {"eps": float(eps_at(self.config, last)), "learning_rate": float(learning_rate_at(self.config, last))}
        self._write(step, {"loss": loss, **schedules, "steps_per_second": rate})

    def validation(self, step: int, scores: dict[str, float]) -> None:
        """Accuracies on the validation split."""
        self._write(step, {f"validation_{name}": value for name, value in scores.items()})
        self.since = (time.monotonic(), step)

    def _write(self, step: int, values: dict[str, float]) -> None:
        if self.writes:
            self.file.write(json.dumps({"step": step, **values}) + "\n")
            self.file.flush()
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def _lines(self) -> list[dict[str, Any]]:
        try:
            lines = self.path.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return []
        parsed = []
        for line in lines:
            try:
                found = json.loads(line)
            except (json.JSONDecodeError, RecursionError):  # a line that was being written when the run was killed
                break
            if isinstance(found, dict) and isinstance(found.get("step"), int):
                parsed.append(found)
        return parsed
