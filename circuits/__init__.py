"""What a model is: configurations, the hooked stream transformer, named variants and checkpoints."""

from typing import TYPE_CHECKING

import circuits.common.siblings  # noqa: F401
from circuits.common.errors import UnknownNameError
from circuits.common.families import KindError
from circuits.common.lazy_imports import lazily
from circuits.config.gains import ChannelGain, FixedGain, Gain, LearnedGain, SigmoidGain, TokenGain
from circuits.config.layers import (
    MLP,
    Backout,
    HalfTruncatedRotary,
    Llama3Rotary,
    QKNorm,
    ResidualScalars,
    Rotary,
    Smear,
)
from circuits.config.model import ModelConfig
from circuits.config.parts import NormalInit, ReluStack, Start, TokenInputs, ToyInit, Unembedding, VectorInputs
from circuits.config.streams import GateRule, HeadMixing, Identity, LinearMap, Stream, Transform
from circuits.config.topologies import Cumulative, Dense, First, Listed, Previous, Tables, Topology, WithinLayer
from circuits.presets import LM_SIZES, icl_config, lm_config, parameter_count
from circuits.streams import variants
from circuits.streams.variants import register_variant

if TYPE_CHECKING:
    from circuits.associative_memory import AMICL, Sequences
    from circuits.cache import KeyValueCache
    from circuits.checkpoint import CheckpointError, load_checkpoint, save_checkpoint, transplant
    from circuits.exporting.export import export_huggingface
    from circuits.initial_weights import Constant, Eye, Normal
    from circuits.interventions.applied import NothingChangedError, intervened
    from circuits.interventions.intervention import (
        Attend,
        Clamp,
        CutForward,
        CutGradient,
        Freeze,
        FromRun,
        Intervention,
        Mean,
        Resample,
        Without,
        Zero,
    )
    from circuits.loading.pretrained import load_pretrained
    from circuits.model import HookedStreamTransformer, State
    from circuits.sites import Site
    from circuits.streams.gains import ComputedGain
    from circuits.streams.registering import register_gain, register_topology, register_transform
    from circuits.streams.transforms import ComputedTransform

__getattr__ = lazily(
    "circuits",
    {
        "associative_memory": (
            "AMICL",
            "Sequences",
        ),
        "cache": ("KeyValueCache",),
        "checkpoint": (
            "CheckpointError",
            "load_checkpoint",
            "save_checkpoint",
            "transplant",
        ),
        "initial_weights": (
            "Constant",
            "Eye",
            "Normal",
        ),
        "interventions.applied": (
            "NothingChangedError",
            "intervened",
        ),
        "interventions.intervention": (
            "Intervention",
            "Zero",
            "Mean",
            "Clamp",
            "Attend",
            "Resample",
            "FromRun",
            "Freeze",
            "CutForward",
            "CutGradient",
            "Without",
        ),
        "exporting.export": ("export_huggingface",),
        "loading.pretrained": ("load_pretrained",),
        "model": (
            "HookedStreamTransformer",
            "State",
        ),
        "sites": ("Site",),
        "streams.gains": ("ComputedGain",),
        "streams.registering": (
            "register_gain",
            "register_transform",
            "register_topology",
        ),
        "streams.transforms": ("ComputedTransform",),
    },
)

__all__ = [
    "AMICL",
    "LM_SIZES",
    "MLP",
    "Attend",
    "Backout",
    "ChannelGain",
    "CheckpointError",
    "Clamp",
    "ComputedGain",
    "ComputedTransform",
    "Constant",
    "Cumulative",
    "CutForward",
    "CutGradient",
    "Dense",
    "Eye",
    "First",
    "FixedGain",
    "Freeze",
    "FromRun",
    "Gain",
    "GateRule",
    "HalfTruncatedRotary",
    "HeadMixing",
    "HookedStreamTransformer",
    "Identity",
    "Intervention",
    "KeyValueCache",
    "KindError",
    "LearnedGain",
    "LinearMap",
    "Listed",
    "Llama3Rotary",
    "Mean",
    "ModelConfig",
    "Normal",
    "NormalInit",
    "NothingChangedError",
    "Previous",
    "QKNorm",
    "ReluStack",
    "Resample",
    "ResidualScalars",
    "Rotary",
    "Sequences",
    "SigmoidGain",
    "Site",
    "Smear",
    "Start",
    "State",
    "Stream",
    "Tables",
    "TokenGain",
    "TokenInputs",
    "Topology",
    "ToyInit",
    "Transform",
    "Unembedding",
    "UnknownNameError",
    "VectorInputs",
    "WithinLayer",
    "Without",
    "Zero",
    "export_huggingface",
    "icl_config",
    "intervened",
    "lm_config",
    "load_checkpoint",
    "load_pretrained",
    "parameter_count",
    "register_gain",
    "register_topology",
    "register_transform",
    "register_variant",
    "save_checkpoint",
    "transplant",
    "variants",
]
