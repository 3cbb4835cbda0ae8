"""Config files: Python files with a function `get_config(variant)`."""

import contextlib
import importlib.util
import pathlib
from collections.abc import Callable, Iterator

import ml_collections

from experiments.runtime.errors import UserError, one_line, refuse


@contextlib.contextmanager
def user_code(path: str) -> Iterator[None]:
    """A `UserError` for whatever the code of a config file raises."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"--config {path}: running it raised {type(error).__name__}: {one_line(error)}") from error


def get_config_of(path: str) -> Callable[[str], ml_collections.ConfigDict]:
    """The function `get_config` of a Python file, or of one of the configs here by its name.

    Raises:
      UserError: if there is no such file or function, or running the file raises.
    """
    here = pathlib.Path(__file__).parent
    names = sorted(file.stem for file in here.glob("*.py") if not {"__init__", "base", "options", "old_configs", "files"} & {file.stem})
    file = pathlib.Path(path)
    if not file.is_file() and file.stem in names and path in (file.stem, f"{file.stem}.py", f"experiments/configs/{file.stem}.py"):
        file = here / f"{file.stem}.py"  # also where the project is installed, and the current folder is another
    refuse(not file.is_file(), f"--config: there is no file {path!r}; the configs that come with the project are {', '.join(names)}")
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    refuse(spec is None or spec.loader is None, f"--config: {path!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    with user_code(path):
        spec.loader.exec_module(module)  # type: ignore[union-attr]
    refuse(not hasattr(module, "get_config"), f"--config {path}: it has no function get_config(variant)")
    return module.get_config
