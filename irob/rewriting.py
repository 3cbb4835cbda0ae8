"""A network of any framework, made fast for attacks: `prepared(function, params, x)` returns the same function of x alone.

The function is traced. What depends on params alone is computed once, convolutions run in the fast forms of `convolutions`, and what reads the last
feature map off linearly (bias, head, spatial mean) is folded into the convolution that makes it, as `models.CAMNetwork` does:

    conv(h, K) + b, times W   =   conv(h, K W) + b W           sum over positions of it   =   <h, V> + b',  V fixed by the kernel

With `{"relu": softplus(beta)}` every `jax.nn.relu` becomes a softplus: it has the second derivatives that attacks on gradients need. (A bare
`max(x, 0)` stays: it may keep a variance positive.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from irob import convolutions
from irob.types import Array

Rule = Callable[[Array], Array]


def prepared(function: Callable[[Any, Array], Any], params: Any, x: Any, rules: Mapping[str, Rule] | None = None) -> Callable[[Array], Any]:
    """`x -> function(params, x)`, with what depends on params alone computed now, and fast convolutions.

    Values and derivatives, also with respect to params, are those of the function up to rounding. Convolutions with groups, dilation, two different
    strides, or padding as wide as the kernel stay as they are, and so do those inside `while` loops and functions with a custom derivative.

    Args:
      function: `(params, x) -> tree of arrays`, traceable.
      params: a tree of arrays.
      x: an array, or its shape and type.
      rules: activation -> what is computed instead; `{"relu": softplus(1.0)}`, or none.

    Returns:
      A function of x. Make it outside of loops.

    >>> affine = prepared(lambda w, x: jnp.tanh(w) * jax.nn.relu(x), jnp.ones(2), jnp.ones(2), {"relu": softplus(1.0)})
    >>> bool(jnp.allclose(affine(jnp.zeros(2)), jnp.tanh(1.0) * jnp.log(2.0)))
    True
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(params, x)
    program = _Program(rules or {})
    outputs = program.stage(closed.jaxpr, closed.consts, [*jax.tree.leaves(params), _Later(0)])
    outputs = [program.computed(value) for value in outputs]

    def run(x: Any) -> Any:
        values = program.run(x)
        found = [values[value.slot] if isinstance(value, _Later) else value for value in outputs]
        return jax.tree.unflatten(jax.tree.structure(shape), found)

    return run


def output_shapes(closed: core.ClosedJaxpr, name: str) -> list[tuple[int, ...]]:
    """The shape of the output of each operation of a name, those inside of others included."""
    shapes = []
    for operation in closed.jaxpr.eqns:
        if operation.primitive.name == name:
            shapes.append(operation.outvars[0].aval.shape)
        shapes += [shape for value in operation.params.values() for body in _bodies(value) for shape in output_shapes(body, name)]
    return shapes


def _bodies(value: Any) -> list[core.ClosedJaxpr]:
    """The functions in a parameter of an operation."""
    parts = value if isinstance(value, tuple | list) else (value,)
    whole = [core.ClosedJaxpr(part, ()) if isinstance(part, core.Jaxpr) else part for part in parts]
    return [part for part in whole if isinstance(part, core.ClosedJaxpr)]


# --- a program of x -------------------------------------------------------------------------------------------------------------------------


class _Later(NamedTuple):
    """A value that depends on x: the number of its place among them."""

    slot: int


class _Linear(NamedTuple):
    """A value that is not computed before it is used otherwise than linearly: a convolution with bias, or the sum over positions of one.

    source: `[1, H, W, I]`, what is convolved. kernel `[k, k, I, O]`, bias `[O]` of the output. summed: over positions. batch: a leading axis of 1.
    """

    source: _Later
    kernel: Array
    bias: Array
    stride: int
    size: tuple[int, int]
    padding: convolutions.Padding
    summed: bool = False
    batch: bool = True

    @property
    def positions(self) -> int:
        """Of the output of the convolution."""
        sides = zip(self.size, self.kernel.shape[:2], self.padding, strict=True)
        return int(np.prod([convolutions.output_size(side, width, self.stride, pad) for side, width, pad in sides]))

    def times(self, factor: Any) -> _Linear:
        """The value times a number."""
        return self._replace(kernel=self.kernel * factor, bias=self.bias * factor)


class _Program:
    """Steps from x to outputs; place 0 is x. A value is an array where it does not depend on x, else `_Later` or `_Linear`."""

    def __init__(self, rules: Mapping[str, Rule]):
        self.rules = rules
        self.steps: list[tuple[Callable[..., Sequence[Any]], list[_Later], list[_Later]]] = []
        self.slots = 1
        self.done: dict[int, tuple[_Linear, _Later]] = {}

    def run(self, x: Any) -> dict[int, Any]:
        """The value of every place."""
        values: dict[int, Any] = {0: x}
        for function, inputs, outputs in self.steps:
            values |= zip([place.slot for place in outputs], function(*[values[place.slot] for place in inputs]), strict=True)
        return values

    def emit(self, function: Callable[..., Sequence[Any]], inputs: Sequence[_Later], count: int) -> list[_Later]:
        """A step with so many outputs."""
        outputs = [_Later(self.slots + i) for i in range(count)]
        self.slots += count
        self.steps.append((function, list(inputs), outputs))
        return outputs

    def computed(self, value: Any) -> Any:
        """A value that is an array, or is one when the program has run."""
        if not isinstance(value, _Linear):
            return value
        if id(value) not in self.done:
            (place,) = self.emit(_evaluation(value), [value.source], 1)
            self.done[id(value)] = (value, place)  # kept, so that its id is not given to another
        return self.done[id(value)][1]

    def stage(self, jaxpr: Any, constants: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        """Computes what it can of a jaxpr, and adds steps for the rest."""
        values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *inputs], strict=True))
        read = lambda v: v.val if isinstance(v, core.Literal) else values[v]  # noqa: E731
        for operation in jaxpr.eqns:
            operands = [read(v) for v in operation.invars]
            values |= zip(operation.outvars, self.outputs(operation, operands), strict=True)
        return [read(v) for v in jaxpr.outvars]

    def outputs(self, operation: Any, operands: Sequence[Any]) -> Sequence[Any]:
        """The values of one operation."""
        if operation.primitive.name == "jit":
            body = operation.params["jaxpr"]
            return self.stage(body.jaxpr, body.consts, operands)
        if not any(isinstance(value, _Later | _Linear) for value in operands):
            return _bind(operation, operands, self.rules)
        if (folded := self.folded(operation, operands)) is not None:
            return [folded]
        ready = [self.computed(value) for value in operands]
        places = [value for value in ready if isinstance(value, _Later)]

        def step(*arrays: Any) -> Sequence[Any]:
            arriving = iter(arrays)
            return _bind(operation, [next(arriving) if isinstance(value, _Later) else value for value in ready], self.rules)

        return self.emit(step, places, len(operation.outvars))

    def folded(self, operation: Any, operands: Sequence[Any]) -> _Linear | None:
        """The operation as a `_Linear` value, where it is one."""
        name, params = operation.primitive.name, operation.params
        if name == "conv_general_dilated":
            x, kernel = operands
            if isinstance(kernel, _Later | _Linear) or not _has_fast_form(operation):
                return None
            shape, bias = operation.invars[0].aval.shape, jnp.zeros(kernel.shape[-1], kernel.dtype)
            return _Linear(self.computed(x), kernel, bias, params["window_strides"][0], (shape[1], shape[2]), _padding(operation))
        pending = [value for value in operands if isinstance(value, _Linear)]
        known = [value for value in operands if not isinstance(value, _Later | _Linear)]
        if len(pending) != 1 or len(known) != len(operands) - 1:
            return None
        (value,), outputs = pending, pending[0].kernel.shape[-1]
        rank = operation.outvars[0].aval.ndim
        if name == "squeeze" and value.batch and params["dimensions"] == (0,):
            return value._replace(batch=False)
        if name == "reduce_sum" and not value.summed and params["axes"] == ((1, 2) if value.batch else (0, 1)):
            return value._replace(summed=True, bias=value.bias * value.positions)
        over_channels = (((rank - 1,), (0,)), ((), ()))
        if (
            name == "dot_general"
            and isinstance(operands[0], _Linear)
            and known[0].ndim == 2
            and params["dimension_numbers"] == over_channels
        ):
            return value._replace(kernel=value.kernel @ known[0], bias=value.bias @ known[0])
        if name in ("mul", "div") and isinstance(operands[0], _Linear) and np.ndim(known[0]) == 0:
            return value.times(known[0] if name == "mul" else 1.0 / known[0])
        if name == "add" and np.size(known[0]) == outputs and np.shape(known[0])[-1:] == (outputs,):
            return value._replace(bias=value.bias + jnp.reshape(known[0], -1))
        return None


def _evaluation(value: _Linear) -> Callable[[Array], Sequence[Array]]:
    """`source -> [value]`."""
    of_image: Callable[[Array], Array]
    if value.summed:
        reading = value.positions * convolutions.mean_over_positions(value.kernel, value.stride, value.size, value.padding)
        # First over channels, then over positions: the rounding error of one long sum is five times as large.
        of_image = lambda h: jnp.sum(jnp.einsum("hwi,hwic->hwc", h, reading), axis=(0, 1)) + value.bias  # noqa: E731
    else:
        of_image = convolutions.specialize(value.kernel, value.bias, value.stride, value.size, value.padding)
    return lambda x: [of_image(x[0])[None] if value.batch else of_image(x[0])]


def _has_fast_form(operation: Any) -> bool:
    """Whether it is a convolution of one image (NHWC, HWIO) with one stride, without groups and dilation, in one type."""
    params, (x, kernel) = operation.params, (v.aval for v in operation.invars)
    numbers, strides = params["dimension_numbers"], params["window_strides"]
    standard = (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec) == ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
    ones = {*params["lhs_dilation"], *params["rhs_dilation"], params["feature_group_count"], params["batch_group_count"]}
    if not standard or ones != {1} or x.shape[0] != 1 or len(set(strides)) != 1 or x.dtype != kernel.dtype:
        return False
    return all(0 <= pad < width for pair, width in zip(params["padding"], kernel.shape[:2], strict=True) for pad in pair)


def _padding(operation: Any) -> convolutions.Padding:
    height, width = operation.params["padding"]
    return (int(height[0]), int(height[1])), (int(width[0]), int(width[1]))


def _bind(operation: Any, operands: Sequence[Any], rules: Mapping[str, Rule]) -> Sequence[Any]:
    """The outputs of an operation on arrays."""
    if "relu" in rules and is_relu(operation):
        return [rules["relu"](operands[0])]
    if operation.primitive.name == "conv_general_dilated" and _has_fast_form(operation):
        x, kernel = operands
        bias = jnp.zeros(kernel.shape[-1], kernel.dtype)
        return [convolutions.specialize(kernel, bias, operation.params["window_strides"][0], x.shape[1:3], _padding(operation))(x[0])[None]]
    if operation.primitive.name in _WITH_BODIES and _is_rewritten_inside(operation, rules):
        return _WITH_BODIES[operation.primitive.name](operation.params, operands, rules)
    primitive = operation.primitive
    outputs = primitive.bind(*operands, **primitive.get_bind_params(operation.params))
    return outputs if primitive.multiple_results else [outputs]


def _is_rewritten_inside(operation: Any, rules: Mapping[str, Rule]) -> bool:
    """Whether a body has a convolution, or a rectifier that a rule replaces."""
    bodies = [body for value in operation.params.values() for body in _bodies(value)]
    names = {name for body in bodies for name in ("conv_general_dilated", "custom_jvp_call") if output_shapes(body, name)}
    return "conv_general_dilated" in names or ("relu" in rules and "custom_jvp_call" in names)


def _evaluated(body: Any, operands: Sequence[Any], rules: Mapping[str, Rule]) -> Sequence[Any]:
    """The outputs of a body, by the same rules."""
    closed = core.ClosedJaxpr(body, ()) if isinstance(body, core.Jaxpr) else body
    return _Program(rules).stage(closed.jaxpr, closed.consts, operands)


def _scan(params: Mapping[str, Any], operands: Sequence[Any], rules: Mapping[str, Rule]) -> Sequence[Any]:
    """`lax.scan`, its body rewritten."""
    fixed, carried = params["num_consts"], params["num_carry"]
    constants, initial, rows = operands[:fixed], operands[fixed : fixed + carried], operands[fixed + carried :]

    def step(carry: Sequence[Any], row: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        outputs = list(_evaluated(params["jaxpr"], [*constants, *carry, *row], rules))
        return outputs[:carried], outputs[carried:]

    last, stacked = jax.lax.scan(step, list(initial), list(rows), params["length"], params["reverse"], params["unroll"])
    return [*last, *stacked]


def _cond(params: Mapping[str, Any], operands: Sequence[Any], rules: Mapping[str, Rule]) -> Sequence[Any]:
    """`lax.cond` and `lax.switch`, their branches rewritten."""
    branches = [lambda *arrays, body=body: _evaluated(body, arrays, rules) for body in params["branches"]]
    return jax.lax.switch(operands[0], branches, *operands[1:])


def _checkpoint(params: Mapping[str, Any], operands: Sequence[Any], rules: Mapping[str, Rule]) -> Sequence[Any]:
    """`jax.checkpoint`, its body rewritten."""
    body = lambda *arrays: _evaluated(params["jaxpr"], arrays, rules)  # noqa: E731
    return jax.checkpoint(body, prevent_cse=params["prevent_cse"], policy=params["policy"])(*operands)


_WITH_BODIES = {
    "scan": _scan,
    "cond": _cond,
    "remat2": _checkpoint,
    "checkpoint": _checkpoint,
}  # the third by its name in older versions, too


def is_relu(operation: Any) -> bool:
    """Whether it is a function of one array with a custom derivative that is nothing but `max(x, 0)`, as `jax.nn.relu` is."""
    if operation.primitive.name != "custom_jvp_call" or len(operation.invars) != 1:
        return False
    body = operation.params["call_jaxpr"].jaxpr
    while len(body.eqns) == 1 and body.eqns[0].primitive.name == "jit" and list(body.outvars) == list(body.eqns[0].outvars):
        body = body.eqns[0].params["jaxpr"].jaxpr
    inside = body.eqns
    if len(inside) != 1 or inside[0].primitive.name != "max" or list(body.outvars) != list(inside[0].outvars):
        return False
    return any(isinstance(v, core.Literal) and v.val == 0 for v in inside[0].invars)


def softplus(beta: float) -> Rule:
    """`log(1 + exp(beta x)) / beta`, at most log(2) / beta above max(x, 0); its second derivative is at most beta / 4.

    Raises:
      ValueError: unless beta > 0.

    References:
      Dombrowski et al. 2019, https://arxiv.org/abs/1906.07983, sec. 3.

    >>> round(float(softplus(10.0)(jnp.zeros(()))), 4)
    0.0693
    """
    if not beta > 0.0:
        raise ValueError(f"beta of a softplus must be positive, got {beta}")
    return lambda x: jax.nn.softplus(beta * x) / beta
