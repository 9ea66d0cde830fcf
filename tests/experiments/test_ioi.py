"""Indirect objects asked of trained models: matched and transplanted, one run and several, and the paper's table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from analysis.metrics import METRICS
from analysis.pairs import Pair
from circuits import HookedStreamTransformer
from circuits.checkpoint import architecture
from experiments.questions.indirect_objects import IndirectObjects, _paper
from experiments.questions.ioi_tables import BYS, OWN, paper_table, summary
from experiments.questions.prompts import ORDERS, every_prompt, in_body, other_body
from experiments.studies.indirect_objects import asking
from experiments.tasks.indirect_objects.config import SPLITS
from experiments.tasks.indirect_objects.task import IOITask
from experiments.tasks.sentences import vocabulary as words
from experiments.tasks.stories import StoriesTask
from experiments.tasks.tokens.measures import MEASURES
from tests.helpers import lm_run_named, tiny_lm


@pytest.fixture(scope="module")
def models(lm_runs: Path) -> dict[str, HookedStreamTransformer]:
    return {variant: lm_run_named(lm_runs, variant).load_model() for variant in ("classic", "value")}


@pytest.fixture(scope="module")
def task(lm_runs: Path) -> IOITask:
    made = lm_run_named(lm_runs, "classic").task()
    assert isinstance(made, StoriesTask)
    return made.ioi


# --- bodies -----------------------------------------------------------------------------------------------------------


def test_in_their_own_body_weights_are_left_as_they_are(models: dict[str, HookedStreamTransformer]) -> None:
    for variant, model in models.items():
        assert in_body(model, variant) is model
        assert in_body(model, variant, allowed=True) is model


def test_transplanted_weights_are_those_weights_in_the_other_body(
    models: dict[str, HookedStreamTransformer], task: IOITask
) -> None:
    tokens = task.sample(4).tokens
    for donor, body in (("classic", "value"), ("value", "classic")):
        moved = in_body(models[donor], body, allowed=True)
        by_hand = HookedStreamTransformer(tiny_lm(body, task="stories").model).eval()
        by_hand.load_state_dict(models[donor].state_dict())
        assert moved(tokens).equal(by_hand(tokens))
        assert not torch.allclose(moved(tokens), models[donor](tokens), atol=1e-4), "it matters where they run"
        assert architecture(moved.config) == architecture(by_hand.config)
        assert not moved.training
        assert moved.tokenizer is models[donor].tokenizer is not None
        assert moved.config.name == f"{donor} in {body}"


def test_another_body_must_be_allowed(models: dict[str, HookedStreamTransformer]) -> None:
    with pytest.raises(
        ValueError,
        match=r"these are weights of 'classic', and 'value' is another architecture: they were never trained in it; "
        r"give --transplant to measure them there all the same",
    ):
        in_body(models["classic"], "value")
    with pytest.raises(ValueError, match="these are weights of 'value', and 'value-stop' is another architecture"):
        in_body(models["value"], "value-stop")
    with pytest.raises(ValueError, match="unknown variant 'valeu': did you mean 'value'"):
        in_body(models["classic"], "valeu", allowed=True)


def test_classic_weights_go_into_value_and_all_others_into_classic() -> None:
    bodies = {variant: other_body(variant) for variant in ("classic", "value", "cumulative")}
    assert bodies == {"classic": "value", "value": "classic", "cumulative": "classic"}


# --- prompts ----------------------------------------------------------------------------------------------------------


def test_the_numbers_of_every_prompt_are_those_of_the_metrics(
    models: dict[str, HookedStreamTransformer], task: IOITask
) -> None:
    model, n = models["value"], 5
    frame: Any = every_prompt(model, task, n, seed=3)
    assert list(frame.columns) == ["set", "prompt", "template", "order", "measure", "value"]
    assert set(frame.set) == set(SPLITS)
    assert set(frame.measure) == set(MEASURES)
    assert len(frame) == (4 * n + 8) * len(MEASURES)
    for split in SPLITS:
        prompts = task.prompts(n, split, seed=3)
        pair, logits = prompts.pair, model(prompts.pair.clean)
        swapped = Pair(pair.clean, pair.corrupt, pair.wrong, pair.answers, pair.positions, pair.read_at)
        expected = {
            "probability": METRICS["probability"](logits, pair),
            "wrong_probability": METRICS["probability"](logits, swapped),
            "logit_difference": METRICS["logit_difference"](logits, pair),
            "accuracy": METRICS["accuracy"](logits, pair),
            "preference": (METRICS["logit_difference"](logits, pair) > 0).float(),
        }
        for measure, values in expected.items():
            rows = frame[(frame.set == split) & (frame.measure == measure)].sort_values("prompt", kind="stable")
            assert rows.value.to_numpy() == pytest.approx(values.detach().numpy(), abs=1e-6)
            assert list(rows.template) == [prompts.templates[i] for i in prompts.template.tolist()]
            assert list(rows.order) == [ORDERS[i] for i in prompts.baba.tolist()]
    with pytest.raises(ValueError, match="evaluation mode; found training mode"):
        every_prompt(HookedStreamTransformer(model.config).train(), task, 2)


def test_a_run_is_measured_in_its_own_body_and_in_others(lm_runs: Path, task: IOITask) -> None:
    run = lm_run_named(lm_runs, "classic")
    both = IndirectObjects(n=4, transplant=True).ask(run).to_frame()
    frame: Any = pd.concat([both, IndirectObjects(n=4, body="classic").ask(run).to_frame()])
    assert list(dict.fromkeys(frame.body)) == [OWN, "value", "classic"]
    assert set(frame.run) == {run.path.name}
    assert set(zip(frame.variant, frame["size"], frame.seed, strict=True)) == {("classic", "0.2m", 0)}
    values = {body: part.value.to_numpy() for body, part in frame.groupby("body")}
    assert np.array_equal(values[OWN], values["classic"])
    with pytest.raises(ValueError, match="--transplant: classic is the body of lm-stories-classic-.* already"):
        IndirectObjects(n=4, body="classic", transplant=True).ask(run)
    assert not np.allclose(values[OWN], values["value"], atol=1e-6)
    assert np.array_equal(values[OWN], every_prompt(run.load_model(), task, 4).value.to_numpy())
    assert not np.array_equal(values[OWN], IndirectObjects(n=4, step=0).ask(run).to_frame().value.to_numpy())


# --- summaries --------------------------------------------------------------------------------------------------------


def rows_of(run: str, seed: int, values: list[float], **about: Any) -> list[dict[str, Any]]:
    """One measure of one set of a run."""
    shared = {"set": "train", "measure": "accuracy", "variant": "value", "size": "0.2m", "body": OWN} | about
    return [
        shared | {"run": run, "seed": seed, "prompt": i, "template": f"t{i % 2}", "order": ORDERS[i // 2], "value": v}
        for i, v in enumerate(values)
    ]


def interval(values: list[float]) -> tuple[float, float]:
    mean = np.mean(values)  # a probability: Student's on the logit scale, and back
    found = stats.t.interval(0.95, len(values) - 1, np.log(mean / (1 - mean)), stats.sem(values) / (mean * (1 - mean)))
    return float(1 / (1 + np.exp(-found[0]))), float(1 / (1 + np.exp(-found[1])))


def test_intervals_of_one_run_are_over_its_prompts_and_of_several_over_seeds() -> None:
    one, other = [0.0, 1.0, 1.0, 1.0], [0.5, 0.25, 0.25, 0.0]
    alone: Any = summary(pd.DataFrame(rows_of("a", 0, one)))
    assert len(alone) == 1
    assert tuple(alone.loc[0, ["mean", "low", "high"]]) == pytest.approx((0.75, *interval(one)))
    assert tuple(alone.loc[0, ["n", "over"]]) == (4, "prompts")
    both: Any = summary(pd.DataFrame([*rows_of("a", 0, one), *rows_of("b", 1, other)]))
    assert len(both) == 1
    assert tuple(both.loc[0, ["mean", "low", "high"]]) == pytest.approx((0.5, *interval([0.75, 0.25])))
    assert tuple(both.loc[0, ["n", "over"]]) == (2, "seeds")


def test_variants_bodies_and_sets_are_summed_up_apart() -> None:
    rows = [
        *rows_of("a", 0, [0.0, 1.0, 1.0, 1.0]),
        *rows_of("a", 0, [0.0] * 4, body="classic"),
        *rows_of("c", 0, [1.0] * 4, variant="classic"),
        *rows_of("a", 0, [0.5] * 4, set="paper"),
    ]
    table: Any = summary(pd.DataFrame(rows)).set_index(["variant", "body", "set"])
    assert table["mean"].to_dict() == {
        ("value", OWN, "train"): 0.75,
        ("value", "classic", "train"): 0.0,
        ("classic", OWN, "train"): 1.0,
        ("value", OWN, "paper"): 0.5,
    }


def test_by_template_and_by_order() -> None:
    frame = pd.DataFrame(rows_of("a", 0, [0.0, 1.0, 0.5, 0.5]))
    means = {by: summary(frame, by)["mean"].tolist() for by in BYS}
    assert means == {"set": [0.5], "template": [0.25, 0.75], "order": [0.5, 0.5]}
    by_order: Any = summary(frame, "order")
    assert list(by_order.order) == ["ABBA", "BABA"]
    assert (by_order.n == 2).all()


def test_the_papers_table_is_the_mean_over_both_subjects(lm_runs: Path) -> None:
    frame: Any = IndirectObjects(n=4, transplant=True).ask(lm_run_named(lm_runs, "classic")).to_frame()
    table: Any = paper_table(frame)
    whose = ["variant", "size", "body"]
    assert list(table.columns) == ["sentence", "prompt", *whose, "answer", "mean", "low", "high", "n"]
    assert len(table) == 4 * 2 * 2
    assert set(zip(table.sentence, table.prompt, strict=True)) == {
        (i + 1, template) for i, (template, _, _) in enumerate(words.PAPER_PROMPTS)
    }
    measures = {"right": "probability", "wrong": "wrong_probability"}
    for row in table.itertuples():
        of = frame[
            (frame.set == "paper")
            & (frame.template == row.prompt)
            & (frame.body == row.body)
            & (frame.measure == measures[row.answer])
        ]
        assert len(of) == 2
        assert set(of.order) == set(ORDERS)
        assert row.mean == pytest.approx(of.value.mean())
        assert row.n == 1
        assert np.isnan(row.low), "one run has no interval over seeds"
    again = frame.assign(run="another", seed=frame.seed + 1, value=frame.value / 2)
    several: Any = paper_table(pd.concat([frame, again]))
    assert len(several) == len(table)
    assert (several.n == 2).all()
    assert several["mean"].to_numpy() == pytest.approx(0.75 * table["mean"].to_numpy())
    assert np.isfinite(several[["low", "high"]].to_numpy()).all()
    larger: Any = paper_table(pd.concat([frame, again.assign(size="1m")]))
    assert (larger.n == 1).all(), "another size is no other seed"
    assert larger[larger["size"] != "1m"].reset_index(drop=True).equals(table)
    assert larger[larger["size"] == "1m"]["mean"].to_numpy() == pytest.approx(table["mean"].to_numpy() / 2)
    assert "size" not in _paper(table)
    assert list(_paper(larger)["size"]) == ["0.2m", "1m"] * 8
    alone = paper_table(frame.drop(columns="size"))
    assert alone.equals(table.drop(columns="size"))


# --- the study --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_study_asks_every_run_for_prompts_and_the_pair_for_heads_routes_and_circuits(
    lm_runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "N_PROMPTS", 4)
    monkeypatch.setattr(asking, "N_PAIRS", 2)
    runs = [lm_run_named(lm_runs, variant) for variant in ("classic", "value")]
    frames = asking.study(runs, progress=False)
    assert set(frames) == {"lm_ioi", "lm_heads", "lm_patches", "lm_edges"}
    for name, frame in frames.items():
        assert set(frame.variant) == {"classic", "value"}, name
        assert {"run", "seed", "size"} <= set(frame.columns)
    means = frames["lm_ioi"].query("variant == 'value' and body == 'own' and by == 'set' and measure == 'accuracy'")
    prompts: Any = IndirectObjects(n=4).ask(runs[1]).to_frame().query("measure == 'accuracy'")
    expected = prompts.groupby("set", observed=True).value.mean()
    assert means.set_index("set").value.to_dict() == pytest.approx(expected.to_dict())
    by_head = frames["lm_patches"].query("head != 'all'")
    assert set(by_head.component) == {"v", "z"}
    assert set(asking.study(runs, seeds=(1,), progress=False)) == {"lm_ioi"}, "those seeds are not asked for more"
