import json

import numpy as np


def test_quickstart_leaves_what_it_promises_and_goes_on_where_it_was(commands, tmp_path):
    out, _ = commands.run("quickstart", "--tiny", "--workdir", tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert [result["method"] for result in results] == ["normal", "adv", "int"]
    for result in results:
        assert [record["eps"] for record in result["records"]] == [0.0, 0.05, 0.1, 0.15, 0.2]
        assert result["n"] == 16 and result["protocol"]["name"] == "standard"
        assert f"{result['records'][0]['value']:.3f}" in out
    for figure in ("accuracy_against_eps.png", "maps.png"):
        assert (tmp_path / "figures" / figure).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    again, _ = commands.run("quickstart", "--tiny", "--workdir", tmp_path)
    assert again == out
    assert np.all([(tmp_path / method / "checkpoints" / "8").is_dir() for method in ("normal", "adv", "int")])
