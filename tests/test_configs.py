"""Configs: every field stands once, in `base.FIELDS`; the data set files override it."""

import json

import ml_collections
import pytest

from experiments import data
from experiments.configs import base
from experiments.runtime.errors import UserError
from experiments.runtime.models import build_network
from irob.defenses import DEFENSES

FILES = ["digits", "mnist", "fashion_mnist", "cifar10", "restricted_imagenet"]


@pytest.mark.parametrize(("file", "method"), [*(("digits", method) for method in DEFENSES), *((file, "int") for file in FILES[1:])])
def test_every_config_is_valid_plain_and_buildable(file, method):
    for variant in (method, f"{method},tiny"):
        config = base.load_config(f"experiments/configs/{file}.py:{variant}")
        base.validate_config(config)
        assert base.plain_config(config) == json.loads(json.dumps(base.plain_config(config)))
        assert build_network(config).input_shape == data.DATASETS[config.dataset].image_shape
        assert (base.defense_of(config).inner is None) == (
            method in ("normal", "gradient_norm", "saliency_norm", "cure", "hessian_norm", "ssr")
        )


def test_bounds_are_trained_in_linf_alone():
    config = base.load_config("digits:ibp")
    config.attack.norm = "l2"
    with pytest.raises(UserError, match=r"config\.attack\.norm = 'l2': ibp is defined in linf"):
        base.validate_config(config)


def test_the_margin_of_the_interpretation_needs_maps_whose_means_are_the_logits():
    config = base.load_config("digits:int_margin", ["map=saliency"])
    with pytest.raises(UserError, match=r"config\.map = 'saliency': int_margin is defined for cam"):
        base.validate_config(config)


def test_the_papers_hyper_parameters():
    """Section 4.5 of the authors' system; the attack step of Restricted ImageNet is the one that is corrected."""
    table = {
        "mnist": (110_000, 50, 1e-4, {}, 0.3, (2_000, 10_000), 40, 0.01),
        "cifar10": (70_200, 128, 1e-3, {"40001": 0.1, "60001": 0.1}, 8 / 255, (5_000, 70_000), 10, 2 / 255),
        "restricted_imagenet": (140_000, 64, 1e-3, {"8001": 0.1, "16001": 0.1}, 0.003, (5_000, 10_000), 7, 0.001),
    }
    for file, expected in table.items():
        c = base.load_config(f"{file}:int")
        drops = c.schedule[1].get("boundaries_and_scales", {})
        schedule = (c.num_steps, c.batch_size, c.learning_rate, drops, c.eps, c.eps_ramp)
        assert c.optimizer == ("adam", {}) and not (c.augment or c.weight_decay or c.clip_norm or c.ema_decay or c.label_smoothing)
        assert (*schedule, c.attack.num_steps, c.attack.step_size) == expected
        assert base.plain_config(c)["defense"] == {"weight": 0.01} and c.seed == 99


@pytest.mark.parametrize(("name", "cheaper"), [("mnist", 50), ("fashion_mnist", 50), ("cifar10", 14)])
def test_the_fast_schedules_keep_what_is_attacked(name, cheaper):
    fast, paper = base.load_config(f"{name}:int,fast"), base.load_config(f"{name}:int")
    base.validate_config(fast)
    assert (fast.eps, fast.defense, fast.evaluation) == (paper.eps, paper.defense, paper.evaluation)
    assert fast.num_steps * fast.attack.num_steps < paper.num_steps * paper.attack.num_steps / cheaper
    assert fast.attack.num_steps * fast.attack.step_size >= fast.eps
    for other in ("digits:int,fast", "restricted_imagenet:int,fast"):
        with pytest.raises(UserError, match="unknown switch 'fast' in the config variant: there is tiny"):
            base.load_config(other)


@pytest.mark.parametrize(
    ("overrides", "field", "value"),
    [
        (["evaluation.eps=0,2/255,0.1"], "evaluation.eps", (0.0, 2 / 255, 0.1)),
        (["evaluation.eps=(0.0, 0.02)"], "evaluation.eps", (0.0, 0.02)),
        (["eps=8/255"], "eps", 8 / 255),
        (["eps_ramp=10,20"], "eps_ramp", (10, 20)),
        (["augment="], "augment", ()),
        (["augment=flip, padded_crop(pad=2)"], "augment", (("flip", {}), ("padded_crop", {"pad": 2}))),
        (["optimizer=sgd(momentum=9/10, nesterov=true)"], "optimizer", ("sgd", {"momentum": 0.9, "nesterov": True})),
        (["schedule=warmup_cosine_decay_schedule(warmup_steps=3)"], "schedule", ("warmup_cosine_decay_schedule", {"warmup_steps": 3})),
        (
            ["schedule=piecewise_constant_schedule(boundaries_and_scales={4: 0.1})"],
            "schedule",
            ("piecewise_constant_schedule", {"boundaries_and_scales": {"4": 0.1}}),
        ),
        (["attack.norm=l2", "eps=2", "attack.step_size=1/4", "evaluation.eps=0,1,2"], "attack.norm", "l2"),
        (["defense.weight=1/50"], "defense.weight", 0.02),
        (["num_steps=24", "num_steps=25"], "num_steps", 25),
    ],
)
def test_overrides_are_understood(overrides, field, value):
    config = base.load_config("digits:int,tiny", overrides)
    base.validate_config(config)
    assert base.flat(config.to_dict())[field] == value


@pytest.mark.parametrize(
    ("method", "options"),
    [("alp", {"weight": 0.5}), ("mart", {"beta": 5.0}), ("ig_norm", {"weight": 1.0, "points": 5}), ("adv", {})],
)
def test_a_method_given_by_override_has_its_own_options(method, options):
    """Not those of the variant's method: int's weight is 0.01, int_ig's too, trades' beta 1."""
    for variant in ("int", "int_ig", "trades"):
        assert base.plain_config(base.load_config(f"digits:{variant},tiny", [f"method={method}"]))["defense"] == options
    config = base.load_config("digits:int,tiny")
    config.method = method  # as in a notebook
    assert base.plain_config(config)["defense"] == options


def test_options_of_a_method_reach_it():
    one, two = (base.defense_of(base.load_config("digits:trades", [f"defense.beta={beta}"])) for beta in (1, 2))
    import test_defenses

    values = [defense.inner(test_defenses.toy, test_defenses.X, 1)(test_defenses.X_ADV) for defense in (one, two)]
    assert values[1] == pytest.approx(2 * values[0])
    assert base.defense_of(base.load_config("digits:ig_norm"), chunk=5).gradients == 5
    assert base.defense_of(base.load_config("digits:int"), chunk=5).gradients == 1  # it has no path


@pytest.mark.parametrize(
    ("given", "overrides", "message"),
    [
        ("mnist:intt", [], "unknown method 'intt': choose one of normal, adv"),
        ("mnist:int,big", [], "unknown switch 'big' in the config variant: there is fast, robust, tiny"),
        ("digit:int", [], "--config: there is no file 'digit'; the configs that come with the project are cifar10, digits"),
        ("README.md:int", [], "--config: 'README.md' is not a Python file"),
        ("setup.py:int", [], r"--config setup.py: running it raised"),
        ("digits:int", ["batchsize=3"], "the config has no field 'batchsize': there are dataset, network"),
        ("digits:int", ["eps_ramp[0]=1"], r"the config has no field 'eps_ramp\[0\]'"),
        ("digits:int", ["attack={}"], "the config has no field 'attack'"),
        ("digits:int", ["defense.beta=1"], "config.defense.beta: the method int takes the options weight"),
        ("digits:adv", ["defense.weight=1"], "config.defense.weight: the method adv takes no options"),
        ("digits:int", ["batch_size=many"], "config.batch_size = 'many': must be a whole number, at least 1"),
        ("digits:int", ["eps=-1"], "config.eps = '-1': must be finite and not negative"),
        ("digits:int", ["evaluation.eps=0,nan"], "config.evaluation.eps = '0,nan': must be finite"),
        ("digits:int", ["method=fancy"], "unknown method 'fancy': choose one of normal, adv"),
        ("digits:int", ["dataset=svhn"], "config.dataset = 'svhn': choose one of digits, mnist"),
        ("digits:int", ["eps_ramp=1,2,3"], "config.eps_ramp = '1,2,3': must be 2 values"),
        (
            "digits:int",
            ["attack.norm=l2", "eps=2"],
            "config.attack.norm = 'l2': attack.step_size, evaluation.eps would stay lengths in linf: give them, too",
        ),
        ("digits:int", ["eps"], "--config.eps: give a value, as in --config.eps=VALUE"),
        ("elsewhere/configs/mnist.py:int", [], "there is no file 'elsewhere/configs/mnist.py'"),
        ("mnist.txt:int", [], "there is no file 'mnist.txt'"),
    ],
)
def test_what_cannot_be_loaded_is_named(given, overrides, message):
    with pytest.raises(UserError, match=message):
        base.load_config(given, overrides)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("method", "fancy", r"config.method = 'fancy': choose one of normal, adv"),
        ("map", "heat", r"config.map = 'heat': choose one of cam, grad_cam"),
        ("map", "representation", r"config.map = 'representation': int compares maps of classes, and this one has none"),
        ("network", "vgg", r"config.network = 'vgg': choose one of small, pool, wresnet"),
        ("eps", 1.5, r"config.eps = 1.5: every linf eps must be in \[0, 1\], the range of a pixel"),
        ("eps", -0.1, r"config.eps = -0.1: must be finite and not negative"),
        ("num_steps", 0, r"config.num_steps = 0: must be a whole number, at least 1"),
        ("num_steps", None, r"config.num_steps = None: must be a whole number, at least 1"),
        ("attack.num_steps", -1, r"config.attack.num_steps = -1: must be a whole number, at least 1"),
        ("attack.step_size", 0.0, r"config.attack.step_size = 0.0: must be positive and finite"),
        ("attack.norm", "l7", r"config.attack.norm = 'l7': choose one of linf, l2, l1"),
        ("batch_size", 9, "divisible by the number of devices, 4: 8 would do"),
        ("batch_size", 3, "divisible by the number of devices, 4: 4 would do"),
        ("eps_ramp", (10, 5), r"config.eps_ramp = \(10, 5\): must be \(last step at 0, first step at full eps\), in this order"),
        ("learning_rate", float("inf"), r"config.learning_rate = inf: must be positive and finite"),
        ("eps_ramp", (1, 2, 3), r"config.eps_ramp = \(1, 2, 3\): must be 2 values"),
        ("optimizer", ("sgdd", {}), r"config.optimizer = \('sgdd', \{\}\): choose one of adabelief"),
        (
            "optimizer",
            ("sgd", {"beta": 1.0}),
            r"config.optimizer = .*: sgd takes momentum, nesterov, accumulator_dtype, not beta",
        ),
        ("optimizer", 3, "config.optimizer = 3: must be a name, a name with keyword arguments"),
        (
            "schedule",
            ("linear_schedule", {}),
            r"config.schedule = .*: linear_schedule needs end_value, as in linear_schedule\(end_value=...\)",
        ),
        ("optimizer", ("sgd", {"learning_rate": 0.1}), "sgd gets its learning_rate from the config: leave it out"),
        ("augment", "flip", r"config.augment = 'flip': must be a tuple of names"),
        ("augment", ("flop",), r"config.augment = \('flop',\): choose one of flip, padded_crop, cutout"),
        ("augment", (("padded_crop", {"pad": 1.5}),), r"config.augment = .*: padded_crop: pad = 1.5 must be like its default, 4"),
        ("mix", ("mixup", {"beta": 1.0}), r"config.mix = .*: mixup takes alpha, not beta"),
        ("ema_decay", 1.0, r"config.ema_decay = 1.0: must be finite and not negative, below 1"),
        ("seed", -1, r"config.seed = -1: must be a whole number, from 0 to 4294967295"),
        ("defense.weight", float("nan"), r"config.defense.weight = nan: must be finite"),
        ("defense.points", 0, r"config.defense.points = 0: must be a whole number, at least 1"),
        ("defense.beta", 1.0, r"config.defense.beta: the method int takes the options weight"),
        ("attack.dtype", "float8", r"config.attack.dtype = 'float8': choose one of float32, bfloat16"),
        ("attack.dtype", "bfloat16", r"config.attack.dtype = 'bfloat16': bfloat16 rounds pixels to 1/256, too coarse for eps 0.01"),
        ("steps_per_dispatch", -1, r"config.steps_per_dispatch = -1: must be a whole number, at least 0"),
        ("steps_per_dispatch", 16, r"config.checkpoint_every = 1000: must be divisible by steps_per_dispatch, 16"),
        ("evaluation.eps", (0.1, 3.0), r"config.evaluation.eps = \(0.1, 3.0\): every linf eps must be in \[0, 1\]"),
        ("surprise", 1, "the config has no field 'surprise'"),
    ],
)
def test_bad_fields_are_named_with_the_fix(field, value, message):
    config = base.load_config("mnist:ig_norm" if field == "defense.points" else "mnist:int")
    config.batch_size = 48
    if value == "bfloat16":
        config.eps = 0.01
    *path, last = field.split(".")
    parent = config
    for part in path:
        parent = parent[part]
    with parent.ignore_type():
        parent[last] = value
    with pytest.raises(UserError, match=message):
        base.validate_config(config, num_devices=4)


def test_a_map_for_a_method_that_compares_none_is_refused():
    config = base.load_config("mnist:adv", ["map=saliency"])
    with pytest.raises(UserError, match=r"config.map = 'saliency': adv compares no maps: int, int_one_class"):
        base.validate_config(config)


def test_a_config_that_lacks_a_field_is_refused():
    config = ml_collections.ConfigDict({"dataset": "mnist", "method": "int", "defense": {}})
    with pytest.raises(UserError, match=r"the config has no field 'network': make it with experiments\.configs\.base\.make"):
        base.validate_config(config)


def test_a_file_of_ones_own(tmp_path):
    file = tmp_path / "mine.py"
    body = "return base.make(variant, {'num_steps': 7}, long={'num_steps': 70})"
    file.write_text(f"from experiments.configs import base\n\n\ndef get_config(variant=''):\n    {body}\n")
    assert base.load_config(f"{file}:adv").num_steps == 7 and base.load_config(f"{file}:adv,long").num_steps == 70
    assert base.load_config(str(file)).method == "int"
    file.write_text("import nothing_of_this_name\n")
    with pytest.raises(UserError, match=r"mine.py: running it raised ModuleNotFoundError: No module named 'nothing_of_this_name'"):
        base.load_config(str(file))
    file.write_text("def get_config(variant=''):\n    return 1 / 0\n")
    with pytest.raises(UserError, match=r"mine.py: running it raised ZeroDivisionError"):
        base.load_config(str(file))
    file.write_text("x = 1\n")
    with pytest.raises(UserError, match=r"it has no function get_config\(variant\)"):
        base.load_config(str(file))


def test_a_config_stored_before_a_field_existed_means_what_it_did():
    stored = base.plain_config(base.load_config("mnist:int"))
    del stored["steps_per_dispatch"], stored["map"], stored["attack"]["dtype"], stored["eps_ramp"], stored["defense"]["weight"]
    stored["eps_ramp"] = list(base.load_config("mnist:int").eps_ramp)
    completed = base.with_defaults(stored)
    assert base.changes(completed, base.plain_config(base.load_config("mnist:int"))) == []
    config = base.config_dict(completed)
    base.validate_config(config)
    assert config.defense.weight == 0.01


def test_a_tuple_that_did_not_exist_yet_is_no_change():
    wanted = base.plain_config(base.load_config("digits:int", ["augment="]))
    stored = {key: value for key, value in wanted.items() if key != "augment"}
    assert base.changes(base.with_defaults(stored), wanted) == []


@pytest.mark.parametrize("field", ["attack_steps"])
def test_what_decides_the_best_checkpoint_decides_the_run(field):
    one, other = (base.plain_config(base.load_config("digits:int", [f"validation.{field}={n}"])) for n in (5, 6))
    assert base.changes(one, other) == [f"config.validation.{field}: 5 -> 6"]


def test_an_empty_method_is_int():
    assert base.load_config("digits:,tiny").method == base.load_config("digits").method == "int"


def test_changes_list_every_difference_that_decides_the_result():
    old, new = {"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 4, "d": 3}, "e": 5}
    assert base.changes(old, new) == ["config.b.c: 2 -> 4", "config.e: '(absent)' -> 5"]
    run = base.plain_config(base.load_config("mnist:int"))
    other = base.plain_config(base.load_config("mnist:int", ["log_every=10", "keep_last=5", "checkpoint_every=500", "evaluation.eps=0.1"]))
    assert run != other and base.changes(run, other) == []
    assert base.changes(run, base.plain_config(base.load_config("mnist:int", ["eps=0.2"]))) == ["config.eps: 0.3 -> 0.2"]


def test_every_field_is_described():
    lines = base.describe_fields().splitlines()
    assert len(lines) == len(base.FIELDS) and all(len(line.split(": ", 1)[1]) > 5 for line in lines)
    for field in base.FIELDS.values():
        assert field.kind.check(field.default) == field.default
