"""How the new runs of a sweep compute: decided once, and alike for all that are compared."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from circuits.common.errors import known, require
from circuits.common.screen import say
from circuits.products import Shape, has_onednn
from experiments.runs.config import RunConfig
from experiments.runs.directory import directory_of
from experiments.runs.run import Run
from experiments.sweeps.waiting_groups import accelerated
from experiments.training.engines import Engine, calibrated, choose_compute, step_products, worth_calibrating

WITH_ONEDNN = "-onednn"
COMPUTES = ("eager", "compiled", "stacked", f"eager{WITH_ONEDNN}", f"compiled{WITH_ONEDNN}")


def chosen_compute(config: RunConfig, device: str) -> str:
    """Return how a new run computes where nobody says how; which library multiplies is another question."""
    if config.of_tokens:
        return "compiled" if accelerated(device) else "eager"
    return "stacked" if accelerated(device) else choose_compute(config)


def named_engine(config: RunConfig, compute: str) -> Engine:
    """Return the engine that one of :data:`COMPUTES` names: by torch's default library alone, or with every larger
    product of a step through oneDNN."""
    how = compute.removesuffix(WITH_ONEDNN)
    return Engine(how, frozenset(step_products(config)) if how != compute else frozenset())


def check_compute(compute: str, device: str) -> None:
    """Refuse a way to compute that is unknown, or that this machine or device does not have.

    Raises:
        UnknownNameError, ValueError: saying which there are.
    """
    known("way to compute", compute, COMPUTES)
    if compute.endswith(WITH_ONEDNN):
        without = f"compute with {compute.removesuffix(WITH_ONEDNN)!r}"
        require(has_onednn(), f"this torch was built without oneDNN; {without}")
        require(not accelerated(device), f"oneDNN multiplies on the CPU, not on {device!r}; {without}")


def shared_engines(
    configs: Sequence[RunConfig], root: str | Path, device: str, compute: str | None = None, like: Sequence[str] = ()
) -> list[Engine]:
    """Return the engine of every run: of those that are under ``root``, the one that they began with.

    Where ``compute`` does not name one, new runs multiply as those that they may be compared with: as runs of the
    engines ``like``, or else as all under ``root`` that have the same products in a step. Where there are none, a
    calibration decides, once. If runs that are to share an engine do not, a sentence on stderr says so.

    Raises:
        UnknownNameError, ValueError: as :func:`check_compute`.
    """
    if compute is not None:
        check_compute(compute, device)
    begun = {config.id: Engine.read(run.record["engine"]) for config in configs if (run := _begun(root, config))}
    engines = dict(begun)
    groups: dict[frozenset[Shape], list[RunConfig]] = defaultdict(list)
    for config in configs:
        groups[frozenset(step_products(config))].append(config)
    for products, group in groups.items():
        new = [config for config in group if config.id not in begun]
        if compute is not None:
            engines |= {config.id: named_engine(config, compute) for config in new}
        elif new:
            onednn = _decided(products, new, root, device, like)
            engines |= {config.id: Engine(chosen_compute(config, device), onednn) for config in new}
        _say_if_mixed([engines[config.id] for config in group] + [Engine.read(text) for text in like])
    return [engines[config.id] for config in configs]


def _begun(root: str | Path, config: RunConfig) -> Run | None:
    path = directory_of(root, config)
    return Run.open(path) if (path / "run.json").is_file() else None


def _decided(
    products: frozenset[Shape], new: Sequence[RunConfig], root: str | Path, device: str, like: Sequence[str]
) -> frozenset[Shape]:
    if not products or accelerated(device):
        return frozenset()
    others = like or [
        run.record["engine"] for run in Run.under(root) if frozenset(step_products(run.config)) == products
    ]
    if others:
        return Counter(Engine.read(text).onednn for text in others).most_common(1)[0][0]
    longest = max(new, key=lambda config: config.training.steps)
    if not worth_calibrating(longest):
        return frozenset()
    return calibrated(step_products(longest), chosen_compute(longest, device))


def _say_if_mixed(engines: Sequence[Engine]) -> None:
    counts = Counter(str(Engine("", engine.onednn)).removeprefix(", ") for engine in engines)
    if len(counts) > 1:
        which = "; ".join(f"{n} by {named or 'the default library alone'}" for named, n in counts.items())
        say(
            f"runs that may be compared do not multiply alike ({which}); remove the older ones to train them again",
            sys.stderr,
        )
