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
from experiments.runs.training_config import TokenTraining
from experiments.studies import pages as report
from experiments.studies import times as answers
from experiments.studies.collection import add_frames
from experiments.studies.committed_results import COMMITTED, Bundle
from experiments.studies.indirect_objects.study import paper_prompts, transplants
from experiments.studies.language_models import FINALS, STORIES, curves
from experiments.studies.step_cost.measured import step_costs, training_memory
from experiments.tasks.stories import StoriesConfig
from experiments.tasks.text.task import TextTaskConfig

README = Path(__file__).parents[2] / "experiments" / "README.md"
CONFIG = lm_run("0.2m", StoriesConfig(n_ctx=32), training=TokenTraining(steps=2_000, batch_size=8))
STEPS = {"classic": [1000, 1200, 1100], "value": [500, 600, 550]}
LOSSES = {"classic": [1.2, 1.1, 1.3], "value": [1.1, 1.0, 1.2]}


def stored(config: RunConfig) -> str:
    """As bundles hold it, without what has its default."""
    return json.dumps(config.essence())


def bundle_of(path: Path) -> Bundle:
    """Runs whose probability of the right name jumps to 0.9 at a step, and whose loss is constant."""
    runs, arms, metrics = [], [], []
    for variant, steps in STEPS.items():
        for seed, jump in enumerate(steps):
            run = f"{variant}{seed}"
            arms.append({"experiment": "lm", "condition": "0.2m", "variant": variant, "seed": seed, "run": run})
            about = {"run": run, "name": f"lm-{run}", "steps": 2000, "stops_at": np.nan, "config": stored(CONFIG)}
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
    times = answers.times(held, STORIES)
    # From 0.1 to 0.9, half is half way between two evaluations.
    assert times.groupby("variant").steps.apply(list).to_dict() == {k: [s - 25.0 for s in v] for k, v in STEPS.items()}
    [row] = answers.compared(held, STORIES).to_dict("records")
    assert row["ratio"] == pytest.approx(525 / 1075)


def test_tokens_are_counted_from_the_configuration(tmp_path: Path) -> None:
    found = curves(bundle_of(tmp_path), STORIES)
    assert (found.tokens == found.step * 8 * 32).all()


def test_tokens_of_tasks_are_those_of_their_own_windows(tmp_path: Path) -> None:
    """What a stored configuration leaves out differs by task."""
    configs = [lm_run("0.2m", task, training=TokenTraining(steps=2_000)) for task in ("ioi", "repeats", "nested")]
    assert {config.tokens_per_step for config in configs} == {1_024, 2_048}
    bundle = bundle_of(tmp_path)
    texts = {f"lm-classic{seed}": stored(config) for seed, config in enumerate(configs)}
    runs = bundle.runs.assign(config=bundle.runs.name.map(texts).fillna(bundle.runs.config))
    add_frames({"runs": runs}, tmp_path)
    found = curves(Bundle.open(tmp_path), STORIES).query("variant == 'classic'")
    for seed, config in enumerate(configs):
        mine = found[found.seed == seed]
        assert (mine.tokens == mine.step * config.tokens_per_step).all()


def test_differences_of_final_values_are_paired(tmp_path: Path) -> None:
    held, asked = bundle_of(tmp_path), {"validation loss": FINALS["validation loss"]}
    table = answers.means(answers.ends(held, STORIES, asked))
    value: Any = table[table.variant == "value"].iloc[0]
    assert value["mean"] == pytest.approx(1.1)
    assert value.high - value.low > 0.3
    [row] = answers.differences(answers.ends(held, STORIES, asked)).to_dict("records")
    assert row["difference"] == pytest.approx(-0.1), "every seed is 0.1 lower"
    assert np.isnan(row["low"]), "how far other seeds would be from three that differ alike, they cannot say"
    assert (row["variant"], row["lower"]) == ("value", 3)


def test_matched_and_transplanted_are_means_over_seeds(tmp_path: Path) -> None:
    held = bundle_of(tmp_path)
    table: Any = transplants(held).set_index(["body", "measure"])
    assert table.loc[("own", "probability"), "mean"] == pytest.approx(0.7)
    assert table.loc[("value", "probability"), "mean"] == pytest.approx(0.3)
    assert table.loc[("value", "probability"), "n"] == 3
    prompts = paper_prompts(held, ["classic"])
    assert set(prompts.answer) == {"right", "wrong"}
    assert set(prompts.sentence) == {1}


def test_the_committed_tables_have_every_variant() -> None:
    held = Bundle.open(COMMITTED)
    text = report.BLOCKS["lm-finals"].text(held)
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
