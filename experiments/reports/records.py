"""Records: one number each, with its n, its interval and the settings that identify it."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from irob.metrics import mean_with_error, robust_accuracy


@dataclasses.dataclass(frozen=True)
class Record:
    """A number of a result.

    measure: that made it.
    metric: what it is, e.g. robust_accuracy.
    n: how many examples it counts.
    value: None if no example counts.
    ci95: its 95% interval; None where there is none.
    settings: what else identifies it (eps, map, norm, classes, attack, ...) and stands beside it (median, failed, ...), as plain values.
    """

    measure: str
    metric: str
    n: int
    value: float | None
    ci95: tuple[float, float] | None
    settings: Mapping[str, Any]

    def get(self, field: str, default: Any = None) -> Any:
        """A field of its own, or a setting."""
        return getattr(self, field) if field in OWN_FIELDS else self.settings.get(field, default)

    def __getitem__(self, field: str) -> Any:
        return getattr(self, field) if field in OWN_FIELDS else self.settings[field]

    def has(self, **wanted: Any) -> bool:
        """Whether fields have these values."""
        return all(self.get(field) == value for field, value in wanted.items())

    def as_dict(self) -> dict[str, Any]:
        """Flat, as a result file has it."""
        ci95 = None if self.ci95 is None else list(self.ci95)
        return {"measure": self.measure, "metric": self.metric, **self.settings, "n": self.n, "value": self.value, "ci95": ci95}


OUTCOMES = (
    "median",
    "failed",
    "mean_eps",
    "predicted",
    "reached",
    "without_gradient",
    "white_box",
)  # fields of `settings` that are measured, too
OWN_FIELDS = ("measure", "metric", "n", "value", "ci95")


def record_from(flat: Mapping[str, Any]) -> Record:
    """The inverse of `Record.as_dict`.

    Raises:
      KeyError: if a field is missing.
      TypeError: if one is not what it must be.
    """
    value, n = flat["value"], flat["n"]
    if flat["ci95"] is not None and (not isinstance(flat["ci95"], list | tuple) or len(flat["ci95"]) != 2):
        raise TypeError(f"an interval of two numbers, not {flat['ci95']!r:.40}")
    if isinstance(n, bool) or not isinstance(n, int) or n < 0:
        raise TypeError(f"an n that is a count, not {n!r}")
    numbers = [value, *(flat["ci95"] or ())]
    if not all(part is None or (isinstance(part, int | float) and not isinstance(part, bool) and math.isfinite(part)) for part in numbers):
        raise TypeError(f"finite numbers, not {numbers!r}")
    for name in ("measure", "metric"):
        if not isinstance(flat[name], str):
            raise TypeError(f"a {name} that is a name, not {flat[name]!r}")
    eps = flat.get("eps", 0.0)
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not math.isfinite(eps) or eps < 0:
        raise TypeError(f"an eps that is a radius, not {eps!r}")
    if str(flat["metric"]).endswith("accuracy") and not all(part is None or 0.0 <= part <= 1.0 for part in numbers):
        raise TypeError(f"an accuracy in [0, 1], not {numbers!r}")
    settings = {key: value for key, value in flat.items() if key not in OWN_FIELDS}
    ci95 = None if flat["ci95"] is None else tuple(flat["ci95"])
    return Record(flat["measure"], flat["metric"], flat["n"], flat["value"], ci95, settings)


def without_gradient(count: int) -> dict[str, int]:
    """The setting that says how many images withstood attacks that had no gradient; none where there are none."""
    return {"without_gradient": count} if count else {}


def hidden_gradients(record: Record) -> str:
    """What to think of a record with images that were attacked without a gradient."""
    return (
        f"{record['without_gradient']} of {record.n} images withstood attacks that had no gradient (zero everywhere, or not finite): the network"
        " hides its gradients, or does not depend on the image, and this says nothing about robustness"
    )


def mean_record(metric: str, values: np.ndarray, **settings: Any) -> Record:
    """The mean of values `[n]` with its normal 95% interval; values that are not finite are left out."""
    finite = np.asarray(values, np.float64)[np.isfinite(values)]
    if not len(finite):
        return Record("", metric, 0, None, None, settings)
    value, error = mean_with_error(finite)
    half = 1.959964 * error
    return Record("", metric, len(finite), value, (value - half, value + half) if len(finite) > 1 else None, settings)


def proportion_record(metric: str, holds: np.ndarray, **settings: Any) -> Record:
    """The proportion of True among `[n]`, with its 95% Wilson interval."""
    if not len(holds):
        return Record("", metric, 0, None, None, settings)
    found = robust_accuracy(np.asarray(holds, bool))
    return Record("", metric, found.n, found.value, (found.low, found.high), settings)
