"""transformer-lens' own tests of hooks, caches and patching hold of a model of ours, but for a list with reasons.

They are no part of its package: TRANSFORMER_LENS_TESTS names the folder ``tests`` of a checkout of its repository, of
the 3.x line (3.5 was tried), whose tests make a HookedTransformer.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[3]
FOLDER = os.environ.get("TRANSFORMER_LENS_TESTS", "")
FILES = (
    "acceptance/test_activation_cache.py",
    "acceptance/test_hook_tokens.py",
    "integration/test_cache_hook_names.py",
    "integration/test_cache_pos_slice.py",
    "integration/test_hooks.py",
    "integration/test_kv_cache.py",
    "unit/test_direct_path_patching.py",
    "unit/test_hook_introspection.py",
    "unit/test_hook_points.py",
    "unit/test_hooked_root_module.py",
    "unit/test_patching.py",
)
_MASKS = "padding is given by attention_mask, and not told from tokens: forward has no padding_side"
_CACHE = "a cache here cannot be frozen; run what is to be seen twice with a copy of it (copy.deepcopy)"
_OTHER_VERSION = "it is of transformer-lens itself, whose 4.x does otherwise than 3.x"
FAIL = {
    "test_hook_tokens::test_patch_tokens": "token numbers have no hook point: give other tokens",
    "test_cache_hook_names::test_cache_hook_names": "the points of a SoLU model without a stream, one by one",
    "test_hooks::test_conditional_hooks": "a point that does not fire is refused by a ValueError with what to do, and "
    "theirs is an AssertionError",
    "test_kv_cache::test_multi_token_batch": _MASKS,
    "test_kv_cache::test_freeze_cache": _CACHE,
    "test_kv_cache::test_kv_cache_and_start_at_layer": _CACHE,
    "TestCheckFoldLn::test_folded_model_no_warning": _OTHER_VERSION,
    "TestCheckFoldLn::test_unfolded_model_warns": _OTHER_VERSION,
    "TestCheckFoldLn::test_no_crash_on_missing_attribute": _OTHER_VERSION,
    "TestHookPointHasHooks::test_invalid_direction_raises_error": _OTHER_VERSION,
    "test_hooked_root_module::test_legacy_hook_points_import_still_works": _OTHER_VERSION,
}
"""Which of their tests do not hold, by class or file and name, and why."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bool]:
    """Whether each of their tests holds."""
    report = tmp_path_factory.mktemp("theirs") / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.circuits.their_tests.shim", "-c", os.devnull]
    command += ["--noconftest", "--import-mode=importlib", "-p", "no:cacheprovider", f"--junitxml={report}", *FILES]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=FOLDER, env=environment, capture_output=True, text=True)
    assert report.is_file(), done.stdout + done.stderr
    cases = ElementTree.parse(report).iter("testcase")
    return {
        f"{case.get('classname', '').rsplit('.', 1)[-1]}::{case.get('name')}": not any(
            child.tag in ("failure", "error", "skipped") for child in case
        )
        for case in cases
    }


def listed(name: str) -> bool:
    return any(name == one or name.startswith(f"{one}[") for one in FAIL)


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER, reason="TRANSFORMER_LENS_TESTS names no checkout of transformer-lens' tests")
def test_their_tests_hold_of_ours_but_for_those_listed(outcomes: dict[str, bool]) -> None:
    assert len(outcomes) > 100
    failed = {name for name, holds in outcomes.items() if not holds}
    assert {name for name in failed if not listed(name)} == set()
    assert {name for name, holds in outcomes.items() if holds and listed(name)} == set(), "the list holds too much"
    assert [one for one in FAIL if not any(name == one or name.startswith(f"{one}[") for name in outcomes)] == []
