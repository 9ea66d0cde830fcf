"""Text in and out of a model, through a tokenizer of transformers, by the names that transformer-lens' tools call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, SupportsIndex

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuits.common.errors import known, require, whole
from circuits.common.text_coverage import Coverage
from circuits.config.model import ModelConfig
from circuits.transformerlens.hooks import HookedRoot

PADDING_SIDES = ("right", "left")
PaddingSide = Literal["right", "left"]


class TextSurface(HookedRoot):
    """The parts of HookedTransformer's surface that deal in text; nothing here imports transformers."""

    config: ModelConfig
    tokenizer: Any = None
    """A transformers tokenizer, by :meth:`set_tokenizer`; without one the model takes token numbers only."""
    opening: tuple[int, ...] = ()
    """What stands before every text that is opened; without any, the tokenizer's beginning token does."""

    def set_tokenizer(
        self, tokenizer: Any, prepend_bos: bool | None = None, opening: Sequence[int] | None = None
    ) -> None:
        """Let the model take text through a transformers tokenizer (``PreTrainedTokenizerFast``).

        ``prepend_bos`` becomes ``model.cfg.default_prepend_bos``: whether texts are opened. They are by the tokens
        ``opening``, as many as there are, or with ``None`` by the tokenizer's beginning token; by default, if there is
        any.

        Raises:
            ValueError: if the model takes no tokens, the tokenizer has more of them than the model, ``opening`` is not
                of the tokenizer's token numbers, or ``prepend_bos`` asks for a beginning token that there is not.
        """
        require(self.config.inputs.are_tokens, "this model takes vectors; a tokenizer makes token numbers")
        numbers = set(tokenizer.get_vocab().values())
        highest, d_vocab = max(numbers), self.cfg.d_vocab
        require(
            highest < d_vocab,
            f"the tokenizer's highest token number is {highest}, but the model has d_vocab = {d_vocab}; use the "
            f"tokenizer that the model was trained with, or a model with d_vocab = {highest + 1}",
        )
        opens = tuple(whole("a token of opening", number, 0) for number in opening or ())
        strange = [number for number in opens if number not in numbers]
        require(not strange, f"opening must hold the tokenizer's token numbers, and it has no {strange}")
        has_bos = tokenizer.bos_token_id is not None
        require(
            has_bos or bool(opens) or not prepend_bos,
            "prepend_bos asks for a beginning token, which this tokenizer lacks",
        )
        adds = getattr(tokenizer, "num_special_tokens_to_add", lambda: 0)()
        require(
            has_bos or opening is not None or prepend_bos is not None or adds == 0,
            "this tokenizer puts tokens around every text by a template, and names none as the beginning token: say "
            "how texts are opened, by opening= (circuits.loading.tokenizers.opening_tokens(tokenizer) finds them), or "
            "that they are not, by prepend_bos=False",
        )
        self.tokenizer, self.opening = tokenizer, opens
        by_default = has_bos if opening is None else bool(opens)
        self.cfg.default_prepend_bos = by_default if prepend_bos is None else prepend_bos

    def to_tokens(
        self,
        tokens: Any,
        prepend_bos: bool | None = None,
        padding_side: PaddingSide | None = None,
        move_to_device: bool = True,
        truncate: bool = False,
    ) -> Int[Tensor, "batch pos"]:
        """Return text, a list of texts or a tensor of token numbers as token numbers (batch pos).

        Texts are opened (:attr:`opening`) if ``prepend_bos`` says so, by default ``model.cfg.default_prepend_bos``.
        Shorter texts of a list are padded on the right (``None``) or on the left, with the tokenizer's padding token
        or, without one, its ending token. The tokens alone do not say which of them are padding: what is padded on the
        left is attended to and moves all positions unless ``forward`` is given an ``attention_mask``; padding on the
        right is never looked at.
        ``truncate`` cuts rows to ``model.cfg.n_ctx`` tokens on the side where padding would stand. They are on the
        model's device, or with ``move_to_device=False`` on the CPU. A tensor is cut, but stays as it is otherwise.

        Raises:
            ValueError: for text without a tokenizer, what is neither text nor whole token numbers of one or two axes,
                pieces of text that the tokenizer does not know (naming them), or another value of an option.
        """
        side = "right" if padding_side is None else padding_side
        require(side in PADDING_SIDES, f"padding_side must be 'right', 'left' or None, got {padding_side!r}")
        require(prepend_bos in (None, True, False), f"prepend_bos must be True, False or None, got {prepend_bos!r}")
        for name, given in (("move_to_device", move_to_device), ("truncate", truncate)):
            require(given in (True, False), f"{name} must be True or False, got {given!r}")
        n_ctx = self.cfg.n_ctx if truncate else None
        if isinstance(tokens, Tensor):
            numbers = _checked_numbers(tokens)
            return numbers if n_ctx is None else numbers[:, :n_ctx] if side == "right" else numbers[:, -n_ctx:]
        texts: Any = [tokens] if isinstance(tokens, str) else tokens
        is_text = isinstance(texts, (list, tuple)) and texts and all(isinstance(text, str) for text in texts)
        if self.tokenizer is None or not is_text:
            lack = "takes text or" if self.tokenizer else "has no tokenizer: pass"
            raise ValueError(f"this model {lack} a tensor of token numbers, got {type(tokens).__name__}")
        coverage = Coverage(self.tokenizer)
        rows = [self._numbers(text, prepend_bos, coverage) for text in texts]
        if n_ctx is not None:
            rows = [row[:n_ctx] if side == "right" else row[-n_ctx:] for row in rows]
        return self._padded(rows, side, self.cfg.device if move_to_device else "cpu")

    def _numbers(self, text: str, prepend_bos: bool | None, coverage: Coverage | None = None) -> list[int]:
        return self.opening_numbers(prepend_bos) + (coverage or Coverage(self._speaks("text"))).numbers(text)

    def opening_numbers(self, prepend_bos: bool | None = None) -> list[int]:
        """Return the tokens that stand before every text, if ``prepend_bos`` says so (by default, if texts are opened).

        Raises:
            ValueError: without a tokenizer, or if it has no beginning token and ``prepend_bos`` asks for one.
        """
        prepend = self.cfg.default_prepend_bos if prepend_bos is None else prepend_bos
        if not prepend or self.opening:
            return list(self.opening) if prepend else []
        bos = self._speaks("text").bos_token_id
        if bos is None:
            raise ValueError("prepend_bos asks for a beginning token, which this tokenizer lacks")
        return [bos]

    def _padded(self, rows: list[list[int]], side: str, device: Any) -> Int[Tensor, "batch pos"]:
        length, speaks = max(map(len, rows)), self._speaks("text")
        pad = speaks.eos_token_id if speaks.pad_token_id is None else speaks.pad_token_id
        require(
            pad is not None or all(len(row) == length for row in rows),
            "these texts have different lengths and the tokenizer has no padding token; set tokenizer.pad_token",
        )
        paddings = [[pad] * (length - len(row)) for row in rows]
        padded = [
            row + padding if side == "right" else padding + row for row, padding in zip(rows, paddings, strict=True)
        ]
        return torch.tensor(padded, dtype=torch.int64, device=device)

    def _speaks(self, what: str) -> Any:
        require(self.tokenizer is not None, f"this model has no tokenizer for {what}; call model.set_tokenizer first")
        return self.tokenizer

    def to_string(
        self, tokens: SupportsIndex | Sequence[SupportsIndex] | Int[Tensor, "*batch pos"] | Int[Tensor, ""]
    ) -> str | list[str]:
        """Return the text of token numbers; of a batch (batch pos), a list of texts.

        Raises:
            ValueError: if the model has no tokenizer, for what is not whole numbers of at most two axes, or numbers of
                which the tokenizer has no token.
        """
        speaks, numbers = self._speaks("text"), _as_numbers(tokens)
        if numbers.ndim == 2:
            return [str(self.to_string(row)) for row in numbers]
        row = numbers.reshape(-1).tolist()
        strange = [number for number in dict.fromkeys(row) if not _has_token(speaks, number)]
        require(
            not strange,
            f"the tokenizer has no token of the number(s) {strange[:10]}; its numbers are those of "
            f"tokenizer.get_vocab(), {len(speaks)} tokens",
        )
        return speaks.decode(row, clean_up_tokenization_spaces=False)

    def to_single_str_token(self, token: SupportsIndex) -> str:
        """Return the text of one token number.

        Raises:
            ValueError: as :meth:`to_string`, and for what is not one whole number.
        """
        self._speaks("text")
        return str(self.to_string(whole("a token number", token, 0)))

    def to_str_tokens(self, text: Any, prepend_bos: bool | None = None) -> list[str] | list[list[str]]:
        """Return the text of every token of a text or of one sequence of token numbers; for a list of texts, of each.

        Raises:
            ValueError: if the model has no tokenizer, for a batch of token numbers, pieces of text that the tokenizer
                does not know, or numbers of which it has no token.
        """
        self._speaks("text")
        if isinstance(text, (list, tuple)):
            return [self.to_str_tokens(one, prepend_bos) for one in text]  # type: ignore[misc] # each is one text
        tokens = self.to_tokens(text, prepend_bos)
        require(len(tokens) == 1, f"to_str_tokens takes one sequence of token numbers, got {len(tokens)}")
        return [self.to_single_str_token(token) for token in tokens[0].tolist()]

    def to_single_token(self, token: str | SupportsIndex) -> int:
        """Return the number of the one token that a text is; a token number stays what it is.

        Raises:
            ValueError: if the text is several tokens (naming them), none or not known to the tokenizer, the model has
                no tokenizer, or a number is no token of the model.
        """
        if not isinstance(token, str):
            return self._token_number(token)
        if self.tokenizer is None:
            raise ValueError(f"this model has no tokenizer: pass a token number, not {token!r}")
        numbers = self._numbers(token, prepend_bos=False)
        parts = [self.to_single_str_token(number) for number in numbers]
        require(len(numbers) == 1, f"{token!r} is {len(numbers)} tokens, not one: {parts}")
        return numbers[0]

    def _token_number(self, token: SupportsIndex) -> int:
        highest = self.cfg.d_vocab - 1
        try:
            number = whole("a token number", token, 0)
        except ValueError:
            number = -1
        require(
            0 <= number <= highest,
            f"{token!r} is no token of this model: its token numbers are whole numbers from 0 to {highest}",
        )
        return number

    def get_token_position(
        self,
        single_token: str | SupportsIndex,
        input: str | Int[Tensor, "*one pos"],
        mode: Literal["first", "last"] = "first",
        prepend_bos: bool | None = None,
    ) -> int:
        """Return the position of a token in a text or in one sequence of tokens, its first or its last.

        Raises:
            ValueError: if it does not occur, is several tokens, or there are several sequences.
        """
        known("mode", mode, ("first", "last"))
        tokens, wanted = self.to_tokens(input, prepend_bos), self.to_single_token(single_token)
        require(len(tokens) == 1, f"get_token_position looks in one sequence of tokens, got {len(tokens)}")
        found = (tokens[0] == wanted).nonzero()[:, 0].tolist()
        require(bool(found), f"{single_token!r} (token {wanted}) does not occur in {tokens[0].tolist()}")
        return found[0 if mode == "first" else -1]

    def _tokens_to_run(
        self, text: Any, return_type: str | None, prepend_bos: bool | None, mask: Tensor | None
    ) -> tuple[Int[Tensor, "batch pos"], Tensor | None]:
        """Return the tokens of what ``forward`` was given instead of a tensor, and a mask where a loss needs one."""
        tokens = self.to_tokens(text, prepend_bos)
        if mask is None and return_type in ("loss", "both") and not isinstance(text, str):
            mask = self.mask_of(text, tokens, prepend_bos)
        return tokens, mask

    def mask_of(
        self, texts: Sequence[str], tokens: Int[Tensor, "batch pos"], prepend_bos: bool | None, side: str = "right"
    ) -> Bool[Tensor, "batch pos"]:
        """Return which of the ``tokens`` of texts, padded on ``side``, are no padding."""
        lengths = torch.tensor([len(self._numbers(text, prepend_bos)) for text in texts], device=tokens.device)
        counted = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        return (counted if side == "right" else counted.flip(1)) < lengths[:, None]


def _is_whole(numbers: Tensor) -> bool:
    return not (numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool)


def _checked_numbers(tokens: Tensor) -> Int[Tensor, "batch pos"]:
    require(
        _is_whole(tokens) and tokens.ndim in (1, 2),
        f"token numbers are whole numbers of shape (pos) or (batch, pos), got {tokens.dtype} of shape "
        f"{tuple(tokens.shape)}; vectors and masks are no token numbers",
    )
    return tokens if tokens.ndim == 2 else tokens[None]


def _as_numbers(tokens: Any) -> Tensor:
    try:
        numbers = torch.as_tensor(tokens)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ValueError(f"token numbers are whole numbers, got {tokens!r}") from None
    require(
        (_is_whole(numbers) or not numbers.numel()) and numbers.ndim <= 2,
        f"token numbers are whole numbers of shape (pos) or (batch, pos), got {numbers.dtype} of shape "
        f"{tuple(numbers.shape)}",
    )
    return numbers


def _has_token(tokenizer: Any, number: int) -> bool:
    try:
        return number >= 0 and tokenizer.convert_ids_to_tokens(number) is not None
    except (IndexError, KeyError, OverflowError):
        return False
