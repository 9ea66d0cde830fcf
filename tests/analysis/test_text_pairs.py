"""Pairs made of text: positions found, padding masked, answers read where each text ends."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from analysis import Ablation, Pair, Site, ablate, attribute_edges, head_shares, patch, patch_paths, score_retrieval
from analysis.heads.attention_scores import duplicate_token, previous_token
from circuits import HookedStreamTransformer, icl_config, lm_config
from circuits.loading.tokenizers import opening_tokens
from experiments.tasks.sentences.tokenizer import plain_english
from experiments.tasks.tokenizers import word_level

LONG = "When Mary and John went to the store, John gave a drink to"
SHORT = "Mary saw John, and John gave a ball to"


def text_model(variant: str = "value") -> HookedStreamTransformer:
    tokenizer = plain_english()
    model = HookedStreamTransformer(lm_config("0.2m", variant, d_vocab=len(tokenizer))).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    model.set_tokenizer(tokenizer)
    return model


def flipped(text: str) -> str:
    return text.replace("Mary", "@").replace("John", "Mary").replace("@", "John")


def made(model: HookedStreamTransformer, **changes: Any) -> Pair:
    given: dict[str, Any] = {
        "clean": [LONG, SHORT],
        "corrupt": [flipped(LONG), flipped(SHORT)],
        "answers": ["Mary", "Mary"],
        "wrong": ["John", "John"],
        "roles": {"IO": "Mary", "S1": ("John", 1), "S2": ("John", 2)},
    }
    return Pair.from_text(model, **(given | changes))


def test_roles_stand_at_their_words_and_answers_are_read_at_the_end_of_each_text() -> None:
    model = text_model()
    pair = made(model)
    words = [model.to_str_tokens(row) for row in pair.clean]
    at = {role: [words[i][int(p)] for i, p in enumerate(places)] for role, places in pair.positions.items()}
    assert at == {"IO": ["Mary"] * 2, "S1": ["John"] * 2, "S2": ["John"] * 2, "END": ["to", "to"]}
    assert (pair.positions["S1"] < pair.positions["S2"]).all()
    assert pair.reads.tolist() == [len(model.to_tokens(text)[0]) - 1 for text in (LONG, SHORT)]
    assert pair.mask is not None
    assert pair.mask.sum(1).tolist() == (pair.reads + 1).tolist()
    assert [model.to_string(int(t)) for t in (pair.answers[0], pair.wrong[0])] == ["Mary", "John"]


def test_a_pair_of_texts_says_what_each_text_says_by_itself() -> None:
    model = text_model()
    pair, alone = made(model), [made(model, **_row(i)) for i in range(2)]
    sites = [Site(1, "v", position=role) for role in pair.positions] + [Site(2, "z", position="END"), Site(1, "state")]
    together = patch(model, pair, sites)
    for i, one in enumerate(alone):
        single = patch(model, one, sites)
        assert torch.allclose(together.values[:, i], single.values[:, 0], atol=1e-9), "padding changes nothing"
    assert float(together.normalised_effect()[-1]) == pytest.approx(1)
    both = ablate(model, pair, [Ablation.z(model, 1, 2)]).to_frame().iloc[0]
    each = [ablate(model, one, [Ablation.z(model, 1, 2)]).to_frame().iloc[0] for one in alone]
    assert both.loss_ablated == pytest.approx(sum(row.loss_ablated for row in each) / 2)
    assert len(patch_paths(model, pair).to_frame()) > 0
    assert len(head_shares(model, pair).to_frame()) > 0
    assert attribute_edges(model, pair).to_frame().effect.notna().all()
    assert score_retrieval(model, pair).to_frame().value.between(0, 1).all()
    for score in (previous_token(pair), duplicate_token(pair)):
        assert score.used is not None
        assert not (score.used & ~pair.mask).any()  # type: ignore[operator] # it has one


def _row(i: int) -> dict[str, Any]:
    texts = (LONG, SHORT)[i]
    return {"clean": texts, "corrupt": flipped(texts), "answers": "Mary", "wrong": "John"}


def test_own_prompts_of_unequal_length_are_not_read_at_padding() -> None:
    model = text_model()
    clean, corrupt = model.to_tokens([LONG, SHORT]), model.to_tokens([flipped(LONG), flipped(SHORT)])
    answers, wrong = (torch.tensor([model.to_single_token(name)] * 2) for name in ("Mary", "John"))
    blind = Pair(clean, corrupt, answers, wrong)
    told = "in 1 of 2 examples the position that is read holds the tokenizer's padding token; make the pair with Pair"
    for ask in (
        lambda: patch(model, blind, [Site(1, "v")]),
        lambda: patch_paths(model, blind),
        lambda: ablate(model, blind).to_frame(),
        lambda: score_retrieval(model, blind).to_frame(),
    ):
        with pytest.raises(ValueError, match=told):
            ask()
    read = Pair(clean, corrupt, answers, wrong, read_at=made(model).reads)
    seen = Pair(clean, corrupt, answers, wrong, mask=made(model).mask)
    for pair in (read, seen):
        with pytest.raises(ValueError, match="position -1 is padding in 1 of 2 examples; name a role of the pair"):
            patch(model, pair, [Site(1, "v", position=-1)])
        assert torch.allclose(
            patch(model, pair, [Site(1, "v")]).values, patch(model, made(model), [Site(1, "v")]).values
        )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"corrupt": [LONG]}, "there are 2 rows, and 1 of corrupt; give a list with one for each, or one for all"),
        ({"wrong": []}, "wrong is empty; give a list with one for each row"),
        ({"clean": [], "corrupt": [], "answers": [], "wrong": []}, "clean is empty"),
        (
            {"corrupt": [flipped(LONG), "Mary saw John"]},
            r"row 1: clean is 11 tokens \(\['<story>', 'Mary', .* and corrupt 4 \(.* write them with as many tokens",
        ),
        ({"corrupt": [flipped(LONG), SHORT]}, "row 1: clean and corrupt are the same tokens, so nothing can be"),
        ({"answers": ["Mary", "Mary John"]}, "row 1: 'Mary John' is 2 tokens, not one"),
        ({"answers": ["Zelda", "Mary"]}, "row 0: the tokenizer does not know 'Zelda'"),
        ({"wrong": ["John", "Mary"]}, "row 1: the answer 'Mary' and the wrong one 'Mary' are one token"),
        ({"clean": [LONG, "Zelda saw John, and John gave a ball to"]}, "row 1: the tokenizer does not know 'Zelda'"),
        ({"clean": [f"{LONG} " * 9, SHORT]}, "row 0: clean is 127 tokens, and this model reads from 1 to 96"),
        ({"roles": {"S": "John"}}, r"row 0: role 'S': 'John' stands 2 time\(s\) in .*as in \('John', 1\)"),
        ({"roles": {"S": ("John", 3)}}, r"row 0: role 'S': 'John' stands 2 time\(s\)"),
        ({"roles": {"S": ("John", -3)}}, r"row 0: role 'S': 'John' stands 2 time\(s\)"),
        ({"roles": {"S": ["Mary", "Tom"]}}, r"row 1: role 'S': 'Tom' stands 0 time\(s\)"),
        ({"roles": {"S": "Joh"}}, r"row 0: role 'S': 'Joh' stands 0 time\(s\) in .*, whole"),
        ({"roles": {"S": ["Mary"]}}, "there are 2 rows, and 1 of role 'S'; give a list with one for each, or one for"),
        ({"roles": {"S": 11}}, "row 1: role 'S': the row has 11 tokens, and no position 11"),
        ({"roles": {"S": ("John", 0)}}, r"row 0: role 'S' is a word, as in 'Mary', .* got \('John', 0\)"),
        ({"roles": {"S": True}}, "row 0: role 'S' is a word, as in 'Mary', .* got True"),
        ({"roles": {"S": " "}}, "row 0: role 'S' is a word, as in 'Mary', .* got ' '"),
        ({"clean": [LONG, [1, 2]]}, "row 1: clean and corrupt must both be texts, or both be lists of token numbers"),
    ],
)
def test_what_does_not_fit_is_told_with_its_row(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        made(text_model(), **changes)


@pytest.mark.usefixtures("untyped")
def test_what_is_of_another_kind_is_told_with_its_row() -> None:
    model = text_model()
    for changes, told in [
        ({"clean": None}, "clean is a list with one for each row, or one for all, got None"),
        ({"clean": [1, 2]}, "row 0: clean is a text, or a list of token numbers, got 1"),
        (
            {"answers": ["Mary", None]},
            "row 1: answer, where it is no word, must be a whole number of at least 0, got N",
        ),
        ({"roles": ["Mary"]}, "roles name words of the texts"),
    ]:
        with pytest.raises(ValueError, match=told):
            made(model, **changes)


def test_roles_are_whole_words_by_their_time_or_positions_and_each_row_may_have_its_own() -> None:
    model = text_model()
    roles = {"a": ["a", ("a", 1)], "S": ["Mary", ("John", -1)], "third": 2, "last": -1, "V": "gave"}
    pair = made(model, roles=roles)
    tokens = [model.to_str_tokens(text) for text in (LONG, SHORT)]
    expected = {"a": ["a", "a"], "S": ["Mary", "John"], "V": ["gave", "gave"]}
    for role, words in expected.items():
        assert [row[int(at)] for row, at in zip(tokens, pair.positions[role], strict=True)] == words
    assert pair.positions["S"].tolist() == [[2], [6]]
    assert pair.positions["third"].tolist() == [[2], [2]]
    assert pair.positions["last"].equal(pair.positions["END"])
    other = made(model, roles=roles | {"S": ["Mary", ("John", 1)]})
    assert other.positions["S"].tolist() == [[2], [3]]


def test_one_is_given_for_all_rows() -> None:
    model = text_model()
    one, each = made(model, answers="Mary", wrong="John"), made(model)
    assert one.answers.equal(each.answers)
    assert one.wrong.equal(each.wrong)
    assert not made(model, wrong="Anna").wrong.equal(each.wrong)


def test_token_numbers_are_asked_of_a_model_without_a_tokenizer_and_texts_are_not() -> None:
    model = text_model()
    texts = made(model)
    clean, corrupt = (
        [model.to_tokens(x)[0].tolist() for x in (a, b)] for a, b in ((LONG, SHORT), map(flipped, (LONG, SHORT)))
    )
    numbers = [int(texts.answers[0]), int(texts.wrong[0])]
    model.tokenizer = None
    given = {"clean": clean, "corrupt": corrupt, "answers": numbers[0], "wrong": numbers[1]}
    pair = made(model, **given, roles={"S2": texts.positions["S2"][:, 0].tolist()})
    assert pair.mask is not None
    assert texts.mask is not None
    assert pair.mask.equal(texts.mask)
    assert pair.reads.equal(texts.reads)
    assert pair.positions["S2"].equal(texts.positions["S2"])
    sites = [Site(1, "v", position="S2")]
    assert patch(model, pair, sites).values.equal(patch(model, texts, sites).values)
    with pytest.raises(
        ValueError, match=r"row 0: this model has no tokenizer to read text .*set_tokenizer.*or give tok"
    ):
        made(model)
    with pytest.raises(ValueError, match="row 0: this model has no tokenizer: pass a token number, not 'Mary'"):
        made(model, **(given | {"answers": "Mary"}), roles={})
    with pytest.raises(
        ValueError, match="row 0: role 'S': 'John' is looked for in texts; among token numbers give a p"
    ):
        made(model, **given, roles={"S": "John"})
    beyond = model.cfg.d_vocab
    with pytest.raises(ValueError, match=f"row 1: {beyond} is no token of this model"):
        made(model, **(given | {"corrupt": [corrupt[0], [beyond, *corrupt[1][1:]]]}), roles={})


def test_a_model_of_vectors_takes_no_rows() -> None:
    model = HookedStreamTransformer(icl_config("value", "small")).eval()
    with pytest.raises(ValueError, match="this model takes vectors, .* give the vectors to Pair"):
        made(model)


def speaking(backend_model: Any, splitter: Any) -> HookedStreamTransformer:
    backend = Tokenizer(backend_model)
    backend.pre_tokenizer = splitter
    backend.decoder = decoders.ByteLevel()
    model = HookedStreamTransformer(lm_config("0.2m", "value", d_vocab=backend.get_vocab_size())).double().eval()
    model.set_tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend))
    return model


def test_a_role_has_as_many_tokens_in_the_corrupt_text() -> None:
    pieces = ["[UNK]", "Ann", "Kat", "##her", "##ine", "gladly", "saw", "Bob", "Tim"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    model = speaking(models.WordPiece(vocabulary, unk_token="[UNK]"), pre_tokenizers.Whitespace())
    given: dict[str, Any] = {"answers": "Bob", "wrong": "Tim"}
    moved = given | {"clean": "Ann gladly saw Bob", "corrupt": "Kather saw Bob"}
    assert made(model, **moved, roles={"V": "saw"}).positions["V"].tolist() == [[2]]
    with pytest.raises(
        ValueError,
        match="row 0: role 'M': 'gladly' is 1 token in the clean text, and in its place the corrupt one has a part of "
        "'Kather', which is 2 tokens; choose words of as many tokens, or give the role as a position",
    ):
        made(model, **moved, roles={"M": "gladly"})
    assert made(model, **moved, roles={"M": 1}).positions["M"].tolist() == [[1]], "who says where is believed"
    names = {"clean": "Katherine saw Bob", "corrupt": "Kather Ann saw Bob"}
    alike = made(model, **given, **names, roles={"O": "Bob", "S": "Katherine"})
    assert alike.positions["S"].tolist() == [[2]], "two words of three tokens in the place of one"
    assert alike.positions["O"].tolist() == alike.positions["END"].tolist()


def test_an_answer_that_would_go_on_the_last_word_is_not_taken_for_a_new_one() -> None:
    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġa", "Ġb"]
    merges = [("Ġ", "a"), ("Ġ", "b")]
    of_bytes = models.BPE(vocab={piece: i for i, piece in enumerate(letters)}, merges=merges)
    model = speaking(of_bytes, pre_tokenizers.ByteLevel(add_prefix_space=False))
    spaced = made(model, clean="x y", corrupt="z y", answers=" a", wrong=" b", roles={"x": "x"})
    assert model.to_string(spaced.answers) == " a"
    with pytest.raises(
        ValueError, match="row 0: after this text, 'a' would go on its last word; write ' a', with the sp"
    ):
        made(model, clean="x y", corrupt="z y", answers="a", wrong=" b", roles={})
    meant = made(model, clean="x y", corrupt="z y", answers=model.to_single_token("a"), wrong=" b", roles={})
    assert model.to_string(meant.answers) == "a", "a number is what it is"
    bracket = made(model, clean="x (", corrupt="z (", answers="a", wrong="b", roles={})
    assert model.to_string(bracket.answers) == "a", "no word goes on there"


@pytest.mark.parametrize("pads", [None, "eos"])
def test_prompts_that_are_padded_by_the_ending_token_are_not_read_there_either(pads: str | None) -> None:
    words = ["Mary", "John", "Anna", "gave", "a", "drink", "to"]
    tokenizer = word_level(words, special=("<pad>", "<unk>", "<end>"))
    tokenizer.bos_token, tokenizer.eos_token = None, "<end>"
    tokenizer.pad_token = None if pads is None else "<end>"
    model = HookedStreamTransformer(lm_config("0.2m", "value", d_vocab=len(tokenizer))).double().eval()
    model.set_tokenizer(tokenizer)
    clean = model.to_tokens(["Mary gave a drink to", "John gave to"])
    corrupt = model.to_tokens(["Anna gave a drink to", "Anna gave to"])
    assert clean[1, -2:].tolist() == [tokenizer.eos_token_id] * 2
    pair = Pair(clean, corrupt, torch.tensor([3, 4]), torch.tensor([5, 5]))
    with pytest.raises(ValueError, match="in 1 of 2 examples the position that is read holds the tokenizer's padding"):
        patch(model, pair, [Site(1, "v")])
    meant = Pair(clean, corrupt, pair.answers, pair.wrong, mask=torch.ones_like(clean, dtype=torch.bool))
    assert len(patch(model, meant, [Site(1, "v")]).to_frame()) == 1, "who says that it is meant is believed"
    whole = Pair(clean, corrupt, pair.answers, pair.wrong, read_at=torch.tensor([4, 2]))
    with pytest.raises(ValueError, match="position 4 is padding in 1 of 2 examples"):
        patch(model, whole, [Site(1, "v", position=4)])


def test_a_template_without_a_beginning_token_is_asked_about() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = word_level(["Mary", "gave"], special=("<pad>", "<unk>", "<cls>"))
    tokenizer.bos_token = None
    opens = TemplateProcessing(single="<cls> $A", special_tokens=[("<cls>", 2)])
    backend: Any = tokenizer.backend_tokenizer
    backend.post_processor = opens
    model = HookedStreamTransformer(lm_config("0.2m", "value", d_vocab=len(tokenizer))).eval()
    with pytest.raises(
        ValueError, match="puts tokens around every text by a template, and names none as the beginning"
    ):
        model.set_tokenizer(tokenizer)
    model.set_tokenizer(tokenizer, opening=opening_tokens(tokenizer))
    assert model.to_tokens("Mary gave").tolist() == [[2, 3, 4]] == [tokenizer("Mary gave")["input_ids"]]
    model.set_tokenizer(tokenizer, prepend_bos=False)
    assert model.to_tokens("Mary gave").tolist() == [[3, 4]]
