"""What Sphinx reads, put into one folder: pages of the repository as they are, those of the site, and the reference.

``python sources.py FOLDER``. Everything keeps its place beside the others, so links between pages stay as they are
written. A link into the code leads to the source that the site shows, where it shows it, and becomes plain text
elsewhere. In the pages of the site three things are filled in: ``<!-- section: FILE # HEADING -->``, a section of
another page, ``<!-- opening: FILE # HEADING -->``, what stands below a heading before the next one, and
``{{ NAME:FORMAT }}``, a number of ``measured.json``.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import reference

ROOT = reference.ROOT
OWN = Path(__file__).resolve().parent
MEASURED = OWN / "measured.json"

PACKAGES = ("circuits", "analysis", "experiments", "figures", "tests")
_FENCED = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^][]|\[[^]]*\])*)\]\((?P<target>[^)\s]+)\)")
_SECTION = re.compile(r"^<!-- (section|opening): (\S+) # (.+?) -->$", re.MULTILINE)
_NUMBER = re.compile(r"\{\{ *(\w+)(:[^} ]+)? *\}\}")


def kept() -> list[Path]:
    """Return the pages that are shown as they are, and where: READMEs, studies, notebooks and the changes."""
    readmes = [Path(package, "README.md") for package in PACKAGES]
    studies = sorted(path.relative_to(ROOT) for path in (ROOT / "figures").glob("*.md") if path.name != "README.md")
    notebooks = sorted(path.relative_to(ROOT) for path in (ROOT / "experiments/notebooks").glob("*.ipynb"))
    return [*readmes, *studies, *notebooks, Path("CHANGELOG.md")]


def gather(folder: Path) -> list[Path]:
    """Write all that Sphinx reads into a folder, which is emptied first; return the files.

    Raises:
        ValueError: for a section, a number or a page that is not there, and for a link that leads nowhere.
    """
    shutil.rmtree(folder, ignore_errors=True)
    written = {page: _read(page) for page in kept()}
    for page in sorted(OWN.glob("*.md")):
        written[Path(page.name)] = filled(page.read_text(), json.loads(MEASURED.read_text()))
    for name, text in reference.pages().items():
        written[Path("reference", f"{name}.md")] = text
    pages = [page for page in written if page.suffix == ".md"]
    images = {image for page in pages for image in images_of(written[page], page.parent)}
    for page, text in written.items():
        (folder / page).parent.mkdir(parents=True, exist_ok=True)
        (folder / page).write_text(text)
    for image in images:
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / image, folder / image)
    return sorted(folder / path for path in {*written, *images})


def _read(page: Path) -> str:
    text = (ROOT / page).read_text()
    return text if page.suffix == ".ipynb" else moved(text, page.parent, page.parent)


def filled(text: str, measured: Mapping[str, float]) -> str:
    """Return a page of the site with its sections and numbers filled in.

    Raises:
        ValueError: for a section or a number that is not there.
    """

    def section(match: re.Match[str]) -> str:
        file = Path(match[2])
        found = section_of((ROOT / file).read_text(), match[3], whole=match[1] == "section")
        return moved(found, file.parent, Path())

    def number(match: re.Match[str]) -> str:
        if match[1] not in measured:
            raise ValueError(f"{MEASURED.name} has no {match[1]!r}, only {', '.join(sorted(measured))}")
        return format(measured[match[1]], (match[2] or ":")[1:])

    return _SECTION.sub(section, _NUMBER.sub(number, text))


def section_of(text: str, heading: str, whole: bool = True) -> str:
    """Return what stands below a heading of a page, up to the next of its level or above, or up to any (``whole``).

    Raises:
        ValueError: where the page has no such heading.
    """
    level, inside, found = 0, False, list[str]()
    for part in _FENCED.split(text):
        for line in [part] if part.startswith("```") else part.splitlines(keepends=True):
            head = re.match(r"(#+) (.*)\n", line)
            if head and inside:
                inside = whole and len(head[1]) > level
            if inside:
                found.append(line)
            if head and head[2] == heading:
                inside, level = True, len(head[1])
    if not level:
        raise ValueError(f"there is no section {heading!r}, which a page of the site takes in")
    return "".join(found).strip()


def moved(text: str, of: Path, to: Path) -> str:
    """Return the text of a page in one folder as it stands in another, links and images with it, outside of code."""

    def link(match: re.Match[str]) -> str:
        target, _, anchor = match["target"].partition("#")
        if re.match(r"\w+:", target) or not target:
            return match[0]
        place = Path(os.path.normpath(of / target))
        if not (ROOT / place).exists() and place.name not in {page.name for page in OWN.glob("*.md")}:
            raise ValueError(f"a page in {of} links to {target}, which is not there")
        if match["image"] or place.suffix in (".md", ".ipynb"):
            hash_and_anchor = f"#{anchor}" if anchor else ""
            return f"{match['image']}[{match['text']}]({os.path.relpath(place, to)}{hash_and_anchor})"
        module = ".".join(place.with_suffix("").parts)
        if place.suffix == ".py" and module in reference.documented():
            source = os.path.relpath(Path("_modules", *place.with_suffix("").parts), to)
            return f'<a class="reference internal" href="{source}.html">{_code(match["text"])}</a>'
        return match["text"]

    return _outside_of_code(text, lambda part: _LINK.sub(link, part))


def _code(text: str) -> str:
    """Markdown's text of a link, which may be code, as HTML."""
    return re.sub(r"`([^`]*)`", r'<code class="docutils literal">\1</code>', html.escape(text, quote=False))


def _outside_of_code(text: str, change: Callable[[str], str]) -> str:
    return "".join(part if part.startswith("```") else change(part) for part in _FENCED.split(text))


def images_of(text: str, folder: Path) -> set[Path]:
    """Return the images of the repository that a page in a folder shows."""
    shown = [match["target"] for match in _LINK.finditer(text) if match["image"]]
    return {Path(os.path.normpath(folder / target)) for target in shown if not re.match(r"\w+:", target)}


if __name__ == "__main__":
    gather(Path(sys.argv[1]))
