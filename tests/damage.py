"""Ways to damage a file, and the trial of a reader on a damaged one."""

import collections
import json
import os
import shutil

import numpy as np
import pytest

from experiments.runtime.errors import UserError

TRIED = collections.Counter()  # kind of trial -> how many; printed at the end of a run


@pytest.fixture(autouse=True)
def counted(record_property):
    """For test files to import: what each test tried, by kind, so that the end of the run can say it."""
    TRIED.clear()
    yield
    record_property("tried", json.dumps(TRIED))


def ways(content, seed=0):
    """name -> what a file of this content becomes; None: it is gone."""
    random = np.random.default_rng(seed)
    place = int(random.integers(len(content))) if content else 0
    flipped = content[:place] + bytes([content[place] ^ (1 << int(random.integers(8)))]) + content[place + 1 :] if content else b"x"
    return {
        "gone": None,
        "empty": b"",
        "half": content[: len(content) // 2],
        "without its end": content[:-1],
        "one bit": flipped,
        "noise": random.bytes(max(len(content), 1)),
        "other JSON": [b"[]", b"null", b"{}", b'{"a": 1}', b"[[[["][int(random.integers(5))],
    }


def put(file, content):
    """Makes a file hold this content, or be gone."""
    file.unlink()
    if content is not None:
        file.write_bytes(content)


def copied(source, place):
    """A copy of a directory at a place that is emptied first."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(source, place, symlinks=True)
    return place


def one_line_or(read, expected, kind):
    """Calls a reader: None if it returns what is expected, the message if it refuses in one line. Anything else fails.

    kind: of the trial, for the count.
    """
    TRIED[kind] += 1
    try:
        found = read()
    except UserError as error:
        message = str(error)
        assert "\n" not in message and 20 < len(message) < 600, message
        return message
    assert found == expected, f"{found} instead of {expected}, without a word"
    return None


def files_of(directory):
    """All files under a directory that hold something, by their path in it."""
    return sorted(path.relative_to(directory) for path in directory.rglob("*") if path.is_file() and os.path.getsize(path))
