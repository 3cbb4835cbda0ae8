"""Tables of documents, made from files of the benchmark.

A document holds, where a table belongs,

    <!-- benchmark: {"from": "benchmark_nvidia_h200", "groups": ["mnist_small_int"]} -->
    ...
    <!-- /benchmark -->

and what stands between the two lines is written anew: a row for each group, all where none are named.
"""

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.benchmarks.timing import OURS, PEER_PACKAGES
from experiments.reports.pages import markdown_row
from experiments.runtime import storage
from experiments.runtime.errors import UserError, one_line


def benchmark_table(spec: str, folder: pathlib.Path) -> str:
    """The table that the first line of a block asks for.

    Raises:
      UserError: if it cannot be made.
    """
    try:
        chosen = json.loads(spec)
        if not isinstance(chosen, dict) or not {"from"} <= set(chosen) <= {"from", "groups"}:
            raise ValueError("keys are from, groups")
        whole = storage.read_json(folder / f"{chosen['from']}.json")
        found = {group["name"]: group for group in whole["groups"]}
        groups = [found[name] for name in chosen.get("groups", found)]
        timed = [group for group in groups if group["contenders"]]
        heading = [["", "ours", "the floor, as a part of it", "the others take"], ["---"] * 4]
        lines = [markdown_row(cells) for cells in (*heading, *map(_row, timed))] + [""] if timed else []
        return "\n".join([*lines, *_growth(groups), _source(chosen["from"], whole, timed), ""])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"benchmark: {spec}: {type(error).__name__}: {one_line(error)}") from error


def _row(group: Mapping[str, Any]) -> list[str]:
    others = {name: other["ratio"] for name, other in group["contenders"].items() if name != OURS}
    ratios = "; ".join(f"{name} {ratio:.1f} times" if ratio < 100 else f"{name} {ratio:.0f} times" for name, ratio in others.items())
    fraction = f"{100 * group['fraction_of_floor']:.2g}%" if "fraction_of_floor" in group else ""
    seconds = group["contenders"][OURS]["median"]
    return [group["title"], f"{seconds:.3g} s" if seconds > 0.999 else f"{1e3 * seconds:.3g} ms", fraction, ratios]


def _growth(groups: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for group in groups:
        if "exponents" in group:
            powers = ", ".join(f"{what} {power:.2f}" for what, power in group["exponents"].items() if power is not None)
            memory = max(row["memory"] for row in group["scaling"])
            yield f"{group['title']}: its time grows as the power {powers} of these; memory up to {memory / 1e9:.1f} GB.\n"


def _source(file: str, whole: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> str:
    """One line: machine, its speed and load, versions, how often, file."""
    versions = [f"{name} {whole['versions'][name]}" for name in ("irob", "jax", *PEER_PACKAGES) if name in whole["versions"]]
    parts = [whole["device"], ", ".join(versions)]
    parts += ["products of float32 in full"] if whole.get("full_precision") else []
    if groups:
        peaks = sorted({round(group["matmul_peak"] / 1e9, -1) for group in groups})
        speed = " to ".join(f"{peak:,.0f}" for peak in dict.fromkeys((peaks[0], peaks[-1])))
        rounds = min(other["rounds"] for group in groups for other in group["contenders"].values())
        load = max(group["load"] for group in groups)
        parts += [f"matrix products at {speed} GFLOP/s", f"load before a row at most {load:.1f}", f"medians of {rounds} rounds or more"]
    return f"({'; '.join([*parts, f'`experiments/results/{file}.json`'])})"
