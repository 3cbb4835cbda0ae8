import importlib
import json

import pytest

from experiments import data, provenance, training
from experiments.cli import UserError
from experiments.configs import common

FILES = ["digits", "mnist", "fashion_mnist", "cifar10", "restricted_imagenet"]


def get_config(file, variant="int"):
    return importlib.import_module(f"experiments.configs.{file}").get_config(variant)


@pytest.mark.parametrize("method", common.METHODS)
@pytest.mark.parametrize("file", FILES)
def test_every_config_is_valid_plain_and_buildable(file, method):
    for variant in (method, f"{method},tiny"):
        config = get_config(file, variant)
        common.validate(config)
        assert provenance.plain(config) == json.loads(json.dumps(config.to_dict()))
        network, defense = training.build(config)
        assert network.input_shape == data.DATASETS[config.dataset].image_shape
        assert (defense.inner is None) == (method in ("normal", "gradient_norm", "saliency_norm"))


def test_the_papers_hyper_parameters():
    """Section 4.5 of the authors' system; alpha of Restricted ImageNet is the one that is mended."""
    table = {
        "mnist": (110_000, 50, 1e-4, 0.3, (2_000, 10_000), 40, 0.01),
        "cifar10": (70_200, 128, 1e-3, 8 / 255, (5_000, 70_000), 10, 2 / 255),
        "restricted_imagenet": (140_000, 64, 1e-3, 0.003, (5_000, 10_000), 7, 0.001),
    }
    for file, expected in table.items():
        c = get_config(file)
        assert (c.num_steps, c.batch_size, c.learning_rate, c.eps, c.eps_ramp, c.attack.num_steps, c.attack.step_size) == expected
        assert c.defense.weight == 0.01


@pytest.mark.parametrize(("name", "cheaper"), [("mnist", 50), ("cifar10", 14)])
def test_the_fast_schedules_keep_what_is_attacked(name, cheaper):
    fast, paper = get_config(name, "int,fast"), get_config(name, "int")
    common.validate(fast)
    assert (fast.eps, fast.defense, fast.evaluation) == (paper.eps, paper.defense, paper.evaluation)
    assert fast.num_steps * fast.attack.num_steps < paper.num_steps * paper.attack.num_steps / cheaper
    with pytest.raises(UserError, match="unknown switch 'fast' in the config variant: there is tiny"):
        get_config("digits", "int,fast")
    with pytest.raises(UserError, match="unknown switch 'fast'"):
        get_config("fashion_mnist", "int,fast")


def test_a_config_stored_before_a_field_was_made_means_what_it_did():
    stored = get_config("mnist").to_dict()
    del stored["steps_per_dispatch"], stored["map"], stored["attack"]["dtype"]
    assert common.changes(common.completed(stored), get_config("mnist").to_dict()) == []


@pytest.mark.parametrize(
    ("variant", "message"),
    [("intt", "unknown method 'intt': choose one of normal, adv"), ("int,big", "unknown switch 'big'")],
)
def test_unknown_variants(variant, message):
    with pytest.raises(UserError, match=message):
        get_config("mnist", variant)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("method", "fancy", r"config.method = 'fancy': choose one of"),
        ("map", "heat", r"config.map = 'heat': choose one of cam, grad_cam"),
        ("map", "representation", r"config.map = 'representation': choose one of"),
        ("network", "vgg", r"config.network = 'vgg': choose one of"),
        ("eps", 1.5, r"config.eps = 1.5: must be in \[0, 1\]"),
        ("eps", -0.1, r"config.eps = -0.1"),
        ("num_steps", 0, r"config.num_steps = 0: must be positive"),
        ("attack.num_steps", -1, r"config.attack.num_steps = -1: must be positive"),
        ("attack.step_size", 0.0, r"config.attack.step_size = 0.0"),
        ("attack.norm", "l7", r"config.attack.norm = 'l7'"),
        ("batch_size", 9, "divisible by the number of devices, 4: 8 would do"),
        ("batch_size", 3, "divisible by the number of devices, 4: 4 would do"),
        ("eps_ramp", (10, 5), r"config.eps_ramp"),
        ("learning_rate", -1.0, r"config.learning_rate"),
        ("learning_rate", float("inf"), r"config.learning_rate"),
        ("eps_ramp", (1, 2, 3), r"config.eps_ramp"),
        ("learning_rate_drops", ("a",), r"config.learning_rate_drops"),
        ("seed", -1, r"config.seed"),
        ("defense.weight", float("nan"), r"config.defense.weight"),
        ("defense.points", 0, r"config.defense.points = 0: must be positive"),
        ("attack.dtype", "float8", r"config.attack.dtype = 'float8': choose one of float32, bfloat16"),
        ("attack.dtype", "bfloat16", r"config.attack.dtype = 'bfloat16': bfloat16 rounds pixels to 1/256, too coarse for eps 0.01"),
        ("steps_per_dispatch", 0, r"config.steps_per_dispatch = 0: must be positive"),
        ("steps_per_dispatch", 16, r"config.checkpoint_every = 1000: must be divisible by steps_per_dispatch, 16"),
        ("evaluation.eps", (0.1, 3.0), r"config.evaluation.eps"),
    ],
)
def test_bad_fields_are_named_with_the_mend(field, value, message):
    config = get_config("mnist", "ig_norm" if field == "defense.points" else "int")
    config.batch_size = 48
    parent = config
    *path, last = field.split(".")
    for part in path:
        parent = parent[part]
    if value == "bfloat16":
        config.eps = 0.01
    parent[last] = value
    with pytest.raises(UserError, match=message):
        common.validate(config, num_devices=4)


def test_a_map_for_a_method_that_compares_none_is_refused():
    config = get_config("mnist", "adv")
    config.map = "saliency"
    with pytest.raises(UserError, match=r"config.map = 'saliency': adv compares no maps: only int, int_one_class"):
        common.validate(config)


def test_options_of_another_method_are_refused():
    config = get_config("mnist", "int")
    config.method = "adv"
    with pytest.raises(UserError, match=r"config.defense"):
        common.validate(config)


def test_changes_list_every_difference():
    old, new = {"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 4, "d": 3}, "e": 5}
    assert common.changes(old, new) == [r"config.b.c: 2 -> 4", r"config.e: '(absent)' -> 5"]
