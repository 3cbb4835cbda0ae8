"""What the configs share: the methods with their options, the variant parser and the checks made before anything runs."""

import math
from collections.abc import Mapping
from typing import Any

import ml_collections

from experiments.cli import UserError

# Method -> the keyword arguments of its row in irob.DEFENSES. weight is lambda, beta that of TRADES, points n of a path (see irob/defenses.py).
# The weights of int... are those of the paper's networks; theirs of ig_norm and ig_sum_norm is 1 / batch_size.
METHODS: dict[str, Mapping[str, float]] = {
    "normal": {},
    "adv": {},
    "trades": {"beta": 1.0},
    "int": {"weight": 0.01},
    "int_one_class": {"weight": 0.01},
    "int_adv": {"weight": 0.01},
    "int2": {"weight": 0.01},
    "int2_adv": {"weight": 0.01},
    "mart": {"beta": 5.0},
    "alp": {"weight": 0.5},
    "ig_norm": {"weight": 1.0, "points": 5},
    "ig_sum_norm": {"weight": 1.0, "points": 5},
    "int_ig": {"weight": 0.01, "points": 5},
    "int_ig_adv": {"weight": 0.01, "points": 5},
    "gradient_norm": {"weight": 1.0},
    "saliency_norm": {"weight": 1.0},
}
# Methods that compare the maps of x and x', and the maps that have one for each class.
MAP_METHODS = ("int", "int_one_class", "int_adv", "int2", "int2_adv")
MAPS = ("cam", "grad_cam", "grad_cam_plus_plus", "saliency", "gradient_x_input", "integrated_gradients", "smooth_grad")
NETWORKS = ("small", "pool", "wresnet")
NORMS = ("linf", "l2", "l1")
DTYPES = ("float32", "bfloat16")


def method_and_switches(variant: str, *own: str) -> tuple[str, set[str]]:
    """Parses `METHOD[,SWITCH...]`, the part of --config behind the colon; the switches are `tiny` and a config's own."""
    method, *switches = (variant or "int").split(",")
    if method not in METHODS:
        raise UserError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}")
    known = {"tiny", *own}
    if unknown := set(switches) - known:
        raise UserError(
            f"unknown switch {sorted(unknown)[0]!r} in the config variant: there is {', '.join(sorted(known))}, as in :int,tiny"
        )
    return method, set(switches)


def finish(config: ml_collections.ConfigDict, switches: set[str]) -> ml_collections.ConfigDict:
    """Adds the method's options; under `tiny` shrinks the run to a few seconds, to see that everything works."""
    config.defense = ml_collections.ConfigDict(METHODS[config.method])  # the method's own options
    if "tiny" in switches:
        config.num_steps = 8
        config.batch_size = 8
        config.eps_ramp = (2, 4)
        config.attack.num_steps = 2  # of each training step
        config.checkpoint_every = 4
        config.log_every = 2
        config.validation.num_examples = 16
        config.validation.attack_steps = 2
    return config


def is_radius(eps: float, norm: str) -> bool:
    """Whether eps can bound a perturbation of pixels in [0, 1]."""
    return 0.0 <= eps <= (1.0 if norm == "linf" else float("inf")) and math.isfinite(eps)


def validate(config: ml_collections.ConfigDict, num_devices: int = 1) -> None:
    """Checks every field before the first array is made.

    Raises:
      UserError: names the field, its value and what it must be.
    """

    def require(holds: bool, field: str, must: str) -> None:
        if not holds:
            value: Any = config
            for part in field.split("."):
                value = value[part]
            raise UserError(f"config.{field} = {value!r}: {must}")

    require(config.method in METHODS, "method", f"choose one of {', '.join(METHODS)}")
    require(set(config.defense) == set(METHODS[config.method]), "defense", f"{config.method} takes {dict(METHODS[config.method])}")
    require(config.network in NETWORKS, "network", f"choose one of {', '.join(NETWORKS)}")
    require(config.map in MAPS, "map", f"choose one of {', '.join(MAPS)}")
    require(
        config.map == "cam" or config.method in MAP_METHODS, "map", f"{config.method} compares no maps: only {', '.join(MAP_METHODS)} do"
    )
    for option, value in config.defense.items():
        require(math.isfinite(value) and value >= 0.0, f"defense.{option}", "must be finite and not negative")
    require(config.defense.get("points", 1) >= 1, "defense.points", "must be positive")
    require(config.attack.norm in NORMS, "attack.norm", f"choose one of {', '.join(NORMS)}")
    radius = "must be in [0, 1], the range of a pixel" if config.attack.norm == "linf" else "must be finite and not negative"
    require(is_radius(config.eps, config.attack.norm), "eps", radius)
    require(all(is_radius(eps, config.attack.norm) for eps in config.evaluation.eps), "evaluation.eps", f"every eps {radius}")
    require(0 <= config.seed < 2**32, "seed", "must be in 0 .. 2^32 - 1")
    for field in (
        "num_steps",
        "batch_size",
        "steps_per_dispatch",
        "checkpoint_every",
        "log_every",
        "keep_last",
        "attack.num_steps",
        "validation.attack_steps",
    ):
        value = config
        for part in field.split("."):
            value = value[part]
        require(value > 0, field, "must be positive")
    for field in ("num_steps", "checkpoint_every", "log_every"):
        require(
            config[field] % config.steps_per_dispatch == 0, field, f"must be divisible by steps_per_dispatch, {config.steps_per_dispatch}"
        )
    require(config.attack.dtype in DTYPES, "attack.dtype", f"choose one of {', '.join(DTYPES)}")
    seen = config.attack.dtype == "float32" or config.attack.norm != "linf" or config.eps >= 1 / 64
    require(seen, "attack.dtype", f"bfloat16 rounds pixels to 1/256, too coarse for eps {config.eps:g}: use float32")
    require(math.isfinite(config.attack.step_size) and config.attack.step_size > 0, "attack.step_size", "must be positive and finite")
    require(math.isfinite(config.learning_rate) and config.learning_rate > 0, "learning_rate", "must be positive and finite")
    require(config.validation.num_examples > 0, "validation.num_examples", "must be positive")
    require(all(isinstance(drop, int) for drop in config.learning_rate_drops), "learning_rate_drops", "must be steps, e.g. (40000, 60000)")
    ramp = config.eps_ramp
    ordered = len(ramp) == 2 and all(isinstance(step, int) for step in ramp) and 0 <= ramp[0] <= ramp[1]
    require(ordered, "eps_ramp", "must be (last step at 0, first step at full eps), in this order")
    require(
        config.batch_size % num_devices == 0,
        "batch_size",
        f"must be divisible by the number of devices, {num_devices}: {max(config.batch_size // num_devices, 1) * num_devices} would do",
    )


def completed(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored config with the fields that are younger than it, at the values that it was trained with."""
    return {"steps_per_dispatch": 1, "map": "cam", **stored, "attack": {"dtype": "float32", **stored.get("attack", {})}}


def changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "config.") -> list[str]:
    """Lines `field: old -> new` for every field in which two nested dictionaries differ."""
    lines = []
    for key in sorted({*old, *new}):
        a, b = old.get(key, "(absent)"), new.get(key, "(absent)")
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += changes(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {a!r} -> {b!r}")
    return lines
