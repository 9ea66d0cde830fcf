"""transformer-lens' own tests of hooks, caches and patching hold of models of ours, but for a list with reasons.

They are no part of its wheel: TRANSFORMER_LENS_TESTS names the folder ``tests`` of its source archive, which the
package index has for every version (4.3.0 was tried, ``pip download --no-deps --no-binary transformer-lens``), or of a
checkout of its repository of the 3.x line, whose tests make a HookedTransformer (3.5 was tried).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.circuits.their_tests.lists import FAIL_3, FAIL_4, FAIL_4_ON_A_STREAM, FILES_3, FILES_4

ROOT = Path(__file__).parents[3]
FOLDER = os.environ.get("TRANSFORMER_LENS_TESTS", "")
IS_4 = not (Path(FOLDER) / "unit/test_hooked_root_module.py").is_file()


def outcomes(shim: str, files: tuple[str, ...], report: Path, ours: str, *options: str) -> dict[str, bool]:
    """Whether each of their tests holds; one that is skipped does not."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", f"tests.circuits.their_tests.{shim}", "-c", os.devnull]
    command += ["--import-mode=importlib", "-p", "no:cacheprovider", f"--junitxml={report}", *options, *files]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OURS": ours}
    done = subprocess.run(command, cwd=FOLDER, env=environment, capture_output=True, text=True)
    assert report.is_file(), done.stdout + done.stderr
    cases = ElementTree.parse(report).iter("testcase")
    return {
        f"{case.get('classname', '').rsplit('.', 1)[-1]}::{case.get('name')}": not any(
            child.tag in ("failure", "error", "skipped") for child in case
        )
        for case in cases
    }


def is_of(name: str, entry: str) -> bool:
    return name == entry or name.startswith(entry if entry.endswith("::") else f"{entry}[")


def check(found: dict[str, bool], fail: dict[str, tuple[str, ...]]) -> None:
    entries = [entry for names in fail.values() for entry in names]
    listed = {name for name in found if any(is_of(name, entry) for entry in entries)}
    failed = {name for name, holds in found.items() if not holds}
    assert sorted(failed - listed) == []
    assert sorted(listed - failed) == [], "the list holds too much"
    assert [entry for entry in entries if not any(is_of(name, entry) for name in found)] == []


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER or IS_4, reason="TRANSFORMER_LENS_TESTS names no tests of transformer-lens 3")
def test_tests_of_3_hold_of_ours_but_for_those_listed(tmp_path: Path) -> None:
    found = outcomes("shim_3", FILES_3, tmp_path / "report.xml", "value", "--noconftest")
    assert len(found) > 100
    check(found, FAIL_3)


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER or not IS_4, reason="TRANSFORMER_LENS_TESTS names no tests of transformer-lens 4")
@pytest.mark.parametrize("ours", ["classic", "value"])
def test_tests_of_4_hold_of_ours_but_for_those_listed(ours: str, tmp_path: Path) -> None:
    where = (f"--rootdir={FOLDER}", f"--confcutdir={FOLDER}")
    found = outcomes("shim_4", FILES_4, tmp_path / "report.xml", ours, *where)
    assert len(found) > 300
    check(found, FAIL_4 | (FAIL_4_ON_A_STREAM if ours == "value" else {}))


def test_a_list_that_is_out_of_date_is_seen() -> None:
    check(
        {"test_a::test_b[1]": False, "test_a::test_c": True, "TestD::test_e": False},
        {"why": ("test_a::test_b",), "why else": ("TestD::",)},
    )
    for found in (
        {"test_a::test_b": False, "test_a::test_c": False},
        {"test_a::test_b": True},
        {"test_a::test_b[1]": False, "test_a::test_b[2]": True},
        {"test_a::test_bc": True},
    ):
        with pytest.raises(AssertionError):
            check(found, {"why": ("test_a::test_b",)})
