"""The pages: text by hand, and between markers what the committed results say.

A page has ``<!-- begin NAME -->`` and ``<!-- end NAME -->``; what stands between them is written here and nowhere else.
There is one page a study, an index of them that holds what is of all studies, and the README.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from circuits.common.errors import known
from circuits.common.text_table import markdown
from experiments.runs import looks
from experiments.studies import carriers, gradient
from experiments.studies.committed_results import COMMITTED, Bundle
from experiments.studies.registry import STUDIES
from experiments.studies.study import Block

INDEX = COMMITTED.parent / "README.md"
PAGES = (INDEX, *(study.page for study in STUDIES.values()), COMMITTED.parents[1] / "README.md")
"""The pages of this repository that hold tables of its bundle."""
_IMAGE = re.compile(r"!\[[^\n]*?\]\((?P<target>[^()\s]*rendered/(?P<name>[\w-]+)\.(?:png|svg))\)")
_MARKER = re.compile(r"(<!-- begin (?P<name>[\w-]+) -->\n)(?P<body>.*?)(<!-- end (?P=name) -->)", re.DOTALL)


def _paper(bundle: Bundle) -> str:
    """What the paper says, what is found here, and whether the two agree."""
    rows = [row for study in STUDIES.values() if study.verdict for row in study.verdict(bundle)]
    return markdown(pd.DataFrame(rows, columns=["what", "paper", "here (95 % intervals)", "verdict"]))


def _presets(bundle: Bundle) -> str:
    """How often and on how much runs of every preset are evaluated, as their configurations say."""
    ioi = bundle.frame("lm_ioi") if bundle.has("lm_ioi") else pd.DataFrame({"set": [], "by": [], "prompts": []})
    papers = ioi.prompts[(ioi["set"] == "paper") & (ioi.by == "set")].max()
    counted = Counter(
        (str(preset), *_looks(json.loads(config)))
        for preset, config in zip(bundle.runs.preset, bundle.runs.config, strict=True)
    )
    table = [
        {"preset": preset, "runs": runs, "evaluated every": every, "on": on.format(papers=papers)}
        for (preset, every, on), runs in counted.items()
    ]
    return markdown(pd.DataFrame(table))


def _looks(config: dict[str, Any]) -> tuple[str, str]:
    """How often a run is evaluated and on how much, of its stored configuration."""
    training, is_lm = config["training"], "size" in config
    schedules = training.get("evaluate_at", [{"type": "Every", "n": looks.LM_EVERY if is_lm else looks.ICL_EVERY}])
    every = " and ".join(_how_often(schedule) for schedule in schedules if "n" in schedule)
    if not is_lm:
        return every, f"{training.get('n_eval', looks.ICL_SEQUENCES):,} sequences a set"
    windows, prompts = training.get("n_eval", looks.LM_WINDOWS), training.get("n_questions", looks.LM_QUESTIONS)
    return every, f"{windows:,} windows for the loss, {prompts:,} prompts a set (of the paper {{papers}})"


def _how_often(schedule: dict[str, Any]) -> str:
    closer = f", closer where it crosses {', '.join(map(str, levels))}" if (levels := schedule.get("levels")) else ""
    return f"{schedule['n']:,} steps" + (f" or more in the mean{closer}" if closer else "")


BLOCKS: dict[str, Block] = {
    block.name: block
    for block in (
        Block("presets", _presets, "How often and on how much runs are evaluated"),
        Block("paper", _paper, "The paper's claims, and what is found here", (carriers.PAPER, gradient.PAPER)),
        *(block for study in STUDIES.values() for block in study.blocks),
    )
}
"""What may stand between markers, by name."""


def fill(text: str, bundle: Bundle, rendered: Path = COMMITTED.parent / "rendered") -> str:
    """Return a page with every block between markers written anew from the bundle, and what every figure found, as
    the JSON in ``rendered`` says, for who cannot see it.

    Raises:
        UnknownNameError: for a block that is not known (nearest suggested).
    """

    def block(match: re.Match[str]) -> str:
        return f"{match[1]}{BLOCKS[known('block of a page', match['name'], BLOCKS)].text(bundle)}\n{match[4]}"

    def image(match: re.Match[str]) -> str:
        drawn = rendered / f"{match['name']}.json"
        layout = json.loads(drawn.read_text())["layout"] if drawn.is_file() else {}
        if not (told := layout.get("meta", {}).get("alt")):
            return match[0]
        # Brackets would end the text.
        return f"![{told.translate(str.maketrans('[]', '()'))}]({match['target']})"

    return _IMAGE.sub(image, _MARKER.sub(block, text))


def fill_pages(bundle: Bundle) -> list[Path]:
    """Rewrite the pages of this repository from the bundle and return those that changed."""
    changed = []
    for page in PAGES:
        before = page.read_text()
        after = fill(before, bundle)
        if after != before:
            page.write_text(after)
            changed.append(page)
    return changed


def in_repository() -> bool:
    """Return whether the packages lie in a checkout of the repository, and not where they were installed."""
    project = COMMITTED.parents[1] / "pyproject.toml"
    return project.is_file() and 'name = "valuestream"' in project.read_text()


def write_page(bundle: Bundle, path: Path) -> Path:
    """Write the index and the pages of all studies as one page, with figures that lie beside it; return its path.

    What was drawn without images is linked to in their place; links into the repository lead to what was installed.
    """
    texts = {page.name: page.read_text() for page in PAGES[:-1]}

    def link(match: re.Match[str]) -> str:
        image, text, target = match.groups()
        drawn = path.parent / Path(target).name
        if target in texts:
            return f"[{text}](#{Path(target).stem})"
        if not target.startswith("rendered/"):
            return f"{image}[{text}]({(INDEX.parent / target).resolve().as_uri()})"
        return f"{image}[{text}]({drawn.name})" if drawn.is_file() else f"[{drawn.stem}]({drawn.stem}.html)"

    whole = "\n".join(f'<a id="{Path(name).stem}"></a>\n\n{text}' for name, text in texts.items())
    path.write_text(re.sub(r"(!?)\[([^]]*)\]\((?!https?:|#)([^)]+)\)", link, fill(whole, bundle, path.parent)))
    return path


def whole(bundle: Bundle, title: str) -> str:
    """Return a page of its own with every block for which the bundle holds the runs that it speaks of."""
    there = [block for block in BLOCKS.values() if block.tellable(bundle)]
    return "\n\n".join([f"# {title}", *(f"## {block.heading}\n\n{block.text(bundle)}" for block in there)]) + "\n"
