"""Statistics of results, with their uncertainty; `explanations`: metrics of maps."""

from irob.metrics import explanations
from irob.metrics.paired import Difference, Paired, mcnemar, paired_difference
from irob.metrics.proportions import Proportion, mean_with_error, robust_accuracy, wilson_interval, worst_case

__all__ = [
    "Difference",
    "Paired",
    "Proportion",
    "explanations",
    "mcnemar",
    "mean_with_error",
    "paired_difference",
    "robust_accuracy",
    "wilson_interval",
    "worst_case",
]
