"""The switchboard as one HTML page: the document, the module and its style, and a table for who runs no scripts."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from circuits.common.errors import require
from circuits.common.files import path_of, written_file

FORMAT = "valuestream switchboard 1"
"""The documents that this page shows."""
HERE = Path(__file__).parent
STYLE = (HERE / "switchboard.css").read_text("utf-8")
"""Of every element of the class ``switchboard``, and of nothing else."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_SEEN_OF_OTHER_RUNS = {"node": ("effect",), "edge": ("effect",)}
Rows = Iterable[Sequence[Any]]


def write_switchboard(path: str | Path, data: Mapping[str, Any]) -> Path:
    """Write :func:`switchboard_page` of a document and return the path of the file."""
    file = path_of("a page", path)
    return written_file("a page", file, switchboard_page(data).encode())


def switchboard_page(data: Mapping[str, Any]) -> str:
    """Return a document as one page of HTML that needs no other file, no network and no kernel.

    Every number of the first run is in it in full precision; of the other runs, which are drawn in small, it holds
    effects, and of prompts the norms of values, both to six digits. Without scripts it is a table of the last step.

    Raises:
        ValueError: if the document is of another format, or holds a number that is not finite.
    """
    part = switchboard_part(data, "switchboard")
    title = html.escape(str(data["title"]))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{title}</title>
<style>body {{ margin: 0; background: #f4f5f7; }} body > main {{ max-width: 1480px; margin: auto; }}
{STYLE}</style></head>
<body><main>{part}</main></body></html>
"""


def switchboard_part(data: Mapping[str, Any], name: str) -> str:
    """Return a document as an element of a page of HTML, with the id ``name``; the page has :data:`STYLE`.

    Raises:
        ValueError: as :func:`switchboard_page`.
    """
    checked(data)
    # "<" can end the element; as an escape it stays in the text.
    document = as_json(_seen(data)).replace("<", "\\u003c")
    module = (HERE / "switchboard.js").read_text("utf-8")
    return f"""<div class="switchboard" id="{name}"><noscript>{_without_scripts(data)}</noscript></div>
<script type="application/json" id="{name}-document">{document}</script>
<script type="module">{module}
mount(document.getElementById("{name}"), JSON.parse(document.getElementById("{name}-document").textContent));
</script>"""


def checked(data: Mapping[str, Any]) -> None:
    """Refuse what is no document of this format."""
    found = data.get("format")
    require(found == FORMAT, f"a switchboard shows documents of the format {FORMAT!r}, got {found!r}")
    require(bool(data.get("runs")), "a switchboard shows at least one run, and this document has none")


def as_json(data: Mapping[str, Any]) -> str:
    """Return a document as JSON.

    Raises:
        ValueError: if a number in it is not finite.
    """
    try:
        return json.dumps(data, allow_nan=False, separators=(",", ":"))
    except ValueError as error:
        raise ValueError(
            f"a number that was not measured is None in a document, not NaN or infinite ({error})"
        ) from error


def _seen(data: Mapping[str, Any]) -> dict[str, Any]:
    """A document without the digits, and the numbers of other runs, that nobody sees."""
    first, *others = data["runs"]
    prompts = [dict(p, values=_rounded(p.get("values"))) for p in data.get("prompts", ())]
    return {**data, "runs": [first, *map(_in_small, others)], "prompts": prompts}


def _in_small(run: Mapping[str, Any]) -> dict[str, Any]:
    kept = {kind: {f: _rounded(run[kind][f]) for f in fields} for kind, fields in _SEEN_OF_OTHER_RUNS.items()}
    return {key: run[key] for key in ("name", "seed", "steps", "clean", "corrupt", "accuracy") if key in run} | kept


def _rounded(value: Any) -> Any:
    """Numbers to six digits, wherever they stand."""
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _without_scripts(data: Mapping[str, Any]) -> str:
    """The last step of the first run: every node that was measured, and every edge."""
    run, metric = data["runs"][0], str(data["metric"])
    edges, nodes = ([_last(run, kind, field) for field in fields] for kind, fields in _COLUMNS.items())
    named = [(edge["name"], edge["route"]) for edge in data["edges"]]
    edge_rows = [(*name, *numbers) for name, *numbers in zip(named, *edges, strict=True)]
    node_rows = [(node["name"], *numbers) for node, *numbers in zip(data["nodes"], *nodes, strict=True)]
    said = (
        f"{data['lead']} Numbers of step {run['steps'][-1]}; a browser that runs scripts shows the graph over training."
    )
    facts = "; ".join(f"{name}: {value}" for name, value in data.get("facts", ()))
    return "".join(
        [
            f"<h1>{html.escape(str(data['title']))}</h1><p>{html.escape(said)}</p><p>{html.escape(facts)}</p>",
            _table(
                "Edges", ("edge", "route", "effect", "low", "high", f"{metric} when cut", "gradient cosine"), edge_rows
            ),
            _table("Nodes", ("node", "effect", "low", "high"), [row for row in node_rows if row[1] is not None]),
        ]
    )


_COLUMNS = {"edge": ("effect", "low", "high", "metric", "cosine"), "node": ("effect", "low", "high")}


def _last(run: Mapping[str, Any], kind: str, field: str) -> Sequence[Any]:
    numbers = run[kind]
    return numbers[field][-1] if field in numbers else [None] * len(numbers["effect"][-1])


def _table(caption: str, heads: Sequence[str], rows: Rows) -> str:
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in heads)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    return f"<td>{'–' if value is None else html.escape(str(value))}</td>"
