"""Both ends of a model of tokens: embeddings, positions, rows of tables of value embeddings; and the unembedding."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from transformer_lens.hook_points import HookPoint

from circuits.config.layers import Smear
from circuits.config.model import ModelConfig
from circuits.config.streams import Stream
from circuits.initial_weights import Constant, Initialised, Normal, Uniform
from circuits.layers import Norm, Residual
from circuits.places import Places
from circuits.products import affine
from circuits.streams.transforms import HeadTensor


class Embed(Initialised):
    """Token numbers or projected vectors into the residual stream, by ``W_E`` (d_vocab or d_input, d_model), and a norm
    of them (``ln``) where there is one."""

    W_E: Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.tokens = config.inputs.are_tokens
        self.learn("W_E", (config.inputs.rows, config.d_model), Normal(config.weight_std("embed")))
        self.ln = Norm(config, config.embedding_norm) if config.embedding_norm else None

    def forward(self, inputs: Tensor) -> Residual:
        """Return the embedding of every input."""
        embedded = F.embedding(inputs, self.W_E) if self.tokens else inputs @ self.W_E
        return embedded if self.ln is None else self.ln(embedded)


class PosEmbed(Initialised):
    """Learned positions ``W_pos`` (n_ctx d_model)."""

    W_pos: Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.scale = config.position_scale
        self.learn("W_pos", (config.n_ctx, config.d_model), Normal(config.weight_std("embed")))

    def forward(self, embedded: Residual, places: Places | None = None) -> Residual:
        """Return the embedding of the positions of ``embedded``, for every example; never the weights' own storage."""
        batch, pos, _ = embedded.shape
        rows = self.W_pos[:pos].clone()[None] if places is None else F.embedding(places.queries, self.W_pos)
        return (rows if self.scale == 1 else self.scale * rows).expand(batch, -1, -1)


class ValueEmbed(Initialised):
    """A table of value embeddings ``W_VE`` (d_vocab (head d_head)), that streams carry: a row a token; or a projection
    (d_model (head d_head)) of the residual stream at the start.

    Its hook point has the name of what a layer passes on: ``hook_v_stream``, for a stream into values.
    """

    W_VE: Tensor

    def __init__(self, config: ModelConfig, stream: Stream):
        super().__init__()
        self.heads, self.point_name = config.heads_of(stream.carrier), f"hook_{stream.carrier}_stream"
        self.projects = stream.tables_of == "x0"
        rows = config.d_model if self.projects else config.inputs.rows
        shape, start = (rows, self.heads * config.d_head), Normal(config.weight_std("attention"))
        self.learn("W_VE", shape, start, frozen=stream.weights == "initial")
        self.add_module(self.point_name, HookPoint())

    def forward(self, inputs: Tensor, start: Residual) -> HeadTensor:
        """Return the row of every token of ``inputs``, or the projection of ``start``, by head."""
        rows = start @ self.W_VE if self.projects else F.embedding(inputs, self.W_VE)
        by_head = rearrange(rows, "batch pos (head d_head) -> batch pos head d_head", head=self.heads)
        return self.get_submodule(self.point_name)(by_head)


class SmearGate(Initialised):
    """What every position but the first adds of the one before: ``gain`` sigmoid(x[:channels] ``W_smear``) times it.

    ``hook_smear`` holds what is added.
    """

    gain: Tensor
    W_smear: Tensor

    def __init__(self, smear: Smear):
        super().__init__()
        self.channels = smear.channels
        self.learn("gain", (), Constant(smear.gain))
        self.learn("W_smear", (smear.channels,), Uniform(0.0, 0.02))
        self.hook_smear = HookPoint()

    def forward(self, embedded: Residual, places: Places | None = None) -> Residual:
        """Return the embeddings with what they add of those before."""
        before = F.pad(embedded[:, :-1], (0, 0, 1, 0)) if places is None else places.before(embedded)
        gate = self.gain * torch.sigmoid(embedded[..., : self.channels] @ self.W_smear)
        return embedded + self.hook_smear(gate[..., None] * before)


class Unembed(Initialised):
    """Logits z @ W_U + b_U; ``W_U`` (d_model d_vocab_out)."""

    W_U: Tensor
    b_U: Tensor
    has_weight = True

    def __init__(self, config: ModelConfig, bias: bool):
        super().__init__()
        out = config.readout.d_vocab_out
        if self.has_weight:
            self.learn("W_U", (config.d_model, out), Normal(config.weight_std("unembed")))
        if bias:
            self.learn("b_U", (out,), Constant(0.0))
        else:
            self.fix("b_U", (out,), Constant(0.0))

    def forward(self, z: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_vocab_out"]:
        """Return the logits at every position."""
        return affine(z, self.W_U, self._parameters.get("b_U"))


class TiedUnembed(Unembed):
    """Logits z @ W_U, where ``W_U`` is the transpose of an :class:`Embed`'s ``W_E`` and no parameter of its own."""

    has_weight = False

    def __init__(self, config: ModelConfig, embed: Embed):
        super().__init__(config, bias=False)
        # In a tuple, so that torch does not count the matrix as this module's, too.
        self._embed = (embed,)

    @property
    def W_U(self) -> Tensor:  # type: ignore[override] # read where Unembed has a parameter
        """The transpose of the embedding."""
        return self._embed[0].W_E.T
