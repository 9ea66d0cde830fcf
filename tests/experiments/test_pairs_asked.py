"""Every question asks the pairs of a file as it asks those of a task, and its results say which file."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import METRICS, patch, split_gradient
from experiments.questions.ablate import Ablate
from experiments.questions.gradients import Gradients
from experiments.questions.heads import Heads
from experiments.questions.patch import Patch
from experiments.questions.question import check_other
from experiments.runs.run import Run
from experiments.tasks.task import TrainedTask
from tests.experiments.test_cli import run
from tests.experiments.test_training import tiny
from tests.helpers import lm_run_named

TEXTS = ("When Mary and John went to the store, John gave a drink to", "Mary saw John, and John gave a ball to")
ROLES = {"IO": "Mary", "S2": ["John", 2]}


def line(text: str, **changes: Any) -> dict[str, Any]:
    """A pair of a text and the same with the names exchanged."""
    other = text.replace("Mary", "@").replace("John", "Mary").replace("@", "John")
    return {"clean": text, "corrupt": other, "answer": "Mary", "wrong": "John", "roles": ROLES} | changes


def file_of(folder: Path, *lines: dict[str, Any]) -> Path:
    file = folder / "mine.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return file


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return file_of(tmp_path, *map(line, TEXTS))


@pytest.fixture
def asked(lm_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A copy of a run of the session, whose task draws nothing."""

    def drawn(*_: Any, **__: Any) -> TrainedTask:
        raise AssertionError("a file of pairs needs no task")

    monkeypatch.setattr(Run, "task", drawn)
    source = lm_run_named(lm_runs, "value").path
    return Run.open(shutil.copytree(source, tmp_path / "runs" / source.name, ignore=lambda *_: ["results"]))


def test_a_question_asks_the_pairs_of_the_file(asked: Run, mine: Path) -> None:
    question = Patch(pairs=mine, components=("v",))
    model = asked.load_model()
    pair = question.pair(asked)
    assert set(pair.positions) == {"END", "IO", "S2"}
    assert len(pair) == 2
    sites = question.ask(asked).sites
    assert question.ask(asked).values.equal(patch(model, pair, sites).values)
    other = replace(question, pairs=file_of(mine.parent, line(TEXTS[0]), line(TEXTS[1], roles=ROLES | {"S2": 1})))
    assert not other.ask(asked).values.equal(question.ask(asked).values)


def test_token_numbers_are_asked_where_there_is_no_tokenizer(asked: Run, mine: Path) -> None:
    pair = Patch(pairs=mine).pair(asked)
    bare = asked.load_model()
    bare.tokenizer = None
    texts = [{"clean": x, "corrupt": y} for x, y in zip(pair.clean.tolist(), pair.corrupt.tolist(), strict=True)]
    said = {"answer": int(pair.answers[0]), "wrong": int(pair.wrong[0]), "roles": {"first": 0}}
    of_numbers = Patch(pairs=file_of(mine.parent, *(text | said for text in texts)))
    assert of_numbers.pair(asked, bare).clean.equal(pair.clean)
    with pytest.raises(ValueError, match=r"mine.jsonl, line 1: this model has no tokenizer to read text with"):
        Patch(pairs=file_of(mine.parent, line(TEXTS[0]))).pair(asked, bare)


def test_heads_and_gradients_are_of_the_clean_sides(asked: Run, mine: Path) -> None:
    last = asked.checkpoints()[-1]
    heads = Heads(pairs=mine, checkpoints=(last,)).ask(asked).to_frame()
    assert set(heads.score) == {"previous token", "END to IO", "END to S2", "retrieval"}
    assert (heads.n == 2).all()
    found = Gradients(pairs=mine, checkpoints=(last,)).ask(asked).to_frame()
    model, pair = asked.load_model(), Patch(pairs=mine).pair(asked)

    def loss(logits: Any) -> Any:
        return METRICS["loss"](logits, pair).mean()

    expected = split_gradient(model, loss, pair.clean).to_frame()
    assert found.whole.to_numpy() == pytest.approx(expected.whole.to_numpy())
    assert found.whole.to_numpy() != pytest.approx(
        split_gradient(model, loss, pair.corrupt).to_frame().whole.to_numpy()
    )


COMMANDS: list[tuple[tuple[Any, ...], tuple[str, ...], str]] = [
    (("patch", "--components", "resid_pre"), ("patch",), "sites, 2 pairs of mine.jsonl, logit_difference, denoise"),
    (
        ("paths", "--senders", "L0H1", "--receivers", "logits"),
        ("paths", "shares"),
        "direct paths, 2 pairs of mine.json",
    ),
    (("attribute", "--method", "EAP", "--check", 2), ("attribute",), "edges, 2 pairs of mine.jsonl, logit_difference"),
    (("ablate", "--method", "zero"), ("ablate",), "ablations on 2 sequences of mine.jsonl"),
    (("map",), ("route_map",), "2 pairs of mine.jsonl: 3 positions before 4 layers, denoise; largest: residual"),
    (("attention", "--row", 1), ("attention",), "16 heads on 11 positions; largest: L"),
    (("heads",), ("heads",), "3 checkpoints, 2 sequences of mine.jsonl"),
    (("gradients",), ("gradients",), "the answers' loss on 2 pairs of mine.jsonl"),
    (("circuit", "--method", "EAP", "--rule", "top", "--size", 30), ("circuit",), "circuit of"),
]


@pytest.mark.parametrize(("words", "results", "told"), COMMANDS, ids=lambda value: value[0] if value else "")
@pytest.mark.filterwarnings("ignore::analysis.WeakPairWarning")
def test_the_results_of_a_command_say_which_file(
    words: tuple[Any, ...],
    results: tuple[str, ...],
    told: str,
    asked: Run,
    mine: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, out, err = run(capsys, words[0], asked.path, *words[1:], "--pairs", mine)
    assert (status, told in out) == (0, True), out + err
    for name in results:
        frame = pd.read_parquet(asked.path / "results" / f"{name}.parquet")
        assert set(frame.pairs_file) == {"mine.jsonl"}
        assert set(frame.pairs_sha256) == {hashlib.sha256(mine.read_bytes()).hexdigest()}


def test_results_of_a_task_name_no_file(lm_runs: Path, tmp_path: Path) -> None:
    source = lm_run_named(lm_runs, "value").path
    copy = Run.open(shutil.copytree(source, tmp_path / source.name, ignore=lambda *_: ["results"]))
    question = Patch(n=3, components=("v",))
    question.tell(copy, question.ask(copy))
    assert not {"pairs_file", "pairs_sha256"} & set(pd.read_parquet(copy.path / "results" / "patch.parquet"))


def test_mistakes_end_with_a_sentence_before_anything_is_asked(
    asked: Run, mine: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps(line(TEXTS[0])) + "\n" + json.dumps(line(TEXTS[1], answer="Mary John")) + "\n{")
    cases: list[tuple[list[Any], str]] = [
        (["patch", asked.path, "--pairs", tmp_path / "no.jsonl"], "--pairs: there is no file or folder"),
        (["patch", asked.path, "--pairs", bad], "bad.jsonl, line 3: it is no JSON"),
        (["patch", asked.path, "--pairs", mine, "--corruption", "flip"], "--corruption: of what the task draws, and"),
        (["heads", asked.path, "--pairs", mine, "--n", 3, "--split", "names"], "--n, --split: of what the task draws"),
        (
            ["gradients", asked.path, "--pairs", mine, "--logged"],
            "--pairs: what was logged is as the training logged it",
        ),
    ]
    for words, message in cases:
        status, _, err = run(capsys, *words)
        assert (status, err[:7], message in err) == (2, "error: ", True), err
    bad.write_text(bad.read_text()[:-2])
    for command in ("patch", "ablate", "heads", "gradients"):
        status, _, err = run(capsys, command, asked.path, "--pairs", bad)
        assert (status, "bad.jsonl, line 2: 'Mary John' is 2 tokens, not one" in err) == (2, True), err
    assert not (asked.path / "results").exists()


def test_another_run_is_put_in_place_on_a_file_if_it_reads_the_same_tokens(
    asked: Run, lm_runs: Path, mine: Path
) -> None:
    source = lm_run_named(lm_runs, "classic").path
    classic = Run.open(shutil.copytree(source, asked.path.parent / source.name))
    found = Ablate(pairs=mine, method=("zero",), from_run=asked.path.name).ask(classic).to_frame()
    assert {"zero", "from run"} <= set(found.method)
    assert (found.n == 2).all()
    of_numbers = Run.at(asked.path.parent, tiny())
    with pytest.raises(ValueError, match="has another tokenizer than"):
        check_other(asked, of_numbers, of_file=True)
    with pytest.raises(ValueError, match="is the run itself"):
        check_other(asked, asked, of_file=True)
