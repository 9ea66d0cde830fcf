"""Whether what is committed is what the results give: figures, images, the tables of pages, what is said of figures;
and whether the results are of what is trained and asked today.

Everything is drawn and written again from the bundle, which :meth:`Bundle.open` has held to the hashes of its files,
with the code as it stands; nothing is trained, and no image is drawn: images are held to what they were drawn of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from circuits.common.errors import require
from circuits.common.files import write_atomically
from circuits.common.text_table import rows_of
from experiments.studies.committed_results import Bundle
from experiments.studies.configurations import checked_experiments, checked_runs, declared
from experiments.studies.provenance import checked_frames
from experiments.studies.registry import EXPERIMENTS, STUDIES
from experiments.studies.study import Picture

COLUMNS = ["kind", "name", "fresh", "why"]
Noted = dict[str, dict[str, str]]
DRAWN = "images.json"
"""In a folder of figures: of every image, the hash of the figure that it was drawn of, and its own."""


def note_images(images: Sequence[Path], folder: Path) -> None:
    """Write down what images in a folder were drawn of, the JSON beside them; what is known of others stays."""
    known = _noted(folder)
    for path in images:
        known[path.name] = {"of": _hash(path.with_suffix(".json").read_bytes()), "is": _hash(path.read_bytes())}
    text = json.dumps(dict(sorted(known.items())), indent=1) + "\n"
    write_atomically(folder / DRAWN, text.encode())


def check(
    pictures: Sequence[Picture], bundle: Bundle, folder: Path, pages: Sequence[Path], fill: Callable[[str, Bundle], str]
) -> pd.DataFrame:
    """Return one row a figure, image and page: kind, name, fresh, and why it is not.

    ``fill`` writes a page anew, as :func:`experiments.studies.pages.fill` does.
    """
    noted = _noted(folder)
    rows = [row for picture in pictures for row in _of_figure(picture, bundle, folder, noted)]
    for page in pages:
        before = page.read_text("utf-8")
        after = fill(before, bundle)
        differs = [old for old, new in zip(before.splitlines(), after.splitlines(), strict=False) if old != new]
        lines = f"{len(differs)} lines differ, as: {differs[0][:60]}" if differs else "it has other lines"
        rows.append(("page", page.name, before == after, "" if before == after else lines))
    return pd.DataFrame(rows, columns=COLUMNS)


def with_made(found: pd.DataFrame, bundle: Bundle, only: Sequence[Picture] = ()) -> pd.DataFrame:
    """Return what :func:`check` found with rows of what was trained and asked: every experiment, run of the bundle, and
    frame that models were asked for.

    They are held to the arms that experiments build today and to the sources that made frames; with ``only``, what lies
    behind these figures. What is not trained, and frames of which nothing is known, are fresh with a reason.
    """
    studies = list(STUDIES.values())
    experiments, frames = list(EXPERIMENTS.values()), {frame for s in studies if s.asking for frame in s.asking.frames}
    if only:
        frames = {frame for picture in only for frame in picture.frames}
        asked = [s.asking for s in studies if s.asking and frames & {*s.asking.frames}]
        experiments = list({e.name: e for part in (*only, *asked) for e in part.experiments}.values())
        studies = [s for s in studies if s.asking in asked]
    arms = declared(bundle, experiments)
    rows = [*checked_experiments(bundle, arms), *([] if only else checked_runs(bundle, arms))]
    rows += [row for row in checked_frames(bundle, studies, arms) if row[1] in frames]
    both = pd.concat([found, pd.DataFrame(rows, columns=COLUMNS)], ignore_index=True)
    return both.astype({"fresh": bool})  # which the column of no rows is not


def require_fresh(found: pd.DataFrame) -> None:
    """Refuse what is not fresh.

    Raises:
        ValueError: naming everything that is not what the results give, and why.
    """
    stale = found[~found.fresh]
    told = "\n".join(f"  {row.kind} {row.name}: {row.why}" for row in rows_of(stale))
    require(
        stale.empty,
        f"{len(stale)} of {len(found)} are not what the results give or what is trained and asked today "
        f"('valuestream figures' makes figures, images and pages anew; --recompute what lies behind them):\n{told}",
    )


def of_frames(found: pd.DataFrame) -> list[str]:
    """Return which of the frames that models were asked for are fresh, and of which it is not known, in words."""
    fresh = found[(found.kind == "frame") & found.fresh]
    return [f"frames, {why or 'fresh'}: {', '.join(names)}" for why, names in fresh["name"].groupby(fresh.why)]


def counted(found: pd.DataFrame) -> list[str]:
    """Return how many there are of every kind, in words, and of how many that are fresh something is to be said."""
    told = []
    for kind, rows in found.groupby("kind", sort=False):
        reasons = [f"{n} {why}" for why, n in rows.why[rows.fresh & (rows.why != "")].value_counts().items()]
        told.append(f"{len(rows)} {kind}s" + (f" ({'; '.join(reasons)})" if reasons else ""))
    return told


def _of_figure(picture: Picture, bundle: Bundle, folder: Path, noted: Noted) -> Iterator[tuple[str, str, bool, str]]:
    if any(e.declared and not e.trained(bundle) for e in picture.experiments):
        return
    if not picture.drawable(bundle):
        yield "figure", picture.name, False, "the bundle has nothing for it"
        return
    text = picture.draw(bundle).to_json() or ""
    committed = folder / f"{picture.name}.json"
    if not committed.is_file():
        yield "figure", picture.name, False, f"there is no {committed.name}"
        return
    fresh = committed.read_text("utf-8") == text
    yield "figure", picture.name, fresh, "" if fresh else "the results, or what draws them, give another"
    there = {f"{picture.name}.{kind}" for kind in ("png", "svg")}
    for name in sorted(name for name in there if name in noted or (folder / name).is_file()):
        why = _wrong(folder / name, noted.get(name, {"of": "", "is": ""}), _hash(text))
        yield "image", name, not why, why


def _wrong(image: Path, was: dict[str, str], of: str) -> str:
    """Why an image is not what a figure with a hash gives; nothing if it is."""
    if not image.is_file():
        return "it was drawn, and is not there"
    if was["is"] != _hash(image.read_bytes()):
        return "it is not the image that was drawn"
    return "" if was["of"] == of else "it was drawn of another figure"


def _noted(folder: Path) -> Noted:
    path = folder / DRAWN
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def _hash(data: str | bytes) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()
