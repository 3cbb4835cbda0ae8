"""Every measure of a network from a file of weights, interrupted and resumed, and the report of it all."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

import irob

OPTIONS = ("--dataset", "digits", "--num_examples", 6, "--eps", "0,0.05,0.1")


@pytest.fixture(scope="module")
def weights(trained, tmp_path_factory):
    """Two networks in the layout of the released files, and results of the first under both protocols."""
    directory = tmp_path_factory.mktemp("weights")
    network, params = trained.network, trained.params
    (directory / "plain.pkl").write_bytes(irob.paper.dumps(network, params))
    (directory / "other.pkl").write_bytes(irob.paper.dumps(network, network.initial_params(seed=7)))
    return directory


@pytest.fixture(scope="module")
def measured(commands, weights):
    """All measures under `standard`; accuracy and tau under `paper`; accuracy of another network."""
    measures = "pgd,aai,bound,tradeoff,topk_overlap,inversion"
    plain, other = weights / "plain.pkl", weights / "other.pkl"
    out, _ = commands.run(
        "evaluate",
        "--weights",
        plain,
        *OPTIONS,
        "--measure",
        measures,
        "--budgets",
        "2,3",
        "--discrepancy_classes",
        "two_class",
        "--versus",
        other,
        "--out",
        weights / "standard.json",
    )
    paper = ("--dataset", "digits", "--protocol", "paper", "--measure", "pgd,aai", "--eps", "0,0.05", "--steps", "1,10")
    commands.run("evaluate", "--weights", plain, *paper, "--out", weights / "paper.json")
    commands.run("evaluate", "--weights", other, *OPTIONS, "--out", weights / "other.json")
    return weights, out


def test_every_measure_leaves_records_and_arrays(measured):
    directory, out = measured
    result = json.loads((directory / "standard.json").read_text())
    metrics = {record["metric"] for record in result["records"]}
    assert metrics == {
        "clean_accuracy",
        "robust_accuracy",
        "class_accuracy",
        "kendall_tau",
        "bound_holds",
        "tightness",
        "discrepancy",
        "topk_overlap",
        "activation",
    }
    assert result["method"] == "plain" and result["weights"]["file"] == "plain.pkl" and result["config"] is None
    assert result["measures"]["pgd"]["n"] == 6
    for record in result["records"]:
        if record["metric"] == "bound_holds" and record["classes"] == "two_class" and record["n"]:
            assert record["value"] == 1.0
    with np.load(directory / "standard.npz") as arrays:
        assert {"pgd/indices", "pgd/labels", "pgd/eps", "aai/cam/taus", "bound/minimal/two_class", "bound/eps"} <= set(arrays)
        assert any(key.startswith("pgd/predictions") for key in arrays)
    for title in (
        "Accuracy. Attack: pgd on margin",
        "Kendall's tau",
        "Proposition 1",
        "Discrepancy (raw)",
        "most salient positions",
        "Feature inversion",
    ):
        assert title in out


def test_the_ladder_of_steps(measured):
    directory, _ = measured
    records = json.loads((directory / "paper.json").read_text())["records"]
    overall = [record for record in records if record["metric"] in ("clean_accuracy", "robust_accuracy")]
    assert [(r["eps"], r.get("steps")) for r in overall] == [(0.0, None), (0.05, 1), (0.05, 10)]


def test_killed_and_started_again_it_ends_with_the_same_table(commands, measured, tmp_path):
    directory, _ = measured
    arguments = ("--weights", directory / "plain.pkl", *OPTIONS, "--measure", "pgd,aai", "--out", tmp_path / "again.json")
    partial = tmp_path / "again.json.partial"
    process = commands.start("evaluate", *arguments)
    while not list(partial.glob("aai_*restart_0*.npz")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "again.json").exists()
    before = {file.name: file.stat().st_mtime_ns for file in partial.glob("*.npz")}
    assert before
    process = commands.start("evaluate", *arguments)
    while process.poll() is None and partial.exists():
        kept = {file.name: file.stat().st_mtime_ns for file in partial.glob("*.npz")}
        assert all(kept.get(name, time_written) == time_written for name, time_written in before.items())
        time.sleep(0.05)
    commands.finish(process)
    whole, again = (json.loads((where / name).read_text()) for where, name in ((directory, "standard.json"), (tmp_path, "again.json")))
    assert again["records"] == [record for record in whole["records"] if record["measure"] in ("pgd", "aai")]
    assert not partial.exists()


def test_an_unfinished_evaluation_with_other_settings_is_refused(commands, measured, tmp_path):
    directory, _ = measured
    partial = tmp_path / "r.json.partial"
    partial.mkdir()
    (partial / "settings.json").write_text("{}")
    said = commands.refused("evaluate", "--weights", directory / "plain.pkl", *OPTIONS, "--out", tmp_path / "r.json")
    assert "holds an unfinished evaluation with other settings" in said


@pytest.fixture(scope="module")
def report(commands, measured, tmp_path_factory):
    directory, _ = measured
    out = tmp_path_factory.mktemp("report") / "made"
    commands.run("report", "--inputs", directory / "standard.json", directory / "paper.json", directory / "other.json", "--out", out)
    return out


def test_the_report_has_every_table_and_figure(report):
    tables = {file.stem for file in (report / "tables").glob("*.csv")}
    names = ("accuracy", "accuracy_by_class", "kendall_tau", "bound", "tradeoff", "topk_overlap", "strongest", "pairs", "sources")
    assert tables == {f"digits_{name}" for name in names} == {file.stem for file in (report / "tables").glob("*.md")}
    figures = {file.stem for file in (report / "figures").glob("*.png")}
    assert figures == {file.stem for file in (report / "figures").glob("*.svg")}
    kinds = (
        "accuracy_against_eps",
        "confusion",
        "tau_against_eps",
        "bound_plain_standard",
        "maps_plain_standard",
        "tradeoff_plain_standard_cam",
    )
    assert {f"digits_{kind}" for kind in kinds} | {"digits_inversion_l2_standard", "digits_inversion_linf_standard"} == figures
    for file in (report / "figures").glob("*.png"):
        assert file.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def rows_of(file):
    return list(csv.DictReader(io.StringIO(file.read_text())))


def test_the_tables_say_what_the_results_say(report, measured):
    directory, _ = measured
    rows = rows_of(report / "tables" / "digits_accuracy.csv")
    assert [(row["network"], row["protocol"], row["steps"]) for row in rows] == [
        ("other", "standard", "150"),
        ("plain", "paper", "1"),
        ("plain", "paper", "10"),
        ("plain", "standard", "150"),
    ]
    record = json.loads((directory / "standard.json").read_text())["records"][1]
    assert rows[-1]["eps 0.05"] == f"{record['value']:.3f} [{record['ci95'][0]:.3f}, {record['ci95'][1]:.3f}]"
    page = (report / "report.md").read_text()
    assert re.search(r"\| plain \| standard \| pgd \| linf \| 150 \| 6 \| \*\*", page), "the best of a column is marked"
    assert "Use `standard` for conclusions" in page and "Largest disagreement here: plain" in page
    flat = rows_of(report / "records.csv")
    assert {row["network"] for row in flat} == {"plain", "other"}


def test_the_page_is_whole_in_itself(report):
    page = (report / "report.html").read_text()
    assert "<script" not in page and "http" not in page
    assert page.count("<svg ") == len(list((report / "figures").glob("*.svg")))
    names = re.findall(r'\bid="([^"]+)"', page)
    assert len(names) == len(set(names)), "figures share no names"
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page)) <= {(name, "") for name in names} | {("", name) for name in names}
    assert re.search(r"<use [^>]*>\s*<title>plain\neps \(pixels in \[0, 1\]\): 0.05\naccuracy: [\d.]+</title>", page), (
        "markers tell their values"
    )


def test_the_first_screen_says_what_was_found(report):
    page = (report / "report.html").read_text()
    first = page[page.index('<ul class="findings">') : page.index("</ul>")]
    assert "At linf eps 0.05, under pgd" in first and "Proposition 1" in first
    assert page.index("</ul>") < page.index("<svg ") < page.index("<table>")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium is installed")
def test_a_browser_shows_and_prints_it(report, tmp_path):
    browser = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
    ]  # fmt: skip
    address = f"file://{report / 'report.html'}"
    options = {"check": True, "capture_output": True, "timeout": 120}
    shown = subprocess.run([*browser, "--dump-dom", address], **options).stdout.decode()
    assert "Accuracy against eps" in shown and "Proposition 1" in shown
    subprocess.run([*browser, f"--print-to-pdf={tmp_path / 'report.pdf'}", address], **options)
    assert (tmp_path / "report.pdf").read_bytes()[:5] == b"%PDF-"
    page = (report / "report.html").read_text()
    framed, frame = tmp_path / "framed.html", tmp_path / "frame.html"
    says = "<script>parent.postMessage(document.documentElement.scrollWidth, '*')</script>"
    framed.write_text(page.replace("</body>", f"{says}</body>"))
    for width in (1100, 390):  # in a frame: no window of Chromium is as narrow as a telephone
        style = f"border: 0; width: {width}px; height: 2000px"
        heard = "<script>onmessage = heard => document.title = heard.data</script>"
        frame.write_text(f"{heard}<iframe src='framed.html' style='{style}'></iframe>")
        shown = subprocess.run([*browser, "--virtual-time-budget=5000", "--dump-dom", f"file://{frame}"], **options).stdout.decode()
        assert width / 2 < int(re.search(r"<title>(\d+)</title>", shown)[1]) <= width, "only tables scroll sideways"
    subprocess.run([*browser, "--window-size=1000,9000", f"--screenshot={tmp_path / 'report.png'}", address], **options)
    import matplotlib.image

    pixels = matplotlib.image.imread(tmp_path / "report.png")[..., :3]
    colored = (pixels.max(axis=-1) - pixels.min(axis=-1)) > 0.3
    assert colored.mean() > 0.0005, "the figures are drawn"


@pytest.mark.slow
def test_other_maps_have_rows_of_their_own(commands, measured, tmp_path):
    """In the tables of one report, beside those of the first measurement."""
    directory, _ = measured
    options = ("--dataset", "digits", "--num_examples", 2, "--eps", "0,0.1", "--budgets", "2", "--versus", directory / "other.pkl")
    found, measures = tmp_path / "maps.json", "aai,tradeoff,topk_overlap,isa"
    maps = "saliency,grad_cam"
    quick = ("--num_steps", 5, "--restarts", 1)
    commands.run("evaluate", "--weights", directory / "plain.pkl", *options, *quick, "--measure", measures, "--map", maps, "--out", found)
    by_map = {(r["metric"], r["map"]) for r in json.loads(found.read_text())["records"]}
    metrics = ("kendall_tau", "discrepancy", "topk_overlap", "normalized_discrepancy", "normalized_slope", "pearson")
    assert by_map == {(metric, name) for metric in metrics for name in maps.split(",")}
    commands.run("report", "--inputs", found, directory / "standard.json", "--out", tmp_path / "made")
    for table in ("kendall_tau", "tradeoff", "topk_overlap"):
        rows = rows_of(tmp_path / "made" / "tables" / f"digits_{table}.csv")
        assert {row["map"] for row in rows} == {"cam", "grad_cam", "saliency"}
    assert (tmp_path / "made" / "figures" / "digits_tradeoff_plain_standard_saliency.png").exists()


@pytest.mark.slow
def test_unforeseen_attacks_by_name(commands, measured, tmp_path):
    directory, _ = measured
    options = ("--dataset", "digits", "--num_examples", 2, "--measure", "unforeseen", "--unforeseen_attacks")
    for attack in ("elastic", "jpeg_linf"):
        file = tmp_path / f"{attack}.json"
        out, _ = commands.run("evaluate", "--weights", directory / "plain.pkl", *options, attack, "--out", file)
        assert "Accuracy under unforeseen attacks" in out and "imagenet-100" in out
    result = json.loads((tmp_path / "elastic.json").read_text())
    assert [r["eps"] for r in result["records"] if r["metric"] == "robust_accuracy"] == [0.25, 0.5, 2, 4, 8, 16]
    commands.run("report", "--inputs", tmp_path, directory / "standard.json", "--out", tmp_path / "made")
    rows = rows_of(tmp_path / "made" / "tables" / "digits_unforeseen.csv")
    assert [row["attack"] for row in rows] == ["elastic", "jpeg_linf", "none"] and rows[0]["size 6"].endswith("at 16")
    for attack in ("elastic", "jpeg_linf"):
        assert (tmp_path / "made" / "figures" / f"digits_unforeseen_plain_standard_{attack}_1.png").exists()
    assert len(rows_of(tmp_path / "made" / "tables" / "digits_accuracy.csv")) == 1


def test_a_report_never_overwrites(commands, report, measured):
    directory, _ = measured
    assert "is not empty" in commands.refused("report", "--inputs", directory / "standard.json", "--out", report)


def test_what_is_no_result_ends_in_one_line(commands, measured, tmp_path):
    directory, _ = measured
    whole = (directory / "paper.json").read_text()
    for name, text in (("half", whole[: len(whole) // 2]), ("old", whole.replace('"schema": 3', '"schema": 1'))):
        (tmp_path / f"{name}.json").write_text(text)
    for inputs, message in (
        ((tmp_path / "half.json",), "is not a complete result file"),
        ((tmp_path / "old.json",), "has schema 1; this version reads 3 and converts 2"),
        ((tmp_path,), "is not a complete result file"),
        ((directory / "paper.json", shutil.copy(directory / "paper.json", tmp_path / "copy.json")), "both hold pgd of the same network"),
        ((tmp_path / "none.json",), "cannot be read: No such file"),
        ((), "there are no result files in nothing"),
    ):
        said = (
            commands.refused("report", "--inputs", *inputs, "--out", tmp_path / "out")
            if inputs
            else commands.refused("report", "--out", "x")
        )
        assert message in said and len(said.splitlines()) == 1
