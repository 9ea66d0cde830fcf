"""Head scores on patterns that are known, and on trained models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformer_lens.head_detector import detect_head

from analysis import AttentionScore, score_heads
from analysis.heads import induction, previous_token
from experiments.analyses import heads_run
from tests.helpers import build, inputs_for, run_named


def test_a_score_is_the_attention_to_its_keys_averaged_over_its_queries() -> None:
    pattern = torch.tensor([[[[1.0, 0, 0], [0.25, 0.75, 0], [0.5, 0.2, 0.3]]]])
    score = AttentionScore("x", torch.tensor([[1, 2]]), torch.tensor([[[0, 1], [0, 2]]]))
    assert float(score.of(pattern)) == pytest.approx(((0.25 + 0.75) + (0.5 + 0.3)) / 2)
    weighted = AttentionScore("x", torch.tensor([[2]]), torch.tensor([[[0, 1]]]), torch.tensor([[[1.0, 0.0]]]))
    assert float(weighted.of(pattern)) == 0.5


def test_previous_token_and_induction_patterns() -> None:
    n, period = 8, 4
    before, copies = torch.zeros(1, 1, n, n), torch.zeros(1, 1, n, n)
    before[0, 0, range(1, n), range(n - 1)] = 1
    copies[0, 0, range(period, n), range(1, n - period + 1)] = 1
    scores = {"previous token": previous_token(1, n), "induction": induction(period, n, 1)}
    found = {(name, i): float(s.of(p)) for name, s in scores.items() for i, p in enumerate((before, copies))}
    assert found["previous token", 0] == 1
    assert found["induction", 1] == 1
    assert found["previous token", 1] == 0
    assert found["induction", 0] == 0


def test_equal_to_transformer_lens_detector() -> None:
    model = build("value", "tokens", 3).float()
    tokens = inputs_for(model.config, 1)
    ours = score_heads(model, tokens, [previous_token(1, 7)]).set_index(["layer", "head"]).value
    theirs = detect_head(model, tokens, "previous_token_head")  # type: ignore[arg-type] # tokens pass through
    # theirs counts the first position, which attends to nothing before it, among the seven
    for layer in range(3):
        for head in range(4):
            assert ours.loc[(layer, head)] * 6 / 7 == pytest.approx(float(theirs[layer, head]), abs=1e-5)


def test_trained_models_have_the_two_heads_and_no_other(trained_runs: Path) -> None:
    for variant in ("classic", "value"):
        run = run_named(trained_runs, variant)
        frame = heads_run(run, n=128)
        assert sorted(frame.step.unique()) == run.checkpoints()
        last = frame[frame.step == 1500].set_index(["layer", "score"]).value
        assert last[(0, "ila")] > 0.6
        assert last[(1, "tila")] > 0.6
        assert last[(1, "ila")] < 0.4
        assert last[(0, "tila")] < 0.4
        first = frame[frame.step == 0].set_index(["layer", "score"]).value
        assert first[(0, "ila")] < 0.4
        measured = run.metrics()
        same = measured[(measured.split == "ic") & (measured.step == 1500)].set_index("measure").value
        assert same["ila"] == pytest.approx(last[(0, "ila")], abs=0.05)
        assert same["tila"] == pytest.approx(last[(1, "tila")], abs=0.05)


def test_mistakes_are_explained() -> None:
    model = build("value", "tokens")
    x = inputs_for(model.config)
    with pytest.raises(ValueError, match="there is no score to compute"):
        score_heads(model, x, [])
    with pytest.raises(ValueError, match="score 'previous token' is for 2 examples, but there are 3"):
        score_heads(model, x, [previous_token(2, 7)])
    with pytest.raises(ValueError, match="evaluation mode"):
        score_heads(model.train(), x, [previous_token(3, 7)])
