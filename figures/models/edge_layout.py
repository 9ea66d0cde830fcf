"""Where the nodes and the edges of a circuit lie in a panel, in pixels, and where there is room to write on an edge."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

PORTS = {"q": -120.0, "k": -90.0, "v": -60.0}
"""Where on a head an edge ends, in degrees."""
_PLACE = re.compile(r"L(\d+)H(\d+)(?:\.([qkv]))?")
_RADIUS = 20.0
_GAP = 3.0
"""Pixels between a node and the end of an edge."""
_BENDS = (0.0, *(side * bend for bend in (22.0, 44.0, 72.0, 104.0, 140.0, 185.0, 240.0, 300.0) for side in (1, -1)))
"""Pixels by which the middle of an edge may be moved aside (twice: the control point of its curve)."""
_STREAM = 52.0
"""By so much an edge through the stream bends to the right at least, so that it lies beside the residual one."""
_PIECES = 25
_ALONG = (0.5, 0.42, 0.58, 0.34, 0.66, 0.27, 0.73, 0.2, 0.8)
"""Where on an edge its label may stand, best first."""
_LETTER, _LINE = 6.4, 16.0
"""Pixels of a letter of a label, and of its line."""
Point = tuple[float, float]
Path = np.ndarray


@dataclass(frozen=True)
class Way:
    """The way of an edge: points from node to node, and the port that it ends in."""

    points: Path
    port: str

    @property
    def x(self) -> list[float]:
        """The horizontal places of its points."""
        return self.points[:, 0].round(1).tolist()

    @property
    def y(self) -> list[float]:
        """The vertical ones."""
        return self.points[:, 1].round(1).tolist()


@dataclass(frozen=True)
class Layout:
    """The places of nodes in a panel of so many pixels."""

    nodes: dict[str, Point]
    radius: float
    size: Point

    @classmethod
    def of(cls, rows: pd.DataFrame, wide: float, tall: float) -> Layout:
        """Return the places of all nodes that edges (columns source and target) touch."""
        heads, layers = shape_of(rows)
        names = sorted({str(name).split(".")[0] for name in (*rows.source, *rows.target)})
        across = wide / max(heads + 1.3, 3.0)
        up = tall / (max(layers, 2) + 1.7)
        middle = (heads - 1) / 2
        places = {name: _place(name, middle, heads, layers) for name in names}
        nodes = {name: (wide / 2 + (x - middle) * across, (y + 1.35) * up) for name, (x, y) in places.items()}
        return cls(nodes, min(_RADIUS, 0.42 * across), (wide, tall))

    def ways(self, edges: Sequence[tuple[str, str, str]]) -> list[Way]:
        """Return the way of every edge (source, target, route), past the nodes that lie between."""
        found: list[Way] = []
        taken: dict[tuple[str, str], list[float]] = {}
        for source, target, route in edges:
            start, end = (name.split(".")[0] for name in (source, target))
            port = _port(target)
            if start == end:
                found.append(Way(self._loop(self.nodes[start]), port))
                continue
            before = taken.setdefault((start, end), [])
            others = np.array([place for name, place in self.nodes.items() if name not in (start, end)])
            bends = [bend for bend in _BENDS if route != "stream" or bend >= _STREAM - 8]
            costs = [self._cost(self._curve(start, end, port, bend), bend, others, port, before) for bend in bends]
            bend = bends[int(np.argmin(costs))]
            before.append(bend)
            found.append(Way(self._curve(start, end, port, bend), port))
        return found

    def places(self, texts: Mapping[int, str], ways: Sequence[Way], strengths: Sequence[float]) -> dict[int, Point]:
        """Return where on its edge, or beside it, each text stands, clear of nodes and other texts, if there is room.

        Texts are by the number of their edge; other edges are crossed where that cannot be helped, weak ones first.
        """
        nodes, boxes = np.array(list(self.nodes.values())), list[np.ndarray]()
        found: dict[int, Point] = {}
        for i, text in texts.items():
            half = np.array([_LETTER * len(text) / 2 + 3, _LINE / 2])
            rest = [(way.points, strengths[j]) for j, way in enumerate(ways) if j != i]
            best, least = None, np.inf
            for rank, (side, along) in enumerate(itertools.product((0, 1, -1), _ALONG)):
                at = ways[i].points[round(along * (len(ways[i].points) - 1))] + [side * half[0], 0]
                if (self._apart(nodes, at, half) < self.radius + 2).any() or any(_overlap(at, half, b) for b in boxes):
                    continue
                crossed = sum((0.3 + s) * _inside(points, at, half) for points, s in rest)
                if crossed + 0.15 * rank < least:
                    best, least = at, crossed + 0.15 * rank
            if best is not None:
                boxes.append(np.stack([best, half]))
                found[i] = (round(float(best[0]), 1), round(float(best[1]), 1))
        return found

    @staticmethod
    def _apart(nodes: Path, at: np.ndarray, half: np.ndarray) -> np.ndarray:
        return np.linalg.norm(np.maximum(np.abs(nodes - at) - half, 0), axis=1)

    def _cost(self, points: Path, bend: float, others: Path, port: str, before: Sequence[float]) -> float:
        """How little an edge should go so: through nodes, out of the panel, on another edge of the same
        nodes, far aside."""
        hit = 0
        if len(others):
            hit = int((np.linalg.norm(points[:, None] - others[None], axis=-1) < self.radius + 6).any(0).sum())
        same = sum(abs(bend - other) < 20 for other in before)
        # Past the nodes between, values to the right and the rest to the left.
        side = 4.0 if bend * (1 if port == "v" else -1) < 0 else 0.0
        outside = bool(((points < 2) | (points > np.array(self.size) - 2)).any())
        return 1000 * (hit + outside) + 60 * same + abs(bend) / 4 + side

    def _curve(self, start: str, end: str, port: str, bend: float) -> Path:
        """A curve from the border of a node to that of another, or to the port there."""
        a, b = np.array(self.nodes[start]), np.array(self.nodes[end])
        if port:
            angle = np.deg2rad(PORTS[port])
            b = b + self.radius * np.array([np.cos(angle), np.sin(angle)])
        along = b - a
        aside = np.array([along[1], -along[0]]) / max(float(np.linalg.norm(along)), 1e-9)
        control = (a + b) / 2 + 2 * bend * aside
        t = np.linspace(0, 1, 4 * _PIECES)[:, None]
        points = (1 - t) ** 2 * a + 2 * t * (1 - t) * control + t**2 * b
        away = np.linalg.norm(points - self.nodes[start], axis=1) >= self.radius
        there = np.linalg.norm(points - self.nodes[end], axis=1) >= self.radius + _GAP
        kept = points[away & there]
        # Evenly: as many points as are hovered over, and drawn.
        chosen = np.linspace(0, len(kept) - 1, _PIECES).round().astype(int) if len(kept) else []
        return kept[chosen] if len(kept) else np.stack([a, b])

    def _loop(self, node: Point) -> Path:
        """From a projection to its own head: a small loop on the right."""
        angles = np.linspace(-150, 150, _PIECES)
        turned = np.deg2rad(angles)
        middle = np.array([node[0] + 1.35 * self.radius, node[1]])
        points = middle + 0.62 * self.radius * np.stack([np.cos(turned), np.sin(turned)], axis=1)
        return points[np.linalg.norm(points - node, axis=1) >= self.radius + _GAP / 2]


def shape_of(frame: pd.DataFrame) -> tuple[int, int]:
    """Return how many heads a layer, and how many layers, edges touch."""
    places = [found for name in (*frame.source, *frame.target) if (found := _PLACE.match(str(name)))]
    return max((int(p[2]) for p in places), default=0) + 1, max((int(p[1]) for p in places), default=0) + 1


def _place(name: str, middle: float, heads: int, layers: int) -> Point:
    """Where a node stands: heads of a layer side by side, their layer's MLP to the right and above, tables of value
    embeddings to the left and below the layer of their number."""
    if name == "input":
        return middle, -1.0
    if name == "logits":
        return middle, float(layers)
    if name.startswith("MLP"):
        return heads - 0.2, int(name[3:]) + 0.45
    if name.startswith("VE"):
        return -0.8, int(name[2:]) - 0.45
    found = _PLACE.match(name)
    assert found, f"a node is an input, a head, an MLP, a table or the logits, not {name!r}"
    return float(found[2]), float(found[1])


def _port(name: str) -> str:
    found = _PLACE.match(name)
    return (found[3] or "") if found else ""


def _overlap(at: np.ndarray, half: np.ndarray, other: np.ndarray) -> bool:
    return bool((np.abs(at - other[0]) < half + other[1]).all())


def _inside(points: Path, at: np.ndarray, half: np.ndarray) -> int:
    return int((np.abs(points - at) < half).all(1).sum())
