"""What breaks when a head, the stream, the stream's gradient, or any set of sites is taken away."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from analysis.ablated import Ablations
from analysis.metrics import check_finite, check_logits, precise, read
from analysis.pairs import Pair, check_readable, is_padding, without_padding
from analysis.ready import require_eval_mode
from analysis.resuming import KeptIn, identity, kept_rows, measured
from circuits.common.errors import known, require, several
from circuits.config.streams import CARRIERS, Gate
from circuits.interventions.applied import Activations, Intervening, Models
from circuits.interventions.intervention import Intervention, Mean, Operation, Resample, Zero, operation_name
from circuits.model import HookedStreamTransformer
from circuits.sites import PATTERN, Site, check_sites

METHODS: dict[str, Operation] = {"zero": Zero(), "mean": Mean(), "resample": Resample()}
"""Replaced by zero, by the mean over the given examples (position by position), or by another example's activation."""
Method = str | Operation
"""One of ``METHODS`` by name, or an operation: ``FromRun(checkpoint)``, ``Clamp(0.5)``."""
MEASURED = ("accuracy", "accuracy_ablated", "loss", "loss_ablated", "gradient_norm", "gradient_cosine", "changed")
Gates = tuple[tuple[Gate, Gate], ...]
FORWARD_CUT: Gates = (("full", "gradient-only"), ("stop", "off"))
GRADIENT_CUT: Gates = (("full", "stop"), ("gradient-only", "off"))
"""What each gate becomes."""


@dataclass(frozen=True)
class Ablation:
    """What is taken away together, under one name: interventions at sites, or a change of gates, or both.

    Make one with the class methods; add two to have both at once.
    """

    part: str
    interventions: tuple[Intervention, ...] = ()
    gates: Gates = ()

    def __add__(self, other: Ablation) -> Ablation:
        first: dict[Gate, Gate] = dict(self.gates)
        second: dict[Gate, Gate] = dict(other.gates)
        between: dict[Gate, Gate] = {gate: first.get(gate, gate) for gate in (*first, *second)}
        gates: Gates = tuple((gate, second.get(after, after)) for gate, after in between.items())
        return Ablation(f"{self.part} + {other.part}", self.interventions + other.interventions, gates)

    @classmethod
    def sites(cls, name: str, sites: Iterable[Site], method: Method = "zero") -> Ablation:
        """Return the ablation of any sites, together.

        Raises:
            UnknownNameError: for an unknown method (nearest suggested).
            ValueError: if there is no site.
        """
        operation = METHODS[known("method", method, METHODS)] if isinstance(method, str) else method
        given = several("sites", sites, Site, least=0, how="analysis.find_sites(model, ...) makes one")
        require(bool(given), f"ablation {name!r} takes nothing away: it has no site")
        together = tuple(Intervention(site, operation) for site in given)
        return cls(name, together)

    @classmethod
    def head(cls, model: HookedStreamTransformer, layer: int, head: int, method: Method = "zero") -> Ablation:
        """Return the ablation of a head altogether: its output, and its own projections that the stream takes on.

        (Not all that it passes on: in a running sum that holds the values of other layers too.) Where a stream has
        weights of its own, what they make for the head is taken away with it.

        Raises:
            ValueError: where the stream takes on keys or values that other heads of queries use, too.
        """
        z = check_sites(model, [Site(layer, "z", head=head)])
        passed = [site.component for site in _of_head(model, layer, 0, "own")]
        shared = [c for c in passed if Site(layer, c).heads_in(model.config) < model.config.n_heads]
        require(
            not shared,
            f"other heads use the {' and '.join(shared)} of head {head} of layer {layer}, too, so it cannot be taken "
            f"away altogether; ablate its output (z), or what a shared head passes on (outgoing)",
        )
        return cls.sites("head", [*z, *_of_head(model, layer, head, "own")], method)

    @classmethod
    def z(cls, model: HookedStreamTransformer, layer: int, head: int, method: Method = "zero") -> Ablation:
        """Return the ablation of a head's output; its values still travel down the stream."""
        return cls.sites("z", check_sites(model, [Site(layer, "z", head=head)]), method)

    @classmethod
    def outgoing(cls, model: HookedStreamTransformer, layer: int, head: int, method: Method = "zero") -> Ablation:
        """Return the ablation of all that a head passes on through the stream; its own output stays.

        Where heads share keys and values, ``head`` is the number of a shared one.
        """
        check_sites(model, [Site(layer, "z", head=head)])
        sites = [site for site in _of_head(model, layer, head, "outgoing") if site.exists(model)]
        return cls.sites("outgoing", _some(sites, model, f"what layer {layer} passes on through a stream"), method)

    @classmethod
    def stream(cls, model: HookedStreamTransformer, method: Method = "zero") -> Ablation:
        """Return the ablation of all that comes in through streams, at every layer."""
        every = (Site(layer, c, "residual") for layer in range(model.config.n_layers) for c in CARRIERS)
        return cls.sites("stream", _some([s for s in every if s.exists(model)], model, "a stream"), method)

    @classmethod
    def forward_cut(cls, model: HookedStreamTransformer) -> Ablation:
        """Return the cut of every stream's forward value; its gradient stays."""
        return cls("forward cut", gates=_some_gate(model, FORWARD_CUT))

    @classmethod
    def gradient_cut(cls, model: HookedStreamTransformer) -> Ablation:
        """Return the cut of every stream's gradient; the forward pass stays, so accuracy and loss cannot change."""
        return cls("gradient cut", gates=_some_gate(model, GRADIENT_CUT))

    def describe(self) -> dict[str, str]:
        """Return part, method, layer and head in words, ``all`` where it spans several and ``-`` for gates alone."""
        sites = [i.site for i in self.interventions]
        names = sorted({operation_name(i.operation) for i in self.interventions})
        return {
            "part": self.part,
            "method": " + ".join(names) or "-",
            "layer": _shared([site.layer for site in sites]),
            "head": _shared([site.head for site in sites]),
        }


def _shared(values: list[int | None] | list[int]) -> str:
    one = set(values)
    return str(values[0]) if len(one) == 1 and None not in one else "all"


def _of_head(model: HookedStreamTransformer, layer: int, head: int, route: str) -> list[Site]:
    passed = [Site(layer, c, "outgoing", head) for c in CARRIERS if model.config.readers(layer, c)]
    # What other weights make for the stream alone does not change with the layer's own projection.
    apart = [c for c in CARRIERS if model.config.extra_weights(c) != "own"]
    own = [site if site.component in apart else dataclasses.replace(site, route="own") for site in passed]
    return passed if route == "outgoing" else [site for site in own if site.exists(model)]


def _some(sites: list[Site], model: HookedStreamTransformer, what: str) -> list[Site]:
    require(bool(sites), f"this takes nothing away: model {model.config.name!r} has no such part, {what}")
    return sites


def _some_gate(model: HookedStreamTransformer, cut: Gates) -> Gates:
    # Behind a table of tokens there is no gradient to cut; behind projections of x0 are the embeddings.
    streams = [s for s in model.config.streams if cut is not GRADIENT_CUT or s.tables_of != "token"]
    there = {gate for s in streams for gate in (s.gate, *(rule.gate for rule in s.gate_rules))}
    some = bool(there & {gate for gate, _ in cut})
    require(some, f"this takes nothing away: model {model.config.name!r} has no such part, an open gate to cut")
    return cut


def standard_ablations(model: HookedStreamTransformer, methods: Iterable[Method] = ("zero", "mean")) -> list[Ablation]:
    """Return every ablation that the model has something for: each head whole and in halves, the stream, both cuts.

    Without a stream a head's output is all of it, so there are no halves; where heads share what a stream takes on,
    there are halves alone.

    Raises:
        UnknownNameError: for an unknown method (nearest suggested).
    """
    methods = [method if not isinstance(method, str) else known("method", method, METHODS) for method in methods]
    heads = [(layer, head) for layer in range(model.config.n_layers) for head in range(model.config.n_heads)]
    found = [one for method in methods for where in heads for one in _possible(Ablation.head, model, *where, method)]
    if not model.config.streams:
        return found
    found += [Ablation.z(model, *where, method) for method in methods for where in heads]
    outgoing = Ablation.outgoing
    found += [one for method in methods for where in heads for one in _possible(outgoing, model, *where, method)]
    found += [Ablation.stream(model, method) for method in methods]
    return [*found, *_possible(Ablation.forward_cut, model), *_possible(Ablation.gradient_cut, model)]


def _possible(make: Callable[..., Ablation], *of: Any) -> list[Ablation]:
    try:
        return [make(*of)]
    except ValueError:
        return []


def ablate(
    model: HookedStreamTransformer,
    pair: Pair,
    ablations: Iterable[Ablation] | None = None,
    *,
    models: Models | None = None,
    allow_nothing: bool = False,
    progress: bool = False,
    kept: KeptIn | None = None,
) -> Ablations:
    """Return one row an ablation: accuracy and loss (nats) on the clean inputs where the pair reads them, whole and
    ablated, and the gradient's.

    ``changed`` is the largest change of any activation that was replaced; ``gradient_norm`` and ``gradient_cosine``
    compare the gradient of the mean loss with and without the ablation: norm ratio, and cosine over all parameters.
    Means and samples are of the whole model, also where several sites are replaced together, and leave padding out.
    Sites may name the pair's roles; ``models`` as for :func:`circuits.interventions.applied.intervened`. By default,
    all of :func:`standard_ablations`, where a part that is nothing already (a stream behind a closed gate) has the
    change 0. Inputs without a counterfactual are a ``Pair.one_sided(inputs, answers)``; hooks that are attached act all
    along. ``kept`` as in :func:`analysis.patch`.

    Raises:
        ValueError: for a model in training mode, an ablation of something that the model does not have, a single
            example to resample, a pair that the model cannot answer or that is read at padding, or rows to keep of a
            model with hooks attached.
        NothingChangedError: for an ablation that changed nothing at any of its sites, unless ``allow_nothing``.
    """
    require_eval_mode(model, "ablation")
    check_readable(model, pair)
    wanted = (
        standard_ablations(model)
        if ablations is None
        else several("ablations", ablations, Ablation, how="Ablation.head(model, 0, 1) makes one")
    )
    for ablation in wanted if ablations is not None and not allow_nothing else ():
        if ablation.gates:
            _some_gate(model, ablation.gates)
    ready = [Intervening(model, ablation.interventions, models) for ablation in wanted]
    baseline = _baseline(model, pair, wanted)
    accuracy, loss, gradient = _measured(model, pair, baseline)
    strict = ablations is not None and not allow_nothing

    def measure(one: int) -> Float[Tensor, " measured"]:
        accuracy_ablated, loss_ablated, left = _measured(model, pair, baseline, wanted[one], ready[one])
        counts = ready[one].counts
        changed = float(counts.values[:, 1].max()) if counts.interventions else float("nan")
        if changed == 0 and strict:
            counts.require_change()
        both = [accuracy, accuracy_ablated, loss, loss_ablated, left.norm() / gradient.norm()]
        return torch.tensor([*both, F.cosine_similarity(left, gradient, dim=0), changed], dtype=torch.float64)

    names = [repr((ablation.interventions, ablation.gates)) for ablation in wanted]
    about = {} if kept is None else _apart(model, wanted, models or {})
    there = kept_rows(kept, "ablation", model, pair, strict=strict, **about)
    alone = ([i] for i in range(len(wanted)))
    found = measured(names, alone, lambda chunk: map(measure, chunk), there, "ablations", progress)
    numbers = pd.DataFrame(torch.stack(found).numpy(), columns=list(MEASURED))
    where = pd.DataFrame([ablation.describe() for ablation in wanted])
    return Ablations(where.join(numbers).assign(n=len(pair)))


def _apart(model: HookedStreamTransformer, wanted: Sequence[Ablation], models: Models) -> dict[str, Any]:
    """What rows depend on beside the model and the pair: which parameters learn, and what other models are."""
    named = {str(i.operation.model(0)) for ablation in wanted for i in ablation.interventions}
    others = {name: identity(other) for name, other in models.items() if name in named}
    files = [Path(name) for name in sorted(named - {*others}) if Path(name).is_file()]
    others |= {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return {"others": others, "learned": [name for name, p in model.named_parameters() if p.requires_grad]}


def _baseline(model: HookedStreamTransformer, pair: Pair, wanted: Sequence[Ablation]) -> Activations:
    """What the whole model does where means or samples are put in its place; padding is left out."""
    every = [i for ablation in wanted for i in ablation.interventions]
    operations = {type(i.operation) for i in every}
    require(
        len(pair) > 1 or Resample not in operations,
        "an activation is resampled from another example, and only one input was given",
    )
    require(
        len(pair) > 1 or Mean not in operations,
        "the mean over one input is that input itself, which takes nothing away; give more, or the method 'zero'",
    )
    names = sorted({i.site.hook_name for i in every if i.operation.takes_source})
    with torch.no_grad():
        _, cache = model.run_with_cache(pair.clean, names_filter=names, return_cache_object=False)
    patterns = tuple(f"hook_{component}" for component in PATTERN)
    padding = is_padding(model, pair)
    return {name: without_padding(x, padding, 2 if name.endswith(patterns) else 1) for name, x in cache.items()}


def _measured(
    model: HookedStreamTransformer,
    pair: Pair,
    baseline: Activations,
    ablation: Ablation | None = None,
    applied: Intervening | None = None,
) -> tuple[float, float, Float[Tensor, " parameter"]]:
    """Accuracy, loss and gradient of the model, or of what an ablation leaves of it."""
    regated = model.regated(dict(ablation.gates)) if ablation and ablation.gates else nullcontext()
    acting = applied.at(None, pair.positions, baseline) if applied else nullcontext()
    with regated, acting, torch.enable_grad():
        logits = read(model(pair.clean), pair.read_at)
        check_logits(logits, f"the model{f' with {ablation.part} ablated' if ablation else ''}")
        loss = check_finite("loss", F.cross_entropy(logits, pair.answers))
        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        require(
            bool(learned) and loss.requires_grad,
            "no parameter has a gradient, which an ablation compares; call model.requires_grad_(), and not inside "
            "torch.inference_mode()",
        )
        gradients = torch.autograd.grad(loss, learned, allow_unused=True, materialize_grads=True)
    right = float((logits.argmax(-1) == pair.answers).float().mean())
    return right, float(loss.detach()), torch.cat([precise(g.flatten()) for g in gradients])
