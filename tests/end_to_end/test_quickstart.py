import json
import re

import numpy as np
import pytest


@pytest.fixture(scope="module")
def made(commands, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("quickstart")
    return workdir, commands.run("quickstart", "--tiny", "--workdir", workdir)[0]


def test_it_leaves_what_it_promises(made):
    workdir, out = made
    results = json.loads((workdir / "results.json").read_text())
    assert [result["method"] for result in results] == ["normal", "normal", "adv", "adv", "int", "int"]
    for result, auto in zip(results[::2], results[1::2], strict=True):
        (under_auto,) = [record for record in auto["records"] if record["metric"] == "robust_accuracy"]
        assert under_auto["eps"] == 0.15 and auto["measures"]["autoattack"]["n"] == 16
        overall = [record for record in result["records"] if record["metric"] != "class_accuracy"]
        assert [record["eps"] for record in overall] == [0.0, 0.05, 0.1, 0.15, 0.2]
        assert result["measures"]["pgd"]["n"] == 16 and result["protocol"] == "standard"
        (row,) = re.findall(rf"^{result['method']} .*$", out, flags=re.MULTILINE)
        assert [float(value) for value in re.findall(r"(\S+) \[", row)] == [round(record["value"], 3) for record in [*overall, under_auto]]
    for figure in ("accuracy_against_eps.png", "maps.png", "unforeseen.png"):
        assert (workdir / "figures" / figure).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert np.all([(workdir / method / "seed_99" / "checkpoints" / "8").is_dir() for method in ("normal", "adv", "int")])


@pytest.mark.slow
def test_it_goes_on_where_it_was(made, commands):
    workdir, out = made
    again, _ = commands.run("quickstart", "--tiny", "--workdir", workdir)
    assert again == out
