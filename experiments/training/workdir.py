"""The workdir of a run: locked while it trains, and refused to other configs."""

import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import ml_collections

from experiments.configs import base
from experiments.runtime import devices, storage
from experiments.runtime.checkpoints import Checkpoints
from experiments.runtime.errors import UserError, one_line, refuse


@contextlib.contextmanager
def locked_workdir(workdir: str, config: ml_collections.ConfigDict, extend: bool = False) -> Iterator[pathlib.Path]:
    """Locks a workdir for a run of this config, or refuses it, in every process. All must see the same workdir; the first one holds the lock.

    extend: whether a run of fewer steps is accepted.
    """
    directory, wanted = pathlib.Path(workdir), base.plain_config(config)
    with contextlib.ExitStack() as held:
        devices.on_first_process(lambda: _claim(directory, wanted, held, extend), f"--workdir {workdir}", "choose another")
        yield directory


def _claim(directory: pathlib.Path, wanted: dict[str, Any], held: contextlib.ExitStack, extend: bool) -> None:
    """Locks a workdir while `held` is open, and stores the config or compares it with the one there."""
    for name, wrong in (("checkpoints", "is_file"), ("tensorboard", "is_file"), ("metrics.jsonl", "is_dir"), ("config.json", "is_dir")):
        kind = "file" if wrong == "is_file" else "folder"
        refuse(getattr(directory / name, wrong)(), f"{directory / name} is a {kind}: move it away, or use another --workdir")
    directory.mkdir(parents=True, exist_ok=True)
    held.callback(storage.lock(directory, f"another training is running in {directory}: wait for it, or use another --workdir").release)
    refuse_other_runs(directory, wanted, extend)
    storage.save_text(directory / "config.json", json.dumps(wanted, indent=2, sort_keys=True))


def refuse_other_runs(directory: pathlib.Path, wanted: dict[str, Any], extend: bool) -> None:
    """Compares the config of a workdir with the one that is wanted.

    Raises:
      UserError: if the one there is another, or none.
    """
    file = directory / "config.json"
    holds_a_run = (directory / "checkpoints").exists() or (directory / "metrics.jsonl").exists()
    if not holds_a_run:
        return
    checkpointed = _config_of_a_checkpoint(directory)
    if file.exists() or checkpointed is not None:
        try:
            stored = storage.read_json(file) if file.exists() else checkpointed
        except (ValueError, OSError) as error:
            advice = "use another --workdir" if checkpointed is None else "delete it, the checkpoints have it, too"
            raise UserError(f"{file} is not a config written by this command ({one_line(error, 120)}): {advice}") from error
        base.stored_config(stored, str(file))
        found = base.with_defaults(stored)
        if extend and found["num_steps"] < wanted["num_steps"]:
            found["num_steps"] = wanted["num_steps"]
        refuse_changes(str(directory), found, wanted)
    else:
        raise UserError(f"{directory} holds checkpoints or logs but no config.json: use another --workdir")


def _config_of_a_checkpoint(directory: pathlib.Path) -> Any:
    """The config of the newest checkpoint whose metadata can be read; None if there is none."""
    with contextlib.suppress(UserError), Checkpoints(directory, read_only=True) as checkpoints:
        for step in reversed(checkpoints.steps()):
            with contextlib.suppress(UserError):
                return checkpoints.metadata(step, needs=("config",))["config"]
    return None


def refuse_changes(workdir: str, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """A `UserError` with the differences if the run in a workdir was made with something else that decides its result."""
    if differences := base.changes(found, wanted):
        shown = "; ".join(differences[:8]) + (f"; and {len(differences) - 8} more" if len(differences) > 8 else "")
        if all(line.startswith("config.num_steps:") for line in differences) and found["num_steps"] < wanted["num_steps"]:
            shown += " (--extend continues a run to more steps)"
        raise UserError(f"{workdir} holds a run of another config: use another --workdir, or its values: {shown}")
