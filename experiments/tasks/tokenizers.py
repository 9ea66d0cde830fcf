"""Tokenizers: of words, of a file, a folder or a name on the hub; how they are stored, whether they fit a model."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits.common.errors import require
from circuits.common.files import names_no_file, path_of, write_atomically
from circuits.common.plain_data import content_hash
from circuits.loading.tokenizers import CONVENTIONS, INSTEAD, TOKENIZER_JSON, load_tokenizer, tokenizer_from_file

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase
else:
    # Annotations must resolve at run time, and these packages are imported only where they are used.
    PreTrainedTokenizerBase = Tokenizer = Any

SPECIAL = ("<pad>", "<unk>", "<story>")
"""Padding, unknown words, and the beginning of a text: tokens 0, 1 and 2 of a tokenizer of words."""


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
    path = path_of("a tokenizer, if it is not a name on the hub,", name_or_path).expanduser()
    if path.is_dir():
        return load_tokenizer(path)
    if path.is_file():
        # A folder that save_pretrained wrote says beside the file which tokens pad, begin and end a text.
        whole = path.name == TOKENIZER_JSON and (path.parent / "tokenizer_config.json").is_file()
        return load_tokenizer(path.parent) if whole else tokenizer_from_file(path)
    require(not names_no_file(name_or_path), f"there is no file or folder {name_or_path}; {INSTEAD}")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
    except Exception as error:  # the clients raise many classes, and all mean the same here
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"tokenizer {name_or_path!r} could not be loaded: there is no such local path, and the hub cannot be "
            f"reached or has no such tokenizer ({why}); {INSTEAD}"
        ) from error


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
