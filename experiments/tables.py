"""Results as tables of text."""

from collections.abc import Sequence
from typing import Any

from irob.attacks.unforeseen import UNFORESEEN


def text(result: dict[str, Any]) -> str:
    """Everything in a result, a block for each measure, and where it comes from."""
    blocks = [block(result, measure) for measure in result["measures"]]
    source = result["data"]
    counts = ", ".join(f"{measure} {n}" for measure, n in result["n_by_measure"].items())
    origin = f"test images of {source['name']} ({source['from']}): {counts}; {result['protocol']['name']} protocol, seed {result['seed']}"
    return "\n\n".join([*blocks, origin])


def block(result: dict[str, Any], measure: str) -> str:
    """The table of one measure."""
    title, _, columns = BLOCKS[measure]
    rows = [[cell(record, key) for _, key in columns] for record in records_of(result, measure)]
    return "\n".join([title.format(**result["protocol"]), *aligned([[name for name, _ in columns], *rows])])


def records_of(result: dict[str, Any], measure: str) -> list[dict[str, Any]]:
    """The records of one measure."""
    metrics, attacks = BLOCKS[measure][1]
    return [record for record in result["records"] if record["metric"] in metrics and record.get("attack", "pgd") in attacks]


def cell(record: dict[str, Any], key: str) -> str:
    """A field of a record as text; nothing where it has none."""
    value = record.get(key)
    if value is None:
        return "-" if key in ("value", "ci95", "median") else ""
    if key == "ci95":
        return f"[{value[0]:.3f}, {value[1]:.3f}]"
    if isinstance(value, float):
        return f"{value:.4f}" if key in ("eps", "budget") else f"{value:.3f}"
    return str(value)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of equal length as lines with columns flush right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


VALUE = (("n", "n"), ("value", "value"), ("95% interval", "ci95"))
KIND = (("map", "map"), ("discrepancy", "discrepancy"), ("norm", "norm"))
# measure -> title, (metrics, attacks), columns as (heading, field)
BLOCKS: dict[str, tuple[str, tuple[set[str], set[str]], tuple[tuple[str, str], ...]]] = {
    "pgd": (
        "Accuracy. {description}",
        ({"clean_accuracy", "robust_accuracy"}, {"pgd"}),
        (("eps", "eps"), ("steps", "steps"), ("n", "n"), ("accuracy", "value"), ("95% interval", "ci95")),
    ),
    "aai": (
        "Kendall's tau of the true class's map under the top-k attack",
        ({"kendall_tau"}, {"aai"}),
        (("map", "map"), ("eps", "eps"), ("over", "over"), ("n", "n"), ("tau", "value"), ("95% interval", "ci95")),
    ),
    "bound": (
        "Proposition 1: share of images where D >= margin / 2, and the ratio of the two",
        ({"bound_holds", "tightness"}, {"minimal", "isa"}),
        (
            ("metric", "metric"),
            ("attack", "attack"),
            ("against", "against"),
            ("D", "discrepancy"),
            *VALUE,
            ("median", "median"),
            ("failed", "failed"),
        ),
    ),
    "isa": (
        "Sneaking attack",
        ({"normalised_discrepancy", "normalised_slope", "kendall_tau", "pearson"}, {"isa"}),
        (("metric", "metric"), *KIND, ("over", "over"), *VALUE, ("failed", "failed")),
    ),
    "tradeoff": (
        "Discrepancy (raw) against budget under the sneaking attack",
        ({"discrepancy"}, {"isa"}),
        (*KIND, ("budget", "budget"), ("mean eps", "eps"), *VALUE, ("failed", "failed")),
    ),
    "topk_overlap": (
        "Most salient positions in common with another network",
        ({"topk_overlap"}, {"pgd"}),
        (("with", "with"), ("map", "map"), ("k", "k"), *VALUE),
    ),
    "unforeseen": (
        "Accuracy under unforeseen attacks, and UAR",
        ({"clean_accuracy", "robust_accuracy", "uar"}, {"none", *UNFORESEEN}),
        (("metric", "metric"), ("attack", "attack"), ("sizes of", "calibration"), ("eps", "eps"), *VALUE),
    ),
    "inversion": (
        "Feature inversion: activity of the unit",
        ({"activation"}, {"inversion"}),
        (("norm", "norm"), ("from", "seed_image"), ("when", "when"), *VALUE),
    ),
}
