"""Checkpoints: one atomic directory per step, with everything that a run needs to continue and a reader needs to trust it.

orbax writes the arrays in the background. Beside them lies JSON: the config, versions, data position and the SHA-256 of every array, because
orbax restores an array with altered bytes without an error.
"""

import contextlib
import hashlib
import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from experiments.runtime import storage
from experiments.runtime.errors import Stopped, UserError, one_line, one_line_errors, refuse, warn

SCORE = "robust_accuracy"


class Restored(NamedTuple):
    """A checkpoint: the tree that was asked for, the metadata beside it, and its step."""

    state: Any
    metadata: dict[str, Any]
    step: int


class Checkpoints:
    """The checkpoints of one workdir. A context manager: leaving it waits until everything is written."""

    def __init__(self, workdir: str | pathlib.Path, keep_last: int = 2, read_only: bool = False):
        self.directory, self.read_only = pathlib.Path(workdir).absolute() / "checkpoints", read_only
        if read_only and not self.directory.is_dir():
            raise UserError(f"there are no checkpoints in {workdir}: train there first, or give the --workdir of a run")
        if not read_only:
            self._restore_scores()
        policy = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(n=keep_last),
                preservation_policy.BestN(get_metric_fn=lambda m: m[SCORE], n=1, keep_checkpoints_without_metrics=False),
            ]
        )
        options = ocp.CheckpointManagerOptions(preservation_policy=policy, best_fn=lambda m: m[SCORE])
        with one_line_errors(f"{self.directory} cannot be opened", "use another --workdir"):
            self.manager: Any = (
                _Reader(self.directory)
                if read_only
                else ocp.CheckpointManager(self.directory, options=options, item_names=("state", "metadata"))
            )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, Stopped):  # which says that all is saved
            with self._writing():
                self.manager.close()
            return
        with contextlib.suppress(Exception):  # the first error is the one to report
            self.manager.close()

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return one_line_errors(
            f"a checkpoint cannot be written to {self.directory}",
            "those that are complete are kept: free some space, or repair the place; then the same command resumes",
        )

    def steps(self) -> list[int]:
        """The steps of all complete checkpoints, ascending."""
        return sorted(self.manager.all_steps())

    def save(self, step: int, state: Any, metadata: dict[str, Any], metrics: dict[str, float] | None) -> None:
        """Starts writing a checkpoint; `metrics[SCORE]` decides which one is best. None: it is never the best."""
        whole = {**metadata, "step": step, "scores": metrics, "sha256": checksums(state), "shapes": shapes(state)}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(_by_field(state)),
            metadata=ocp.args.JsonSave({**whole, "metadata_sha256": json_digest(whole)}),
        )
        with self._writing():
            self.manager.save(step, args=args, metrics=metrics)

    def set_aside(self, steps: Sequence[int]) -> None:
        """Moves checkpoints into `set_aside/` beside their folder."""
        for step in steps:
            place = self.directory.parent / "set_aside"
            place.mkdir(exist_ok=True)
            free = next(name for n in itertools.count() if not (name := place / f"{step}{f'_{n}' * bool(n)}").exists())
            (self.directory / str(step)).rename(free)

    def metadata(self, which: str | int, needs: Sequence[str] = ()) -> dict[str, Any]:
        """The JSON of a step ("latest", "best" or a number). needs: fields, objects all, that must be there.

        Raises:
          UserError: if there is no such step, or it is damaged.
        """
        return self._read_metadata(self._step(which), needs)

    def _read_metadata(self, step: int, needs: Sequence[str] = ()) -> dict[str, Any]:
        try:
            found = storage.read_json(self.directory / str(step) / "metadata" / "metadata")
        except (OSError, ValueError) as error:
            raise self._unreadable(step, error) from error
        return self._checked(found, step, needs)

    def score(self, step: int) -> float | None:
        """The score by which a checkpoint is best; None where it has none.

        Raises:
          UserError: if it is damaged.
        """
        metadata = self.metadata(step)
        if "scores" in metadata:
            return None if metadata["scores"] is None else metadata["scores"][SCORE]
        file = self._scores_file(step)  # of earlier versions
        try:
            return float(storage.read_json(file)[SCORE]) if file.exists() else None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._unreadable(step, error) from error

    def _scores_file(self, step: int | str) -> pathlib.Path:
        return self.directory / str(step) / "metrics" / "metrics"

    def _restore_scores(self) -> None:
        """Writes anew the files of scores that differ from the metadata, which have them, too: orbax reads these files all at once, fails where one
        is damaged, and deletes checkpoints by what they say.
        """
        for step in [int(path.name) for path in self.directory.glob("*") if path.name.isdecimal()]:
            file = self._scores_file(step)
            try:
                found = storage.read_json(file) if file.parent.exists() else None
            except (OSError, ValueError):
                found = "damaged"
            try:
                scores = self._read_metadata(step)["scores"]
            except (UserError, KeyError):  # damaged, too; or of an earlier version, which had no scores in the metadata
                good = found is None or (isinstance(found, dict) and isinstance(found.get(SCORE), float))
                advice = f"move {self.directory / str(step)} away to continue without it"
                refuse(not good, f"the scores of checkpoint {step} in {self.directory} are damaged: {advice}")
                continue
            if found != scores and scores is not None:
                storage.save_text(file, json.dumps(scores))
                warn(f"the scores of checkpoint {step} were damaged, and are written anew from its metadata")

    def restore(self, which: str | int, like: Any) -> Restored:
        """The whole state of a step.

        Args:
          which: "latest", "best" or a step number.
          like: a state of the same structure, shapes and types.

        Raises:
          UserError: if there is no such step, it is damaged, or it is of another network or method.
        """
        step = self._step(which)
        metadata = self.metadata(step)
        self._compare_shapes(step, metadata["shapes"], shapes(like))
        found = self._read(step, ocp.args.StandardRestore(_on_host(_by_field(like))))
        state = type(like)(**found) if hasattr(like, "_fields") else found
        self._verify(step, metadata, state)
        return Restored(state, metadata, step)

    def restore_params(self, which: str | int, like: Any, part: str = "params") -> Restored:
        """The parameters of a step, and nothing of the optimizer: whatever trained them, and however, they can be read.

        Args:
          which: as in `restore`, which says what is raised.
          like: parameters of the same structure, shapes and types.
          part: field of the state: "params", or another that is like them.
        """
        step = self._step(which)
        metadata = self.metadata(step)
        stored = {name: shape for name, shape in metadata["shapes"].items() if name == f".{part}" or name.startswith(f".{part}[")}
        self._compare_shapes(step, stored, shapes(_Part(part, like)))
        wanted = {part: _on_host(like)}
        restore_args = ocp.checkpoint_utils.construct_restore_args(wanted)
        found = self._read(step, ocp.args.PyTreeRestore(item=wanted, restore_args=restore_args, partial_restore=True))
        self._verify(step, metadata, _Part(part, found[part]))
        return Restored(found[part], metadata, step)

    def _read(self, step: int, args: Any) -> Any:
        try:
            state = self.manager.restore(step, args=ocp.args.Composite(state=args))["state"]
        except Exception as error:  # orbax and tensorstore raise many kinds
            raise self._unreadable(step, error) from error
        return jax.tree.map(np.asarray, state)

    def _verify(self, step: int, metadata: dict[str, Any], state: Any) -> None:
        if damaged := [name for name, digest in checksums(state).items() if digest != metadata["sha256"][name]]:
            raise self._damaged(step, f"{damaged[0]} does not match its checksum")

    def _checked(self, found: Any, step: int, needs: Sequence[str]) -> dict[str, Any]:
        """Metadata with everything that its readers need, as it was written."""
        whole = isinstance(found, dict) and all(isinstance(found.get(name, {}), dict) for name in PARTS_OF_METADATA)
        missing = [name for name in ("sha256", "shapes", *needs) if not whole or name not in found]
        if missing:
            raise self._damaged(step, f"its metadata have no {missing[0]}")
        rest = {name: part for name, part in found.items() if name != "metadata_sha256"}
        if found.get("metadata_sha256", json_digest(rest)) != json_digest(rest):
            raise self._damaged(step, "its metadata (the config, checksums, data) are not those that were written")
        if found.get("step", step) != step:
            raise self._damaged(step, f"it is of step {found['step']}, and its folder has another name")
        return found

    def _damaged(self, step: int, what: str) -> UserError:
        return UserError(f"checkpoint {step} in {self.directory} is damaged: {what}; {self._advice(step)}")

    def _unreadable(self, step: int, error: Exception) -> UserError:
        return UserError(
            f"checkpoint {step} in {self.directory} cannot be read (truncated or altered?): {one_line(error, 160)}; {self._advice(step)}"
        )

    def _advice(self, step: int) -> str:
        """What to do about a damaged checkpoint, in an evaluation or in a training."""
        if self.read_only or not hasattr(self, "manager"):
            return "choose another --step, or move it away"
        earlier = [other for other in self.steps() if other < step]
        return f"--from_step={earlier[-1]} continues from the one before" if earlier else "move it away to begin anew"

    def _compare_shapes(self, step: int, stored: Mapping[str, str], wanted: Mapping[str, str]) -> None:
        if differing := sorted(name for name in {*stored, *wanted} if stored.get(name) != wanted.get(name)):
            raise UserError(
                f"checkpoint {step} in {self.directory} is of another network or method ({differing[0]} differs):"
                " use the config that it was trained with"
            )

    def _step(self, which: str | int) -> int:
        steps = self.steps()
        if not steps:
            raise UserError(f"there is no complete checkpoint in {self.directory}: train there first")
        if which == "latest":
            return steps[-1]
        if which == "best":
            return self._best(steps)
        if not str(which).isdecimal() or int(which) not in steps:
            raise UserError(f"there is no checkpoint {which!r} in {self.directory}: choose latest, best or one of {steps}")
        return int(which)

    def _best(self, steps: list[int]) -> int:
        """The step of the highest score, the last of several; the last step if none has a score."""
        scores = {step: score for step in steps if (score := self.score(step)) is not None}
        return max(scores, key=lambda step: (scores[step], step), default=steps[-1])


class _Reader:
    """What is used of orbax's manager, to read alone. The manager reads the scores of all checkpoints, and fails where one is damaged."""

    def __init__(self, directory: pathlib.Path):
        self.directory, self.checkpointer = directory, ocp.Checkpointer(ocp.CompositeCheckpointHandler())

    def all_steps(self) -> list[int]:
        return [int(path.name) for path in self.directory.iterdir() if path.is_dir() and path.name.isdecimal()]

    def restore(self, step: int, args: Any) -> Any:
        return self.checkpointer.restore(self.directory / str(step), args=args)

    def close(self) -> None:
        self.checkpointer.close()


@jax.tree_util.register_pytree_with_keys_class
class _Part:
    """A field of a training state under the path that it has there."""

    def __init__(self, name: str, value: Any):
        self.name, self.value = name, value

    def tree_flatten_with_keys(self) -> Any:
        return [(jax.tree_util.GetAttrKey(self.name), self.value)], self.name

    @classmethod
    def tree_unflatten(cls, name: str, values: Any) -> "_Part":
        return cls(name, *values)


def _by_field(state: Any) -> Any:
    """A NamedTuple as a dictionary without the fields that are None: a field that earlier versions do not have is no difference."""
    return {name: part for name, part in state._asdict().items() if part is not None} if hasattr(state, "_fields") else state


PARTS_OF_METADATA = ("config", "sha256", "shapes", "versions", "data", "history")


def json_digest(value: Any) -> str:
    """SHA-256 of a value as JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


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
