"""The command ``valuestream``: a table of commands. Torch is imported when one runs, and not for ``--help``."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any, Literal

from tyro.conf import Positional

from circuits.common.errors import require
from circuits.common.screen import say
from experiments.commands import books, corpus, exchange, models, notebooks, rerun, runs, study, sweep, train
from experiments.options import option
from experiments.output import Output, answer
from experiments.parsing import PROGRAM, Command, Helped, completion_script, fitted, parsed
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


def completion(
    shell: Positional[Annotated[Literal["bash", "zsh", "fish"], option("whose completion")]],
) -> None:
    """Print what a shell runs to complete commands and options, as in: source <(valuestream completion bash)."""
    answer(completion_script(COMMANDS, shell))


COMMANDS: dict[str, Command] = {
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
    "books": books.books,
    "sweep": sweep.sweep,
    "collect": sweep.collect,
    "rerun": rerun.rerun,
    "amicl": study.amicl,
    "mechanism": study.mechanism,
    "lm-mechanism": study.lm_mechanism,
    "lm-cost": study.lm_cost,
    "learned-gains": study.learned_gains,
    "gains-in-training": study.gains_in_training,
    "interference": study.interference,
    "figures": study.figures,
    "reproduce": study.reproduce,
    "notebooks": notebooks.notebooks,
    "completion": completion,
}


def _about() -> str:
    there = ", ".join(f"{name} ({module})" for name, module in installed().items())
    return (
        "Mechanistic interpretability of transformers with residual attention streams. --version prints the version. "
        "Exit codes: 0 done, 2 an error that a sentence explains, 130 interrupted."
        + (f" Installed plugins: {there}." if there else "")
    )


def _require_tables(command: Command, output: Output) -> None:
    """Refuse JSON and CSV of a command that has no tables, which is one that returns nothing."""
    none = command.__annotations__.get("return") in (None, "None")
    require(not (none and output.for_machines), "this command finds no table; leave out --json and --csv")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 2 for an error that a sentence explains, 130 after an interrupt."""
    # Two threads on matrices of this size are many times slower than one; workers use the other cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    given = list(sys.argv[1:] if arguments is None else arguments)
    errors = sys.stderr

    def warn(message: Warning | str, *_: Any, **__: Any) -> None:
        say(f"warning: {message}", errors)

    try:
        if given == ["--version"]:
            answer(f"{PROGRAM} {version('valuestream')}")
            return 0
        try:
            command, output = parsed(COMMANDS, given, _about())
        except Helped as text:
            answer(fitted(str(text)))
            return 0
        with warnings.catch_warnings():
            warnings.showwarning = warn
            with output.heard():
                _require_tables(command.func, output)
                if output.plugin and "" not in sys.path:
                    sys.path.insert(0, os.getcwd())  # an installed command does not look where it is called
                load_plugins(output.plugin)
                tables = command()
            output.write(tables or {})
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads the output has had enough (`valuestream runs | head -1`), which is no error of anyone's.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        say("interrupted; every run is saved: give the same command again to go on", errors)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get("VALUESTREAM_TRACEBACK"):
            raise
        say(f"error: {_told(error)}", errors)
        return 2
    return 0


def _told(error: Exception) -> str:
    """What an error says; of one of the system, which says what is wrong with which file, also what to do."""
    if not isinstance(error, OSError) or error.filename is None:
        return str(error)
    return f"{error.filename} cannot be used ({error.strerror}); name another path, or change what stands there"


if __name__ == "__main__":
    sys.exit(main())
