"""What attacks ascend: objectives made of logits, and objectives made of other objectives.

A scored objective is `x_adv -> (value, score)`: the value is ascended, the score is positive where the attack succeeds. The rows of `OBJECTIVES`
make one of a function `x -> logits`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from irob.attacks.attack import ScoredObjective
from irob.attacks.balls import L1, L2, LInf
from irob.losses import LOSSES, dlr_to, is_class, margin_loss, pick
from irob.types import Array, Image, Label, Logits, Point, PRNGKey, Scalar

LogitsFn = Callable[[Image], Logits]


def untargeted(loss: Callable[[Logits, Label], Scalar], logits: LogitsFn, label: Label) -> ScoredObjective:
    """`(loss, margin)` of the label: away from it, to any class."""

    def objective(x_adv: Image) -> tuple[Scalar, Scalar]:
        f = logits(x_adv)
        return loss(f, label), margin_loss(f, label)

    return objective


def targeted(loss: Callable[[Logits, Label], Scalar], logits: LogitsFn, target: Label) -> ScoredObjective:
    """`(-loss, -margin)` of the target: it succeeds where the target is predicted."""

    def objective(x_adv: Image) -> tuple[Scalar, Scalar]:
        f = logits(x_adv)
        return -loss(f, target), -margin_loss(f, target)

    return objective


def towards(loss: Callable[[Logits, Label, Label], Scalar], logits: LogitsFn, label: Label, other: Label) -> ScoredObjective:
    """`(loss of label and other, margin of the label)`: towards another class, but any class is a success."""

    def objective(x_adv: Image) -> tuple[Scalar, Scalar]:
        f = logits(x_adv)
        return loss(f, label, other), margin_loss(f, label)

    return objective


def difference(logits: Logits, label: Label, other: Label) -> Scalar:
    """`f_other - f_label`: positive where the other class is ahead."""
    return pick(logits, other) - pick(logits, label)


def nearest_boundary(ball: Any, logits: LogitsFn, label: Label) -> ScoredObjective:
    """The lead of the class whose linearized boundary is nearest, `f_k - f_t` with

        k = argmin_{i != t} |f_i - f_t| / || grad (f_i - f_t) ||_q,    1 / p + 1 / q = 1

    The gradients of all C logits: C backward passes. (For `FAB` and `DeepFool` without a target.)
    """
    dual = next((q for row, q in ((LInf, 1), (L2, 2), (L1, jnp.inf)) if isinstance(ball, row)), None)
    if dual is None:
        raise ValueError(f"the nearest boundary is defined in l-inf, l2 and l1, not in {type(ball).__name__}")

    def objective(x_adv: Image) -> tuple[Scalar, Scalar]:
        f = logits(x_adv)
        fixed, rows = jax.lax.stop_gradient((f, jax.jacrev(logits)(jax.lax.stop_gradient(x_adv))))
        true = is_class(label, len(f))
        leads = fixed - pick(fixed, label)
        slopes = rows.reshape(len(f), -1) - jnp.sum(jnp.where(true[:, None], rows.reshape(len(f), -1), 0.0), axis=0)
        lengths = jnp.linalg.norm(slopes, ord=dual, axis=1)
        nearest = jnp.argmin(jnp.where(true, jnp.inf, jnp.abs(leads) / jnp.maximum(lengths, jnp.finfo(f.dtype).tiny)))
        return difference(f, label, nearest), margin_loss(f, label)

    return objective


class LogitObjective(NamedTuple):
    """A row of `OBJECTIVES`.

    make: `(ball, logits, label, other) -> scored objective`. targeted: whether it leads to the other class.
    least, instead: the fewest classes that it is defined for, and the row that takes its place with fewer.
    """

    make: Callable[[Any, LogitsFn, Label, Label], ScoredObjective]
    targeted: bool = False
    least: int = 2
    instead: str = ""


def _of_loss(name: str) -> Callable[[Any, LogitsFn, Label, Label], ScoredObjective]:
    return lambda ball, logits, label, other: untargeted(LOSSES[name], logits, label)


OBJECTIVES: dict[str, LogitObjective] = {
    **{name: LogitObjective(_of_loss(name)) for name in LOSSES if name != "dlr"},
    "dlr": LogitObjective(_of_loss("dlr"), least=3, instead="margin"),
    "dlr_to": LogitObjective(lambda ball, *given: towards(dlr_to, *given), targeted=True, least=4, instead="difference"),
    "difference": LogitObjective(lambda ball, *given: towards(difference, *given), targeted=True),
    "nearest_boundary": LogitObjective(lambda ball, logits, label, other: nearest_boundary(ball, logits, label)),
}


# --- objectives of objectives ---------------------------------------------------------------------------------------------------------------


def expectation(objective: Callable[[PRNGKey, Point], tuple[Scalar, Scalar]], key: PRNGKey, samples: int) -> ScoredObjective:
    """Expectation over transformation: the mean of a random objective over draws.

        value(x') = 1/n sum_i value(k_i, x'),    score likewise

    Args:
      objective: `(key, x_adv) -> (value, score)`, such as of a network behind a random transformation.
      key, samples: n keys are split off, others at each point x', so that an attack cannot fit some few draws.

    References:
      Athalye et al. 2018, https://arxiv.org/abs/1707.07397, sec. 2.1.
    """

    def mean(x_adv: Point) -> tuple[Scalar, Scalar]:
        here = jax.lax.stop_gradient(jnp.ravel(x_adv)).astype(jnp.float32)
        of_point = jax.random.fold_in(key, jnp.sum(jax.lax.bitcast_convert_type(here, jnp.uint32), dtype=jnp.uint32))
        values, scores = jax.vmap(lambda k: objective(k, x_adv))(jax.random.split(of_point, samples))
        return jnp.mean(values), jnp.mean(scores)

    return mean


def straight_through(function: Callable[[Array], Array], substitute: Callable[[Array], Array] = lambda x: x) -> Callable[[Array], Array]:
    """A function with the derivative of another one: BPDA, for steps of a network that have no useful gradient.

    Args:
      function: what is computed, such as a quantization; it need not be differentiable.
      substitute: what is differentiated instead; the identity is the straight-through estimator.

    References:
      Athalye et al. 2018, https://arxiv.org/abs/1802.00420, sec. 4.1.

    >>> jax.grad(lambda x: straight_through(jnp.round)(x) ** 2)(0.75).item()
    2.0
    """

    @jax.custom_jvp
    def replaced(x: Array) -> Array:
        return function(x)

    @replaced.defjvp
    def _derivative(primals: Any, tangents: Any) -> tuple[Array, Array]:
        return function(*primals), jax.jvp(substitute, primals, tangents)[1]

    return replaced


def transferred(surrogate: ScoredObjective, objective: ScoredObjective) -> ScoredObjective:
    """Ascends another model's value and is scored by this one: a transfer attack that keeps the best of what it tries.

    References:
      Papernot et al. 2016, https://arxiv.org/abs/1605.07277.
    """
    return lambda x_adv: (surrogate(x_adv)[0], jax.lax.stop_gradient(objective(x_adv)[1]))
