"""Tables of documents, made from summaries of results.

A document holds, where a table belongs,

    <!-- results: {"from": ["mnist"], "where": {"measure": "autoattack"}, "rows": ["network"], "columns": "eps"} -->
    ...
    <!-- /results -->

and what stands between the two lines is written anew: a row for each combination of the fields `rows`, a column for each value of the field
`columns`, of the records that have the values of `where` (one value, or a list of those allowed); a line of where the numbers come from. `names` says
what a network is called, and their order. Tables of speed are made alike (`benchmark_tables`).
"""

import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.reports.benchmark_tables import benchmark_table
from experiments.reports.pages import markdown_row
from experiments.reports.summary import SCHEMA
from experiments.runtime import storage
from experiments.runtime.errors import UserError, one_line, refuse

DOCUMENTS = {  # of the project -> (page of its site, title)
    "README.md": ("index.html", "Overview"),
    "experiments/guide/training.md": ("training.html", "Training"),
    "experiments/guide/evaluation.md": ("evaluation.html", "Evaluation"),
    "experiments/guide/own.md": ("own.html", "Your own network and data"),
    "experiments/guide/python.md": ("python.html", "In Python"),
    "experiments/guide/mathematics.md": ("mathematics.html", "Mathematics"),
    "experiments/guide/speed.md": ("speed.html", "Speed"),
    "experiments/results/claims.md": ("claims.html", "What holds and what does not"),
    "BUILD.md": ("developers.html", "Developer guide"),
}
BLOCK = re.compile(r"(?P<begin><!-- (?P<kind>results|benchmark): (?P<spec>.*?) -->\n).*?(?P<end><!-- /(?P=kind) -->)", flags=re.DOTALL)
BEGIN, END = re.compile(r"<!-- (?:results|benchmark):"), re.compile(r"<!-- /(?:results|benchmark) -->")
KEYS = {"from", "where", "rows", "columns", "names", "headings"}


def rendered(text: str, folder: pathlib.Path) -> str:
    """A document with its tables made anew from the files in a folder.

    Raises:
      UserError: for a table that cannot be made; it says which.
    """
    begun, ended = len(BEGIN.findall(text)), len(END.findall(text))
    whole = [found for found in BLOCK.finditer(text) if not BEGIN.search(found[0][5:])]
    refuse(
        not len(whole) == begun == ended, f"{begun} tables begin, {ended} end, {len(whole)} are whole: each line <!-- ... --> stands alone"
    )
    table = {"results": _table, "benchmark": benchmark_table}
    return BLOCK.sub(lambda found: f"{found['begin']}{table[found['kind']](found['spec'], folder)}{found['end']}", text)


def _table(spec: str, folder: pathlib.Path) -> str:
    try:
        chosen = json.loads(spec)
        refuse(
            not isinstance(chosen, dict) or not {"from", "rows", "columns"} <= set(chosen) <= KEYS, f"keys are {', '.join(sorted(KEYS))}"
        )
        summaries = [read_summary(folder / f"{name}.json") for name in chosen["from"]]
        networks = [network for summary in summaries for network in summary["networks"]]
        every = [_fields(network, each) for network in networks for each in network["records"]]
        every += [_of_pair(pair, summary["networks"]) for summary in summaries for pair in summary.get("pairs", ())]
        kept = [
            fields
            for fields in every
            if _has(fields, chosen.get("where", {})) and fields["network"] in chosen.get("names", [fields["network"]])
        ]
        refuse(not kept, "no record is like that")
        named = {fields[key] for fields in kept for key in ("network", "other") if key in fields}
        missing = [name for name in chosen.get("names", ()) if name not in named]
        refuse(bool(missing), f"no record is of {', '.join(missing)}")
        used = [network for network in networks if any(network is each for fields in kept for each in fields["of"])]
        return "\n".join([*_rows(chosen, kept), "", _source(chosen["from"], used, kept), ""])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"results: {spec}: {type(error).__name__}: {one_line(error)}") from error
    except UserError as error:
        raise UserError(f"results: {spec}: {error}") from error


def read_summary(file: pathlib.Path) -> dict[str, Any]:
    """A summary that `experiments.report` or `experiments.sweep` wrote.

    Raises:
      UserError: if there is none.
    """
    try:
        found = storage.read_json(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is no summary ({one_line(error, 80)})") from error
    refuse(
        not isinstance(found, dict) or found.get("summary") != SCHEMA or "networks" not in found, f"{file} is no summary of schema {SCHEMA}"
    )
    return found


def _fields(network: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    own = {key: network[key] for key in ("network", "dataset", "protocol")}
    return {**own, **record, "of": [network]}


def _of_pair(pair: Mapping[str, Any], networks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = (pair["network"], pair["other"])
    of = [each for each in networks if each["network"] in names and each["dataset"] == pair["dataset"]]
    return {"protocol": "", **pair, "of": of or list(networks)}


def _has(fields: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    return all(fields.get(key) in (value if isinstance(value, list) else [value]) for key, value in where.items())


def _rows(chosen: Mapping[str, Any], kept: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines of the table. Two records in one cell are refused."""
    names, rows = chosen.get("names", {}), chosen["rows"]
    order = {name: i for i, name in enumerate(names)}
    table: dict[tuple[str, ...], dict[Any, str]] = {}
    for fields in sorted(kept, key=lambda fields: order.get(fields["network"], len(order))):
        called = lambda row: names.get(fields[row], fields[row]) if row in ("network", "other") else fields.get(row, "")  # noqa: B023, E731
        key = tuple(str(called(row)) for row in rows)
        column = fields[chosen["columns"]]
        refuse(column in table.setdefault(key, {}), f"two records are of {', '.join(key)} at {chosen['columns']} {column}")
        table[key][column] = cell(fields)
    columns = sorted({column for values in table.values() for column in values}, key=lambda column: (isinstance(column, str), column))
    headings = chosen.get("headings", {})
    heading = [*(headings.get(row, row) for row in rows), *(headings.get(str(column), _number(column)) for column in columns)]
    if isinstance(columns[0], float) and chosen["columns"] not in headings:
        heading[len(rows)] = f"{chosen['columns']} {heading[len(rows)]}"
    lines = [[*key, *(values.get(column, "") for column in columns)] for key, values in table.items()]
    return [markdown_row(line) for line in (heading, ["---"] * len(heading), *lines)]


def _number(value: Any) -> str:
    return f"{value:.4g}".removeprefix("0") or "0" if isinstance(value, float) and value else str(value).removesuffix(".0")


def cell(fields: Mapping[str, Any]) -> str:
    """A value with its interval, to a thousandth; with p, where it is of a test."""
    if fields["value"] is None:
        return "-"
    short = lambda value: re.sub(r"^(-?)0\.", r"\1.", f"{value:.3f}")  # noqa: E731
    interval = f" [{short(fields['ci95'][0])}, {short(fields['ci95'][1])}]" if fields["ci95"] else ""
    p = fields.get("p_value")
    return short(fields["value"]) + interval + ("" if p is None else f", p = {p:.2g}".replace("= 0.", "= .") if p > 1e-6 else ", p < 1e-6")


def _source(files: Sequence[str], networks: Sequence[Mapping[str, Any]], kept: Sequence[Mapping[str, Any]]) -> str:
    """One line: images, seeds, what the brackets are, data, machine, versions, files."""
    pairs = all("p_value" in fields for fields in kept)  # their interval is that of the difference over images
    several = [] if pairs else [network for network in networks if len(network["seeds"]) > 1]
    counts = sorted({fields["n"] for fields in kept})
    brackets = {
        (True, True): "the lowest and the highest seed, for one seed the 95% interval",
        (True, False): "the lowest and the highest seed",
    }
    meaning = "95% interval over images" if pairs else brackets.get((bool(several), len(several) < len(networks)), "95% interval")
    distinct = lambda values: ", ".join(dict.fromkeys(str(value) for value in values))  # noqa: E731
    versions = [distinct(f"{name} {network['versions'].get(name)}" for network in networks) for name in ("irob", "jax")]
    seconds = sum(network["seconds"] or 0 for network in networks)
    took = f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
    parts = [
        f"n {' to '.join(f'{n:,}' for n in dict.fromkeys((counts[0], counts[-1])))}",
        f"seeds {distinct(seed for network in networks for seed in network['seeds'])}",
        f"in brackets {meaning}",
        distinct(f"{network['data']['name']} ({network['data'].get('from', '').split(' at ')[0]})" for network in networks),
        f"measured in {took} on {distinct(network['device'] for network in networks)}",
        *versions,
        distinct(f"`experiments/results/{name}.json`" for name in files),
    ]
    return f"({'; '.join(parts)})"
