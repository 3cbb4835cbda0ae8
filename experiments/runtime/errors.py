"""Mistakes of a user, in one line."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator


class UserError(Exception):
    """A user's mistake. The message says in one line what is wrong, where, and the fix. Commands print it without a traceback and exit with 2.

    Line breaks in what it quotes become spaces.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))


class Stopped(Exception):  # noqa: N818 - no error
    """A run that was asked to stop, and is saved. message: one line. code: of the exit."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


def refuse(wrong: bool, message: str) -> None:
    """A `UserError` if something is wrong."""
    if wrong:
        raise UserError(message)


# Of the machine; in the long messages of libraries these are what counts.
SYSTEM_ERRORS = tuple(map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)))


@contextlib.contextmanager
def one_line_errors(what: str, advice: str) -> Iterator[None]:
    """Whatever a library raises meanwhile becomes a `UserError`. what: failed. advice: what to do."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # many kinds
        reason = next((text for text in SYSTEM_ERRORS if text in str(error)), one_line(error, 160))
        raise UserError(f"{what}: {reason}; {advice}") from error


def warn(text: str) -> None:
    """Prints one line on stderr."""
    print(f"warning: {text}", file=sys.stderr)


def one_line(error: BaseException, most: int = 200) -> str:
    """The message of an exception on one line, at most so many characters of it."""
    return " ".join(str(error).split())[:most] or type(error).__name__
