"""Tuned rates: the best one is that of the fewest steps, runs that do not get there count, and seeds are others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from circuits.presets import parameter_count
from experiments.studies import language_model_sources, optimisers, tuning
from experiments.studies.committed_results import COMMITTED, Bundle
from experiments.studies.plan import Plan
from experiments.studies.study import Experiment

TOY = Experiment("toy", lambda size: [], declared=12)
STEPS = {
    # The middle rate is best for one arm; for the other the highest, where the middle one loses a run.
    "a": {0.1: [900, 950], 0.3: [400, 420], 1.0: [500, 500]},
    "b": {0.1: [900, 900], 0.3: [100, None], 1.0: [450, 500]},
}


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle whose runs take these steps, of 1,000 at most."""
    rows = [
        {"condition": tuning.condition_of("SGD", rate), "variant": arm, "seed": seed, "steps": steps, "last": 1_000}
        for arm, by_rate in STEPS.items()
        for rate, some in by_rate.items()
        for seed, steps in enumerate(some)
    ]
    monkeypatch.setattr(tuning, "times", lambda bundle, experiment: pd.DataFrame(rows).astype({"steps": float}))
    monkeypatch.setattr(Experiment, "trained", lambda self, bundle: True)
    return Bundle(Path(), {})


def test_the_best_rate_has_the_fewest_steps_and_who_does_not_get_there_counts_to_the_end(toy: Bundle) -> None:
    assert tuning.best_rates(toy, TOY) == {("SGD", "a"): 0.3, ("SGD", "b"): 1.0}
    capped = tuning.rated(toy, TOY).query("variant == 'b' and rate == 0.3").capped
    assert list(capped) == [100, 1_000]
    text = tuning.tuning_block(TOY).text(toy)
    assert "| SGD | b | 1 (an end of the grid) | 0.1: 900; 0.3: 550 (1 of 2); 1: 475 |" in text


def test_fewer_runs_than_declared_tune_nothing() -> None:
    held = Bundle.open(COMMITTED)
    more = Experiment("optimisers", lambda size: [], declared=10_000)
    assert tuning.tuning_block(more).text(held).startswith("84 of 10000 runs are trained; nothing is concluded")


@pytest.mark.parametrize(
    ("experiment", "name", "seeds"),
    [
        (optimisers.TUNING["Adam"], "tuned-adam", optimisers.TUNING_SEEDS),
        (optimisers.TUNING["SGD"], "tuned-sgd", optimisers.TUNING_SEEDS),
        (language_model_sources.TUNING, "lm-sources", language_model_sources.TUNING_SEEDS),
    ],
)
def test_rates_are_tuned_on_seeds_of_their_own_alike_for_all(experiment: Any, name: str, seeds: Any) -> None:
    arms = experiment.arms()
    assert len({arm.config.id for arm in arms}) == len(arms) == experiment.declared
    assert {arm.config.seed for arm in arms} == {*seeds}
    tuned = pd.DataFrame([(arm.condition, arm.label, arm.config.training.optimizer.rate) for arm in arms])
    for condition, rows in tuned.groupby(0):
        [rate] = rows[2].unique()
        assert str(condition).endswith(f", rate {rate:g}")
        plan = Plan.read(name)
        assert {*rows[1]} == {*plan.arms}
        assert not {*plan.seeds} & {*seeds}


@pytest.mark.parametrize("kind", list(optimisers.FINE))
def test_what_is_compared_has_the_rates_that_were_best_and_is_nothing_before_they_are_known(kind: str) -> None:
    held, arms = Bundle.open(COMMITTED), optimisers.TUNED[kind].experiment.arms()
    tuned = optimisers.TUNING[kind].trained(held)
    best = tuning.best_rates(held, optimisers.TUNING[kind]) if tuned else {}
    assert {(kind, arm): rate for arm, rate in optimisers.BEST.get(kind, {}).items()} == best
    assert bool(arms) == tuned
    for arm in arms:
        assert arm.config.training.optimizer.rate == optimisers.BEST[kind][arm.label]


def test_language_models_are_compared_at_the_rates_that_were_best() -> None:
    module, held = language_model_sources, Bundle.open(COMMITTED)
    assert {("AdamW", arm): rate for arm, rate in module.BEST.items()} == tuning.best_rates(held, module.TUNING)
    arms = module.SOURCES.experiment.arms()
    assert len(arms) == module.SOURCES.plan.n_runs
    for arm in arms:
        assert arm.config.training.optimizer.rate == module.BEST[arm.label]
        assert arm.config.model.streams == module.streams_of(arm.label, "0.2m")


def test_language_models_are_what_their_arms_are_called() -> None:
    module = language_model_sources
    runs = {(a.label, a.config.seed): a.config for a in module.WINDOWS.experiment.arms()}
    opened, closed = runs["opened at 1,000", 22], runs["closed at 500", 22]
    assert [(gate.step, gate.gate) for gate in opened.training.gates] == [(0, "off"), (1_000, "full")]
    assert [(gate.step, gate.gate) for gate in closed.training.gates] == [(500, "off")]
    assert opened.model.streams == runs["value", 22].model.streams
    assert all(run.training.gradients_at for run in runs.values())
    for declared in (module.MILLION, module.NESTED):
        arms = declared.experiment.arms()
        assert len(arms) == declared.plan.n_runs
        for arm in arms:
            assert arm.config.model.streams == module.streams_of(arm.label, arm.config.preset)
            # Every layer but the first reads, and no two of them share a layer or a table.
            layers = range(1, arm.config.model.n_layers)
            read = [of.topology.sources(layer) for of in arm.config.model.streams for layer in layers]
            assert len({*read}) == len(read) == (0 if arm.label == "classic" else len(layers))
            assert all(len(sources) == 1 for sources in read)
        [stop] = {arm.config.training.stop_at for arm in arms}
        assert stop is not None
        assert (stop.split, stop.measure) == (declared.experiment.split, declared.experiment.measure)
        assert stop.accuracy >= max(declared.plan.thresholds)


def test_language_models_have_as_many_parameters_as_their_page_says() -> None:
    page = (COMMITTED.parent / "language_model_sources.md").read_text("utf-8")
    counted = {
        arm.label: parameter_count(arm.config.model)
        for arm in language_model_sources.SOURCES.experiment.arms()[: len(language_model_sources.ARMS)]
    }
    apart = {counted.pop(label): label for label in ("x0", "token tables")}
    [same] = {*counted.values()}
    for n, label in {same: "classic, value and its gates, first", **apart}.items():
        assert f"| {label} | {n:,} |" in page
