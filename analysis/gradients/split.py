"""A gradient split by route, as a value: the shares, whether they add up, and their frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from analysis.result import Table, columns, largest_by
from circuits.common.showing import ROWS, Shown
from circuits.config.model import ModelConfig
from circuits.config.streams import Carrier, Source
from circuits.transformerlens.names import has_heads

Gradients = dict[str, Tensor]
"""By the name of a parameter or of a hook point."""


@dataclass(frozen=True, order=True)
class Connection:
    """One connection of a stream: ``read`` of layer ``source`` is added to ``fed`` of layer ``reader``."""

    reader: int
    source: int
    read: Source
    fed: Carrier

    @property
    def hook_name(self) -> str:
        """The hook point of what is read, before gain, transform and gate."""
        return f"blocks.{self.reader}.attn.mix.{self.fed}.hook_from_{self.source}"


def connections(config: ModelConfig) -> list[Connection]:
    """Return every connection of a model's streams, whatever its gate."""
    return sorted(
        Connection(reader, source, stream.reads, stream.carrier)
        for stream in config.streams
        for reader in range(config.n_layers)
        for source in stream.topology.sources(reader)
    )


@dataclass(frozen=True, repr=False)
class GradientSplit(Shown):
    """The gradient of a loss, for parameters and activations by name: ``whole = direct + stream``.

    The direct share is the sum over all computational paths from the tensor to the loss that use no stream connection:
    the gradient with every gate on ``stop``. (A reader's gains and transforms are its own, so theirs is direct.) The
    stream's share is the sum over all other paths; each belongs to the connection that it uses first, the one nearest
    the tensor, so that ``stream = sum of crossings`` where it was split by the pair.
    """

    whole: Gradients
    direct: Gradients
    stream: Gradients
    crossings: dict[Connection, Gradients] = field(default_factory=dict)
    """Of every connection of the model; empty where the split is by the total."""

    @property
    def error(self) -> float:
        """The norm of whole - direct - stream relative to the largest of the three; the worse of two.

        Taken over all parameters together, and over all activations together.
        """
        kinds = {_is_activation(name) for name in self.whole}
        return max((self._error([n for n in self.whole if _is_activation(n) is kind]) for kind in kinds), default=0.0)

    def _error(self, names: Sequence[str]) -> float:
        missing = _norm(self.whole[n] - self.direct[n] - self.stream[n] for n in names)
        size = max(_norm(share[n] for n in names) for share in (self.whole, self.direct, self.stream))
        return missing / size if size else missing

    def to_frame(self) -> pd.DataFrame:
        """Return one row a tensor and head: norms of the shares and their cosines.

        Columns: kind (parameter or activation), tensor, layer, part, head ("all" where there is no head axis), the
        norms whole, direct and stream, ``stream_share`` = |stream| / (|direct| + |stream|), ``alignment`` = the cosine
        between the two shares, ``direct_cosine`` and ``stream_cosine`` = those with the whole. A cosine with zero is
        NaN.
        """
        shares = zip(*(_by_head(share) for share in (self.whole, self.direct, self.stream)), strict=True)
        return pd.DataFrame(
            [_about(name, head) | _compare(whole, d, s) for (name, head, whole), (_, _, d), (_, _, s) in shares]
        )

    def finding(self) -> str:
        """Return how many tensors the stream reaches, its largest share, and that the shares add up."""
        frame = self.to_frame()
        reached = frame[frame.stream > 0]
        added = f"direct + stream = whole to {self.error:.0e} of it"
        if reached.empty:
            return f"{len(self.whole)} tensors, and the stream brings no gradient to any; {added}"
        top = largest_by(reached, "stream_share", 1).iloc[0]
        head = "" if top["head"] == "all" else f", head {top['head']}"
        return (
            f"the stream brings gradient to {reached.tensor.nunique()} of {len(self.whole)} tensors; most to "
            f"{top.tensor}{head}: {top.stream_share:.2f} of it, at a cosine of {top.alignment:.2f} with the direct "
            f"share; {added}"
        )

    def largest(self, n: int = ROWS) -> pd.DataFrame:
        """Return the ``n`` tensors (heads) to which the stream brings the largest share."""
        shown = ["tensor", "head", "whole", "direct", "stream", "stream_share", "alignment"]
        return largest_by(self.to_frame(), "stream_share", n)[shown]

    def figure(self) -> Any:
        """Return the stream's share of every tensor that it reaches, and its alignment (a plotly figure)."""
        from figures.models.gradients import split_bars

        return split_bars(self.to_frame())

    def pairs_to_frame(self) -> pd.DataFrame:
        """Return one row a tensor, head and connection: the norm, share and cosine of what crossed there first.

        Columns: those that name the tensor in :meth:`to_frame`; reader, source, read, fed; norm; ``share`` = norm over
        the sum of the norms of the direct share and of all crossings; ``cosine`` with the whole.

        Raises:
            ValueError: for a split by the total.
        """
        if self.stream and not self.crossings:
            raise ValueError("this split knows no layer pairs; use split_gradient(..., by='pair'), on a stream model")
        sizes = [float(t.norm()) for _, _, t in _by_head(self.direct)]
        by_pair = {c: list(_by_head(share)) for c, share in self.crossings.items()}
        totals = [size + sum(float(s[i][2].norm()) for s in by_pair.values()) for i, size in enumerate(sizes)]
        rows = [
            _about(name, head)
            | {"reader": c.reader, "source": c.source, "read": c.read, "fed": c.fed}
            | {"norm": float(share[i][2].norm()), "share": _ratio(float(share[i][2].norm()), totals[i])}
            | {"cosine": _cosine(share[i][2], whole)}
            for i, (name, head, whole) in enumerate(_by_head(self.whole))
            for c, share in by_pair.items()
        ]
        return pd.DataFrame(rows)


class GradientSteps(Table):
    """The gradient's split at several steps of a training: the columns of a split's frame, and step."""

    def finding(self) -> str:
        """Return how large the stream's share of attention's gradients is at the first and at the last step."""
        if "stream" not in self.frame:
            return f"{len(self)} shares of layer pairs at {self.frame.step.nunique()} steps"
        reached = self.frame[(self.frame.stream > 0) & self.frame.tensor.str.contains("attn")]
        by_step = reached.groupby("step").stream_share.mean()
        ends = dict.fromkeys([*by_step.index[:1], *by_step.index[-1:]])
        said = [f"at step {step}, {by_step[step]:.2f}" for step in ends]
        return f"{self.frame.step.nunique()} steps; mean share that came through the stream, where any did: " + (
            ", ".join(said) or "none anywhere"
        )

    def largest(self, n: int = ROWS) -> pd.DataFrame:
        """Return the ``n`` largest shares of the last step."""
        last = self.frame[self.frame.step == self.frame.step.max()]
        share = "stream_share" if "stream_share" in last else "share"
        numbers = "reader source read fed norm whole direct stream stream_share share alignment cosine"
        return largest_by(last, share, n)[columns(last, ("step", "tensor", "head"), numbers)]

    def figure(self) -> Any:
        """Return the shares over steps, or of layer pairs at the last one (a plotly figure)."""
        from figures.models.gradients import gradient_pairs, gradient_shares

        named = self.frame.assign(**{name: "" for name in ("run", "variant") if name not in self.frame})
        return (gradient_shares if "stream" in named else gradient_pairs)(named)


def _is_activation(name: str) -> bool:
    return name.rsplit(".", 1)[-1].startswith("hook_")


def _about(name: str, head: str) -> dict[str, str]:
    kind = "activation" if _is_activation(name) else "parameter"
    layer = name.split(".")[1] if name.startswith("blocks.") else name.split(".")[0]
    return {"kind": kind, "tensor": name, "layer": layer, "part": name.rsplit(".", 1)[-1], "head": head}


def _by_head(gradients: Gradients) -> Iterable[tuple[str, str, Tensor]]:
    for name, tensor in gradients.items():
        if (axis := _head_axis(name, tensor)) is None:
            yield name, "all", tensor
        else:
            yield from ((name, str(head), part) for head, part in enumerate(tensor.unbind(axis)))


def _head_axis(name: str, tensor: Tensor) -> int | None:
    if _is_activation(name):
        return -2 if has_heads(name) else 1 if name.endswith(("hook_pattern", "hook_attn_scores")) else None
    return 0 if ".attn.W_" in name and tensor.ndim == 3 else None


def _compare(whole: Tensor, direct: Tensor, stream: Tensor) -> dict[str, float]:
    norms = {"whole": float(whole.norm()), "direct": float(direct.norm()), "stream": float(stream.norm())}
    return norms | {
        "stream_share": _ratio(norms["stream"], norms["direct"] + norms["stream"]),
        "alignment": _cosine(direct, stream),
        "direct_cosine": _cosine(direct, whole),
        "stream_cosine": _cosine(stream, whole),
    }


def _ratio(part: float, total: float) -> float:
    return part / total if total else 0.0


def _cosine(a: Tensor, b: Tensor) -> float:
    scale = float(a.norm() * b.norm())
    return float((a * b).sum()) / scale if scale else float("nan")


def _norm(parts: Iterable[Tensor]) -> float:
    norms = [torch.linalg.vector_norm(part, dtype=torch.float64) for part in parts]
    return float(torch.stack(norms).norm())
