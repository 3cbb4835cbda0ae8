"""Checkpoints: one atomic directory a step, with everything that a run needs to go on and a reader needs to trust it.

Arrays go through orbax, in the background; beside them lies JSON: the config, versions, data position and the SHA-256 of every array, because a
byte altered on disk would otherwise restore silently.
"""

import hashlib
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from experiments.cli import UserError

SCORE = "robust_accuracy"


class Restored(NamedTuple):
    """A checkpoint: the state, what was written beside it, and its step."""

    state: Any
    metadata: dict[str, Any]
    step: int


class Checkpoints:
    """The checkpoints of one workdir. A context manager: leaving it waits for what is still being written."""

    def __init__(self, workdir: str | pathlib.Path, keep_last: int = 2, read_only: bool = False):
        self.directory = pathlib.Path(workdir).absolute() / "checkpoints"
        if read_only and not self.directory.is_dir():
            raise UserError(f"there are no checkpoints in {workdir}: train there first, or give the --workdir of a run")
        policy = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(n=keep_last),
                preservation_policy.BestN(get_metric_fn=lambda m: m[SCORE], n=1, keep_checkpoints_without_metrics=False),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy, best_fn=lambda m: m[SCORE], read_only=read_only, create=not read_only
        )
        self.manager = ocp.CheckpointManager(self.directory, options=options, item_names=("state", "metadata"))

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.manager.close()

    def steps(self) -> list[int]:
        """The complete ones, ascending."""
        return sorted(self.manager.all_steps())

    def save(self, step: int, state: Any, metadata: dict[str, Any], metrics: dict[str, float]) -> None:
        """Starts writing; `metrics[SCORE]` decides which one is best."""
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            metadata=ocp.args.JsonSave({**metadata, "sha256": checksums(state), "shapes": shapes(state)}),
        )
        self.manager.save(step, args=args, metrics=metrics)

    def metadata(self, which: str | int) -> dict[str, Any]:
        """What was written beside the arrays of a step ("latest", "best" or a number)."""
        step = self._step(which)
        try:
            return self.manager.restore(step, args=ocp.args.Composite(metadata=ocp.args.JsonRestore()))["metadata"]
        except Exception as error:  # orbax and tensorstore raise many kinds
            raise _unreadable(step, self.directory, error) from error

    def restore(self, which: str | int, like: Any) -> Restored:
        """The state of a step.

        Args:
          which: "latest", "best" or a step number.
          like: a state of the same structure, shapes and types.

        Raises:
          UserError: if there is no such step, it is damaged, or it is of another network.
        """
        step = self._step(which)
        metadata = self.metadata(step)
        if differing := [name for name, wanted in shapes(like).items() if metadata["shapes"].get(name) != wanted] or (
            set(metadata["shapes"]) - set(shapes(like))
        ):
            raise UserError(
                f"checkpoint {step} in {self.directory} is of another network or method ({sorted(differing)[0]} differs):"
                " use the config that it was trained with"
            )
        try:
            state = self.manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(_on_host(like))))["state"]
        except Exception as error:  # orbax and tensorstore raise many kinds
            raise _unreadable(step, self.directory, error) from error
        state = jax.tree.map(np.asarray, state)
        if damaged := [name for name, digest in checksums(state).items() if digest != metadata["sha256"][name]]:
            raise UserError(
                f"checkpoint {step} in {self.directory} is damaged: {damaged[0]} does not match its checksum;"
                " choose another --step, or move it away to go on from an earlier one"
            )
        return Restored(state, metadata, step)

    def _step(self, which: str | int) -> int:
        steps = self.steps()
        if not steps:
            raise UserError(f"there is no complete checkpoint in {self.directory}: train there first")
        if which == "latest":
            return steps[-1]
        if which == "best":
            best = self.manager.best_step()
            return steps[-1] if best is None else best
        if not str(which).isdigit() or int(which) not in steps:
            raise UserError(f"there is no checkpoint {which!r} in {self.directory}: choose latest, best or one of {steps}")
        return int(which)


def checksums(state: Any) -> dict[str, str]:
    """SHA-256 of the bytes of every array of a tree, by its path."""

    def digest(leaf: Any) -> str:
        array = np.asarray(leaf, order="C")
        return hashlib.sha256(array.tobytes()).hexdigest()

    return {jax.tree_util.keystr(path): digest(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def fingerprint(state: Any) -> str:
    """SHA-256 of all arrays of a tree."""
    return hashlib.sha256(repr(sorted(checksums(state).items())).encode()).hexdigest()


def shapes(state: Any) -> dict[str, str]:
    """Type and shape of every array of a tree, by its path, e.g. "float32(7, 7, 32, 100)"."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): f"{np.asarray(leaf).dtype}{np.shape(leaf)}" for path, leaf in leaves}


def _on_host(tree: Any) -> Any:
    """Arrays are restored to the first local device, whatever they were saved from."""
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(np.shape(a), np.asarray(a).dtype, sharding=sharding), tree)


def _unreadable(step: int, directory: pathlib.Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:160]
    return UserError(
        f"checkpoint {step} in {directory} cannot be read (truncated or altered?): {reason}; choose another --step, or move it away"
    )
