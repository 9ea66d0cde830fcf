"""Measure the numbers of the site's pages anew and write them into ``measured.json``: ``python .ci/docs/measure.py``.

It trains two classifiers and two language models, which takes some minutes the first time; finished runs are read.
"""

from __future__ import annotations

import json
from pathlib import Path

from measured_classifier import classifiers, of_classifiers
from measured_language_models import language_models, of_language_models
from measured_results import of_results

from experiments import Bundle, sweep

MEASURED = Path(__file__).parent / "measured.json"


def rounded(found: dict[str, float]) -> dict[str, float]:
    """Return numbers to four digits, which is what another processor would find, too, or nearly."""
    return {name: float(f"{value:.4g}") for name, value in sorted(found.items())}


if __name__ == "__main__":
    classic, value = sweep(classifiers())
    found = of_results(Bundle.open()) | of_classifiers(classic, value)
    found |= of_language_models(*sweep(language_models()))
    MEASURED.write_text(json.dumps(rounded(found), indent=1) + "\n")
    print(f"{len(found)} numbers are in {MEASURED}")
