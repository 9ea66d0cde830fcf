"""Stories read back from their text: what they hold, how often, and what never stands in them."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import pytest
from scipy import stats

from circuits.common.plain_data import from_plain, to_plain
from experiments.tasks.sentences import vocabulary as words
from experiments.tasks.sentences.tokenizer import plain_english, vocabulary
from experiments.tasks.stories import KINDS, StoriesConfig, StoriesTask, statistics
from experiments.tasks.tokens.task import TokenTask
from tests.helpers import ALL_NAMES, Reader, words_in

N = 200
POOLS = {
    "opening": words.OPENINGS,
    "middle": words.MIDDLES,
    "giving": words.GIVING,
    "ending": words.ENDINGS,
    "ioi": words.TEMPLATES,
}
PERSONS = ("A", "B", "C")
PRONOUNS = {f"{person}.{kind}": both for person in PERSONS for kind, both in words.PRONOUNS.items()}
NAMED = dict.fromkeys((*PERSONS, "S", "IO"), ALL_NAMES)
READER = Reader({**NAMED, "P": words.PLACES, **words.SLOTS, **PRONOUNS})


@dataclass
class Sentence:
    """A whole sentence as it was read: its kind and what its slots hold."""

    text: str
    kind: str
    slots: list[tuple[str, str]] = field(default_factory=list)


def read(text: str) -> Sentence:
    """The one kind that a sentence can be of."""
    fits = [
        Sentence(text, kind, slots)
        for kind, pool in POOLS.items()
        for template in pool
        if (slots := READER.filled(template, text)) is not None
    ]
    assert len(fits) == 1, text
    return fits[0]


def sentences(story: str) -> list[str]:
    """The whole sentences of a story; what the window's end cut off is left out."""
    return re.findall(r"[A-Z][^.?]*[.?]", story)


def windows(task: StoriesTask, n: int = N, split: str = "train", seed: int = 0) -> list[list[list[Sentence]]]:
    """Windows as stories as sentences."""
    texts = [task.tokenizer.decode(row) for row in task.sample(n, split, seed).tokens]
    return [[[read(s) for s in sentences(story)] for story in text.split("<story>")[1:]] for text in texts]


@pytest.fixture(scope="module")
def task() -> StoriesTask:
    """Stories in windows that hold the first of each whole."""
    return StoriesTask(StoriesConfig(n_ctx=112))


@pytest.fixture(scope="module")
def stories(task: StoriesTask) -> list[list[Sentence]]:
    return [story for window in windows(task) for story in window]


@pytest.fixture(scope="module")
def whole(task: StoriesTask) -> list[list[Sentence]]:
    """The first story of each window."""
    first = [window[0] for window in windows(task, seed=1)]
    assert all(len(story) == 6 for story in first)
    return first


def within(count: int, n: int, p: float) -> bool:
    return stats.binomtest(count, n, p).pvalue > 1e-6


# --- windows ----------------------------------------------------------------------------------------------------------


def test_windows_are_full_begin_with_a_story_and_hold_no_unknown_word() -> None:
    for config in (StoriesConfig(), StoriesConfig(n_ctx=24, middles=1), StoriesConfig(n_ctx=200, middles=7)):
        task = StoriesTask(config)
        assert isinstance(task, TokenTask)
        batch = task.sample(64)
        assert batch.counted is None
        assert batch.tokens.shape == (64, config.n_ctx)
        assert (batch.tokens[:, 0] == task.tokenizer.bos_token_id).all()
        assert (batch.tokens != task.tokenizer.unk_token_id).all()
        assert (batch.tokens != task.tokenizer.pad_token_id).all()
        assert task.d_vocab == len(task.tokenizer) == len(vocabulary()) + 3


def test_windows_are_those_of_their_seeds() -> None:
    task = StoriesTask(seed=2)
    tokens = task.sample(8, "train", 3).tokens
    assert tokens.equal(StoriesTask(seed=2).sample(8, "train", 3).tokens)
    assert tokens.equal(task.stories(8, "train", 3).batch.tokens)
    for other in (
        task.sample(8, "train", 4),
        task.sample(8, "validation", 3),
        StoriesTask(seed=3).sample(8, "train", 3),
    ):
        assert not tokens.equal(other.tokens)
    assert len({tuple(row) for row in task.sample(N).tokens.tolist()}) == N, "windows differ from each other"


def test_a_story_is_an_opening_then_different_sentences_then_an_ending(whole: list[list[Sentence]]) -> None:
    for story in whole:
        kinds = [sentence.kind for sentence in story]
        assert kinds[0] in ("opening", "ioi")
        assert kinds[-1] == "ending"
        assert not set(kinds[1:-1]) & {"opening", "ending"}
        assert kinds.count("ioi") <= 1
        assert kinds.count("giving") <= 1
        assert len({sentence.text for sentence in story}) == len(story)


def test_where_sentences_begin_and_what_they_are_is_what_is_read(task: StoriesTask) -> None:
    made = task.stories(20)
    for i, row in enumerate(made.batch.tokens):
        starts, kinds = made.sentence_starts[i].tolist(), made.kinds[i].tolist()
        for start, end, kind in zip(starts, starts[1:], kinds, strict=False):
            text = task.tokenizer.decode(row[start:end]).replace("<story>", "").strip()
            if end <= task.n_ctx:
                assert read(text).kind == KINDS[kind]


# --- how often --------------------------------------------------------------------------------------------------------


def test_the_share_of_sentences_on_indirect_objects(whole: list[list[Sentence]]) -> None:
    counts = Counter(sentence.kind for story in whole for sentence in story)
    assert counts.total() == 6 * N
    assert within(counts["ioi"], N, 0.3)
    # Where both want the first place after the opening, which is one time in twenty, giving gives way.
    assert within(counts["giving"], N, 0.3 * (1 - 0.3 / 20))


@pytest.mark.parametrize(("p_ioi", "p_giving"), [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0)])
def test_shares_of_nothing_and_of_all(p_ioi: float, p_giving: float) -> None:
    task = StoriesTask(StoriesConfig(n_ctx=112, p_ioi=p_ioi, p_giving=p_giving))
    found = [window[0] for window in windows(task, 60)]
    for kind, p in (("ioi", p_ioi), ("giving", p_giving)):
        assert [sum(s.kind == kind for s in story) for story in found] == [int(p)] * 60


# --- who and what -----------------------------------------------------------------------------------------------------


def cast(story: list[Sentence]) -> dict[str, set[str]]:
    """Whom and which place a story's other sentences name by each letter."""
    people: dict[str, set[str]] = {}
    for sentence in story:
        for slot, filler in sentence.slots if sentence.kind != "ioi" else []:
            if slot in (*PERSONS, "P"):
                people.setdefault(slot, set()).add(filler)
    return people


def test_a_story_has_one_cast_of_different_people_and_pronouns_agree_with_them(stories: list[list[Sentence]]) -> None:
    pronouns = 0
    for story in stories:
        people = cast(story)
        assert all(len(names) == 1 for names in people.values())
        named = [next(iter(people[person])) for person in PERSONS if person in people]
        assert len(set(named)) == len(named)
        for slot, filler in (held for sentence in story for held in sentence.slots if "." in held[0]):
            person = slot.partition(".")[0]
            if person in people:
                (name,) = people[person]
                assert filler == PRONOUNS[slot][name in words.BOYS]
                pronouns += 1
    assert pronouns > 100


def test_in_a_sentence_on_indirect_objects_the_storys_two_give_to_each_other(stories: list[list[Sentence]]) -> None:
    orders = Counter[tuple[bool, bool]]()
    for story in stories:
        people = cast(story)
        for sentence in story:
            if sentence.kind == "ioi":
                held = dict(sentence.slots)
                assert held["A"] != held["B"]
                assert {held["S"], held["IO"]} == {held["A"], held["B"]}
                for person in ("A", "B"):
                    assert people.get(person, set()) <= {held["A"], held["B"]}
                if "A" in people:
                    orders[{held["A"]} == people["A"], held["S"] == held["A"]] += 1
    assert len(orders) == 4, "either may stand first, and either be repeated"
    assert min(orders.values()) > orders.total() / 8


def test_names_held_out_are_never_in_such_sentences_but_elsewhere(task: StoriesTask) -> None:
    for split in ("train", "validation"):
        held_out = set(words.HELD_OUT_NAMES)
        with_them = Counter[str]()
        for story in (story for window in windows(task, N, split, seed=2) for story in window):
            for sentence in story:
                if set(words_in(sentence.text)) & held_out:
                    with_them[sentence.kind] += 1
            if {"ioi", "giving"} & {sentence.kind for sentence in story}:
                assert not {w for s in story for w in words_in(s.text)} & held_out
        assert set(with_them) == {"opening", "middle", "ending"}
        assert min(with_them.values()) > 20


def test_templates_held_out_never_occur(task: StoriesTask) -> None:
    paper = [template for template, _, _ in words.PAPER_PROMPTS]
    for split in ("train", "validation"):
        for row in task.sample(N, split, seed=3).tokens:
            for sentence in sentences(task.tokenizer.decode(row)):
                for template in (*words.HELD_OUT_TEMPLATES, *paper):
                    assert READER.filled(template, sentence) is None
    made = words.HELD_OUT_TEMPLATES[0].format(A="Amy", B="Ben", S="Amy", IO="Ben", place="zoo", object="a toy")
    assert READER.filled(words.HELD_OUT_TEMPLATES[0], made), "it would be seen"


def test_all_words_occur_but_those_that_only_prompts_have(task: StoriesTask) -> None:
    seen = {
        w for row in task.sample(3_000).tokens.unique().tolist() for w in [task.tokenizer.convert_ids_to_tokens(row)]
    }
    assert set(ALL_NAMES) <= seen
    fillers = [w for texts in words.SLOTS.values() for text in texts for w in words_in(text)]
    assert set(fillers) <= seen


def test_there_are_as_many_girls_as_boys_and_no_name_is_both() -> None:
    assert len(words.GIRLS) == len(words.BOYS) == 40
    assert len(set(ALL_NAMES)) == 80
    assert set(words.HELD_OUT_NAMES) | set(words.NAMES) == set(ALL_NAMES)
    assert set(words.PAPER_NAMES) <= set(words.NAMES), "the paper's names are names of training"


# --- statistics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_ctx", [64, 112])
def test_statistics_against_counts_on_the_text(n_ctx: int) -> None:
    task = StoriesTask(StoriesConfig(n_ctx=n_ctx))
    found: Any = statistics(task, N).set_index("fact").value
    texts = [task.tokenizer.decode(row) for row in task.sample(N).tokens]
    read_back = [read(s) for text in texts for story in text.split("<story>") for s in sentences(story)]
    lengths = pd.Series([len(words_in(s.text)) for s in read_back])
    kinds = pd.Series([s.kind for s in read_back])
    every = Counter(w for text in texts for w in words_in(text.replace("<story>", " Once_upon ")))
    assert every.total() == N * n_ctx
    assert found["windows"] == N
    assert found["tokens a window"] == n_ctx
    assert found["word types"] == task.d_vocab
    assert found["word types seen"] == len(every)
    assert found["names"] == 80
    assert found["names held out"] == 20
    assert found["share of tokens that are padding"] == 0.0
    assert found["tokens a sentence"] == pytest.approx(lengths.mean())
    for kind in KINDS:
        assert found[f"share of sentences: {kind}"] == pytest.approx((kinds == kind).mean()), kind
    share = lengths[kinds == "ioi"].sum() / lengths.sum()
    assert found["share of tokens in sentences on indirect objects"] == pytest.approx(share)
    shares = [count / every.total() for count in every.values()]
    entropy = -sum(p * math.log(p) for p in shares)
    assert found["entropy of single words (nats)"] == pytest.approx(entropy, rel=1e-4)


# --- questions and configurations -------------------------------------------------------------------------------------


def test_prompts_are_asked_as_stories_begin() -> None:
    task = StoriesTask(seed=4)
    pair = task.pairs(10, "abc", seed=2, split="held-out")
    assert pair.clean.equal(task.ioi.pairs(10, "abc", 2, "held-out").clean)
    assert (pair.clean[:, 0] == task.tokenizer.bos_token_id).all()
    assert list(task.questions(3)) == [f"ioi {s}" for s in ("train", "names", "templates", "held-out", "paper")]
    assert not pair.clean.equal(StoriesTask(seed=5).pairs(10, "abc", seed=2, split="held-out").clean)
    assert [score.name for score in task.head_scores(pair)] == [score.name for score in task.ioi.head_scores(pair)]
    assert max(int(p.clean.shape[1]) for p in task.questions(50).values()) <= task.n_ctx


def test_other_words_are_another_corpus() -> None:
    config = StoriesConfig()
    assert config.grammar == StoriesConfig(n_ctx=100).grammar != ""
    assert from_plain(StoriesConfig, to_plain(config)) == config
    with pytest.raises(ValueError, match="these stories have the grammar 0123, this version makes .*; use the version"):
        StoriesTask(StoriesConfig(grammar="0123"))


def test_the_tokenizer_is_the_same_each_time() -> None:
    one, other = plain_english(), plain_english()
    assert one.get_vocab() == other.get_vocab()
    text = "When Mary and John got to the park, John gave a bottle of milk to Mary."
    assert one.decode(one(text)["input_ids"]) == text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StoriesConfig(p_ioi=1.5), "p_ioi is a share, from 0 to 1, got 1.5"),
        (lambda: StoriesConfig(p_giving=-0.1), "p_giving is a share, from 0 to 1, got -0.1"),
        (lambda: StoriesConfig(n_ctx=23), "a window must have 24 tokens at least"),
        (lambda: StoriesConfig(middles=0), "a story 1 to 24 middles"),
        (lambda: StoriesConfig(middles=25), "a story 1 to 24 middles"),
        (lambda: StoriesTask().sample(0), "n must be a whole number of at least 1, got 0"),
        (lambda: StoriesTask().stories(-1), "n must be a whole number of at least 1, got -1"),
        (lambda: StoriesTask().pairs(True), "n must be a whole number of at least 1, got True"),
        (lambda: StoriesTask().questions(0), "n must be a whole number of at least 1, got 0"),
        (lambda: StoriesTask().sample(2, "test"), "unknown split 'test': there are 'train', 'validation'"),
        (lambda: StoriesTask().pairs(2, "s1"), "unknown corruption 's1': did you mean 's2'"),
    ],
)
def test_mistakes_are_explained(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
