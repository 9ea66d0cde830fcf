"""What is said of language models, on results made by hand whose answers are known; and what their steps cost."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from circuits.presets import LM_SIZES, lm_config, parameter_count
from experiments.runs.config import LM_TRAINING, RunConfig, lm_run
from experiments.studies import lm_pages as lm_report
from experiments.studies import lm_times as lm_answers
from experiments.studies import times as answers
from experiments.studies.collection import add_frames
from experiments.studies.committed_results import COMMITTED, Bundle
from experiments.studies.step_cost import step_costs, training_memory
from experiments.tasks.text.task import TextTaskConfig

README = Path(__file__).parents[2] / "README.md"
STEPS = {"classic": [1000, 1200, 1100], "value": [500, 600, 550]}
LOSSES = {"classic": [1.2, 1.1, 1.3], "value": [1.1, 1.0, 1.2]}


def bundle_of(path: Path) -> Bundle:
    """Runs whose probability of the right name jumps to 0.9 at a step, and whose loss is constant."""
    runs, arms, metrics = [], [], []
    for variant, steps in STEPS.items():
        for seed, jump in enumerate(steps):
            run = f"{variant}{seed}"
            arms.append({"experiment": "lm", "condition": "0.2m", "variant": variant, "seed": seed, "run": run})
            config = json.dumps({"training": {"batch_size": 8}, "task": {"n_ctx": 32}})
            about = {"run": run, "name": f"lm-{run}", "steps": 2000, "stops_at": np.nan, "config": config}
            runs.append({**about, "status": "finished", "metrics": "", "gradients": ""})
            for step in range(0, 2001, 50):
                seen = {"run": run, "step": step}
                right = 0.9 if step >= jump else 0.1
                metrics.append({**seen, "split": "ioi train", "measure": "probability", "value": right})
                metrics.append({**seen, "split": "validation", "measure": "loss", "value": LOSSES[variant][seed]})
    ioi = pd.DataFrame(
        [
            {"variant": v, "seed": s, "run": f"lm-{v}{s}", "size": "0.2m", "body": body, "set": "paper", "by": by}
            | {"part": part, "measure": measure, "value": value + 0.1 * s, "prompts": 2}
            for v, body, value in (("classic", "own", 0.6), ("classic", "value", 0.2))
            for s in range(3)
            for by, part in (("set", ""), ("template", "When {A} and {B} met, {S} gave it to {IO}."))
            for measure in ("probability", "wrong_probability")
        ]
    )
    frames = {"arms": pd.DataFrame(arms), "runs": pd.DataFrame(runs), "metrics": pd.DataFrame(metrics), "lm_ioi": ioi}
    add_frames(frames | {"gradients": pd.DataFrame({"run": []})}, path)
    return Bundle.open(path)


def test_times_and_ratios_are_those_of_the_jumps(tmp_path: Path) -> None:
    held = bundle_of(tmp_path)
    times = answers.times(held, "lm", 0.5, split="ioi train", measure="probability")
    # From 0.1 to 0.9, half is half way between two evaluations.
    assert times.groupby("variant").steps.apply(list).to_dict() == {k: [s - 25.0 for s in v] for k, v in STEPS.items()}
    [row] = lm_answers.compared(held, "lm").to_dict("records")
    assert row["ratio"] == pytest.approx(525 / 1075)


def test_tokens_are_counted_from_the_configuration(tmp_path: Path) -> None:
    curves = lm_answers.curves(bundle_of(tmp_path), "lm")
    assert (curves.tokens == curves.step * 8 * 32).all()


def test_differences_of_final_values_are_paired(tmp_path: Path) -> None:
    held, asked = bundle_of(tmp_path), {"validation loss": lm_answers.LOSS}
    table = lm_answers.finals(held, "lm", asked)
    value: Any = table[table.variant == "value"].iloc[0]
    assert value["mean"] == pytest.approx(1.1)
    assert value.high - value.low > 0.3
    [row] = answers.differences(lm_answers.ends(held, "lm", asked), ["title", "condition"]).to_dict("records")
    assert row["difference"] == pytest.approx(-0.1), "every seed is 0.1 lower"
    assert row["high"] - row["low"] < 1e-6, "so the difference is sharp, while the means are not"
    assert (row["variant"], row["lower"]) == ("value", 3)


def test_matched_and_transplanted_are_means_over_seeds(tmp_path: Path) -> None:
    held = bundle_of(tmp_path)
    table: Any = lm_answers.transplants(held).set_index(["body", "measure"])
    assert table.loc[("own", "probability"), "mean"] == pytest.approx(0.7)
    assert table.loc[("value", "probability"), "mean"] == pytest.approx(0.3)
    assert table.loc[("value", "probability"), "n"] == 3
    prompts = lm_answers.paper_prompts(held, ["classic"])
    assert set(prompts.answer) == {"right", "wrong"}
    assert set(prompts.sentence) == {1}


def test_the_committed_tables_have_every_variant() -> None:
    held = Bundle.open(COMMITTED)
    text = lm_report.LM_BLOCKS["lm-finals"](held)
    assert all(f"| {variant} |" in text for variant in held.experiment("lm").variant.unique())


# --- cost -----------------------------------------------------------------------------------------------------------


def test_steps_are_timed_and_weighed_against_classic() -> None:
    table: Any = step_costs("0.2m", ["classic", "value", "cumulative"], rounds=2).set_index("variant")
    assert table.loc["classic", "time"] == pytest.approx(1.0)
    assert table.loc["classic", "memory"] == 1.0
    assert (table.milliseconds > 0).all()
    assert (table.memory.between(0.95, 1.3)).all(), "a stream holds little more"
    assert (table.parameters == parameter_count(lm_run("0.2m").model)).all()


def test_what_the_readme_says_of_memory_is_what_is_counted() -> None:
    text = README.read_text()
    for size in ("8m", "1b"):
        config = lm_config(size, "classic")
        run = RunConfig(TextTaskConfig("corpus", "tokenizer", n_ctx=256), config, LM_TRAINING[size], 0, "classic", size)
        row = next(line for line in text.splitlines() if line.startswith(f"| {size}"))
        total = float(re.findall(r"(\d+\.\d) GB", row)[0])
        assert training_memory(run)["total"] == pytest.approx(total, abs=0.06)
        assert str(LM_SIZES[size].n_layers) in row
    shared = training_memory(run, processes=8)
    assert f"1b takes {shared['total']:.1f} GB each" in text
    assert shared["weights"] == pytest.approx(training_memory(run)["weights"] / 8)
