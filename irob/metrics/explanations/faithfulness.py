"""Whether a map says what the network does: what happens to a score when the positions that matter to the map are taken out of the image.

A score is a function `x -> scalar`, the logit or the probability of the class that is explained. Attributions are signed, `[H, W]`, one number for a
position with all of its channels (`on_positions`). What a position is replaced with, the baseline `[H, W, c]`, decides much: report two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from irob.similarities import pearson, spearman
from irob.types import Array, Image, PRNGKey, Scalar

Score = Callable[[Image], Scalar]
Positions = Float[Array, "H W"]


def on_positions(attribution: Float[Array, "h w c"], size: tuple[int, int]) -> Positions:
    """A map as one signed number for each position of the image: summed over channels, resized bilinearly where its resolution is another, which
    keeps its values, not its sum: a resized map is complete, or faithful in the unit of the score, up to a factor alone.

    >>> on_positions(jnp.array([[[1.0, -3.0]]]), (1, 1)).tolist()
    [[-2.0]]
    """
    flat = jnp.sum(attribution, axis=-1)
    return flat if flat.shape == tuple(size) else jax.image.resize(flat, size, "bilinear")


def replaced(x: Image, where: Bool[Array, "H W"], baseline: Image) -> Image:
    """The image with the baseline at some positions."""
    return jnp.where(where[..., None], baseline, x)


# --- completeness ---------------------------------------------------------------------------------------------------------------------------


class Completeness(NamedTuple):
    """gap: signed, in the unit of the score. relative: its size over that of the difference of the scores; NaN if they are equal."""

    gap: Scalar
    relative: Scalar


def completeness_gap(score: Score, x: Image, baseline: Image, attribution: Array) -> Completeness:
    """What the attributions do not add up to:

        gap = sum_i A_i - (F(x) - F(x0))

    Args:
      score: F.
      x, baseline: the image and x0, `[H, W, c]`.
      attribution: A, of any shape.

    Returns:
      The gap, 0 for a complete map, and its relative size; nearer to 0 is better.

    References:
      Sundararajan et al. 2017, https://arxiv.org/abs/1703.01365, sec. 3 (captum: convergence delta).

    >>> completeness_gap(jnp.sum, jnp.ones((1, 2, 1)), jnp.zeros((1, 2, 1)), jnp.array([1.0, 0.5]))
    Completeness(gap=Array(-0.5, dtype=float32), relative=Array(0.25, dtype=float32))
    """
    change = score(x) - score(baseline)
    gap = jnp.sum(attribution) - change
    return Completeness(gap, jnp.where(change != 0.0, jnp.abs(gap) / jnp.where(change != 0.0, jnp.abs(change), 1.0), jnp.nan))


# --- subsets of positions -------------------------------------------------------------------------------------------------------------------


def faithfulness_correlation(
    score: Score, x: Image, baseline: Image, attribution: Positions, key: PRNGKey, *, subset: int = 224, runs: int = 100
) -> Scalar:
    """Pearson's correlation, over random subsets S of positions, of their attribution with the drop of the score without them:

        corr_S ( sum_{i in S} A_i,    F(x) - F(x with S replaced) )

    Args:
      score: F.
      x, baseline: the image, and what positions are replaced with.
      attribution: A `[H, W]`.
      key: of the subsets.
      subset: positions in each.
      runs: subsets.

    Returns:
      A scalar in [-1, 1]; higher = more faithful. NaN where one of the two is constant, such as for subsets of all positions.

    Raises:
      ValueError: for more positions than there are.

    References:
      Bhatt et al. 2020, https://arxiv.org/abs/2005.00631 (size and number of Quantus).

    >>> x = jnp.arange(8.0).reshape(2, 4, 1) / 8.0
    >>> w = jnp.array([1.0, -2.0, 0.5, 3.0, 1.5, 0.0, 2.0, -1.0]).reshape(2, 4, 1)
    >>> linear = lambda z: jnp.sum(w * z)
    >>> round(float(faithfulness_correlation(linear, x, 0 * x, (w * x)[..., 0], jax.random.key(0), subset=3)), 4)
    1.0
    """
    if not 1 <= subset <= attribution.size:
        raise ValueError(f"subset must be in 1..{attribution.size}, the positions of the image, got {subset}")
    whole = score(x)

    def one(key: PRNGKey) -> Array:
        drawn = jax.random.bits(key, attribution.shape)  # the smallest are chosen: a fifth of the time of a permutation on CPU
        chosen = drawn <= jnp.sort(drawn.reshape(-1))[subset - 1]
        return jnp.stack([jnp.sum(jnp.where(chosen, attribution, 0.0)), whole - score(replaced(x, chosen, baseline))])

    sums, drops = jax.lax.map(one, jax.random.split(key, runs)).T
    return pearson(sums, drops)


# --- one position after another -------------------------------------------------------------------------------------------------------------


def order_of(attribution: Positions) -> Array:
    """The place of each position in the order of descending attribution, 0 for the largest; of equal ones the earlier position is first."""
    flat = jnp.ravel(attribution)
    return jnp.zeros(flat.size, jnp.int32).at[jnp.argsort(-flat)].set(jnp.arange(flat.size, dtype=jnp.int32)).reshape(attribution.shape)


def replacement_curve(score: Score, start: Image, end: Image, attribution: Positions, *, steps: int) -> Float[Array, " steps_and_1"]:
    """The score on the way from one image to another, whose positions replace its own in the order of descending attribution, as many at each step.

    Deletion (pixel flipping) goes from the image to a baseline, insertion from the baseline to the image.

    Args:
      score: F.
      start, end: `[H, W, c]`.
      attribution: A `[H, W]`.
      steps: K, from 1 to the number of positions.

    Returns:
      `[K + 1]`; F(start) first, F(end) last. NaN for a map that is NaN somewhere.

    Raises:
      ValueError: for another K.

    References:
      Samek et al. 2015, https://arxiv.org/abs/1509.06321 (deletion); Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421 (both).

    >>> x = jnp.array([1.0, 2.0, 3.0]).reshape(1, 3, 1)
    >>> replacement_curve(jnp.sum, x, 0 * x, x[..., 0], steps=3).tolist()
    [6.0, 3.0, 1.0, 0.0]
    """
    if not 1 <= steps <= attribution.size:
        raise ValueError(f"steps must be in 1..{attribution.size}, the positions of the image, got {steps}")
    order = order_of(attribution)
    curve = jax.lax.map(lambda count: score(replaced(start, order < count, end)), jnp.asarray(_counts(attribution.size, steps)))
    return jnp.where(jnp.any(jnp.isnan(attribution)), jnp.nan, curve)


def _counts(size: int, steps: int) -> np.ndarray:
    return np.round(np.arange(steps + 1) * size / steps).astype(np.int32)


def area_under(curve: Float[Array, " n"]) -> Scalar:
    """The mean height of a curve, by trapezoids. Of a deletion curve lower is better, of an insertion curve higher.

    >>> float(area_under(jnp.array([1.0, 0.5, 0.0])))
    0.5
    """
    return jnp.mean(0.5 * (curve[1:] + curve[:-1]))


def sensitivity_n(score: Score, x: Image, baseline: Image, attribution: Positions, *, steps: int, part: float = 0.8) -> Scalar:
    """Pearson's correlation along the deletion curve, up to `part` of the positions, of the attribution taken away with the drop of the score.

    Args:
      score, x, baseline, attribution: as in `faithfulness_correlation`.
      steps: of the curve, as in `replacement_curve`.
      part: of the curve that counts.

    Returns:
      A scalar in [-1, 1]; higher = more faithful. NaN for curves of one step. Both curves rise for any map of the right signs, so it hardly tells
      maps apart: `faithfulness_correlation` does, which is sensitivity-n as its authors define it, for n = subset.

    References:
      Ancona et al. 2018, https://arxiv.org/abs/1711.06104, sec. 4, cumulative instead of for random subsets.
    """
    curve = replacement_curve(score, x, baseline, attribution, steps=steps)
    ordered = jnp.concatenate([jnp.zeros(1, attribution.dtype), jnp.cumsum(-jnp.sort(-jnp.ravel(attribution)))])
    last = max(round(part * steps), 2)
    return pearson(ordered[_counts(attribution.size, steps)][1 : last + 1], (curve[0] - curve)[1 : last + 1])


def monotonicity_correlation(score: Score, x: Image, attribution: Positions, key: PRNGKey, *, patch: int = 1, draws: int = 100) -> Scalar:
    """Spearman's correlation, over patches, of their attribution with the mean squared change of the score when they are replaced at random:

        corr_P ( |sum_{i in P} A_i|,    E (F(x with uniform noise in P) - F(x))^2 )

    Args:
      score, x, attribution, key: as in `faithfulness_correlation`.
      patch: side of the square patches, in which attributions add up before their size is taken; what is left over at the right and bottom is not
        counted.
      draws: of each patch.

    Returns:
      A scalar in [-1, 1]; higher = more faithful. NaN for a single patch.

    Raises:
      ValueError: for a patch that does not fit into the image.

    References:
      Nguyen & Martinez 2020, https://arxiv.org/abs/2007.07584.
    """
    if not 1 <= patch <= min(attribution.shape):
        raise ValueError(f"patch must be in 1..{min(attribution.shape)}, the smaller side of the image, got {patch}")
    height, width = (side // patch for side in attribution.shape)
    within = attribution[: height * patch, : width * patch].reshape(height, patch, width, patch)
    sizes = jnp.abs(jnp.sum(within, axis=(1, 3))).reshape(-1)
    rows, columns = (np.arange(side) // patch for side in attribution.shape)
    number = np.where((rows < height)[:, None] & (columns < width)[None], rows[:, None] * width + columns[None], -1)
    clean = score(x)

    def change(place: Array) -> Scalar:
        def one(key: PRNGKey) -> Scalar:
            return (score(replaced(x, number == place, jax.random.uniform(key, x.shape, x.dtype))) - clean) ** 2

        return jnp.mean(jax.lax.map(one, jax.random.split(jax.random.fold_in(key, place), draws)))

    return spearman(sizes, jax.lax.map(change, jnp.arange(height * width)))


class Infidelity(NamedTuple):
    """value: as defined, in squared units of the score. normalized: after the map is multiplied by the number that fits best."""

    value: Scalar
    normalized: Scalar


def infidelity(
    score: Score, x: Image, attribution: Float[Array, "H W _"], key: PRNGKey, *, sigma: Scalar = 0.2, draws: int = 200
) -> Infidelity:
    """How badly a map predicts the change of the score under noise `I = sigma N(0, 1)`:

        E ( <I, A> - (F(x) - F(x - I)) )^2,    normalized: A times beta = E[<I, A> dF] / E[<I, A>^2]

    Args:
      score, x: as in `faithfulness_correlation`.
      attribution: A `[H, W, c]` or `[H, W, 1]`: a sensitivity, a change of the score for a change of a pixel.
      key, draws: of the noise.
      sigma: its standard deviation.

    Returns:
      Both, >= 0; lower = more faithful. The gradient of a linear score has 0.

    References:
      Yeh et al. 2019, https://arxiv.org/abs/1901.09392, definition 2.1; beta as in captum (normalize).
    """
    clean = score(x)

    def one(key: PRNGKey) -> Array:
        noise = sigma * jax.random.normal(key, x.shape, x.dtype)
        return jnp.stack([jnp.sum(noise * attribution), clean - score(x - noise)])

    predicted, drops = jax.lax.map(one, jax.random.split(key, draws)).T
    power = jnp.mean(predicted**2)
    beta = jnp.mean(predicted * drops) / jnp.where(power > 0.0, power, 1.0)
    return Infidelity(jnp.mean((predicted - drops) ** 2), jnp.mean((beta * predicted - drops) ** 2))
