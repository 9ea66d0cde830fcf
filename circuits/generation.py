"""Text that a model goes on with: token by token, each run alone with the help of what those before left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.cache import KeyValueCache
from circuits.common.errors import known, real, require, whole
from circuits.input_checks import checked_mask
from circuits.transformerlens.tools import ToolSurface


class Generates(ToolSurface):
    """A model that can go on with what it is given."""

    @torch.no_grad()
    def generate(
        self,
        inputs: str | Sequence[str] | Int[Tensor, "batch pos"],
        max_new_tokens: int = 10,
        stop_at_eos: bool = True,
        eos_token_id: int | None = None,
        do_sample: bool = True,
        top_k: int | None = None,
        top_p: float | None = None,
        temperature: float = 1.0,
        use_past_kv_cache: bool = True,
        prepend_bos: bool | None = None,
        return_type: Literal["input", "str", "tokens"] = "input",
        *,
        attention_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Return the inputs with what follows, as text or as tokens (batch pos): as they were given, or as
        ``return_type`` says.

        The arguments are HookedTransformer's. ``do_sample=False`` takes the likeliest token; otherwise it is drawn,
        with ``generator``, at ``temperature``, from the ``top_k`` likeliest or from the fewest whose probabilities add
        up to ``top_p``. With ``stop_at_eos``, rows that have ended are filled up with the ending token. Texts of
        different lengths are padded on the left with a mask; tokens are with ``attention_mask``, 0 at padding on the
        left. Without ``use_past_kv_cache`` every token is run again every time, to the same result.

        Raises:
            ValueError: for inputs that are no tokens, more than n_ctx of them, or a setting that makes no sense.
        """
        require(self.config.inputs.are_tokens, "this model takes vectors, and cannot go on with them by itself")
        known("return_type", return_type, ("input", "str", "tokens"))
        new = whole("max_new_tokens", max_new_tokens, 1)
        _check_sampling(top_k, top_p, temperature, generator)
        as_text = return_type == "str" or (return_type == "input" and not isinstance(inputs, Tensor))
        tokens, mask = self._to_go_on_from(inputs, prepend_bos, attention_mask)
        length = tokens.shape[1]
        require(
            length + new - 1 <= self.config.n_ctx,
            f"{length} tokens and {new} more are longer than n_ctx = {self.config.n_ctx}; at most "
            f"{max(0, self.config.n_ctx + 1 - length)} more can follow",
        )
        eos = self._ending(eos_token_id) if stop_at_eos else None
        cache = KeyValueCache() if use_past_kv_cache else None
        ended = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        training = [part for part in self.modules() if part.training]
        self.eval()
        try:
            for _ in range(new):
                run = slice(cache.length if cache else 0, None)
                seen = None if mask is None else mask[:, run]
                logits = self(tokens[:, run], attention_mask=seen, past_kv_cache=cache)[:, -1]
                chosen = _drawn(logits, top_k, top_p, temperature, generator) if do_sample else logits.argmax(-1)
                if eos is not None:
                    chosen = torch.where(ended, eos, chosen)
                    ended = ended | (chosen == eos)
                tokens = torch.cat([tokens, chosen[:, None]], 1)
                mask = None if mask is None else torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
                if eos is not None and bool(ended.all()):
                    break
        finally:
            for part in training:
                part.training = True
        if not as_text:
            return tokens
        rows = tokens if mask is None else [row[seen != 0] for row, seen in zip(tokens, mask, strict=True)]
        texts = [str(self.to_string(row)) for row in rows]
        return texts[0] if isinstance(inputs, str) else texts

    def _to_go_on_from(
        self, inputs: Any, prepend_bos: bool | None, mask: Tensor | None
    ) -> tuple[Int[Tensor, "batch pos"], Tensor | None]:
        if isinstance(inputs, Tensor):
            tokens = self.to_tokens(inputs)
            require(
                mask is None or bool(checked_mask(mask, tokens)[:, -1].all()),
                "padding must stand on the left, as what follows comes after the last token: attention_mask is (batch, "
                "pos) like the tokens, with no 0 at the end",
            )
            return tokens, mask
        require(
            mask is None, "attention_mask is of tokens; texts are padded here, with a mask of their own: leave it out"
        )
        tokens = self.to_tokens(inputs, prepend_bos, padding_side="left")
        return tokens, None if isinstance(inputs, str) else self.mask_of(inputs, tokens, prepend_bos, "left")

    def _ending(self, eos_token_id: int | None) -> int:
        given = getattr(self.tokenizer, "eos_token_id", None) if eos_token_id is None else eos_token_id
        if given is None:
            raise ValueError(
                "stop_at_eos needs an ending token, and the tokenizer has none: give eos_token_id, or stop_at_eos=False"
            )
        return self.to_single_token(given)


def _check_sampling(top_k: Any, top_p: Any, temperature: Any, generator: Any) -> None:
    if top_k is not None:
        whole("top_k", top_k)
    share = 1 if top_p is None else real("top_p", top_p, above=0)
    require(share <= 1, f"top_p must be above 0 and at most 1, or None; got {top_p}")
    real("temperature", temperature, above=0)
    require(
        generator is None or isinstance(generator, torch.Generator),
        f"generator is a torch.Generator, as torch.Generator().manual_seed(3), got {generator!r}",
    )


def _drawn(
    logits: Float[Tensor, "batch d_vocab"],
    top_k: int | None,
    top_p: float | None,
    temperature: float,
    generator: torch.Generator | None,
) -> Int[Tensor, " batch"]:
    logits = logits / temperature
    if top_k is not None:
        least = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p is not None:
        ordered, order = logits.sort(-1, descending=True)
        share = ordered.softmax(-1)
        # Those that are not needed to reach top_p: what stands before them has it.
        beyond = share.cumsum(-1) - share >= top_p
        logits = logits.masked_fill(beyond.scatter(-1, order, beyond), -torch.inf)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
