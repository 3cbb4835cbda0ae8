"""Versions and revision of a result."""

import importlib.metadata
import pathlib
import platform
import shlex
import subprocess
import sys

import irob

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")


def versions(*others: str) -> dict[str, str]:
    """Versions of Python, of the packages that results depend on and of others, of those that are installed: the benchmark needs not all of them."""
    installed = {distribution.name: distribution.version for distribution in importlib.metadata.distributions()}
    found = {name: installed[name] for name in (*PACKAGES, *others) if name in installed}
    return {"python": platform.python_version(), "irob": irob.__version__, **found}


def command() -> str:
    """The command line of this process, as a user types it."""
    return shlex.join(["python", *sys.orig_argv[1:]])


def git_revision() -> str | None:
    """The revision of this source tree, with "+changes" if tracked files have uncommitted ones; None outside of a git checkout."""
    here = pathlib.Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", str(pathlib.Path(__file__)))  # installed inside of somebody's checkout it is not part of that
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
