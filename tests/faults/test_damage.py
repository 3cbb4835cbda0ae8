"""Files that were damaged, each in seven ways: the right value, or one line."""

import gc
import json
import shutil

import numpy as np
import pytest
from damage import copied, counted, files_of, one_line_or, put, ways  # noqa: F401

import irob
from experiments import data
from experiments.configs import base
from experiments.data import load_split
from experiments.reports import results
from experiments.runtime.checkpoints import Checkpoints, fingerprint
from experiments.runtime.errors import UserError
from experiments.runtime.models import from_workdir
from experiments.runtime.variables import read_variables
from experiments.training.loop import train

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what orbax's reads leave after an error


@pytest.fixture(autouse=True)
def nothing_left():
    """What an error left is collected here, where its warnings are ignored, not in a later test."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A workdir with two checkpoints, its config, and the digest of the parameters at each step."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    config = base.load_config("digits:normal,tiny", ["checkpoint_every=4", "keep_last=3", "validation.num_examples=16"])
    train(config, str(workdir))
    return workdir, config, {step: fingerprint(from_workdir(str(workdir), step).params) for step in ("4", "8", "latest", "best")}


def chosen(request, whole, seed):
    """Of all ways, one that the seed picks; with --trials, as many."""
    return [list(whole.items())[(seed + i) % len(whole)] for i in range(min(request.config.getoption("--trials"), len(whole)))]


@pytest.mark.parametrize("step", ["4", "8"])
def test_checkpoints(finished, step, tmp_path, request):
    """Whatever is damaged, the other checkpoint stays usable, and training says where to go on."""
    workdir, config, digests = finished
    for number, file in enumerate(files_of(workdir / "checkpoints" / step)):
        for name, content in chosen(request, ways((workdir / "checkpoints" / step / file).read_bytes(), number), number):
            place = copied(workdir, tmp_path / "run")
            put(place / "checkpoints" / step / file, content)
            for wanted in ("4", "8", "latest", "best"):
                message = one_line_or(
                    lambda place=place, w=wanted: fingerprint(from_workdir(str(place), w).params), digests[wanted], "checkpoint read"
                )
                untouched = wanted not in (step, "best") and not (wanted == "latest" and step == "8")
                assert not (untouched and message), (file, name, wanted, message)
            message = one_line_or(lambda place=place: fingerprint(train(config, str(place)).params), digests["8"], "checkpoint resumed")
            assert message is None or (step == "8" and "--from_step=4 continues" in message), (file, name, message)


def test_damaged_scores_are_written_anew_from_the_metadata(finished, tmp_path, capsys):
    workdir, config, digests = finished
    place = copied(workdir, tmp_path / "run")
    (place / "checkpoints/4/metrics/metrics").write_text("{")
    assert fingerprint(from_workdir(str(place), "best").params) == digests["best"]
    train(config, str(place))
    assert "the scores of checkpoint 4 were damaged, and are written anew" in capsys.readouterr().err
    assert json.loads((place / "checkpoints/4/metrics/metrics").read_text()) == json.loads(
        (workdir / "checkpoints/4/metrics/metrics").read_text()
    )
    (place / "checkpoints/4/metrics/metrics").write_text("{")
    (place / "checkpoints/4/metadata/metadata").write_text("{")
    with pytest.raises(UserError, match=r"the scores of checkpoint 4 .* are damaged: move .*4 away"):
        train(config, str(place))


def test_training_goes_back_to_a_checkpoint_that_is_good(finished, tmp_path, capsys):
    workdir, config, digests = finished
    place = copied(workdir, tmp_path / "run")
    put(place / "checkpoints/8/state/manifest.ocdbt", b"")
    with pytest.raises(UserError, match="--from_step=4 continues from the one before"):
        train(config, str(place))
    with pytest.raises(UserError, match=r"--from_step=5: .* has the checkpoints 4, 8"):
        train(config, str(place), from_step=5)
    assert fingerprint(train(config, str(place), from_step=4).params) == digests["8"]
    assert "the checkpoints 8 are now in" in capsys.readouterr().err and (place / "set_aside" / "8").is_dir()
    assert fingerprint(train(config, str(place), from_step=4).params) == digests["8"] and not (place / "set_aside" / "8_1").exists()
    assert "has all 8 steps already" in capsys.readouterr().err  # the same command again: it has gone back already
    put(place / "checkpoints/8/state/manifest.ocdbt", b"")
    assert fingerprint(train(config, str(place), from_step=4).params) == digests["8"] and (place / "set_aside" / "8_1").is_dir()
    with Checkpoints(place, read_only=True) as checkpoints:
        assert checkpoints.steps() == [4, 8]


def test_a_damaged_best_is_not_replaced_by_another(finished, tmp_path):
    place = copied(finished[0], tmp_path / "run")
    put(place / "checkpoints/8/metadata/metadata", b"{}")
    with pytest.raises(UserError, match=r"checkpoint 8 .* is damaged"):
        from_workdir(str(place), "best")


def test_files_of_a_workdir(finished, tmp_path, request):
    workdir, config, digests = finished
    for number, name in enumerate(["config.json", "metrics.jsonl"]):
        for way, content in ways((workdir / name).read_bytes(), number).items():
            place = copied(workdir, tmp_path / "run")
            put(place / name, content)
            message = one_line_or(lambda place=place: fingerprint(train(config, str(place)).params), digests["8"], "workdir")
            assert name == "config.json" or message is None, (name, way, message)


def test_tfds_directories(tmp_path, monkeypatch, request):
    from tfds_directories import write_mnist

    monkeypatch.setenv("IROB_CACHE", str(tmp_path / "cache"))
    write_mnist(tmp_path / "whole")
    expected = {split: data.load_split("mnist", split, str(tmp_path / "whole")).source["sha256"] for split in ("train", "test")}
    for number, file in enumerate(files_of(tmp_path / "whole")):
        found = ways((tmp_path / "whole" / file).read_bytes(), number)
        for _, content in list(found.items())[number % 2 :: 2 if request.config.getoption("--trials") == 1 else 1]:
            place = copied(tmp_path / "whole", tmp_path / "damaged")
            put(place / file, content)
            shutil.rmtree(tmp_path / "cache", ignore_errors=True)
            for split, digest in expected.items():
                read = lambda split=split: data.load_split("mnist", split, str(place)).source["sha256"]  # noqa: B023
                message = one_line_or(read, digest, "tfds")
                assert message is None or "mnist" in message


def test_a_cache_that_cannot_be_written_costs_time_alone(tmp_path, monkeypatch, capsys):
    from tfds_directories import write_mnist

    write_mnist(tmp_path / "tfds")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IROB_CACHE", str(tmp_path / "file"))
    assert len(data.load_split("mnist", "test", str(tmp_path / "tfds")).labels) == 40
    assert f"warning: {tmp_path / 'file'} cannot be written" in capsys.readouterr().err


def test_image_folders(tmp_path):
    from PIL import Image

    random = np.random.default_rng(0)
    for split in ("train", "test", "validation"):
        for kind in ("a", "b"):
            (tmp_path / "whole" / split / kind).mkdir(parents=True)
            for i in range(3):
                Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / "whole" / split / kind / f"{i}.png")
    read = lambda place: load_split(f"folder:{place}", "test").first(5).images.tobytes()
    expected = read(tmp_path / "whole")
    file = tmp_path / "whole/test/a/1.png"
    for content in list(ways(file.read_bytes()).values())[1:]:
        place = copied(tmp_path / "whole", tmp_path / "damaged")
        put(place / "test/a/1.png", content)
        message = one_line_or(lambda: read(place), expected, "image folder")  # noqa: B023
        assert message is None or "1.png" in message


def test_result_files(finished, tmp_path):
    """One whole file; each of its bits that is read is covered by its checksum."""
    from experiments.evaluation.engine import Evaluation
    from experiments.evaluation.examples import First
    from experiments.evaluation.measures import pgd
    from experiments.evaluation.run import run_measures

    model = from_workdir(str(finished[0]))
    chosen = {"pgd": (pgd.MEASURE, pgd.Options(images=First(4), restarts=1, steps=(1,)))}
    result, arrays = run_measures(Evaluation(model, data.load_split("digits", "test").first(4), (0.0, 0.1)), chosen)
    results.write_result(result, arrays, tmp_path / "whole.json")
    read = lambda file: json.dumps(results.read_result(file).as_dict(), sort_keys=True)
    expected = read(tmp_path / "whole.json")
    content = (tmp_path / "whole.json").read_bytes()
    for seed in range(12):
        for damaged in ways(content, seed).values():
            file = tmp_path / "damaged.json"
            file.write_bytes(content)
            put(file, damaged)
            one_line_or(lambda: read(file), expected, "result")  # noqa: B023


def test_weights(tmp_path, small):
    from safetensors.numpy import save_file

    arrays = {"w": np.arange(600, dtype=np.float32).reshape(20, 30), "b": np.zeros(30, np.float32)}
    np.savez(tmp_path / "whole.npz", **arrays)
    save_file(arrays, tmp_path / "whole.safetensors")
    read = lambda file: {name: array.tobytes() for name, array in read_variables(str(file), arrays).items()}
    for name in ("whole.npz", "whole.safetensors"):
        expected, content = read(tmp_path / name), (tmp_path / name).read_bytes()
        file = tmp_path / f"damaged{(tmp_path / name).suffix}"
        for seed in range(6):
            for way, damaged in ways(content, seed).items():
                file.write_bytes(content)
                put(file, damaged)
                if (name, way) == ("whole.safetensors", "one bit"):
                    continue  # this format has no checksum: the digest of what was read stands in every result
                one_line_or(lambda: read(file), expected, "weights")  # noqa: B023
    network, params = small
    content = irob.paper.dumps(network, params)
    expected = fingerprint(irob.paper.loads(content).params)
    for seed in range(3):
        for way, damaged in ways(content, seed).items():
            if damaged is not None and way != "one bit":  # nor has theirs one
                one_line_or(lambda: fingerprint(released(damaged)), expected, "released weights")  # noqa: B023


def released(content):
    """The parameters in a file of the paper's authors."""
    try:
        return irob.paper.loads(content).params
    except ValueError as error:
        raise UserError(f"the file of weights: {error}") from error


def test_without_its_config_a_run_is_what_its_checkpoints_say(finished, tmp_path):
    workdir, config, digests = finished
    place = copied(workdir, tmp_path / "run")
    (place / "config.json").unlink()
    other = base.load_config("digits:normal,tiny", ["checkpoint_every=4", "keep_last=3", "validation.num_examples=16", "seed=7"])
    with pytest.raises(UserError, match=r"config.seed: 99 -> 7"):
        train(other, str(place))
    assert not (place / "config.json").exists()
    assert fingerprint(train(config, str(place)).params) == digests["8"]
    assert json.loads((place / "config.json").read_text())["seed"] == 99


def test_scores_that_were_altered_do_not_decide_what_is_deleted(finished, tmp_path, capsys):
    workdir, config, _ = finished
    place = copied(workdir, tmp_path / "run")
    file = place / "checkpoints/4/metrics/metrics"
    written = json.loads(file.read_text())
    for altered in (lambda: file.write_text(json.dumps(written | {"robust_accuracy": 0.99})), lambda: shutil.rmtree(file.parent)):
        altered()
        train(config, str(place))
        assert json.loads(file.read_text()) == written and "written anew" in capsys.readouterr().err


def test_a_folder_with_another_name_is_no_checkpoint(finished, tmp_path):
    place = copied(finished[0], tmp_path / "run")
    (place / "checkpoints/8").rename(place / "checkpoints/bad_8")
    assert fingerprint(from_workdir(str(place), "latest").params) == finished[2]["4"]
    (place / "checkpoints/bad_8").rename(place / "checkpoints/12")
    with pytest.raises(UserError, match=r"checkpoint 12 .* is damaged: it is of step 8, and its folder has another name"):
        from_workdir(str(place), "latest")
