"""Named, cited mixing rules."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from circuits.common.errors import known, require
from circuits.common.families import origin_of, without_modules
from circuits.common.fields import checked_value
from circuits.common.plain_data import content_hash, to_plain
from circuits.config.gains import ChannelGain, FixedGain, LearnedGain, SigmoidGain, TokenGain
from circuits.config.streams import Carrier, Gate, HeadMixing, LinearMap, Stream
from circuits.config.topologies import Cumulative, Dense, First, Listed, Previous, Tables, WithinLayer

BURNS = "Burns, Fukai & Earls, arXiv 2412.15113"
RESFORMER = "Zhou et al., arXiv 2410.17897"
Streams = tuple[Stream, ...]


@dataclass(frozen=True)
class Variant:
    """A mixing rule with a name: its streams for a model of so many layers, and whose rule it is."""

    name: str
    says: str
    citation: str
    build: Callable[[int], Streams]

    def streams(self, n_layers: int, gate: Gate = "full") -> Streams:
        """Return the streams of this rule in a model of ``n_layers`` layers, all with one gate.

        Raises:
            ValueError: for a number of layers that is no whole number, or an unknown gate.
        """
        whole = checked_value(n_layers, int, "n_layers")
        return tuple(dataclasses.replace(stream, gate=gate) for stream in self.build(whole))

    @property
    def of_tokens(self) -> bool:
        """Whether it needs a model of tokens, whose value embeddings it carries."""
        return any(stream.tables_of == "token" for stream in self.build(_LAYERS))


def _later_half(n_layers: int) -> First:
    return First(readers=tuple(range(max(1, n_layers // 2), n_layers)))


def _on(carrier: Carrier, **parts: Any) -> Callable[[int], Streams]:
    return lambda n_layers: (Stream(carrier, **parts),)


HALF = FixedGain(own=0.5, stream=0.5)


def _nanochat(n_layers: int) -> Streams:
    readers = [layer for layer in range(n_layers) if layer % 2 == (n_layers - 1) % 2]
    return (Stream("v", topology=Tables(tuple((layer, layer) for layer in readers)), gain=SigmoidGain()),)


def _modded_embeddings(n_layers: int) -> Streams:
    n = max(1, min(3, n_layers // 2))
    pairs = [(i, i) for i in range(n)] + [(n_layers - n + i, i) for i in range(n) if n_layers > n]
    return (Stream("v", topology=Tables(tuple(pairs)), gain=LearnedGain(0.5, 0.5)),)


def _bank(n_layers: int) -> Streams:
    readers = range(n_layers - max(1, n_layers // 3), n_layers)
    return (Stream("v", topology=Tables(tuple((layer, layer) for layer in readers)), gain=FixedGain(own=0.0)),)


def _sharing(n_layers: int) -> Streams:
    storing = max(0, n_layers // 2 - 1)
    # A model of one layer has no reader; with one that it lacks, it is refused as by the other rules.
    pairs = tuple((reader, storing) for reader in range(storing + 1, max(2, n_layers)))
    carriers: tuple[Carrier, ...] = ("k", "v")
    return tuple(Stream(c, topology=Listed(pairs), gain=FixedGain(own=0.0)) for c in carriers)


def _with_frozen(name: str, says: str, citation: str, build: Callable[[int], Streams]) -> tuple[Variant, Variant]:
    """A rule of tables, and the same with tables that stay as they start: nothing else trains them."""

    def frozen(n_layers: int) -> Streams:
        return tuple(dataclasses.replace(stream, weights="initial") for stream in build(n_layers))

    return Variant(name, says, citation, build), Variant(f"{name}-frozen", f"{says}, as it starts", citation, frozen)


BASE: tuple[Variant, ...] = (
    Variant("classic", "no stream", "Vaswani et al., arXiv 1706.03762", lambda n: ()),
    Variant("value", "V_n + V_(n-1), raw and adjacent", BURNS, _on("v")),
    Variant("key", "K_n + K_(n-1), raw and adjacent", BURNS, _on("k")),
    Variant("query", "Q_n + Q_(n-1), raw and adjacent", BURNS, _on("q")),
    Variant("cumulative", "the running sum V_n + ... + V_1", BURNS, _on("v", topology=Cumulative())),
    Variant("resformer-constant", "0.5 V_n + 0.5 V_1", RESFORMER, _on("v", topology=First(), gain=HALF)),
    Variant(
        "resformer-learned",
        "a V_n + b V_1, a and b learned per layer from 0.5",
        RESFORMER,
        _on("v", topology=First(), gain=LearnedGain(0.5, 0.5)),
    ),
    Variant(
        "resformer-sparse",
        "0.5 V_n + 0.5 V_1 in the later half of the layers only",
        RESFORMER,
        lambda n: (Stream("v", topology=_later_half(n), gain=HALF),),
    ),
    Variant(
        "resformer-dense",
        "a sum over V_1 ... V_n, every weight learned from 0.5",
        RESFORMER,
        _on("v", topology=Dense(), gain=LearnedGain(0.5, 0.5)),
    ),
    Variant(
        "modded-nanogpt",
        "(1 - l) V_n + l V_1, l learned per layer from 0.5",
        "K. Jordan et al., modded-nanogpt (2024), after arXiv 2410.17897",
        _on("v", topology=First(), gain=LearnedGain(0.5, 0.5, tie="convex")),
    ),
    Variant(
        "x-transformers",
        "m V_n + (1 - m) V_1, m = sigmoid(x W + b) per token and head",
        "P. Wang, x-transformers, after arXiv 2410.17897 and 2412.15113",
        _on("v", topology=First(), gain=TokenGain()),
    ),
    Variant(
        "svformer",
        "V_1 in every layer; later layers have no values of their own",
        RESFORMER,
        _on("v", topology=First(), gain=FixedGain(own=0.0)),
    ),
    Variant(
        "lime",
        "K and V of all earlier layers through learned mixing of heads, own ones as they are",
        "after LIMe (layer-integrated memory), whose router also mixes the own layer's heads",
        lambda n: tuple(Stream(c, topology=Dense(), transform=HeadMixing()) for c in ("k", "v")),  # type: ignore[arg-type] # literals
    ),
    Variant(
        "within-layer",
        "V_n + K_n of the same layer",
        f"an open question of {BURNS}",
        _on("v", source="k", topology=WithinLayer()),
    ),
    Variant(
        "cross-carrier",
        "V_n + K_(n-1)",
        f"an open question of {BURNS}",
        _on("v", source="k", topology=Previous()),
    ),
    Variant(
        "transformed",
        "V_n + V_(n-1) M, M a learned d_head x d_head matrix per head from the identity",
        f"an open question of {BURNS}",
        _on("v", transform=LinearMap()),
    ),
    Variant(
        "rwkv7-rule",
        "(1 - m) V_n + m V_1, m of low rank per token and channel",
        "RWKV-7 (Peng et al., arXiv 2503.14456); its rule of values, for attention",
        _on("v", topology=First(), gain=ChannelGain()),
    ),
    Variant(
        "gemma-sharing",
        "K and V of the last layer of the first half, in all later layers, which have none of their own",
        "after Gemma 3n, which shares among layers of one kind of attention",
        _sharing,
    ),
    *_with_frozen(
        "nanochat",
        "V_n + 3 sigmoid(x[:12] W) E_n[token], in every other layer and the last",
        "A. Karpathy, nanochat (2026)",
        _nanochat,
    ),
    *_with_frozen(
        "modded-nanogpt-embeddings",
        "a V_n + b E[token], a and b learned from 0.5, three tables for the first and again for the last layers",
        "K. Jordan et al., modded-nanogpt (since 2024-12)",
        _modded_embeddings,
    ),
    *_with_frozen(
        "bank-of-values",
        "E_n[token] alone in the last third of the layers, which have no values of their own",
        "Bank of Values, arXiv 2606.02780",
        _bank,
    ),
)

_LAYERS = 2
"""What a rule is tried with."""
_GATES: dict[str, Gate] = {"": "full", "-stop": "stop", "-gradient-only": "gradient-only"}


def _suffixes(rule: Variant) -> list[str]:
    if not (streams := rule.build(_LAYERS)) or any(stream.reads == "token" for stream in streams):
        return [""]
    # A layer without values of its own would attend to nothing at all with the stream's forward value cut.
    silent = any(stream.replaces_own for stream in streams)
    return ["", "-stop"] if silent else list(_GATES)


def _named(rule: Variant) -> dict[str, tuple[Variant, Gate]]:
    return {rule.name + suffix: (rule, _GATES[suffix]) for suffix in _suffixes(rule)}


_NAMED: dict[str, tuple[Variant, Gate]] = {}
for _rule in BASE:
    _NAMED |= _named(_rule)
_REGISTERED_BY: dict[str, str] = {}
"""The modules of the rules that are not ours."""


def register_variant(
    name: str, build: Callable[[int], Sequence[Stream]], says: str = "", citation: str = "registered here"
) -> Variant:
    """Return a mixing rule of one's own, registered under its name and, with a stream, under those of its gates.

    ``build`` gives the streams of a model of so many layers. The command line, sweeps and the names of runs know the
    rule from here on. A name may be registered again from the module that did so before.

    Raises:
        ValueError: for a name that is taken, is empty, or is not made of letters, digits and hyphens; or if ``build``
            returns no streams for a model of two layers.
    """
    require(
        isinstance(name, str) and bool(re.fullmatch(r"[a-zA-Z0-9]+(-[a-zA-Z0-9]+)*", name)),
        f"a variant's name is letters, digits and hyphens between them, as 'value-halved'; got {name!r}",
    )
    made = build(_LAYERS)
    require(
        isinstance(made, (tuple, list)) and all(isinstance(stream, Stream) for stream in made),
        f"the variant {name!r} must give the streams of a model of {_LAYERS} layers as a tuple, got {made!r}",
    )
    rule = Variant(name, says or ", ".join(str(stream) for stream in made), citation, lambda n: tuple(build(n)))
    module, wanted = origin_of(name, build), _named(rule)
    before = {taken for taken in wanted if taken in _NAMED}
    whose = {_REGISTERED_BY.get(_NAMED[taken][0].name, "ours") for taken in before}
    require(
        whose <= {module},
        f"the variant {', '.join(sorted(before))} is there already ({', '.join(sorted(whose))}); give yours another "
        f"name",
    )
    for old in [named for named, (base, _) in _NAMED.items() if base.name == name]:
        del _NAMED[old]
    _NAMED.update(wanted)
    _REGISTERED_BY[name] = module
    return rule


def names() -> list[str]:
    """Return every variant's name; each rule with a stream also comes as ``-stop`` and ``-gradient-only``.

    (Where layers have no projection of their own there is no ``-gradient-only``: nothing would be left. Tables of value
    embeddings come as ``-frozen`` instead, as nothing but the stream trains them.)
    """
    return list(_NAMED)


def rules() -> list[Variant]:
    """Return all rules, ours and registered ones, each once."""
    return list({rule.name: rule for rule, _ in _NAMED.values()}.values())


def get(name: str) -> tuple[Variant, Gate]:
    """Return the rule and the gate that a variant's name stands for.

    Raises:
        UnknownNameError: for a name that :func:`names` does not list (nearest suggested).
    """
    return _NAMED[known("variant", name, _NAMED)]


def streams(name: str, n_layers: int) -> Streams:
    """Return the streams of a named variant in a model of ``n_layers`` layers."""
    rule, gate = get(name)
    return rule.streams(n_layers, gate)


@lru_cache(maxsize=1024, typed=True)
def _made(rule: Variant, gate: Gate, n_layers: int) -> Streams | None:
    """A rule's streams, ``None`` where it makes none for so many layers: a study asks for those of every rule some
    thousands of times."""
    try:
        return rule.streams(n_layers, gate)
    except Exception:
        # A rule that somebody registered may fail in any way at a depth that it is not for.
        return None


def name_of(given: Streams, n_layers: int, asked: str) -> str:
    """Return what a model with these streams is called: ``asked`` if that is a rule that makes them, else the first
    rule that does, else ``own-`` and the beginning of their hash."""
    asked_first = sorted(_NAMED, key=lambda name: name != asked)
    fitting = [name for name in asked_first if _made(*_NAMED[name], n_layers) == given]
    plain = without_modules([to_plain(stream) for stream in given])
    return fitting[0] if fitting else f"own-{content_hash(plain)[:6]}"


def citation(name: str) -> str:
    """Return whose rule a variant is."""
    return get(name)[0].citation
