"""Repeated random tokens: after a block of them has stood once, each is followed by what followed it before.

That is what induction heads say (Olsson et al., arXiv 2209.11895). Where the block has one length in all windows, a
head that looks back by position says it too, and small models learn that; where lengths differ, it does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional

from analysis.heads.attention_scores import AttentionScore, duplicate_token, induction, previous_token
from analysis.pairs import Pair
from circuits.common.errors import known, require, whole
from experiments.tasks.kinds import TokenTaskConfig
from experiments.tasks.sentences.templates import choose, distinct
from experiments.tasks.tokens.batches import TokenBatch
from experiments.tasks.tokens.task import TokenTask

SPLITS: dict[str, str] = {"train": "windows to learn from", "validation": "other draws of the same windows"}
CORRUPTIONS: dict[str, str] = {
    "successor": "the first time, another token follows the one that is read, so that one is the answer"
}
OPENING = 0
"""The token that begins every window, and is in no block."""


@dataclass(frozen=True)
class RepeatsConfig(TokenTaskConfig):
    """Blocks of ``lag`` different tokens out of ``vocabulary``, repeated to the end of the window.

    Raises:
        ValueError: for a block of less than two tokens, of as many as there are, or that no window can hold twice; for
            a shortest block longer than ``lag``; for fields that are no whole numbers.
    """

    vocabulary: int = 64
    lag: int = 16
    n_ctx: int = 64
    shortest: int | None = None
    """Every window has a block length from this to ``lag``, equally likely; ``None``: it is always ``lag``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.lag >= 2, f"lag is the length of the block, 2 at least, got {self.lag}")
        require(
            self.shortest is None or 2 <= self.shortest <= self.lag,
            f"the shortest block has from 2 to lag = {self.lag} tokens, got {self.shortest}",
        )
        require(
            self.vocabulary > self.lag,
            f"a block has lag = {self.lag} different tokens, and the corruption needs another one: vocabulary must be "
            f"{self.lag + 1} at least, got {self.vocabulary}",
        )
        require(
            self.n_ctx > 2 * self.lag,
            f"a window holds an opening and the block of lag = {self.lag} twice: n_ctx must be {2 * self.lag + 1} at "
            f"least, got {self.n_ctx}",
        )

    @property
    def d_vocab(self) -> int:
        """How many token numbers there are: those of blocks, and the opening."""
        return self.vocabulary + 1


class RepeatsTask(TokenTask):
    """Windows of token numbers: 0, then a block of tokens from 1 to ``vocabulary``, repeated; there is no tokenizer.

    The predictions that count are those whose own token has occurred before, which induction can make; in the first
    block there is nothing to predict but that no token comes twice.

    Raises:
        UnknownNameError: from methods, for an unknown split or corruption (nearest suggested).
        ValueError: from methods, for a number of windows or pairs that is not a whole one of 1 or more.
    """

    splits = SPLITS
    corruptions = CORRUPTIONS

    def __init__(self, config: RepeatsConfig | None = None, seed: int = 0, device: str | torch.device = "cpu"):
        super().__init__(config or RepeatsConfig(), seed, device)

    # --- what a trainer asks ----------------------------------------------------------------------------------------

    def sample(self, n: int, split: str = "train", seed: int = 0) -> TokenBatch:
        """Return ``n`` windows of a split; equal arguments give equal windows."""
        n = whole("n", n)
        generator = self.generator("sample", known("split", split, SPLITS), seed)
        blocks, lags = self._blocks(n, generator)
        # What follows the first block follows from its length alone, so it does not count.
        counted = torch.arange(self.n_ctx, device=self.device) > lags
        return TokenBatch(self._windows(blocks, lags, self.n_ctx), counted)

    def questions(self, n: int) -> dict[str, Pair]:
        """Return one evaluation set of ``n`` pairs, "second": the answers are in the second block."""
        return {"second": self.pairs(whole("n", n))}

    # --- what an analysis asks --------------------------------------------------------------------------------------

    def pairs(self, n: int, corruption: str = "successor", seed: int = 0, split: str = "train") -> Pair:
        """Return ``n`` windows (batch 2 lag + 1) with a counterfactual of each, read somewhere in the second block.

        Clean and corrupt differ in one token of the first block. Position roles: "first", where the token that is read
        stands in the first block; "first+1", the one after it, which is the answer; END, where it is read.
        """
        n = whole("n", n)
        labels = (known("corruption", corruption, CORRUPTIONS), known("split", split, SPLITS), seed)
        generator = self.generator("pairs", *labels)
        blocks, lags = self._blocks(n, generator)
        clean = self._windows(blocks, lags, 2 * self.config.lag + 1)
        # Of the block's last token no successor stands in the first block.
        draws = torch.rand((n, 1), generator=generator, device=self.device)
        first = 1 + (draws * (lags - 1)).long()
        after, end, wrong = first + 1, first + lags, blocks[:, -1:]
        positions = {"first": first, "first+1": after, "END": end}
        answers = clean.gather(1, after)[:, 0]
        return Pair(clean, clean.scatter(1, after, wrong), answers, wrong[:, 0], positions, read_at=end[:, 0])

    def head_scores(self, pair: TokenBatch | Pair) -> list[AttentionScore]:
        """Return the scores of previous-token, duplicate-token and induction heads, on windows or clean sides."""
        tokens = pair.clean if isinstance(pair, Pair) else pair.tokens
        return [previous_token(tokens), duplicate_token(tokens), induction(tokens)]

    # --- the generator ----------------------------------------------------------------------------------------------

    def _blocks(
        self, n: int, generator: torch.Generator
    ) -> tuple[Int[Tensor, "n one_more_than_lag"], Int[Tensor, "n 1"]]:
        """Blocks, the last token of each a spare one that never stands in its window, and their lengths."""
        longest = self.config.lag
        shortest = longest if self.config.shortest is None else self.config.shortest
        lags = shortest + choose((n, 1), longest - shortest + 1, generator)
        return 1 + distinct(n, longest + 1, self.config.vocabulary, generator), lags

    def _windows(
        self, blocks: Int[Tensor, "n one_more_than_lag"], lags: Int[Tensor, "n 1"], length: int
    ) -> Int[Tensor, "n length"]:
        places = torch.arange(length - 1, device=self.device) % lags
        return functional.pad(blocks.gather(1, places), (1, 0), value=OPENING)
