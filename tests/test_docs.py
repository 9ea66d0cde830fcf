"""What the documentation is made of: every page is there, every public name, every number as it is measured."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import reference
import sources
from measure import rounded
from measured_classifier import classifiers, of_classifiers
from measured_results import of_results

from experiments import Bundle
from tests.helpers import SHORT, run_named
from tests.test_readme import run_all

ROOT = Path(__file__).parent.parent
DOCS = ROOT / ".ci" / "docs"
MEASURED: dict[str, float] = json.loads(sources.MEASURED.read_text())
NUMBERED = ("traps.md", "coming_from_transformer_lens.md")
PLACE = re.compile(r"\{\{ *(\w+)[^}]*\}\}")


@pytest.fixture(scope="module")
def gathered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    sources.gather(folder)
    return folder


def listed(folder: Path) -> set[Path]:
    """The pages that some list of contents names."""
    found: set[Path] = set()
    for page in folder.rglob("*.md"):
        for inside in re.findall(r"^```\{toctree\}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE):
            for name in (line for line in inside.splitlines() if line and not line.startswith(":")):
                there = [path for end in (".md", ".ipynb") for path in page.parent.glob(name + end)]
                assert there, f"{page.name} lists {name}, which is not there"
                found |= {*there}
    return found


# --- pages and names --------------------------------------------------------------------------------------------------


def test_every_page_is_there_and_in_the_contents(gathered: Path) -> None:
    pages = {path for path in gathered.rglob("*") if path.suffix in (".md", ".ipynb")}
    assert pages - listed(gathered) == {gathered / "index.md"}
    assert {gathered / page for page in sources.kept()} < pages
    assert {path.stem for path in (gathered / "figures").glob("*.md")} > {"gradient", "carriers", "step_cost"}
    assert len(list(gathered.glob("experiments/notebooks/*.ipynb"))) == 6
    text = (gathered / "figures" / "gradient.md").read_text()
    shown = sources.images_of(text, Path("figures"))
    assert shown
    assert all((gathered / image).is_file() for image in shown)


@pytest.mark.parametrize("package", reference.GROUPS)
def test_every_public_name_stands_in_the_reference_once(package: str) -> None:
    pages = reference.pages()
    text = "\n".join(text for name, text in pages.items() if name.startswith(f"{package}/"))
    entries = re.findall(r"^\.\. (?:autoclass|autofunction|automodule|py:data|py:class):: (\S+)$", text, re.MULTILINE)
    shared = [name for names in reference.SHARED.get(package, {}).values() for name in names]
    names = [name.rpartition(".")[2] for name in entries if name not in shared]
    assert sorted(names) == sorted(reference.public(package))
    assert {*shared} <= {*entries}
    assert all(name.startswith(f"{package}.") for name in entries if name not in shared)
    assert all(reference.file_of(reference.home(package, name)).is_file() for name in reference.public(package))


@pytest.mark.parametrize("change", [("patch ", ""), ("patch ", "patch patch "), ("patch ", "patched patch ")])
def test_a_name_that_is_left_out_twice_there_or_not_public_is_seen(
    change: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = {heading: names.replace(*change) for heading, names in reference.GROUPS["analysis"].items()}
    monkeypatch.setattr(reference, "GROUPS", {**reference.GROUPS, "analysis": groups})
    with pytest.raises(ValueError, match=r"GROUPS in reference.py and analysis.__all__ differ: .*(patch|twice)"):
        reference.pages()


# --- what is taken in -------------------------------------------------------------------------------------------------

PAGE = "# One\n\nopening\n\n## Two\n\ntext\n\n```sh\n# Two\n```\n\n### Three\n\nmore\n\n## Four\n\nlast\n"


def test_sections_go_up_to_the_next_of_their_level_and_openings_to_any() -> None:
    assert sources.section_of(PAGE, "Two") == "text\n\n```sh\n# Two\n```\n\n### Three\n\nmore"
    assert sources.section_of(PAGE, "Two", whole=False) == "text\n\n```sh\n# Two\n```"
    assert sources.section_of(PAGE, "One", whole=False) == "opening"
    assert sources.section_of(PAGE, "One").endswith("last")
    with pytest.raises(ValueError, match="there is no section 'Five'"):
        sources.section_of(PAGE, "Five")


def test_links_go_along_and_those_into_code_lead_to_what_the_site_shows() -> None:
    text = "[a](../experiments/README.md#plugins) [`b`](config/model.py) [c](config) ![d](../figures/rendered/data.png)"
    moved = sources.moved(f"{text} [e](https://x.y) [f](#g)\n\n```md\n[h](nowhere.md)\n```", Path("circuits"), Path())
    assert "[a](experiments/README.md#plugins)" in moved
    assert '<a class="reference internal" href="_modules/circuits/config/model.html"><code' in moved
    assert " c ![d](figures/rendered/data.png) [e](https://x.y) [f](#g)" in moved
    assert "[h](nowhere.md)" in moved
    with pytest.raises(ValueError, match=r"a page in circuits links to nowhere.md, which is not there"):
        sources.moved("[h](nowhere.md)", Path("circuits"), Path())


def test_numbers_are_put_in_with_their_format_and_unknown_ones_are_refused() -> None:
    assert sources.filled("{{ a:.1f }} {{b:.0%}} {{ c:z.2f }}", {"a": 1.25, "b": 0.345, "c": -1e-9}) == "1.2 34% 0.00"
    with pytest.raises(ValueError, match=r"measured.json has no 'd', only a, b"):
        sources.filled("{{ d:.1f }}", {"a": 1.0, "b": 2.0})


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_no_number_of_the_pages_is_typed_and_none_is_measured_in_vain() -> None:
    texts = [(DOCS / page).read_text() for page in NUMBERED]
    assert {name for text in texts for name in PLACE.findall(text)} == {*MEASURED}
    typed = {number for text in texts for number in re.findall(r"\d+\.\d+|\d+ ?%", PLACE.sub("", text))}
    assert typed == {"0.2"}, "millions of parameters"


def agree(found: dict[str, float], near: float = 0.0, share: float = 1e-3) -> bool:
    """The same as in the pages; nearly, where a model was trained for it, as another processor rounds otherwise."""
    return all(MEASURED[name] == pytest.approx(value, rel=share, abs=near) for name, value in rounded(found).items())


def test_numbers_of_the_committed_results_are_what_the_pages_say() -> None:
    found = of_results(Bundle.open())
    assert agree(found)
    assert not agree(found | {"ratio": found["ratio"] + 0.01})


def test_numbers_of_the_classifiers_are_what_the_pages_say(trained_runs: Path) -> None:
    assert [config.training for config in classifiers()] == [replace(SHORT)] * 2, "the runs of the session"
    found = of_classifiers(run_named(trained_runs, "classic"), run_named(trained_runs, "value"))
    assert agree(found, near=0.1, share=0.1)
    assert not agree(found | {"v_own": found["v_mixed"]}, near=0.1, share=0.1)


def test_the_snippets_run(tmp_path: Path) -> None:
    snippets = re.findall(r"^```python\n(.*?)^```$", (DOCS / "adding.md").read_text(), re.DOTALL | re.MULTILINE)
    assert len(snippets) == 2
    short = "from dataclasses import replace\nfrom experiments import TRAINING\n"
    cut = [
        short + code.replace("seed=0)", 'seed=0, training=replace(TRAINING["small"], steps=3, n_eval=32))')
        for code in snippets
    ]
    assert "corrupt" in run_all(tmp_path, {f"snippet{i}": code for i, code in enumerate(cut)})
    assert len(list(tmp_path.glob("runs/*/results/sure.*"))) == 3


# --- what is installed ------------------------------------------------------------------------------------------------


def test_the_lock_is_beside_that_of_the_project_and_changes_nothing_of_it() -> None:
    locks = {name: versions(ROOT / f"requirements{name}.lock") for name in ("", "-docs", "-browser", "-peers")}
    assert {"sphinx", "furo", "myst-parser", "myst-nb"} <= {*locks["-docs"]}
    assert not {*locks["-docs"]} & {*locks[""]}
    for name in ("-browser", "-peers"):
        both = {*locks[name]} & {*locks["-docs"]}
        assert {package: locks[name][package] for package in both} == {p: locks["-docs"][p] for p in both}


def versions(lock: Path) -> dict[str, str]:
    """The packages of a lock, and their versions."""
    lines = [line for line in lock.read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)
    return {re.sub(r"[-_.]+", "-", name.lower()): version for name, version in (line.split("==") for line in lines)}
