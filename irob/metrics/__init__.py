"""Statistics of results, with their uncertainty."""

from irob.metrics.proportions import Proportion, mean_with_error, robust_accuracy, wilson_interval, worst_case

__all__ = ["Proportion", "mean_with_error", "robust_accuracy", "wilson_interval", "worst_case"]
