"""Tokenizers: of words, of a file, a folder or a name on the hub; how they are stored, whether they fit a model."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits.common.errors import require
from circuits.common.files import write_atomically
from circuits.common.plain_data import content_hash

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase
else:
    # Annotations must resolve at run time, and these packages are imported only where they are used.
    PreTrainedTokenizerBase = Tokenizer = Any

SPECIAL = ("<pad>", "<unk>", "<story>")
"""Padding, unknown words, and the beginning of a text: tokens 0, 1 and 2 of a tokenizer of words."""
CONVENTIONS: dict[str, tuple[str, ...]] = {
    "pad_token": ("<pad>", "[PAD]", "<|pad|>", "<|padding|>"),
    "bos_token": ("<s>", "<bos>", "[BOS]", "<|startoftext|>", "<story>"),
    "eos_token": ("</s>", "<eos>", "[EOS]", "<|endoftext|>"),
}
"""What special tokens are called: a bare tokenizer.json names them, but does not say what they are for."""
TOKENIZER_JSON = "tokenizer.json"
INSTEAD = (
    "pass the path of a tokenizer.json, or of a folder that save_pretrained wrote (on a machine with a connection: "
    "transformers.AutoTokenizer.from_pretrained(NAME).save_pretrained(FOLDER))"
)


WRITTEN = {
    r" (?=[.,!?;:%)\]}…])": "",
    r"(?<=[(\[{]) ": "",
    r"(?<=\w) ' (?=(?:s|t|m|d|re|ve|ll)\b)": "'",
    r"(?<=\w) - (?=\w)": "-",
}
"""What words with spaces between them become, so that spaces stand as in written text."""


def word_level(words: Sequence[str], special: Sequence[str] = SPECIAL) -> PreTrainedTokenizerBase:
    """Return a tokenizer with one token a word or punctuation mark.

    Token numbers: the three ``special`` ones (padding, unknown, beginning), then ``words`` in the order given. Nothing
    is added to a text by itself. Decoding puts spaces as written text does, but cannot tell which quotation marks open
    and which close: those keep a space on either side.

    Raises:
        ValueError: for words that occur twice, or that the tokenizer would cut (at spaces and punctuation).
    """
    from tokenizers import Regex, Tokenizer
    from tokenizers.decoders import Fuse, Replace, WordPiece
    from tokenizers.decoders import Sequence as Decoders
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Sequence as Splitters
    from tokenizers.pre_tokenizers import Split, Whitespace
    from transformers import PreTrainedTokenizerFast

    require(len(special) == 3, f"special tokens are padding, unknown and beginning, got {list(special)}")
    every = [*special, *words]
    twice = [word for word, count in Counter(every).items() if count > 1]
    require(not twice, f"words must be given once, these occur more often: {twice[:10]}")
    # Whitespace alone would keep marks that touch, as in `store).`, together as one unknown token.
    splitter = Splitters([Whitespace(), Split(Regex(r"[^\w\s]"), "isolated")])
    for word in words:
        parts = [part for part, _ in splitter.pre_tokenize_str(word)]
        require(parts == [word], f"{word!r} is not one word: texts are cut into {parts}; give these instead")
    pad, unknown, beginning = special
    backend = Tokenizer(WordLevel({word: number for number, word in enumerate(every)}, unk_token=unknown))
    removed = (Replace(Regex(pattern), text) for pattern, text in WRITTEN.items())
    backend.pre_tokenizer, backend.decoder = (
        splitter,
        Decoders([WordPiece(prefix="\0", cleanup=False), Fuse(), *removed]),
    )
    backend.add_special_tokens(list(special))
    roles = {"pad_token": pad, "unk_token": unknown, "bos_token": beginning}
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **roles)


def tokenizer_named(name_or_path: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a local file (tokenizer.json), a local folder, or a name on the Hugging Face hub.

    Raises:
        ValueError: if there is none, saying what to pass instead.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return load_tokenizer(path)
    if path.is_file():
        # A folder that save_pretrained wrote says beside the file which tokens pad, begin and end a text.
        whole = path.name == TOKENIZER_JSON and (path.parent / "tokenizer_config.json").is_file()
        return load_tokenizer(path.parent) if whole else _from_file(path)
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
    except Exception as error:  # the clients raise many classes, and all mean the same here
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"tokenizer {name_or_path!r} could not be loaded: there is no such local path, and the hub cannot be "
            f"reached or has no such tokenizer ({why}); {INSTEAD}"
        ) from error


def _from_file(path: Path) -> PreTrainedTokenizerBase:
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


def tokenizer_files(tokenizer: PreTrainedTokenizerBase) -> dict[str, bytes]:
    """Return what ``save_pretrained`` writes, by file name; tokenizer.json is what :func:`fingerprint` is of.

    Raises:
        ValueError: for a tokenizer that has no tokenizer.json, as the functions below.
    """
    text = _text(tokenizer)
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save_pretrained(scratch)
        files = {file.name: file.read_bytes() for file in sorted(Path(scratch).iterdir())}
    return files | {TOKENIZER_JSON: text}


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> str:
    """Write :func:`tokenizer_files` into a folder, each whole or not at all, and return the :func:`fingerprint`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in tokenizer_files(tokenizer).items():
        write_atomically(folder / name, data)
    return fingerprint(tokenizer)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a folder of :func:`tokenizer_files`, or that ``save_pretrained`` wrote.

    Raises:
        ValueError: if the folder holds none.
    """
    from transformers import AutoTokenizer

    if (folder / TOKENIZER_JSON).is_file() and not (folder / "tokenizer_config.json").is_file():
        return _from_file(folder / TOKENIZER_JSON)
    try:
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except Exception as error:  # as for names on the hub
        raise ValueError(f"folder {folder} holds no tokenizer that can be read: {error}; {INSTEAD}") from error


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the SHA-256 (hexadecimal) of a tokenizer's tokenizer.json, however the tokenizer was used before."""
    return hashlib.sha256(_text(tokenizer)).hexdigest()


def tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash (hexadecimal) of the :func:`fingerprint` and of which tokens pad, begin and end a text or stand for
    unknown words, which tokenizer.json does not say."""
    roles = {role: getattr(tokenizer, f"{role}_id") for role in (*CONVENTIONS, "unk_token")}
    return content_hash([fingerprint(tokenizer), roles])


def _text(tokenizer: PreTrainedTokenizerBase) -> bytes:
    from tokenizers import Tokenizer

    backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(f"{type(tokenizer).__name__} has no tokenizer.json; {INSTEAD}")
    # Padding and truncation of the last call stick to a tokenizer, but are not part of what it is.
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_padding()
    copy.no_truncation()
    return copy.to_str(pretty=True).encode()


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


def check_fits(tokenizer: PreTrainedTokenizerBase, d_vocab: int) -> None:
    """Refuse a tokenizer that has more tokens than a model.

    Raises:
        ValueError: naming both numbers.
    """
    require(
        len(tokenizer) <= d_vocab,
        f"the tokenizer has {len(tokenizer)} tokens, the model's vocabulary d_vocab = {d_vocab}: give the model at "
        f"least as many, or choose a smaller tokenizer",
    )
