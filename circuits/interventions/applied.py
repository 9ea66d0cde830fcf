"""Interventions applied to a model: forward hooks that act, and count what they did."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.checkpoint import load_checkpoint
from circuits.common.errors import known, require
from circuits.interventions.cut_edges import edge_points, without_edge
from circuits.interventions.intervention import Intervention, check_interventions
from circuits.interventions.replacement import Places, finite, touched_part
from circuits.model import HookedStreamTransformer
from circuits.sites import check_sites

if TYPE_CHECKING:
    import pandas as pd

Activations = Mapping[str, Tensor]
"""By hook point."""
Models = Mapping[str, HookedStreamTransformer]


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
        interventions: Sequence[Intervention],
        models: Models | None = None,
        at_step: Callable[[int], HookedStreamTransformer] | None = None,
    ):
        check_interventions(model, interventions)
        self.model, self.interventions, self.at_step = model, tuple(interventions), at_step
        self.counts = Counts(interventions, model.cfg.device or "cpu")
        self._others: dict[str | int, HookedStreamTransformer] = dict((models or {}).items())
        self._theirs: dict[str | int | None, Activations] = {}
        self._kept: dict[str, Tensor] = {}
        for intervention in interventions:
            if isinstance(intervention.taken_from, str):
                self._other(intervention)
            require(
                at_step is not None or not intervention.operation.freezes,
                f"{intervention}: only a training knows the model of its window's first step; elsewhere use "
                "FromRun(checkpoint)",
            )

    @contextmanager
    def at(
        self,
        step: int | None,
        positions: Places | None = None,
        baseline: Activations | None = None,
        counting: bool = True,
    ) -> Iterator[bool]:
        """Let the interventions act that are active at a step (``None``: all) and yield whether there are any.

        ``positions`` say where the roles are that sites name; ``baseline`` holds the activations that :class:`Mean`
        and :class:`Resample` take, by default those of the batch that runs.
        """
        active = [(n, i) for n, i in enumerate(self.interventions) if i.active(step)]
        if not active:
            yield False
            return
        for _, intervention in active:
            role = intervention.site.position
            if isinstance(role, str):
                known("position role", role, positions or {})
        counts = self.counts if counting else Counts(self.interventions, self.counts.values.device)
        hooks: Any = [(i.site.hook_name, self._hook(i, n, counts, positions or {}, baseline or {})) for n, i in active]
        # Last, so that what an edge carries is what others have left of it.
        hooks += [(name, self._keep) for name in dict.fromkeys(n for _, i in active for n in edge_points(i))]
        with self._listening([i for _, i in active]), self.model.hooks(fwd_hooks=hooks):
            yield True

    def _hook(
        self, intervention: Intervention, index: int, counts: Counts, positions: Places, baseline: Activations
    ) -> Callable[..., Tensor]:
        def act(activation: Tensor, hook: Any) -> Tensor:
            touched = touched_part(intervention.site, activation, positions)
            counts.fire(index)
            if intervention.operation.cuts_gradient:
                return _CutGradient.apply(  # type: ignore[return-value] # torch gives no type for it
                    activation, touched, intervention.strength, lambda norm: counts.change(index, norm, norm)
                )
            old = finite(intervention.site, activation)
            source = baseline.get(hook.name, activation).detach()
            if intervention.operation.cuts_edge:
                target = without_edge(self.model, intervention, self._kept)
            elif intervention.taken_from is not None:
                target = self._taken(intervention, old)
            else:
                target = intervention.operation.instead(old, source)
            new = target if intervention.strength == 1 else old + intervention.strength * (target - old)
            new = torch.where(touched, new, activation)
            moved = torch.where(touched, new - old, 0).detach().abs()
            counts.change(index, moved.max(), moved.sum() / touched.sum())
            if intervention.operation.freezes and activation.requires_grad:
                counts.held.add(index)
            return new

        return act

    def _keep(self, activation: Tensor, hook: Any) -> None:
        self._kept[hook.name] = activation

    def _taken(self, intervention: Intervention, old: Tensor) -> Tensor:
        theirs = self._theirs.get(intervention.taken_from)
        if theirs is None:
            raise ValueError(f"{intervention} is that on the same inputs: run the whole model, from its inputs")
        taken = theirs[intervention.site.hook_name]
        require(
            taken.shape == old.shape,
            f"{intervention}: it is {tuple(taken.shape)} there and {tuple(old.shape)} here; take it from a model of "
            "the same sizes",
        )
        return taken

    # --- activations of other models ----------------------------------------------------------------------------------

    def _other(self, intervention: Intervention) -> HookedStreamTransformer:
        key = intervention.taken_from
        assert key is not None, "asked of those that take from another model only"
        if key not in self._others:
            if isinstance(key, str):
                found = load_checkpoint(Path(key))
            else:
                assert self.at_step is not None, "asked for when this was made"
                found = self.at_step(key)
            self._others[key] = found.to(self.model.W_U.device, self.model.W_U.dtype)
        other = self._others[key]
        require(other is not self.model, f"{intervention}: {key!r} is the model itself; give another, or a checkpoint")
        try:
            check_sites(other, [intervention.site])
        except ValueError as error:
            raise ValueError(f"{intervention} cannot be taken from {key!r}: {error}") from error
        return other

    @contextmanager
    def _listening(self, active: Sequence[Intervention]) -> Iterator[None]:
        # Hooks see no inputs, and what another model does on them must be known before this one runs.
        wanted: dict[str | int, tuple[HookedStreamTransformer, list[str]]] = {}
        for intervention in active:
            if (key := intervention.taken_from) is not None:
                entry = wanted.setdefault(key, (self._other(intervention), []))
                entry[1].append(intervention.site.hook_name)
        before, forward = vars(self.model).get("forward"), self.model.forward

        def heard(inputs: Tensor | str | Sequence[str], *args: Any, **kwargs: Any) -> Any:
            if kwargs.get("start_at_layer") is None:
                # Text is made tokens by this model's tokenizer, for the others too.
                theirs = inputs if isinstance(inputs, Tensor) else self.model.to_tokens(inputs)
                for key, (other, names) in wanted.items():
                    with torch.no_grad():
                        _, cache = other.run_with_cache(theirs, names_filter=names, return_cache_object=False)
                    self._theirs[key] = cache
            try:
                return forward(inputs, *args, **kwargs)
            finally:
                self._theirs.clear()
                self._kept.clear()

        self.model.forward = heard
        try:
            yield
        finally:
            del self.model.forward
            if before is not None:
                self.model.forward = before


@contextmanager
def intervened(
    model: HookedStreamTransformer,
    interventions: Sequence[Intervention],
    step: int | None = None,
    positions: Places | None = None,
    *,
    baseline: Activations | None = None,
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
        ready.counts.require_change([i for i in interventions if i.active(step)])


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
