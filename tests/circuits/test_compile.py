"""Compiled code is the eager code, without a graph break, and ignores no hook. In processes without a checker."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from circuits.products import has_onednn

COMPILER = shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="torch.compile needs a C++ compiler here")


def run(script: str) -> str:
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout


STEP = """
import torch
from circuits import HookedStreamTransformer, icl_config
from experiments.tasks.in_context.task import ICLTask
from circuits.last_position import run_last
from experiments.tasks.in_context.compiled import compiled_backward, compiled_run_last
torch.set_num_threads(1)
batches = [ICLTask("small").sample(128, seed=i) for i in range(2)]

def eager_backward(loss_of, model):
    def backward(batch):
        model.zero_grad()
        loss = loss_of(batch)
        loss.backward()
        return loss.detach()

    return backward

def found(backward, model):
    values = []
    for batch in batches:
        values += [backward(batch), *(p.grad for p in model.parameters() if p.grad is not None)]
    return values

def same(a, b):
    return len(a) == len(b) and all(torch.allclose(x, y, atol=1e-5) for x, y in zip(a, b))

for variant in VARIANTS:
    model = HookedStreamTransformer(icl_config(variant, "small"))
    eager, compiled = eager_backward(ICLTask("small").fast_loss(model), model), compiled_backward(model)
    before = found(eager, model)
    assert same(found(compiled, model), before), variant
    assert not same(before[: len(before) // 2], before[len(before) // 2 :]), "another batch, another gradient"
    if model.config.streams:
        model.set_gate("off" if model.config.streams[0].gate == "full" else "full")
        after = found(eager, model)
        assert same(found(compiled, model), after), variant
        assert not same(before, after), "a new gate is compiled in"
    with torch.no_grad():
        tokens = ICLTask("small").sample(50, "ic").tokens
        assert same(compiled_run_last()(model, tokens), run_last(model, tokens)), variant
print("equal")
"""


HOOKS = """
import torch
from circuits import HookedStreamTransformer, icl_config
torch.set_num_threads(1)
model = HookedStreamTransformer(icl_config("value", "small")).eval()
x = torch.randn(2, 5, 64)
plain = model(x)
whole = torch.compile(model, fullgraph=True)
assert torch.allclose(whole(x), plain, atol=1e-4)

class Trap(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.point = torch.nn.Identity()
    def forward(self, x):
        return self.point(x) + 1

trap = Trap()
# What is refused or ignored is decided before any code is made.
ignoring = torch.compile(trap, backend="eager")
ignoring(x)
trap.point.register_forward_hook(lambda module, args, out: out * 0)
print("trap" if not torch.equal(ignoring(x), trap(x)) else "no trap")

compiled = torch.compile(model, backend="eager")
compiled(x)
zero = lambda t, hook: t * 0
for name in ("blocks.1.attn.hook_z", "blocks.1.attn.hook_v_mixed", "blocks.0.hook_resid_pre"):
    with model.hooks(fwd_hooks=[(name, zero)]):
        assert not torch.allclose(model(x), plain, atol=1e-3)
        try:
            compiled(x)
            print("ignored", name)
        except RuntimeError as error:
            print("refused" if "called with hooks attached" in str(error) else error)
assert torch.allclose(compiled(x), plain, atol=1e-4)
hooked = compiled.run_with_hooks(x, fwd_hooks=[("blocks.1.attn.hook_z", zero)])
assert torch.equal(hooked, model.run_with_hooks(x, fwd_hooks=[("blocks.1.attn.hook_z", zero)]))
"""


@pytest.fixture(scope="module")
def printed() -> list[str]:
    """What both print; one process for them, as each would wait for torch and its compiler to be imported."""
    return run(f"{HOOKS}\nVARIANTS = ['value']\n{STEP}").split()


def test_p11_a_compiled_model_refuses_hooks_that_it_would_ignore(printed: list[str]) -> None:
    assert printed[:-1] == ["trap", "refused", "refused", "refused"]


def test_the_compiled_training_step_is_the_eager_one_in_one_graph(printed: list[str]) -> None:
    assert printed[-1] == "equal"


@pytest.mark.slow
def test_the_compiled_training_step_of_other_variants_is_the_eager_one_too() -> None:
    variants = ("classic", "value-gradient-only", "resformer-learned")
    assert run(f"VARIANTS = {variants}\n{STEP}").strip() == "equal"


PRODUCTS = """
import torch
from torch._inductor.utils import run_and_get_code
from circuits import HookedStreamTransformer, icl_config, lm_config
from circuits.products import compile_without_python, product, through_onednn
from experiments.tasks.in_context.task import ICLTask
from experiments.tasks.in_context.compiled import compiled_backward
torch.set_num_threads(1)
compile_without_python()
torch._dynamo.config.trace_autograd_ops = True
x, weight = torch.randn(48, 20), torch.randn(20, 33, requires_grad=True)

def step(x):
    return torch.autograd.grad(product(x, weight).square().mean(), [weight])

compiled = torch.compile(step, fullgraph=True, options={"cpp_wrapper": True, "fx_graph_cache": False})
for shapes in ([], [(48, 20, 33), (20, 48, 33)]):
    with through_onednn(shapes):
        (found,), code = run_and_get_code(compiled, x)
    assert torch.allclose(found, step(x)[0], atol=1e-5)
    for word in ("cpu_mm_out(", "cpu__linear_pointwise(", "valuestream.onednn_product("):
        print(sum(text.count(word) for text in code), end=" ")

def gradients(backward, model):
    model.zero_grad()
    backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]

def near(a, b):
    most = max(float(g.abs().max()) for g in b)
    return all(float((x - y).abs().max()) <= 1e-5 * most for x, y in zip(a, b, strict=True))

task, model = ICLTask("small"), HookedStreamTransformer(icl_config("value", "small"))
batch = task.sample(32)
usual = gradients(lambda: task.fast_loss(model)(batch).backward(), model)
with through_onednn([(32, 64, 64), (64, 32, 64), (64, 64, 64), (288, 47, 64), (47, 288, 64)]):
    found = gradients(lambda: compiled_backward(model)(batch), model)
assert near(found, usual) and not near([2 * g for g in found], usual)

model = HookedStreamTransformer(lm_config("0.2m", "classic", 50, n_layers=1)).train()
tokens = torch.randint(50, (4, 24))
usual = gradients(lambda: model(tokens, "loss").backward(), model)
whole = torch.compile(lambda tokens: model(tokens, "loss"), fullgraph=True)
sizes = (50, 64, 96, 256)
with through_onednn((a, b, c) for a in sizes for b in sizes for c in sizes):
    found, again = (gradients(lambda: whole(tokens).backward(), model) for _ in range(2))
assert near(found, usual) and all(map(torch.equal, found, again))
"""


@pytest.mark.slow
@pytest.mark.skipif(not has_onednn(), reason="this torch was built without oneDNN")
def test_products_through_onednn_compile_and_are_called_without_python() -> None:
    words = "the default's, oneDNN's, and our operator's, through Python: before and within the block"
    assert run(PRODUCTS).split() == ["2", "0", "0", "0", "2", "0"], words
