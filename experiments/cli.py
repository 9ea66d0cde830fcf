"""The command ``valuestream``: a table of commands. Torch is imported when one runs, and not for ``--help``."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import tyro

from circuits.common.errors import require
from experiments.commands import corpus, exchange, models, notebooks, runs, study, sweep, train
from experiments.plugins import installed, load_plugins
from experiments.questions.ablate import Ablate
from experiments.questions.attention import ViewAttention
from experiments.questions.attribute import Attribute
from experiments.questions.circuit import FindCircuit
from experiments.questions.command import command
from experiments.questions.explore import Explore
from experiments.questions.gradients import Gradients
from experiments.questions.heads import Heads
from experiments.questions.indirect_objects import IndirectObjects
from experiments.questions.logits import Logits
from experiments.questions.patch import Patch
from experiments.questions.paths import Paths
from experiments.questions.route_map import MapRoutes

COMMANDS: dict[str, Callable[..., None]] = {
    "demo": study.demo,
    "train": train.train,
    "import": exchange.import_model,
    "export": exchange.export,
    "runs": runs.runs,
    "variants": models.variants,
    "describe": models.describe,
    "map": command(MapRoutes),
    "attention": command(ViewAttention),
    "patch": command(Patch),
    "paths": command(Paths),
    "attribute": command(Attribute),
    "ablate": command(Ablate),
    "heads": command(Heads),
    "gradients": command(Gradients),
    "logits": command(Logits),
    "circuit": command(FindCircuit),
    "explore": command(Explore),
    "ioi": command(IndirectObjects),
    "corpus": corpus.corpus,
    "sweep": sweep.sweep,
    "collect": sweep.collect,
    "amicl": study.amicl,
    "mechanism": study.mechanism,
    "lm-mechanism": study.lm_mechanism,
    "lm-cost": study.lm_cost,
    "learned-gains": study.learned_gains,
    "figures": study.figures,
    "reproduce": study.reproduce,
    "notebooks": notebooks.notebooks,
}


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning as the sentence that it is."""
    print(f"warning: {message}", file=sys.stderr)


def _describe() -> str:
    there = ", ".join(f"{name} ({module})" for name, module in installed().items())
    return (
        "Mechanistic interpretability of transformers with residual attention streams. --plugin MODULE, with any "
        "command, imports a module first that registers kinds of its own; --version prints the version."
        + (f" Installed plugins: {there}." if there else "")
    )


def _plugins(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The modules that ``--plugin`` names, wherever it stands, and the other arguments."""
    modules, rest, left = [], [], iter(arguments)
    for argument in left:
        option, equals, value = argument.partition("=")
        if option != "--plugin":
            rest.append(argument)
            continue
        value = value if equals else next(left, "")
        require(bool(value), "--plugin needs the name of a module: --plugin my_rules")
        modules.append(value)
    if modules and "" not in sys.path:
        sys.path.insert(0, os.getcwd())  # an installed command does not look where it is called
    return modules, rest


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 2 for an error that a sentence explains, 130 after an interrupt."""
    # Two threads on matrices of this size are many times slower than one; workers use the other cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["--version"]:
        print(f"valuestream {version('valuestream')}")
        return 0
    try:
        plugins, given = _plugins(given)
        if {"-h", "--help"}.isdisjoint(given):
            load_plugins(plugins)
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="valuestream", description=_describe(), args=given)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads the output has had enough (`valuestream runs | head -1`), which is no error of anyone's.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("interrupted; every run is saved: give the same command again to go on", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get("VALUESTREAM_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
