"""Mistakes of a user, in one line."""

import sys


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


def warn(text: str) -> None:
    """Prints one line on stderr."""
    print(f"warning: {text}", file=sys.stderr)


def one_line(error: BaseException, most: int = 200) -> str:
    """The message of an exception on one line, at most so many characters of it."""
    return " ".join(str(error).split())[:most] or type(error).__name__
