"""Maps on the pixels of the image: gradients of a score, any function `x -> scalar`, for instance `lambda x: explain(x).logits[c]`.

    saliency              d score / d x
    gradient_x_input      x * d score / d x
    integrated_gradients  (x - x0) * mean of the gradient over the path from the baseline x0 to x
    expected_gradients    the same over random baselines and random points of the path
    smooth_grad           mean of the gradient over noisy copies of x

They are signed, `[H, W, c]`; `heatmap` makes a picture of one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from irob.types import Array, Image, PRNGKey, Scalar

Score = Callable[[Image], Scalar]
Attribution = Float[Array, "H W c"]
Rule = Callable[[int], tuple[np.ndarray, np.ndarray]]  # number of points -> nodes and weights on [0, 1]


def saliency(score: Score, x: Image) -> Attribution:
    """The gradient `d score / d x`, signed.

    Args:
      score: `x -> scalar`, e.g. the logit of a class.
      x: the image `[H, W, c]`.

    Returns:
      `[H, W, c]`; positive where a brighter pixel raises the score.

    References:
      Simonyan et al. 2014, https://arxiv.org/abs/1312.6034, sec. 3 (who show its absolute value).

    >>> saliency(lambda z: jnp.sum(z**2), jnp.full((1, 2, 1), 0.5)).ravel().tolist()
    [1.0, 1.0]
    """
    return jax.grad(score)(x)


def gradient_x_input(score: Score, x: Image) -> Attribution:
    """Gradient times input, `x * d score / d x`. It sums to the score for scores that are linear in x without a constant.

    Args:
      score, x: as in `saliency`.

    Returns:
      `[H, W, c]`, signed.

    References:
      Shrikumar et al. 2016, https://arxiv.org/abs/1605.01713.

    >>> gradient_x_input(lambda z: jnp.sum(z**2), jnp.full((1, 2, 1), 0.5)).ravel().tolist()
    [0.5, 0.5]
    """
    return x * jax.grad(score)(x)


class Integrated(NamedTuple):
    """attributions: `[H, W, c]`, signed. gap: `score(x) - mean of score(x0) - sum of attributions`, which is 0 if they are complete."""

    attributions: Attribution
    gap: Scalar


def gauss_legendre(points: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of the Gauss-Legendre rule on [0, 1], exact for polynomials of degree 2 points - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    return (nodes + 1.0) / 2.0, weights / 2.0


def integrated_gradients(
    score: Score,
    x: Image,
    baselines: Float[Array, "n H W c"] | None = None,
    *,
    points: int = 50,
    rule: Rule = gauss_legendre,
    chunk: int = 1,
) -> Integrated:
    """Integrated gradients, averaged over baselines:

        (x - x0) * integral over a in [0, 1] of  d score / d z  at  z = x0 + a (x - x0)

    They are complete as far as the rule integrates exactly: rectified networks have kinks on the path, where no rule is exact. `gap` says what
    is missing; more points shrink it.

    Args:
      score: `x -> scalar`.
      x: the image `[H, W, c]`.
      baselines: x0, `[n, H, W, c]`; None is the black image.
      points: of the rule, for each baseline.
      rule: number of points -> nodes and weights on [0, 1].
      chunk: points computed at a time; memory does not grow with the number of points.

    Returns:
      The attributions `[H, W, c]` and the gap.

    Raises:
      ValueError: without a point, if the chunk does not divide `points`, or if the baselines are not a batch of images like x.

    References:
      Sundararajan et al. 2017, https://arxiv.org/abs/1703.01365, eq. 1.

    >>> found = integrated_gradients(lambda z: jnp.sum(z**3), jnp.full((1, 2, 1), 0.5), points=2)
    >>> [round(float(v), 4) for v in found.attributions.ravel()], abs(float(found.gap)) < 1e-6
    ([0.125, 0.125], True)
    """
    if points < 1 or chunk < 1 or points % chunk:
        raise ValueError(f"points must be positive and chunk divide it, got points {points} and chunk {chunk}")
    baselines = _batch_like(x, jnp.zeros((1, *x.shape), x.dtype) if baselines is None else baselines, "baselines")
    nodes, weights = (values.astype(np.float32).reshape(-1, chunk) for values in rule(points))

    def along_path(baseline: Image) -> Array:
        def add(total: Any, some: Any) -> tuple[Any, None]:
            gradients = jax.vmap(lambda a: jax.grad(score)(baseline + a * (x - baseline)))(some[0])
            return total + jnp.tensordot(some[1], gradients, axes=1), None

        return (x - baseline) * jax.lax.scan(add, jnp.zeros_like(x), (nodes, weights))[0]

    attributions = jnp.mean(jax.lax.map(along_path, baselines), axis=0)
    return Integrated(attributions, score(x) - jnp.mean(jax.lax.map(score, baselines)) - jnp.sum(attributions))


def expected_gradients(
    score: Score, x: Image, key: PRNGKey, references: Float[Array, "n H W c"], *, samples: int = 64, chunk: int = 1
) -> Attribution:
    """Integrated gradients in expectation over random baselines x0 and random a in [0, 1]:

        E (x - x0) * d score / d z  at  z = x0 + a (x - x0)

    In expectation they sum to score(x) - mean of score(x0).

    Args:
      score, x: as in `integrated_gradients`.
      key: of the draws.
      references: `[n, H, W, c]`, the baselines to draw from, e.g. training images.
      samples: number of draws.
      chunk: draws computed at a time.

    Returns:
      `[H, W, c]`, a mean of random terms: its error falls with the root of `samples`.

    Raises:
      ValueError: without a sample, if the chunk does not divide `samples`, or if the references are not a batch of images like x.

    References:
      Erion et al. 2021, https://arxiv.org/abs/1906.10670.

    >>> x, black = jnp.full((1, 2, 1), 0.5), jnp.zeros((1, 1, 2, 1))
    >>> expected_gradients(lambda z: jnp.sum(3.0 * z), x, jax.random.key(0), black, samples=4).ravel().tolist()
    [1.5, 1.5]
    """
    references = _batch_like(x, references, "references")

    def one(key: PRNGKey) -> Array:
        which, where = jax.random.split(key)
        baseline = references[jax.random.randint(which, (), 0, len(references))]
        return (x - baseline) * jax.grad(score)(baseline + jax.random.uniform(where, dtype=x.dtype) * (x - baseline))

    return _mean_over_draws(one, key, x, samples, chunk)


def smooth_grad(score: Score, x: Image, key: PRNGKey, *, sigma: float = 0.15, samples: int = 50, chunk: int = 1) -> Attribution:
    """The mean of the gradient over Gaussian noise: `E d score / d x at x + sigma N(0, 1)`. The noise may leave [0, 1].

    Args:
      score, x: as in `saliency`.
      key: of the noise.
      sigma: its standard deviation, on pixels in [0, 1].
      samples, chunk: as in `expected_gradients`, which says what is raised.

    Returns:
      `[H, W, c]`, signed; a mean of random terms.

    References:
      Smilkov et al. 2017, https://arxiv.org/abs/1706.03825, sec. 3 (10 to 20% noise, 50 samples).

    >>> smooth_grad(lambda z: jnp.sum(z), jnp.full((1, 2, 1), 0.5), jax.random.key(0), samples=2).ravel().tolist()
    [1.0, 1.0]
    """
    return _mean_over_draws(lambda key: jax.grad(score)(x + sigma * jax.random.normal(key, x.shape, x.dtype)), key, x, samples, chunk)


def _batch_like(x: Image, images: Array, what: str) -> jax.Array:
    if not len(images) or images.shape[1:] != x.shape:
        raise ValueError(f"{what} must be a batch of images like x, [n, {', '.join(map(str, x.shape))}], got shape {tuple(images.shape)}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"{what} must be floats in [0, 1], got {images.dtype}: divide uint8 pixels by 255")
    return jnp.asarray(images)


def _mean_over_draws(one: Callable[[PRNGKey], Array], key: PRNGKey, x: Image, samples: int, chunk: int) -> Array:
    if samples < 1 or chunk < 1 or samples % chunk:
        raise ValueError(f"samples must be positive and chunk divide it, got samples {samples} and chunk {chunk}")
    keys = jax.random.split(key, (samples // chunk, chunk))
    total, _ = jax.lax.scan(lambda total, some: (total + jnp.sum(jax.vmap(one)(some), axis=0), None), jnp.zeros_like(x), keys)
    return total / samples
