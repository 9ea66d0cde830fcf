"""The loss's gradient split by route: at every checkpoint, or as it was logged while training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from circuits.common.errors import require
from experiments.questions.question import Checkpoints, Frame, Model, Question, Run, Sequences, keep, show


@dataclass(frozen=True)
class Gradients(Question):
    """Split the gradient at every checkpoint into direct and stream share; write and draw the shares."""

    n: Sequences = 256
    split: Annotated[str, arg(help="train, test, ic, ic2 or iw; of a language model train or validation")] = "train"
    checkpoints: Checkpoints = ()
    activations: Annotated[tuple[str, ...], arg(help="hook points, for the gradient there too")] = ()
    by: Annotated[Literal["total", "pair"], arg(help="the stream's share, or that of every layer pair")] = "total"
    logged: Annotated[bool, arg(help="what 'train --gradients-every' logged, instead of the checkpoints")] = False

    def ask(self, run: Run, progress: bool = False) -> Frame:
        """Return the split by route of the loss's gradient: step, tensor, head, norms, shares, cosines.

        The tensors are the parameters, and the activations at the hook points named. By "pair", the stream's share by
        the layer pair that it crossed.

        Raises:
            RunError: if what was logged is asked for, and nothing was.
            ValueError: for pairs of a model without a stream, and for options that a log cannot have.
        """
        if self.logged:
            require(
                self.by == "total" and not self.activations,
                "what was logged are the parameters' shares in total; leave out --by and --activations",
            )
            return run.gradients()
        task = run.task(self.device)
        batch = task.held_out(self.n, self.split)

        def at(model: Model) -> Frame:
            split = task.split_gradient(model, batch, self.activations, self.by)
            return split.pairs_to_frame() if self.by == "pair" else split.to_frame()

        return self.over(run, self.checkpoints, at, progress)

    def tell(self, run: Run, found: Frame) -> list[Path]:
        """Print the attention's shares at the first, middle and last step, write and draw all."""
        from figures.models.gradients import gradient_pairs, gradient_shares

        name, columns, draw = "gradients", ["whole", "direct", "stream", "stream_share", "alignment"], gradient_shares
        if self.by == "pair":
            columns = ["reader", "source", "read", "fed", "norm", "share", "cosine"]
            name, draw = "gradient_pairs", gradient_pairs
        attention = found[found.tensor.str.contains("attn")]
        steps = sorted(found.step.unique())
        shown = attention[attention.step.isin({steps[0], steps[len(steps) // 2], steps[-1]})]
        of = "as logged in training" if self.logged else f"{self.n} sequences of {self.split}"
        print(f"{run.path.name}: gradient of the loss by route, {of}; first, middle and last of {len(steps)} steps:")
        reached = shown[shown.norm > 0] if self.by == "pair" else shown
        show(reached[["step", "tensor", "head", *columns]])
        return keep(run, name, found, draw)
