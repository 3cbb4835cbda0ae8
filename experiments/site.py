"""Builds the documentation site: README, the guide, claims, notebooks, and the reference of every public name, by pdoc.

    pip install -e '.[docs]' && python -m experiments.site --out site

Names that cannot be documented and links that lead nowhere are errors.
"""

import html.parser
import json
import os
import pathlib
import re
import shutil
import typing
import urllib.parse
import warnings
from collections.abc import Callable
from typing import Any

from absl import flags

from experiments.runtime.flags import run_command

MODULES = ("irob", "experiments", "!experiments.benchmark", "!experiments.benchmarks")  # its peers need what is not installed
TOPICS = (
    "irob",
    "irob.attacks",
    "irob.maps",
    "irob.defenses",
    "irob.models",
    "irob.discrepancies",
    "irob.certify",
    "irob.metrics",
    "experiments",
)
ROOT = pathlib.Path(__file__).parent.parent


def build(out: pathlib.Path) -> int:
    """Writes the site; returns the number of pages.

    Raises:
      UserError: if a package is not installed, the documents are not there, a formula cannot be read, or a link leads nowhere.
    """
    from experiments.reports.documents import DOCUMENTS
    from experiments.runtime.errors import UserError, one_line, refuse

    refuse(not (ROOT / "README.md").exists(), "the documents are not here: build the site from a clone of the project")
    try:
        import latex2mathml  # noqa: F401
        import pdoc
        import pdoc.doc
        import pdoc.doc_types
        import pdoc.render
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install -e '.[docs]'") from error
    pdoc.doc.safe_eval_type = pdoc.doc_types.safe_eval_type = as_written  # type: ignore[assignment]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            templates = pathlib.Path(__file__).parent / "reports" / "templates" / "site"
            pdoc.render.configure(docformat="google", template_directory=templates)
            pdoc.pdoc(*MODULES, output_directory=out)
        except UserWarning as error:
            raise UserError(f"something cannot be documented: {one_line(error)}") from error
    documents = {name: row for name, row in (DOCUMENTS | notebooks()).items() if (ROOT / name).exists()}
    for name, (page, title) in documents.items():
        text = as_markdown((ROOT / name).read_text()) if name.endswith(".ipynb") else (ROOT / name).read_text()
        content = as_page(linked(text, name), name, pdoc.render.to_html)
        template = pdoc.render.env.get_template("page.html.jinja2")
        (out / page).write_text(template.render(title=title, pages=dict(documents.values()), modules=TOPICS, content=content))
    shutil.copytree(ROOT / ".readme", out / "figures", dirs_exist_ok=True)
    broken = broken_links(out)
    refuse(bool(broken), f"{len(broken)} links lead nowhere: {'; '.join(broken[:5])}")
    return len(list(out.rglob("*.html")))


def notebooks() -> dict[str, tuple[str, str]]:
    """Of each notebook its page on the site and its title, as `DOCUMENTS` has them of documents."""
    found = {}
    for file in sorted((ROOT / "experiments" / "notebooks").glob("*.ipynb")):
        title = "".join(json.loads(file.read_text())["cells"][0]["source"]).partition("\n")[0].lstrip("# ")
        found[str(file.relative_to(ROOT))] = (f"notebook_{file.stem}.html", title)
    return found


def as_markdown(notebook: str) -> str:
    """A notebook as a document: its code in fences, and after it what is stored of its output, text and figures."""
    parts = []
    for cell in json.loads(notebook)["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in data:
                parts.append(f'<img alt="figure" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">')
            elif text := "".join(data.get("text/plain", "")).strip():
                parts.append(f"```text\n{text}\n```")
    return "\n\n".join(parts)


def as_page(text: str, document: str, to_html: Callable[[str], str]) -> str:
    """A document as HTML: formulas, in fences of the language `math`, as MathML, which browsers show without a script.

    Raises:
      UserError: for a formula that is no TeX, has an unknown command of it, or is no paragraph of its own.
    """
    from latex2mathml.converter import convert

    from experiments.runtime.errors import UserError, refuse

    formulas: list[str] = []

    def marked(found: re.Match[str]) -> str:
        try:
            formulas.append(convert(found[1], display="block"))
        except Exception as error:  # of many kinds, which have no common one
            raise UserError(f"{document}: a formula is no TeX ({type(error).__name__}): {found[1]}") from error
        refuse("\\" in formulas[-1], f"{document}: a formula has what is not known of TeX: {found[1]}")
        return f"\n\nFORMULA-{len(formulas) - 1}\n\n"

    page = to_html(re.sub(r"^```math\n(.*?)\n```$", marked, text, flags=re.DOTALL | re.MULTILINE))
    page = re.sub(r"<p>FORMULA-(\d+)</p>", lambda found: f'<div class="formula">{formulas[int(found[1])]}</div>', page)
    refuse("FORMULA-" in page, f"{document}: a formula must be a paragraph of its own")
    return page


class _SourceText:
    """An annotation whose text is that of the source."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text


def as_written(annotation: Any, *_: Any) -> Any:
    """An annotation as it stands in the source: `Image`, where its type fills three lines. In the place of pdoc's, which evaluates it."""
    text = annotation.__forward_arg__ if isinstance(annotation, typing.ForwardRef) else annotation
    return _SourceText(text) if isinstance(text, str) else annotation


def linked(text: str, document: str) -> str:
    """A document with its links to other documents and figures as those of the site; of a link to another file of the project the text is left.

    document: its path in the project.
    """
    from experiments.reports.documents import DOCUMENTS

    folder, places = pathlib.PurePosixPath(document).parent, DOCUMENTS | notebooks()
    places["experiments/notebooks"] = next((row for name, row in places.items() if name.endswith(".ipynb")), ("index.html", ""))

    def place(found: re.Match[str]) -> str:
        words, address, part = found.groups()
        target = os.path.normpath(folder / address)
        if re.match(r"\w+:", address):
            return found[0]
        if target in places:
            return f"[{words}]({places[target][0]}{part or ''})"
        if target.startswith(".readme/"):
            return f"[{words}]({target.replace('.readme/', 'figures/')})"
        return words if (ROOT / target).exists() else found[0]

    return re.sub(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)", place, text)


class _Links(html.parser.HTMLParser):
    """The links of a page, and the places in it that can be linked to."""

    def __init__(self, text: str):
        super().__init__()
        self.targets: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Notes what a tag links to, and its own name."""
        found = dict(attributes)
        self.targets += [target for target in (found.get("href"), found.get("src")) if target]
        self.places |= {name for name in (found.get("id"), found.get("name")) if name}


def broken_links(folder: pathlib.Path) -> list[str]:
    """Links inside of a site that lead to no file, or to no place in a file: `PAGE -> LINK`."""
    pages = {file: _Links(file.read_text()) for file in folder.rglob("*.html")}
    known = {page.resolve(): page for page in pages}
    broken = []
    for file, links in pages.items():
        for target in links.targets:
            parts = urllib.parse.urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            to = (file.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else file
            missing = not to.is_file() or (parts.fragment and to in known and parts.fragment not in pages[known[to]].places)
            if missing:
                broken.append(f"{file.relative_to(folder)} -> {target}")
    return broken


def main() -> None:
    """Parses flags and builds the site."""
    from experiments.runtime.errors import refuse

    out = pathlib.Path(flags.FLAGS.out)
    refuse(
        out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "index.html").exists())),
        f"--out {out} is in the way: no site",
    )
    print(f"{build(out)} pages written to {out}: open {out / 'index.html'}")


if __name__ == "__main__":
    flags.DEFINE_string("out", None, "a directory for the site")
    flags.mark_flag_as_required("out")
    run_command(main)
