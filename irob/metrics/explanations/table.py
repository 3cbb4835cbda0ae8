"""`METRICS` by name, in two tables: of a map that is an array, and of a map that is a function of image, class and parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from irob.attacks import LInf
from irob.maps import Attribution, saliency
from irob.metrics.explanations import complexity, faithfulness, randomization, road, sensitivity
from irob.metrics.explanations.sensitivity import Attribute
from irob.types import Array, Image, Label, Logits, Params, PRNGKey, Scalar

LOWER, HIGHER = "lower", "higher"  # which is better


class Settings(NamedTuple):
    """radius: of moved images in l-inf, on pixels in [0, 1]. draws: of them. attack_steps: of each ascent of the attack within that radius.

    subset, runs: positions and number of random subsets. curve_steps: of deletion and insertion. patch: side of the patches of monotonicity.
    fractions: of the positions that ROAD takes out. noisy: draws that sMPRT averages over. sigma: of its noise and that of `local_lipschitz`.
    """

    radius: float = 0.02
    draws: int = 50
    attack_steps: int = 40
    subset: int = 224
    runs: int = 100
    curve_steps: int = 28
    patch: int = 4
    fractions: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    noisy: int = 20
    sigma: float = 0.1


class Subject(NamedTuple):
    """What the metrics of an array see: an image, the class that is explained, the logits as a function, the map.

    map: `[H, W, c]`, on the pixels, as `on_pixels_of` makes it. baseline: what pixels are replaced with, `[H, W, c]`. key: of all draws.
    """

    x: Image
    label: Label
    logits: Callable[[Image], Logits]
    map: Attribution
    baseline: Image
    key: PRNGKey
    settings: Settings = Settings()

    def positions(self) -> Float[Array, "H W"]:
        """The map as one number for each position."""
        return jnp.sum(self.map, axis=-1)

    def logit(self, x: Image) -> Scalar:
        """The logit of the class."""
        return self.logits(x)[self.label]

    def probability(self, x: Image) -> Scalar:
        """The softmax probability of the class."""
        return jax.nn.softmax(self.logits(x))[self.label]

    def predicted(self, x: Image) -> Scalar:
        """1 where the class is predicted, otherwise 0."""
        return (jnp.argmax(self.logits(x)) == self.label).astype(x.dtype)


class Explained(NamedTuple):
    """What the metrics of a function see: as `Subject`, and the map as a function.

    attribute: `x -> map` of the class. surrogates: the same with useful gradients, for attacks. of_class: class -> map of x.
    of_params: parameters -> attribute. params, fresh: the trained ones, and an initial draw. layers: names from input to output; () for none.
    """

    x: Image
    label: Label
    logits: Callable[[Image], Logits]
    num_classes: int
    attribute: Attribute
    surrogates: Sequence[Attribute]
    of_class: Callable[[Any], Array]
    of_params: Callable[[Params], Attribute]
    params: Params
    fresh: Params
    layers: Sequence[str]
    key: PRNGKey
    settings: Settings = Settings()

    def kept(self, x: Image) -> Any:
        """Whether the class is predicted."""
        return jnp.argmax(self.logits(x)) == self.label


class Metric(NamedTuple):
    """better: name of a value -> LOWER or HIGHER. compute: subject -> value by name; what is not named in `better` is a curve.

    of_baseline, of_map: whether the values depend on the baseline, and on the map at all.
    """

    better: Mapping[str, str]
    compute: Callable[[Any], dict[str, Any]]
    of_baseline: bool = False
    of_map: bool = True


def on_pixels_of(attribution: Float[Array, "h w channels"], shape: tuple[int, int, int]) -> Attribution:
    """A map `[h, w, 1]` resized to the pixels, its value shared by the channels; a map `[H, W, c]` as it is.

    >>> on_pixels_of(jnp.ones((1, 1, 1)), (2, 2, 2)).tolist()
    [[[0.5, 0.5], [0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]]]
    """
    if attribution.shape == shape:
        return attribution
    return jnp.broadcast_to(faithfulness.on_positions(attribution, shape[:2])[..., None] / shape[2], shape)


# --- of an array ----------------------------------------------------------------------------------------------------------------------------


def _correlation(s: Subject) -> dict[str, Any]:
    subset = min(s.settings.subset, s.positions().size // 2)
    return {
        "faithfulness_correlation": faithfulness.faithfulness_correlation(
            s.logit, s.x, s.baseline, s.positions(), s.key, subset=subset, runs=s.settings.runs
        )
    }


def _curves(s: Subject) -> dict[str, Any]:
    along = lambda start, end: faithfulness.replacement_curve(  # noqa: E731
        s.probability, start, end, s.positions(), steps=min(s.settings.curve_steps, s.positions().size)
    )
    deletion, insertion = along(s.x, s.baseline), along(s.baseline, s.x)
    areas = {"deletion": faithfulness.area_under(deletion), "insertion": faithfulness.area_under(insertion)}
    return {**areas, "deletion_curve": deletion, "insertion_curve": insertion}


def _sensitivity_n(s: Subject) -> dict[str, Any]:
    steps = min(s.settings.curve_steps, s.positions().size)
    return {"sensitivity_n": faithfulness.sensitivity_n(s.logit, s.x, s.baseline, s.positions(), steps=steps)}


def _monotonicity(s: Subject) -> dict[str, Any]:
    patch = min(s.settings.patch, *s.x.shape[:2])
    found = faithfulness.monotonicity_correlation(s.logit, s.x, s.positions(), s.key, patch=patch, draws=s.settings.draws)
    return {"monotonicity": found}


def _infidelity(s: Subject) -> dict[str, Any]:
    found = faithfulness.infidelity(s.logit, s.x, s.map, s.key, draws=4 * s.settings.draws)
    return {"infidelity": found.value, "normalized_infidelity": found.normalized}


def _road(s: Subject) -> dict[str, Any]:
    curve = road.road_curve(s.predicted, s.x, s.positions(), s.key, fractions=s.settings.fractions)
    return {"road": jnp.mean(curve), "road_curve": curve}


def _complexity(s: Subject) -> dict[str, Any]:
    of_sizes = {"entropy": complexity.entropy, "effective_pixels": complexity.effective_pixels, "gini": complexity.gini}
    return {name: of_map(s.positions()) for name, of_map in of_sizes.items()}


def _alignment(s: Subject) -> dict[str, Any]:
    return {"alignment": complexity.alignment(saliency(s.logit, s.x), s.x)}


OF_ARRAYS: dict[str, Metric] = {
    "faithfulness_correlation": Metric({"faithfulness_correlation": HIGHER}, _correlation, True),
    "curves": Metric({"deletion": LOWER, "insertion": HIGHER}, _curves, True),
    "sensitivity_n": Metric({"sensitivity_n": HIGHER}, _sensitivity_n, True),
    "monotonicity": Metric({"monotonicity": HIGHER}, _monotonicity),
    "infidelity": Metric({"infidelity": LOWER, "normalized_infidelity": LOWER}, _infidelity),
    "road": Metric({"road": LOWER}, _road),
    "complexity": Metric({"entropy": LOWER, "effective_pixels": LOWER, "gini": HIGHER}, _complexity),
    "alignment": Metric({"alignment": HIGHER}, _alignment, of_map=False),
}


# --- of a function --------------------------------------------------------------------------------------------------------------------------


def _sampled(s: Explained) -> dict[str, Any]:
    found = sensitivity.sampled_sensitivity(s.attribute, s.x, s.key, radius=s.settings.radius, draws=s.settings.draws)
    return {"max_sensitivity": found.largest, "mean_sensitivity": found.mean}


def _adversarial(s: Explained) -> dict[str, Any]:
    ball, steps, draws = LInf(s.settings.radius), s.settings.attack_steps, max(s.settings.draws // max(len(s.surrogates), 1), 1)
    found = sensitivity.adversarial_sensitivity(s.attribute, ball, s.x, s.key, num_steps=steps, draws=draws, surrogates=s.surrogates)
    return {"adversarial_sensitivity": found.score}


def _lipschitz(s: Explained) -> dict[str, Any]:
    return {"local_lipschitz": sensitivity.local_lipschitz(s.attribute, s.x, s.key, sigma=s.settings.sigma, draws=s.settings.draws)}


def _stability(s: Explained) -> dict[str, Any]:
    found = sensitivity.relative_stability(
        s.attribute, s.logits, s.x, s.key, radius=s.settings.radius, draws=s.settings.draws, allowed=s.kept
    )
    return {"relative_input_stability": found.of_input, "relative_output_stability": found.of_output}


def _completeness(s: Explained) -> dict[str, Any]:
    score, found = lambda x: s.logits(x)[s.label], s.attribute(s.x)
    if found.shape[:2] != s.x.shape[:2]:  # of features: its sum depends on its scale
        return {}
    gap = faithfulness.completeness_gap(score, s.x, jnp.zeros_like(s.x), found)
    return {"completeness_gap": gap.relative, "absolute_completeness_gap": jnp.abs(gap.gap)}


def _randomized(s: Explained) -> dict[str, Any]:
    if not s.layers:
        return {}
    curve = randomization.mprt_curve(lambda params: s.of_params(params)(s.x), s.params, s.fresh, s.layers)
    mean_of = lambda params: randomization.averaged(s.of_params(params), s.key, sigma=s.settings.sigma, draws=s.settings.noisy)(s.x)  # noqa: E731
    smooth = randomization.mprt_curve(mean_of, s.params, s.fresh, s.layers)
    return {
        "mprt": jnp.mean(curve[1:]),
        "mprt_last": curve[-1],
        "smooth_mprt": jnp.mean(smooth[1:]),
        "efficient_mprt": randomization.entropy_rise(s.of_params(s.params)(s.x), s.of_params(s.fresh)(s.x)),
        "mprt_curve": curve,
        "smooth_mprt_curve": smooth,
    }


def _random_logit(s: Explained) -> dict[str, Any]:
    return {"random_logit": randomization.random_logit(s.of_class, s.label, s.num_classes, s.key)}


OF_FUNCTIONS: dict[str, Metric] = {
    "sampled_sensitivity": Metric({"max_sensitivity": LOWER, "mean_sensitivity": LOWER}, _sampled),
    "adversarial_sensitivity": Metric({"adversarial_sensitivity": LOWER}, _adversarial),
    "local_lipschitz": Metric({"local_lipschitz": LOWER}, _lipschitz),
    "relative_stability": Metric({"relative_input_stability": LOWER, "relative_output_stability": LOWER}, _stability),
    "completeness_gap": Metric({"completeness_gap": LOWER, "absolute_completeness_gap": LOWER}, _completeness),
    "randomization": Metric({"mprt": LOWER, "mprt_last": LOWER, "smooth_mprt": LOWER, "efficient_mprt": HIGHER}, _randomized),
    "random_logit": Metric({"random_logit": LOWER}, _random_logit),
}

METRICS: dict[str, Metric] = {**OF_ARRAYS, **OF_FUNCTIONS}


# --- maps that know nothing of the network ----------------------------------------------------------------------------------------------------


OneChannel = Float[Array, "H W 1"]


def edges(x: Image) -> OneChannel:
    """The length of Sobel's gradient of the mean over channels, `[H, W, 1]`; pixels are repeated beyond the border.

    >>> edges(jnp.array([[0.0, 1.0, 1.0]]).reshape(1, 3, 1)).ravel().tolist()
    [4.0, 4.0, 0.0]
    """
    height, width, _ = x.shape
    padded = jnp.pad(jnp.mean(x, axis=-1), 1, mode="edge")
    slope, blur = np.array([-1.0, 0.0, 1.0], np.float32), np.array([1.0, 2.0, 1.0], np.float32)

    def filtered(kernel: np.ndarray) -> Array:
        return sum((float(kernel[i, j]) * padded[i : i + height, j : j + width] for i in range(3) for j in range(3)), jnp.zeros(()))

    squared = filtered(np.outer(blur, slope)) ** 2 + filtered(np.outer(slope, blur)) ** 2
    return jnp.where(squared > 0.0, jnp.sqrt(jnp.where(squared > 0.0, squared, 1.0)), 0.0)[..., None]


def noise_map(key: PRNGKey, shape: tuple[int, int, int]) -> OneChannel:
    """A map of N(0, 1), `[H, W, 1]`; the same for every image of a key, so that its sensitivity is 0."""
    return jax.random.normal(key, (*shape[:2], 1))


UNINFORMED: dict[str, Callable[[PRNGKey, Image], OneChannel]] = {
    "random": lambda key, x: noise_map(key, (x.shape[0], x.shape[1], x.shape[2])),
    "edges": lambda key, x: edges(x),
}
