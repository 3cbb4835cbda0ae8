"""A user's mistakes end in one line that names the field and the mend."""

import pytest

TRAIN = ("train", "--workdir", "/tmp/irob-never-made")
TINY = ("--config", "experiments/configs/digits.py:int,tiny")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*TRAIN, "--config", "experiments/configs/digits.py:fancy"), "unknown method 'fancy': choose one of normal, adv"),
        ((*TRAIN, "--config", "experiments/configs/digit.py:int"), "there is no file 'experiments/configs/digit.py'"),
        ((*TRAIN, *TINY, "--config.batchsize=3"), "the config has no such field"),
        ((*TRAIN, *TINY, "--config.batch_size=many"), "batch_size"),
        ((*TRAIN, *TINY, "--config.eps=2.0"), "config.eps = 2.0: must be in [0, 1]"),
        ((*TRAIN, *TINY, "--config.dataset=svhn"), "unknown data set 'svhn'"),
        (
            (*TRAIN, "--config", "experiments/configs/cifar10.py", "--data_dir", "/nowhere"),
            "run python -m experiments.prepare_data --dataset cifar10",
        ),
        ((*TRAIN,), "config"),
        ((*TRAIN, *TINY, "stray"), "unexpected argument 'stray'"),
        (("evaluate", "--workdir", "/nowhere"), "there are no checkpoints in /nowhere"),
        (("evaluate", "--workdir", "/nowhere", "--protocol", "weak"), "unknown protocol 'weak': choose one of standard, paper"),
        (("evaluate", "--workdir", "/nowhere", "--eps", "0,a"), "--eps=0,a: numbers or fractions"),
        (("evaluate", "--workdir", "/nowhere", "--measure", "pgd,beauty"), "unknown measure 'beauty': choose from pgd, aai, bound"),
        (("evaluate", "--workdir", "/nowhere", "--steps", "0"), "--steps=0: whole numbers from 1 on"),
        (("evaluate", "--workdir", "/nowhere", "--steps", "nan"), "--steps=nan: whole numbers from 1 on"),
        (("evaluate", "--workdir", "/nowhere", "--budgets", "2,nan"), "--budgets: multiples of the smallest eps, each larger than 1"),
        (("evaluate", "--workdir", "/nowhere", "--budgets", "1,2"), "--budgets: multiples of the smallest eps, each larger than 1"),
        (("evaluate", "--workdir", "/nowhere", "--budgets", "3,2"), "--budgets must ascend"),
        (("evaluate", "--workdir", "/nowhere", "--measure", "topk_overlap"), "give --versus WORKDIR or FILE.pkl"),
        (("evaluate", "--workdir", "/nowhere", "--map", "heat", "--measure", "aai"), "unknown map 'heat': choose from cam, grad_cam"),
        (("evaluate", "--workdir", "/nowhere", "--map", "saliency"), "--map=saliency: of pgd none looks at other maps"),
        (
            ("evaluate", "--workdir", "/nowhere", "--map", "representation", "--measure", "aai"),
            "aai needs maps of a class, and it has none",
        ),
        (
            ("evaluate", "--workdir", "/nowhere", "--attack", "rain", "--measure", "unforeseen"),
            "unknown attack 'rain': choose from jpeg_linf",
        ),
        (("evaluate", "--workdir", "/nowhere", "--attack", "fog"), "--attack=fog goes with --measure unforeseen"),
        (
            ("evaluate", "--workdir", "/nowhere", "--attack", "elastic", "--measure", "unforeseen", "--protocol", "paper"),
            "--attack=elastic: the paper protocol has no such attack",
        ),
        (("evaluate", "--workdir", "/nowhere", "--dataset", "mnist"), "--dataset goes with --weights"),
        (("evaluate",), "give either --workdir of a training or --weights FILE.pkl"),
        (("evaluate", "--weights", "/nowhere.pkl"), "--weights /nowhere.pkl needs --dataset, one of digits"),
        (("evaluate", "--weights", "/nowhere.pkl", "--dataset", "digits"), "--weights /nowhere.pkl cannot be read: No such file"),
        (("evaluate", "--weights", "setup.py", "--dataset", "digits"), "it is no file of weights"),
        (("report", "--inputs", "/nowhere.json", "--out", "/tmp/irob-never-made"), "/nowhere.json cannot be read"),
        (("report", "--inputs", "tests", "--out", "/tmp/irob-never-made"), "there are no result files in tests"),
        (("benchmark", "--only", "everything"), "--only: there is no group 'everything': choose from mnist_small_int"),
        (("prepare_data", "--dataset", "svhn"), "--dataset=svhn: choose one of mnist"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_one_line(commands, arguments, message):
    said = commands.refused(*arguments)
    assert message in said
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1


def test_batch_not_divisible_by_devices(commands):
    _, err = commands.run(*TRAIN, *TINY, "--config.batch_size=9", devices=4, code=2)
    assert "config.batch_size = 9: must be divisible by the number of devices, 4: 8 would do" in err


@pytest.mark.parametrize("module", ["train", "evaluate", "report", "benchmark", "quickstart", "prepare_data"])
def test_help(commands, module):
    process = commands.start(module, "--help")
    out, err = process.communicate()
    assert f"python -m experiments.{module}" in out and "--" in out
    assert "Traceback" not in err
