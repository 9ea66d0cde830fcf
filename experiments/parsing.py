"""What is typed, made into a command that is ready to run; help that fits the screen; mistakes in a sentence.

Tyro reads commands and options from signatures; what it prints is caught here, and made narrower or shorter.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass, make_dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Union, get_args, get_origin

import tyro
from tyro.conf import OmitArgPrefixes, arg, subcommand
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from circuits.common.errors import known
from circuits.common.screen import columns, folded
from experiments.options import Options
from experiments.output import Output, Tables

Command = Callable[..., Tables | None]
Prepared = functools.partial[Tables | None]
"""A command with its options, to be called."""
PROGRAM = "valuestream"
WIDEST = 100
"""Columns of help at most, as longer lines are hard to read."""
OPTION = re.compile(r"^[│|]? +(?:-\w, )?(--[\w-]+)(?:[^-]*, (--no-[\w-]+))?", re.MULTILINE)
"""An option at the beginning of its line of help."""
CHOICES = re.compile(r"\{[^{}]*\}")
WRONG_CHOICE = re.compile(r"invalid choice '(.*)' for argument '(.*)'\. Expected one of \((.*)\)\.")
NO_VALUE = re.compile(r"Missing value for argument '(.*)'\. Expected \d+ values\.")
NO_NUMBER = re.compile(r"(?:(invalid literal for int\(\) with base 10)|could not convert string to float):")


class Helped(Exception):
    """Help was asked for; the text is what to print."""


def parsed(commands: Mapping[str, Command], words: Sequence[str], about: str) -> tuple[Prepared, Output]:
    """Return a command with its options, ready to be called, and how it is to speak.

    Raises:
        Helped: with help, where that is asked for.
        UnknownNameError: for an unknown command (nearest suggested).
        ValueError: for an option or a value that the command does not take, saying what it takes, or an option of
            several values without any.
    """
    asks_help = not {"-h", "--help"}.isdisjoint(words)
    named = _words_alone(words)
    if named:
        known("command", named[0], commands)
    elif not asks_help:
        raise ValueError(f"name a command; '{PROGRAM} --help' lists them")
    given, unknown = _read(commands, words, about)
    if unknown:
        raise ValueError(_unknown(commands, unknown, named, about))
    if bare := _without_values(given.command, words):
        raise ValueError(f"{bare[0]} needs a value after it, or several; leave it out where there is none")
    for value in given.command.keywords.values():
        if isinstance(value, Options):
            value.note(words)
    return given.command, given.output


def _without_values(command: Prepared, words: Sequence[str]) -> list[str]:
    """The options of several values that are given with none, as where a variable of the shell is empty."""
    options = dict(command.keywords)
    for value in command.keywords.values():
        options |= vars(value) if is_dataclass(value) else {}
    typed = {word.replace("_", "-") for word in words}
    return [
        option for name, value in options.items() if value == () and (option := f"--{name.replace('_', '-')}") in typed
    ]


def completion_script(commands: Mapping[str, Command], shell: str) -> str:
    """Return what a shell runs to complete commands and options: for ``bash``, ``zsh`` or ``fish``."""
    try:
        _read(commands, ["--tyro-print-completion", shell], "")
    except Helped as script:
        return str(script)
    raise AssertionError("unreachable: tyro ends the program when it has printed a script")


def _words_alone(words: Sequence[str]) -> list[str]:
    """The words before which no option stands that could have them as its value."""
    found = []
    for i, word in enumerate(words):
        if word.startswith("-"):
            continue
        if i and words[i - 1] == "--plugin":
            continue
        found.append(word)
    return found


def _read(commands: Mapping[str, Command], words: Sequence[str], about: str) -> tuple[Any, list[str]]:
    """The command and its output, and the words that say nothing to it."""
    printed, complained = _Caught(sys.stdout), _Caught(sys.stderr)
    try:
        with _narrow(), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(complained):
            return tyro.cli(
                _interface(commands),
                prog=PROGRAM,
                description=about,
                args=words,
                return_unknown_args=True,
                registry=_registry(),
            )
    except SystemExit as end:
        if not end.code:
            raise Helped(printed.getvalue()) from None
        raise ValueError(_complaint(complained.getvalue(), _words_alone(words))) from None


def _interface(commands: Mapping[str, Command]) -> type:
    """What tyro reads: a command of these, not called yet, and the options that all of them have."""
    kinds = [Annotated[Any, subcommand(name, constructor=_deferred(each))] for name, each in commands.items()]
    chosen: Any = Union[tuple(kinds)]  # noqa: UP007 # they are known when it runs
    fields = {"command": chosen, "output": Output}
    return make_dataclass("Given", [(n, OmitArgPrefixes[Annotated[kind, arg(name="")]]) for n, kind in fields.items()])


def _deferred(command: Command) -> Callable[..., Prepared]:
    """A command that is only prepared, so that nothing runs before all that was typed is understood."""

    @functools.wraps(command)
    def prepared(*given: Any, **named: Any) -> Prepared:
        return functools.partial(command, *given, **named)

    return prepared


def _registry() -> ConstructorRegistry:
    """How options are read: one that need not be given is told by what it takes, and not by ``None``."""
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def optional(info: PrimitiveTypeInfo) -> Any:
        kinds = [kind for kind in get_args(info.type) if kind is not type(None)]
        if get_origin(info.type) is None or len(kinds) != 1 or type(None) not in get_args(info.type):
            return None
        inner = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kinds[0], info.markers))
        if not isinstance(inner, PrimitiveConstructorSpec):
            return inner
        return PrimitiveConstructorSpec(
            nargs=inner.nargs,
            metavar=inner.metavar,
            instance_from_str=inner.instance_from_str,
            is_instance=lambda value: value is None or inner.is_instance(value),
            str_from_instance=lambda value: ["None"] if value is None else inner.str_from_instance(value),
            choices=inner.choices,
        )

    return registry


# --- what is printed --------------------------------------------------------------------------------------------------


class _Caught(io.StringIO):
    """A stream that keeps what is written, and is a terminal and of an encoding if the one that it stands for is."""

    def __init__(self, instead_of: Any):
        super().__init__()
        self._of = instead_of

    @property
    def encoding(self) -> str:  # type: ignore[override] # a text in memory has none of its own
        return self._of.encoding or "utf-8"

    def isatty(self) -> bool:
        return self._of.isatty()


@contextlib.contextmanager
def _narrow() -> Iterator[None]:
    """Let help be as wide as the screen and no wider than is read well."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(min(columns(), WIDEST))
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def fitted(help_text: str) -> str:
    """Return help whose first lines, which tyro prints as they are, fit the screen too."""
    width, lines = min(columns(), WIDEST), help_text.rstrip().split("\n")
    usage = lines[0]
    if len(usage) > width:
        usage = CHOICES.sub("COMMAND ...", usage)
    return "\n".join(folded(line, width) for line in [usage, *lines[1:]])


def _complaint(box: str, named: Sequence[str]) -> str:
    """What tyro says is wrong, without its box and what it says after that."""
    said: list[str] = []
    for line in box.splitlines()[1:]:
        text = line.strip("│|").strip()
        rule = not text.strip("─-╰╯")
        if rule and said:
            break
        said += [] if rule else [text]
    # Of what has no name there is only its kind, as PATH.
    sentence = re.sub(r"^(?:[A-Z|.]+: )?", "", " ".join(said).removeprefix("Error parsing "))
    if wrong := WRONG_CHOICE.fullmatch(sentence):
        known(f"value of {wrong[2]}", wrong[1], re.findall(r"'([^']*)'", wrong[3]))
    sentence = NO_VALUE.sub(r"\1 needs a value after it", sentence)
    sentence = NO_NUMBER.sub(lambda found: f"a {'whole ' * bool(found[1])}number is expected, got", sentence)
    if sentence.startswith("Expected one of {"):
        choices = sentence.partition("{")[2].partition("}")[0].split(", ")
        if len(named) > 1:
            known("command", " ".join(named[:2]), [f"{named[0]} {choice}" for choice in choices])
        sentence = f"'{PROGRAM} {named[0]}' needs one of {' or '.join(choices)} after it"
    return sentence


def _unknown(commands: Mapping[str, Command], unknown: Sequence[str], named: Sequence[str], about: str) -> str:
    """The sentence on the first word that says nothing to a command, with the option that was meant."""
    path = [named[0]]
    if len(named) > 1 and "{" in _help_of(commands, path, about).partition("\n")[0]:
        path.append(named[1])
    name = " ".join([PROGRAM, *path])
    wrong = next((word for word in unknown if word.startswith("-")), unknown[0]).partition("=")[0]
    if not wrong.startswith("-"):
        return f"'{name}' takes no {wrong!r} there; '{name} --help' says what it takes"
    options = [option for found in OPTION.findall(_help_of(commands, path, about)) for option in found if option]
    near = get_close_matches(wrong, options, n=3, cutoff=0.7)
    meant = f"did you mean {' or '.join(near)}?" if near else f"'{name} --help' lists its options"
    return f"'{name}' has no option {wrong}: {meant}"


def _help_of(commands: Mapping[str, Command], path: Sequence[str], about: str) -> str:
    try:
        _read(commands, [*path, "--help"], about)
    except Helped as text:
        return re.sub("\033\\[[0-9;]*m", "", str(text))
    raise AssertionError("unreachable: tyro ends the program when it has printed help")
