"""Text in and out of a model, through a tokenizer of transformers, by the names that transformer-lens' tools call."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from circuits.config import ModelConfig, TokenInputs
from circuits.errors import require
from circuits.lens import HookedRoot


class TextSurface(HookedRoot):
    """The parts of HookedTransformer's surface that deal in text; nothing here imports transformers."""

    config: ModelConfig
    tokenizer: Any = None
    """A transformers tokenizer, by :meth:`set_tokenizer`; without one the model takes token numbers only."""

    def set_tokenizer(self, tokenizer: Any, prepend_bos: bool | None = None) -> None:
        """Let the model take text through a transformers tokenizer (``PreTrainedTokenizerFast``).

        ``prepend_bos`` becomes ``model.cfg.default_prepend_bos``: whether text begins with the tokenizer's beginning
        token, by default if it has one.

        Raises:
            ValueError: if the model takes no tokens, the tokenizer has more of them than the model, or lacks the
                beginning token that ``prepend_bos`` asks for.
        """
        require(
            isinstance(self.config.inputs, TokenInputs), "this model takes vectors; a tokenizer makes token numbers"
        )
        highest, d_vocab = max(tokenizer.get_vocab().values()), self.cfg.d_vocab
        require(
            highest < d_vocab,
            f"the tokenizer's highest token number is {highest}, but the model has d_vocab = {d_vocab}; use the "
            f"tokenizer that the model was trained with, or a model with d_vocab = {highest + 1}",
        )
        has_bos = tokenizer.bos_token_id is not None
        require(has_bos or not prepend_bos, "prepend_bos asks for a beginning token, which this tokenizer lacks")
        self.tokenizer = tokenizer
        self.cfg.default_prepend_bos = has_bos if prepend_bos is None else prepend_bos

    def to_tokens(self, tokens: Any, prepend_bos: bool | None = None, **_: Any) -> Int[Tensor, "batch pos"]:
        """Return text, a list of texts or a tensor of token numbers as token numbers (batch pos).

        Shorter texts of a list are padded on the right, with the tokenizer's padding token or, without one, its ending
        token. ``prepend_bos`` by default as ``model.cfg.default_prepend_bos`` says; a tensor stays what it is.

        Raises:
            ValueError: for text without a tokenizer, or what is neither text nor token numbers.
        """
        if isinstance(tokens, Tensor) and not tokens.is_floating_point():
            return tokens if tokens.ndim == 2 else tokens[None]
        texts: Any = [tokens] if isinstance(tokens, str) else tokens
        is_text = isinstance(texts, (list, tuple)) and texts and all(isinstance(text, str) for text in texts)
        if self.tokenizer is None or not is_text:
            lack = "takes text or" if self.tokenizer else "has no tokenizer: pass"
            raise ValueError(f"this model {lack} a tensor of token numbers, got {type(tokens).__name__}")
        return self._padded([self._numbers(text, prepend_bos) for text in texts])

    def _numbers(self, text: str, prepend_bos: bool | None) -> list[int]:
        prepend = self.cfg.default_prepend_bos if prepend_bos is None else prepend_bos
        bos = self._speaks("text").bos_token_id
        require(not prepend or bos is not None, "prepend_bos asks for a beginning token, which this tokenizer lacks")
        numbers = self._speaks("text")(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ([bos] if prepend else []) + numbers

    def _padded(self, rows: list[list[int]]) -> Int[Tensor, "batch pos"]:
        length, speaks = max(map(len, rows)), self._speaks("text")
        pad = speaks.eos_token_id if speaks.pad_token_id is None else speaks.pad_token_id
        require(
            pad is not None or all(len(row) == length for row in rows),
            "these texts have different lengths and the tokenizer has no padding token; set tokenizer.pad_token",
        )
        padded = [row + [pad] * (length - len(row)) for row in rows]
        return torch.tensor(padded, dtype=torch.int64, device=self.cfg.device)

    def _speaks(self, what: str) -> Any:
        require(self.tokenizer is not None, f"this model has no tokenizer for {what}; call model.set_tokenizer first")
        return self.tokenizer

    def to_string(self, tokens: int | list[int] | Int[Tensor, "*batch pos"] | Int[Tensor, ""]) -> str | list[str]:
        """Return the text of token numbers; of a batch (batch pos), a list of texts.

        Raises:
            ValueError: if the model has no tokenizer.
        """
        numbers = torch.as_tensor(tokens)
        if numbers.ndim == 2:
            return [str(self.to_string(row)) for row in numbers]
        return self._speaks("text").decode(numbers.reshape(-1).tolist(), clean_up_tokenization_spaces=False)

    def to_single_str_token(self, token: int) -> str:
        """Return the text of one token number."""
        return str(self.to_string(token))

    def to_str_tokens(self, text: Any, prepend_bos: bool | None = None) -> list[str] | list[list[str]]:
        """Return the text of every token of a text or of one sequence of token numbers; for a list of texts, of each.

        Raises:
            ValueError: if the model has no tokenizer, or for a batch of token numbers.
        """
        self._speaks("text")
        if isinstance(text, (list, tuple)):
            return [self.to_str_tokens(one, prepend_bos) for one in text]  # type: ignore[misc] # each is one text
        tokens = self.to_tokens(text, prepend_bos)
        require(len(tokens) == 1, f"to_str_tokens takes one sequence of token numbers, got {len(tokens)}")
        return [self.to_single_str_token(token) for token in tokens[0].tolist()]

    def to_single_token(self, token: str | int | Tensor) -> int:
        """Return the number of the one token that a text is; a number stays what it is.

        Raises:
            ValueError: if the text is several tokens (naming them) or none, or the model has no tokenizer.
        """
        if not isinstance(token, str):
            return int(token)
        if self.tokenizer is None:
            raise ValueError(f"this model has no tokenizer: pass a token number, not {token!r}")
        numbers = self._numbers(token, prepend_bos=False)
        parts = [self.to_single_str_token(number) for number in numbers]
        require(len(numbers) == 1, f"{token!r} is {len(numbers)} tokens, not one: {parts}")
        return numbers[0]

    def _tokens_to_run(self, text: Any, return_type: str | None) -> Int[Tensor, "batch pos"]:
        """Return the tokens of what ``forward`` was given instead of a tensor."""
        tokens = self.to_tokens(text)
        if return_type in ("loss", "both") and not isinstance(text, str):
            lengths = sorted({len(self._numbers(one, None)) for one in text})
            require(
                len(lengths) == 1,
                f"the loss of texts of different lengths ({lengths} tokens) would count their padding; give them one "
                "by one",
            )
        return tokens
