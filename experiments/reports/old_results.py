"""Result files of schema 2, converted: records did not name their measure, and some fields had other names."""

from typing import Any

import numpy as np

from irob.attacks import UNFORESEEN

MEASURE_OF_METRIC = {
    "clean_accuracy": "pgd",
    "robust_accuracy": "pgd",
    "bound_holds": "bound",
    "tightness": "bound",
    "normalized_discrepancy": "isa",
    "normalized_slope": "isa",
    "pearson": "isa",
    "discrepancy": "tradeoff",
    "topk_overlap": "topk_overlap",
    "activation": "inversion",
}


def from_schema_2(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a file of schema 2 as schema 3 has it."""
    protocol, counts = content.get("protocol") or {}, content.get("n_by_measure") or {}
    kept = {key: value for key, value in content.items() if key not in ("n", "n_by_measure", "attacks")}
    measures = {name: {"n": n, "description": protocol.get("description", ""), "settings": {}} for name, n in counts.items()}
    records = [_record(flat) for flat in content.get("records") or []]
    return {**kept, "protocol": protocol.get("name"), "measures": measures, "records": records}


def _record(flat: dict[str, Any]) -> dict[str, Any]:
    record = {("classes" if key == "discrepancy" else key): value for key, value in flat.items()}
    record["metric"] = record["metric"].replace("normalised", "normalized")
    if record["metric"] == "discrepancy":
        record["mean_eps"] = record.pop("eps")
    attack = record.get("attack")
    if attack == "none" or attack in UNFORESEEN:
        record["measure"] = "unforeseen"
    else:
        record["measure"] = attack if record["metric"] == "kendall_tau" else MEASURE_OF_METRIC[record["metric"]]
    return record


def renamed_arrays(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays of schema 2 under their names of schema 3."""
    return {name.replace("/normalised", "/normalized").replace("/margin", "/half_gap"): array for name, array in arrays.items()}
