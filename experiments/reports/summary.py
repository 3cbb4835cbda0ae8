"""A report's numbers in one small file, from which the tables of documents are made."""

import json
from collections.abc import Sequence
from typing import Any

from experiments.reports.entries import Entry
from experiments.reports.seeds import over_seeds
from experiments.reports.strongest import pair_records
from experiments.runtime import provenance

SCHEMA = 1  # under a key of its own: a folder of results may hold a summary, too
LEFT_OUT = ("class_accuracy",)  # metrics of which there is a record for each class


def summarized(entries: Sequence[Entry]) -> dict[str, Any]:
    """Every network, the seeds of a training together, with its records and where they come from, the paired differences of networks, and the command
    that is writing them.
    """
    networks = [_network(entry) for entry in over_seeds(entries)]
    return {"summary": SCHEMA, "command": provenance.command(), "networks": networks, "pairs": list(pair_records(entries))}


def _network(entry: Entry) -> dict[str, Any]:
    result, made = entry.result, entry.result.provenance
    config = made.get("config") or {}
    return {
        "network": entry.label,
        "dataset": entry.images,
        "protocol": entry.protocol,
        "seeds": made.get("seeds") or [config.get("seed", result.seed)],
        "measures": {name: {"n": info.n, "description": info.description} for name, info in result.measures.items()},
        "architecture": made.get("network"),
        "config": config,
        "data": result.data,
        "device": made["device"],
        "seconds": made["seconds"],
        "versions": made["versions"],
        "git_revision": made["git_revision"],
        "command": made.get("command"),
        "records": [record.as_dict() for record in entry.records() if record.metric not in LEFT_OUT],
    }


def as_text(content: dict[str, Any]) -> str:
    """A summary as JSON, a line for each record, so that a change of one number is a change of one line."""
    networks = []
    for network in content["networks"]:
        records = ",\n   ".join(json.dumps(record) for record in network["records"])
        rest = json.dumps({key: value for key, value in network.items() if key != "records"}, sort_keys=True)
        networks.append(f'{rest[:-1]},\n  "records": [\n   {records}\n  ]}}')
    rest = json.dumps({key: value for key, value in content.items() if key not in ("networks", "pairs")})
    pairs = ",\n ".join(map(json.dumps, content["pairs"]))
    return f'{rest[:-1]}, "networks": [\n ' + ",\n ".join(networks) + f'\n], "pairs": [\n {pairs}\n]}}\n'
