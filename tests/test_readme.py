"""The README's example runs as it stands and prints what the README says that it prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
NUMBER = re.compile(r"-?\d+\.\d+")
END = "-" * 20
TOLERANCE = 0.1
"""Another processor rounds differently, and 2000 steps of training make something of that."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def agree(printed: str, promised: str) -> bool:
    """The same words, and numbers within the tolerance."""
    if NUMBER.sub("#", printed).split() != NUMBER.sub("#", promised).split():
        return False
    pairs = zip(NUMBER.findall(printed), NUMBER.findall(promised), strict=True)
    return all(abs(float(a) - float(b)) <= TOLERANCE for a, b in pairs)


def promises() -> list[tuple[str, str]]:
    """The examples that ask a trained run, each with what it prints."""
    return re.findall(
        r"```python\n([^`]*?sweep\([^`]*?)```\n\nprints\n\n```text\n(.*?)```", README.read_text(), re.DOTALL
    )


def test_the_examples_print_what_is_promised(tmp_path: Path) -> None:
    assert len(promises()) == sum("sweep(" in block and "register_" not in block for block in blocks("python")) == 3
    for i, (example, _) in enumerate(promises()):
        (tmp_path / f"example{i}.py").write_text(example)
    # One after another in one process, as each would wait seconds for torch.
    both = f"import runpy\nfor i in range({len(promises())}):\n    runpy.run_path(f'example{{i}}.py'); print({END!r})"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-c", both]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    for printed, (_, promised) in zip(ran.stdout.split(END), promises(), strict=False):
        assert agree(printed, promised), f"the README promises\n{promised}\nand the example printed\n{printed}"


@pytest.mark.parametrize("printed", ["accuracy 0.80", "accuracy", "precision 0.99", "accuracy 0.99 0.99"])
def test_a_broken_promise_would_be_seen(printed: str) -> None:
    assert agree("accuracy 0.97", "accuracy 0.99")
    assert not agree(printed, "accuracy 0.99")


def test_the_other_snippets_run() -> None:
    snippets = [block for block in blocks("python") if "sweep(" not in block]
    assert len(snippets) >= 3
    for snippet in snippets:
        exec(compile(snippet, str(README), "exec"), {"__name__": "readme"})


def test_what_it_points_to_is_there() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text())
    assert len(links) > 10
    assert not [link for link in links if not (README.parent / link).exists()]
