"""Presets, options and the images of a protocol."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.evaluation import options
from experiments.evaluation.examples import First, choose_images, class_index
from experiments.evaluation.measures import MEASURES, find_measure
from experiments.evaluation.options import MeasureOptions, option
from experiments.evaluation.presets import PROTOCOLS, Protocol, options_of
from experiments.evaluation.run import choose_measures
from experiments.runtime.errors import UserError
from experiments.runtime.values import integer, number, several
from irob.paper import PaperDraw


def test_the_papers_images():
    images = {name: measure.presets["paper"].images for name, measure in MEASURES.items()}
    np.testing.assert_array_equal(images["pgd"].indices(10_000)[:5], [7653, 7865, 3226, 5912, 8237])
    counts = [len(images[measure].indices(10_000)) for measure in ("pgd", "aai", "bound", "tradeoff")]
    assert counts == [200, 200, 100, 5]


@pytest.mark.parametrize(("seed", "start", "stop"), [(99, 0, 200), (52, 37, 42)])
def test_the_papers_draws_in_their_order(seed, start, stop):
    """One generator: a permutation, then the targets' offsets, then the noise."""
    draw = PaperDraw(seed, start, stop)
    np.random.seed(seed)
    indices = np.random.permutation(500)[start:stop]
    offsets = 1 + np.random.choice(8, len(indices))
    noise = np.random.uniform(-0.1, 0.1, (len(indices), 4, 4, 1))
    np.testing.assert_array_equal(draw.indices(500), indices)
    np.testing.assert_array_equal(draw.target_offsets(500, 9), offsets)
    np.testing.assert_allclose(0.1 * draw.noise(500, 9, (4, 4, 1)), noise, atol=1e-8)


def test_a_drawn_target_is_never_the_label():
    assert set(PaperDraw(99, 0, 200).target_offsets(10_000, 10)) == set(range(1, 10))


def test_choosing_images():
    labels = np.arange(50) % 4
    np.testing.assert_array_equal(choose_images(First(), 7, labels).indices(50), np.arange(7))
    assert choose_images(First(9), None, labels) == First(9)
    np.testing.assert_array_equal(choose_images(First(), None, labels, (1, 3)).indices(50), np.arange(1, 50, 2))
    np.testing.assert_array_equal(choose_images(First(), 3, labels, (1, 3)).indices(50), [1, 3, 5])
    assert choose_images(First(200), None, labels, (0,)).most == 200
    with pytest.raises(UserError, match=r"--classes: the split has no image of them, \(7,\)"):
        choose_images(First(), None, labels, (7,))
    assert len(First().indices(5000)) == 5000 and len(First(200).indices(5000)) == 200 and len(First(200).indices(24)) == 24
    assert First().target_offsets(50, 10) is None
    for images, n, message in (
        (PaperDraw(1, 0, 5), 10, "its own images"),
        (First(), 51, r"must be in 1\.\.50"),
        (First(), 0, r"must be in 1\.\.50"),
    ):
        with pytest.raises(UserError, match=message):
            choose_images(images, n, labels)


def test_a_class_by_name_or_number():
    names = ("cat", "dog", "7")
    assert [class_index(text, names, "classes") for text in ("dog", "0", "7")] == [1, 0, 2]
    for text in ("owl", "3", "-1"):
        with pytest.raises(UserError, match=rf"--target={text}: the classes are cat, dog, 7, or 0 \.\. 2"):
            class_index(text, names, "target")


def test_every_measure_has_a_preset_for_every_protocol():
    for name, measure in MEASURES.items():
        for protocol in PROTOCOLS.values():
            assert protocol.base in measure.presets, name


def test_settings_are_values_that_json_has():
    for measure in MEASURES.values():
        for preset in measure.presets.values():
            settings = options.settings(preset)
            assert json.loads(json.dumps(settings)) == settings
            assert hash(preset) == hash(dataclasses.replace(preset))
    paper = options.settings(MEASURES["bound"].presets["paper"])
    assert paper["step_sizes"] == "0.2 eps" and paper["images"] == {"kind": "PaperDraw", "seed": 99, "start": 0, "stop": 100}


@dataclasses.dataclass(frozen=True)
class Own(MeasureOptions):
    threshold: float = option(0.5, number(), "of confidence")
    steps: tuple[int, ...] = option((1,), several(integer(1), 1), "number of steps")
    hidden: int = 3


def test_options_from_the_text_of_flags():
    own = options.with_flags(Own(), {"threshold": "1/4", "steps": "2,3", "of_another_measure": "x"})
    assert own == Own(threshold=0.25, steps=(2, 3))
    assert list(options.flag_fields(Own())) == ["threshold", "steps"]
    with pytest.raises(UserError, match=r"--steps=0: must be a whole number, at least 1"):
        options.with_flags(Own(), {"steps": "0"})
    with pytest.raises(UserError, match=r"--k: none of own has this option"):
        options.refuse_unused(["k", "steps"], {"own": Own()})


def test_a_protocol_replaces_values_of_a_preset(monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "short", Protocol("a short one", "standard", {"pgd": {"restarts": 1, "steps": (7,)}}))
    short, standard = (choose_measures(("pgd", "aai"), protocol) for protocol in ("short", "standard"))
    assert short["pgd"].options == dataclasses.replace(standard["pgd"].options, restarts=1, steps=(7,))
    assert short["aai"].options == standard["aai"].options
    monkeypatch.setitem(PROTOCOLS, "wrong", Protocol("", "standard", {"pgd": {"restart": 1}}))
    with pytest.raises(UserError, match="--protocol=wrong: the measure pgd has no option restart"):
        choose_measures(("pgd",), "wrong")
    monkeypatch.setitem(PROTOCOLS, "none", Protocol("", "standard", {"pgd": {"steps": (0,)}}))
    with pytest.raises(UserError, match=r"--protocol=none: steps = \(0,\) of pgd: must be a whole number, at least 1"):
        choose_measures(("pgd",), "none")
    with pytest.raises(UserError, match="--protocol=math:pi is not a Protocol record"):
        choose_measures(("pgd",), "math:pi")
    with pytest.raises(UserError, match="the measure own has no preset 'paper'"):
        options_of("paper", "own", {"standard": Own()})


def test_unknown_names():
    with pytest.raises(UserError, match="unknown protocol 'weak': choose one of standard, paper"):
        choose_measures(("pgd",), "weak")
    with pytest.raises(UserError, match="unknown measure 'beauty': choose one of aai, autoattack, bound"):
        find_measure("beauty")
    with pytest.raises(UserError, match="measure 'math:pi' is not a Measure record"):
        find_measure("math:pi")


# Their presets differ in the images alone.
IMAGES_ALONE = ("inversion", "topk_overlap", "autoattack", "diagnose", "explanations", "map_attacks", "certify")


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_says_how_it_is_measured(name):
    """Two presets with other settings are described differently."""
    measure = MEASURES[name]
    texts = {measure.describe(preset) for preset in measure.presets.values()}
    assert len(texts) == 2 or name in IMAGES_ALONE
    assert measure.title and measure.columns
