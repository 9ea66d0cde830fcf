"""Runs with edits, many in one forward pass, that compute again only what lies downstream of the edits.

A run is taken up in the first layer and at the first position where an edit changes something; all else is read from
the base run. What comes before a change is never computed, since attention is causal, and in the last layer only the
positions that are read have queries. For speed alone: ``tests/analysis/test_replay.py`` holds it equal to the model's
own forward pass with the same edits made by hooks (``test_any_edits_of_any_model_are_those_that_hooks_make``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from einops import einsum, repeat
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from analysis.memory import bound_for, logits_of_one
from analysis.patching.edits import (
    CARRIED,
    HEADS_OUT,
    PATTERNS,
    QUERIES,
    RESIDUAL,
    VALUES,
    WRITTEN,
    Edit,
    collect,
    state_key,
)
from analysis.patching.passes import Pass, Plan
from analysis.patching.position_windows import Window
from analysis.ready import require_eval_mode, require_no_hooks
from circuits.common.errors import require
from circuits.config.streams import CARRIERS, Carrier
from circuits.model import HookedStreamTransformer
from circuits.places import Places
from circuits.streams.mixing import Outgoing
from circuits.streams.transforms import ByCarrier

__all__ = ["Edit", "Replay"]

Before = Float[Tensor, "row old d_model"]
After = Float[Tensor, "row new d_model"]
KEPT = {
    *("hook_resid_pre", "hook_pattern", "hook_attn_out", "hook_z", "hook_x0", "hook_middle"),
    *(f"hook_{c}{route}" for c in CARRIERS for route in ("", "_mixed", "_stream")),
}
"""The points from which a run can be taken up."""


class Replay:
    """A base run, kept, and the means to run it again with edits.

    ``reads`` holds for every example the one position whose logits are wanted; ``None`` wants all, of which anyone's
    metric makes others. ``max_memory`` bounds the bytes of what is kept and of one forward pass, with ``held`` bytes
    that the caller keeps beside.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: HookedStreamTransformer,
        inputs: Tensor,
        reads: Int[Tensor, " batch"] | None = None,
        max_memory: int | None = None,
        held: int = 0,
    ):
        require_eval_mode(model, "a run with edits")
        require_no_hooks(model, "a run with edits")
        self.model, self.shape = model, (inputs.shape[0], inputs.shape[1])
        self.last = model.config.n_layers - 1
        self.reads = None if reads is None else _checked(reads, *self.shape).to(inputs.device)
        self.base: dict[str, Tensor] = {}
        self._one_row = 0
        logits = model.run_with_hooks(inputs, fwd_hooks=[(lambda name: True, self._keep)])
        self.logits: Float[Tensor, "batch read d_vocab_out"] = (
            logits if self.reads is None else logits[torch.arange(len(logits)), self.reads][:, None]
        )
        self._one_row += (2 if reads is not None else 4) * logits_of_one(model, self.shape[1])
        self._room = bound_for(max_memory, held + self.needed, inputs.device) - held - self.cached_bytes
        self._per_position = sum(weight.numel() for weight in model.layers[0].parameters())
        self._read_later = [model.reads_from(layer) for layer in range(self.last + 2)]
        self._enters = [model.enters(layer) for layer in range(self.last + 2)]

    def _keep(self, activation: Tensor, hook: HookPoint) -> None:
        # All activations of an example are more than a forward pass ever holds of a row; beside what is read of a
        # connection, and what is mixed, stands what a gain makes of it.
        name = str(hook.name)
        times = 2 if ".mix." in name or name.endswith("_mixed") else 1
        self._one_row += times * activation[0].numel() * activation.element_size()
        if name.rsplit(".", 1)[-1] in KEPT:
            self.base[name] = (activation.transpose(1, 2) if name.endswith(PATTERNS) else activation).contiguous()

    @property
    def cached_bytes(self) -> int:
        """The bytes of what is kept of the base run."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.logits, *self.base.values()))

    @property
    def needed(self) -> int:
        """The bytes of what is kept, and of one copy."""
        return self.cached_bytes + self.shape[0] * self._one_row

    @property
    def at_once(self) -> int:
        """How many copies one call of :meth:`run` may have within the bound on memory."""
        # Their logits, and what a metric makes of them in single precision at least.
        return max(1, self._room // (3 * self.logits.numel() * max(4, self.logits.element_size())))

    @torch.no_grad()
    def run(self, copies: Sequence[Sequence[Edit]]) -> Float[Tensor, "copies_batch *pos d_vocab_out"]:
        """Return the logits of the base inputs with each list of edits, those of a list applied together.

        Rows are copies by examples, examples fastest. Where ``reads`` were given, there is no position axis.
        """
        groups = collect(self.model, self.base, copies, self.shape)
        plan = Plan(groups, len(copies), self.shape, self.last + 1, self.reads, self.logits.device, self._per_position)
        out = self.logits.repeat(len(copies), 1, 1)
        flat = out.view(-1, out.shape[-1])
        room = self._room - len(copies) * self.logits.numel() * self.logits.element_size()
        for one in plan.passes(room // self._one_row):
            with self._attached(one):
                logits = self._forward(one)
            rows = (one.copies * self.shape[0] + one.here.examples)[:, None] * out.shape[1]
            rows = rows + (one.here.at if self.reads is None else 0)
            flat[rows.flatten()] = logits.flatten(0, 1)
        return out if self.reads is None else out[:, 0]

    @contextmanager
    def _attached(self, one: Pass) -> Iterator[None]:
        def hook(key: str) -> Any:
            if key.endswith(PATTERNS):
                return lambda point, args, out: one.write(key, out.transpose(1, 2)).transpose(1, 2)
            return lambda point, args, out: one.write(key, out)

        # torch's own hooks: each returns a new tensor, so that nothing needs the copies made for in-place setters.
        with ExitStack() as stack:
            for key in one.writes:
                if key in self.model.hook_dict:
                    stack.enter_context(self.model.hook_dict[key].register_forward_hook(hook(key)))
            yield

    # --- the forward pass -----------------------------------------------------------------------------------------

    def _forward(self, one: Pass) -> Float[Tensor, "row column d_vocab_out"]:
        residual = one.here.take(self.base[_resid_pre(one.layer)])
        kept = {key: self.base[self.model.point_of(key)] for key in self._read_later[one.layer]}
        outgoing: Outgoing = {key: one.here.take(tensor) for key, tensor in kept.items()}
        for layer in range(one.layer, self.last + 1):
            residual, outgoing = self._block(one, layer, residual, outgoing)
            one.stage = RESIDUAL
        return self.model.read_out(residual)

    def _block(self, one: Pass, layer: int, residual: Before, outgoing: Outgoing) -> tuple[After, Outgoing]:
        block, old, new = self.model.layers[layer], one.here, self._next(one, layer)
        if one.stage == RESIDUAL:
            residual = block.hook_resid_pre(one.write(state_key(layer), residual))
            outgoing = {key: one.write(state_key(layer, *key), tensor) for key, tensor in outgoing.items()}
        attn_out, passed = self._attention(one, layer, residual, outgoing, new)
        known = outgoing | passed
        after = {key for key in (*self._read_later[layer + 1], *self._enters[layer + 1]) if key != (layer, "middle")}
        later: Outgoing = {key: self._at(new, old, self.model.point_of(key), known.get(key)) for key in after}
        residual = block.finish(self._at(new, old, _resid_pre(layer), residual), attn_out, self.model.cfg)
        return self.model.passed_on(layer, residual, later)

    def _next(self, one: Pass, layer: int) -> Window:
        """Where the block's output is computed: at what is read, or wherever attention brings a change."""
        examples, at, n_pos = one.here.examples, one.here.at, one.here.n_pos
        if self._reads_at(layer):
            return Window(examples, self.reads[examples][:, None], n_pos)  # type: ignore[index] # not None, then
        if one.stage >= QUERIES or at.shape[1] == n_pos - one.start:
            return one.here
        return Window(examples, torch.arange(one.start, n_pos, device=at.device).expand(len(at), -1), n_pos)

    def _reads_at(self, layer: int) -> bool:
        return self.reads is not None and layer == self.last

    def _attention(
        self, one: Pass, layer: int, residual: Before, outgoing: Outgoing, new: Window
    ) -> tuple[After, Outgoing]:
        """What attention writes at the ``new`` window, to which the pass moves; and what is passed on, at the old."""
        attn, passed = self.model.layers[layer].attn, {}
        if self._only_values(one, layer):
            z, passed = self._with_values(one, layer, residual, outgoing, new)
        elif one.stage < HEADS_OUT:
            used, passed = self._used(one, layer, residual, outgoing, new)
            one.here = new
            z = attn.attend(used, Places(new.at, new.everywhere.at))
        else:
            one.here = new
            if one.stage == WRITTEN:
                return new.take(self.base[f"blocks.{layer}.hook_attn_out"]), passed
            z = attn.point("z")(new.take(self.base[f"blocks.{layer}.attn.hook_z"]))
        return attn.output(z, self.model.cfg.use_attn_result), passed

    def _only_values(self, one: Pass, layer: int) -> bool:
        """Whether attention has the base run's pattern, in the layer where the pass begins."""
        written = (writes for group in one.writes.values() for writes, _ in group if writes.layer == layer)
        return one.stage == VALUES and not any(writes.stage in (CARRIED, QUERIES) for writes in written)

    def _with_values(
        self, one: Pass, layer: int, residual: Before, outgoing: Outgoing, new: Window
    ) -> tuple[Float[Tensor, "row new head d_head"], Outgoing]:
        """The heads' outputs at the new window: the base run's, and what the change of the values adds to them."""
        old, at = one.here, f"blocks.{layer}.attn"
        used, passed = self._mixed(one, layer, residual, outgoing, ["v"])
        change = used["v"] - old.take(self.base[self._names_used(layer)["v"]])
        one.here = new
        change = self.model.layers[layer].attn.per_query_head(change, 2)
        keys = repeat(old.at, "row key -> row query head key", query=new.at.shape[1], head=change.shape[2])
        pattern = new.take(self.base[f"{at}.hook_pattern"]).gather(-1, keys)
        added = einsum(pattern, change, "row query head key, row key head d_head -> row query head d_head")
        return self.model.layers[layer].attn.point("z")(new.take(self.base[f"{at}.hook_z"]) + added), passed

    def _used(
        self, one: Pass, layer: int, residual: Before, outgoing: Outgoing, new: Window
    ) -> tuple[dict[Carrier, Tensor], Outgoing]:
        """Queries at the new window, keys and values everywhere."""
        old, whole, names = one.here, one.here.everywhere, self._names_used(layer)
        wanted: list[Carrier] = ["k", "v"] if one.stage < QUERIES else []
        if not self._reads_at(layer):
            wanted.append("q")
        used, passed = self._mixed(one, layer, residual, outgoing, wanted) if wanted else ({}, {})
        everywhere: dict[Carrier, Tensor] = {
            c: self._at(whole, old, names[c], used.get(c)) for c in CARRIERS if c != "q"
        }
        if self._reads_at(layer):
            residual = self._at(new, old, _resid_pre(layer), residual)
            outgoing = {key: self._at(new, old, self.model.point_of(key), x) for key, x in outgoing.items()}
            one.here = new
            queries = self._mixed(one, layer, residual, outgoing, ["q"])[0]["q"]
        else:
            queries = self._at(new, old, names["q"], used["q"])
        return {"q": queries, **everywhere}, passed

    def _mixed(
        self, one: Pass, layer: int, residual: Before, outgoing: Outgoing, wanted: Sequence[Carrier]
    ) -> tuple[ByCarrier, Outgoing]:
        """What attention uses of the ``wanted`` carriers at the present window, and what the layer passes on there."""
        block = self.model.layers[layer]
        normalised = block.ln1(residual)
        inputs: dict[Carrier, Tensor] = {c: normalised for c in CARRIERS}
        needed = block.attn.needed_own(wanted)
        if one.stage == RESIDUAL:
            return block.attn.mix_in(block.attn.project(inputs, needed), inputs, outgoing, wanted)
        names: dict[Carrier, str] = {c: f"blocks.{layer}.attn.hook_{c}" for c in needed}
        own: ByCarrier = {c: block.attn.point(c)(one.here.take(self.base[names[c]])) for c in needed}
        return block.attn.mix_in(own, inputs, outgoing, wanted)

    def _names_used(self, layer: int) -> dict[Carrier, str]:
        mixed = self.model.layers[layer].attn.mixed
        return {c: f"blocks.{layer}.attn.hook_{c}" + ("_mixed" if c in mixed else "") for c in CARRIERS}

    def _at(self, new: Window, old: Window, name: str, part: Tensor | None) -> Tensor:
        """An activation at a new window, from what is known of it at the old one and from the base run."""
        return new.take(self.base[name]) if part is None else new.from_window(old, part, self.base[name])


def _resid_pre(layer: int) -> str:
    return f"blocks.{layer}.hook_resid_pre"


def _checked(reads: Int[Tensor, " any"], batch: int, n_pos: int) -> Int[Tensor, " batch"]:
    require(len(reads) == batch, f"{len(reads)} positions to read in {batch} examples; give one an example")
    outside = reads[(reads < -n_pos) | (reads >= n_pos)]
    require(not len(outside), f"positions {outside.tolist()} cannot be read in inputs of {n_pos} positions")
    return reads % n_pos
