"""Which values does a later layer need? Its values are read from one source or another, as declared beforehand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from circuits.config.gains import FixedGain
from circuits.config.parts import ReluStack
from circuits.config.streams import Stream
from circuits.config.topologies import First, Listed, Tables, Topology, WithinLayer
from experiments.studies.builders import AT_PAPER_SIZE, IN_SMALL
from experiments.studies.declared import Declared
from experiments.studies.pictures import curves_picture
from experiments.studies.study import Arm, Study

_STREAM_ALONE = FixedGain(own=0.0, stream=1.0)


def _of_x0(**changes: Any) -> dict[str, Any]:
    """In two layers, the first layer's input is the residual stream at the start."""
    return {"streams": (Stream("v", weights="untied", **changes),)}


def _of_value(**changes: Any) -> dict[str, Any]:
    return {"streams": (Stream("v", **changes),)}


MODELS: dict[str, dict[str, Any]] = {
    "classic": {},
    # Keys' other weights, of the layer's own input: another matrix of the same residual stream.
    "classic, second V": {"streams": (Stream("v", source="k", topology=WithinLayer(), weights="untied"),)},
    "classic, deeper readout": {"readout": ReluStack(32, depth=4)},
    "value": _of_value(),
    "value-stop": _of_value(gate="stop"),
    "value-gradient-only": _of_value(gate="gradient-only"),
    "value, gradient x0.3": _of_value(gradient=0.3),
    "value, gradient x3": _of_value(gradient=3.0),
    "x0": _of_x0(),
    "x0-stop": _of_x0(gate="stop"),
    "x0-gradient-only": _of_x0(gate="gradient-only"),
    "x0, gradient x0.3": _of_x0(gradient=0.3),
    "x0, gradient x3": _of_x0(gradient=3.0),
    "value alone": _of_value(gain=_STREAM_ALONE),
    "x0 alone": _of_x0(gain=_STREAM_ALONE),
    "no values": _of_value(gain=_STREAM_ALONE, gate="off"),
}
"""What differs from the classic model of two layers, by arm; ``alone`` is without values of the layer's own."""

DRAWN = ("classic", "classic, second V", "value", "x0", "x0-stop", "value alone", "x0 alone")
"""Arms whose curves are drawn: more would not be told apart."""


def deep_streams(arm: str, n_layers: int) -> tuple[Stream, ...]:
    """Return the streams of an arm of several layers: none of ``classic``, or those of a reader and a source, as in
    "2 reads first" and "all read x0".

    Every reader of x0 has a matrix of its own.
    """
    if arm == "classic":
        return ()
    reader, _, source = arm.split()
    readers = tuple(range(1, n_layers)) if reader == "all" else (int(reader),)
    topologies: dict[str, Callable[[], Topology]] = {
        "previous": lambda: Listed(tuple((layer, layer - 1) for layer in readers)),
        "first": lambda: First(readers),
        "x0": lambda: Tables(tuple((layer, table) for table, layer in enumerate(readers)), of="x0"),
    }
    return (Stream("v", topology=topologies[source]()),)


def _arm(arm: str, seed: int) -> Arm:
    from experiments.studies.schedules import SMALL, named

    # Called after the arm, and not after a variant that happens to have the same streams.
    return named(arm, "classic", seed, SMALL, **MODELS[arm])


def _deep(n_layers: int, arm: str, seed: int) -> Arm:
    from experiments.studies.schedules import SMALL, named

    return named(arm, "classic", seed, SMALL, n_layers=n_layers, streams=deep_streams(arm, n_layers))


def _at_paper_size(arm: str, seed: int) -> Arm:
    """Classic and value are those of the study of the gradient; the others go to 98 %, too."""
    from experiments.studies.schedules import TO_98, at_paper_size, named

    if arm in ("classic", "value"):
        return Arm(at_paper_size(arm, seed))
    return named(arm, "classic", seed, TO_98, "paper", **MODELS[arm])


SOURCES = Declared.of("sources", _arm, IN_SMALL)
PAPER = Declared.of("sources-paper", _at_paper_size, AT_PAPER_SIZE)
DEEP = {
    n_layers: Declared.of(f"sources-{n_layers}-layers", partial(_deep, n_layers), f"{IN_SMALL}, {n_layers} layers")
    for n_layers in (3, 4)
}
READERS = Declared.of("sources-3-layers-readers", partial(_deep, 3), f"{IN_SMALL}, 3 layers")
_ALL = (SOURCES, PAPER, DEEP[3], READERS, DEEP[4])
STUDY = Study(
    name="sources",
    question="Which values does a later layer need?",
    experiments=tuple(each.experiment for each in _ALL),
    pictures=(
        *(each.picture for each in _ALL),
        curves_picture("sources_curves", SOURCES.experiment, DRAWN),
        curves_picture("sources_paper_curves", PAPER.experiment),
    ),
    blocks=tuple(block for each in _ALL for block in each.blocks),
)
