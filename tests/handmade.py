"""Two models whose every weight is set by hand, so that what each head and edge does is known and not measured.

Both do induction: BOS, eight different tokens, and the first seven of them again; the model says the eighth. The
residual stream has four subspaces, one-hot each: the token, the position, the token before, and what to say.

Edges have the names that :class:`analysis.edges.graph.Graph` gives them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from analysis import Pair
from circuits import HookedStreamTransformer, ModelConfig, variants
from circuits.config.parts import TokenInputs, Unembedding

HALF = 8
N_POS = 2 * HALF
N_CTX = N_POS + 1
VOCAB = 13
"""BOS, which is token 0, and twelve others."""
D_HEAD = 20
N_HEADS = 3

TOKEN = slice(0, VOCAB)
POSITION = slice(TOKEN.stop, TOKEN.stop + N_CTX)
BEFORE = slice(POSITION.stop, POSITION.stop + VOCAB)
SAID = slice(BEFORE.stop, BEFORE.stop + VOCAB)
D_MODEL = SAID.stop

EARLIER, ANSWER, END = HALF - 1, HALF, N_POS - 1
"""Where the token of END stands for the first time, the token after it, and the position that is read."""

Head = tuple[int, int]


@dataclass(frozen=True)
class Handmade:
    """A model, pairs on which it works, and what does the work."""

    model: HookedStreamTransformer
    pairs: dict[str, Pair]
    """By what differs: ``copied`` the token to be copied (one place), ``queried`` the token of END (one place),
    ``preceding`` which token stands before the answer (two tokens of the first half change places)."""
    heads: dict[str, Head]
    """The heads that do something, by role; every other head writes nothing."""
    edges: frozenset[str]
    """Everything that the answer needs; no other path of non-zero weight leads from the inputs to the logits."""
    carries: dict[str, frozenset[str]]
    """The edges along which the two inputs of each pair differ in a way that matters."""

    @property
    def pair(self) -> Pair:
        """The pair whose inputs differ in the token to be copied."""
        return self.pairs["copied"]

    @property
    def tokens(self) -> Int[Tensor, "batch pos"]:
        """The clean inputs, which are those of every pair."""
        return self.pair.clean

    @property
    def idle(self) -> list[Head]:
        """The heads that do nothing."""
        every = [(layer, head) for layer in range(2) for head in range(N_HEADS)]
        return [head for head in every if head not in self.heads.values()]


def induction_model(n: int = 16, sharpness: float = 12.0, seed: int = 0) -> Handmade:
    """The classic circuit: L0H1 writes the token before, L1H2 looks there for its own token and copies what follows.

    ``sharpness`` is the attention score of a match, all others being 0.
    """
    model = _blank("classic", seed)
    with torch.no_grad():
        _previous_token_head(model, 1, sharpness)
        _match(model, 2, sharpness)
        _identity(model.layers[1].attn.W_V[2], TOKEN)
        _identity(model.layers[1].attn.W_O[2].T, SAID)
    copied = frozenset({"input > L1H2.v (residual)"})
    heads = {"previous token": (0, 1), "induction": (1, 2)}
    return _made(model, _pairs(n, seed), heads, copied)


def stream_model(n: int = 16, sharpness: float = 12.0, seed: int = 0) -> Handmade:
    """Induction in the variant "value" that works only with the stream: L1H0 attends and has no values of its own.

    What it moves are the values of L0H0, which writes nothing to the residual stream; L0H1 writes the token before.
    """
    model = _blank("value", seed)
    with torch.no_grad():
        _previous_token_head(model, 1, sharpness)
        _match(model, 0, sharpness)
        _identity(model.layers[0].attn.W_V[0], TOKEN)
        model.layers[1].attn.W_V[0] = 0
        _identity(model.layers[1].attn.W_O[0].T, SAID)
    copied = frozenset({"input > L0H0.v (residual)", "L0H0.v > L1H0.v (stream)"})
    heads = {"previous token": (0, 1), "values": (0, 0), "induction": (1, 0)}
    return _made(model, _pairs(n, seed), heads, copied)


# --- weights --------------------------------------------------------------------------------------------------------


def _blank(variant: str, seed: int) -> HookedStreamTransformer:
    """A model in which all heads attend and have values at random, and none writes; the logits are what is said."""
    config = ModelConfig(
        n_layers=2,
        n_heads=N_HEADS,
        d_model=D_MODEL,
        d_head=D_HEAD,
        n_ctx=N_CTX,
        inputs=TokenInputs(VOCAB),
        readout=Unembedding(VOCAB),
        biases=False,
        attention_scale=False,
        streams=variants.streams(variant, 2),
        name=variant,
    )
    model = HookedStreamTransformer(config).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            random = 0.5 * torch.randn(parameter.shape, generator=generator).double()
            parameter.copy_(random if name.endswith(("W_Q", "W_K", "W_V")) else torch.zeros_like(parameter))
        _identity(model.W_E.T, TOKEN)
        _identity(model.W_pos.T, POSITION)
        _identity(model.W_U, SAID, 12.0)
    return model


def _identity(matrix: Tensor, rows: slice, scale: float = 1.0) -> None:
    """Let ``matrix`` read one subspace, one component a column, and nothing else."""
    width = rows.stop - rows.start
    matrix.zero_()
    matrix[rows, :width] = scale * torch.eye(width, dtype=matrix.dtype)


def _previous_token_head(model: HookedStreamTransformer, head: int, sharpness: float) -> None:
    attn = model.layers[0].attn
    _identity(attn.W_Q[head], POSITION)
    attn.W_Q[head] = attn.W_Q[head].roll(-1, dims=1) * sharpness
    _identity(attn.W_K[head], POSITION)
    _identity(attn.W_V[head], TOKEN)
    _identity(attn.W_O[head].T, BEFORE)


def _match(model: HookedStreamTransformer, head: int, sharpness: float) -> None:
    """Attend from a token to the positions that it stands before."""
    _identity(model.layers[1].attn.W_Q[head], TOKEN, sharpness)
    _identity(model.layers[1].attn.W_K[head], BEFORE)


# --- what carries ---------------------------------------------------------------------------------------------------


BEFORE_WRITTEN = frozenset({"input > L0H1.v (residual)"})
CARRIED_BEFORE = BEFORE_WRITTEN | {"L0H1.v > L0H1.v (own)"}
"""Where the stream carries values, a head's use of its own ones is an edge too."""


def _made(
    model: HookedStreamTransformer, pairs: dict[str, Pair], heads: dict[str, Head], copied: frozenset[str]
) -> Handmade:
    """Name the edges: ``copied`` are those along which the answer comes to the induction head."""
    head = "L{}H{}".format(*heads["induction"])
    out = frozenset({f"{head} > logits (residual)"})
    before = CARRIED_BEFORE if model.config.streams else BEFORE_WRITTEN
    carries = {
        "copied": copied | out,
        "queried": out | {f"input > {head}.q (residual)"},
        "preceding": out | before | {f"L0H1 > {head}.k (residual)"},
    }
    places = frozenset({"input > L0H1.q (residual)", "input > L0H1.k (residual)"})
    return Handmade(model, pairs, heads, places.union(*carries.values()), carries)


# --- inputs ---------------------------------------------------------------------------------------------------------


def _pairs(n: int, seed: int) -> dict[str, Pair]:
    generator = torch.Generator().manual_seed(seed)
    drawn = 1 + torch.rand(n, VOCAB - 1, generator=generator).argsort(1)
    half, spare = drawn[:, :HALF], drawn[:, HALF]
    clean = torch.cat([torch.zeros(n, 1, dtype=torch.int64), half, half[:, :-1]], 1)
    rows, answers = torch.arange(n), clean[:, ANSWER]
    rival = torch.randint(1, EARLIER - 1, (n,), generator=generator)

    copied = clean.clone()
    copied[:, ANSWER] = spare
    queried = clean.clone()
    queried[:, END] = clean[rows, rival]
    preceding = clean.clone()
    preceding[:, EARLIER], preceding[rows, rival] = clean[rows, rival], clean[:, EARLIER]

    places = {"END": END, "earlier": EARLIER, "answer": ANSWER}
    positions = {role: torch.full((n, 1), place) for role, place in places.items()}
    corrupt = {"copied": (copied, spare)}
    corrupt |= {name: (x, clean[rows, rival + 1]) for name, x in (("queried", queried), ("preceding", preceding))}
    return {name: Pair(clean, x, answers, wrong, positions) for name, (x, wrong) in corrupt.items()}
