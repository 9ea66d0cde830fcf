"""The switchboard in a notebook: the page's own module as a widget, with a kernel that answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from figures.explore.page import HERE, as_json, checked

if TYPE_CHECKING:
    from anywidget import AnyWidget
else:
    AnyWidget = Any

Answer = Callable[[dict[str, Any]], dict[str, Any]]
"""What answers the widget: from what it asks ("changes": step and changes; "prompt": text and step) to the numbers."""


def switchboard_widget(data: Mapping[str, Any], answer: Answer | None = None) -> AnyWidget:
    """Return a document as a widget; its traits ``step``, ``selected`` and ``changes`` follow what is chosen, and lead.

    ``answer`` computes what is asked and makes the widget live; a ``ValueError`` of it is shown as its sentence.

    Raises:
        ValueError: if the document is of another format.
        ImportError: if anywidget is missing, saying what to install.
    """
    checked(data)
    last = int(data["runs"][0]["steps"][-1])
    widget = _widget_class()(data=as_json(data), live=answer is not None, step=last)
    if answer is not None:
        widget.on_msg(lambda _, asked, __: _reply(widget, answer, asked))
    return widget


@cache
def _widget_class() -> Any:
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise ImportError(
            "the switchboard in a notebook needs anywidget: pip install 'valuestream[notebook]'"
        ) from error

    class Switchboard(anywidget.AnyWidget):
        """A document (JSON), what is chosen in it, and whether a kernel answers."""

        _esm = (HERE / "switchboard.js").read_text("utf-8")
        _css = (HERE / "switchboard.css").read_text("utf-8")
        data = traitlets.Unicode().tag(sync=True)
        live = traitlets.Bool(False).tag(sync=True)
        step = traitlets.Int(0).tag(sync=True)
        selected = traitlets.Unicode("").tag(sync=True)
        changes = traitlets.Dict().tag(sync=True)

    return Switchboard


def _reply(widget: AnyWidget, answer: Answer, asked: dict[str, Any]) -> None:
    """Send what was asked its answer, or the sentence that says why there is none."""
    try:
        found = answer(asked)
    except ValueError as error:
        found = {"error": str(error)}
    except Exception as error:
        # Without an answer the page would say that the kernel is gone.
        widget.send({"id": asked.get("id"), "error": f"{type(error).__name__}: {error}"})
        raise
    widget.send({"id": asked.get("id"), **found})
