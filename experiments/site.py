"""Builds the documentation site: README, the guide, claims, and the reference of every public name, by pdoc.

    pip install -e '.[docs]' && python -m experiments.site --out site

Names that cannot be documented and links that lead nowhere are errors.
"""

import html.parser
import os
import pathlib
import re
import shutil
import typing
import urllib.parse
import warnings
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
      UserError: if pdoc is not installed, the documents are not there, or a link leads nowhere.
    """
    from experiments.reports.documents import DOCUMENTS
    from experiments.runtime.errors import UserError, one_line, refuse

    refuse(not (ROOT / "README.md").exists(), "the documents are not here: build the site from a clone of the project")
    try:
        import pdoc
        import pdoc.doc
        import pdoc.doc_types
        import pdoc.render
    except ImportError as error:
        raise UserError("pdoc is not installed: pip install -e '.[docs]'") from error
    pdoc.doc.safe_eval_type = pdoc.doc_types.safe_eval_type = as_written  # type: ignore[assignment]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            templates = pathlib.Path(__file__).parent / "reports" / "templates" / "site"
            pdoc.render.configure(docformat="google", template_directory=templates)
            pdoc.pdoc(*MODULES, output_directory=out)
        except UserWarning as error:
            raise UserError(f"something cannot be documented: {one_line(error)}") from error
    pages = {page: title for name, (page, title) in DOCUMENTS.items() if (ROOT / name).exists()}
    for name, (page, title) in DOCUMENTS.items():
        if (ROOT / name).exists():
            content = pdoc.render.to_html(linked((ROOT / name).read_text(), name))
            whole = pdoc.render.env.get_template("page.html.jinja2").render(title=title, pages=pages, modules=TOPICS, content=content)
            (out / page).write_text(whole)
    shutil.copytree(ROOT / ".readme", out / "figures", dirs_exist_ok=True)
    broken = broken_links(out)
    refuse(bool(broken), f"{len(broken)} links lead nowhere: {'; '.join(broken[:5])}")
    return len(list(out.rglob("*.html")))


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

    folder = pathlib.PurePosixPath(document).parent

    def place(found: re.Match[str]) -> str:
        words, address, part = found.groups()
        target = os.path.normpath(folder / address)
        if re.match(r"\w+:", address):
            return found[0]
        if target in DOCUMENTS:
            return f"[{words}]({DOCUMENTS[target][0]}{part or ''})"
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
