"""Products of matrices: by torch's default library, or by its oneDNN operator, product by product.

On processors where the default library holds back (AMD's with AVX-512) oneDNN is up to twice as fast. Torch reaches it
by an operator that has no derivative, and that the compiler takes for constant weights alone; here it is wrapped as one
that has both. Which products go through it is said by their shapes, for the length of a ``with`` block. Outside of it,
and for other shapes, all is as torch does it, to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Shape = tuple[int, int, int]
"""Rows, inner and columns: of a product (rows inner) times (inner columns)."""
Matrix = Float[Tensor, "rows columns"]

_through_onednn: frozenset[Shape] = frozenset()


def has_onednn() -> bool:
    """Return whether this torch has the operator."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@contextmanager
def through_onednn(shapes: Iterable[Shape]) -> Iterator[None]:
    """Let products of these shapes, those of derivatives included, go through oneDNN for the length of a block.

    They must be of float32 and on the CPU.
    """
    global _through_onednn
    before, _through_onednn = _through_onednn, frozenset(shapes)
    try:
        yield
    finally:
        _through_onednn = before


# --- products ---------------------------------------------------------------------------------------------------------


def product(a: Float[Tensor, "rows inner"], b: Float[Tensor, "inner columns"]) -> Matrix:
    """Return a @ b."""
    return by_onednn(a, b, operator) if _goes_through(a, b) else a @ b


def plus_product(c: Tensor, a: Float[Tensor, "rows inner"], b: Float[Tensor, "inner columns"]) -> Matrix:
    """Return c + a @ b; ``c`` may be smaller, as where torch broadcasts."""
    return c + by_onednn(a, b, operator) if _goes_through(a, b) else torch.addmm(c, a, b)


def affine(x: Tensor, weight: Float[Tensor, "d_in d_out"], bias: Tensor | None = None) -> Tensor:
    """Return x @ weight + bias in one call, over the last axis of ``x``."""
    rows = x.flatten(0, -2)
    if _goes_through(rows, weight):
        return operator(rows, weight, bias).unflatten(0, x.shape[:-1])
    return F.linear(x, weight.T, bias)


def _goes_through(a: Tensor, b: Tensor) -> bool:
    return bool(_through_onednn) and (a.shape[0], a.shape[1], b.shape[1]) in _through_onednn


def by_onednn(a: Float[Tensor, "rows inner"], b: Float[Tensor, "inner columns"], multiply: Any) -> Matrix:
    """Return a @ b by :func:`bare` or by :data:`operator`."""
    # A first factor that does not lie row by row in memory is copied; so it is to be the smaller one.
    if not a.is_contiguous() and b.numel() < a.numel():
        return multiply(b.mT, a.mT, None).mT
    return multiply(a, b, None)


# --- the operator -----------------------------------------------------------------------------------------------------


def bare(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """Return a @ b + bias by torch's own operator, without a derivative."""
    return torch.ops.mkldnn._linear_pointwise(a, b.mT, bias, "none", [], "")


operator: Any = torch.library.custom_op(
    "valuestream::onednn_product",
    bare,
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor a, Tensor b, Tensor? bias) -> Tensor",
)
"""The same as an operator that can be derived and compiled."""


@operator.register_fake
def _shape_of_product(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _derivative(ctx: Any, d: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    a, b = ctx.saved_tensors
    of_a, of_b, of_bias = ctx.needs_input_grad
    d = d.contiguous()
    return (
        product(d, b.mT) if of_a else None,
        product(a.mT, d) if of_b else None,
        d.sum(0) if of_bias else None,
    )


operator.register_autograd(_derivative, setup_context=_keep)


@cache
def compile_without_python() -> None:
    """Let compiled code call oneDNN itself: through Python, a call takes as long as a small product."""
    # Not above, as importing the compiler takes seconds.
    from torch._inductor.ir import ExternKernel, FixedLayout, TensorBox
    from torch._inductor.lowering import permute, register_lowering
    from torch._inductor.mkldnn_ir import LinearUnary, _create_output_node

    @register_lowering(torch.ops.valuestream.onednn_product.default, type_promotion_kind=None)
    def lowered(a: Any, b: Any, bias: Any) -> Any:
        first = ExternKernel.require_contiguous(ExternKernel.realize_input(a))
        second = ExternKernel.realize_input(permute(b, [1, 0]))
        size = [first.get_size()[0], second.get_size()[0]]
        layout = FixedLayout(device=first.get_device(), dtype=first.get_dtype(), size=size)
        inputs, constants = [first, second], ["none", [-1], ""]
        if bias is None:
            constants.insert(0, None)
        else:
            inputs.append(ExternKernel.require_contiguous(ExternKernel.realize_input(bias)))
        return TensorBox.create(_create_output_node(LinearUnary(layout, inputs, constants)))
