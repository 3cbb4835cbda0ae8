"""Interval bounds: what every entry of a network's outputs can be, for all images of a box."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from irob.attacks.balls import checked_center, checked_radius
from irob.certify.program import PRODUCTS, Node, Program, bound_operation, traced
from irob.types import Array, Point, Scalar


class Interval(NamedTuple):
    """lower, upper: of every entry, arrays of one shape."""

    lower: Array
    upper: Array

    def center(self) -> Array:
        """`(lower + upper) / 2`."""
        return 0.5 * (self.lower + self.upper)

    def radius(self) -> Array:
        """`(upper - lower) / 2`."""
        return 0.5 * (self.upper - self.lower)


def box_around(x: Point, eps: Scalar) -> Interval:
    """`[max(x - eps, 0), min(x + eps, 1)]`, the smallest box of pixels in [0, 1] with every perturbation of length eps, in l-inf, l2 and l1.

    Raises:
      ValueError: for a radius that is negative, and pixels that are not in [0, 1].

    >>> box_around(jnp.array([[[0.1]]]), 0.25).lower.tolist()
    [[[0.0]]]
    """
    x, eps = jnp.asarray(checked_center(x)), checked_radius(eps)
    return Interval(jnp.clip(x - eps, 0.0, 1.0), jnp.clip(x + eps, 0.0, 1.0))


def interval_bounds(function: Callable[[Any], Any], box: Interval) -> Any:
    """Interval bound propagation: for every entry of the outputs an interval that no image of the box leaves.

        affine step    center A c + b, radius |A| r          monotone step    [f(l), f(u)]

    They hold up to the rounding of the arithmetic.

    Args:
      function: `image -> tree of arrays`, such as `x -> Explanation`: then there are bounds of the maps and of the logits.
      box: of images.

    Returns:
      The same tree, with an `Interval` for each array.

    Raises:
      NotImplementedError: if the network has operations that no bound is known of; they are named.

    References:
      Gowal et al. 2019, https://arxiv.org/abs/1810.12715, sec. 3.

    >>> box = Interval(jnp.array([0.0, 0.0]), jnp.array([1.0, 2.0]))
    >>> found = interval_bounds(lambda x: jax.nn.relu(jnp.array([[1.0, -1.0]]) @ x), box)
    >>> found.lower.tolist(), found.upper.tolist()
    ([0.0], [1.0])
    """
    return _propagated(traced(function, box.lower), box, lambda node, value: None)


def intervals_before(program: Program, box: Interval) -> list[Interval]:
    """The bounds of the input of each nonlinear step."""
    found: list[Interval] = []
    _propagated(program, box, lambda node, value: found.append(value))
    return found


def _propagated(program: Program, box: Interval, seen: Callable[[Node, Interval], None]) -> Any:
    def nonlinear(node: Node, value: Interval) -> Interval:
        seen(node, value)
        return Interval(node.function(value.lower), node.function(value.upper))

    outputs = program.walk(box, lambda value: isinstance(value, Interval), _affine, nonlinear)
    return jax.tree.map(lambda value: value if isinstance(value, Interval) else Interval(value, value), outputs, is_leaf=_is_interval)


def _is_interval(value: Any) -> bool:
    return isinstance(value, Interval)


def _affine(operation: Any, operands: Sequence[Any]) -> Sequence[Interval]:
    name = operation.primitive.name
    centers = [value.center() if _is_interval(value) else value for value in operands]
    if name in PRODUCTS:  # the radius is multiplied by the size of the factors
        radii = [value.radius() if _is_interval(value) else jnp.abs(value) for value in operands]
        (radius,) = bound_operation(operation, radii)
    elif name == "sub":  # radii add up
        radius = sum((value.radius() for value in operands if _is_interval(value)), jnp.zeros(operation.outvars[0].aval.shape))
    elif name == "neg":
        radius = operands[0].radius()
    elif name in ("gather", "dynamic_slice"):  # positions are no values
        (radius,) = bound_operation(operation, [operands[0].radius(), *operands[1:]])
    elif name == "select_n":
        radii = [value.radius() if _is_interval(value) else jnp.zeros_like(value) for value in operands[1:]]
        (radius,) = bound_operation(operation, [operands[0], *radii])
    else:
        radii = [value.radius() if _is_interval(value) else jnp.zeros_like(value) for value in operands]
        (radius,) = bound_operation(operation, radii)
    (center,) = bound_operation(operation, centers)
    return [Interval(center - radius, center + radius)]
