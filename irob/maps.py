"""Interpretation maps. A map of class c is `[h, w]`, signed; maps of all classes are stacked last: `[h, w, C]`.

Maps that are linear in the last feature map A, `M = A V`, differ only in the matrix V that reads them off; `READOUTS` has it for each by name:

    cam                    V = W, the head                maps [h, w, C]
    grad_cam_plus_plus     V = max(W, 0)                  maps [h, w, C], h w times Grad-CAM++
    representation         V = 1                          maps [h, w, K], A itself

Grad-CAM of such a network is its class activation map over h w, that is the `complete` one.

Maps on the pixels of the image are gradients of a score, any function `x -> scalar`, for instance `lambda x: explain(x).logits[c]`:

    saliency              d score / d x
    gradient_x_input      x * d score / d x
    integrated_gradients  (x - x0) * mean of the gradient over the path from the baseline x0 to x
    expected_gradients    the same over random baselines and random points of the path
    smooth_grad           mean of the gradient over noisy copies of x

They are signed `[H, W, c]`; what a picture shows of them is `heatmap`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from irob.arrays import Array, Features, Image, Logits, Maps, PRNGKey, Scalar

Head = Float[Array, "K C"]
Readout = Callable[[Head], Float[Array, "K maps"]]


def cam(features: Features, head: Head) -> Maps:
    """Class activation maps `M_c(u) = sum_k W_kc A_k(u)`, signed, neither rectified nor upsampled.

    For a network that ends in the spatial mean and this linear head, the mean of `M_c` over positions is the logit of class c.
    Zhou et al. 2016, https://arxiv.org/abs/1512.04150, eq. 2.

    >>> import jax.numpy as jnp
    >>> cam(jnp.array([[[1.0, 2.0]]]), jnp.array([[1.0, 0.0], [0.0, -1.0]])).tolist()
    [[[1.0, -2.0]]]
    """
    return features @ head


def grad_cam(features: Features, score: Callable[[Features], Logits]) -> Maps:
    """Grad-CAM before its final rectification (signed, neither upsampled nor normalised):

        M_c(u) = sum_k alpha_kc A_k(u),    alpha_kc = mean over u of  d f_c / d A_k(u)

    Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391, eq. 1 and 2. For the spatial mean and a linear head it is `complete(cam(...))`.

    Args:
      features: A, `[h, w, K]`.
      score: the rest of the network, A -> logits `[C]`.
    """
    return cam(features, jnp.mean(_gradients(features, score), axis=(1, 2)).T)


def grad_cam_plus_plus(features: Features, score: Callable[[Features], Logits]) -> Maps:
    """Grad-CAM++ before its final rectification:

        M_c(u) = sum_k w_kc A_k(u),    w_kc = sum_u a_kc(u) max(g, 0),    g = d f_c / d A_k(u)
        a_kc(u) proportional to g^2 / (2 g^2 + g^3 sum_v A_k(v)), its sum over the positions where g > 0 being 1

    Chattopadhay et al. 2018, https://arxiv.org/abs/1710.11063, eq. 5 and 19 (with `exp f_c` as the score; the factor `exp f_c`, common to all k,
    is dropped), normalised as in its authors' code. For the spatial mean and a linear head W it is `cam(A, max(W, 0)) / (h w)`.

    Args:
      features, score: as in `grad_cam`.
    """
    g = _gradients(features, score)
    positive = g > 0.0
    curvature = 2.0 + g * jnp.sum(features, axis=(0, 1))  # the fraction, shortened by g^2
    a = jnp.where(positive & (curvature != 0.0), 1.0 / jnp.where(curvature == 0.0, 1.0, curvature), 0.0)
    whole = jnp.sum(a, axis=(1, 2), keepdims=True)
    a = a / jnp.where(whole == 0.0, 1.0, whole)
    return cam(features, jnp.sum(a * jnp.maximum(g, 0.0), axis=(1, 2)).T)


def layer_cam(features: Features, score: Callable[[Features], Logits]) -> Maps:
    """LayerCAM before its final rectification: `M_c(u) = sum_k max(d f_c / d A_k(u), 0) A_k(u)`.

    Jiang et al. 2021, https://doi.org/10.1109/TIP.2021.3089943, eq. 5 and 6. For the spatial mean and a linear head W it is Grad-CAM++,
    `cam(A, max(W, 0)) / (h w)`.

    Args:
      features, score: as in `grad_cam`.
    """
    return jnp.einsum("chwk,hwk->hwc", jnp.maximum(_gradients(features, score), 0.0), features)


def _gradients(features: Features, score: Callable[[Features], Logits]) -> Float[Array, "C h w K"]:
    return jax.jacrev(score)(features)


READOUTS: dict[str, Readout] = {
    "cam": lambda head: head,
    "grad_cam_plus_plus": lambda head: jnp.maximum(head, 0.0),
    "representation": lambda head: jnp.eye(head.shape[0], dtype=head.dtype),
}


def complete(maps: Maps) -> Maps:
    """The maps on the complete scale, `M / (h w)`: each sums to its class's logit (the completeness axiom).

    Proposition 1 (Boopathy et al. 2020, https://arxiv.org/abs/2006.14748) holds on this scale.

    Args:
      maps: class activation maps `[h, w, C]`, whose means are the logits.
    """
    return maps / jnp.float32(maps.shape[0] * maps.shape[1])


# --- maps on the pixels: gradients of a score ---------------------------------------------------------------------------------------------------

Score = Callable[[Image], Scalar]
Attribution = Float[Array, "H W c"]


def saliency(score: Score, x: Image) -> Attribution:
    """`d score / d x`, signed (Simonyan et al. 2014, https://arxiv.org/abs/1312.6034, sec. 3, who show its size).

    >>> saliency(lambda z: jnp.sum(z**2), jnp.full((1, 2, 1), 0.5)).ravel().tolist()
    [1.0, 1.0]
    """
    return jax.grad(score)(x)


def gradient_x_input(score: Score, x: Image) -> Attribution:
    """`x * d score / d x` (Shrikumar et al. 2016, https://arxiv.org/abs/1605.01713). Complete for scores that are linear without a constant."""
    return x * jax.grad(score)(x)


class Integrated(NamedTuple):
    """attributions: `[H, W, c]`, signed. gap: `score(x) - mean of score(x0) - sum of attributions`, which completeness says is 0."""

    attributions: Attribution
    gap: Scalar


def gauss_legendre(points: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of the Gauss-Legendre rule on [0, 1], exact for polynomials of degree 2 points - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    return (nodes + 1.0) / 2.0, weights / 2.0


def right_riemann(points: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes k / n, k = 1..n, of weight 1 / n: the rule of the interpretability paper's authors (n = 100)."""
    return np.arange(1, points + 1) / points, np.full(points, 1.0 / points)


RULES: dict[str, Callable[[int], tuple[np.ndarray, np.ndarray]]] = {"gauss_legendre": gauss_legendre, "right_riemann": right_riemann}


def integrated_gradients(
    score: Score,
    x: Image,
    baselines: Float[Array, "n H W c"] | None = None,
    *,
    points: int = 50,
    rule: str = "gauss_legendre",
    chunk: int = 1,
) -> Integrated:
    """Integrated gradients, averaged over baselines:

        (x - x0) * integral over a in [0, 1] of  d score / d z  at  z = x0 + a (x - x0)

    Sundararajan et al. 2017, https://arxiv.org/abs/1703.01365, eq. 1. They satisfy completeness as far as the rule integrates: rectified
    networks have kinks on the way, which no rule is exact at. `gap` says what is missing; more points shrink it.

    Args:
      score: `x -> scalar`.
      x: the image.
      baselines: x0, `[n, H, W, c]`; None is the black image.
      points: of the rule, for each baseline.
      rule: a key of `RULES`.
      chunk: points that are computed at a time; memory does not grow with the others.

    Raises:
      ValueError: for an unknown rule, no point, a chunk that does not divide `points`, or baselines that are no batch of such images.

    >>> found = integrated_gradients(lambda z: jnp.sum(z**3), jnp.full((1, 2, 1), 0.5), points=2)
    >>> [round(float(v), 4) for v in found.attributions.ravel()], abs(float(found.gap)) < 1e-6
    ([0.125, 0.125], True)
    """
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}: choose one of {sorted(RULES)}")
    if points < 1 or chunk < 1 or points % chunk:
        raise ValueError(f"points must be positive and chunk divide it, got points {points} and chunk {chunk}")
    baselines = _batch_like(x, jnp.zeros((1, *x.shape), x.dtype) if baselines is None else baselines, "baselines")
    nodes, weights = (values.astype(np.float32).reshape(-1, chunk) for values in RULES[rule](points))

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
    """Integrated gradients in expectation: `(x - x0) * d score / d z` at `z = x0 + a (x - x0)`, mean over random references x0 and a in [0, 1].

    Erion et al. 2021, https://arxiv.org/abs/1906.10670. Complete in expectation: they sum to score(x) - mean of score(x0).

    Args:
      score, x: as in `integrated_gradients`.
      key: of the draws.
      references: `[n, H, W, c]`, e.g. training images.
      samples, chunk: draws, and how many of them are computed at a time.

    Raises:
      ValueError: if there is no sample, the chunk does not divide them, or the references are no batch of such images.
    """
    references = _batch_like(x, references, "references")

    def one(key: PRNGKey) -> Array:
        which, where = jax.random.split(key)
        baseline = references[jax.random.randint(which, (), 0, len(references))]
        return (x - baseline) * jax.grad(score)(baseline + jax.random.uniform(where, dtype=x.dtype) * (x - baseline))

    return _mean_over_draws(one, key, x, samples, chunk)


def smooth_grad(score: Score, x: Image, key: PRNGKey, *, sigma: float = 0.15, samples: int = 50, chunk: int = 1) -> Attribution:
    """The gradient's mean over Gaussian noise: `E d score / d x at x + sigma N(0, 1)`.

    Smilkov et al. 2017, https://arxiv.org/abs/1706.03825, sec. 3 (10 to 20% noise, 50 samples). The noise may leave [0, 1].

    Args:
      sigma: standard deviation on pixels in [0, 1].
      score, x, key, samples, chunk: as in `expected_gradients`, which says what is raised.
    """
    return _mean_over_draws(lambda key: jax.grad(score)(x + sigma * jax.random.normal(key, x.shape, x.dtype)), key, x, samples, chunk)


def _batch_like(x: Image, images: Array, what: str) -> jax.Array:
    if not len(images) or images.shape[1:] != x.shape:
        raise ValueError(f"{what} must be a batch of images like x, [n, {', '.join(map(str, x.shape))}], got shape {tuple(images.shape)}")
    return jnp.asarray(images)


def _mean_over_draws(one: Callable[[PRNGKey], Array], key: PRNGKey, x: Image, samples: int, chunk: int) -> Array:
    if samples < 1 or chunk < 1 or samples % chunk:
        raise ValueError(f"samples must be positive and chunk divide it, got samples {samples} and chunk {chunk}")
    keys = jax.random.split(key, (samples // chunk, chunk))
    total, _ = jax.lax.scan(lambda total, some: (total + jnp.sum(jax.vmap(one)(some), axis=0), None), jnp.zeros_like(x), keys)
    return total / samples


def heatmap(attributions: Float[Array, "h w c"], size: tuple[int, int] | None = None) -> Float[Array, "H W"]:
    """For display: summed over colours, resized bilinearly to `size`, divided by the largest absolute value, so in [-1, 1]; 0 stays 0."""
    flat = jnp.sum(attributions, axis=-1)
    resized = flat if size is None else jax.image.resize(flat, size, "bilinear")
    largest = jnp.max(jnp.abs(resized))
    return resized / jnp.where(largest > 0.0, largest, 1.0)
