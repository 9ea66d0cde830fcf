"""Learned gains beside what each route does: what is asked, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from circuits import Intervention, Mean, Site, intervened
from experiments.runs.run import Run
from experiments.studies.committed_results import Bundle
from experiments.studies.learned_gains import asking, study
from experiments.studies.learned_gains.makes import MAKES, SIZE
from experiments.studies.study import Arm, Experiment
from experiments.sweeps.sweep import sweep
from tests.helpers import TINY_LM, tiny_lm

N = 16


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """A run of every rule, a few updates long."""
    from experiments.runs.config import lm_run

    configs = [lm_run(SIZE, "stories", rule, 0, TINY_LM, **parts) for rule, (_, parts) in MAKES.items()]
    return list(sweep(configs, tmp_path_factory.mktemp("learned"), workers=1, progress=False))


@pytest.fixture(scope="module")
def found(runs: list[Run]) -> pd.DataFrame:
    (frame,) = asking.study(runs, N, progress=False).values()
    return frame


def test_every_rule_is_asked_where_it_reads_and_by_head(found: pd.DataFrame) -> None:
    layers = found[found.route == "stream"].groupby("variant")["layer"].unique()
    wanted = {"nanochat": [1, 3], "modded-nanogpt": [1, 2, 3], "modded-nanogpt-embeddings": [0, 1, 2, 3]}
    assert {name: sorted(layers[name]) for name in wanted} == wanted
    assert set(found[found.route == "stream"]["head"]) == {"all", "0", "1", "2", "3"}
    scalars = found[found.route != "stream"].groupby("variant")["route"].unique()
    assert {name: sorted(routes) for name, routes in scalars.items()} == {
        "nanochat": ["backout", "smear", "x0"],
        "modded-nanogpt": ["x0"],
        "modded-nanogpt-embeddings": ["x0"],
    }


def test_what_is_lost_is_what_interventions_lose(runs: list[Run], found: pd.DataFrame) -> None:
    for run in runs:
        model = run.load_model()
        tokens = run.task().held_out(N, "validation").tokens
        rows = found[(found.run == run.path.name) & (found.route == "stream") & (found.layer == 1)]
        for route, column in (("residual", "lost"), ("own", "other_lost"), ("mixed", "both_lost")):
            for head in (None, 2):
                site = Site(1, "v", route, head)  # type: ignore[arg-type] # literals
                _, baseline = model.run_with_cache(tokens, names_filter=site.hook_name, return_cache_object=False)
                with intervened(model, [Intervention(site, Mean())], baseline=baseline), torch.no_grad():
                    lost = model(tokens, "loss").item()
                row = rows[rows["head"] == ("all" if head is None else str(head))]
                assert row[column].item() == pytest.approx(lost - row.loss.item(), abs=1e-5)
        assert rows.both_lost.abs().max() > 1e-4, "something is lost"


def test_gains_are_those_that_the_model_has(runs: list[Run], found: pd.DataFrame) -> None:
    by_rule = {run.config.variant: run.load_model() for run in runs}
    stream = found[(found.route == "stream") & (found["head"] == "all")].set_index(["variant", "layer"])
    share = by_rule["modded-nanogpt"].layers[2].attn.mix["v"].stream_gain.item()  # type: ignore[union-attr] # a parameter
    assert stream.gain["modded-nanogpt", 2] == pytest.approx(share)
    assert stream.other_gain["modded-nanogpt", 2] == pytest.approx(1 - share)
    assert 0 < stream.gain["nanochat", 3] < 3, "a sigmoid times 3"
    assert stream.gain_spread["nanochat", 3] > 0
    assert stream.gain_spread["modded-nanogpt", 2] == 0
    scalars = found[found.route == "x0"].set_index(["variant", "layer"])
    assert scalars.gain["nanochat", 2] == pytest.approx(by_rule["nanochat"].layers[2].scalars.x0.item())  # type: ignore[union-attr] # it has some


def test_what_brings_nothing_is_worth_nothing(runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    run = next(run for run in runs if run.config.variant == "nanochat")
    model = run.load_model()
    with torch.no_grad():
        model.value_embeds["3"].W_VE.zero_()  # type: ignore[operator,union-attr] # a table
        assert model.smear is not None
        model.smear.gain.zero_()
    monkeypatch.setattr(Run, "load_model", lambda self: model)
    (frame,) = asking.study([run], N, progress=False).values()
    silent = frame[((frame.route == "stream") & (frame.layer == 3)) | (frame.route == "smear")]
    assert (silent["size"] == 0).all()
    assert (silent.lost == 0).all()
    assert frame[(frame.route == "stream") & (frame.layer == 1)]["size"].min() > 0


class Held(Bundle):
    """A bundle of one frame."""

    def __init__(self, frame: pd.DataFrame):
        super().__init__(Path(), {})
        object.__setattr__(self, "held", frame)

    def frame(self, name: str) -> pd.DataFrame:
        return {"learned_gains": vars(self)["held"]}[name]


def test_shares_add_up_and_lie_between_nothing_and_all(found: pd.DataFrame) -> None:
    table = study.shares(Held(found))
    assert set(table.route) == {"stream", "x0"}
    assert (table.alone + table.other_alone + table.either).to_numpy() == pytest.approx(1.0)
    assert table.gain_share.between(0, 1).all()
    assert table.size_share.between(0, 1).all()
    alike = found.assign(lost=0.2, other_lost=0.2, both_lost=0.9)
    assert study.shares(Held(alike)).causal_share.to_numpy() == pytest.approx(0.5)
    all_of_it = found.assign(lost=0.9, other_lost=0.0, both_lost=0.9)
    assert study.shares(Held(all_of_it)).causal_share.to_numpy() == pytest.approx(1.0)


def test_gains_that_tell_are_told_from_gains_that_do_not(found: pd.DataFrame) -> None:
    stream = found[found.route == "stream"].reset_index(drop=True)
    share = pd.Series([0.1, 0.3, 0.5, 0.7, 0.9] * (len(stream) // 5))
    told = stream.assign(gain=share, other_gain=1 - share, both_lost=1.0, lost=share, other_lost=1 - share)
    right = study.agreement(Held(told)).query("told_by == 'gain_share'")
    assert right.off.to_numpy() == pytest.approx(0.0, abs=1e-12)
    assert right.order.to_numpy() == pytest.approx(1.0)
    wrong = study.agreement(Held(told.assign(gain=1 - share, other_gain=share))).query("told_by == 'gain_share'")
    assert wrong.off.min() > 0.2
    assert wrong.order.to_numpy() == pytest.approx(-1.0)
    assert "within 0.1" in study._answer(Held(told))
    assert "not within 0.1" in study._answer(Held(told.assign(gain=1 - share, other_gain=share)))


def test_the_committed_runs_are_all_asked() -> None:
    bundle = Bundle.open()
    asked = bundle.frame("learned_gains")
    assert set(asked.run) == set(bundle.experiment(study.LEARNED_GAINS.name).name)
    assert asked.run.nunique() == study.SEEDS * len(MAKES)


def test_finished_runs_of_a_folder_are_asked(runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[tuple[list[str], int]]()
    one = Experiment("some", lambda size: [Arm(runs[1].config), Arm(tiny_lm("value", 7))])
    monkeypatch.setattr(study, "LEARNED_GAINS", one)
    monkeypatch.setattr(asking, "study", lambda there, n: asked.append(([r.path.name for r in there], n)) or {})
    assert study.ask([runs[0].path.parent], "miniature") == {}
    assert asked == [([runs[1].path.name], 64)]
