"""What measures are called, for tables and figures."""

PROGRESS: dict[str, str] = {
    "ila": "item-label association: first-layer attention from a label to the item before it, mean over the labels",
    "tila": "target-item-label association: last-layer attention from the target to the labels of its class, summed",
    "tla": "target-label association: last-layer attention from the target to all labels, summed",
    "cla": "context-label accuracy: probability, summed, of the labels that occur in the context",
}
"""The progress measures of in-context classification; see :mod:`analysis.heads.progress_measures`."""
