"""Certificates: bounds of a network's logits and maps that hold for every image of a ball, and randomized smoothing.

program      a network as affine steps, rectifiers and maxima
intervals    interval bounds of every output
linear       linear bounds (CROWN) of linear functions of the outputs
networks     margins, and how far the interpretation can move: the counterpart of Proposition 1
smoothing    for any network: predictions (Cohen et al.) and top-k positions of a smoothed map (Levine et al.), in l2
"""

from irob.certify.intervals import Interval, box_around, interval_bounds
from irob.certify.linear import linear_lower_bounds
from irob.certify.networks import DiscrepancyBound, certified, discrepancy_bound, map_bounds, margin_bounds
from irob.certify.smoothing import (
    Smoothed,
    certified_overlap,
    certified_prediction,
    clopper_pearson_lower,
    noisy_counts,
    smoothed_top,
)

__all__ = [
    "DiscrepancyBound",
    "Interval",
    "Smoothed",
    "box_around",
    "certified",
    "certified_overlap",
    "certified_prediction",
    "clopper_pearson_lower",
    "discrepancy_bound",
    "interval_bounds",
    "linear_lower_bounds",
    "map_bounds",
    "margin_bounds",
    "noisy_counts",
    "smoothed_top",
]
