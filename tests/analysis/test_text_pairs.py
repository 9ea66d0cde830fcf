"""Pairs made of text: positions found, padding masked, answers read where each text ends."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from analysis import Ablation, Pair, Site, ablate, attribute_edges, head_shares, patch, patch_paths, score_retrieval
from analysis.heads.attention_scores import duplicate_token, previous_token
from circuits import HookedStreamTransformer, lm_config
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
    both = ablate(model, pair, [Ablation.z(model, 1, 2)]).iloc[0]
    each = [ablate(model, one, [Ablation.z(model, 1, 2)]).iloc[0] for one in alone]
    assert both.loss_ablated == pytest.approx(sum(row.loss_ablated for row in each) / 2)
    assert len(patch_paths(model, pair).to_frame()) > 0
    assert len(head_shares(model, pair)) > 0
    assert attribute_edges(model, pair).to_frame().effect.notna().all()
    assert score_retrieval(model, pair).value.between(0, 1).all()
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
        lambda: ablate(model, blind),
        lambda: score_retrieval(model, blind),
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
        ({"corrupt": [LONG]}, "there are 2 clean texts and 1 of corrupt; give one for each"),
        ({"corrupt": [flipped(LONG), "Mary saw John"]}, "need as many tokens: 'Mary saw John, and .* has"),
        ({"answers": ["Mary John", "Mary"]}, "'Mary John' is 2 tokens, not one"),
        ({"roles": {"S": "John"}}, r"role 'S': 'John' stands 2 time\(s\) in .*as in \('John', 1\)"),
        ({"roles": {"S": ("John", 3)}}, r"role 'S': 'John' stands 2 time\(s\)"),
        ({"roles": {"S": "Tom"}}, r"role 'S': 'Tom' stands 0 time\(s\)"),
        ({"roles": {"S": ["Mary"]}}, "role 'S' names 1 pieces for 2 texts; give one or all"),
        ({"roles": {"S": 3}}, "role 'S' is a piece of the text, as in 'Mary', or .* got 3"),
        ({"clean": ["Zelda saw John, and John gave a ball to", SHORT]}, "Zelda"),
    ],
)
def test_what_does_not_fit_is_told(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        made(text_model(), **changes)


def test_a_model_without_a_tokenizer_takes_no_text() -> None:
    model = text_model()
    model.tokenizer = None
    with pytest.raises(ValueError, match="tokenizer"):
        made(model)


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
