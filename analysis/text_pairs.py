"""Rows of pairs as a person writes them, texts or token numbers, and the parts of the pair that they become."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from analysis.role_places import checked_place, goes_on, position_of
from circuits.common.errors import require, whole
from circuits.common.text_coverage import Coverage
from circuits.model import HookedStreamTransformer


@dataclass(frozen=True)
class Row:
    """A clean and a corrupt input with their answers and roles, of the right kinds; what they say needs a model.

    Raises:
        ValueError: for a part of another kind, naming the row.
    """

    name: str
    """What errors call it, as in "row 0"."""
    clean: Any
    """A text, or token numbers; ``corrupt`` is of the same kind."""
    corrupt: Any
    answer: Any
    """A word or a token number, as ``wrong`` is."""
    wrong: Any
    roles: Any
    """What :func:`analysis.role_places.checked_place` takes, by role."""

    def __post_init__(self) -> None:
        with named(self.name):
            for name in ("clean", "corrupt"):
                object.__setattr__(self, name, _written(name, getattr(self, name)))
            alike = isinstance(self.clean, str) == isinstance(self.corrupt, str)
            require(alike, "clean and corrupt must both be texts, or both be lists of token numbers")
            for name in ("answer", "wrong"):
                said = getattr(self, name)
                number = said if isinstance(said, str) else whole(f"{name}, where it is no word,", said, 0)
                object.__setattr__(self, name, number)
            require(isinstance(self.roles, Mapping), f"roles are places by name, as in {{'S': 4}}, got {self.roles!r}")
            object.__setattr__(self, "roles", {role: checked_place(role, at) for role, at in self.roles.items()})


@contextmanager
def named(name: str) -> Iterator[None]:
    """Put a name before the sentence of every ``ValueError`` that is raised inside."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def rows_of_lists(clean: Any, corrupt: Any, answers: Any, wrong: Any, roles: Mapping[str, Any]) -> list[Row]:
    """Return the rows that :meth:`analysis.pairs.Pair.from_text` is given as lists.

    Raises:
        ValueError: for no rows, lists of different lengths, and as :class:`Row`.
    """
    require(isinstance(roles, Mapping), f"roles name words of the texts, as in {{'S1': ('Mary', 1)}}, got {roles!r}")
    given = {"clean": clean, "corrupt": corrupt, "answers": answers, "wrong": wrong}
    lists = {name: _listed(name, value) for name, value in given.items() if not isinstance(value, (str, int))}
    lists |= {f"role {role!r}": value for role, value in roles.items() if isinstance(value, list)}
    n = max(map(len, lists.values()), default=1)
    for name, values in lists.items():
        fits = len(values) == n
        require(fits, f"there are {n} rows, and {len(values)} of {name}; give a list with one for each, or one for all")

    def row(i: int) -> Row:
        said = [lists[name][i] if name in lists else value for name, value in given.items()]
        places = {role: at[i] if isinstance(at, list) else at for role, at in roles.items()}
        return Row(f"row {i}", said[0], said[1], said[2], said[3], places)

    return [row(i) for i in range(n)]


@dataclass(frozen=True)
class _Tokens:
    """A row in the tokens of a model."""

    clean: list[int]
    corrupt: list[int]
    answer: int
    wrong: int
    positions: dict[str, int]


def parts_of_rows(model: HookedStreamTransformer, rows: Sequence[Row]) -> dict[str, Any]:
    """Return the fields of the pair that one row or more are, in the tokens of a model.

    Raises:
        ValueError: as :meth:`analysis.pairs.Pair.from_text`, naming the row.
    """
    require(
        model.config.inputs.are_tokens,
        "this model takes vectors, and these are pairs of texts or token numbers; give the vectors to Pair(clean, "
        "corrupt, answers, wrong)",
    )
    roles = list(rows[0].roles)
    for row in rows:
        require(
            set(row.roles) == set(roles),
            f"{row.name}: its roles are {', '.join(row.roles) or 'none'}, and those of {rows[0].name} "
            f"{', '.join(roles) or 'none'}; give every row the same",
        )
    found = [_in_tokens(model, row) for row in rows]
    ends = torch.tensor([len(row.clean) - 1 for row in found])
    # Whatever pads is masked, and after all that is read.
    pad = getattr(model.tokenizer, "pad_token_id", None) or 0
    clean, corrupt = (
        pad_sequence([torch.tensor(side) for side in sides], True, pad).to(model.cfg.device)
        for sides in ([row.clean for row in found], [row.corrupt for row in found])
    )
    positions = {"END": ends[:, None]} | {r: torch.tensor([[row.positions[r]] for row in found]) for r in roles}
    return {
        "clean": clean,
        "corrupt": corrupt,
        "answers": torch.tensor([row.answer for row in found]),
        "wrong": torch.tensor([row.wrong for row in found]),
        "positions": {role: places.to(clean.device) for role, places in positions.items()},
        "read_at": ends.to(clean.device),
        "tokenizer": model.tokenizer,
        "mask": (torch.arange(clean.shape[1]) <= ends[:, None]).to(clean.device),
    }


def _in_tokens(model: HookedStreamTransformer, row: Row) -> _Tokens:
    with named(row.name):
        clean, corrupt = (tokens_of(model, name, getattr(row, name)) for name in ("clean", "corrupt"))
        if len(clean) != len(corrupt):
            parts = [f" ({model.to_str_tokens(x)})" if isinstance(x, str) else "" for x in (row.clean, row.corrupt)]
            raise ValueError(
                f"clean is {len(clean)} tokens{parts[0]} and corrupt {len(corrupt)}{parts[1]}; they are patched "
                f"position by position, so write them with as many tokens"
            )
        require(clean != corrupt, "clean and corrupt are the same tokens, so nothing can be patched between them")
        answer, wrong = (_answer(model, row.clean, said) for said in (row.answer, row.wrong))
        require(
            answer != wrong,
            f"the answer {row.answer!r} and the wrong one {row.wrong!r} are one token, and no metric tells them apart; "
            f"give another wrong one",
        )
        texts = (row.clean, row.corrupt, len(clean))
        positions = {role: position_of(model, role, place, *texts) for role, place in row.roles.items()}
    return _Tokens(clean, corrupt, answer, wrong, positions)


def tokens_of(model: HookedStreamTransformer, name: str, written: str | tuple[int, ...]) -> list[int]:
    """Return the tokens of a text, opened as the model's texts are, or of token numbers; errors call them ``name``.

    Raises:
        ValueError: for a model without a tokenizer, pieces that it does not know (naming them), numbers that are no
            tokens of the model, and none, or more than the model reads.
    """
    if isinstance(written, str):
        require(
            model.tokenizer is not None,
            "this model has no tokenizer to read text with; set the one that it was trained with, by "
            "model.set_tokenizer(tokenizer), or give token numbers, which need none: lists of them in place of texts, "
            "and numbers in place of words",
        )
        tokens: list[int] = model.to_tokens(written)[0].tolist()
    else:
        tokens = [model.to_single_token(token) for token in written]
    n_ctx = model.config.n_ctx
    require(0 < len(tokens) <= n_ctx, f"{name} is {len(tokens)} tokens, and this model reads from 1 to {n_ctx}")
    return tokens


def _answer(model: HookedStreamTransformer, text: str | tuple[int, ...], said: str | int) -> int:
    if not (isinstance(said, str) and isinstance(text, str)):
        return model.to_single_token(said)
    if not goes_on(text + said, len(text)):
        coverage = Coverage(model.tokenizer)
        coverage.numbers(said)  # refuses what the tokenizer does not know
        added = coverage.behind(text, said)
        parts = [model.to_single_str_token(number) for number in added]
        require(len(added) == 1, f"{said!r} is {len(added)} tokens, not one, after this text: {parts}")
        return added[0]
    number = model.to_single_token(said)
    try:
        new_word = model.to_single_token(f" {said}")
    except ValueError:
        return number
    require(
        number == new_word,
        f"after this text, {said!r} would go on its last word; write {f' {said}'!r}, with the space, which is "
        f"another token, or the token's number if that is meant",
    )
    return number


def _written(name: str, given: Any) -> str | tuple[int, ...]:
    if isinstance(given, str):
        return given
    require(isinstance(given, Iterable), f"{name} is a text, or a list of token numbers, got {given!r}")
    return tuple(whole(f"a token of {name}", number, 0) for number in given)


def _listed(name: str, given: Any) -> list[Any]:
    require(isinstance(given, Iterable), f"{name} is a list with one for each row, or one for all, got {given!r}")
    values = list(given)
    require(bool(values), f"{name} is empty; give a list with one for each row")
    return values
