"""Prompts on indirect objects, read back from their text: answers, orders, positions, counterfactuals, splits."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from experiments.tasks.indirect_objects.config import CORRUPTIONS, SPLITS, IOIConfig
from experiments.tasks.indirect_objects.task import IOITask, Prompts
from experiments.tasks.sentences import vocabulary as words
from experiments.tasks.sentences.templates import words_of
from experiments.tasks.sentences.tokenizer import plain_english
from experiments.tasks.tokenizers import word_level
from experiments.tasks.tokens.task import TokenTask
from tests.helpers import ALL_NAMES, Reader, named_in

TOKENIZER = plain_english()
N = 64
NAMED = dict.fromkeys(("A", "B", "S", "IO"), ALL_NAMES)
READER = Reader({**NAMED, "place": words.PLACES, "object": words.OBJECTS})
PAPER = {
    "After John and Mary went to the store, John gave a bottle of milk to": "Mary",
    "After John and Mary went to the store, Mary gave a bottle of milk to": "John",
    "When Tom and James went to the park, Tom gave the ball to": "James",
    "When Tom and James went to the park, James gave the ball to": "Tom",
    "When Dan and Emily went to the shops, Dan gave an apple to": "Emily",
    "When Dan and Emily went to the shops, Emily gave an apple to": "Dan",
    "After Sam and Amy went to the park, Sam gave a drink to": "Amy",
    "After Sam and Amy went to the park, Amy gave a drink to": "Sam",
}


def task_of(seed: int = 0, **changes: Any) -> IOITask:
    return IOITask(IOIConfig(**changes), TOKENIZER, seed, opening=TOKENIZER.bos_token_id)


@pytest.fixture(scope="module")
def task() -> IOITask:
    return task_of()


def texts(tokens: Tensor, ends: Tensor) -> list[str]:
    """The prompts without what opens and what pads them."""
    pairs = zip(tokens.tolist(), ends.tolist(), strict=True)
    return [TOKENIZER.decode(row[1 : end + 1]) for row, end in pairs]


def word(token: int) -> str:
    return TOKENIZER.convert_ids_to_tokens(token)


def right_and_wrong(prompt: str) -> tuple[str, str]:
    """Of the two names that come first, the one that is not repeated, and the one that is."""
    first, second, repeated = named_in(prompt)
    assert first != second
    assert repeated in (first, second)
    return (second, first) if repeated == first else (first, second)


def template_of(prompt: str, templates: Any) -> list[str]:
    """The templates whose text up to the indirect object this may be."""
    return [t for t in templates if READER.filled(t.partition(" {IO}")[0], prompt) is not None]


EVERY = [(split, corruption) for split in SPLITS for corruption in CORRUPTIONS]


@pytest.mark.parametrize(("split", "corruption"), EVERY)
def test_the_answer_is_the_name_that_is_not_repeated_and_positions_hold_what_they_say(
    task: IOITask, split: str, corruption: str
) -> None:
    prompts = task.prompts(N, split, corruption)
    pair = prompts.pair
    assert len(pair) == (8 if split == "paper" else N)
    rows = torch.arange(len(pair))
    at = {role: places[:, 0] for role, places in pair.positions.items()}
    assert list(at) == ["IO", "S1", "S1+1", "S2", "END"]
    assert at["END"].equal(pair.reads)
    assert at["S1+1"].equal(at["S1"] + 1)
    assert pair.clean[rows, at["IO"]].equal(pair.answers)
    assert pair.clean[rows, at["S1"]].equal(pair.wrong)
    assert pair.clean[rows, at["S2"]].equal(pair.wrong)
    assert {word(t) for t in pair.clean[rows, at["END"]].tolist()} == {"to"}
    assert (pair.clean[:, 0] == TOKENIZER.bos_token_id).all()
    for i, prompt in enumerate(texts(pair.clean, pair.reads)):
        right, wrong = right_and_wrong(prompt)
        assert (word(int(pair.answers[i])), word(int(pair.wrong[i]))) == (right, wrong)
        assert bool(prompts.baba[i]) is (named_in(prompt)[0] == wrong)
        assert prompts.templates[int(prompts.template[i])] in template_of(prompt, prompts.templates)
        is_name = torch.tensor([word(t) in ALL_NAMES for t in pair.clean[i].tolist()])
        places = sorted([int(at[role][i]) for role in ("IO", "S1", "S2")])
        assert is_name.nonzero()[:, 0].tolist() == places, "no other names, and none after END"
        assert places[2] == at["S2"][i]


@pytest.mark.parametrize(("split", "corruption"), EVERY)
def test_the_corrupt_side_is_the_stated_counterfactual(task: IOITask, split: str, corruption: str) -> None:
    pair = task.pairs(N, corruption, split=split)
    differs = pair.clean != pair.corrupt
    at = {role: places[:, 0] for role, places in pair.positions.items()}
    names = torch.stack([at["IO"], at["S1"], at["S2"]], 1)
    touched = at["S2"][:, None] if corruption == "s2" else names
    assert differs.equal(torch.zeros_like(differs).scatter_(1, touched, True))
    for i, (clean, corrupt) in enumerate(
        zip(texts(pair.clean, pair.reads), texts(pair.corrupt, pair.reads), strict=True)
    ):
        right, wrong = right_and_wrong(clean)
        if corruption == "abc":
            assert len(set(named_in(corrupt))) == 3
            assert not set(named_in(corrupt)) & {right, wrong}
            continue
        assert right_and_wrong(corrupt)[0] == wrong == word(int(pair.wrong[i]))
        if corruption == "flip":
            exchanged = {right: wrong, wrong: right}
            assert named_in(corrupt) == [exchanged[name] for name in named_in(clean)]


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_after_the_end_there_is_nothing_but_padding(task: IOITask, corruption: str) -> None:
    pair = task.pairs(N, corruption)
    after = torch.arange(pair.n_pos) > pair.reads[:, None]
    for side in (pair.clean, pair.corrupt):
        assert (side[after] == TOKENIZER.pad_token_id).all()
        assert (side[~after] != TOKENIZER.pad_token_id).all()
        assert (side != TOKENIZER.unk_token_id).all()
    assert after.any(), "prompts differ in length"
    assert not after[:, -1].all(), "and none is longer than it must be"


def test_both_orders_occur_about_equally_and_all_templates_names_and_words(task: IOITask) -> None:
    n = 2_000
    prompts = task.prompts(n)
    assert stats.binomtest(int(prompts.baba.sum()), n).pvalue > 1e-6
    assert stats.chisquare(prompts.template.bincount(minlength=len(words.TEMPLATES)).numpy()).pvalue > 1e-6
    answers = prompts.pair.answers.bincount()
    assert stats.chisquare(answers[answers > 0].numpy()).pvalue > 1e-6
    assert {word(t) for t in prompts.pair.answers.tolist()} == set(words.NAMES)
    held = Counter(
        filler
        for i, prompt in enumerate(texts(prompts.pair.clean, prompts.pair.reads))
        for template in [prompts.templates[int(prompts.template[i])].partition(" {IO}")[0]]
        for slot, filler in READER.filled(template, prompt) or []
        if slot in ("place", "object")
    )
    assert set(held) == {*words.PLACES, *words.OBJECTS}


@pytest.mark.parametrize("split", SPLITS)
def test_names_and_templates_are_those_of_their_split(task: IOITask, split: str) -> None:
    trained, held_out = set(words.NAMES), set(words.HELD_OUT_NAMES)
    assert not trained & held_out
    assert not set(words.TEMPLATES) & set(words.HELD_OUT_TEMPLATES)
    for corruption in CORRUPTIONS:
        pair = task.pairs(N, corruption, split=split)
        for prompt in (*texts(pair.clean, pair.reads), *texts(pair.corrupt, pair.reads)):
            names = held_out if split in ("names", "held-out") else trained
            assert set(named_in(prompt)) <= names
            # Of the paper's, those with "When" are of a training template, those with "After" of one held out.
            after = split == "paper" and prompt.startswith("After")
            is_held_out = split in ("templates", "held-out") or after
            assert bool(template_of(prompt, words.HELD_OUT_TEMPLATES)) is is_held_out
            assert bool(template_of(prompt, words.TEMPLATES)) is not is_held_out


def test_the_papers_prompts_are_its_four_with_either_subject(task: IOITask) -> None:
    for n in (3, 100):
        pair = task.prompts(n, "paper").pair
        said = dict(zip(texts(pair.clean, pair.reads), map(word, pair.answers.tolist()), strict=True))
        assert said == PAPER
    assert set(words.PAPER_NAMES) == {name for prompt in PAPER for name in named_in(prompt)}


def same(one: Prompts, other: Prompts) -> bool:
    return one.pair.clean.equal(other.pair.clean) and one.pair.corrupt.equal(other.pair.corrupt)


def test_pairs_are_those_of_their_seeds(task: IOITask) -> None:
    prompts = task.prompts(16, seed=3)
    assert same(prompts, task_of().prompts(16, seed=3))
    for other in (
        task.prompts(16, seed=4),
        task_of(seed=1).prompts(16, seed=3),
        task.prompts(16, "templates", seed=3),
        task.prompts(16, corruption="s2", seed=3),
    ):
        assert not same(prompts, other)
    assert task.prompts(16, "train", "flip", 3).pair.clean.equal(task.pairs(16, "flip", 3, "train").clean)


# --- windows ----------------------------------------------------------------------------------------------------------


def test_windows_are_whole_sentences_of_training_of_which_all_predictions_count(task: IOITask) -> None:
    assert isinstance(task, TokenTask)
    batch = task.sample(N)
    assert batch.tokens.shape == (N, task.n_ctx)
    assert batch.counted is not None
    lengths = (batch.tokens != TOKENIZER.pad_token_id).sum(1)
    assert len(lengths.unique()) > 1
    for row, counted, length in zip(batch.tokens, batch.counted, lengths.tolist(), strict=True):
        assert counted.tolist() == [p + 1 < length for p in range(task.n_ctx)]
        sentence = TOKENIZER.decode(row[1:length])
        fits = [found for t in words.TEMPLATES if (found := READER.filled(t, sentence)) is not None]
        assert fits, sentence
        slots = dict(fits[0])
        assert {slots["S"], slots["IO"]} == {slots["A"], slots["B"]}
        assert set(slots.values()) & set(ALL_NAMES) <= set(words.NAMES)
    targets = batch.targets
    assert int((targets >= 0).sum()) == int((lengths - 1).sum())
    assert (targets[targets >= 0] != TOKENIZER.pad_token_id).all()


def test_windows_are_those_of_their_seeds(task: IOITask) -> None:
    tokens = task.sample(9, "train", 5).tokens
    assert tokens.equal(task_of().sample(9, "train", 5).tokens)
    for other in (task.sample(9, "train", 6), task.sample(9, "validation", 5), task_of(seed=1).sample(9, "train", 5)):
        assert not tokens.equal(other.tokens)


def test_without_an_opening_token_a_prompt_begins_with_its_first_word() -> None:
    bare, opened = IOITask(IOIConfig(), TOKENIZER), task_of()
    one, other = bare.pairs(N), opened.pairs(N)
    assert one.clean.equal(other.clean[:, 1:])
    for role in ("IO", "S1", "S1+1", "S2", "END"):
        assert one.positions[role].equal(other.positions[role] - 1)
    assert bare.sample(4).tokens[:, :20].equal(opened.sample(4).tokens[:, 1:21])


def test_an_opening_may_be_several_tokens() -> None:
    one, several = task_of(), IOITask(IOIConfig(), TOKENIZER, opening=(2, 5, 7))
    assert several.pairs(N).clean[:, :3].unique(dim=0).tolist() == [[2, 5, 7]]
    assert several.pairs(N).clean[:, 3:].equal(one.pairs(N).clean[:, 1:])
    for role, places in several.pairs(N).positions.items():
        assert places.equal(one.pairs(N).positions[role] + 2)
    assert (
        IOITask(IOIConfig(), TOKENIZER, opening=()).pairs(N).clean.equal(IOITask(IOIConfig(), TOKENIZER).pairs(N).clean)
    )


def test_prompts_of_unknown_words_are_warned_of() -> None:
    with pytest.warns(
        UserWarning, match="prompts hold words that this tokenizer does not know, 'glade', 'lute': where"
    ):
        task_of(places=("park", "glade"), objects=("the ball", "a lute"))


def test_the_papers_prompts_are_not_asked_of_a_tokenizer_that_lacks_their_names() -> None:
    names = ("Ida", "Olga", "Vera", "Udo", "Kai", "Ole")
    text = "{A} and {B} met in the {place}, and {S} gave {object} to {IO}."
    config = IOIConfig(names[:3], names[3:], (text,), (), ("park",), ("a ball",))
    vocabulary = ["and", "met", "in", "the", "gave", "to", "park", "a", "ball", ",", "."]
    lacking = IOITask(config, word_level([*names, *vocabulary]))
    assert list(lacking.questions(3)) == ["ioi train", "ioi names"]
    with pytest.raises(ValueError, match="for the split 'paper' whose names are tokens of their own"):
        lacking.prompts(3, "paper")
    paper = words_of([template for template, _, _ in words.PAPER_PROMPTS])
    having = IOITask(config, word_level(sorted({*names, *vocabulary, *paper, *words.PAPER_NAMES})))
    pair = having.prompts(3, "paper").pair
    assert (pair.answers != pair.wrong).all()


def test_questions_are_a_set_a_split(task: IOITask) -> None:
    questions = task.questions(5)
    assert {name: len(pair) for name, pair in questions.items()} == {
        "ioi train": 5,
        "ioi names": 5,
        "ioi templates": 5,
        "ioi held-out": 5,
        "ioi paper": 8,
    }
    few = task_of(held_out_templates=())
    assert list(few.questions(5)) == ["ioi train", "ioi names", "ioi paper"]
    with pytest.raises(ValueError, match="there are no templates for the split 'held-out'"):
        few.pairs(5, split="held-out")


@pytest.mark.parametrize("n_names", [3, 4, 5])
def test_three_names_are_enough(n_names: int) -> None:
    few = task_of(names=words.NAMES[:n_names], templates=("{A} and {B} met, and {S} gave {object} to {IO}.",))
    pair = few.pairs(N, "abc")
    for clean, corrupt in zip(texts(pair.clean, pair.reads), texts(pair.corrupt, pair.reads), strict=True):
        assert len(set(named_in(corrupt))) == 3
        assert n_names < 5 or not set(named_in(corrupt)) & set(named_in(clean))


# --- scores of heads --------------------------------------------------------------------------------------------------


def test_scores_find_a_head_that_does_exactly_that(task: IOITask) -> None:
    pair = task.pairs(6)
    scores = {score.name: score for score in task.head_scores(pair)}
    assert list(scores) == ["previous token", "induction", "name mover", "s-inhibition", "duplicate token"]
    rows = torch.arange(6)
    at = {role: places[:, 0] for role, places in pair.positions.items()}
    looks = {
        "induction": ("S2", "S1+1"),
        "duplicate token": ("S2", "S1"),
        "s-inhibition": ("END", "S2"),
        "name mover": ("END", "IO"),
    }
    for name, (query, key) in looks.items():
        pattern = torch.zeros(6, 1, pair.n_pos, pair.n_pos)
        pattern[rows, 0, at[query], at[key]] = 1.0
        found = {other: float(score.of(pattern).nanmean()) for other, score in scores.items() if other in looks}
        assert found == {other: float(other == name) for other in looks}
    before = torch.zeros(6, 1, pair.n_pos, pair.n_pos)
    before[:, 0, range(1, pair.n_pos), range(pair.n_pos - 1)] = 1.0
    padded = torch.arange(pair.n_pos) > pair.reads[:, None]
    for pattern in (before, before.masked_fill(padded[:, None, :, None], 0.0)):
        assert float(scores["previous token"].of(pattern).nanmean()) == 1.0, "padding is left out"


# --- bad input --------------------------------------------------------------------------------------------------------

TWO_WORDS = word_level(["Mary", "Ann", "John", "Tom"])


def test_names_that_a_tokenizer_does_not_tell_apart_are_refused() -> None:
    from tokenizers.normalizers import Lowercase

    vocabulary = [word.lower() for word in (*words.NAMES, *words.HELD_OUT_NAMES)]
    lowered: Any = word_level(sorted({"olga", *vocabulary}))
    lowered.backend_tokenizer.normalizer = Lowercase()
    names = (*words.NAMES[:4], words.NAMES[1].upper())
    with pytest.raises(ValueError, match=f"are the same token.*: {names[1]} and {names[4]}; take other names"):
        IOITask(IOIConfig(names=names), lowered)
    across = IOIConfig(names=("Olga", *words.NAMES[:3]), held_out_names=(*words.HELD_OUT_NAMES[:3], "olga"))
    with pytest.raises(ValueError, match="are the same token.*: Olga and olga; take other names"):
        IOITask(across, lowered)
    with pytest.warns(UserWarning, match="prompts hold words"):
        IOITask(IOIConfig(names=names[:4]), lowered)


def test_few_of_the_names_that_a_tokenizer_lacks_are_told_and_what_else_can_be_asked() -> None:
    names = ("Mary", *(f"Zaphod{letter}" for letter in "ABCDEFGH"), "Tom")
    for lacking, told in (
        (
            names,
            r"know the name\(s\) 'ZaphodA', 'ZaphodB', 'ZaphodC', 'ZaphodD', 'ZaphodE' and 3 more; take names of its",
        ),
        (names[:3], r"know the name\(s\) 'ZaphodA', 'ZaphodB'; take names of its vocabulary \(IOIConfig.names\)"),
    ):
        config = IOIConfig(names=lacking, held_out_names=("A", "B", "C"))
        with pytest.raises(ValueError, match=told) as said:
            IOITask(config, TWO_WORDS)
        assert str(said.value).endswith(
            "or ask pairs of your own: Pair.from_text(...), or --pairs FILE of a command that takes it"
        )
    # What is wrong with the configuration itself is no matter of a tokenizer.
    with pytest.raises(
        ValueError, match=r"Anna Lena \(2\); take other names \(IOIConfig.names\) or another tokenizer$"
    ):
        IOIConfig(names=("Ida", "Anna Lena", "Udo"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: IOITask(
                IOIConfig(names=("Mary Ann", "John", "Tom"), held_out_names=("Mary", "Ann", "X")), TWO_WORDS
            ),
            r"names must be single tokens, .* these are more: Mary Ann \(2\); take other names \(IOIConfig.names\)",
        ),
        (
            lambda: IOITask(IOIConfig(names=("Mary", "Zaphod", "Tom"), held_out_names=("A", "B", "C")), TWO_WORDS),
            r"this tokenizer does not know the name\(s\) 'Zaphod'; take names of its vocabulary \(IOIConfig",
        ),
        (
            lambda: task_of(templates=("{A} and {B} sat, and {S} gave it to her.",)),
            r"the template '.*' lacks the slot\(s\) \['IO'\]; it must have each of \{A\}, \{B\}, \{S\}, \{IO\}",
        ),
        (
            lambda: task_of(held_out_templates=("{A} and {C} and {B} sat, and {S} gave it to {IO}.",)),
            r"has the slot\(s\) \['C'\], which nothing fills",
        ),
        (
            lambda: task_of(templates=("{A} gave it to {IO}, and {B} to {S}.",)),
            r"in the template '.*' the slots must stand in the order \{A\} \{B\} \{S\} \{IO\}",
        ),
        (lambda: task_of(templates=("{S} met {A} and {B} and gave it to {IO}.",)), "must stand in the order"),
        (lambda: task_of(templates=()), "there is no template; give one at least"),
        (
            lambda: IOIConfig(names=("Ida", "Olga", "Ida", "Udo", "Udo")),
            r"names must differ from each other by more than blanks, .*; these come more than once: 'Ida', 'Udo'",
        ),
        (
            lambda: IOIConfig(held_out_names=("Ida", "Udo ", "Udo")),
            "held_out_names must differ .* come more than once: 'Udo'",
        ),
        (lambda: IOIConfig(names=("Ida Rose", "Ida  Rose", "Udo")), "come more than once: 'Ida Rose'"),
        (lambda: IOIConfig(names=("Ida", " Olga", "Udo")), "without blanks around them, got ' Olga'; leave out"),
        (lambda: IOIConfig(names=("Ida", "", "Udo")), "names must be words without blanks around them, got ''"),
        (lambda: IOIConfig(names=("Ida", "Anna Lena", "Udo")), r"with blanks inside these are more: Anna Lena \(2\)"),
        (
            lambda: IOIConfig(names=("Ida", "Olga", "Udo"), held_out_names=("Kai", "Ole", " Udo")),
            r"\['Udo'\] are both in training and held out|blanks around them, got ' Udo'",
        ),
        (
            lambda: IOIConfig(held_out_templates=(f"{words.TEMPLATES[0]} ",)),
            "are both in training and held out",
        ),
        (lambda: IOIConfig(places=()), "there is no place; give one at least"),
        (lambda: IOIConfig(objects=("a ball", " ")), "objects must be words, and one of them is blank"),
        (
            lambda: IOITask(IOIConfig(), TOKENIZER, opening=-1),
            "a token of opening must be a whole number of at least 0",
        ),
        (lambda: IOITask(IOIConfig(), TOKENIZER, opening=[10**6]), r"opening must hold token numbers below"),
        (lambda: task_of().pairs(0), "n must be a whole number of at least 1, got 0"),
        (lambda: task_of().prompts(-1, "paper"), "n must be a whole number of at least 1, got -1"),
        (lambda: task_of().sample(True), "n must be a whole number of at least 1, got True"),
        (lambda: task_of().questions(0), "n must be a whole number of at least 1, got 0"),
        (lambda: IOIConfig(names=("Mary", "Tom")), r"names must be three at least \(three differ in 'abc'\), got 2"),
        (
            lambda: IOIConfig(names=(*words.NAMES, words.HELD_OUT_NAMES[0])),
            rf"\['{words.HELD_OUT_NAMES[0]}'\] are both in training and held out; take them from one of the two",
        ),
        (
            lambda: replace(IOIConfig(), held_out_templates=words.TEMPLATES[:1]),
            "are both in training and held out",
        ),
        (lambda: task_of(n_ctx=9).pairs(4), "tokens, more than the window of n_ctx = 9; give more"),
        (lambda: task_of(n_ctx=9).sample(4), "tokens, more than the window of n_ctx = 9; give more"),
        (lambda: task_of().pairs(3, "flipp"), "unknown corruption 'flipp': did you mean 'flip'"),
        (lambda: task_of().pairs(3, split="heldout"), "unknown split 'heldout': did you mean 'held-out'"),
        (lambda: task_of().sample(3, "names"), "unknown split 'names': there are 'train', 'validation'"),
    ],
)
def test_mistakes_are_explained(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
