"""The seeds of a training as one row: labels, means and ranges, and paired tests."""

import dataclasses

import numpy as np
import pytest
import scipy.stats
from test_reports import PROVENANCE, texts

from experiments.evaluation import reporting
from experiments.reports.entries import read_entries
from experiments.reports.records import proportion_record
from experiments.reports.results import MeasureInfo, Result, write_result
from experiments.reports.seeds import mean_over_seeds, over_seeds
from experiments.reports.strongest import strongest_tables
from experiments.reports.summary import summarized
from irob.metrics import mcnemar, paired_difference

LABELS = np.arange(6) % 3


def result(seed, right, method="int", weight=0.01, split="test", attack_seed=None):
    """One seed of a training, PGD at two eps; right: `[2, n]`, which images withstand."""
    right = np.asarray(right, bool)
    records = [proportion_record("clean_accuracy", right[0], eps=0.0)]
    records += [
        proportion_record("robust_accuracy", right[1], eps=0.1, attack="pgd", norm="linf", steps=150, white_box=float(right[1].mean()))
    ]
    records = [dataclasses.replace(record, measure="pgd") for record in records]
    config = {"seed": seed, "defense": {"weight": weight}, "log_every": seed}
    made = {
        **PROVENANCE,
        "config": config,
        "checkpoint": {"sha256": f"{method}{seed}{weight}", "step": 3, "workdir": f"runs/{method}/{seed}"},
    }
    source = {"name": "digits", "from": "here"} | ({} if split == "test" else {"split": split})
    seed = seed if attack_seed is None else attack_seed
    return Result(method, "digits", "standard", seed, {"pgd": MeasureInfo(right.shape[1], "", {})}, records, source, made)


def arrays(right):
    right = np.asarray(right, bool)
    predictions = np.where(right, LABELS[: right.shape[1]], (LABELS[: right.shape[1]] + 1) % 3)
    n = right.shape[1]
    return {
        "pgd/indices": np.arange(n),
        "pgd/labels": LABELS[:n],
        "pgd/eps": np.array([0.0, 0.1]),
        "pgd/predictions_150_steps": predictions,
    }


RIGHT = {  # method, seed -> which of 6 images withstand at 0 and at eps
    ("int", 1): [[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]],
    ("int", 2): [[1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0]],
    ("adv", 1): [[1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1]],
}


@pytest.fixture
def entries(tmp_path):
    for (method, seed), right in RIGHT.items():
        write_result(result(seed, right, method), arrays(right), tmp_path / f"{method}{seed}.json")
    return read_entries([str(tmp_path)])


def names(entries):
    return {(entry.label, entry.training) for entry in entries}


def test_seeds_are_told_apart_by_their_labels_and_belong_together(entries):
    assert names(entries) == {("adv", "adv"), ("int, seed 1", "int"), ("int, seed 2", "int")}


def read(tmp_path, *made):
    for i, each in enumerate(made):
        write_result(each, arrays(RIGHT["int", 1]), tmp_path / f"{i}.json")
    return read_entries([str(tmp_path)])


def test_a_seed_of_attacks_that_was_given_for_all_is_no_seed_of_a_training(tmp_path):
    """Also where it is that of one of the trainings."""
    found = read(tmp_path, *(result(seed, RIGHT["int", 1], attack_seed=1) for seed in (1, 2, 3)))
    assert names(found) == {(f"int, seed {seed}", "int") for seed in (1, 2, 3)} and len(over_seeds(found)) == 1


def test_attacks_of_two_seeds_are_two_rows_of_the_same_trainings(tmp_path):
    found = read(tmp_path, *(result(seed, RIGHT["int", 1], attack_seed=attack) for seed in (1, 2) for attack in (None, 5)))
    assert {entry.label for entry in over_seeds(found)} == {"int (2 seeds)", "int, attack seed 5 (2 seeds)"}


def test_one_seed_twice_is_not_two_seeds(tmp_path):
    again = result(1, RIGHT["int", 1])
    again.provenance["checkpoint"]["sha256"] = "other"
    found = read(tmp_path, result(1, RIGHT["int", 1]), again)
    assert {entry.training for entry in found} == {None} and len({entry.label for entry in over_seeds(found)}) == 2


def test_files_of_one_network_at_several_eps_are_not_seeds(tmp_path):
    """As of two evaluations, each at its own eps."""

    def at(seed, eps):
        made = result(seed, RIGHT["int", 1])
        records = [dataclasses.replace(record, settings={**record.settings, "eps": eps}) for record in made.records[1:]]
        return dataclasses.replace(made, records=records, provenance={**made.provenance, "eps": [eps]})

    assert {entry.label for entry in over_seeds(read(tmp_path / "one", at(1, 0.1), at(1, 0.2)))} == {"int"}
    both = over_seeds(read(tmp_path / "two", *(at(seed, eps) for seed in (1, 2) for eps in (0.1, 0.2))))
    assert [(entry.label, entry.records()[0]["eps"]) for entry in both] == [("int (2 seeds)", 0.1), ("int (2 seeds)", 0.2)]


def test_checkpoints_of_each_seeds_own_best_step_belong_together(tmp_path):
    second = result(2, RIGHT["int", 1])
    second.provenance["checkpoint"]["step"] = 7
    assert len(over_seeds(read(tmp_path, result(1, RIGHT["int", 1]), second))) == 1


def test_equal_parameters_of_other_configs_are_other_networks(tmp_path):
    """As those of `normal`, which does not know of eps."""
    made = [result(1, RIGHT["int", 1], weight=weight) for weight in (0.01, 0.02)]
    for each in made:
        each.provenance["checkpoint"]["sha256"] = "same"
    assert {entry.label for entry in read(tmp_path, *made)} == {"int, defense.weight 0.01", "int, defense.weight 0.02"}


def test_lowest_accuracies_of_seeds_that_were_attacked_otherwise_are_not_averaged(entries):
    """AutoAttack of one seed of two."""
    auto = next(entry for entry in entries if entry.label == "int, seed 2")
    records = [dataclasses.replace(record, measure="autoattack") for record in auto.result.records]
    made = dataclasses.replace(auto.result, measures={"autoattack": MeasureInfo(6, "", {})}, records=records)
    more = {key.replace("pgd/", "autoattack/"): value for key, value in auto.arrays.items()}
    lowest, _ = strongest_tables([*entries, auto._replace(result=made, arrays=more)])
    assert {row[0] for row in texts(lowest)[1:]} == {"adv", "int, seed 1", "int, seed 2"}
    pairs = summarized([*entries, auto._replace(result=made, arrays=more)])["pairs"]
    assert {pair["network"] for pair in pairs} == {"adv", "int, seed 1", "int, seed 2"}


def test_a_row_of_several_seeds_is_the_mean_with_the_range(entries):
    adv, both = over_seeds(entries)
    assert (adv.label, both.label) == ("adv", "int (2 seeds)")
    clean, attacked = both.records()
    assert clean.value == pytest.approx(np.mean([1, 5 / 6])) and clean.ci95 == pytest.approx((5 / 6, 1))
    assert attacked.value == pytest.approx(np.mean([3 / 6, 2 / 6])) and attacked.ci95 == pytest.approx((2 / 6, 3 / 6))
    assert attacked["white_box"] == pytest.approx(5 / 12) and attacked["seeds"] == 2 and attacked.n == 6
    section = reporting.section("digits", entries)
    (table,) = [table for table in section.tables if table.name == "accuracy"]
    assert ["int (2 seeds)", "standard", "pgd", "linf", "150", "6", "0.917 [0.833, 1.000]", "0.417 [0.333, 0.500]"] in texts(table)
    assert any("the lowest and the highest seed" in note for note in table.notes)
    assert all("Of several seeds" in picture.caption for picture in section.pictures)


def test_what_is_no_other_seed_stays_apart(tmp_path):
    right = RIGHT["int", 1]
    others = [
        result(2, right, weight=0.02),
        result(2, right, split="validation"),
        result(2, right, method="adv"),
        dataclasses.replace(result(2, right), protocol="paper"),
        dataclasses.replace(result(2, right), provenance={**PROVENANCE, "config": None}),
        dataclasses.replace(result(2, right), measures={"pgd": MeasureInfo(6, "", {"restarts": 1})}),
    ]
    for i, other in enumerate(others):
        assert len(over_seeds(read(tmp_path / f"{i}", result(1, right), other))) == 2
    assert len(over_seeds(read(tmp_path / "same", result(1, right), result(2, right)))) == 1


def test_a_seed_without_a_value_does_not_count():
    one, none = (proportion_record("tau", np.array(values, bool)) for values in ([True], []))
    merged = mean_over_seeds([one, none])
    assert (merged.value, merged.ci95, merged["seeds"], merged.n) == (1.0, None, 1, 0)
    assert mean_over_seeds([none, none]).value is None


def test_networks_of_one_method_are_told_apart_by_what_differs(tmp_path):
    for seed in (1, 2):
        for weight in (0.01, 0.02):
            write_result(result(seed, RIGHT["int", 1], weight=weight), {}, tmp_path / f"{seed}{weight}.json")
    labels = {entry.label for entry in read_entries([str(tmp_path)])}
    assert labels == {f"int, defense.weight {weight}, seed {seed}" for seed in (1, 2) for weight in (0.01, 0.02)}


def test_images_of_another_split_are_a_section_of_their_own(tmp_path):
    write_result(result(1, RIGHT["int", 1]), arrays(RIGHT["int", 1]), tmp_path / "test.json")
    write_result(result(1, RIGHT["int", 1], split="validation"), arrays(RIGHT["int", 1]), tmp_path / "validation.json")
    reporting.report([str(tmp_path)], tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert '<h2 id="digits">digits</h2>' in page and '<h2 id="digits__validation_split">digits, validation split</h2>' in page
    links = [
        line.split("](")[1].rstrip(")") for line in (tmp_path / "report" / "report.md").read_text().splitlines() if line.startswith("![")
    ]
    assert links and all((tmp_path / "report" / link).exists() for link in links)
    assert len(read_entries([str(tmp_path)])) == 2  # the summary in the report is no result


def test_methods_of_several_seeds_are_compared_image_by_image(entries):
    lowest, pairs = strongest_tables(entries)
    assert ["int (2 seeds)", "all given", "linf", "0.1000", "6", "0.417", "[0.333, 0.500]", "pgd, standard", "0.417"] in texts(lowest)
    (row,) = [row for row in texts(pairs)[1:] if row[2] == "0.1000"]
    a, b = np.array([0, 0, 0, 0, 0, 1.0]), np.array([1, 1, 0.5, 0, 0, 0])
    assert row[:5] == ["adv", "int (2 seeds)", "0.1000", "0.167", "0.417"] and row[5:7] == ["1.0", "2.5"]
    z = np.mean(a - b) / (np.std(a - b, ddof=1) / np.sqrt(6))
    assert float(row[7]) == pytest.approx(max(2 * scipy.stats.norm.sf(abs(z)), 2**-3), rel=0.01)  # four images differ


def test_the_paired_difference_agrees_with_scipy_and_with_mcnemar_on_many_images(random):
    a, b = random.random(4000) < 0.7, random.random(4000) < 0.68
    found = paired_difference(a.astype(float), b.astype(float))
    d = a.astype(float) - b
    error = scipy.stats.sem(d)
    assert found.value == pytest.approx(d.mean()) and found.p_value == pytest.approx(2 * scipy.stats.norm.sf(abs(d.mean()) / error))
    np.testing.assert_allclose((found.low, found.high), scipy.stats.norm.interval(0.95, d.mean(), error), rtol=1e-6)
    assert found.p_value == pytest.approx(mcnemar(a, b).p_value, rel=0.1)
    same = paired_difference(np.ones(3), np.ones(3))
    assert (same.value, same.p_value) == (0.0, 1.0) and paired_difference(np.ones(6), np.zeros(6)).p_value == 2**-5


@pytest.mark.usefixtures("unchecked")
def test_scores_that_are_not_paired_are_refused():
    for a, b in ((np.ones(1), np.ones(1)), (np.ones(2), np.ones(3)), (np.ones((2, 2)), np.ones((2, 2))), (np.ones(2), [np.nan, 1])):
        with pytest.raises(ValueError, match="finite scores of the same n >= 2"):
            paired_difference(a, b)
