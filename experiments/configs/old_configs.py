"""Configs that were stored by earlier versions, as configs of this one."""

from collections.abc import Mapping
from typing import Any


def converted(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A flat stored config with the fields of this version instead of those that are gone.

    learning_rate_drops: the rate was divided by 10 after each of these steps; a schedule counts from the step itself.
    """
    values = dict(stored)
    if drops := values.pop("learning_rate_drops", ()):
        values["schedule"] = ("piecewise_constant_schedule", {"boundaries_and_scales": {str(step + 1): 0.1 for step in drops}})
    return values
