"""The loss's gradient split by route: at every checkpoint, or as it was logged while training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import analysis
from circuits.common.errors import require
from experiments.options import option
from experiments.output import say, show
from experiments.questions.over_checkpoints import over
from experiments.questions.question import Checkpoints, Frame, Model, OfInputs, Run, Sequences

if TYPE_CHECKING:
    from analysis.gradients.split import GradientSplit, GradientSteps
else:
    GradientSplit = GradientSteps = Any


@dataclass(frozen=True)
class Gradients(OfInputs):
    """Split the gradient at every checkpoint into direct and stream share; write and draw the shares."""

    n: Sequences = 256
    split: Annotated[
        str,
        option(
            "train, test, ic, ic2 or iw; of a language model train or validation: other draws than those of training, "
            "but of a corpus train are windows that are trained on"
        ),
    ] = "train"
    checkpoints: Checkpoints = ()
    activations: Annotated[tuple[str, ...], option("hook points, for the gradient there too")] = ()
    by: Annotated[Literal["total", "pair"], option("the stream's share, or that of every layer pair")] = "total"
    logged: Annotated[bool, option("what 'train --gradients-every' logged, instead of the checkpoints")] = False

    def validate(self) -> None:
        """Refuse options with which nothing can be asked, before work starts.

        Raises:
            ValueError: as :meth:`OfInputs.validate`, and for options that a log cannot have: it has the parameters'
                shares in total, at the steps and of the sequences that the training was told.
        """
        super().validate()
        told = ", ".join(self.given(*(f.name for f in fields(self) if f.name != "logged"))) if self.logged else ""
        require(not told, f"{told}: what was logged is as the training logged it; leave out that, or --logged")

    def named_steps(self) -> tuple[int, ...]:
        """Return the checkpoints that are named."""
        return self.checkpoints

    def ask(self, run: Run, progress: bool = False, kept: analysis.KeptIn | None = None) -> GradientSteps:
        """Return the split by route of the loss's gradient: step, tensor, head, norms, shares, cosines.

        The loss is the task's, or of pairs of a file that of their answers. The tensors are the parameters, and the
        activations at the hook points named. By "pair", the stream's share by the layer pair that it crossed.

        Raises:
            RunError: if what was logged is asked for, and nothing was.
            ValueError: for pairs of a model without a stream, and as :meth:`validate`.
        """
        from analysis.gradients.split import GradientSteps

        if self.logged:
            return GradientSteps(run.gradients())
        split = self._of_file if self.file is not None else self._of_task(run)

        def at(model: Model) -> Frame:
            found = split(model)
            return found.pairs_to_frame() if self.by == "pair" else found.to_frame()

        return GradientSteps(over(self, run, self.checkpoints, at, progress, kept))

    def _of_task(self, run: Run) -> Callable[[Model], GradientSplit]:
        task = run.task(self.device)
        batch = task.held_out(self.n, self.split)
        return lambda model: task.split_gradient(model, batch, self.activations, self.by)

    def _of_file(self, model: Model) -> GradientSplit:
        from analysis import METRICS, split_gradient

        assert self.file is not None, "asked only where there is one"
        pair = self.file.pair(model)
        return split_gradient(
            model, lambda logits: METRICS["loss"](logits, pair).mean(), pair.clean, self.activations, self.by
        )

    def tell(self, run: Run, found: GradientSteps) -> list[Path]:
        """Print the attention's shares at the first, middle and last step, write and draw all."""
        from experiments.tasks.text.task import TextTaskConfig
        from figures.models.gradients import gradient_pairs, gradient_shares

        name, columns, draw = "gradients", ["whole", "direct", "stream", "stream_share", "alignment"], gradient_shares
        if self.by == "pair":
            columns = ["reader", "source", "read", "fed", "norm", "share", "cosine"]
            name, draw = "gradient_pairs", gradient_pairs
        frame = found.to_frame()
        attention = frame[frame.tensor.str.contains("attn")]
        steps = sorted(frame.step.unique())
        shown = attention[attention.step.isin({steps[0], steps[len(steps) // 2], steps[-1]})]
        finite = isinstance(run.config.task, TextTaskConfig) and self.split == "train"
        drawn = f"{self.n} sequences of {self.split}{' (windows that it is trained on)' * finite}"
        asked = drawn if self.file is None else f"the answers' loss on {len(self.file.rows)} pairs of {self.file.name}"
        of = "as logged in training" if self.logged else asked
        say(f"{run.path.name}: gradient of the loss by route, {of}; first, middle and last of {len(steps)} steps:")
        reached = shown[shown.norm > 0] if self.by == "pair" else shown
        show(reached[["step", "tensor", "head", *columns]])
        return self.keep(run, name, frame, draw)
