"""How much a map moves when the image moves: at random points nearby, and at the worst that an attack finds. Lower is better.

A map that does not depend on the image has sensitivity 0, so read these beside a measure of faithfulness. No number means anything without its
radius and its number of draws. The largest of random draws and what an attack finds are both lower bounds of the largest change; the draws are not
clipped to [0, 1], the attack stays inside, so where pixels are black the two search different sets (the attack begins with draws of its own, from its
set, and never finds less than they do). A map that is NaN has the change NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from irob.attacks import PGD, Attack, AttackResult, Ball
from irob.attacks.attack import selected
from irob.types import Array, Image, PRNGKey, Scalar, checked_count

Attribute = Callable[[Image], Array]  # x -> its map, of one class, of any shape
ASCENT = PGD("eps/4")


class Sampled(NamedTuple):
    """largest, mean: over the draws."""

    largest: Scalar
    mean: Scalar


def relative_change(clean: Array, moved: Array) -> Scalar:
    """`||b - a||_2 / ||a||_2` of a map a and another b; the denominator is 1 where a = 0. Its gradient at b = a is 0.

    >>> round(float(relative_change(jnp.array([3.0, 4.0]), jnp.array([3.0, 5.0]))), 4)
    0.2
    """
    size = _length(clean)
    return _length(moved - clean) / jnp.where(size > 0.0, size, 1.0)


def sampled_sensitivity(attribute: Attribute, x: Image, key: PRNGKey, *, radius: Scalar = 0.02, draws: int = 10) -> Sampled:
    """The largest and the mean of

        || Phi(x + d) - Phi(x) ||_2 / || Phi(x) ||_2,    d uniform in the cube [-r, r]^n

    The moved images are not clipped to [0, 1].

    Args:
      attribute: Phi, `x -> map`.
      x: the image `[H, W, c]`.
      key: of the draws.
      radius: r, on pixels in [0, 1].
      draws: how many.

    Returns:
      Both, >= 0; lower = more stable.

    References:
      Yeh et al. 2019, https://arxiv.org/abs/1901.09392, definition 3.1 (radius and draws of captum; those of Quantus are 0.2 and 200).

    >>> found = sampled_sensitivity(lambda x: 2.0 * x, jnp.ones((1, 1, 1)), jax.random.key(0), radius=0.1, draws=100)
    >>> 0.09 < float(found.largest) <= 0.1 and 0.04 < float(found.mean) < 0.06
    True
    """
    clean = attribute(x)

    def one(key: PRNGKey) -> Scalar:
        return relative_change(clean, attribute(x + radius * jax.random.uniform(key, x.shape, x.dtype, -1.0, 1.0)))

    changes = jax.lax.map(one, jax.random.split(key, draws))
    return Sampled(jnp.max(changes), jnp.mean(changes))


def adversarial_sensitivity(
    attribute: Attribute,
    ball: Ball,
    x: Image,
    key: PRNGKey,
    *,
    num_steps: int = 40,
    draws: int = 10,
    surrogates: Sequence[Attribute] = (),
    attack: Attack = ASCENT,
    allowed: Callable[[Image], Any] = lambda x: True,
) -> AttackResult:
    """The largest relative change of the map in a ball that an attack finds:

        max_{x' in B} || Phi(x') - Phi(x) ||_2 / || Phi(x) ||_2

    Each ascent starts from the best of random points that are allowed, the ball's ascent by eps of a Gaussian gradient (in l-inf
    corners of the cube), or from a random point of the ball if none is.

    Args:
      attribute: Phi, `x -> map`.
      ball: B, such as `LInf(0.02)`.
      x: the image.
      key: of the random points.
      num_steps: of each ascent.
      draws: random points of each ascent.
      surrogates: maps that are ascended instead, one after the other, such as those of softplus networks: gradients of a rectified network are
        constant in pieces. None: the map itself.
      attack: a row of `ATTACKS`; one that begins at its start and keeps its best point, as `PGD` does.
      allowed: `x' -> bool`, such as "the prediction is kept"; other points do not count.

    Returns:
      The point and, as its score, the change there; larger = less stable. -inf if no point is allowed, and of maps that are NaN.

    Raises:
      ValueError: unless draws is a whole number, at least 1.

    References:
      Ghorbani et al. 2019, https://arxiv.org/abs/1710.10547: the attack; Yeh et al. 2019, https://arxiv.org/abs/1901.09392: the quantity.
    """
    checked_count("draws", draws)
    clean = attribute(x)

    def ascent(ascended: Attribute, key: PRNGKey) -> AttackResult:
        clean_ascended = ascended(x)

        def objective(z: Image) -> tuple[Scalar, Scalar]:
            moved = ascended(z)
            change = relative_change(clean, moved if ascended is attribute else attribute(z))
            return relative_change(clean_ascended, moved), jnp.where(allowed(z), change, -jnp.inf)

        def drawn(key: PRNGKey) -> Image:
            return ball.project(ball.ascend(jnp.asarray(x), jax.random.normal(key, x.shape, x.dtype), ball.eps), x)

        draw_key, start_key, attack_key = jax.random.split(key, 3)
        keys = jax.random.split(draw_key, draws)
        scores = jax.lax.map(lambda key: objective(drawn(key))[1], keys)
        scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
        start = jnp.where(jnp.max(scores) > -jnp.inf, drawn(keys[jnp.argmax(scores)]), ball.random_point(start_key, x))
        return attack(objective, ball, x, key=attack_key, num_steps=num_steps, start=start)

    followed = surrogates or (attribute,)
    found, *others = (ascent(each, key) for each, key in zip(followed, jax.random.split(key, len(followed)), strict=True))
    for other in others:
        counts = found.gradients.plus(other.gradients)
        found = selected(other.score > found.score, other, found)._replace(gradients=counts)
    return found


def local_lipschitz(attribute: Attribute, x: Image, key: PRNGKey, *, sigma: Scalar = 0.1, draws: int = 200) -> Scalar:
    """The largest of `|| p(x') - p(x) ||_2 / || x' - x ||_2` over draws `x' = x + sigma N(0, 1)`, with p the map over its largest absolute value.

    Args:
      attribute, x, key, draws: as in `sampled_sensitivity`.
      sigma: standard deviation of the noise.

    Returns:
      A scalar >= 0, per unit of distance between images; lower = more stable.

    References:
      Alvarez-Melis & Jaakkola 2018, https://arxiv.org/abs/1806.08049 (draws and noise of Quantus).
    """

    def scaled(z: Image) -> Array:
        found = attribute(z)
        largest = jnp.max(jnp.abs(found))
        return found / jnp.where(largest > 0.0, largest, 1.0)

    clean = scaled(x)

    def one(key: PRNGKey) -> Scalar:
        move = sigma * jax.random.normal(key, x.shape, x.dtype)
        return _length(scaled(x + move) - clean) / (_length(move) + 1e-10)

    return jnp.max(jax.lax.map(one, jax.random.split(key, draws)))


class Stability(NamedTuple):
    """of_input, of_output: the change of the map over that of the image, and over that of the logits."""

    of_input: Scalar
    of_output: Scalar


def relative_stability(
    attribute: Attribute,
    logits: Callable[[Image], Array],
    x: Image,
    key: PRNGKey,
    *,
    radius: Scalar = 0.02,
    draws: int = 50,
    allowed: Callable[[Image], Any] = lambda x: True,
) -> Stability:
    """The largest ratio, over draws x' as in `sampled_sensitivity`, of the relative change of the map, entry by entry, to that of the image
    (RIS), and to the change of the logits (ROS):

        || (Phi(x) - Phi(x')) / Phi(x) ||_2 / max(|| (x - x') / x ||_2, 1e-6),    ... / max(|| f(x) - f(x') ||_2, 1e-6)

    Entries that are 0 count as 1e-6 in the denominators, so black pixels dominate the first.

    Args:
      attribute, x, key, radius, draws: as in `sampled_sensitivity`.
      logits: f.
      allowed: `x' -> bool`, which draws count, such as those that keep the prediction.

    Returns:
      Both, >= 0; lower = more stable. NaN if no draw counts.

    References:
      Agarwal et al. 2022, https://arxiv.org/abs/2203.06877.
    """
    clean, clean_logits = attribute(x), logits(x)

    def one(key: PRNGKey) -> Array:
        moved = x + radius * jax.random.uniform(key, x.shape, x.dtype, -1.0, 1.0)
        change = _length((clean - attribute(moved)) / _off_zero(clean))
        distances = jnp.stack([_length((x - moved) / _off_zero(x)), _length(logits(moved) - clean_logits)])
        return jnp.where(allowed(moved), change / jnp.maximum(distances, 1e-6), -jnp.inf)

    largest = jnp.max(jax.lax.map(one, jax.random.split(key, draws)), axis=0)
    return Stability(*jnp.where(largest > -jnp.inf, largest, jnp.nan))


def _off_zero(values: Array) -> Array:
    return jnp.where(values == 0.0, 1e-6, values)


def _length(values: Array) -> Scalar:
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(values)))
    scale = jnp.where((largest > 0.0) & jnp.isfinite(largest), largest, 1.0)  # the squares of small numbers would underflow
    squared = jnp.sum((values / scale) ** 2)
    return scale * jnp.where(squared == 0.0, 0.0, jnp.sqrt(jnp.where(squared == 0.0, 1.0, squared)))
