"""Activations that an intervention takes from another model, on the inputs that this one runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circuits.checkpoint import load_checkpoint
from circuits.common.errors import require
from circuits.config.model import ModelConfig
from circuits.interventions.intervention import Intervention
from circuits.model import HookedStreamTransformer

Activations = Mapping[str, Tensor]
"""By hook point."""
Models = Mapping[str, HookedStreamTransformer]


def check_taken(intervention: Intervention, here: ModelConfig, there: ModelConfig) -> None:
    """Check that a model of one architecture has what an intervention takes from it for a model of another.

    Raises:
        ValueError: if it does not, or in other sizes.
    """
    site, taken = intervention.site, f"{intervention} cannot be taken from {intervention.taken_from!r}"
    require(
        site.exists_in(there),
        f"{taken}: that model ({there.name}) has no such place, {site.hook_name}; take a model of the same "
        f"architecture as this one ({here.name})",
    )
    sizes = (site.sizes_in(there), site.sizes_in(here))
    require(
        sizes[0] == sizes[1],
        f"{taken}: {site.hook_name} has the sizes {sizes[0]} there and {sizes[1]} here; take a model of the same sizes",
    )


class Others:
    """The other models of interventions on ``model``, each loaded once, and what they do on the inputs that run.

    ``models`` and ``at_step`` as for :class:`circuits.interventions.applied.Intervening`.

    Raises:
        ValueError: for a site that another model does not have or has in other sizes, or a step where none is known.
        FileNotFoundError, CheckpointError: for a checkpoint that is missing or damaged.
    """

    def __init__(
        self,
        model: HookedStreamTransformer,
        interventions: Sequence[Intervention],
        models: Models,
        at_step: Callable[[int], HookedStreamTransformer] | None,
    ):
        self._model, self._at_step = model, at_step
        self._loaded: dict[str | int, HookedStreamTransformer] = dict(models.items())
        self._seen: dict[str | int | None, Activations] = {}
        for intervention in interventions:
            if isinstance(intervention.taken_from, str):
                self.model(intervention)
            require(
                at_step is not None or not intervention.operation.freezes,
                f"{intervention}: only a training knows the model of its window's first step; elsewhere use "
                "FromRun(checkpoint)",
            )

    def model(self, intervention: Intervention) -> HookedStreamTransformer:
        """Return the model that an intervention takes from.

        Raises:
            ValueError: if it is the model itself, or as :func:`check_taken`.
        """
        key = intervention.taken_from
        assert key is not None, "asked of those that take from another model only"
        if key not in self._loaded:
            if isinstance(key, str):
                found = load_checkpoint(Path(key))
            else:
                assert self._at_step is not None, "asked for when this was made"
                found = self._at_step(key)
            self._loaded[key] = found.to(self._model.W_U.device, self._model.W_U.dtype)
        other = self._loaded[key]
        require(other is not self._model, f"{intervention}: {key!r} is the model itself; give another, or a checkpoint")
        check_taken(intervention, self._model.config, other.config)
        return other

    def run(
        self,
        taking: Sequence[Intervention],
        inputs: Tensor | str | Sequence[str],
        return_type: str | None,
        *,
        prepend_bos: bool | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> None:
        """Run the models that interventions take from on what this one is called with, as it is called.

        Raises:
            ValueError: for another model in training mode.
        """
        if not isinstance(inputs, Tensor):
            # Text is made tokens by this model's tokenizer, for the others too.
            inputs, attention_mask = self._model._tokens_to_run(inputs, return_type, prepend_bos, attention_mask)
        wanted: dict[str | int | None, list[str]] = {}
        for intervention in taking:
            wanted.setdefault(intervention.taken_from, []).append(intervention.site.hook_name)
            training = any(part.training for part in self.model(intervention).modules())
            require(
                not training,
                f"{intervention}: that model is in training mode, or a part of it is; call its eval() before",
            )
        for key, names in wanted.items():
            assert key is not None, "asked of those that take from another model only"
            with torch.no_grad():
                _, self._seen[key] = self._loaded[key].run_with_cache(
                    self._model.bound(inputs),
                    names_filter=names,
                    return_cache_object=False,
                    attention_mask=attention_mask,
                )

    def forget(self) -> None:
        """Let go of the activations of the inputs that were run."""
        self._seen.clear()

    def activation(self, intervention: Intervention, old: Tensor) -> Tensor:
        """Return what stands in the other model where ``old`` does in this one.

        Raises:
            ValueError: if the inputs are not known, or the other model is of other sizes.
        """
        theirs = self._seen.get(intervention.taken_from)
        if theirs is None:
            raise ValueError(f"{intervention} is that on the same inputs: run the whole model, from its inputs")
        taken = theirs[intervention.site.hook_name]
        require(
            taken.shape == old.shape,
            f"{intervention}: it is {tuple(taken.shape)} there and {tuple(old.shape)} here; take it from a model of "
            "the same sizes",
        )
        return taken
