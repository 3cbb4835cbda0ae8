"""A user's mistakes end in one line that names the field and the fix. (What each module refuses is tested beside it; here are the ways in.)"""

import pytest

TRAIN = ("train", "--workdir", "/tmp/irob-never-made")
TINY = ("--config", "experiments/configs/digits.py:int,tiny")
EVALUATE = ("evaluate", "--workdir", "/nowhere")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*TRAIN, "--config", "experiments/configs/digits.py:fancy"), "unknown method 'fancy': choose one of normal, adv"),
        ((*TRAIN, "--config", "experiments/configs/digit.py:int"), "there is no file 'experiments/configs/digit.py'"),
        ((*TRAIN, *TINY, "--config.batchsize=3"), "the config has no field 'batchsize'"),
        ((*TRAIN, *TINY, "--config.eps=2.0"), "config.eps = 2.0: every linf eps must be in [0, 1]"),
        ((*TRAIN, *TINY, "--config.batch_size=many"), "config.batch_size = 'many': must be a whole number, at least 1"),
        (
            (*TRAIN, "--config", "experiments/configs/cifar10.py", "--data_dir", "/nowhere"),
            "run python -m experiments.prepare_data --dataset cifar10",
        ),
        ((*TRAIN,), "config"),
        ((*TRAIN, *TINY, "stray"), "unexpected argument 'stray'"),
        (EVALUATE, "there are no checkpoints in /nowhere"),
        ((*EVALUATE, "--protocol", "weak"), "unknown protocol 'weak': choose one of standard, paper"),
        ((*EVALUATE, "--eps", "0,a"), "--eps=0,a: must be a number or a fraction"),
        ((*EVALUATE, "--measure", "pgd,beauty"), "unknown measure 'beauty': choose one of aai, autoattack, bound"),
        ((*EVALUATE, "--measure", "mine.flips:MEASURE"), "measure 'mine.flips:MEASURE': there is no module 'mine'"),
        ((*EVALUATE, "--steps", "nan"), "--steps=nan: must be a whole number, at least 1"),
        ((*EVALUATE, "--measure", "bound", "--budgets", "2,nan"), "--budgets=2,nan: must be positive and finite"),
        ((*EVALUATE, "--measure", "bound", "--budgets", "3,2"), "--budgets=3,2: must ascend"),
        ((*EVALUATE, "--measure", "bound", "--budgets", "1,2"), "--budgets=1,2: multiples of the smallest eps, each larger than 1"),
        ((*EVALUATE, "--measure", "aai", "--map", "heat"), "--map=heat: choose one of cam, grad_cam"),
        ((*EVALUATE, "--map", "saliency"), "--map: none of pgd has this option"),
        ((*EVALUATE, "--measure", "unforeseen", "--unforeseen_attacks", "rain"), "--unforeseen_attacks=rain: choose one of jpeg_linf"),
        ((*EVALUATE, "--dataset", "mnist"), "--dataset goes with --weights or --model"),
        (("evaluate",), "give one of --workdir of a training, --weights FILE.pkl, or --model package.module:make"),
        (("evaluate", "--model", "small"), "--model small needs --dataset, one of digits"),
        (
            ("evaluate", "--model", "small", "--dataset", "digits", "--variables", "/nowhere.npz"),
            "there is no file of variables /nowhere.npz",
        ),
        (
            ("evaluate", "--model", "small", "--dataset", "digits", "--variables", "setup.py"),
            "setup.py is no file of variables",
        ),
        (("evaluate", "--model", "small", "--dataset", "digits", "--norm", "l2"), "are lengths in linf: give --eps"),
        (("evaluate", "--model", "small", "--dataset", "digits", "--norm", "l7"), "unknown norm 'l7': choose one of linf, l2, l1"),
        (("evaluate", "--model", "small", "--dataset", "digits", "--classes", "1,ten"), "--classes=ten: the classes are 0, 1"),
        (("evaluate", "--model", "small", "--dataset", "digits", "--target", "ten"), "--target=ten: the classes are 0, 1"),
        ((*EVALUATE, "--measure="), "--measure is empty: give the name of a measure"),
        (("train", *TINY, "--workdir="), "--workdir is empty: give a path"),
        (("train", *TINY, "--workdir=gs://bucket/run"), "only folders of this machine (or mounted there) are read and written, not gs://"),
        (("train", *TINY, f"--workdir=/tmp/{'a' * 300}"), "--workdir: a name of 300 bytes is too long for a file"),
        ((*TRAIN, *TINY, "--coordinator=foo", "--num_processes=2"), "--coordinator=foo: must be auto, or host:port of process 0"),
        ((*EVALUATE, "--variables", "a.npz"), "--variables goes with --model"),
        (("evaluate", "--weights", "a.pkl", "--dataset", "digits", "--step", "best"), "--step goes with --workdir"),
        ((*EVALUATE, "--steps", "5,5"), "--steps=5,5: must not name one value twice"),
        (("evaluate", "--weights", "/nowhere.pkl"), "--weights /nowhere.pkl needs --dataset, one of digits"),
        (("evaluate", "--weights", "setup.py", "--dataset", "digits"), "it is no file of weights"),
        (("report", "--inputs", "/nowhere.json", "--out", "/tmp/irob-never-made"), "/nowhere.json cannot be read"),
        (("report", "--inputs", "irob", "--out", "/tmp/irob-never-made"), "there are no result files in irob"),
        (("benchmark", "--only", "everything"), "--only: there is no group 'everything': choose from mnist_small_int"),
        (("benchmark", "--out", "setup.py"), "--out setup.py exists: give another"),
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


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("train", ("config", "--workdir", "--data_dir", "--coordinator", "evaluation.eps ((0.0, 0.05")),
        ("evaluate", ("--measure", "--budgets", "--coordinator", "pgd           Accuracy", "of aai, pgd: how an objective is ascended")),
        ("report", ("--inputs",)),
        ("benchmark", ("--only",)),
        ("quickstart", ("tiny", "--workdir")),
        ("prepare_data", ("--raw_dir",)),
    ],
)
def test_help(commands, module, said):
    process = commands.start(module, "--help")
    out, err = process.communicate()
    assert f"python -m experiments.{module}" in out
    assert all(text in out for text in said) and "Traceback" not in err
