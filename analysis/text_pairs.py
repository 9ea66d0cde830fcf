"""What pairs are made of that are given as text: tokens, padding, where roles stand, where answers are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from circuits.common.errors import require
from circuits.model import HookedStreamTransformer


def parts_of_texts(
    model: HookedStreamTransformer,
    clean: str | Sequence[str],
    corrupt: str | Sequence[str],
    answers: str | Sequence[str],
    wrong: str | Sequence[str],
    roles: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the fields of the pair that :meth:`analysis.pairs.Pair.from_text` makes of texts."""
    require(isinstance(roles, Mapping), f"roles name pieces of the text, as in {{'S1': ('Mary', 1)}}, got {roles!r}")
    given = {"clean": clean, "corrupt": corrupt, "answers": answers, "wrong": wrong}
    texts = {name: [value] if isinstance(value, str) else list(value) for name, value in given.items()}
    n = len(texts["clean"])
    for name, some in texts.items():
        require(all(isinstance(text, str) for text in some), f"{name} are texts, got {some!r}")
        require(len(some) == n and n > 0, f"there are {n} clean texts and {len(some)} of {name}; give one for each")
    rows = {name: [model.to_tokens(text)[0] for text in texts[name]] for name in ("clean", "corrupt")}
    for i in range(n):
        _check_lengths(model, texts["clean"][i], texts["corrupt"][i], rows["clean"][i], rows["corrupt"][i])
    lengths = torch.tensor([len(row) for row in rows["clean"]], device=rows["clean"][0].device)
    places = {role: _places(model, role, piece, texts["clean"], rows["clean"]) for role, piece in roles.items()}
    ends = lengths - 1
    mask = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]
    # Whatever pads is masked, and after all that is read.
    pad = getattr(model.tokenizer, "pad_token_id", None) or 0
    sides = {name: pad_sequence(some, True, pad) for name, some in rows.items()}
    said = {name: torch.tensor([model.to_single_token(t) for t in texts[name]]) for name in ("answers", "wrong")}
    return {**sides, **said, "positions": {"END": ends[:, None]} | places, "read_at": ends, "mask": mask}


def _check_lengths(model: HookedStreamTransformer, clean: str, corrupt: str, one: Tensor, other: Tensor) -> None:
    if len(one) != len(other):
        parts = [model.to_str_tokens(row) for row in (one, other)]
        raise ValueError(
            f"position by position, a clean and a corrupt text need as many tokens: {clean!r} has {len(one)}, "
            f"{parts[0]}, and {corrupt!r} has {len(other)}, {parts[1]}"
        )


def _places(
    model: HookedStreamTransformer, role: str, pieces: Any, texts: list[str], rows: list[Tensor]
) -> Int[Tensor, "text 1"]:
    each = list(pieces) if isinstance(pieces, list) else [pieces] * len(texts)
    require(len(each) == len(texts), f"role {role!r} names {len(each)} pieces for {len(texts)} texts; give one or all")
    found = [_place(model, role, piece, text, len(row)) for piece, text, row in zip(each, texts, rows, strict=True)]
    return torch.tensor(found, device=rows[0].device)[:, None]


def _place(model: HookedStreamTransformer, role: str, piece: Any, text: str, length: int) -> int:
    words, time = piece if isinstance(piece, tuple) else (piece, None)
    counted = isinstance(time, Integral) and not isinstance(time, bool) and int(time) >= 1
    require(
        isinstance(words, str) and bool(words) and (time is None or counted),
        f"role {role!r} is a piece of the text, as in 'Mary', or ('Mary', 2) for its second time, got {piece!r}",
    )
    starts = [i for i in range(len(text)) if text.startswith(words, i)]
    require(
        len(starts) == 1 if time is None else int(time) <= len(starts),
        f"role {role!r}: {words!r} stands {len(starts)} time(s) in {text!r}; name a piece that is there, and of "
        f"several the one that is meant, as in ({words!r}, 1)",
    )
    begin = starts[0 if time is None else int(time) - 1]
    offsets = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    inside = [i for i, (a, b) in enumerate(offsets) if a < begin + len(words) and b > begin]
    require(bool(inside), f"role {role!r}: no token of {text!r} covers {words!r}")
    # What opens the text stands before the tokens of the text itself.
    return length - len(offsets) + inside[-1]
