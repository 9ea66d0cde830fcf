"""The one module that knows transformer-lens' insides: hook points, names, caches, and the ``cfg`` that tools read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._C._functorch import (  # type: ignore[import-not-found] # torch's stubs lag
    get_unwrapped,
    is_functorch_wrapped_tensor,
    peek_interpreter_stack,
)
from torch._subclasses.fake_tensor import is_fake
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook
from transformer_lens import ActivationCache, HookedRootModule, TransformerBridgeConfig
from transformer_lens.hook_points import HookPoint
from transformer_lens.utilities.slice import Slice
from transformer_lens.utilities.tensors import remove_batch_dim as without_batch

from circuits.common.errors import UnknownNameError, known, require
from circuits.config.model import ModelConfig
from circuits.transformerlens.names import FLAGGED_POINTS, OF_ATTENTION, full_name, has_heads

NamesFilter = str | Sequence[str] | Callable[[str], bool] | None
Hook = Callable[..., Any]


def fork(point: HookPoint, tensor: Tensor) -> Tensor:
    """Return ``tensor`` through a hook point on a branch of a fork, which has storage of its own.

    Setters write in place, those of any tool: without the copy, who edits one branch would edit the others too, the
    caller's input among them. Inside compiled code, where nobody can listen, no copy is made.
    """
    return point(tensor if torch.compiler.is_compiling() else tensor.clone())


def fork_if_hooked(point: HookPoint, tensor: Tensor) -> Tensor:
    """Return ``tensor`` through a hook point; where anyone listens, it has storage of its own.

    For what no other branch uses, but somebody may still hold: another point, or the derivative of what made it.
    """
    return fork(point, tensor) if is_hooked(point) else point(tensor)


def is_hooked(module: nn.Module) -> bool:
    """Return whether anything listens at a hook point or another module: hooks of transformer-lens or torch, those for
    all modules too, or a ``forward`` that was put in the place of the module's own."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    if torch.compiler.is_compiling():
        return any(map(bool, hooks))
    return any(map(bool, hooks)) or "forward" in vars(module) or bool(_has_any_global_hook())


def values_of(tensor: Tensor) -> Tensor | None:
    """Return a tensor whose values can be read: that itself, or what torch.func's transforms wrap in it.

    ``None``: it has a shape and no values (on the device meta, or fake).
    """
    while is_functorch_wrapped_tensor(tensor):
        tensor = get_unwrapped(tensor)
    return None if tensor.is_meta or is_fake(tensor) else tensor


class Fusing(nn.Module):
    """A module that may leave out what nobody looks at, and take one of torch's fused calls instead.

    In evaluation mode it does so only on request: there a run that is watched equals one that is not, bit by bit, and
    can be derived as often as wanted.
    """

    fuse_in_evaluation = False

    def may_fuse(self, *points: HookPoint) -> bool:
        """Return whether what stands at ``points`` need not be formed."""
        if not (self.training or self.fuse_in_evaluation) or any(is_hooked(point) for point in points):
            return False
        # Not all fused calls have rules for torch.func's transforms and forward-mode differentiation.
        return torch.compiler.is_compiling() or (peek_interpreter_stack() is None and forward_ad._current_level < 0)


def bridge_config(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> TransformerBridgeConfig:
    """Return the view of a configuration that transformer-lens' tools read as ``model.cfg``."""
    d_vocab_out = config.readout.d_vocab_out
    learned = "standard" if config.positions == "learned" else config.positions
    positions = "rotary" if config.rotary and config.positions == "none" else learned
    caps: Any = {"attn_scores_soft_cap": config.score_softcap, "output_logits_soft_cap": config.logit_softcap}
    return TransformerBridgeConfig(
        **{name: cap for name, cap in caps.items() if cap is not None},
        d_model=config.d_model,
        d_head=config.d_head,
        n_layers=config.n_layers,
        n_ctx=config.n_ctx,
        n_heads=config.n_heads,
        d_vocab=config.inputs.rows if config.inputs.are_tokens else d_vocab_out,
        d_vocab_out=d_vocab_out,
        d_mlp=config.mlp.d_mlp if config.mlp else None,
        act_fn=config.mlp.act_fn if config.mlp else "relu",
        attn_only=config.attn_only,
        normalization_type=config.normalization,
        eps=config.norm_eps or torch.finfo(dtype).eps,
        positional_embedding_type=positions,
        n_key_value_heads=config.n_key_value_heads,
        gated_mlp=bool(config.mlp and config.mlp.gated),
        use_attn_scale=config.attention_scale is not False,
        attn_scale=1 / config.score_factor,
        default_prepend_bos=False,
        model_name=f"valuestream/{config.name}",
        device=str(device),
        dtype=dtype,
    )


_NOT_THE_SUM = (
    "no plain sum of what was written: scalars multiply it before every layer, a middle layer's is taken off at the "
    "end, or an embedding added at the start; analysis.Graph(model).coefficients(model) has the factor of every writer"
)


class StreamActivationCache(ActivationCache):
    """transformer-lens' cache, which also understands ``cache["v_mixed", 1]``."""

    def __getitem__(self, key: Any) -> Tensor:
        if isinstance(key, tuple) and len(key) > 1 and isinstance(key[1], int):
            name, layer, n_layers = key[0], key[1], self.model.cfg.n_layers
            if not -n_layers <= layer < n_layers:
                raise UnknownNameError(
                    f"cache[{name!r}, {layer}] is of no layer of this model: it has {n_layers}, numbered from 0, and "
                    f"-1 is the last one"
                )
            if isinstance(name, str) and re.fullmatch(OF_ATTENTION, name):
                key = f"blocks.{layer % n_layers}.attn.hook_{name}"
        return super().__getitem__(full_name(key) if isinstance(key, str) else key)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and full_name(key) in self.cache_dict

    def decompose_resid(self, *args: Any, **kwargs: Any) -> Any:
        """Return transformer-lens' parts of the residual stream.

        Raises:
            ValueError: on a model with scalars on the residual stream, a backout or a smear: no sum of these parts.
        """
        self._check_sum(embeddings=True)
        return super().decompose_resid(*args, **kwargs)

    def get_full_resid_decomposition(self, *args: Any, **kwargs: Any) -> Any:
        """Return transformer-lens' parts of the residual stream, head by head and neuron by neuron.

        Raises:
            ValueError: as :meth:`decompose_resid`.
        """
        self._check_sum(embeddings=True)
        return super().get_full_resid_decomposition(*args, **kwargs)

    def stack_head_results(self, *args: Any, **kwargs: Any) -> Any:
        """Return what transformer-lens has every head add to the residual stream.

        Raises:
            ValueError: on a model with scalars on the residual stream or a backout, which change it on its way.
        """
        self._check_sum()
        return super().stack_head_results(*args, **kwargs)

    def stack_neuron_results(self, *args: Any, **kwargs: Any) -> Any:
        """Return what transformer-lens has every neuron add to the residual stream.

        Raises:
            ValueError: as :meth:`stack_head_results`.
        """
        self._check_sum()
        return super().stack_neuron_results(*args, **kwargs)

    def apply_slice_to_batch_dim(self, *args: Any, **kwargs: Any) -> StreamActivationCache:
        """Return the cache of some of the examples."""
        sliced = super().apply_slice_to_batch_dim(*args, **kwargs)
        return StreamActivationCache(sliced.cache_dict, sliced.model, sliced.has_batch_dim)

    def accumulated_resid(self, *args: Any, **kwargs: Any) -> Any:
        """Return the residual stream layer by layer.

        Raises:
            ValueError: on a model with a backout, whose readout is given something else than the last of them.
        """
        require(not self._config.backout, f"of this model the readout is given {_NOT_THE_SUM}")
        return super().accumulated_resid(*args, **kwargs)

    @property
    def _config(self) -> ModelConfig:
        return self.model.config  # type: ignore[attr-defined] # caches here are made by models of ours

    def _check_sum(self, embeddings: bool = False) -> None:
        there = self._config
        changed = there.residual_scalars or there.backout or (embeddings and there.smear)
        require(not changed, f"of this model the residual stream is {_NOT_THE_SUM}")


_COMPILED_WITH_HOOKS = (
    "a compiled model was called with hooks attached, which the compiled code would ignore; run hooks on the model "
    "itself (keep it beside the compiled one: they share their weights), or remove the hooks"
)


def _refuse_compiled_hooks() -> None:
    raise RuntimeError(_COMPILED_WITH_HOOKS)


# What torch.compiler.disable notes of a function, without its import of the whole compiler (1 s).
_refuse_compiled_hooks._torchdynamo_disable = True  # pyright: ignore[reportFunctionMemberAccess] # torch reads it
_refuse_compiled_hooks._torchdynamo_disable_msg = _COMPILED_WITH_HOOKS  # pyright: ignore[reportFunctionMemberAccess] # likewise


class HookedRoot(HookedRootModule):
    """``HookedRootModule`` that refuses what could only fail silently: unknown names and points that cannot fire."""

    cfg: TransformerBridgeConfig

    def setup(self) -> None:
        """Name every module and collect the hook points, also under the short names that transformer-lens makes."""
        super().setup()
        self._points = list(self.hook_dict.values())
        for name, point in list(self.hook_dict.items()):
            if has_heads(name):
                point.pos_dim = -3
            if (short := name.replace(".attn.", ".")) != name and full_name(short) == name:
                self.mod_dict[short] = point

    def check_not_compiled_with_hooks(self) -> None:
        """Refuse to run compiled while hooks are attached; call at the start of ``forward``.

        torch.compile does not look at module hooks again after compiling, so hooks attached later would be ignored
        without a word. Reading the lists here makes the compiler guard on them.
        """
        if torch.compiler.is_compiling() and any(point.fwd_hooks or point.bwd_hooks for point in self._points):
            _refuse_compiled_hooks()

    def hooked_modules(self) -> list[str]:
        """Return the names of the modules at which anything listens; the model's own name is ``model``."""
        return [name or "model" for name, module in self.named_modules() if is_hooked(module)]

    def can_fire(self, name: str) -> bool:
        """Return whether the hook point ``name`` fires under the present flags."""
        flag = FLAGGED_POINTS.get(name.rsplit(".", 1)[-1])
        return flag is None or bool(getattr(self.cfg, flag))

    def check_hook_name(self, name: str) -> str:
        """Return the full name of an existing hook point that can fire."""
        full = known("hook point", full_name(name), self.hook_dict)
        if not self.can_fire(full):
            flag = FLAGGED_POINTS[full.rsplit(".", 1)[-1]]
            raise ValueError(f"{full} does not fire while cfg.{flag} is off; call model.set_{flag}(True) first")
        return full

    def add_hook(self, name: str | Callable[[str], bool], hook: Hook, *args: Any, **kwargs: Any) -> None:
        """Add a hook by name, or to every point that a filter accepts and that can fire."""
        wanted = self.check_hook_name(name) if isinstance(name, str) else self._firing(name)
        super().add_hook(wanted, hook, *args, **kwargs)

    def _enable_hook(self, name: str | Callable[[str], bool], hook: Hook, dir: Literal["fwd", "bwd"]) -> None:
        super()._enable_hook(self.check_hook_name(name) if isinstance(name, str) else self._firing(name), hook, dir)

    def _firing(self, names: Callable[[str], bool]) -> Callable[[str], bool]:
        return frozenset(self._accepted(names)).__contains__

    def _accepted(self, names: Callable[[str], bool]) -> list[str]:
        accepted = [name for name in self.hook_dict if names(name)]
        firing = [name for name in accepted if self.can_fire(name)]
        # A filter of everything may pass over points that cannot fire; who wants nothing else gets told.
        return firing if firing or not accepted else [self.check_hook_name(accepted[0])]

    def _wanted(self, names: NamesFilter) -> list[str]:
        if names is None or callable(names):
            return self._accepted(names or (lambda name: True))
        listed: Iterable[str] = [names] if isinstance(names, str) else names
        return [self.check_hook_name(name) for name in listed]

    def get_caching_hooks(
        self,
        names_filter: NamesFilter = None,
        incl_bwd: bool = False,
        device: Any = None,
        remove_batch_dim: bool = False,
        cache: dict | None = None,
        pos_slice: Any = None,
    ) -> tuple[dict, list, list]:
        """Return a dictionary and the forward and backward hooks that fill it; arguments as in transformer-lens."""
        cache = {} if cache is None else cache
        positions = Slice.unwrap(pos_slice)
        self.is_caching = True

        def save(tensor: Tensor, hook: HookPoint, suffix: str) -> None:
            stored = tensor.detach().to(device)
            stored = without_batch(stored) if remove_batch_dim else stored
            # A norm of split inputs has a copy a head, between positions and width.
            of_heads = tensor.ndim == 4 and str(hook.name).endswith(("hook_scale", "hook_normalized"))
            axis = -3 if of_heads else hook.pos_dim or -2
            cache[f"{hook.name}{suffix}"] = positions.apply(stored, dim=axis) if stored.ndim >= -axis else stored

        names = self._wanted(names_filter)
        backward = [(name, partial(save, suffix="_grad")) for name in names] if incl_bwd else []
        return cache, [(name, partial(save, suffix="")) for name in names], backward

    def run_with_cache(
        self, *args: Any, return_cache_object: bool = True, remove_batch_dim: bool = False, **kwargs: Any
    ) -> tuple[Any, Any]:
        """Return the model's output and a :class:`StreamActivationCache` (or a dictionary) of its activations.

        Raises:
            UnknownNameError, ValueError: for a name in ``names_filter`` that does not exist or cannot fire; with
                ``incl_bwd``, where there is no loss to run backward from.
        """
        if kwargs.get("incl_bwd"):
            self._check_backward(*args, **kwargs)
        output, cache = super().run_with_cache(*args, remove_batch_dim=remove_batch_dim, **kwargs)
        if not return_cache_object:
            return output, cache
        return output, StreamActivationCache(cache, self, has_batch_dim=not remove_batch_dim)

    def _check_backward(
        self, inputs: Any, return_type: Any = "logits", *, stop_at_layer: Any = None, **kwargs: Any
    ) -> None:
        what = "incl_bwd runs backward from the loss"
        require(torch.is_grad_enabled(), f"{what}, but gradient tracking is off: leave torch.no_grad() for it")
        require(stop_at_layer is None, f"{what}, and with stop_at_layer = {stop_at_layer} there is none")
        require(
            return_type == "loss" and not kwargs.get("loss_per_token"),
            f"{what}, a scalar output: ask for it by return_type='loss', without loss_per_token; got {return_type!r}",
        )
        learned = any(parameter.requires_grad for parameter in self.parameters())
        require(
            learned or (isinstance(inputs, Tensor) and inputs.requires_grad),
            f"{what}, which has no grad_fn here: neither a parameter nor the input takes a gradient",
        )
