"""Nested clauses: a parser of its own reads the relations out of the text and answers the questions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from circuits.common.errors import UnknownNameError
from experiments.tasks.nested_relations import DEEPEST, NAMES, THINGS, NestedConfig, NestedTask, text_length
from experiments.tasks.sentences.relations import QUESTIONS
from experiments.tasks.tokens.batches import next_token_loss
from experiments.tasks.tokens.task import TokenTask

N = 500
Fact = tuple[str, str, str]
"""Giver, thing, receiver."""


@pytest.fixture(scope="module")
def task() -> NestedTask:
    return NestedTask()


def facts_of(text: Sequence[str]) -> tuple[list[Fact], list[str]]:
    """The facts of a passage, the outermost first, and the words after it."""
    rest = list(text)

    def take(*wanted: str) -> str:
        word = rest.pop(0)
        assert not wanted or word in wanted, f"{word} in place of {wanted} in {text}"
        return word

    def clause() -> tuple[str, str, list[Fact]]:
        giver, inside = take(*NAMES), []
        if rest[0] == ",":
            _ = take(","), take("to"), take("whom")
            inner_giver, thing, deeper = clause()
            inside = [(inner_giver, thing, giver), *deeper]
            take(",")
        _ = take("gave"), take("the")
        return giver, take(*THINGS), inside

    giver, thing, inside = clause()
    take("to")
    facts = [(giver, thing, take(*NAMES)), *inside]
    take(".")
    return facts, rest


def answer_to(question: Sequence[str], facts: list[Fact]) -> str:
    match question:
        case ["Who", "gave", "the", thing, "?"]:
            found = [giver for giver, given, _ in facts if given == thing]
        case ["Who", "got", "the", thing, "?"]:
            found = [receiver for _, given, receiver in facts if given == thing]
        case ["What", "did", giver, "give", "?"]:
            found = [given for who, given, _ in facts if who == giver]
        case _:
            raise AssertionError(question)
    assert len(found) == 1, "a question has one answer"
    return found[0]


def words_in(task: NestedTask, tokens: torch.Tensor) -> list[str]:
    return re.findall(r"<\w+>|\w+|[^\w\s]", task.tokenizer.decode(tokens))


def read(task: NestedTask, tokens: torch.Tensor) -> tuple[list[Fact], list[str]]:
    """The facts and the question of a side of a pair."""
    words = [word for word in words_in(task, tokens) if word != "<pad>"]
    assert words[0] == "<story>"
    return facts_of(words[1:])


def word(task: NestedTask, token: torch.Tensor) -> str:
    return task.tokenizer.convert_ids_to_tokens(int(token))


def test_the_parser_knows_the_sentences_of_the_definition() -> None:
    text = "Anna , to whom Carl , to whom Mary gave the hat , gave the kite , gave the ball to Ben ."
    facts, rest = facts_of(text.split())
    assert facts == [("Anna", "ball", "Ben"), ("Carl", "kite", "Anna"), ("Mary", "hat", "Carl")]
    assert rest == []
    assert answer_to(["Who", "got", "the", "kite", "?"], facts) == "Anna"
    unclosed = "Anna , to whom Carl gave the kite gave the ball to Ben ."
    with pytest.raises(AssertionError):
        facts_of(unclosed.split())


@pytest.mark.parametrize("depth", range(4))
def test_the_answer_follows_from_the_text_and_the_wrong_one_from_the_corrupt_text(task: NestedTask, depth: int) -> None:
    pair = task.pairs(N, depth=depth, seed=3)
    for i in range(N):
        facts, question = read(task, pair.clean[i])
        changed, same_question = read(task, pair.corrupt[i])
        assert len(facts) == len(changed) == depth + 1
        assert question == same_question
        assert answer_to(question, facts) == word(task, pair.answers[i])
        assert answer_to(question, changed) == word(task, pair.wrong[i])
    assert (pair.answers != pair.wrong).all()


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("depth", range(4))
def test_clean_and_corrupt_differ_where_the_answers_stand_and_nowhere_else(
    task: NestedTask, depth: int, question: str
) -> None:
    pair = task.pairs(N, depth=depth, question=question)
    assert torch.equal(pair.clean != pair.corrupt, pair.where("answer") | pair.where("competing"))
    differences = 1 if (depth, question) == (0, "object") else 2
    assert ((pair.clean != pair.corrupt).sum(1) == differences).all()


@pytest.mark.parametrize("question", QUESTIONS)
def test_positions_hold_what_they_say(task: NestedTask, question: str) -> None:
    pair = task.pairs(N, question=question)
    at = {role: pair.clean.gather(1, places)[:, 0] for role, places in pair.positions.items()}
    assert torch.equal(at["answer"], pair.answers)
    assert torch.equal(pair.corrupt.gather(1, pair.positions["answer"])[:, 0], pair.wrong)
    inside = pair.positions["answer"] != pair.positions["competing"]
    assert torch.equal(at["competing"][inside[:, 0]], pair.wrong[inside[:, 0]])
    assert inside.all() or question == "object"
    assert torch.equal(pair.reads, pair.positions["END"][:, 0])
    assert (at["END"] == task.tokenizer.convert_tokens_to_ids("?")).all()
    after = torch.arange(pair.n_pos) > pair.reads[:, None]
    assert torch.equal(pair.clean == task.tokenizer.pad_token_id, after)
    for i in range(N):
        facts, asked = read(task, pair.clean[i])
        assert word(task, at["asked"][i]) in asked
        assert word(task, at["asked"][i]) in (*NAMES, *THINGS)
        if not bool(inside[i]):
            assert len(facts) == 1, "only at depth 0"
            assert word(task, pair.wrong[i]) not in facts[0]


def test_every_level_and_kind_of_question_is_asked_equally_often(task: NestedTask) -> None:
    pair = task.pairs(2000, depth=2)
    counts: dict[tuple[str, int], int] = {}
    for i in range(len(pair)):
        facts, question = read(task, pair.clean[i])
        kind = next(k for k in QUESTIONS if question[1] == QUESTIONS[k].split()[1])
        said = word(task, pair.answers[i])
        level = [fact[("giver", "object", "receiver").index(kind)] for fact in facts].index(said)
        counts[kind, level] = counts.get((kind, level), 0) + 1
    assert len(counts) == 9
    # Five standard deviations of a count with a chance of 1/9.
    assert all(abs(count - 2000 / 9) < 5 * (2000 * 8 / 81) ** 0.5 for count in counts.values())


def test_windows_are_full_of_texts_whose_answers_are_right(task: NestedTask) -> None:
    batch = task.sample(200, seed=1)
    assert batch.tokens.shape == (200, 64)
    assert (batch.tokens[:, 0] == task.tokenizer.bos_token_id).all()
    assert not torch.isin(batch.tokens, torch.tensor([task.tokenizer.pad_token_id, task.tokenizer.unk_token_id])).any()
    depths: set[int] = set()
    for row in batch.tokens:
        texts = " ".join(words_in(task, row)).split("<story> ")[1:]
        for i, text in enumerate(texts):
            if i == len(texts) - 1 and (i > 0 or not text.strip()):
                continue  # it may be cut
            facts, rest = facts_of(text.split())
            assert answer_to(rest[:-1], facts) == rest[-1]
            assert len(text.split()) + 1 == text_length(len(facts) - 1)
            depths.add(len(facts) - 1)
    assert depths == {0, 1, 2, 3}


def test_all_predictions_count(task: NestedTask) -> None:
    batch = task.sample(3)
    assert torch.equal(batch.targets[:, :63], batch.tokens[:, 1:])
    loss = next_token_loss(torch.zeros(3, 64, task.d_vocab), batch)
    assert loss.item() == pytest.approx(torch.tensor(task.d_vocab).log().item(), rel=1e-5)


def test_windows_of_one_depth_are_full_too() -> None:
    for depth, n_ctx in ((0, 14), (0, 64), (3, 38), (2, 100)):
        task = NestedTask(NestedConfig(depths=(depth,), n_ctx=n_ctx))
        tokens = task.sample(20).tokens
        assert tokens.shape == (20, n_ctx)
        assert (tokens != task.tokenizer.pad_token_id).all()


def test_equal_seeds_give_equal_texts_and_others_do_not(task: NestedTask) -> None:
    same = NestedTask()
    draws: list[Callable[[NestedTask, int], torch.Tensor]] = [
        lambda t, seed: t.sample(8, seed=seed).tokens,
        lambda t, seed: t.pairs(8, seed=seed, depth=1).clean,
    ]
    for draw in draws:
        assert torch.equal(draw(task, 2), draw(same, 2))
        assert not torch.equal(draw(task, 2), draw(task, 3))
        assert not torch.equal(draw(task, 2), draw(NestedTask(seed=1), 2))
    assert not torch.equal(task.sample(8, "validation").tokens, task.sample(8, "train").tokens)
    assert not torch.equal(task.pairs(8, depth=1, split="validation").clean, task.pairs(8, depth=1).clean)


def test_questions_are_by_depth_and_by_kind(task: NestedTask) -> None:
    assert isinstance(task, TokenTask)
    found = task.questions(20)
    assert list(found) == ["depth 0", "depth 1", "depth 2", "depth 3", "giver", "receiver", "object"]
    assert all(len(pair) == 20 for pair in found.values())
    some = NestedTask(NestedConfig(depths=(1,), questions=("giver",))).questions(5)
    assert list(some) == ["depth 1", "giver"]
    for i in range(5):
        assert read(task, some["giver"].clean[i])[1][:2] == ["Who", "gave"]


def test_depths_that_are_not_in_training_can_be_asked_about_as_far_as_they_fit(task: NestedTask) -> None:
    pair = task.pairs(50, depth=6)
    assert text_length(6) <= task.n_ctx < text_length(7)
    for i in range(50):
        facts, question = read(task, pair.clean[i])
        assert len(facts) == 7
        assert answer_to(question, facts) == word(task, pair.answers[i])
    with pytest.raises(ValueError, match="make it longer"):
        task.pairs(5, depth=7)
    with pytest.raises(ValueError, match="0 at least"):
        task.pairs(5, depth=-1)


def test_the_deepest_text_of_all_has_a_thing_at_every_level() -> None:
    task = NestedTask(NestedConfig(depths=(DEEPEST,), n_ctx=text_length(DEEPEST)))
    pair = task.pairs(20)
    facts, question = read(task, pair.clean[0])
    assert len(facts) == DEEPEST + 1
    assert answer_to(question, facts) == word(task, pair.answers[0])


def test_a_head_that_looks_at_the_answer_is_found_and_padding_is_left_out(task: NestedTask) -> None:
    pair = task.pairs(30, seed=5, question="giver")
    pattern = torch.zeros(30, 2, pair.n_pos, pair.n_pos)
    rows = torch.arange(30)
    pattern[rows, 0, pair.reads, pair.positions["answer"][:, 0]] = 1
    for i in range(30):
        for position in range(1, int(pair.reads[i]) + 1):
            pattern[i, 1, position, position - 1] = 1
    values = {score.name: score.of(pattern).mean(0).tolist() for score in task.head_scores(pair)}
    assert values["END to answer"] == [1, 0]
    assert values["END to competing"] == [0, 0]
    assert values["END to asked"] == [0, 1], "the thing that is asked for stands just before END"
    assert values["previous token"][1] == pytest.approx(1)
    assert values["previous token"][0] == 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"depths": ()}, "depths is empty"),
        ({"questions": ()}, "questions is empty"),
        ({"depths": (1, 1)}, "differ from each other"),
        ({"depths": (-1,)}, "0 at least"),
        ({"depths": (DEEPEST + 1,), "n_ctx": 500}, "things"),
        ({"n_ctx": text_length(3) - 1}, "make it longer"),
        ({"questions": ("givr",)}, "'giver'"),
    ],
)
def test_impossible_configurations_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(NestedConfig(), **wrong)


@pytest.mark.parametrize("n", [0, -3, True])
def test_a_number_of_sequences_is_a_whole_one_of_1_or_more(task: NestedTask, n: int) -> None:
    for ask in (task.sample, task.pairs, task.questions):
        with pytest.raises(ValueError, match=f"n must be a whole number of at least 1, got {n}"):
            ask(n)


def test_unknown_names_are_refused_with_the_nearest(task: NestedTask) -> None:
    with pytest.raises(UnknownNameError, match="'validation'"):
        task.sample(2, "valid")
    with pytest.raises(UnknownNameError, match="'train'"):
        task.pairs(2, split="trian")
    with pytest.raises(UnknownNameError, match="'exchange'"):
        task.pairs(2, "exchanged")
    with pytest.raises(UnknownNameError, match="'receiver'"):
        task.pairs(2, question="reciever")
