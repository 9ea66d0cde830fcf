"""Text that a tokenizer does not know is told and never passed on: by models, corpora and tasks, of any tokenizer."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from circuits.common.text_coverage import Coverage, shown
from circuits.loading.tokenizers import opening_tokens
from circuits.model import HookedStreamTransformer
from circuits.presets import lm_config
from experiments.questions.patch import Patch
from experiments.questions.prompts import in_body, ioi_task
from experiments.runs.run import Run
from experiments.tasks.sentences.tokenizer import vocabulary
from experiments.tasks.text.task import TextTask, TextTaskConfig
from experiments.tasks.tokenizers import save_tokenizer, word_level
from tests.helpers import tiny_lm, trained_lm

LETTERS = "abcdefgh"
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def fast(model: Any, splitter: Any = None, normalizer: Any = None, **roles: str) -> PreTrainedTokenizerFast:
    backend = Tokenizer(model)
    if splitter is not None:
        backend.pre_tokenizer = splitter
    if normalizer is not None:
        backend.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=backend, **roles)


def pieces_of(letters: Sequence[str], **options: Any) -> Any:
    """Byte pair encoding that knows letters and "ab"."""
    known = list(letters) + (["ab"] if {"a", "b"} <= set(letters) else [])
    merges = [("a", "b")] if "ab" in known else []
    return models.BPE(vocab={piece: i for i, piece in enumerate(known)}, merges=merges, **options)


def unigrams() -> Any:
    return models.Unigram([("?", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in LETTERS)], unk_id=0)


BLANKS = pre_tokenizers.WhitespaceSplit()
ACCENTS = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
OF_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
LATER_BYTES = pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "isolated"), OF_BYTES])
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]

CASES: dict[str, tuple[Any, list[str], dict[str, list[str]]]] = {
    "words": (
        lambda: word_level(["fox", "hen", "ran", "."]),
        ["fox ran.", "hen <unk> hen", "", "  ", "<story> fox"],
        {"fox wolf": ["wolf"], "Fox, hen": ["Fox", ","], "an unk": ["an", "unk"], "<unk> owl": ["owl"]},
    ),
    "words, and transformers not told of the unknown one": (
        lambda: fast(models.WordLevel({"?": 0, "fox": 1}, unk_token="?"), BLANKS),
        ["fox ?", "? fox fox"],
        {"fox crow": ["crow"]},
    ),
    "pieces with an unknown one": (
        lambda: fast(models.WordPiece({"[UNK]": 0, "fo": 1, "##x": 2}, unk_token="[UNK]"), BLANKS, unk_token="[UNK]"),
        ["fox fo", "[UNK] fox"],
        {"fox fog": ["fog"], "[UNK] [UNK]y": ["y"]},
    ),
    "unigrams": (
        lambda: fast(unigrams(), pre_tokenizers.Metaspace(), unk_token="?"),
        ["abc def", "a ? b"],
        {"abc xyz": ["xyz"]},
    ),
    "unigrams, and transformers not told of the unknown one": (
        lambda: fast(unigrams(), pre_tokenizers.Metaspace()),
        ["abc def"],
        {"abc xyz d": ["xyz"]},
    ),
    "letters with an unknown one": (
        lambda: fast(pieces_of(["?", *LETTERS], unk_token="?"), BLANKS, unk_token="?"),
        ["abc ? h"],
        {"abx": ["x"], "x?y": ["x", "y"]},
    ),
    "letters without an unknown one": (
        lambda: fast(pieces_of(LETTERS), BLANKS),
        ["ab cab", "h  g\n\tf", "", " "],
        {"ab zab a": ["zab"], "x y": ["x", "y"], "AB": ["AB"], "a\u0301b": ["a\u0301b"]},
    ),
    "letters that transformers believes to have an unknown one": (
        lambda: fast(pieces_of(LETTERS), BLANKS, unk_token="<unk>", bos_token="<s>"),
        ["<s> ab", "ab<unk>c<s>", "<unk>"],
        {"<s>xa b": ["xa"], "a<unk>y<s>z": ["y", "z"]},
    ),
    "letters, of which others are made": (
        lambda: fast(pieces_of(LETTERS), BLANKS, ACCENTS),
        ["AB ab", "áb \u0301a", unicodedata.normalize("NFD", "Ä é")],
        {"AX": ["ax"]},
    ),
    "letters, between which marks are taken away": (
        lambda: fast(pieces_of(LETTERS), pre_tokenizers.Sequence([pre_tokenizers.Split(";", "removed"), BLANKS])),
        ["ab;cd ; e"],
        {"ab;xd": ["xd"], "a!b": ["a!b"]},
    ),
    "letters by their place in a word": (
        lambda: fast(
            models.BPE(
                vocab={"a": 0, "b": 1, "##b": 2, "##a</w>": 3, "a</w>": 4},
                merges=[],
                continuing_subword_prefix="##",
                end_of_word_suffix="</w>",
            ),
            BLANKS,
        ),
        ["a ba bba"],
        {"ab": ["ab"], "b a": ["b"]},
    ),
    "letters without blanks": (lambda: fast(pieces_of(LETTERS)), ["ab c", "abc"], {"ab x": ["ab x"]}),
    "all bytes": (lambda: fast(pieces_of(BYTES), OF_BYTES), ["any text, 😀 ř \u0301"], {}),
    "all bytes, after other cuts": (lambda: fast(pieces_of(BYTES), LATER_BYTES), ["any text, 😀 ř"], {}),
    "some bytes": (
        lambda: fast(pieces_of([*LETTERS, "Ġ", "Ã"]), OF_BYTES),
        ["ab cab"],
        {"ab é": ["é"], "abä c": ["abä"], "x 😀": ["x", "😀"]},
    ),
    "letters, and bytes of all others": (
        lambda: fast(pieces_of([*LETTERS, *BYTE_TOKENS], byte_fallback=True)),
        ["abz 😀"],
        {},
    ),
    "letters, and bytes of some others": (
        lambda: fast(pieces_of([*LETTERS, "<0x7A>"], byte_fallback=True), BLANKS),
        ["abz z"],
        {"az ay": ["ay"]},
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_what_a_tokenizer_does_not_know_is_named_and_what_it_knows_is_not(kind: str) -> None:
    make, known, unknown = CASES[kind]
    tokenizer = make()
    coverage = Coverage(tokenizer)
    for text in known:
        assert coverage.missing(text) == []
        assert coverage.numbers(text) == tokenizer.encode(text, add_special_tokens=False) == coverage.encode(text)
    for text, pieces in unknown.items():
        assert coverage.missing(text) == pieces, text
        with pytest.raises(ValueError, match="the tokenizer (does not know|has no token for some or all of)") as raised:
            coverage.numbers(text)
        assert all(repr(piece) in str(raised.value) for piece in pieces)
        assert "use a tokenizer and a model that know these" in str(raised.value)


def test_only_where_something_can_vanish_it_is_looked_for() -> None:
    can = {kind for kind, (make, _, _) in CASES.items() if Coverage(make()).can_lose}
    assert can == {kind for kind in CASES if kind.startswith(("letters", "some bytes"))} - {
        "letters with an unknown one",
        "letters, and bytes of all others",
    }


def test_a_tokenizer_that_stops_at_unknown_words_is_explained() -> None:
    words = fast(models.WordLevel({"fox": 0, "hen": 1}), BLANKS)
    with pytest.raises(ValueError, match=r"cannot make tokens of 'owl', 'crow' \(.*\); write words that it knows"):
        Coverage(words).numbers("fox owl hen crow")
    with pytest.raises(ValueError, match=r"cannot make tokens of 'az' \("):
        Coverage(fast(models.Unigram([("a", -1.0)]))).numbers("az")
    assert Coverage(words).numbers("fox hen") == [0, 1]
    half = "fox \ud800 hen"
    with pytest.raises(ValueError, match="cannot make tokens of 'fox"):
        Coverage(words).numbers(half)


class Slow(PreTrainedTokenizer):
    """A tokenizer that says nothing of where its tokens are from."""

    vocab = {"<unk>": 0, "fox": 1, "hen": 2}  # noqa: RUF012 # a constant

    @property
    def vocab_size(self) -> int:
        return 3

    def get_vocab(self) -> dict[str, int]:
        return dict(self.vocab)

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return text.split()

    def _convert_token_to_id(self, token: str) -> int:
        return self.vocab.get(token, 0)

    def _convert_id_to_token(self, index: int) -> str:
        return [*self.vocab][index]


def test_of_a_slow_tokenizer_the_unknown_tokens_are_told() -> None:
    coverage = Coverage(Slow(unk_token="<unk>"))
    assert coverage.missing("fox owl hen crow") == ["owl", "crow"]
    assert coverage.missing("fox <unk> hen") == []
    with pytest.raises(ValueError, match="does not know 'owl', which would become '<unk>'"):
        coverage.numbers("fox owl")
    assert coverage.numbers("hen fox") == [2, 1]


def test_many_pieces_are_named_once_and_few() -> None:
    assert shown(["a", "b", "a"]) == "'a', 'b'"
    assert shown([*"abcdefga"]) == "'a', 'b', 'c', 'd', 'e' and 2 more"


# --- models -----------------------------------------------------------------------------------------------------------


def speaking(tokenizer: Any) -> HookedStreamTransformer:
    torch.manual_seed(0)
    model = HookedStreamTransformer(lm_config("0.2m", "value", d_vocab=len(tokenizer) + 3, n_ctx=12)).eval()
    model.set_tokenizer(tokenizer)
    return model


def test_a_model_takes_no_text_that_its_tokenizer_does_not_know() -> None:
    model = speaking(word_level(["fox", "hen", "ran"]))
    for call in (
        lambda: model("fox wolf"),
        lambda: model(["fox ran", "wolf ran"], "loss"),
        lambda: model.run_with_cache("the wolf"),
        lambda: model.to_tokens(["fox", "hen wolf"], truncate=True),
        lambda: model.to_str_tokens("wolf"),
        lambda: model.to_str_tokens(["fox", "wolf"]),
        lambda: model.to_single_token("wolf"),
    ):
        with pytest.raises(ValueError, match="does not know .*'wolf', which would become '<unk>'; write words"):
            call()
    assert model.to_single_token("<unk>") == 1
    assert model.to_str_tokens("fox <unk>") == ["<story>", "fox", "<unk>"]
    lossy = speaking(fast(pieces_of(LETTERS), BLANKS))
    with pytest.raises(ValueError, match="no token for some or all of 'xa', which would be left out without a word"):
        lossy.to_tokens("ab xa")
    assert lossy.to_string(lossy.to_tokens("ab")[0]) == "ab"


# --- corpora ----------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VALUESTREAM_CACHE", str(tmp_path / "cache"))


def corpus_of(folder: Path, tokenizer: Any, documents: Sequence[str]) -> TextTaskConfig:
    save_tokenizer(tokenizer, folder / "tokens")
    (folder / "corpus.txt").write_text("\n".join(documents))
    return TextTaskConfig(str(folder / "corpus.txt"), str(folder / "tokens"), n_ctx=8, validation=0.3)


@pytest.mark.parametrize("kind", ["letters without an unknown one", "some bytes"])
def test_a_corpus_that_would_lose_words_is_refused(kind: str, tmp_path: Path) -> None:
    known = ["ab c", "a a b", "cab ab", "b a"]
    config = corpus_of(tmp_path, CASES[kind][0](), [*known, "ab abž c", "ž"])
    with pytest.raises(
        ValueError, match=r"no token for some or all of 'abž' in corpus .*\(2 such words in 6 documents"
    ):
        TextTask(config)
    assert not list(tmp_path.rglob("tokens.npy")), "nothing is kept"
    TextTask(corpus_of(tmp_path, CASES[kind][0](), known))


def test_a_corpus_at_which_a_tokenizer_stops_is_refused(tmp_path: Path) -> None:
    config = corpus_of(tmp_path, fast(models.WordLevel({"fox": 0, "hen": 1}), BLANKS), ["fox hen", "fox owl"])
    with pytest.raises(ValueError, match=r"cannot make tokens of corpus .*corpus\.txt: .*; choose a tokenizer"):
        TextTask(config)


def test_a_template_of_the_unknown_token_is_not_counted_as_unknown(tmp_path: Path) -> None:
    tokenizer = templated(["fox", "hen"], "<unk> <unk> <unk> $A")
    TextTask(corpus_of(tmp_path, tokenizer, ["fox hen", "hen fox", "fox fox"]))
    with pytest.warns(UserWarning, match=r"1 of 15 tokens \(6\.67%\) are '<unk>', as for 'owl'"):
        TextTask(corpus_of(tmp_path, tokenizer, ["fox hen", "hen fox", "fox owl"]))


# --- how texts begin --------------------------------------------------------------------------------------------------


def templated(words: Sequence[str], template: str | None) -> Any:
    """A tokenizer of words that puts special tokens around every text."""
    tokenizer: Any = word_level(words)
    tokenizer.add_tokens(["<here>", "<end>"], special_tokens=True)
    if template is not None:
        special = {name: tokenizer.convert_tokens_to_ids(name) for name in template.split() if name != "$A"}
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=list(special.items())
        )
    return tokenizer


STORIES = [f"The {a} saw the {b}." for a in ("dog", "cat", "fox") for b in ("key", "hat", "dog")]


@pytest.mark.parametrize(
    ("template", "opening"),
    [
        (None, []),
        ("<here> $A", ["<here>"]),
        ("<story> $A", ["<story>"]),
        ("<story> <here> $A <end>", ["<story>", "<here>"]),
        ("$A <end>", []),
    ],
)
def test_a_run_of_a_corpus_is_asked_as_it_was_trained(template: str | None, opening: list[str], tmp_path: Path) -> None:
    config = dataclasses.replace(corpus_of(tmp_path, templated(vocabulary(), template), STORIES), n_ctx=40)
    run = trained_lm(tmp_path, tiny_lm("classic", task=config))
    tokenizer: Any = run.tokenizer()
    windows = run.task().sample(4).tokens
    before = tokenizer.convert_tokens_to_ids(opening)
    k = len(before)
    assert opening_tokens(tokenizer) == tuple(before)
    asked, model = Patch(n=4).pair(run), run.load_model()
    for tokens in (windows, asked.clean, asked.corrupt, model.to_tokens(["The dog", "The cat saw"])):
        assert tokens[:, :k].tolist() == [before] * len(tokens)
        assert not set(tokens[:, k].tolist()) & set(tokenizer.all_special_ids), "then comes the text"
    for role, places in asked.positions.items():
        assert (places >= k).all(), role
    assert torch.equal(model("The dog"), model(model.to_tokens("The dog")))
    assert model.to_tokens("The dog").shape == (1, k + 2)
    moved = in_body(model, "value", allowed=True)
    assert moved.to_tokens("The dog").equal(model.to_tokens("The dog")), "in another body too"
    (tmp_path / "corpus.txt").unlink()
    assert ioi_task(run).pairs(4).clean.equal(asked.clean), "the corpus is not needed"


def test_packed_documents_each_have_their_opening(tmp_path: Path) -> None:
    tokenizer = templated(vocabulary(), "<here> $A <end>")
    tokenizer.eos_token = "<end>"
    config = dataclasses.replace(corpus_of(tmp_path, tokenizer, STORIES), packed=True)
    task = TextTask(config)
    texts = [task.tokenizer.convert_ids_to_tokens(row) for row in task.sample(task.n_windows()).tokens.tolist()]
    neighbours = {(one, other) for row in texts for one, other in pairwise(row)}
    assert {other for one, other in neighbours if one == "<here>"} == {"The"}
    assert ("<end>", "<end>") in neighbours, "the template's end token, and the one between documents"
    assert any(row[0] != "<here>" for row in texts), "a window may begin within a document"


def test_a_model_in_another_body_opens_texts_as_it_did(lm_runs: Path) -> None:
    run = next(run for run in Run.under(lm_runs) if run.config.variant == "classic")
    model = run.load_model()
    assert in_body(model, "value", allowed=True).to_tokens("The dog").equal(model.to_tokens("The dog"))
    model.cfg.default_prepend_bos = False
    assert in_body(model, "value", allowed=True).to_tokens("The dog").shape == (1, 2)


# --- without a type checker -------------------------------------------------------------------------------------------

UNTYPED: list[tuple[str, str]] = [
    ("model.to_tokens('dog', padding_side='middle')", "padding_side must be 'right', 'left' or None, got 'middle'"),
    ("model.to_tokens(['dog', 'the dog'], padding_side='LEFT')", "got 'LEFT'"),
    ("model.to_tokens('dog', padding_side=1)", "padding_side must be 'right', 'left' or None, got 1"),
    ("model.to_tokens('dog', side='left')", "TypeError"),
    ("model.to_tokens('dog', prepend_bos='no')", "prepend_bos must be True, False or None, got 'no'"),
    ("model.to_tokens('dog', truncate='left')", "truncate must be True or False, got 'left'"),
    ("model.to_tokens('dog', move_to_device='cpu')", "move_to_device must be True or False, got 'cpu'"),
    ("model.to_tokens('dog', True, 'left', True, False, 3)", "TypeError"),
    ("model.to_single_token(np.int64(7))", "no error: 7"),
    ("model.to_single_token(np.uint8(7))", "no error: 7"),
    ("model.to_single_token(np.array(7))", "no error: 7"),
    ("model.to_single_token(2.0)", "2.0 is no token of this model"),
    ("model.to_single_token(np.float32(2))", "is no token of this model"),
    ("model.to_single_token(np.True_)", "is no token of this model"),
    ("model.to_single_token(None)", "None is no token of this model"),
    ("model.to_single_token(['dog'])", "is no token of this model"),
    ("model.to_string('dog')", "token numbers are whole numbers, got 'dog'"),
    ("model.to_string([1.5])", "token numbers are whole numbers of shape"),
    ("model.to_string(np.array([[5]]))[0] == model.to_string([5])", "no error: True"),
    ("model.to_single_str_token([5, 6])", "a token number must be a whole number of at least 0, got [5, 6]"),
    ("model.set_tokenizer(plain_english(), opening='<story>')", "a token of opening must be a whole number"),
    ("IOIConfig(names='Mary')", "IOIConfig: the names must be a tuple whose elements are each a string, got 'Mary'"),
    ("IOIConfig(held_out_names='Ida')", "got 'Ida'"),
    ("IOIConfig(templates='{A} {B} {S} {IO}')", "IOIConfig: the templates must be a tuple"),
    ("IOIConfig(held_out_templates='x')", "must be a tuple"),
    ("IOIConfig(places='park')", "IOIConfig: the places must be a tuple"),
    ("IOIConfig(objects='a ball')", "IOIConfig: the objects must be a tuple"),
    ("IOIConfig(names=('Ida', 3, 'Udo'))", "names[1] must be a string, got 3"),
    ("IOIConfig(names=None)", "IOIConfig: the names must be a tuple"),
    ("IOIConfig(names=['Ida', 'Udo', 'Kai']).names", "no error: ('Ida', 'Udo', 'Kai')"),
    ("IOIConfig(names=list(IOIConfig().names)) == IOIConfig()", "no error: True"),
    ("IOIConfig(n_ctx=2.5)", "n_ctx must be a whole number, got 2.5"),
    ("NestedConfig(questions='giver')", "NestedConfig: the questions must be a tuple"),
    ("NestedConfig(depths=2)", "NestedConfig: the depths must be a tuple"),
    ("NestedConfig(depths=(True,))", "depths[0] must be a whole number, got True"),
    ("NestedConfig(n_ctx=True)", "n_ctx must be a whole number, got True"),
    ("NestedTask().pairs(2, depth=1.5)", "a depth must be a whole number, got 1.5"),
    ("StoriesConfig(n_ctx=64.5)", "n_ctx must be a whole number, got 64.5"),
    ("StoriesConfig(p_ioi='half')", "p_ioi must be a finite number, got 'half'"),
    ("RepeatsConfig(lag=4.5)", "lag must be a whole number, got 4.5"),
    ("ICLTaskConfig(n_pairs=8.5)", "n_pairs must be a whole number, got 8.5"),
    ("AMICLTaskConfig(d='many')", "the d must be a whole number, got 'many'"),
    ("TextTaskConfig('x.txt', 'y', n_ctx=8.5)", "n_ctx must be a whole number, got 8.5"),
    ("TextTaskConfig('x.txt', 'y', separator=3)", "separator must be a string or None, got 3"),
    ("TextTaskConfig('x.txt', 'y', validation=True)", "validation must be"),
    ("IOITask(IOIConfig(), plain_english(), opening=2.5)", "a token of opening must be a whole number"),
    ("IOITask(IOIConfig(), plain_english(), opening=np.int64(2)).pairs(2).clean[:, 0].tolist()", "no error: [2, 2]"),
]
"""Calls, and what is said; of those that are right, what comes back."""

ASKED = [
    ("IOITask(IOIConfig(), plain_english())", ("sample", "pairs", "prompts", "questions")),
    ("StoriesTask()", ("sample", "stories", "pairs", "questions")),
    ("NestedTask()", ("sample", "pairs", "questions")),
    ("RepeatsTask()", ("sample", "pairs", "questions")),
    ("ICLTask('small')", ("sample", "pairs")),
    ("AMICLTask()", ("sample",)),
]
WRONG = ("0", "-1", "True", "2.5", "'3'", "None", "np.int64(0)", "torch.tensor(2.0)")
CALLS = [f"{task}.{name}" for task, names in ASKED for name in names]
UNTYPED += [(f"{call}({n})", "n must be a whole number of at least 1, got ") for call in CALLS for n in WRONG]
UNTYPED += [(f"{call}({n}) is None", "no error: False") for call in CALLS for n in ("np.int64(3)", "torch.tensor(3)")]

SCRIPT = """
import numpy as np, torch
from circuits import HookedStreamTransformer, lm_config
from experiments.tasks.associative_memory import AMICLTask, AMICLTaskConfig
from experiments.tasks.in_context.task import ICLTask
from experiments.tasks.in_context.batches import ICLTaskConfig
from experiments.tasks.indirect_objects.config import IOIConfig
from experiments.tasks.indirect_objects.task import IOITask
from experiments.tasks.nested_relations import NestedConfig, NestedTask
from experiments.tasks.repeated_tokens import RepeatsConfig, RepeatsTask
from experiments.tasks.sentences.tokenizer import plain_english
from experiments.tasks.stories import StoriesConfig, StoriesTask
from experiments.tasks.text.task import TextTaskConfig
model = HookedStreamTransformer(lm_config("0.2m", "value", d_vocab=len(plain_english()))).eval()
model.set_tokenizer(plain_english())
for call in {calls!r}:
    try:
        print("no error:", str(eval(call)).replace("\\n", " "))
    except ValueError as error:
        print(str(error).replace("\\n", " "))
    except TypeError as error:
        print("TypeError", error)
"""


def test_messages_without_a_type_checker() -> None:
    script = SCRIPT.format(calls=[call for call, _ in UNTYPED])
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    said = ran.stdout.splitlines()
    assert len(said) == len(UNTYPED)
    for (call, message), line in zip(UNTYPED, said, strict=True):
        assert message in line, f"{call} said: {line}"
