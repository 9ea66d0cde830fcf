"""A model here as transformers' ``AutoModelForCausalLM`` gives it. Whoever imports this module has made it known there.

Without that import, ``trust_remote_code=True`` reads the file that lies beside exported weights and imports it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.configuration_utils import PretrainedConfig
from transformers.modeling_outputs import CausalLMOutputWithPast

from circuits.common.errors import require
from circuits.common.files import write_atomically
from circuits.config.model import ModelConfig
from circuits.exporting.their_cache import TheirCache
from circuits.initial_weights import Initialised
from circuits.loading.exported import MODEL_TYPE
from circuits.model import HookedStreamTransformer

OPENER = "modeling_valuestream.py"
OPENS = '''"""Opens the model of this folder, which the package valuestream runs."""

try:
    from circuits.exporting.wrapper import ValueStreamConfig, ValueStreamForCausalLM
except ImportError as error:
    raise ImportError("this model needs the package valuestream: install it, then load the model again") from error

__all__ = ["ValueStreamConfig", "ValueStreamForCausalLM"]
'''
"""What lies beside exported weights, for those who have not imported this module."""


class ValueStreamConfig(PretrainedConfig):
    """A :class:`circuits.config.model.ModelConfig` in transformers' form: the plain data of it is ``architecture``, and
    what transformers' own code asks for is said in its words."""

    model_type = MODEL_TYPE

    def __init__(self, architecture: dict[str, Any] | None = None, use_cache: bool = True, **kwargs: Any):
        self.architecture, self.use_cache = architecture, use_cache
        if architecture is not None:
            config = self.model_config()
            self.vocab_size = config.inputs.rows
            self.hidden_size = config.d_model
            self.num_hidden_layers = config.n_layers
            self.num_attention_heads = config.n_heads
            self.num_key_value_heads = config.heads_of("v")
            self.head_dim = config.d_head
            self.max_position_embeddings = config.n_ctx
            files = OPENER.removesuffix(".py")
            self.auto_map = {
                "AutoConfig": f"{files}.ValueStreamConfig",
                "AutoModelForCausalLM": f"{files}.ValueStreamForCausalLM",
            }
        # Ties are the architecture's: a tied unembedding is no tensor of its own.
        super().__init__(**{**kwargs, "tie_word_embeddings": False})

    def model_config(self) -> ModelConfig:
        """Return the architecture.

        Raises:
            ValueError: if there is none, or it is none that is known here.
        """
        require(
            isinstance(self.architecture, dict),
            "this configuration has no architecture, which says what the model is; make one with "
            "ValueStreamConfig(architecture=config.to_plain())",
        )
        assert self.architecture is not None
        return ModelConfig.from_plain(self.architecture)


class ValueStreamForCausalLM(PreTrainedModel, GenerationMixin):
    """A language model with streams for transformers, peft, trainers and lm-eval; ``.model`` is the hooked model.

    Without weights (``AutoModelForCausalLM.from_config``) it starts as ``architecture`` says, from torch's seed.
    ``generate`` keeps keys and values as attention used them, *mixed* with what came in. Masks are of padding, 1 at
    tokens and 0 at padding, on either side, and positions are counted by them.
    """

    config_class = ValueStreamConfig
    main_input_name = "input_ids"
    _supports_sdpa = True
    _no_split_modules = ["Block"]  # noqa: RUF012 # transformers' own attribute

    def __init__(self, config: ValueStreamConfig):
        super().__init__(config)
        architecture = config.model_config()
        require(
            architecture.inputs.are_tokens,
            "this model takes vectors, and transformers' language models take tokens: it cannot be wrapped as one",
        )
        self.model = HookedStreamTransformer(architecture, seed=torch.initial_seed() % 2**63)
        # Made without memory, it is given weights by transformers, all but those that no file holds.
        self._starts_here = not self.model.W_U.is_meta
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        if self._starts_here or not isinstance(module, Initialised):
            return
        module.write_fixed()
        lacking = [name for name, x in module.named_parameters(recurse=False) if not hasattr(x, "_is_hf_initialized")]
        require(
            not lacking, f"the weights {lacking} of {module.name} are in no file: it was cut short, or is another's"
        )

    def forward(
        self,
        input_ids: Int[Tensor, "batch pos"] | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        labels: Int[Tensor, "batch pos"] | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Return logits (batch pos d_vocab_out), the cache, and with ``labels`` the loss.

        Labels stand at the tokens that they are, as the inputs do, with -100 where none is asked for; the loss is
        their mean cross-entropy in nats. ``attention_mask`` (batch, tokens of the cache and these) is 0 at padding.
        ``logits_to_keep``: of the last so many positions, or of those with these numbers; 0 means all.

        Raises:
            ValueError: for inputs that do not fit, a mask that is none of padding, a cache of another kind, or
                something that only other models can do (the sentence says what to do instead).
        """
        require(input_ids is not None, "give input_ids, tokens (batch pos)")
        assert input_ids is not None
        _refuse(self, kwargs)
        use_cache = bool(self.config.use_cache if use_cache is None else use_cache) and not self.training
        if past_key_values is None and use_cache:
            past_key_values = DynamicCache(config=self.config)
        seen = _padding(attention_mask, input_ids, past_key_values)
        cache = None
        if past_key_values is not None:
            before = None if seen is None else seen[:, : -input_ids.shape[1]]
            cache = TheirCache(past_key_values, self.model.config.n_layers, before)
        residual = self.model(
            input_ids,
            stop_at_layer=self.model.config.n_layers,
            attention_mask=None if seen is None else seen[:, -input_ids.shape[1] :],
            past_kv_cache=cache,
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits: Float[Tensor, "batch pos d_vocab_out"] = self.model.read_out(residual[:, keep])
        loss = None
        if labels is not None:
            passed = {name: value for name, value in kwargs.items() if name == "num_items_in_batch"}
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1], **passed)
        output = CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()

    def get_input_embeddings(self) -> Any:
        """Return the embedding, whose matrix is ``W_E``."""
        return self.model.embed

    def get_output_embeddings(self) -> Any:
        """Return the unembedding, whose matrix is ``W_U`` (d_model d_vocab_out)."""
        return self.model.unembed

    def set_input_embeddings(self, value: Any) -> None:
        """Refuse another embedding.

        Raises:
            ValueError: always.
        """
        raise ValueError("the vocabulary is the architecture's: make a model of another ModelConfig instead")

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse another vocabulary.

        Raises:
            ValueError: always.
        """
        self.set_input_embeddings(None)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Write configuration and weights, and beside them the file that ``trust_remote_code=True`` opens."""
        self.config.architecture = self.model.config.to_plain()
        super().save_pretrained(save_directory, *args, **kwargs)
        write_atomically(Path(save_directory) / OPENER, OPENS.encode())


INSTEAD = {
    "inputs_embeds": "streams may read the tokens themselves: give input_ids",
    "position_ids": "positions are counted by the attention_mask: leave them out",
    "token_type_ids": "tokens have no types: leave them out",
    "output_attentions": "ask model.model.run_with_cache(tokens) for every layer's pattern",
    "output_hidden_states": "ask model.model.run_with_cache(tokens) for the residual stream of every layer",
}
"""What transformers' models take and this one does not, and what to do."""


def _refuse(model: PreTrainedModel, given: dict[str, Any]) -> None:
    asked = {name: given.get(name, getattr(model.config, name, None)) for name in INSTEAD}
    for name, instead in INSTEAD.items():
        require(asked[name] is None or asked[name] is False, f"{name} is not taken here; {instead}")


def _padding(mask: Tensor | None, input_ids: Tensor, past: Cache | None) -> Tensor | None:
    """Return what is a token and what padding, of all tokens so far (batch key); ``None`` without padding."""
    if mask is None:
        return None
    length = input_ids.shape[1] + (0 if past is None else int(past.get_seq_length()))
    wanted = (len(input_ids), length)
    require(
        mask.shape == wanted,
        f"attention_mask must be {wanted}: of the {length} tokens of cache and inputs, 0 at padding; got "
        f"{tuple(mask.shape)}",
    )
    is_token = mask != 0
    return None if bool(is_token.all()) else is_token


AutoConfig.register(MODEL_TYPE, ValueStreamConfig, exist_ok=True)
AutoModelForCausalLM.register(ValueStreamConfig, ValueStreamForCausalLM, exist_ok=True)
