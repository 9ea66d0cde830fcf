"""One value for what is done to an activation: where, what, how strongly, and in which steps of a training.

Training, analysis and the records of runs all hold the same :class:`Intervention`; ``applied.py`` applies it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from circuits.common.errors import known, require, several
from circuits.common.fields import Checked, counted_from_zero
from circuits.common.plain_data import from_plain, register_union, to_plain
from circuits.config.model import ModelConfig
from circuits.config.streams import CARRIERS
from circuits.interventions.replacement import ATTENDED, Attended, others
from circuits.model import HookedStreamTransformer
from circuits.sites import STATES, Site, check_sites

# --- what is done -----------------------------------------------------------------------------------------------------


class _Operation:
    only_patterns: ClassVar[bool] = False
    takes_source: ClassVar[bool] = False
    """Whether it takes what it puts in place from examples: those of a baseline, or of the batch itself."""
    least_examples: ClassVar[int] = 1
    freezes: ClassVar[bool] = False
    cuts_gradient: ClassVar[bool] = False
    cuts_edge: ClassVar[bool] = False

    def instead(self, old: Tensor, source: Tensor) -> Tensor:
        """Return what is put in the place of all of ``old``; ``source`` (example first) is what it is taken from."""
        raise NotImplementedError

    def model(self, first: int) -> str | int | None:
        """Return which other model's activation it puts in place: that of a checkpoint, or of a step of training;
        ``first`` is the window's first step."""
        return None


@dataclass(frozen=True)
class Zero(_Operation, Checked):
    """Zero instead."""

    def instead(self, old: Tensor, source: Tensor) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(old)


@dataclass(frozen=True)
class Mean(_Operation, Checked):
    """The mean over the batch instead, position by position."""

    takes_source = True

    def instead(self, old: Tensor, source: Tensor) -> Tensor:
        """Return the mean over the source's examples, for every example."""
        return source.mean(0, keepdim=True).expand_as(old)


@dataclass(frozen=True)
class Clamp(_Operation, Checked):
    """One number instead, everywhere."""

    value: float

    def instead(self, old: Tensor, source: Tensor) -> Tensor:
        """Return the number everywhere."""
        return torch.full_like(old, self.value)


@dataclass(frozen=True)
class Attend(_Operation, Checked):
    """A fixed attention pattern instead, over what each query sees (what no window and no padding hides);
    ``ATTENDED`` says which there are: ``"first"`` is all attention to the first key that is seen."""

    only_patterns = True

    to: Attended

    def __post_init__(self) -> None:
        # First, as it names the nearest in the words of ATTENDED.
        if isinstance(self.to, str):
            known("attention", self.to, ATTENDED)
        super().__post_init__()


@dataclass(frozen=True)
class Resample(_Operation, Checked):
    """The activation of another example of the batch instead, by a permutation that leaves no example its own.

    Sites with equal seeds take theirs from the same other example.
    """

    takes_source = True
    least_examples = 2

    seed: int = 0

    def instead(self, old: Tensor, source: Tensor) -> Tensor:
        """Return the activation of another of the source's examples, for every example."""
        require(
            len(source) == len(old),
            f"a baseline of {len(source)} examples is resampled for {len(old)}; they must agree",
        )
        return source[others(len(old), self.seed).to(old.device)]


@dataclass(frozen=True)
class FromRun(_Operation, Checked):
    """The activation instead that the model of another checkpoint has on the same inputs."""

    checkpoint: str
    """A checkpoint's path, or the name of a model that is given where the intervention is applied."""

    def model(self, first: int) -> str:
        """Return the checkpoint."""
        return self.checkpoint


@dataclass(frozen=True)
class Freeze(_Operation, Checked):
    """The activation instead that the model of the window's first step has on the same inputs; for training.

    As no gradient flows into it, weights that act through it alone stop learning.
    """

    freezes = True

    def model(self, first: int) -> int:
        """Return the window's first step."""
        return first


@dataclass(frozen=True)
class CutForward(_Operation, Checked):
    """The value becomes zero, the gradient stays: x - x.detach()."""

    def instead(self, old: Tensor, source: Tensor) -> Tensor:
        """Return zeros with the gradient of ``old``."""
        return old - old.detach()


@dataclass(frozen=True)
class CutGradient(_Operation, Checked):
    """The value stays, no gradient goes back through it."""

    cuts_gradient = True


@dataclass(frozen=True)
class Without(_Operation, Checked):
    """A layer's own queries, keys or values as they are without what an earlier part wrote: one edge of the residual
    stream is cut, the value and the gradient. Norms are taken anew."""

    cuts_edge = True

    layer: int
    component: Literal["attn_out", "mlp_out"] = "attn_out"

    def __post_init__(self) -> None:
        super().__post_init__()
        counted_from_zero(self, "layer")


Operation = Zero | Mean | Clamp | Attend | Resample | FromRun | Freeze | CutForward | CutGradient | Without
register_union(Operation)


def operation_name(operation: Operation) -> str:
    """Return an operation's name in words, ``"from run"`` say."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(operation).__name__).lower()


# --- where, how strongly, and when ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Intervention(Checked):
    """One operation at one site: new = old + strength * (what is put in its place - old).

    Only the site's head and position are touched, and in a pattern or its scores only what is not masked. What is put
    in place is a constant: no gradient flows into it (:class:`CutForward` and :class:`Without` excepted, which are
    made of the pass itself).

    Raises:
        ValueError: for a ``state`` or ``stream``, attention to something at another site than a pattern, an edge into
            something else than a layer's own queries, keys or values or from a layer that is not before it, a strength
            that is not finite, or an empty window.
    """

    site: Site
    operation: Operation
    strength: float = 1.0
    first: int = 0
    """The first step of training at which it acts; step s means that s updates have been made."""
    last: int | None = None
    """The step at which it acts no longer; ``None``: to the end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.site.component not in STATES,
            f"a {self.site.component} cannot be intervened on, it is no single activation; name its parts: resid_pre "
            f"of the layer, and the q, k and v that come in at this and later layers (route residual)",
        )
        require(
            self.site.component == "pattern" or not self.operation.only_patterns,
            f"{self.operation} needs the component 'pattern', not {self.site.component!r}",
        )
        if isinstance(self.operation, Without):
            require(
                self.site.component in CARRIERS and self.site.route == "own",
                f"{self.operation} cuts an edge into a layer's own q, k or v, not into {self.site}",
            )
            require(
                self.operation.layer < self.site.layer,
                f"{self.operation}: an edge into layer {self.site.layer} comes from an earlier layer",
            )
        require(
            self.first >= 0 and (self.last is None or self.last > self.first),
            f"a window starts at step 0 or later and ends after its start, got {self.first} to {self.last}",
        )

    @property
    def taken_from(self) -> str | int | None:
        """The other model whose activation is put in place: a checkpoint, or the step of a training."""
        return self.operation.model(self.first)

    def active(self, step: int | None) -> bool:
        """Return whether it acts at a step of training; ``None`` stands for no training, where every one acts."""
        return step is None or (self.first <= step and (self.last is None or step < self.last))

    def __str__(self) -> str:
        site = self.site
        head = "" if site.head is None else f", head {site.head}"
        position = "" if site.position is None else f", position {site.position!r}"
        return f"{self.operation} at {site.hook_name}{head}{position}"

    def to_plain(self) -> dict[str, Any]:
        """Return the intervention as plain data (see :func:`circuits.common.plain_data.to_plain`)."""
        return to_plain(self)

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Intervention:
        """Return the intervention that :meth:`to_plain` wrote; fields with a default may be left out.

        Raises:
            UnknownNameError: for an unknown field or operation (nearest suggested).
            ValueError: for any other value that does not fit, saying which.
        """
        parts = '"site": {"layer": 0, "component": "pattern"}, "operation": {"type": "Attend", "to": "previous"}'
        wanted = f"wanted {{{parts}}}"
        require(isinstance(data, Mapping), f"this is no intervention: {data!r}; {wanted}")
        for part in ("site", "operation"):
            has = isinstance(data.get(part), Mapping)
            require(has, f"an intervention needs the field {part!r}: {wanted}, got {data}")
        kinds = {kind.__name__: kind for kind in get_args(Operation)}
        operation = dict(data["operation"])
        kind = kinds[known("operation", str(operation.pop("type", None)), kinds)]
        for given, owner in ((data["site"], Site), (operation, kind)):
            for name in given:
                known(f"field of {owner.__name__}", name, [f.name for f in fields(owner)])
        return from_plain(cls, data)


def check_interventions(
    model: HookedStreamTransformer | ModelConfig, interventions: Iterable[Intervention]
) -> tuple[Intervention, ...]:
    """Return interventions of which the model, or one of that configuration, has every site.

    Raises:
        UnknownNameError: naming the first hook point that does not exist and the nearest that do.
        ValueError: for a layer, head or position beyond the model's.
    """
    config = model if isinstance(model, ModelConfig) else model.config
    interventions = tuple(several("interventions", interventions, Intervention, least=0))
    for site in check_sites(config, [i.site for i in interventions]):
        require(
            not isinstance(site.position, int) or -config.n_ctx <= site.position < config.n_ctx,
            f"{site}: the model has {config.n_ctx} positions",
        )
    edges = dict.fromkeys(
        (i.site.layer, i.site.component, i.operation) for i in interventions if isinstance(i.operation, Without)
    )
    require(
        len({edge[:2] for edge in edges}) == len(edges),
        "two different edges into one projection are cut, but the second would bring back what the first took away; "
        "give one of them",
    )
    for *_, operation in edges:
        check_sites(config, [Site(operation.layer, operation.component)])
        require(
            config.residual_scalars is None,
            f"{operation}: this model scales its residual stream between layers, so what a part wrote is not what a "
            f"later layer reads of it; attribution and ablation of edges know how",
        )
    return interventions
