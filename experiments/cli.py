"""What every command line shares: flags in, one line out for a user's mistake."""

import ctypes
import functools
import os
import pathlib
import re
import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT = 2**28


class UserError(Exception):
    """A mistake that its one-line message names, with the way to mend it. Commands print it without a traceback and exit with 2."""


def warn(text: str) -> None:
    """One line on stderr."""
    print(f"warning: {text}", file=sys.stderr)


def run(main: Callable[[], None], more: str | None = None) -> None:
    """Parses the flags and calls `main`; a `UserError` anywhere becomes one line on stderr.

    Args:
      more: a list flag to which arguments that are no flags are added; without it they are refused.
    """
    keep_compiled()
    keep_memory()

    def guarded(_: Sequence[str]) -> None:
        try:
            main()
        except UserError as error:
            _fail(str(error))
        except KeyboardInterrupt:
            _fail("interrupted; what was written is kept", code=130)

    app.run(guarded, flags_parser=functools.partial(_parse, more=more))


def cache_dir() -> pathlib.Path:
    """Where decoded data sets and compiled programs are kept: $IROB_CACHE, or ~/.cache/irob."""
    return pathlib.Path(os.environ.get("IROB_CACHE") or pathlib.Path.home() / ".cache" / "irob")


def keep_compiled() -> None:
    """Has JAX keep compiled programs on disk, so that a second start of a command need not compile. JAX's own variables come first."""
    ours = not {"JAX_COMPILATION_CACHE_DIR", "JAX_COMPILATION_CACHE_MAX_SIZE"} & set(os.environ)
    for name, value in (
        ("JAX_COMPILATION_CACHE_DIR", str(cache_dir() / "compiled")),
        ("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1"),
        ("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1"),
        ("JAX_COMPILATION_CACHE_MAX_SIZE", str(2**30)),  # bytes; the least recently used go first
    ):
        os.environ.setdefault(name, value)
    # A process that is killed while it writes leaves a program without its time of use, on which JAX would fail to write any other.
    for program in (cache_dir() / "compiled").glob("*-cache") if ours else ():
        if not program.with_name(program.name.removesuffix("-cache") + "-atime").exists():
            program.unlink(missing_ok=True)


def keep_memory() -> None:
    """Has glibc keep memory that was freed, in pieces up to `KEPT` bytes. Else what is larger than 32 MB goes back to the system and comes anew page
    by page, each of them zeroed: on CPU a step with so many intermediate arrays takes half as long again.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and (mallopt(M_MMAP_THRESHOLD, KEPT) or mallopt(M_MMAP_THRESHOLD, 2**25)):  # all that an old glibc allows
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _parse(argv: Sequence[str], more: str | None) -> list[str]:
    _check_config_file(argv)
    if any(re.fullmatch("--?help(short|full)?", argument) for argument in argv):
        argv = [argv[0], "--help"]
    if more:
        flags.FLAGS.set_gnu_getopt(True)  # flags may follow other arguments
    try:
        positional = flags.FLAGS(argv)
    except flags.Error as error:
        # A config file that raises arrives as a whole traceback; its last error line is what the file had to say.
        said = re.findall(r"^\s*(?:[\w.]*UserError|ValueError): (.*)$", str(error), flags=re.MULTILINE)
        _fail(said[-1] if said else str(error).splitlines()[0])
    except UserError as error:
        _fail(str(error))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        _fail("the config has no such field, or not of this type: " + " ".join(str(error).split()).strip("\"'"))
    if more:
        flags.FLAGS[more].value = list(flags.FLAGS[more].value or []) + positional[1:]
    elif len(positional) > 1:
        _fail(f"unexpected argument {positional[1]!r}: every option is a flag, --name=value (see --help)")
    if not any(re.match("--?v(erbosity)?(=|$)", argument) for argument in argv):
        logging.set_verbosity(logging.ERROR)  # of the libraries below; the commands print what there is to say
    return positional


def _check_config_file(argv: Sequence[str]) -> None:
    for given, following in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, value = given.partition("=")
        if name.lstrip("-") == "config":
            path = (value if equals else following).partition(":")[0]
            if not os.path.isfile(path):
                _fail(f"--config: there is no file {path!r}; the configs that come with the project are experiments/configs/*.py")


def _fail(message: str, code: int = 2) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
