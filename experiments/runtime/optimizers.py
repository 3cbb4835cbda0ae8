"""Optimizers and schedules of optax, by name.

A schedule gets the learning rate of the config as its `peak_value` (and 0 as the `init_value` before it), else as its `init_value` or `value`; and
the number of updates as its `decay_steps` or `transition_steps`, where they are not given.
"""

import inspect
from collections.abc import Callable
from typing import Any

import optax

from experiments.runtime.calls import as_call
from experiments.runtime.names import find

Maker = Callable[..., Any]


def _makers(first: str) -> dict[str, Maker]:
    """The functions of optax whose first parameter has this name, and which need neither a line search nor random numbers."""
    found: dict[str, Maker] = {}
    for name, function in vars(optax).items():
        if inspect.isfunction(function) and not name.startswith(("_", "scale_by")):
            parameters = list(inspect.signature(function).parameters)
            if parameters[:1] == [first] and not {"linesearch", "key", "seed"} & set(parameters):
                found[name] = function
    return found


OPTIMIZERS = _makers("learning_rate")
SCHEDULES: dict[str, Maker] = {
    name: getattr(optax, name)
    for name in (
        "constant_schedule",
        "piecewise_constant_schedule",
        "piecewise_interpolate_schedule",
        "linear_schedule",
        "polynomial_schedule",
        "exponential_decay",
        "cosine_decay_schedule",
        "cosine_onecycle_schedule",
        "linear_onecycle_schedule",
        "warmup_constant_schedule",
        "warmup_cosine_decay_schedule",
        "warmup_exponential_decay_schedule",
    )
}
RATES, LENGTHS, MASKS = ("peak_value", "init_value", "value"), ("decay_steps", "transition_steps"), ("mask", "weight_decay_mask")
FILLED = (*RATES, *LENGTHS)


def make_schedule(call: Any, learning_rate: float, num_updates: int) -> optax.Schedule:
    """The learning rate as a function of the number of updates made.

    Args:
      call: (name, options), of `SCHEDULES` or one's own.
      learning_rate: filled in as this module says.
      num_updates: likewise.
    """
    name, options = as_call(call)
    maker = find(SCHEDULES, name, "schedule")
    parameters = inspect.signature(maker).parameters
    rates = [key for key in RATES if key in parameters]
    values = dict.fromkeys(rates[1:], 0.0) | dict.fromkeys(rates[:1], learning_rate)
    values |= {key: num_updates for key in LENGTHS if key in parameters}
    return maker(**values | {key: _whole_keys(value) for key, value in options.items()})


def make_optimizer(call: Any, learning_rate: optax.Schedule, decays: Callable[[Any], Any]) -> optax.GradientTransformation:
    """An optimizer.

    Args:
      call: (name, options), of `OPTIMIZERS` or one's own, whose first parameter is the learning rate.
      learning_rate: of the number of updates.
      decays: parameters -> tree of bool, which of them decay, where the optimizer decays some.
    """
    name, options = as_call(call)
    maker = find(OPTIMIZERS, name, "optimizer")
    masks = {key: decays for key in MASKS if key in inspect.signature(maker).parameters}
    return maker(learning_rate, **masks | options)


def _whole_keys(value: Any) -> Any:
    """Steps are keys of `boundaries_and_scales`; JSON has keys of text alone."""
    return {int(key): part for key, part in value.items()} if isinstance(value, dict) else value
