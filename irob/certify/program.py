"""A network as a program of affine steps and of nonlinear ones that bounds know: rectifiers and maxima.

A function of one image is traced; each step is computed by the rules of the caller. Steps that are neither affine in what depends on
the image nor one of those two are refused, by name: no bound is better than a wrong one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from irob.rewriting import is_relu
from irob.types import Array, Point


class Node(NamedTuple):
    """A nonlinear step. number: its place among them. function: what it computes, of one array.

    reduces: whether it is the maximum over some entries; otherwise it is the maximum of each entry with a constant.
    """

    number: int
    function: Callable[[Array], Array]
    reduces: bool = False


Affine = Callable[[Any, Sequence[Any]], Sequence[Any]]  # (operation, operands) -> outputs
Nonlinear = Callable[[Node, Any], Any]  # (node, operand) -> output

# Affine in what depends on the image, where at most one operand does (two for those of `SUMS`).
SHAPES = {"reshape", "transpose", "broadcast_in_dim", "squeeze", "expand_dims", "slice", "rev", "copy"}
SUMS = {"add", "add_any", "sub", "neg", "reduce_sum", "reduce_window_sum", "cumsum", "concatenate", "stack", "pad", "select_n"}
PRODUCTS = {"mul", "div", "dot_general", "conv_general_dilated"}
GATHERS = {"gather", "dynamic_slice"}


class Program(NamedTuple):
    """closed: the traced function. structure: of its outputs."""

    closed: core.ClosedJaxpr
    structure: Any

    def walk(self, x: Any, is_variable: Callable[[Any], bool], affine: Affine, nonlinear: Nonlinear) -> Any:
        """The outputs, by the rules of the caller.

        Args:
          x: what stands for the image: an array, or bounds.
          is_variable: whether a value depends on the image.
          affine: of an operation with an operand that does.
          nonlinear: of a node.

        Raises:
          NotImplementedError: for an operation that no rule is for.
        """
        walker = _Walker(is_variable, affine, nonlinear)
        outputs = walker.stage(self.closed.jaxpr, self.closed.consts, [x])
        return jax.tree.unflatten(self.structure, outputs)


def traced(function: Callable[[Any], Any], x: Point) -> Program:
    """The program of a function of one image, at the shape and type of x."""
    closed, shape = jax.make_jaxpr(function, return_shape=True)(jnp.asarray(x))
    return Program(closed, jax.tree.structure(shape))


class _Walker:
    def __init__(self, is_variable: Callable[[Any], bool], affine: Affine, nonlinear: Nonlinear):
        self.is_variable, self.affine, self.nonlinear = is_variable, affine, nonlinear
        self.nodes = 0

    def stage(self, jaxpr: Any, constants: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *inputs], strict=True))
        read = lambda v: v.val if isinstance(v, core.Literal) else values[v]  # noqa: E731
        for operation in jaxpr.eqns:
            values |= zip(operation.outvars, self.outputs(operation, [read(v) for v in operation.invars]), strict=True)
        return [read(v) for v in jaxpr.outvars]

    def outputs(self, operation: Any, operands: Sequence[Any]) -> Sequence[Any]:
        name, params = operation.primitive.name, operation.params
        varying = [operand for operand in operands if self.is_variable(operand)]
        if not varying:
            return bound_operation(operation, operands)
        if is_relu(operation):
            return [self.node(lambda z: jnp.maximum(z, 0.0), varying[0])]
        if name == "convert_element_type" and _keeps_values(operation):
            return self.affine(operation, operands)
        if name in GATHERS and (varying[0] is not operands[0] or len(varying) > 1 or params.get("fill_value") is not None):
            raise NotImplementedError("no bound is known of positions that depend on the image, or that are filled in")
        if name == "jit" and params["name"] == "first_maximum" and _is_first_maximum(operation):
            return [self.node(lambda z: jnp.max(z, axis=-1), varying[0], reduces=True)]
        if name in ("jit", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "remat2", "checkpoint", "pjit"):
            body = next(params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params)
            closed = core.ClosedJaxpr(body, ()) if isinstance(body, core.Jaxpr) else body
            return self.stage(closed.jaxpr, closed.consts, operands)
        if name == "max" and len(varying) == 1:
            other = next(operand for operand in operands if not self.is_variable(operand))
            return [self.node(lambda z: jnp.maximum(z, other), varying[0])]
        if name in ("reduce_window_max", "reduce_max"):
            return [self.node(lambda z: bound_operation(operation, [z])[0], varying[0], reduces=True)]
        several = name in SUMS
        if (
            name in SHAPES | SUMS | PRODUCTS | GATHERS
            and (several or len(varying) == 1)
            and not (name == "div" and varying[0] is operands[1])
        ):
            if name == "select_n" and self.is_variable(operands[0]):
                raise NotImplementedError("no bound is known of a choice that depends on the image")
            return self.affine(operation, operands)
        raise NotImplementedError(
            f"no bound is known of the operation {name!r}: networks of convolutions, dense layers, rectifiers, sums and pooling have bounds"
        )

    def node(self, function: Callable[[Array], Array], operand: Any, reduces: bool = False) -> Any:
        self.nodes += 1
        return self.nonlinear(Node(self.nodes - 1, function, reduces), operand)


def bound_operation(operation: Any, operands: Sequence[Any]) -> Sequence[Any]:
    """The outputs of an operation on arrays."""
    primitive = operation.primitive
    outputs = primitive.bind(*operands, **primitive.get_bind_params(operation.params))
    return outputs if primitive.multiple_results else [outputs]


def _keeps_values(operation: Any) -> bool:
    """Whether a conversion is between floats and rounds no more than the arithmetic of float32 does."""
    before, after = operation.invars[0].aval.dtype, operation.outvars[0].aval.dtype
    if not (jnp.issubdtype(before, jnp.floating) and jnp.issubdtype(after, jnp.floating)):
        return False
    return bool(jnp.finfo(after).nmant >= min(jnp.finfo(before).nmant, jnp.finfo(jnp.float32).nmant))


def _is_first_maximum(operation: Any) -> bool:
    """Whether it is `models.cam_network.first_maximum`, over the last axis, and not another function of that name."""
    body, operand, out = operation.params["jaxpr"].jaxpr, operation.invars[0].aval, operation.outvars[0].aval
    names = [inside.primitive.name for inside in body.eqns]
    last = [inside.params["axes"] for inside in body.eqns if inside.primitive.name == "argmax"]
    return len(operation.invars) == 1 and "reduce_sum" in names and last == [(operand.ndim - 1,)] and out.shape == operand.shape[:-1]
