"""What builds the arms that several studies have alike; torch is imported when they are built."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from experiments.studies.study import Arm, Size

AT_PAPER_SIZE, IN_SMALL = "in-context classification, the paper's size", "in-context classification, small preset"
"""Of what figures of such runs are."""


def at_paper_size(variants: Sequence[str], seeds: int) -> Callable[[Size], list[Arm]]:
    """Return what builds runs of named variants at the paper's size, which miniatures leave out."""

    def build(size: Size) -> list[Arm]:
        from experiments.studies import schedules

        return [Arm(schedules.at_paper_size(v, s)) for s in schedules.seeds(size, seeds, 0) for v in variants]

    return build


def in_small(variants: Sequence[str], seeds: int, miniature: int) -> Callable[[Size], list[Arm]]:
    """Return what builds runs of named variants in the small preset, which log their gradients."""

    def build(size: Size) -> list[Arm]:
        from experiments.studies import schedules

        return [Arm(schedules.small(v, s)) for s in schedules.seeds(size, seeds, miniature) for v in variants]

    return build
