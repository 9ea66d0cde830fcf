"""Indirect-object identification: "When A and B went to the store, B gave a drink to" is followed by A.

Source: Wang et al., arXiv 2211.00593; the four prompts of arXiv 2412.15113.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from analysis.heads.attention_scores import AttentionScore, between, previous_token, role_scores
from analysis.pairs import Pair
from circuits.common.errors import known, require, whole
from circuits.common.text_coverage import Coverage, shown
from experiments.tasks.indirect_objects.config import CORRUPTIONS, NEEDED, SLOTS, SPLITS, IOIConfig, require_single
from experiments.tasks.sentences import vocabulary as words
from experiments.tasks.sentences.templates import Laid, Phrasebook, Templates, choose, distinct, parts_of
from experiments.tasks.tokens.batches import TokenBatch
from experiments.tasks.tokens.task import TokenTask


def _checked_opening(opening: int | Sequence[int] | None, d_vocab: int) -> tuple[int, ...]:
    given = () if opening is None else tuple(opening) if isinstance(opening, Sequence) else (opening,)
    tokens = tuple(whole("a token of opening", token, 0) for token in given)
    beyond = [token for token in tokens if token >= d_vocab]
    require(
        not beyond, f"opening must hold token numbers below {d_vocab}, of which the tokenizer has one, got {beyond}"
    )
    return tokens


OWN_PAIRS = ", or ask pairs of your own: Pair.from_text(...), or --pairs FILE of a command that takes it"
"""What else to do where the task's names cannot be asked of a model."""
Drawn = dict[str, Int[Tensor, " prompt"]]
"""What was chosen for every prompt: pieces of ``io``, ``s``, ``place``, ``object``; ``template``; ``baba`` (1 or 0)."""


@dataclass(frozen=True)
class Prompts:
    """Prompts of a split, as a pair whose clean side they are, and which template and order each has."""

    pair: Pair
    """``answers`` are the indirect objects (IO), ``wrong`` the subjects (S)."""
    templates: tuple[str, ...]
    """The templates of the split."""
    template: Int[Tensor, " prompt"]
    """Which of them every prompt has."""
    baba: Int[Tensor, " prompt"]
    """1 where the subject is named first (BABA), else 0 (ABBA)."""


class IOITask(TokenTask):
    """The task in the tokens of one tokenizer. Every text begins with ``opening``, a token or several, if there is any.

    Words of templates, places and objects that the tokenizer does not know are warned of. Of a tokenizer that lacks a
    name of the paper's prompts, the split "paper" is not asked.

    Raises:
        ValueError: for a name that is several tokens, not known, or the same token as another one; a template without
            the needed slots; texts whose tokens are not those of their words; an opening of what are no tokens; from
            methods, for a number of windows or prompts that is not a whole one of 1 or more.
        UnknownNameError: from methods, for an unknown split or corruption (nearest suggested).
    """

    splits = SPLITS
    corruptions = CORRUPTIONS

    def __init__(
        self,
        config: IOIConfig,
        tokenizer: Any,
        seed: int = 0,
        device: str | torch.device = "cpu",
        opening: int | Sequence[int] | None = None,
    ):
        super().__init__(config, seed, device, tokenizer)
        self._coverage = Coverage(tokenizer)
        self.book = Phrasebook(
            self._coverage.encode, device, within=lambda text: self._coverage.behind(config.names[0], text)
        )
        opens = _checked_opening(opening, self.d_vocab)
        self._opening, self._n_opening = self.book.special(opens), len(opens)
        self._pad = next((t for t in (tokenizer.pad_token_id, tokenizer.eos_token_id) if t is not None), 0)
        self._names = {
            "train": self._single(config.names, "names"),
            "held-out": self._single(config.held_out_names, "held_out_names"),
        }
        self._check_different((*config.names, *config.held_out_names))
        self._fillers = {"place": self.book.pieces(config.places), "object": self.book.pieces(config.objects)}
        paper = tuple(template for template, _, _ in words.PAPER_PROMPTS) if self._knows_paper() else ()
        self._texts = {"train": config.templates, "held-out": config.held_out_templates, "paper": paper}
        self._templates = {
            kind: Templates(self.book, texts, SLOTS, NEEDED) for kind, texts in self._texts.items() if texts
        }
        for kind in self._templates:
            self._check_order(kind)
            self._check_window(kind)
        self._check_texts()
        self._warn_of_unknown()

    # --- what a trainer asks ----------------------------------------------------------------------------------------

    def sample(self, n: int, split: str = "train", seed: int = 0) -> TokenBatch:
        """Return ``n`` whole sentences, each in a window of its own; "train" and "validation" differ by their draws."""
        n = whole("n", n)
        known("split", split, ("train", "validation"))
        generator = self.generator("sample", split, seed)
        laid = self._lay("train", self._draw(n, "train", "train", generator))
        tokens = torch.full((n, self.n_ctx), self._pad, device=self.device)
        tokens[:, : laid.tokens.shape[1]] = laid.tokens
        places = torch.arange(1, self.n_ctx + 1, device=self.device)
        return TokenBatch(tokens, places < laid.lengths[:, None])

    def questions(self, n: int) -> dict[str, Pair]:
        """Return the evaluation sets, "ioi train" and so on, of ``n`` prompts each (of the paper's, all eight)."""
        n = whole("n", n)
        return {f"ioi {split}": self.prompts(n, split).pair for split in SPLITS if self.has(split)}

    # --- what an analysis asks --------------------------------------------------------------------------------------

    def pairs(self, n: int, corruption: str = "flip", seed: int = 0, split: str = "train") -> Pair:
        """Return ``n`` prompts with a counterfactual of each; see ``CORRUPTIONS``, ``SPLITS``.

        The right answer is the indirect object, the wrong one the subject (with "abc" too, after Wang et al.).
        Position roles: IO, S1, S1+1, S2, END, of the clean prompt.
        """
        return self.prompts(n, split, corruption, seed).pair

    def prompts(self, n: int, split: str = "train", corruption: str = "flip", seed: int = 0) -> Prompts:
        """Return :meth:`pairs` and the template and order of each; of the split "paper" always all eight prompts.

        Raises:
            ValueError: also for a split whose templates the task lacks, or whose names the tokenizer does not know.
        """
        n = whole("n", n)
        known("corruption", corruption, CORRUPTIONS)
        why = " whose names are tokens of their own in this tokenizer's texts" if split == "paper" else ""
        require(self.has(known("split", split, SPLITS)), f"there are no templates for the split {split!r}{why}")
        generator = self.generator("prompts", split, corruption, seed)
        if split == "paper":
            kind, names, drawn = "paper", "train", self._paper()
        else:
            kind = "held-out" if split in ("templates", "held-out") else "train"
            names = "held-out" if split in ("names", "held-out") else "train"
            drawn = self._draw(n, names, kind, generator)
        clean = self._lay(kind, drawn)
        corrupt = self._lay(kind, drawn, self._corrupted(drawn, corruption, names, generator))
        positions, ends = self._positions(kind, drawn, clean)
        hide = torch.arange(clean.tokens.shape[1], device=self.device) > ends[:, None]
        shown, other = (laid.tokens.masked_fill(hide, self._pad)[:, : int(ends.max()) + 1] for laid in (clean, corrupt))
        answers, wrong = (self.book.first_tokens(drawn[who]) for who in ("io", "s"))
        pair = Pair(
            shown, other, answers, wrong, positions, ends, mask=~hide[:, : shown.shape[1]], tokenizer=self.tokenizer
        )
        return Prompts(pair, self._texts[kind], drawn["template"], drawn["baba"])

    def head_scores(self, pair: Pair) -> list[AttentionScore]:
        """Return the scores of the kinds of heads of the IOI circuit, on a pair's clean prompts; padding is left out.

        "induction" is the attention from S2 to the token after S1.
        """
        return [previous_token(pair), between(pair, "induction", "S2", "S1+1"), *role_scores(pair)]

    # --- the generator ----------------------------------------------------------------------------------------------

    def has(self, split: str) -> bool:
        """Return whether there are templates for a split."""
        kinds = {"train": "train", "names": "train", "paper": "paper"}
        return kinds.get(split, "held-out") in self._templates

    def _single(self, names: Sequence[str], kind: str) -> Int[Tensor, " name"]:
        lengths = {name: len(self.book.tokens(f" {name}")) for name in names}
        require_single({name: n for name, n in lengths.items() if n > 1}, "with this tokenizer", kind, OWN_PAIRS)
        lost = [name for name in names if not self._is_known(name)]
        require(
            not lost,
            f"this tokenizer does not know the name(s) {shown(lost)}; take names of its vocabulary (IOIConfig.{kind})"
            f"{OWN_PAIRS}",
        )
        return self.book.pieces(names)

    def _check_different(self, names: Sequence[str]) -> None:
        alike: dict[int, list[str]] = {}
        for name in names:
            alike.setdefault(self.book.tokens(f" {name}")[0], []).append(name)
        same = [" and ".join(some) for some in alike.values() if len(some) > 1]
        require(
            not same,
            f"with this tokenizer these names are the same token, so a right answer would be a wrong one too: "
            f"{', '.join(same)}; take other names, or a tokenizer that tells them apart",
        )

    def _knows_paper(self) -> bool:
        try:
            tokens = [self.book.tokens(f" {name}") for name in words.PAPER_NAMES]
        except ValueError:  # of a tokenizer that stops at words that it does not know
            return False
        single = all(len(some) == 1 for some in tokens) and len(set(tokens)) == len(tokens)
        return single and all(map(self._is_known, words.PAPER_NAMES))

    def _is_known(self, name: str) -> bool:
        tokens = self.book.tokens(f" {name}")
        known_all = self._coverage.unknown.isdisjoint(tokens) and not self._coverage.lost(f" {name}")
        return bool(tokens) and known_all

    def _warn_of_unknown(self) -> None:
        texts = [text for kind in self._templates for text in self._texts[kind]]
        parts = [part for text in texts for part, is_slot in parts_of(text) if not is_slot]
        fillers = [f" {text}" for text in (*self.config.places, *self.config.objects)]
        unknown = [piece for text in dict.fromkeys((*parts, *fillers)) for piece in self._coverage.missing(text)]
        if unknown:
            warnings.warn(
                f"prompts hold words that this tokenizer does not know, {shown(unknown)}: where they stand, a model "
                f"reads an unknown token or nothing; take templates, places and objects (IOIConfig) of its words",
                UserWarning,
                stacklevel=3,
            )

    def _check_order(self, kind: str) -> None:
        at = {slot: self._templates[kind].place_of(slot) for slot in NEEDED}
        for i, text in enumerate(self._texts[kind]):
            first, repeated = max(int(at["A"][i]), int(at["B"][i])), int(at["S"][i])
            require(
                first < repeated < int(at["IO"][i]),
                f"in the template {text!r} the slots must stand in the order {{A}} {{B}} {{S}} {{IO}}: the prompt is "
                f"what stands before {{IO}}",
            )

    def _check_window(self, kind: str) -> None:
        longest = {slot: self.book.longest(of).expand(len(self._texts[kind])) for slot, of in self._fillers.items()}
        name = self._names["train"][0].expand(len(self._texts[kind]))
        every = torch.arange(len(name), device=self.device)
        self._lay(kind, {"io": name, "s": name, "template": every, "baba": torch.zeros_like(every), **longest})

    def _check_texts(self) -> None:
        """Refuse a tokenizer to which texts are other tokens than their pieces; those of the paper are left out."""
        for kind in [*self._templates]:
            differing = self._differing(kind)
            if differing and kind == "paper":
                del self._templates[kind]
            elif differing:
                raise ValueError(
                    f"with this tokenizer {differing}, so it cannot be said where a name stands; take other templates, "
                    f"places or objects (IOIConfig), or a tokenizer that ends tokens where words and marks end"
                )

    def _differing(self, kind: str) -> str:
        """The first text that is other tokens than its pieces, with every filler in every template; else nothing."""
        names = torch.cat([*self._names.values()])
        first = (*self.config.names, *self.config.held_out_names)
        second = first[1:] + first[:1]
        written: dict[str, tuple[str, ...]] = {"A": first, "B": second, "S": first, "IO": second}
        written |= {"place": self.config.places, "object": self.config.objects}
        n = max(map(len, written.values()))
        every = torch.arange(n * len(self._texts[kind]), device=self.device)
        fillers = {slot: of[every % n % len(of)] for slot, of in self._fillers.items()}
        who = {"s": names[every % n % len(names)], "io": names[(every % n + 1) % len(names)]}
        laid = self._lay(kind, who | fillers | {"template": every // n, "baba": torch.ones_like(every)})
        texts = [
            "".join(f" {written[part][i % len(written[part])]}" if is_slot else part for part, is_slot in parts)
            for parts in map(parts_of, self._texts[kind])
            for i in range(n)
        ]
        rows = zip(laid.tokens.tolist(), laid.lengths.tolist(), strict=True)
        pieces = [row[self._n_opening : length] for row, length in rows]
        whole = self._encoded(texts)
        other = [i for i in range(len(texts)) if pieces[i] != whole[i]]
        # A name that begins a text may have its space there, or not.
        bare = self._encoded([texts[i].lstrip() for i in other])
        wrong = [i for i, tokens in zip(other, bare, strict=True) if pieces[i] != tokens]
        if not wrong:
            return ""
        whole_text, in_pieces = (" ".join(self.tokenizer.convert_ids_to_tokens(of[wrong[0]])) for of in (whole, pieces))
        return f"{texts[wrong[0]].strip()!r} is {whole_text}, and word by word {in_pieces}"

    def _encoded(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []

    def _draw(self, n: int, names: str, kind: str, generator: torch.Generator) -> Drawn:
        two = self._names[names][distinct(n, 2, len(self._names[names]), generator)]
        fillers = {slot: of[choose(n, len(of), generator)] for slot, of in self._fillers.items()}
        template = choose(n, len(self._texts[kind]), generator)
        return {"io": two[:, 0], "s": two[:, 1], "template": template, "baba": choose(n, 2, generator), **fillers}

    def _paper(self) -> Drawn:
        first, second = (self.book.pieces([prompt[i] for prompt in words.PAPER_PROMPTS]) for i in (1, 2))
        template = torch.arange(len(words.PAPER_PROMPTS), device=self.device).repeat(2)
        baba = torch.tensor([1, 0], device=self.device).repeat_interleave(len(words.PAPER_PROMPTS))
        empty = torch.zeros_like(template)
        return {
            "s": torch.cat([first, second]),
            "io": torch.cat([second, first]),
            "template": template,
            "baba": baba,
            **dict.fromkeys(self._fillers, empty),
        }

    def _named(self, drawn: Drawn) -> Drawn:
        """The pieces of the slots for names: who is named first, who is repeated, who is to follow."""
        first, io, s = drawn["baba"].bool(), drawn["io"], drawn["s"]
        return {"A": torch.where(first, s, io), "B": torch.where(first, io, s), "S": s, "IO": io}

    def _corrupted(self, drawn: Drawn, corruption: str, names: str, generator: torch.Generator) -> Drawn:
        if corruption == "flip":
            return self._named({**drawn, "io": drawn["s"], "s": drawn["io"]})
        if corruption == "s2":
            return self._named(drawn) | {"S": drawn["io"]}
        pool = self._names[names]
        keys = torch.rand(len(drawn["io"]), len(pool), generator=generator, device=self.device)
        taken = (pool == drawn["io"][:, None]) | (pool == drawn["s"][:, None])
        others = pool[keys.masked_fill(taken & (len(pool) >= 5), -1.0).topk(3).indices]
        return self._named(drawn) | {"A": others[:, 0], "B": others[:, 1], "S": others[:, 2]}

    def _lay(self, kind: str, drawn: Drawn, named: Drawn | None = None) -> Laid:
        slots = (named or self._named(drawn)) | {slot: drawn[slot] for slot in self._fillers}
        fillers = torch.stack([slots[slot] for slot in SLOTS], 1)
        places = self._templates[kind].fill(drawn["template"], fillers)
        opening = torch.full((len(places), 1), self._opening, device=self.device)
        laid = self.book.lay(torch.cat([opening, places], 1), self._pad)
        require(
            laid.tokens.shape[1] <= self.n_ctx,
            f"a sentence has {laid.tokens.shape[1]} tokens, more than the window of n_ctx = {self.n_ctx}; give more",
        )
        return laid

    def _positions(self, kind: str, drawn: Drawn, laid: Laid) -> tuple[dict[str, Tensor], Int[Tensor, " prompt"]]:
        def at(slot: str) -> Int[Tensor, "prompt 1"]:
            place = self._templates[kind].place_of(slot)[drawn["template"]] + 1
            return laid.starts.gather(1, place[:, None])

        subject_first = drawn["baba"].bool()[:, None]
        a, b, end = at("A"), at("B"), at("IO") - 1
        s1 = torch.where(subject_first, a, b)
        roles = {"IO": torch.where(subject_first, b, a), "S1": s1, "S1+1": s1 + 1, "S2": at("S"), "END": end}
        return roles, end[:, 0]


def in_tokens_of(task: Any) -> IOITask:
    """Return the task on indirect objects in the tokens of another one, prompts opened by its tokenizer's beginning
    token; of one on indirect objects, itself.

    Raises:
        ValueError: for a tokenizer in which a name is several tokens.
    """
    if isinstance(task, IOITask):
        return task
    opening = getattr(task.tokenizer, "bos_token_id", None)
    return IOITask(IOIConfig(n_ctx=task.n_ctx), task.tokenizer, task.seed, task.device, opening)
