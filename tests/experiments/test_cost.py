"""What work takes is said before it begins, from a measurement that changes nothing; and then what is left of it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from circuits import Intervention, Site
from circuits.interventions.intervention import Zero
from experiments.questions.ablate import Ablate
from experiments.questions.attribute import Attribute
from experiments.questions.circuit import FindCircuit
from experiments.questions.cost import Work, cost_of
from experiments.questions.patch import Patch
from experiments.questions.paths import Paths
from experiments.runs.config import TRAINING, RunConfig, icl_run, lm_run
from experiments.runs.run import Run
from experiments.runs.training_config import SGD, Every, StopAt, TokenTraining
from experiments.sweeps import cost, plan
from experiments.sweeps.cost import Cost, Unkept, costs_of, kind_of, rough
from experiments.sweeps.forecast import Expected, Forecast
from experiments.sweeps.plan import slowed
from experiments.sweeps.progress import Tally
from experiments.sweeps.sweep import sweep, sweep_plan
from experiments.tasks.text.task import TextTaskConfig
from tests.experiments.test_training import files_of, tiny
from tests.helpers import build, random_pair, run_named

SHORT = tiny("value", 0, steps=30, evaluate_at=(Every(5),), n_eval=50)
LONG = tiny("value", 0, steps=200_000, evaluate_at=(Every(10_000),), n_eval=50)


# --- measuring changes nothing ----------------------------------------------------------------------------------------


def state() -> tuple[Any, ...]:
    numbers: Any = np.random.get_state()
    return torch.get_rng_state().tolist(), numbers[1].tolist(), torch.get_num_threads()


def test_measuring_draws_nothing_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = state()
    found = costs_of([Unkept(SHORT), Unkept(tiny("classic", 0))], "cpu", 60.0)
    assert all(cost.memory > 0 for cost in found.values()), "both were measured"
    assert state() == before
    assert not list(tmp_path.iterdir())
    torch.rand(1)
    assert state() != before, "a number drawn is seen"


def test_runs_end_with_the_same_bytes_measured_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(root: Path, progress: bool) -> dict[str, bytes]:
        cost._measured.cache_clear()
        (run,) = sweep([SHORT], root, workers=1, progress=progress)
        assert cost._measured.cache_info().currsize == int(progress), "measured with progress alone"
        return files_of(run)

    monkeypatch.setattr(plan, "WORTH_SECONDS", 0.0)
    assert trained(tmp_path / "measured", True) == trained(tmp_path / "not", False)


# --- what is measured -------------------------------------------------------------------------------------------------


def test_what_costs_nothing_makes_no_kind_of_its_own() -> None:
    value = icl_run("value", "small")
    for alike in (
        replace(value, seed=7),
        replace(value, weights="0" * 64),
        replace(
            value, training=replace(value.training, steps=7, optimizer=replace(value.training.optimizer, rate=0.1))
        ),
        replace(value, training=replace(value.training, stop_at=StopAt(0.9), checkpoint_at=())),
    ):
        assert alike != value
        assert kind_of(alike) == kind_of(value)
    for other in (
        icl_run("classic", "small"),
        icl_run("value", "paper"),
        replace(value, training=replace(value.training, batch_size=64)),
        replace(value, training=replace(value.training, n_eval=64)),
        replace(value, training=replace(value.training, optimizer=SGD())),
        replace(value, training=replace(value.training, gradients_at=(Every(100),))),
    ):
        assert kind_of(other) != kind_of(value)


def test_a_corpus_is_not_read() -> None:
    nowhere = TextTaskConfig("nowhere.txt", "nowhere.json", n_ctx=32, content="0" * 64)
    stories = lm_run("0.2m", training=TokenTraining(steps=100, n_eval=4))
    (found,) = costs_of([Unkept(replace(stories, task=nowhere))], "cpu", 60.0).values()
    assert found.memory > 0


def test_a_run_costs_its_steps_its_evaluations_and_its_interventions() -> None:
    one = Cost(setup=8.0, draw=0.5, update=1.0, hooked=3.0, look=10.0, split=100.0)
    config = replace(SHORT, training=replace(SHORT.training, steps=20, evaluate_at=(Every(10),)))
    assert one.of(config) == 20 * 1.0 + 20 * 0.5 + 3 * 10.0 + 8.0
    assert one.of(config, together=4) == 20 * 1.0 + 3 * 10.0 + (20 * 0.5 + 8.0) / 4
    assert one.of(config, together=4, stacked=True) == 20 * 1.0 / 4 + 20 * 0.5 + 3 * 10.0 + 8.0
    acting = Intervention(Site(0, "z"), Zero(), first=5, last=15)
    assert one.of(replace(config, training=replace(config.training, interventions=(acting,)))) == one.of(config) + 20.0
    split = replace(config, training=replace(config.training, gradients_at=(Every(20),)))
    assert one.of(split) == one.of(config) + 200.0


def test_kinds_that_are_not_measured_are_told_by_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = icl_run("value", "small"), icl_run("value", "paper")
    runs = [Unkept(small), Unkept(large)]
    measured = rough(kind_of(large)).times(7.0)
    monkeypatch.setattr(cost, "_measured", lambda kind, device: measured if kind == kind_of(large) else None)
    assert costs_of(runs, "cpu", 1e6)[small].update == pytest.approx(7.0 * rough(small).update)
    assert costs_of(runs, "cpu", 0.0)[small].update == pytest.approx(rough(small).update), "no time, no measurement"


def test_a_compiled_run_is_not_measured_as_an_eager_one() -> None:
    eager, compiled = (costs_of([Unkept(LONG, engine)], "cpu", 60.0)[LONG] for engine in ("eager", "compiled"))
    assert compiled.update < eager.update
    assert compiled.setup > eager.setup


def test_a_busy_machine_is_seen_in_the_share_of_a_core() -> None:
    assert slowed(share=1.0, processes=2, cores=2) == 1.0
    assert slowed(share=1.0, processes=4, cores=2) == 2.0, "more processes than cores"
    assert slowed(share=0.5, processes=1, cores=1) == 2.0, "one other"
    assert slowed(share=0.5, processes=2, cores=2) == 2.5, "three others, and these two"


# --- what is said before ----------------------------------------------------------------------------------------------


def test_a_plan_says_runs_time_processes_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep([SHORT], tmp_path, workers=1, progress=False)
    before = sorted(tmp_path.rglob("*"))
    three = [SHORT, LONG, replace(LONG, seed=1)]
    said = sweep_plan(three, tmp_path, workers=2)
    assert sorted(tmp_path.rglob("*")) == before
    assert said.sentence().startswith("3 runs (1 finished, 2 to train), about ")
    assert " on 2 processes, at most " in said.sentence()
    assert said.sentence().endswith(" GB of memory each")
    assert 2e8 < said.memory <= cost.peak_memory(torch.device("cpu")) + cost.COMPILE_BYTES, (
        "no process of the sweep needs more than this one"
    )
    stops = replace(LONG, training=replace(LONG.training, stop_at=StopAt(0.9)))
    unknown, ended = sweep_plan([stops], tmp_path), sweep_plan([stops], tmp_path, ends={stops.id: 50_000})
    assert unknown.sentence().startswith("1 run, at most about ")
    assert "(1 may stop early)" in unknown.sentence()
    assert ended.sentence().startswith("1 run, about ")
    assert ended.seconds == pytest.approx(unknown.seconds / 4)


def test_short_sweeps_begin_without_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cost._measured.cache_clear()
    sweep([SHORT], tmp_path, workers=1)
    assert cost._measured.cache_info().currsize == 0
    assert "about" not in capsys.readouterr().err


def test_what_is_said_goes_to_the_error_stream(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "WORTH_SECONDS", 0.0)
    sweep([SHORT], tmp_path, workers=1)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("1 run, about ")


@pytest.mark.slow
def test_the_time_that_is_said_is_the_time_it_takes(tmp_path: Path) -> None:
    small = replace(TRAINING["small"], steps=1_000)
    kinds: list[RunConfig] = [icl_run(v, "small", 0, small) for v in ("classic", "value")]
    kinds.append(lm_run("0.2m", training=TokenTraining(steps=60, evaluate_at=(Every(30),))))
    said = sweep_plan(kinds, tmp_path, workers=1)
    began = time.process_time()
    sweep(kinds, tmp_path, workers=1, progress=False)
    # In the processor's own time, as other programs may begin or end meanwhile.
    took = time.process_time() - began
    assert took / 1.5 < said.seconds / said.forecast.slowed < took * 1.5


# --- what is said on the way ------------------------------------------------------------------------------------------

SMALL, MODEL = 0.005, 0.15
"""Seconds a step of a small run, and of a language model."""
STEPS = 3_000


class Simulated:
    """Groups that train in processes, at paces of their own, and tell a tally; time is simulated."""

    def __init__(self, groups: list[list[str]], paces: dict[str, float], processes: int, tally: Tally):
        self.waiting, self.paces, self.processes, self.tally = [*groups], paces, processes, tally
        self.running: list[tuple[list[str], float]] = []
        self.now = 0.0

    def tick(self, seconds: float) -> bool:
        """Let time pass, and return whether anything is left to do."""
        while self.waiting and len(self.running) < self.processes:
            self.running.append((self.waiting.pop(0), self.now))
        self.now += seconds
        for group, began in [*self.running]:
            step = int((self.now - began) / sum(self.paces[name] for name in group))
            for name in group:
                self.tally.report(name, min(step, STEPS), 0.5, self.now)
                if step >= STEPS:
                    self.tally.set(name, "done")
            if step >= STEPS:
                self.running.remove((group, began))
        return bool(self.running or self.waiting)


def left_at(shares: tuple[float, ...], forecast: Callable[[list[list[str]], dict[str, float]], Forecast | None]) -> Any:
    """The time left that is said after shares of the whole, by the time that was left in truth."""
    groups = [[f"lm{i}"] for i in range(4)] + [[f"icl{i}.{j}" for j in range(6)] for i in range(8)]
    # Twice as slow as measured, the machine being busy, and each kind besides by something that no measurement sees.
    paces = {name: (2.2 * MODEL if name.startswith("lm") else 1.9 * SMALL) for group in groups for name in group}
    tally = Tally(dict.fromkeys(paces, STEPS), None, forecast(groups, paces))
    simulated, said = Simulated(groups, paces, 2, tally), list[tuple[float, float]]()
    while simulated.tick(1.0):
        tally.look(simulated.now)
        said.append((simulated.now, tally.left))
    end = simulated.now
    return [next(left / (end - now) for now, left in said if now >= share * end) for share in shares]


def by_kind(groups: list[list[str]], paces: dict[str, float]) -> Forecast:
    expected = {
        name: Expected("lm", STEPS, STEPS * MODEL) if name.startswith("lm") else Expected("icl", STEPS, STEPS * SMALL)
        for name in paces
    }
    return Forecast(groups, expected, 2)


def test_time_left_counts_every_kind_by_its_own_cost() -> None:
    assert left_at((0.25, 0.5, 0.75), by_kind) == pytest.approx([1.0, 1.0, 1.0], abs=0.25)
    alike = left_at((0.25, 0.5), lambda groups, paces: None)
    assert min(alike) > 3, "where steps count alike, it is several times what is left"


def test_runs_that_may_stop_early_are_expected_where_others_did() -> None:
    runs = {name: Expected("kind", 100, 100.0, may_stop=True) for name in ("a", "b")}
    forecast = Forecast([["a"], ["b"]], runs)
    assert forecast.total() == 200.0
    for step in range(41):
        forecast.report("a", step, float(step))
    forecast.ended("a")
    assert forecast.left((), {"b"}) == pytest.approx(40.0)
    known = Forecast([["a"], ["b"]], runs | {"b": replace(runs["b"], end=10)})
    assert known.total() == 110.0


def test_groups_share_processes_in_their_order() -> None:
    runs = {name: Expected(name, 1, seconds) for name, seconds in {"a": 3.0, "b": 1.0, "c": 1.0, "d": 3.0}.items()}
    assert Forecast([["a"], ["b"], ["c"], ["d"]], runs, 2).total() == 5.0
    assert Forecast([["a", "b"], ["c"], ["d"]], runs, 2).total() == 4.0
    assert Forecast([["a", "b", "c", "d"]], runs, 2).total() == 8.0, "a group trains in one process"
    assert Forecast([[name] for name in runs], {n: replace(e, at=1) for n, e in runs.items()}, 2).total() == 0.0


def test_a_run_that_is_tried_again_has_a_process_of_its_own() -> None:
    tally = Tally({"a": 100, "b": 100}, None, Forecast([["a", "b"]], dict.fromkeys("ab", Expected("", 100, 100.0)), 2))
    for step in (0, 10, 20):
        for name in "ab":
            tally.report(name, step, 0.5, 2.0 * step)
    assert tally.left == pytest.approx(160.0)
    for name in "ab":
        tally.set(name, "waiting")
    assert tally.left == pytest.approx(80.0)


# --- questions --------------------------------------------------------------------------------------------------------


def test_a_question_says_its_passes_before_it_makes_them(
    trained_runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # Others write results beside it, at the same time.
    original = run_named(trained_runs, "value").path
    shutil.copytree(original, tmp_path / "run", ignore=lambda *_: ["results"])
    run = Run.open(tmp_path / "run")
    patch, each = Patch(n=4), Patch(n=4, components=("z",))
    of_all, of_z = patch.cost(run), each.cost(run)
    assert of_all.forward == len(patch.ask(run).to_frame()) + 2
    assert of_z.forward == len(each.ask(run).to_frame()) + 2 < of_all.forward
    assert (of_all.backward, of_all.examples) == (0, 4)
    assert Patch(n=4, max_memory=10**9).cost(run).memory == 10**9
    paths = Paths(n=4)
    frames = paths.ask(run)
    assert paths.cost(run).forward == len(frames[0].to_frame()) + 2 + 3 * len(frames[1]) // 4 + 2
    edges = Attribute(n=4, method="exact")
    assert edges.cost(run).forward == len(edges.ask(run).to_frame()) + 2
    assert Attribute(n=4, steps=7).cost(run).backward == 7
    assert Ablate(n=4).cost(run).backward == len(Ablate(n=4).ask(run)) + 1
    whole, some = (FindCircuit(n=4, **of).cost(run) for of in ({}, {"rule": "top", "size": 2}))
    assert whole.at_most
    assert some.forward < whole.forward
    capsys.readouterr()
    patch.answer([run])
    said = capsys.readouterr()
    assert f"{run.path.name}: {of_all.forward} forward passes of 4 examples, a few seconds" in said.err
    assert "passes" not in said.out


def test_many_passes_are_told_by_a_sample_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("experiments.questions.cost.time.perf_counter", lambda: clock[0])

    def takes(n: int) -> None:
        clock[0] += 5.0 + 0.25 * n

    pair = random_pair(build("value"))
    model = build("value")
    model.register_forward_hook(lambda *_: clock.__setitem__(0, clock[0] + 1.0))
    assert cost_of(model, pair, [Work(400, takes)], None).seconds == pytest.approx(5.0 + 0.25 * 400)
    assert cost_of(model, pair, [Work(6, takes)], None).seconds == pytest.approx(6.0), "few cost plain passes"
    assert cost_of(model, pair, [Work(400)], None).seconds == pytest.approx(400.0)
