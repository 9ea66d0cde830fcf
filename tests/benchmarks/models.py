"""Speeds, as ratios within one interleaved run on one thread: ``make bench``.

Every figure is a median of pairs measured next to each other, because a machine's speed drifts. Nothing here is a test.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import time
from collections.abc import Callable
from statistics import median
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from torch import Tensor
from torch.nn import functional as F

from circuits import HookedStreamTransformer, icl_config
from circuits.attention import Attention
from circuits.config.model import ModelConfig
from circuits.last_position import run_last
from circuits.products import bare, compile_without_python, has_onednn, through_onednn
from circuits.streams.mixing import Mix
from experiments.runs.config import icl_run
from experiments.runs.levels import AtLevels
from experiments.runs.training_config import SGD
from experiments.studies.times import THRESHOLDS
from experiments.tasks.in_context.compiled import compiled_backward, compiled_run_last
from experiments.tasks.in_context.measures import EvaluationSets, evaluate
from experiments.tasks.in_context.task import ICLTask
from experiments.training.engines import calibrated, compiles, step_products
from experiments.training.optimizers import make_optimizer
from tests.helpers import committed_curves, evaluated

torch.set_num_threads(1)
BATCH = 128
EVERY = 500
"""The paper's distance between evaluations."""
DEMO_VARIANTS = 4
IN_A_ROW = 32
"""Steps of one kind before the next kind's turn: in training, nothing else runs between two steps."""


def literal_logits(weights: dict[str, Tensor], x: Tensor, mask: Tensor) -> Tensor:
    """The value-stream classifier written out: every position in both layers and in the readout, nothing saved."""
    q1, k1, v1 = (x @ weights[f"blocks.0.attn.W_{c}"][0] for c in "QKV")
    h = x + (q1 @ k1.mT + mask).softmax(-1) @ v1
    q2, k2, v2 = (h @ weights[f"blocks.1.attn.W_{c}"][0] for c in "QKV")
    z = h + (q2 @ k2.mT + mask).softmax(-1) @ (v2 + v1)
    for i in range(3):
        z = torch.relu(z @ weights[f"readout.{i}.W"] + weights[f"readout.{i}.b"])
    return z @ weights["unembed.W_U"]


class _NoPoint:
    """Stands where a hook point stood, and costs a plain call at most."""

    fwd_hooks: tuple[()] = ()
    _forward_hooks = _forward_pre_hooks = _backward_hooks = _backward_pre_hooks = ()

    def __call__(self, x: Tensor) -> Tensor:
        return x


def without_hook_points(model: HookedStreamTransformer) -> HookedStreamTransformer:
    """The same model, every hook point replaced by nothing."""
    bare = _NoPoint()
    for module in list(model.modules()):
        for name in [n for n in module._modules if n.startswith("hook_")]:
            del module._modules[name]
            module.__dict__[name] = bare
        if isinstance(module, (Attention, Mix)):
            module.__dict__["point"] = lambda _name: bare
    model._points = []
    return model


class Steps:
    """One training step of each kind, on the same prepared batches."""

    def __init__(self, config: ModelConfig, preset: str):
        self.task = ICLTask(preset)
        self.batches = [self.task.sample(BATCH, seed=i) for i in range(8)]
        self.inputs = [batch.inputs for batch in self.batches]
        self.model, self.hooked = HookedStreamTransformer(config).train(), HookedStreamTransformer(config).train()
        self.bare = without_hook_points(HookedStreamTransformer(config)).train()
        self.loss = self.task.fast_loss(self.model)
        self.compiled_backward = compiled_backward(self.model) if compiles() else None
        self.onednn_backward = compiled_backward(self.model) if compiles() else None
        self.products = step_products(icl_run("value", preset))
        self.weights = {n: p.detach().clone().requires_grad_() for n, p in self.model.named_parameters()}
        self.update = make_optimizer(SGD(), dict(self.model.named_parameters()))
        self.literal_update = make_optimizer(SGD(), self.weights)
        n = self.task.config.n_tokens
        self.mask = torch.full((n, n), -torch.inf).triu(1)

    def fast(self, i: int) -> None:
        self.model.zero_grad()
        self.loss(self.batches[i % 8]).backward()
        self.update.step()

    def compiled(self, i: int) -> None:
        assert self.compiled_backward is not None, "asked only where there is a compiler"
        self.compiled_backward(self.batches[i % 8])
        self.update.step()

    def compiled_with_onednn(self, i: int) -> None:
        assert self.onednn_backward is not None, "asked only where there is a compiler"
        with through_onednn(self.products):
            self.onednn_backward(self.batches[i % 8])
        self.update.step()

    def literal(self, i: int) -> None:
        for weight in self.weights.values():
            weight.grad = None
        logits = literal_logits(self.weights, self.inputs[i % 8], self.mask)[:, -1]
        F.cross_entropy(logits, self.batches[i % 8].labels).backward()
        self.literal_update.step()

    def data(self, i: int) -> None:
        _ = self.task.sample(BATCH, seed=100 + i).tokens.x_columns

    def with_points(self, i: int) -> None:
        self._hooked(self.hooked, i)

    def without_points(self, i: int) -> None:
        self._hooked(self.bare, i)

    def _hooked(self, model: HookedStreamTransformer, i: int) -> None:
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(self.inputs[i % 8])[:, -1], self.batches[i % 8].labels).backward()


def interleaved(rounds: int, **kinds: Callable[[int], None]) -> dict[str, list[float]]:
    """CPU seconds of one step of every kind in every round: the kinds in turn, some steps of each."""
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for i in range(-2, rounds):
        for name, step in kinds.items():
            start = time.process_time()
            for j in range(IN_A_ROW):
                step(IN_A_ROW * i + j)
            if i >= 0:
                times[name].append((time.process_time() - start) / IN_A_ROW)
    return times


def ratio(times: dict[str, list[float]], over: str, under: str) -> float:
    return median(a / b for a, b in zip(times[over], times[under], strict=True))


def fast_steps(seconds: float, preset: str, queue: Any) -> None:
    """Report how many fast steps a process makes a second of wall time."""
    torch.set_num_threads(1)
    steps = Steps(icl_config("value", preset), preset)
    for i in range(10):
        steps.fast(i)
    queue.put("ready")
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        steps.fast(count)
        count += 1
    queue.put(count / (time.perf_counter() - start))


def side_by_side(processes: int, seconds: float, preset: str) -> float:
    """Steps a second of so many processes together."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    workers = [context.Process(target=fast_steps, args=(seconds, preset, queue)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    said = [queue.get() for _ in range(2 * processes)]
    for worker in workers:
        worker.join()
    return sum(value for value in said if value != "ready")


def two_against_one(rounds: int, seconds: float, preset: str) -> float:
    """How much more two processes do than one, median of pairs."""
    return median(side_by_side(2, seconds, preset) / side_by_side(1, seconds, preset) for _ in range(rounds))


def evaluation_share(steps: Steps, n_eval: int, rounds: int) -> float:
    """CPU time of evaluating at the paper's schedule over that of the training between two, as runs do it."""
    fast, update = (compiled_run_last(), steps.compiled) if compiles() else (run_last, steps.fast)
    sets = EvaluationSets(steps.task, n_eval)
    shares = []
    evaluate(steps.model.eval(), sets, fast)
    for _ in range(rounds):
        steps.model.eval()
        start = time.process_time()
        evaluate(steps.model, sets, fast)
        evaluating = time.process_time() - start
        steps.model.train()
        start = time.process_time()
        for i in range(EVERY // 5):
            steps.data(i)
            update(i)
        shares.append(evaluating / (5 * (time.process_time() - start)))
    return median(shares)


def product_rates(rounds: int) -> dict[str, float]:
    """Billions of operations a second of products by both libraries, and of those that have only the default one."""
    a, b, thin = torch.randn(1024, 1024), torch.randn(1024, 1024), torch.randn(BATCH, 17, 150)
    kinds: dict[str, Callable[[], Tensor]] = {"1024 cubed, default": lambda: a @ b}
    kinds |= {"1024 cubed, oneDNN": lambda: bare(a, b, None)} if has_onednn() else {}
    kinds |= {f"{BATCH} of 17 x 150 x 17, default": lambda: torch.bmm(thin, thin.mT)}
    size = {kind: BATCH * 17 * 150 * 17 if "17" in kind else 1024**3 for kind in kinds}
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, multiply in kinds.items():
            calls = max(1, 2**28 // size[kind])
            start = time.process_time()
            for _ in range(calls):
                multiply()
            found[kind].append(2e-9 * calls * size[kind] / (time.process_time() - start))
    return {kind: median(rates) for kind, rates in found.items()}


def report_products(steps: Steps, times: dict[str, list[float]], rounds: int) -> None:
    """Print what oneDNN's products give, and what a sweep would choose here."""
    for kind, rate in product_rates(rounds).items():
        row(f"products, {kind}", f"{rate:.0f} GF/s", "")
    if "compiled_with_onednn" in times:
        gain = ratio(times, "compiled", "compiled_with_onednn")
        row("compiled step, default products / by oneDNN", f"{gain:.2f} x", ">= 1.4 x where oneDNN's are twice as fast")
        taken = calibrated(steps.products, "compiled")
        row("larger products of a step that a calibration takes", f"{len(taken)} of {len(steps.products)}", "")


def evaluations_at_levels() -> float:
    """Evaluations of the committed runs at the paper's size by those that they had, if they followed their curves."""
    runs = [run for run in committed_curves() if run[0] == "paper"]
    schedule = AtLevels(THRESHOLDS, EVERY)
    new = [len(evaluated(curve, total, schedule, last=int(steps[-1]))) for _, total, steps, curve in runs]
    return sum(new) / sum(len(steps) for _, _, steps, _ in runs)


def row(what: str, found: str, asked: str) -> None:
    print(f"{what:<74} {found:>16}   {asked}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds, of a few steps each")
    parser.add_argument("--preset", default="paper")
    options = parser.parse_args()
    print(
        f"torch {torch.__version__}, {platform.processor() or platform.machine()}, one thread, {options.preset} preset"
    )
    compile_without_python()
    steps = Steps(icl_config("value", options.preset), options.preset)
    names = ["literal", "fast", "data", "with_points", "without_points"]
    names += ["compiled"] if compiles() else []
    names += ["compiled_with_onednn"] if compiles() and has_onednn() else []
    kinds = {name: getattr(steps, name) for name in names}
    times = interleaved(options.rounds, **kinds)
    row("what", "found", "asked")
    for name, values in times.items():
        row(f"CPU time of one: {name.replace('_', ' ')}", f"{median(values) * 1e3:.2f} ms", "")
    taken = "compiled" if "compiled" in times else "fast"
    how = {"fast": "eager", "compiled": "compiled"}
    for kind in (name for name in times if name in how):
        asked = ">= 6 x" if kind == taken else ""
        row(f"literal all-positions step / fast step, {how[kind]}", f"{ratio(times, 'literal', kind):.2f} x", asked)
    report_products(steps, times, options.rounds)
    row(
        "hooked step with hook points (none attached) / without",
        f"{ratio(times, 'with_points', 'without_points'):.3f} x",
        "<= 1.03 x",
    )
    alone = ratio(times, "data", taken)
    row(
        f"data generation / fast step, batch shared by {DEMO_VARIANTS} variants",
        f"{alone / DEMO_VARIANTS:.1%}",
        "< 15 %",
    )
    row("data generation / fast step, batch not shared", f"{alone:.1%}", "")
    share = evaluation_share(steps, 10_000, 3)
    row("evaluation / training at the paper's schedule", f"{share:.1%}", "< 25 %")
    row("the same, evaluated at the studies' levels", f"{share * evaluations_at_levels():.1%}", "< 25 %")
    row(
        "two processes / one, steps a second",
        f"{two_against_one(3, 8.0, options.preset):.2f} x",
        ">= 1.8 x, 2 free cores",
    )


if __name__ == "__main__":
    main()
