"""Interventions applied to a model: forward hooks that act, and count what they did."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens import ActivationCache

from circuits.common.errors import known, require
from circuits.interventions.cut_edges import edge_points, without_edge
from circuits.interventions.intervention import Attend, Intervention, check_interventions
from circuits.interventions.other_models import Activations, Models, Others
from circuits.interventions.replacement import Places, attention_to, finite, seen_keys, touched_part
from circuits.model import HookedStreamTransformer
from circuits.sites import PATTERN, Site

if TYPE_CHECKING:
    import pandas as pd


class NothingChangedError(ValueError):
    """An intervention that never fired, or that fired and left everything as it was."""


class Counts:
    """How often each intervention fired, and how much it changed."""

    def __init__(self, interventions: Sequence[Intervention], device: str | torch.device = "cpu"):
        self.interventions = tuple(interventions)
        self.values: Float[Tensor, "intervention 3"] = torch.zeros(
            len(self.interventions), 3, dtype=torch.float64, device=device
        )
        """Times fired, largest change, and the sum over times of the mean change."""
        self.held: set[int] = set()
        """Which held something that would have learned."""

    def fire(self, index: int) -> None:
        """Count that an intervention fired."""
        self.values[index, 0] += 1

    def change(self, index: int, largest: Float[Tensor, ""], mean: Float[Tensor, ""]) -> None:
        """Count a change."""
        row = self.values[index]
        row[1] = torch.maximum(row[1], largest.detach().to(row.dtype))
        row[2] += mean.detach()

    def require_change(self, which: Collection[Intervention] | None = None) -> None:
        """Raise unless all of these interventions (``None``: every one) have fired and changed something.

        What is frozen may stay what it is because it is frozen: the weights that it comes from get no gradient.

        Raises:
            NothingChangedError: naming the first that has not.
        """
        for index, (fired, largest, _) in enumerate(self.values.tolist()):
            intervention = self.interventions[index]
            changed = fired and (largest != 0 or index in self.held)
            if changed or (which is not None and intervention not in which):
                continue
            why = "what was there is the same"
            if intervention.operation.cuts_gradient:
                why = "no gradient came to it; run the backward pass where it acts"
            why = f"fired {int(fired)} time(s) and changed nothing: {why}" if fired else "never fired: no forward pass"
            raise NothingChangedError(f"{intervention} (strength {intervention.strength}) {why}")

    def records(self) -> list[dict[str, Any]]:
        """Return one plain record an intervention: hook, head, position, operation, strength, window and counts.

        ``changed_max`` is the largest absolute change of an activation and ``changed_mean`` the mean over what was
        touched and over times; for :class:`CutGradient`, of the norm of the gradient that was stopped.
        """
        return [
            {
                "hook": i.site.hook_name,
                "head": i.site.head,
                "position": i.site.position,
                "operation": repr(i.operation),
                "strength": i.strength,
                "first": i.first,
                "last": i.last,
                "fired": int(fired),
                "changed_max": largest,
                "changed_mean": total / fired if fired else 0.0,
            }
            for i, (fired, largest, total) in zip(self.interventions, self.values.tolist(), strict=True)
        ]

    def to_frame(self) -> pd.DataFrame:
        """Return :meth:`records` as a frame."""
        import pandas as pd

        return pd.DataFrame(self.records())


class Intervening:
    """Interventions on one model, checked once and applied as often as wanted; other models are loaded once.

    ``models`` are those that a :class:`FromRun` may name, instead of a path; ``at_step`` returns the model that this
    one was at a step, which :class:`Freeze` needs.

    Raises:
        UnknownNameError, ValueError: for a site that the model, or the one that is taken from, does not have.
        FileNotFoundError, CheckpointError: for a checkpoint that is missing or damaged.
    """

    def __init__(
        self,
        model: HookedStreamTransformer,
        interventions: Iterable[Intervention],
        models: Models | None = None,
        at_step: Callable[[int], HookedStreamTransformer] | None = None,
    ):
        self.model, self.interventions = model, check_interventions(model, interventions)
        self.counts = Counts(self.interventions, model.cfg.device or "cpu")
        self._others = Others(model, self.interventions, models or {}, at_step)
        self._kept: dict[str, Tensor] = {}
        self._held: int | None = None

    @contextmanager
    def at(
        self,
        step: int | None,
        positions: Places | None = None,
        baseline: Activations | ActivationCache | None = None,
        counting: bool = True,
    ) -> Iterator[bool]:
        """Let the interventions act that are active at a step (``None``: all) and yield whether there are any.

        ``positions`` say where the roles are that sites name, counted from the first token that there is, also with a
        cache; ``baseline`` holds the activations that :class:`Mean` and :class:`Resample` take, by default those of the
        batch that runs.

        Raises:
            UnknownNameError: for a role of which ``positions`` says nothing, or a baseline without what is taken of it.
        """
        given = baseline.cache_dict if isinstance(baseline, ActivationCache) else baseline
        active = [(n, i) for n, i in enumerate(self.interventions) if i.active(step)]
        if not active:
            yield False
            return
        for _, intervention in active:
            role = intervention.site.position
            if isinstance(role, str):
                known("position role", role, positions or {})
            if given is not None and intervention.operation.takes_source:
                known("activation of the baseline", intervention.site.hook_name, given)
        counts = self.counts if counting else Counts(self.interventions, self.counts.values.device)
        hooks: Any = [(i.site.hook_name, self._hook(i, n, counts, positions or {}, given or {})) for n, i in active]
        # Last, so that what an edge carries is what others have left of it.
        kept = [name for _, i in active for name in edge_points(i)]
        kept += [_scores_of(i.site) for _, i in active if i.site.component == "pattern"]
        hooks += [(name, self._keep) for name in dict.fromkeys(kept)]
        with self._listening([i for _, i in active]), self.model.hooks(fwd_hooks=hooks):
            yield True

    def _hook(
        self, intervention: Intervention, index: int, counts: Counts, positions: Places, baseline: Activations
    ) -> Callable[..., Tensor]:
        def act(activation: Tensor, hook: Any) -> Tensor:
            site = intervention.site
            seen = self._seen(site, activation)
            touched = touched_part(site, activation, positions, seen, self._held)
            if self._held and not bool(touched.any()):
                return activation  # it acted when the positions that the cache holds were run
            counts.fire(index)
            if intervention.operation.cuts_gradient:
                return _CutGradient.apply(  # type: ignore[return-value] # torch gives no type for it
                    activation, touched, intervention.strength, lambda norm: counts.change(index, norm, norm)
                )
            old = finite(site, activation)
            if intervention.operation.cuts_edge:
                target = without_edge(self.model, intervention, self._kept)
            elif intervention.taken_from is not None:
                target = self._others.activation(intervention, old)
            elif isinstance(intervention.operation, Attend) and seen is not None:
                target = attention_to(intervention.operation.to, seen, old.dtype)
            else:
                source = self._source(intervention, activation, baseline)
                target = intervention.operation.instead(old, source.detach())
            require(
                site.component != "attn_scores" or not bool((touched & target.isneginf()).any()),
                f"{intervention}: what it is taken from hides some of what is seen here; its padding, or its window, "
                "is another. Take the pattern instead, or of inputs that are padded alike",
            )
            new = target if intervention.strength == 1 else old + intervention.strength * (target - old)
            new = torch.where(touched, new, activation)
            moved = torch.where(touched, new - old, 0).detach().abs()
            counts.change(index, moved.max(), moved.sum() / touched.sum())
            if intervention.operation.freezes and activation.requires_grad:
                counts.held.add(index)
            return new

        return act

    def _seen(self, site: Site, activation: Tensor) -> Bool[Tensor, "batch head query key"] | None:
        if site.component not in PATTERN:
            return None
        return seen_keys(self._kept[_scores_of(site)] if site.component == "pattern" else activation)

    def _source(self, intervention: Intervention, activation: Tensor, baseline: Activations) -> Tensor:
        source = baseline.get(intervention.site.hook_name) if intervention.operation.takes_source else None
        if source is None:
            return activation
        require(
            source.shape[1:] == activation.shape[1:] and not self._held,
            f"{intervention}: an example is {tuple(source.shape[1:])} in the baseline and "
            f"{tuple(activation.shape[1:])} here; a baseline is of inputs as long as those that run, all at once",
        )
        return source

    def _keep(self, activation: Tensor, hook: Any) -> None:
        self._kept[hook.name] = activation

    @contextmanager
    def _listening(self, active: Sequence[Intervention]) -> Iterator[None]:
        taking = [intervention for intervention in active if intervention.taken_from is not None]
        for intervention in taking:
            self._others.model(intervention)
        before, forward = vars(self.model).get("forward"), self.model.forward

        def heard(inputs: Tensor | str | Sequence[str], return_type: Any = "logits", **kwargs: Any) -> Any:
            cache = kwargs.get("past_kv_cache")
            require(
                cache is None or not taking,
                f"{'; '.join(map(str, taking))}: another model has no cache of what came before; run everything at "
                "once, without past_kv_cache (generate: use_past_kv_cache=False)",
            )
            self._held = None if cache is None else cache.length
            # Hooks see no inputs, and what another model does on them must be known before this one runs.
            if taking and kwargs.get("start_at_layer") is None:
                self._others.run(taking, inputs, return_type, **kwargs)
            try:
                return forward(inputs, return_type, **kwargs)
            finally:
                self._others.forget()
                self._kept.clear()
                self._held = None

        self.model.forward = heard
        try:
            yield
        finally:
            del self.model.forward
            if before is not None:
                self.model.forward = before


def _scores_of(site: Site) -> str:
    return Site(site.layer, "attn_scores").hook_name


@contextmanager
def intervened(
    model: HookedStreamTransformer,
    interventions: Iterable[Intervention],
    step: int | None = None,
    positions: Places | None = None,
    *,
    baseline: Activations | ActivationCache | None = None,
    models: Models | None = None,
    allow_nothing: bool = False,
) -> Iterator[Counts]:
    """Let interventions act for the length of a ``with`` block; yield their :class:`Counts`.

    Those act that are active at ``step`` of a training (``None``: all), in the order given where they share a site.
    ``positions``, ``baseline`` and ``models`` as for :class:`Intervening`. A gradient is cut only in backward passes
    that run inside the block.

    Raises:
        UnknownNameError, ValueError: before anything runs, for what the model does not have; see :class:`Intervening`.
        NothingChangedError: at the block's end, if one never fired or changed nothing, unless ``allow_nothing``.
    """
    ready = Intervening(model, interventions, models)
    with ready.at(step, positions, baseline):
        yield ready.counts
    if not allow_nothing:
        ready.counts.require_change([i for i in ready.interventions if i.active(step)])


class _CutGradient(torch.autograd.Function):
    """The identity whose backward pass stops a gradient where it is told to, and says the norm of what it stopped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, touched: Tensor, strength: float, tell: Callable[[Tensor], None]) -> Tensor:
        ctx.save_for_backward(touched)
        ctx.strength, ctx.tell = strength, tell
        # Its own storage: a later hook may write in place.
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (touched,) = ctx.saved_tensors
        stopped = torch.where(touched, ctx.strength * gradients[0], 0)
        ctx.tell(stopped.norm())
        return gradients[0] - stopped, None, None, None
