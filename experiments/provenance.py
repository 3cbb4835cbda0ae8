"""What a result must say of its making."""

import importlib.metadata
import json
import pathlib
import platform
import subprocess
from typing import Any

import ml_collections

PACKAGES = ("irob", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")


def plain(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """A config as JSON has it (tuples become lists)."""
    return json.loads(json.dumps(config.to_dict()))


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}


def git_revision() -> str | None:
    """The revision of this source tree, with "+changes" if tracked files have uncommitted ones; None outside of a git checkout."""
    here = pathlib.Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
