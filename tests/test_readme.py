"""What the READMEs show runs as it stands, and prints what they say that it prints; what they point to is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / folder / "README.md" for folder in ("", "circuits", "figures", "analysis", "experiments", "tests")]
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\nprints\n\n```text\n(.*?)```)?", re.DOTALL)
GUARD = 'if __name__ == "__main__":'
NUMBER = re.compile(r"-?\d+\.\d+")
END = "-" * 20
SCRIPTS = re.compile(r"^## Five scripts\n(.*?)^## ", re.DOTALL | re.MULTILINE)
"""The section with what a new user would want."""
TOLERANCE = 0.1
"""Another processor rounds differently, and 2000 steps of training make something of that."""
ADDED: tuple[str, ...] = ("decaying", "looking_back", "sooner", "counting", "lookup")
"""The scripts that add something, by their files."""


def blocks() -> list[tuple[str, str]]:
    """Every snippet of Python, with what it prints if that is said; of the five scripts, none."""
    return [block for page in PAGES for block in BLOCK.findall(SCRIPTS.sub("## ", page.read_text()))]


def scripts() -> list[str]:
    """The five scripts of the README of ``experiments``."""
    found = SCRIPTS.search((ROOT / "experiments" / "README.md").read_text())
    assert found, "the section is there"
    return [code for code, _ in BLOCK.findall(found[1])]


def added() -> dict[str, str]:
    """The scripts by the names that their pages give them."""
    named = re.compile(r"`(\w+)\.py`:\n\n```python\n(.*?)```", re.DOTALL)
    return {name: script for page in PAGES for name, script in named.findall(page.read_text())}


def agree(printed: str, promised: str) -> bool:
    """The same words, and numbers within the tolerance: steps, as processors round otherwise, by its share."""
    if NUMBER.sub("#", printed).split() != NUMBER.sub("#", promised).split():
        return False
    pairs = zip(NUMBER.findall(printed), NUMBER.findall(promised), strict=True)
    return all(abs(float(a) - float(b)) <= TOLERANCE * max(1.0, abs(float(b))) for a, b in pairs)


def run_all(folder: Path, scripts: dict[str, str], *options: str) -> str:
    """Run scripts in a folder one after another in one process, as each would wait seconds for torch; return what they
    print. They train in that process, on one core."""
    for name, script in scripts.items():
        (folder / f"{name}.py").write_text(script)
    both = (
        f"import os, runpy\nos.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\nfor name in {[*scripts]}:\n"
        f"    runpy.run_path(name + '.py', run_name='__main__'); print({END!r})"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    command = [sys.executable, *options, "-c", both]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_examples_print_what_is_promised(tmp_path: Path) -> None:
    promises = [(code, said) for code, said in blocks() if "sweep(" in code and GUARD not in code]
    assert len(promises) == 3
    assert all(said for _, said in promises)
    printed = run_all(tmp_path, {f"example{i}": code for i, (code, _) in enumerate(promises)}, "-W", "error")
    for found, (_, promised) in zip(printed.split(END), promises, strict=False):
        assert agree(found, promised), f"a README promises\n{promised}\nand the example printed\n{found}"


@pytest.mark.parametrize("printed", ["accuracy 0.80", "accuracy", "precision 0.99", "accuracy 0.99 0.99"])
def test_a_broken_promise_would_be_seen(printed: str) -> None:
    assert agree("accuracy 0.97", "accuracy 0.99")
    assert agree("steps 1875.0", "steps 1925.0")
    assert not agree("steps 1700.0", "steps 1925.0")
    assert not agree(printed, "accuracy 0.99")


def test_the_scripts_that_add_something_train_patch_and_draw_from_an_empty_directory(tmp_path: Path) -> None:
    scripts = added()
    assert {*scripts} == {*ADDED} == {name for name in ADDED if GUARD in scripts[name]}
    assert sum(GUARD in code for code, _ in blocks()) == len(scripts)
    quick = {
        name: re.sub(r'(TRAINING\["[^"]+"\])(, steps=\d+)?', r"\1, steps=3, n_eval=32", scripts[name]) for name in ADDED
    }
    assert all(quick[name] != scripts[name] for name in ADDED)
    printed = run_all(tmp_path, quick).split(END)
    assert "decaying-stop 1 0." in printed[0]
    assert "value     1" in printed[1]
    assert "{'sooner': (4, 4)}" in printed[2]
    assert "value 1 0." in printed[3]
    assert "value 1 0." in printed[4]
    assert len(list(tmp_path.glob("runs/*/metrics.parquet"))) == 20
    assert {file.stem for file in tmp_path.glob("*.html")} == {*ADDED, "cumulative"}


def test_the_five_scripts_are_short_and_run_from_an_empty_directory(tmp_path: Path) -> None:
    assert len(scripts()) == 5
    assert all(len([line for line in code.splitlines() if line.strip()]) <= 12 for code in scripts())
    cut = [re.sub(r"steps=\d+", "steps=3", code) for code in scripts()]
    cut[1] = (
        cut[1]
        .replace("seed)", 'seed, replace(TRAINING["small"], steps=3))')
        .replace("from experiments import", "from dataclasses import replace\nfrom experiments import TRAINING,")
    )
    assert all(short != code for short, code in zip(cut, scripts(), strict=True))
    # What never learns has no times that differ; its losses do.
    cut[1] = re.sub(
        r"times = .*", 'm = all_metrics(runs); times = m[(m.split == "ic") & (m.measure == "loss")]', cut[1]
    )
    cut[1] = cut[1].replace("compare(times", "compare(times[times.step == 3]")
    printed = run_all(tmp_path, {f"script{i}": code for i, code in enumerate(cut)}).split(END)
    for said, name in zip(printed, ("PatchResult", "Comparison", "Run(", "Run(", "RouteMap"), strict=False):
        assert name in said
    assert {file.stem for file in tmp_path.glob("*.html")} == {"routes", "compared", "my_prompts"}


@pytest.mark.slow
def test_they_print_what_is_promised_when_they_are_not_cut_short(tmp_path: Path) -> None:
    promises = {name: said for name in ADDED for code, said in blocks() if code == added()[name] and said}
    assert {*promises} == {*ADDED} - {"decaying"}
    printed = dict(zip(ADDED, run_all(tmp_path, added()).split(END), strict=False))
    for name, promised in promises.items():
        assert agree(printed[name], promised), f"a README promises\n{promised}\nand {name} printed\n{printed[name]}"


def test_the_other_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    snippets = [code for code, _ in blocks() if "sweep(" not in code]
    assert len(snippets) >= 6
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), {"__name__": "readme"})


def test_what_they_point_to_is_there_also_on_a_package_index() -> None:
    links = {page: re.findall(r"\]\((?!http)([^)#]+)", page.read_text()) for page in PAGES}
    assert not links[PAGES[0]], "a package index shows the README without what lies beside it"
    assert sum(map(len, links.values())) > 60
    assert not [link for page, found in links.items() for link in found if not (page.parent / link).exists()]


def test_the_readme_is_of_one_sitting_and_tells_no_table_twice() -> None:
    assert len(PAGES[0].read_bytes()) < 8_600
    tables = [
        block for page in ROOT.glob("**/*.md") if not {".venv", "build"} & {*page.parts} for block in _filled(page)
    ]
    assert len(tables) >= 40
    assert len(tables) == len({*tables})


def _filled(page: Path) -> list[str]:
    return re.findall(r"<!-- begin ([\w-]+) -->", page.read_text())
