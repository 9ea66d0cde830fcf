"""Products through oneDNN are products, with exact derivatives; and only those whose shapes are named go through it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from circuits import HookedStreamTransformer, icl_config, lm_config
from circuits.products import Shape, affine, has_onednn, operator, plus_product, product, through_onednn
from experiments.tasks.in_context.task import ICLTask

pytestmark = pytest.mark.skipif(not has_onednn(), reason="this torch was built without oneDNN")
ROWS, INNER, COLUMNS = 48, 20, 33
SHAPES: list[Shape] = [(ROWS, INNER, COLUMNS), (ROWS, COLUMNS, INNER), (INNER, ROWS, COLUMNS)]
"""Of a product and of the gradients of both its factors."""


def alike(shapes: Iterable[Shape]) -> list[tuple[int, ...]]:
    """Shapes in order, that of a product and that of its transpose as one."""
    return sorted(min(shape, shape[::-1]) for shape in shapes)


class Called(TorchDispatchMode):
    """Notes the products in a block: those by torch's default library, and those through oneDNN."""

    def __init__(self) -> None:
        super().__init__()
        self.usual, self.onednn = list[Shape](), list[Shape]()

    def __torch_dispatch__(self, func: object, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        name = str(func)
        if name.startswith(("aten.mm.", "aten.addmm", "valuestream.onednn_product")):
            a, b = args[1:3] if "addmm" in name else args[:2]
            (self.onednn if "onednn" in name else self.usual).append((*a.shape, b.shape[1]))
        return func(*args, **(kwargs or {}))  # type: ignore[operator] # an operator


def factors(dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, ROWS // 4, INNER), (INNER, COLUMNS), (COLUMNS,)]
    return [torch.randn(*s, generator=generator).to(dtype).requires_grad_() for s in shapes]


KINDS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "product": lambda x, w, b: product(x.flatten(0, 1), w),
    "of transposed": lambda x, w, b: product(w.mT, x.flatten(0, 1).mT).mT,
    "plus": lambda x, w, b: plus_product(b, x.flatten(0, 1), w),
    "affine": affine,
}


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_those_of_float64(kind: str) -> None:
    def values(dtype: torch.dtype) -> list[Tensor]:
        leaves = factors(dtype)
        found = KINDS[kind](*leaves)
        found.square().mean().backward()
        used = [leaf.grad for leaf in leaves if leaf.grad is not None]
        assert len(used) == (3 if kind in ("plus", "affine") else 2)
        return [found.detach(), *used]

    exact = values(torch.float64)
    every = {(a, b, c) for a in (ROWS, INNER, COLUMNS) for b in (ROWS, INNER, COLUMNS) for c in (ROWS, INNER, COLUMNS)}
    with through_onednn(every), Called() as called:
        found = values(torch.float32)
    assert not called.usual
    assert len(called.onednn) == 3
    for one, other in zip(found, exact, strict=True):
        assert one.dtype == torch.float32
        assert (one.double() - other).abs().max() <= 1e-6 * other.abs().max()


def test_the_operator_alone_has_no_derivative_of_the_weight() -> None:
    x, w, _ = factors(torch.float32)
    bare = torch.ops.mkldnn._linear_pointwise
    with pytest.warns(UserWarning, match="autograd kernel was not registered"):
        bare(x.flatten(0, 1), w.mT, None, "none", [], "").sum().backward()
    assert w.grad is None
    product(x.flatten(0, 1), w).sum().backward()
    assert w.grad is not None


def test_the_operator_keeps_what_torch_asks_of_operators() -> None:
    x, w, b = factors(torch.float32)
    torch.library.opcheck(operator, (x.detach().flatten(0, 1).requires_grad_(), w, b))


def test_only_products_of_named_shapes_go_through_it() -> None:
    x, w, b = factors(torch.float32)
    for named in ([], SHAPES[:1], SHAPES[:2], SHAPES):
        with through_onednn(named), Called() as called:
            affine(x, w, b).square().mean().backward()
        assert alike(called.onednn) == alike(named)
        assert alike(called.onednn + called.usual) == alike(SHAPES)


def test_none_goes_through_it_after_the_block_however_that_ends() -> None:
    x, w, _ = factors(torch.float32)
    with pytest.raises(KeyError), through_onednn(SHAPES):
        raise KeyError
    with Called() as called:
        product(x.flatten(0, 1), w)
    assert called.usual
    assert not called.onednn


def gradients(model: HookedStreamTransformer, loss: Callable[[], Tensor]) -> list[Tensor]:
    model.zero_grad()
    value = loss()
    value.backward()
    return [value.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def near(found: list[Tensor], exact: list[Tensor]) -> bool:
    most = max(float(g.abs().max()) for g in exact)
    return all(float((a - b).abs().max()) <= 1e-5 * most for a, b in zip(found, exact, strict=True))


@pytest.mark.parametrize("variant", ["value", "query"])
def test_the_fast_path_through_it_agrees_with_the_hooked_model(variant: str) -> None:
    task, model = ICLTask("small"), HookedStreamTransformer(icl_config(variant, "small"))
    batch, d = task.sample(32), model.config.d_model
    hooked = gradients(model, lambda: F.cross_entropy(model(batch.inputs)[:, -1], batch.labels))
    named = [(32, d, d), (d, 32, d), (d, d, d), (32 * 9, 47, d), (47, 32 * 9, d)]
    with through_onednn(named), Called() as called:
        found = gradients(model, lambda: task.fast_loss(model)(batch))
    assert set(alike(called.onednn)) == set(alike(named))
    assert near(found, hooked)
    assert not near([2 * g for g in found], hooked)


def test_a_language_model_through_it_has_the_same_gradients() -> None:
    model = HookedStreamTransformer(lm_config("0.2m", "value", 50)).train()
    tokens = torch.randint(50, (4, 24), generator=torch.Generator().manual_seed(0))
    usual = gradients(model, lambda: model(tokens, "loss"))
    with Called() as called:
        gradients(model, lambda: model(tokens, "loss"))
    assert not called.onednn
    named = {*called.usual, *(shape[::-1] for shape in called.usual)}
    with through_onednn(named), Called() as called:
        found = gradients(model, lambda: model(tokens, "loss"))
    assert not called.usual, "every product of a step can go through it"
    assert near(found, usual)
