"""Defenses of attributions: of saliency maps and integrated gradients.

Gradients of a rectified network are constant in pieces, so an attack sees attributions move only as far as they are multiplied with the image, and
not at all where they are not (`art`). The authors of ART take the gradients of a softplus network; give a network with smooth activations for that.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from irob.defenses.paths import from_path_terms, path_attributions
from irob.defenses.terms import Defense, scaled, total
from irob.losses import cross_entropy, is_class, pick
from irob.similarities import cosine, pearson
from irob.types import Array, Explain, Image, Label, PRNGKey, Scalar


def _loss_at(which: int) -> Callable[..., Scalar]:
    """CE(x) or CE(x'), as a term of the explainer and the two images."""
    return lambda explain, x, x_adv, label: cross_entropy(explain((x, x_adv)[which]).logits, label)


# --- FAR ------------------------------------------------------------------------------------------------------------------------------------


def attribution_distance(points: int) -> Callable[..., Scalar]:
    """`1 - r`, r the Pearson correlation of the integrated gradients of f_t at x and at x', from a black image, with so many points; 0 where one of
    them is constant.
    """

    def term(explain: Explain, x: Image, x_adv: Image, label: Label) -> Scalar:
        score = lambda z: pick(explain(z).logits, label)  # noqa: E731
        both = [path_attributions(score, jnp.zeros_like(x), z, points) for z in (x, x_adv)]
        constant = jnp.any(jnp.array([jnp.max(a) == jnp.min(a) for a in both]))
        ramp = jnp.arange(x.size, dtype=x.dtype).reshape(x.shape)  # its correlation with itself has finite gradients
        return jnp.where(constant, 0.0, 1.0 - pearson(*(jnp.where(constant, ramp, a) for a in both)))

    return term


def far(weight: float = 1.0, points: int = 5) -> Defense:
    """FAR's adversarial attributional training, AAT (Ivankay et al. 2020, https://arxiv.org/abs/2010.07393): a stable attribution, and the
    clean loss. They leave distance and weight open; here `1 - r`, with 5 points of the path.
    """
    change = scaled(weight, attribution_distance(points))
    return from_path_terms(change, total(_loss_at(0), change))


def far_adv(weight: float = 1.0, points: int = 5) -> Defense:
    """FAR's AdvAAT (Ivankay et al. 2020, https://arxiv.org/abs/2010.07393): the same with the adversarial loss in both places."""
    both = total(_loss_at(1), scaled(weight, attribution_distance(points)))
    return from_path_terms(both, both)


# --- ART ------------------------------------------------------------------------------------------------------------------------------------


def misalignment(explain: Explain, x_adv: Image, label: Label) -> Scalar:
    """`log(1 + exp(cos(g_j, x') - cos(g_t, x')))`, g the gradients of the logits of the label t and of the largest other j: small where the
    image lies along the gradient of its class.
    """
    logits, back = jax.vjp(lambda z: explain(z).logits, x_adv)
    true = is_class(label, len(logits))
    other = jnp.argmax(jnp.where(true, -jnp.inf, logits))

    def along(chosen: Array) -> Scalar:
        (gradient,) = back(chosen.astype(logits.dtype))
        return _cosine(gradient, x_adv)

    return jax.nn.softplus(along(is_class(other, len(logits))) - along(true))


def _cosine(a: Array, b: Array) -> Scalar:
    """The cosine, 0 where one is 0, so that its gradient is finite."""
    zero = (jnp.max(jnp.abs(a)) == 0.0) | (jnp.max(jnp.abs(b)) == 0.0)
    safe = (jnp.where(zero, 1.0, v) for v in (a, b))
    return jnp.where(zero, 0.0, cosine(*safe))


def art(weight: float = 0.5) -> Defense:
    """ART: attributional robustness by spatial alignment (Singh et al. 2020, https://arxiv.org/abs/1911.13073): the attack
    ascends the misalignment, training descends it and the loss, both at x'.
    """
    term = lambda explain, x, x_adv, label: misalignment(explain, x_adv, label)  # noqa: E731
    return from_path_terms(term, total(_loss_at(1), scaled(weight, term)), gradients=2)


# --- curvature ------------------------------------------------------------------------------------------------------------------------------


def cure(weight: float = 4.0, step: float = 1.5) -> Defense:
    """CURE: small curvature of the loss along its gradient's signs (Moosavi-Dezfooli et al. 2019, https://arxiv.org/abs/1811.09716; their
    weight and step on CIFAR-10):

        CE(x) + weight || d CE(x + step z) / dx - d CE(x) / dx ||_2^2,    z = sign(d CE(x) / dx) over its l2 length
    """

    def outer(explain: Explain, x: Image, x_adv: Image, label: Label) -> Scalar:
        loss_and_gradient = jax.value_and_grad(lambda z: cross_entropy(explain(z).logits, label))
        loss, gradient = loss_and_gradient(x)
        signs = jnp.sign(jax.lax.stop_gradient(gradient))
        length = jnp.sqrt(jnp.sum(signs**2))
        _, further = loss_and_gradient(x + step * signs / jnp.where(length > 0.0, length, 1.0))
        return loss + weight * jnp.sum((further - gradient) ** 2)

    return Defense(None, outer, gradients=2)


def hessian_norm(weight: float = 0.01, draws: int = 1) -> Defense:
    """A small derivative of the map of the true class: of the saliency of the softplus network (`config.map = "saliency"`), whose derivative is the
    Hessian H of its logit, `||H||_F^2` (Dombrowski et al. 2022, https://arxiv.org/abs/2012.10425), estimated at random:

        CE(x) + weight E_v || d M_t(x + s v) / ds at s = 0 ||_2^2,    v ~ N(0, 1), drawn by the pixels: augmented images have others each time

    Of class activation maps, the default, it is their derivative, no Hessian.
    """

    def outer(explain: Explain, x: Image, x_adv: Image, label: Label) -> Scalar:
        bits = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(x).astype(jnp.float32), jnp.uint32)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), jnp.sum(bits, dtype=jnp.uint32)), draws)
        of_label = lambda z: pick(explain(z).maps, label)  # noqa: E731

        def moved(key: PRNGKey) -> Scalar:
            change: Array = jax.jvp(of_label, (x,), (jax.random.normal(key, x.shape, x.dtype),))[1]
            return jnp.sum(change**2)

        return cross_entropy(explain(x).logits, label) + weight * jnp.mean(jax.vmap(moved)(keys))

    return Defense(None, outer, compares_maps=True, gradients=2 * draws)


def largest_curvature(explain: Explain, x: Image, label: Label) -> tuple[Scalar, Scalar]:
    """The loss at x, and the largest eigenvalue of its Hessian `J^T (diag p - p p^T) J`, J = d f / dx, p the probabilities.

    It is the Hessian where the logits are linear near x, as in rectified networks, and does not depend on the label; elsewhere the part of it without
    their second derivatives. With `diag p - p p^T = S S^T`, `S = diag sqrt(p) - p sqrt(p)^T`, it has the eigenvalues of the small `S^T J J^T S`. If v
    is the eigenvector there, the eigenvalue is `||J^T S v||^2`, whose derivative is that at constant v.

    References:
      Wang et al. 2020, https://arxiv.org/abs/2006.06643; the form of the Hessian: Singla et al. 2019, https://arxiv.org/abs/1902.00407.
    """
    logits, back = jax.vjp(lambda z: explain(z).logits, x)
    half = jnp.exp(0.5 * jax.nn.log_softmax(logits))  # sqrt(p), with finite gradients where p underflows
    root = jnp.diag(half) - jnp.outer(half**2, half)
    slopes = jax.lax.stop_gradient(jax.vmap(lambda row: back(row)[0].reshape(-1))(root.T))
    _, vectors = jnp.linalg.eigh(jnp.matmul(slopes, slopes.T, precision=jax.lax.Precision.HIGHEST))
    (along,) = back(root @ vectors[:, -1])
    return cross_entropy(logits, label), jnp.sum(along**2)


def ssr(weight: float = 1.0) -> Defense:
    """SSR, smooth surface regularization (Wang et al. 2020, https://arxiv.org/abs/2006.06643): a small largest curvature of the loss at x, which
    bounds, to second order, how far its gradient moves for each l2 distance. The weight is open (in their code 0.3 10^6 over 0.7, of gradients
    averaged over the channels).

        CE(x) + weight lambda_max,    as of `largest_curvature`
    """

    def outer(explain: Explain, x: Image, x_adv: Image, label: Label) -> Scalar:
        loss, curvature = largest_curvature(explain, x, label)
        return loss + weight * curvature

    return Defense(None, outer, gradients=2)
