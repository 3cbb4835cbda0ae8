"""The documentation site: every public name without a warning, no link that leads nowhere, README in front."""

import json
import re
import shutil
import subprocess

import pytest
from commands import ROOT

from experiments.reports.documents import DOCUMENTS
from experiments.runtime.errors import UserError
from experiments.site import as_markdown, as_page, broken_links, linked


def test_links_of_documents_are_those_of_the_site():
    text = "[a](BUILD.md) ![b](.readme/bound.png) [c](https://x.org/y.md) [d](#more) [e](BUILD.md#speed)"
    assert (
        linked(text, "README.md")
        == "[a](developers.html) ![b](figures/bound.png) [c](https://x.org/y.md) [d](#more) [e](developers.html#speed)"
    )
    assert linked("[a](setup.py) [b](experiments/configs) [c](gone.md)", "README.md") == "a b [c](gone.md)"
    assert linked("[a](experiments/notebooks/5_certify.ipynb)", "README.md") == "[a](notebook_5_certify.html)"
    assert linked("[a](../../README.md)", "experiments/results/claims.md") == "[a](index.html)"


def test_a_notebook_is_a_document():
    cells = [
        {"cell_type": "markdown", "source": ["# A\n", "b"]},
        {
            "cell_type": "code",
            "source": ["1 + 1"],
            "outputs": [{"data": {"text/plain": ["2"]}}, {"name": "stdout", "text": ["three\n"]}, {"data": {"image/png": "QUJD\n"}}],
        },
    ]
    text = as_markdown(json.dumps({"cells": cells}))
    assert text.split("\n\n")[:4] == ["# A\nb", "```python\n1 + 1\n```", "```text\n2\n```", "```text\nthree\n```"]
    assert text.endswith('src="data:image/png;base64,QUJD">')


def test_formulas_become_mathml():
    pytest.importorskip("latex2mathml")
    page = as_page(
        "a\n\n```math\nx_1 \\ne \\frac{1}{2}\n```\n\nb",
        "a.md",
        lambda text: "".join(f"<p>{part}</p>" for part in text.split("\n\n") if part),
    )
    assert (
        "<mfrac><mrow><mn>1</mn></mrow><mrow><mn>2</mn></mrow></mfrac>" in page
        and "<msub><mi>x</mi><mn>1</mn></msub>" in page
        and page.endswith("<p>b</p>")
    )
    assert page.count("<math") == 1 and "FORMULA" not in page
    with pytest.raises(UserError, match=r"a\.md: a formula has"):
        as_page("```math\n\\nothing{x}\n```", "a.md", str)


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
    mathematics = (tmp_path / "site" / "mathematics.html").read_text()
    assert mathematics.count("<math") == (ROOT / "experiments/guide/mathematics.md").read_text().count("```math") > 10
    assert "<script src" not in front + mathematics and "<math" in front
    notebook = (tmp_path / "site" / "notebook_5_certify.html").read_text()
    assert 'src="data:image/png' in notebook and "What to try" in notebook
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
