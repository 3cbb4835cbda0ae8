"""The documentation site: every public name without a warning, no link that leads nowhere, README in front."""

import re
import shutil
import subprocess

import pytest

from experiments.reports.documents import DOCUMENTS
from experiments.site import broken_links, linked


def test_links_of_documents_are_those_of_the_site():
    text = "[a](BUILD.md) ![b](.readme/bound.png) [c](https://x.org/y.md) [d](#more) [e](BUILD.md#speed)"
    assert (
        linked(text, "README.md")
        == "[a](developers.html) ![b](figures/bound.png) [c](https://x.org/y.md) [d](#more) [e](developers.html#speed)"
    )
    assert linked("[a](setup.py) [b](experiments/notebooks) [c](gone.md)", "README.md") == "a b [c](gone.md)"
    assert linked("[a](../../README.md)", "experiments/results/claims.md") == "[a](index.html)"


def test_links_that_lead_nowhere_are_found(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "a.html").write_text(
        '<a id="here"></a><a href="#here">1</a><a href="#gone">2</a><a href="in/b.html#there">3</a><img src="c.png">'
    )
    (tmp_path / "in" / "b.html").write_text(
        '<p id="there"></p><a href="../a.html#no">4</a><a href="https://x.org">5</a><a href="../a.html">6</a>'
    )
    assert sorted(broken_links(tmp_path)) == ["a.html -> #gone", "a.html -> c.png", "in/b.html -> ../a.html#no"]


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(commands, tmp_path):
    pytest.importorskip("pdoc")
    out, _ = commands.run("site", "--out", tmp_path / "site")
    assert int(out.split()[0]) > 60
    front = (tmp_path / "site" / "index.html").read_text()
    assert "trains image classifiers whose explanations stay stable" in front and 'href="irob/attacks.html"' in front
    attacks = (tmp_path / "site" / "irob" / "attacks.html").read_text()
    assert all(f'id="{name}"' in attacks for name in ("pgd", "LInf", "sneaking_attack"))
    if shutil.which("chromium"):
        browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
        for page, text in (("index.html", "Beside other libraries"), ("irob/attacks.html", "sneaking_attack")):
            seen = subprocess.run(
                [*browser, f"file://{tmp_path / 'site' / page}"], check=True, capture_output=True, timeout=120
            ).stdout.decode()
            assert text in seen
    pages = {page for page, _ in DOCUMENTS.values()}
    assert set(re.findall(r'href="(\w+\.html)"', front)) & pages == {page for page in pages if (tmp_path / "site" / page).exists()}
