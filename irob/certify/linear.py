"""Linear bounds (CROWN): below a linear function of the outputs, an affine function of the image, and its least value over a ball."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from irob.attacks import L1, L2, LInf
from irob.certify.intervals import Interval, box_around, intervals_before
from irob.certify.program import Node, Program, bound_operation, traced
from irob.types import Array, Image, Scalar


def linear_lower_bounds(function: Callable[[Image], Array], weights: Float[Array, "m n"], ball: Any, x: Image) -> Float[Array, " m"]:
    """Lower bounds of linear functions `<c_i, f(x')>` of the outputs, over all x' of a ball around x within [0, 1].

    From the outputs back to the image, each rectifier with input z in [l, u], l < 0 < u, becomes a line below or above it, as the sign of its
    coefficient asks for:

        a z <= max(z, 0) <= u (z - l) / (u - l),    a = 1 if u > -l, otherwise 0

    and of a maximum the entry that is largest at the lower ends, or the maximum of the upper ends. What is left is affine in x'. The bounds of
    the inputs are those of `interval_bounds` (CROWN-IBP).

    Args:
      function: `image -> [n]`.
      weights: c, `[m, n]`.
      ball: `LInf`, `L2` or `L1`.
      x: the image.

    Returns:
      `[m]`, up to rounding. Upper bounds are those of -c, negated.

    Raises:
      NotImplementedError: as `interval_bounds`.
      ValueError: for another ball.

    References:
      Zhang et al. 2018, https://arxiv.org/abs/1811.00866, theorem 3.2; Zhang et al. 2020, https://arxiv.org/abs/1906.06316 (CROWN-IBP).

    >>> f = lambda x: jax.nn.relu(jnp.stack([x.sum(), -x.sum()]))
    >>> linear_lower_bounds(f, jnp.array([[1.0, -1.0]]), LInf(0.25), jnp.full((1, 1, 1), 0.5)).tolist()
    [0.25]
    """
    program, box = traced(function, x), box_around(x, ball.eps)
    before = intervals_before(program, box)
    return jax.lax.map(lambda c: _lower_bound(program, before, c, ball, box, jnp.asarray(x)), jnp.asarray(weights))


def _lower_bound(program: Program, before: Sequence[Interval], weights: Array, ball: Any, box: Interval, x: Array) -> Scalar:
    def relaxed(shifts: Sequence[Array]) -> Scalar:
        step = lambda node, value: _relaxed(node, before[node.number], value) + shifts[node.number]  # noqa: E731
        return jnp.sum(weights * _walked(program, box.center(), step))

    coefficients = jax.grad(relaxed)([jnp.zeros_like(output) for output in _outputs_of_nodes(program, box.center())])

    def affine(z: Array) -> Scalar:
        line = lambda node, value: _line(node, before[node.number], coefficients[node.number], value)  # noqa: E731
        return jnp.sum(weights * _walked(program, z, line))

    value, slope = jax.value_and_grad(affine)(box.center())
    over_box = value - jnp.sum(jnp.abs(slope) * box.radius())
    if isinstance(ball, LInf):
        return over_box
    for row, dual in ((L2, jnp.linalg.norm(slope.reshape(-1))), (L1, jnp.max(jnp.abs(slope)))):
        if isinstance(ball, row):
            return jnp.maximum(over_box, value + jnp.sum(slope * (x - box.center())) - ball.eps * dual)
    raise ValueError(f"linear bounds are known for balls of l-inf, l2 and l1, not for {type(ball).__name__}")


def _walked(program: Program, x: Array, nonlinear: Callable[[Node, Array], Array]) -> Array:
    """The output of a program of one array, with nonlinear steps of one's own."""
    is_varying = lambda value: isinstance(value, _Varying)  # noqa: E731
    out = program.walk(_Varying(x), is_varying, _on_arrays, lambda node, value: _Varying(nonlinear(node, value.array)))
    return out.array if is_varying(out) else out


class _Varying:
    """An array that depends on the image."""

    def __init__(self, array: Array):
        self.array = array


def _on_arrays(operation: Any, operands: Sequence[Any]) -> Sequence[_Varying]:
    return [_Varying(out) for out in bound_operation(operation, [v.array if isinstance(v, _Varying) else v for v in operands])]


def _outputs_of_nodes(program: Program, x: Array) -> list[Array]:
    found: list[Array] = []

    def seen(node: Node, value: Array) -> Array:
        found.append(node.function(value))
        return found[-1]

    _walked(program, x, seen)
    return found


def _line(node: Node, before: Interval, coefficient: Array, z: Array) -> Array:
    """The affine function that takes the place of a node: below it where the coefficient of its output is positive, above it elsewhere."""
    return jnp.where(coefficient >= 0.0, _below(node, before, z), _above(node, before, z))


def _below(node: Node, before: Interval, z: Array) -> Array:
    if node.reduces:
        return jax.jvp(node.function, (before.lower,), (z,))[1]  # the entry that is largest at the lower ends
    low, high = node.function(before.lower), node.function(before.upper)
    return jnp.where(high - low > low - before.lower, high + (z - before.upper), low)


def _above(node: Node, before: Interval, z: Array) -> Array:
    low, high = node.function(before.lower), node.function(before.upper)
    if node.reduces:
        return high
    wide = before.upper > before.lower
    return low + jnp.where(wide, (high - low) / jnp.where(wide, before.upper - before.lower, 1.0), 0.0) * (z - before.lower)


def _relaxed(node: Node, before: Interval, z: Array) -> Array:
    """The node, with the derivative of that line: which one it is, the coefficient that arrives from the output decides."""

    @jax.custom_vjp
    def step(z: Array) -> Array:
        return node.function(z)

    def backward(z: Array, coefficient: Array) -> tuple[Array]:
        return jax.vjp(lambda z: _line(node, before, jax.lax.stop_gradient(coefficient), z), z)[1](coefficient)

    step.defvjp(lambda z: (node.function(z), z), backward)
    return step(z)
