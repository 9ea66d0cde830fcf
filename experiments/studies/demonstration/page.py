"""The page of the demonstration: the verdict, a drawing of the stream, every figure with its sentence, a switchboard,
the words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from analysis import over_seeds
from experiments.studies.builders import IN_SMALL
from experiments.studies.demonstration.asking import Findings
from experiments.studies.demonstration.told import printable, sentences, verdict
from figures import html_page
from figures.files import write_figure
from figures.images import write_images
from figures.models.ablation import ablation_bars
from figures.models.edges import edge_drawing
from figures.models.gradients import gradient_shares
from figures.models.head_scores import head_scores
from figures.models.patching import patch_heat_map
from figures.theme import themed
from figures.trainings.learning import learning_curves
from figures.trainings.progress import progress_measures

TITLE = "Is it the information, or the gradient?"
TASK = (
    "The task: a sequence of items with their labels, and a last item whose label is asked for. In context, its class "
    "is one that no training has shown, so that only the sequence says which label is right."
)
MODELS = (
    "Two-layer transformers learn it in four variants: classic has the residual stream alone; value adds the attention "
    "values of layer 0 to those of layer 1; value-stop cuts the gradient through that stream and keeps what it "
    "carries; value-gradient-only keeps the gradient and carries exactly nothing."
)
CAUSE = (
    "Steps to 95 % accuracy on novel classes, over seeds that all variants share. A ratio of 1 is no effect; an "
    "interval that holds 1 tells nothing apart."
)
WORDS = {
    "residual stream": "What every layer reads and adds to; in a classic transformer the one way from layer to layer.",
    "residual values stream": "The second way: the attention values of a layer, added to those of the next.",
    "own, mixed values": "A head's own values are what its weights make of the residual stream; mixed are these plus "
    "what the stream brings, and are what attention uses.",
    "gate": "What a stream lets through: its values and its gradient (full), its values alone (stop), its gradient "
    "alone (gradient-only), or neither (off).",
    "in context, novel classes": "The target's class was in no training, so that its label can only be read off the "
    "sequence.",
    "ILA, TILA, TLA": "Attention from a label to the item before it (first layer), from the target to the labels of "
    "its class, and to all labels (last layer).",
    "CLA": "Probability, summed, of the labels that occur in the sequence.",
    "L1H0": "Head 0 of layer 1; both are counted from 0. L0H0.v > L1H0.v is the edge from the values of one head to "
    "those of another.",
    "patching": "A model runs on a corrupted sequence, and one thing is put back as it was on the clean one. The "
    "effect is how much of the difference between the two runs comes back: 0 is nothing, 1 is all.",
    "logit difference": "The logit of the right label less that of the label that is right in the corrupted sequence.",
    "ablation": "A part is replaced by its mean over sequences, or a gate is shut, and the model does without it.",
    "gradient share": "Of a weight's gradient, the norm of what came through the stream over the sum of the norms of "
    "both ways.",
    "95 % interval": "Of Student's t over seeds, if nothing else is said.",
}


def write_page(found: Findings, out: Path, images: bool = False) -> Path:
    """Write the figures (JSON and HTML) and the page that holds them all, and return the page's path.

    Raises:
        RuntimeError: if ``images`` (PNG and SVG) are wanted and cannot be drawn here; the page is there all the same.
    """
    metrics = over_seeds(found.metrics[found.metrics.split == "ic"])
    figures = {
        "learning_curves": ("Which comes first", learning_curves(metrics, of=IN_SMALL)),
        "progress_measures": ("By which progress", progress_measures(metrics, of=IN_SMALL)),
        "head_scores": ("Which heads do it", head_scores(found.heads, of=IN_SMALL)),
        "patching": ("By which route", patch_heat_map(found.patches)),
        "edges": ("By which edges", edge_drawing(found.edges)),
        "ablation": ("What breaks", ablation_bars(found.ablations)),
        "gradient_shares": ("Where the gradient came from", gradient_shares(found.gradients)),
    }
    told = sentences(found)
    drawn = {"stream": _drawing(found)} | {name: figure for name, (_, figure) in figures.items()}
    for name, figure in drawn.items():
        write_figure(figure, out / name)
    board = ["Click a head for what it attends to, an edge to cut it, or move the bar through the training."]
    models = {str(run.load_model()): None for run in found.runs if run.config.seed == 0}
    sections: list[dict[str, Any]] = [
        {"heading": "The stream", "figure": drawn["stream"]},
        {"heading": "How soon", "text": [CAUSE], "table": printable(found.table)},
        *({"heading": heading, "text": told[name], "figure": figure} for name, (heading, figure) in figures.items()),
        {"heading": "The switchboard of one run", "text": board, "switchboard": found.switchboard},
        {"heading": "The models", "code": "\n\n".join(models)},
    ]
    made = found.runs[0].record["environment"]
    git = (made["git"] or {}).get("commit", "unknown")[:10]
    runs = ", ".join(run.path.name for run in found.runs)
    footer = f"valuestream {made['valuestream']} at {git}, torch {made['torch']}. Runs: {runs}."
    lead = [verdict(found.table), TASK, MODELS]
    page = html_page.write_page(out / "index.html", TITLE, lead, sections, footer, WORDS)
    if images:
        write_images(drawn, out)
    return page


def _drawing(found: Findings) -> go.Figure:
    model = next(run for run in found.runs if run.config.variant == "value").load_model()
    return themed(
        go.Figure(model.figure()).update_layout(title=None),
        "Values of layer 0 reach those of layer 1 without passing through the residual stream",
        "Boxes are what a layer makes of the residual stream: queries, keys, values.",
        height=420,
        below=30,
        of=model.config.finding(),
    )
