"""How long commands and imports take to begin, in processes of their own, turn by turn: ``make bench``.

Every figure is a median; imports are told above that of TransformerLens, which nothing can be faster than.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

COMMAND = "from experiments.cli import main; import sys; sys.exit(main({!r}))"
LENS = "import transformer_lens"
MODEL = (
    "from circuits import HookedStreamTransformer, icl_config; HookedStreamTransformer(icl_config('value', 'small'))"
)
PROGRAMS = {
    "valuestream --help": COMMAND.format(["--help"]),
    "valuestream runs, of 20 runs": COMMAND.format(["runs"]),
    "valuestream figures --only streams_ratios": COMMAND.format(
        ["figures", "--only", "streams_ratios", "--images", "no", "--out", "drawn"]
    ),
    LENS: LENS,
    "import circuits, and build a model": f"{LENS}; {MODEL}",
    "import analysis, and patch": f"{LENS}; from analysis import patch, find_sites",
}
ASKED = {
    "valuestream --help": "< 0.5 s",
    "valuestream runs, of 20 runs": "< 1.2 s",
    "import circuits, and build a model": "<= 0.3 s above",
    "import analysis, and patch": "<= 0.5 s above",
}
MAKE_RUNS = (
    "from experiments import Run, TRAINING, icl_run\n"
    "for seed in range(20): Run.at('runs', icl_run('value', 'small', seed))"
)


def seconds(program: str, folder: Path) -> float:
    """Return how long a program takes in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="turns of every program")
    options = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    with tempfile.TemporaryDirectory() as folder:
        seconds(MAKE_RUNS, Path(folder))
        for _ in range(options.rounds):
            for name, program in PROGRAMS.items():
                found[name].append(seconds(program, Path(folder)))
    lens = found[LENS]
    for name, times in found.items():
        above = name.startswith("import") and name != LENS
        value = median(a - b for a, b in zip(times, lens, strict=True)) if above else median(times)
        said = f"{value:.2f} s above {LENS}" if above else f"{value:.2f} s"
        print(f"{name:<50} {said:<40} {ASKED.get(name, '')}")


if __name__ == "__main__":
    main()
