"""Every config field once: its default, what it may be, what it means. The data set files beside this one override defaults.

A config is an `ml_collections.ConfigDict` of plain values. Validation, the completion of configs that were stored before a field existed, the refusal
to continue a run with other values, and the help of the command line all come from `FIELDS`.
"""

import difflib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from experiments import data
from experiments.configs import options
from experiments.configs.files import get_config_of, user_code
from experiments.configs.old_configs import converted
from experiments.data.augmentations import AUGMENTATIONS, MIXTURES
from experiments.runtime.calls import as_call, call_of, calls_of
from experiments.runtime.errors import UserError, one_line, refuse
from experiments.runtime.names import find
from experiments.runtime.optimizers import FILLED, MASKS, OPTIMIZERS, SCHEDULES
from experiments.runtime.values import Kind, any_text, choice, integer, named, number, row_of, several
from irob.attacks import BALLS
from irob.defenses import DEFENSES, Defense
from irob.maps import EXPLAINERS
from irob.models import MODELS


class Field(NamedTuple):
    """default. kind: what it may be. meaning: for its reader. decides: whether another value is another run (otherwise a run may continue)."""

    default: Any
    kind: Kind
    meaning: str
    decides: bool = True


FIELDS: dict[str, Field] = {
    "dataset": Field(
        "digits",
        named(data.find_dataset, "data set"),
        f"{', '.join(data.DATASETS)}, npz:FILE, folder:DIR or tfds:NAME (with @SIZE images are resized), or package.module:attribute",
    ),
    "network": Field(
        "small", row_of(MODELS, "network"), f"{', '.join(MODELS)}, or package.module:make, a function (input_shape, num_classes)"
    ),
    "method": Field("int", row_of(DEFENSES, "method"), f"training method: {', '.join(DEFENSES)}"),
    "map": Field("cam", row_of(EXPLAINERS, "map"), f"the map that methods compare which compare maps: {', '.join(EXPLAINERS)}"),
    "seed": Field(
        99,
        integer(0, 2**32 - 1),
        "of the initial weights (99: the authors'; an nnx module given as an instance keeps its own), the order of the data and the random starts",
    ),
    "num_steps": Field(110_000, integer(1), "optimizer steps"),
    "batch_size": Field(50, integer(1), "over all devices"),
    "steps_per_dispatch": Field(
        0, integer(0), "optimizer steps in one call; 0: up to ten of a small network without an attack, else one", decides=False
    ),
    "optimizer": Field(
        ("adam", {}),
        call_of(OPTIMIZERS, "optimizer", ("learning_rate", *MASKS)),
        "of optax by name with keyword arguments, such as sgd(momentum=0.9, nesterov=true), or package.module:function of the learning rate",
    ),
    "learning_rate": Field(1e-4, number(positive=True), "the first value of the schedule; its peak, where it has one"),
    "schedule": Field(
        ("constant_schedule", {}),
        call_of(SCHEDULES, "schedule", FILLED),
        f"of optax by name: {', '.join(SCHEDULES)}; the number of updates is its decay_steps or transition_steps unless they are given",
    ),
    "weight_decay": Field(
        0.0, number(), "times the parameter, added to its gradient; biases and scales of norms, arrays of one axis, have none"
    ),
    "clip_norm": Field(0.0, number(), "gradients of a larger l2 norm are scaled to it; 0: none are"),
    "accumulate_steps": Field(1, integer(1), "steps whose mean gradient makes one update"),
    "ema_decay": Field(0.0, number(below=1.0), "of the moving average of the parameters, validated beside them; 0: none"),
    "label_smoothing": Field(0.0, number(below=1.0), "probability with which the loss takes a label drawn from all classes instead"),
    "augment": Field(
        (),
        calls_of(AUGMENTATIONS, "augmentation", ("key", "x")),
        f"of training images, one after another: {', '.join(AUGMENTATIONS)}, or package.module:function of (key, x); such as flip,padded_crop(pad=4)",
    ),
    "mix": Field(
        ("none", {}), call_of(MIXTURES, "mixture", ("key", "x", "other")), f"of each training image with another: {', '.join(MIXTURES)}"
    ),
    "init_from": Field("", any_text(), "workdir or file of variables with the initial parameters; empty: random ones"),
    "eps": Field(0.3, number(), "training radius, on pixels in [0, 1], in the norm of the attack"),
    "eps_ramp": Field((0, 0), several(integer(0), 2, 2), "eps is 0 until the first of these steps, then grows linearly until the second"),
    "attack.norm": Field("linf", row_of(BALLS, "norm"), f"{', '.join(BALLS)}; eps and step_size are lengths in this norm"),
    "attack.num_steps": Field(40, integer(1), "of the attack in each training step"),
    "attack.step_size": Field(0.01, number(positive=True), "of the attack; constant while eps grows"),
    "attack.dtype": Field(
        "float32", choice("float32", "bfloat16"), "in which the network computes while attacked; bfloat16 is for accelerators"
    ),
    "batch_statistics": Field(
        "adversarial",
        choice("adversarial", "clean", "both"),
        "images whose running statistics a network with BatchNorm keeps for attacks and evaluation; both: of the clean ones, then of the others",
    ),
    "patience": Field(0, integer(), "training stops after so many validations without a higher robust accuracy; 0: never"),
    "checkpoint_every": Field(1_000, integer(1), "steps between checkpoints, each with a validation", decides=False),
    "log_every": Field(100, integer(1), "steps between lines of the log", decides=False),
    "keep_last": Field(2, integer(1), "checkpoints kept, besides the one with the best robust validation accuracy", decides=False),
    "validation.num_examples": Field(500, integer(1), "the first of the validation split", decides=False),
    "validation.attack_steps": Field(10, integer(1), "of eps / 4, on the logarithm of the cross-entropy, from one random start"),
    "evaluation.eps": Field((0.0, 0.05, 0.1, 0.2, 0.3, 0.35, 0.4), several(number(), 1), "eps ladder of the evaluation", decides=False),
}

CALLS = ("optimizer", "schedule", "mix")  # fields that name a function with keyword arguments

TINY = {  # a run of a few seconds, to see that everything works
    "num_steps": 8,
    "batch_size": 8,
    "eps_ramp": (2, 4),
    "attack.num_steps": 2,
    "checkpoint_every": 4,
    "log_every": 2,
    "validation.num_examples": 16,
    "validation.attack_steps": 2,
}


# --- making a config ------------------------------------------------------------------------------------------------------------------------


def make(variant: str, overrides: Mapping[str, Any], **switches: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """A config for `get_config(variant)` of a data set file.

    Args:
      variant: `METHOD[,SWITCH...]`, the part of --config behind the colon; an empty method is int.
      overrides: field -> value, instead of the defaults.
      switches: name -> overrides, applied where the variant names the switch; `tiny` is always there.

    Raises:
      UserError: for an unknown method or switch.
    """
    method, *chosen = variant.split(",")
    method = method or "int"
    find(DEFENSES, method, "method")
    known = {"tiny": TINY, **switches}
    for name in chosen:
        refuse(name not in known, f"unknown switch {name!r} in the config variant: there is {', '.join(sorted(known))}, as in :int,tiny")
    refuse_lengths_of_another_norm(FIELDS["attack.norm"].default, overrides.get("attack.norm", FIELDS["attack.norm"].default), overrides)
    values = {name: field.default for name, field in FIELDS.items()} | dict(overrides) | {"method": method}
    for name in chosen:
        values |= known[name]
    return config_dict(nested({"defense": {}} | values))


def load_config(given: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """A config, from what stands behind --config.

    Args:
      given: `FILE:VARIANT`, FILE being a Python file with `get_config(variant)`, or the name of one of the configs here.
      overrides: `FIELD=VALUE`, as text. A method given here takes its own options, not those of the variant's method.

    Raises:
      UserError: if the file, a field or a value is wrong.
    """
    path, _, variant = given.partition(":")
    get_config = get_config_of(path)
    for override in overrides:
        refuse("=" not in override, f"--config.{override}: give a value, as in --config.{override}=VALUE")
    pairs = dict(override.split("=", 1) for override in overrides)
    if "method" in pairs:
        refuse(
            not re.fullmatch(r"[^,\s]+", pairs["method"]),
            f"config.method = {pairs['method']!r}: give the name of a method, and nothing else",
        )
        variant = ",".join([pairs.pop("method"), *variant.split(",")[1:]])
    with user_code(path):
        config = get_config(variant)
    made = isinstance(config, ml_collections.ConfigDict)
    missing = [name for name in FIELDS if name not in flat(config.to_dict())] if made else ["fields"]
    missing += ["defense"] if made and not isinstance(config.get("defense"), ml_collections.ConfigDict) else []
    wrong = (
        f"--config {path}: get_config(variant) must return what experiments.configs.base.make returns; this one has no good {missing[:1]}"
    )
    refuse(bool(missing), wrong)
    refuse_lengths_of_another_norm(config.attack.norm, pairs.get("attack.norm", config.attack.norm), pairs)
    for field, text in pairs.items():
        kind = _kind_of(field, config)
        *parents, last = field.split(".")
        parent = config
        for part in parents:
            parent = parent[part]
        try:
            parent[last] = kind.read(text)
        except ValueError as error:
            raise UserError(f"config.{field} = {text!r}: {error}") from error
    return config


def _kind_of(field: str, config: ml_collections.ConfigDict) -> Kind:
    if field.startswith("defense."):
        kinds = options.kinds(find(DEFENSES, config.method, "method"))
        name = field.removeprefix("defense.")
        refuse(name not in kinds, f"config.{field}: the method {config.method} takes {options.in_words(kinds)}")
        return kinds[name]
    near = difflib.get_close_matches(field, [*FIELDS, *(name.rpartition(".")[2] for name in FIELDS)], 1)
    meant = f"; did you mean {next(name for name in FIELDS if near[0] in (name, name.rpartition('.')[2]))}?" if near else ""
    known = f"there are {', '.join(FIELDS)}, and defense.OPTION of the method"
    refuse(field not in FIELDS, f"the config has no field {field!r}: {known}{meant}")
    return FIELDS[field].kind


def config_dict(values: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """A ConfigDict of nested values; lists become tuples."""

    def tuples(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: tuples(part) for key, part in value.items()}
        return tuple(value) if isinstance(value, list) else value

    return ml_collections.ConfigDict(tuples(values), type_safe=False)  # `validate_config` checks the types, and says more


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a.b": 1}` as `{"a": {"b": 1}}`."""
    whole: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, last = name.split(".")
        parent = whole
        for part in parents:
            parent = parent.setdefault(part, {})
        parent[last] = value
    return whole


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The inverse of `nested`. An empty part stays where it is."""
    parts: dict[str, Any] = {}
    for key, value in values.items():
        parts |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return parts


# --- checking a config ----------------------------------------------------------------------------------------------------------------------


def validate_config(config: ml_collections.ConfigDict, num_devices: int = 1) -> None:
    """Checks every field before the first array is made.

    Raises:
      UserError: names the field, its value and what it must be.
    """
    values = {name: value for name, value in flat(config.to_dict()).items() if name != "defense"}
    for name, value in values.items():
        kind = _kind_of(name, config)
        try:
            kind.check(value)
        except ValueError as error:
            raise UserError(f"config.{name} = {value!r}: {error}") from error
    for name in FIELDS:
        refuse(name not in values, f"the config has no field {name!r}: make it with experiments.configs.base.make")
    _check_together(values, num_devices)
    defense = defense_of(config)
    refuse(
        values["map"] != "cam" and not defense.compares_maps,
        f"config.map = {values['map']!r}: {values['method']} compares no maps: {', '.join(_map_methods())} do",
    )
    refuse(
        bool(defense.norms) and values["attack.norm"] not in defense.norms,
        f"config.attack.norm = {values['attack.norm']!r}: {values['method']} is defined in {', '.join(defense.norms)}",
    )
    refuse(
        bool(defense.maps) and values["map"] not in defense.maps,
        f"config.map = {values['map']!r}: {values['method']} is defined for {', '.join(defense.maps)}",
    )
    refuse(
        defense.compares_maps and not find(EXPLAINERS, values["map"], "map").by_class,
        f"config.map = {values['map']!r}: {values['method']} compares maps of classes, and this one has none",
    )


def _check_together(values: Mapping[str, Any], num_devices: int) -> None:
    norm, eps, step = values["attack.norm"], values["eps"], values["steps_per_dispatch"]
    for name, radii in (("eps", (eps,)), ("evaluation.eps", values["evaluation.eps"])):
        for radius in radii:
            reason = eps_reason(radius, norm)
            refuse(reason is not None, f"config.{name} = {values[name]!r}: {reason}")
    for name in ("num_steps", "checkpoint_every", "log_every"):
        refuse(step > 0 and values[name] % step != 0, f"config.{name} = {values[name]}: must be divisible by steps_per_dispatch, {step}")
    too_coarse = values["attack.dtype"] == "bfloat16" and norm == "linf" and eps < 1 / 64
    refuse(too_coarse, f"config.attack.dtype = 'bfloat16': bfloat16 rounds pixels to 1/256, too coarse for eps {eps:g}: use float32")
    updates = values["accumulate_steps"]
    refuse(
        values["num_steps"] % updates != 0, f"config.num_steps = {values['num_steps']}: must be divisible by accumulate_steps, {updates}"
    )
    first, last = values["eps_ramp"]
    refuse(first > last, f"config.eps_ramp = {values['eps_ramp']!r}: must be (last step at 0, first step at full eps), in this order")
    batch = values["batch_size"]
    fitting = max(batch // num_devices, 1) * num_devices
    refuse(
        batch % num_devices != 0,
        f"config.batch_size = {batch}: must be divisible by the number of devices, {num_devices}: {fitting} would do",
    )


LENGTHS = ("eps", "attack.step_size", "evaluation.eps")  # in the norm of the attack


def refuse_lengths_of_another_norm(before: str, norm: str, given: Mapping[str, Any]) -> None:
    """Refuses another norm without lengths in it: 0.3 is a small l2 length and a large l-inf one."""
    if norm not in BALLS and ":" not in str(norm):
        return  # the check of the norm says what there is
    missing = [name for name in LENGTHS if name not in given]
    refuse(
        norm != before and bool(missing),
        f"config.attack.norm = {norm!r}: {', '.join(missing)} would stay lengths in {before}: give them, too",
    )


def eps_reason(eps: float, norm: str) -> str | None:
    """Why eps is not a radius of a norm on pixels in [0, 1]; None if it is."""
    most = find(BALLS, norm, "norm").max_eps()
    if math.isfinite(eps) and 0.0 <= eps <= most:
        return None
    return f"every {norm} eps must be in [0, {most:g}], the range of a pixel" if math.isfinite(most) else "must be finite and not negative"


def defense_of(config: ml_collections.ConfigDict, **computed: Any) -> Defense:
    """The training method of a config, with its own defaults for the options that the config does not give.

    computed: keyword-only parameters of the row, where it has them.
    """
    row = find(DEFENSES, config.method, "method")
    given = config.get("defense")
    refuse(
        not callable(row), f"config.method = {config.method!r}: it must be a function that returns a Defense, not a {type(row).__name__}"
    )
    refuse(not isinstance(given, ml_collections.ConfigDict), f"config.defense = {given!r}: must be the options of the method, by name")
    made = row(**config.defense, **{name: value for name, value in computed.items() if name in options.keyword_only(row)})
    refuse(
        not isinstance(made, Defense),
        f"config.method = {config.method!r}: it must return an irob.defenses.Defense, not a {type(made).__name__}",
    )
    return made


def _map_methods() -> list[str]:
    return [name for name, row in DEFENSES.items() if row().compares_maps]


# --- stored configs -------------------------------------------------------------------------------------------------------------------------


def plain_config(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """A config as JSON stores it, with every option of its method (tuples become lists)."""
    values = config.to_dict()
    values["defense"] = options.defaults(find(DEFENSES, config.method, "method")) | values["defense"]
    for name in CALLS:
        values[name] = as_call(values[name])
    values["augment"] = [as_call(call) for call in values["augment"]]
    return json.loads(json.dumps(values))


def stored_config(stored: Any, where: str) -> ml_collections.ConfigDict:
    """The config that was stored by this version or an earlier one.

    Raises:
      UserError: if it is none. where: it was found.
    """
    try:
        config = config_dict(with_defaults(stored))
        validate_config(config)
    except (ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        raise UserError(f"{where} is not a config written by this command ({one_line(error, 120)}): use another --workdir") from error
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return config


def with_defaults(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored config with the fields and options that did not exist yet when it was stored, at the defaults, which are what it was trained with."""
    defaults = {name: field.default for name, field in FIELDS.items()} | {"defense": {}}
    return plain_config(config_dict(nested(defaults | converted(flat(stored)))))


def changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "config.") -> list[str]:
    """Lines `field: old -> new` for every field that decides the result and differs between two nested dictionaries."""
    before, after = flat(old), flat(new)
    return [
        f"{prefix}{name}: {before.get(name, '(absent)')!r} -> {after.get(name, '(absent)')!r}"
        for name in sorted({*before, *after})
        if before.get(name, "(absent)") != after.get(name, "(absent)") and decides(name)
    ]


def decides(field: str) -> bool:
    """Whether the result of a training depends on a field."""
    return field not in FIELDS or FIELDS[field].decides


def describe_fields() -> str:
    """Every field with its default and meaning, for --help."""
    return "\n".join(f"{name} ({field.default!r}): {field.meaning}" for name, field in FIELDS.items())
