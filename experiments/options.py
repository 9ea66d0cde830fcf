"""Options that several commands have, with their help, and how help tells defaults and files that must be there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from tyro.conf import Positional, arg
from tyro.constructors import PrimitiveConstructorSpec

from circuits.common.files import folder_there, names_no_file
from experiments.runs.folder import VARIABLE

NOTHING = ("None", "", "False")
"""Defaults that say nothing to a reader: an option that is not given is not given."""


class Options:
    """Options of a command, a frozen dataclass, of which the shell notes what was typed."""

    typed: ClassVar[frozenset[str]] = frozenset()

    def given(self, *names: str) -> list[str]:
        """Return which of some options were typed or say something else than their defaults, as the shell writes them:
        a default that is typed is asked for like any other value."""
        there: Any = self
        told = [
            f.name
            for f in fields(there)
            if f.name in names and (f.name in self.typed or getattr(self, f.name) != f.default)
        ]
        return [f"--{name.replace('_', '-')}" for name in told]

    def note(self, words: Iterable[str]) -> None:
        """Note which options are among the words that were typed."""
        named = {word.partition("=")[0].removeprefix("--") for word in words if word.startswith("--")}
        typed = frozenset(name.removeprefix("no-").replace("-", "_") for name in named)
        object.__setattr__(self, "typed", typed)


def option(help: str, default: str | None = None, *, name: str | None = None, metavar: str | None = None) -> Any:
    """Return what tyro makes an option's help of; it ends with the default, told once: in words where there are some,
    else as it stands, and not at all where it is nothing."""

    def told(label: str) -> str:
        said = default or ("" if label in NOTHING else label)
        return f"(default: {said})" if said else ""

    return arg(help=help, help_behavior_hint=told, name=name, metavar=metavar)


def _spec(metavar: str, read: Callable[[str], Any]) -> PrimitiveConstructorSpec[Any]:
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: read(words[0]),
        is_instance=lambda value: value is None or isinstance(value, (str, Path)),
        str_from_instance=lambda value: [str(value)],
    )


def _path_there(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.exists():
        raise ValueError(f"there is no file or folder {text}")
    return path


def _there_or_on_the_hub(text: str) -> str:
    if names_no_file(text):
        raise ValueError(f"there is no file or folder {text}")
    return text


THERE = _spec("PATH", _path_there)
"""A file or folder that must be there when the command is given, before anything else is done."""
THEIRS = _spec("FOLDER", folder_there)
"""The folder of a model that others stored, which must be there; nothing is downloaded."""
NAMED = _spec("PATH|NAME", _there_or_on_the_hub)
"""A file, a folder or a name on the hub; what can only be a local path must be there."""

Root = Annotated[Path | None, option("where run directories are kept", f"runs, or what {VARIABLE} names")]
RunNames = Positional[
    Annotated[
        tuple[str, ...],
        option("one run or more: directories, names, ids, or how one of them begins", metavar="RUN..."),
    ]
]
Device = Annotated[str, option("cpu or cuda")]
Workers = Annotated[int | None, option("processes, each with runs of its own", "one a core")]
Extent = Annotated[Literal["full", "miniature"], option("all seeds, or fewer and nothing at the paper's size")]
BundlePath = Annotated[
    Path | None,
    option("directory of committed results", "those of the checkout; an installed copy's are only read"),
]
Roots = Annotated[tuple[Path, ...], option("directories with runs", f"runs, or what {VARIABLE} names")]
