"""What the documents say: their commands, blocks and numbers, for tests that hold them to these."""

import json
import re

from conftest import ROOT

from experiments.reports.documents import DOCUMENTS

TEXT = "\n".join((ROOT / document).read_text() for document in DOCUMENTS)


def lines_after(words, count):
    """The first indented block after a line with these words, its first lines, unindented."""
    after = TEXT[TEXT.index(words) :]
    block = re.search(r"(?:^ {4}.*\n)+", after, flags=re.MULTILINE)[0]
    return [line.removeprefix("    ") for line in block.splitlines()][:count]


def record():
    """The record that is shown."""
    return json.loads("".join(lines_after("and writes records such as", 3)))


def log_lines():
    """The lines of metrics.jsonl that are shown."""
    return [json.loads(line.replace("...", "")) for line in lines_after("`metrics.jsonl` has lines such as", 2)]


def numbers(text):
    """Every number of a text."""
    return [float(value) for value in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?", text)]
