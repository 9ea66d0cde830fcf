"""Tokenizers of files: a tokenizer.json, a folder that holds one, or a file of tiktoken's ranks; never a pickle."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits.common.errors import require

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
else:
    # Annotations must resolve at run time, and the package is imported only where it is used.
    PreTrainedTokenizerBase = Any

CONVENTIONS: dict[str, tuple[str, ...]] = {
    "pad_token": ("<pad>", "[PAD]", "<|pad|>", "<|padding|>"),
    "bos_token": ("<s>", "<bos>", "<|bos|>", "[BOS]", "<|startoftext|>", "<story>"),
    "eos_token": ("</s>", "<eos>", "[EOS]", "<|endoftext|>"),
}
"""What special tokens are called: a bare tokenizer.json names them, but does not say what they are for."""
TOKENIZER_JSON = "tokenizer.json"
INSTEAD = (
    "pass the path of a tokenizer.json, or of a folder that save_pretrained wrote (on a machine with a connection: "
    "transformers.AutoTokenizer.from_pretrained(NAME).save_pretrained(FOLDER))"
)
NANOCHAT = """import base64, pathlib
from nanochat.tokenizer import get_tokenizer
ranks = get_tokenizer().enc._mergeable_ranks
lines = [base64.b64encode(token).decode() + f" {rank}" for token, rank in ranks.items()]
pathlib.Path("tokenizer.tiktoken").write_text("\\n".join(lines))"""
"""What writes the ranks of nanochat's tokenizer, run where nanochat runs."""


def given_tokenizer(path: Path, pattern: str | None, special: tuple[str, ...]) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a folder, a tokenizer.json, or a file of tiktoken's ranks, whose texts are cut by
    ``pattern`` and whose ``special`` tokens follow the ranks; the first of them opens texts that no template opens.

    Raises:
        ValueError: for a pickle, which is not opened, a file that is none of these, or ranks without a pattern.
    """
    require(path.exists(), f"there is no tokenizer at {path}; {INSTEAD}")
    if path.suffix in (".pkl", ".pickle"):
        raise ValueError(
            f"{path} is a pickle and is not opened, as pickles can run code. nanochat's tokenizer is given by its "
            f"ranks; in nanochat's own environment, these lines write them:\n\n{NANOCHAT}\n\nThen pass "
            f"tokenizer.tiktoken as the tokenizer. Without one, the model takes token numbers"
        )
    if path.is_dir():
        tokenizer = load_tokenizer(path)
    elif path.suffix == ".json":
        whole = path.name == TOKENIZER_JSON and (path.parent / "tokenizer_config.json").is_file()
        tokenizer = load_tokenizer(path.parent) if whole else tokenizer_from_file(path)
    else:
        require(
            pattern is not None,
            f"{path} is no tokenizer.json, and how models of this family cut texts before ranks are used is not known "
            f"here; {INSTEAD}",
        )
        tokenizer = _of_ranks(path, str(pattern), special)
    if special and special[0] in tokenizer.get_vocab() and not opening_tokens(tokenizer):
        open_with(tokenizer, special[:1])
    return tokenizer


def open_with(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> None:
    """Let a tokenizer put tokens, which may be none, before every text, and nothing after it."""
    from tokenizers.processors import TemplateProcessing

    numbers = [(token, tokenizer.get_vocab()[token]) for token in dict.fromkeys(tokens)]
    backend: Any = tokenizer.backend_tokenizer
    backend.post_processor = TemplateProcessing(single=[*tokens, "$A"], special_tokens=numbers)


def _of_ranks(path: Path, pattern: str, special: tuple[str, ...]) -> PreTrainedTokenizerBase:
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    class Ranks(TikTokenConverter):
        """The library's, which would import tiktoken to read the file."""

        @staticmethod
        def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
            return _ranks(Path(tiktoken_url))

    backend = Ranks(str(path), pattern, extra_special_tokens=list(special)).converted()
    roles = {"bos_token": special[0]} if special else {}
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **roles)


def _ranks(path: Path) -> dict[bytes, int]:
    try:
        pairs = [line.split() for line in path.read_bytes().splitlines() if line.strip()]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
    except (ValueError, binascii.Error) as error:
        raise ValueError(
            f"{path} is neither a tokenizer.json nor a file of ranks, a token (base64) and its number a "
            f"line ({error}); {INSTEAD}"
        ) from error
    require(
        sorted(ranks.values()) == list(range(len(ranks))) and bool(ranks),
        f"the ranks of {path} are not 0, 1, 2, ... each once: it was cut short or damaged",
    )
    return ranks


def tokenizer_from_file(path: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a bare tokenizer.json; what its special tokens are for is told by their names.

    Raises:
        ValueError: if it is none.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    try:
        backend = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower class
        raise ValueError(f"{path} is not a tokenizer.json: {error}; {INSTEAD}") from error
    special = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
    found = {role: next((name for name in names if name in special), None) for role, names in CONVENTIONS.items()}
    roles = {**found, "unk_token": getattr(backend.model, "unk_token", None)}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        **{role: name for role, name in roles.items() if name is not None},
    )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a folder that holds a tokenizer.json, or that ``save_pretrained`` wrote.

    Raises:
        ValueError: if the folder holds none.
    """
    from transformers import AutoTokenizer

    if (folder / TOKENIZER_JSON).is_file() and not (folder / "tokenizer_config.json").is_file():
        return tokenizer_from_file(folder / TOKENIZER_JSON)
    try:
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except Exception as error:  # as for names on the hub
        raise ValueError(f"folder {folder} holds no tokenizer that can be read: {error}; {INSTEAD}") from error


def opening_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the tokens that a tokenizer's own template puts before every text: several, one or none.

    They are what encodings with and without such tokens differ by, so those of any template, processor or class. The
    tokens of a corpus (:func:`experiments.tasks.text.stored_tokens.tokenised`) have them before every document.

    Raises:
        ValueError: if they cannot be told apart from the text.
    """
    special = set(tokenizer.all_special_tokens)
    # Of a small vocabulary, words of its own.
    own = islice((word for word in tokenizer.get_vocab() if word not in special), 100)
    for word in ("a", "the", "0", *own):
        try:
            bare = tokenizer.encode(word, add_special_tokens=False)
        except Exception:  # the library raises no narrower class for a word that it does not know
            continue
        opened = tokenizer.encode(word, add_special_tokens=True)
        places = [i for i in range(len(opened)) if bare and opened[i : i + len(bare)] == bare]
        if len(places) == 1:
            return tuple(opened[: places[0]])
    raise ValueError(
        "what this tokenizer puts before a text cannot be told apart from the text itself; choose a tokenizer that "
        "puts its special tokens around a text and leaves its other tokens as they are"
    )
