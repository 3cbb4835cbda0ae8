"""Metrics of explanations: pure functions of one image, its map and a score.

sensitivity      how much the map moves with the image: sampled, adversarial, Lipschitz, relative input and output stability
faithfulness     whether the score follows the map: completeness, faithfulness correlation, deletion and insertion, sensitivity-n, monotonicity,
                 infidelity
road             deletion with imputed pixels
randomization    whether the map depends on the parameters: MPRT, sMPRT, eMPRT, random logit
complexity       entropy, effective pixels, Gini index; alignment of gradient and image
localization     pointing game, relevance mass and rank, where masks are given
table            METRICS by name; maps that know nothing of the network, to compare with
"""

from irob.metrics.explanations.complexity import alignment, effective_pixels, entropy, gini, histogram_entropy
from irob.metrics.explanations.faithfulness import (
    Completeness,
    Infidelity,
    area_under,
    completeness_gap,
    faithfulness_correlation,
    infidelity,
    monotonicity_correlation,
    on_positions,
    order_of,
    replaced,
    replacement_curve,
    sensitivity_n,
)
from irob.metrics.explanations.localization import pointing_game, relevance_mass, relevance_rank
from irob.metrics.explanations.randomization import averaged, entropy_rise, layer_names, mprt_curve, random_logit
from irob.metrics.explanations.road import linear_imputation, road_curve
from irob.metrics.explanations.sensitivity import (
    Sampled,
    Stability,
    adversarial_sensitivity,
    local_lipschitz,
    relative_change,
    relative_stability,
    sampled_sensitivity,
)
from irob.metrics.explanations.table import (
    HIGHER,
    LOWER,
    METRICS,
    OF_ARRAYS,
    OF_FUNCTIONS,
    UNINFORMED,
    Explained,
    Metric,
    Settings,
    Subject,
    edges,
    noise_map,
    on_pixels_of,
)

__all__ = [
    "HIGHER",
    "LOWER",
    "METRICS",
    "OF_ARRAYS",
    "OF_FUNCTIONS",
    "UNINFORMED",
    "Completeness",
    "Explained",
    "Infidelity",
    "Metric",
    "Sampled",
    "Settings",
    "Stability",
    "Subject",
    "adversarial_sensitivity",
    "alignment",
    "area_under",
    "averaged",
    "completeness_gap",
    "edges",
    "effective_pixels",
    "entropy",
    "entropy_rise",
    "faithfulness_correlation",
    "gini",
    "histogram_entropy",
    "infidelity",
    "layer_names",
    "linear_imputation",
    "local_lipschitz",
    "monotonicity_correlation",
    "mprt_curve",
    "noise_map",
    "on_pixels_of",
    "on_positions",
    "order_of",
    "pointing_game",
    "random_logit",
    "relative_change",
    "relative_stability",
    "relevance_mass",
    "relevance_rank",
    "replaced",
    "replacement_curve",
    "road_curve",
    "sampled_sensitivity",
    "sensitivity_n",
]
