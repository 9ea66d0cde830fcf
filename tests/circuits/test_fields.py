"""What configurations accept: types, ranges, what is said of the rest, and one id for equal values.

The type checker of the other tests would refuse wrong types before the configurations do, so these are told in a fresh
process without it.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import types
from functools import cache
from typing import Any, Literal

import numpy as np
import pytest

from circuits import icl_config, lm_config
from circuits.common.fields import Checked, all_different, checked_value, checks_of, counted_from_zero, positive
from circuits.common.plain_data import canonical_json, content_hash, essence, from_plain
from circuits.interventions.intervention import Clamp, Intervention
from experiments.runs.config import RunConfig, icl_run, lm_run
from experiments.studies.committed_results import Bundle
from experiments.studies.registry import experiment

SCRIPT = """
import dataclasses, importlib, json, pkgutil
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
import numpy as np
import torch
import circuits, experiments.runs.config
from circuits.common.plain_data import content_hash, essence
from circuits.config.layers import *
from circuits.config.model import *
from circuits.config.parts import *
from circuits.common.fields import Checked, checks_of
from circuits.interventions.intervention import *
from circuits.presets import LMSize, lm_config
from circuits.sites import Site
from circuits.config.streams import *
from circuits.config.gains import *
from circuits.config.topologies import *
from circuits.presets import icl_config
from circuits.streams.variants import streams as streams_of
from experiments.runs.config import *
from experiments.runs.training_config import *

def model(**changes):
    return icl_config("value", "small", **{"n_layers": 3, "n_heads": 2, **changes})

def ruled(*rules, **more):
    return model(streams=(Stream("v", gate_rules=rules, **more),))

def training(**changes):
    return dataclasses.replace(TRAINING["small"], **changes)

def run(**changes):
    return icl_run("value", "small", 0, training(**changes))

def same(left, right):
    return left == right and content_hash(essence(left)) == content_hash(essence(right))
"""


@cache
def outcomes() -> dict[str, str]:
    """What every expression of this file gives, or how it is refused, in one process without the type checker."""
    tables = (WRONG_TYPES, WRONG_RANGES, STORED, NO_OBJECTS)
    expressions = [call for table in tables for call, _ in table] + SAME + list(EVERY_FIELD)
    script = f"""{SCRIPT}{SAMPLES}
for text in {expressions!r}:
    try:
        found = repr(eval(text))
    except ValueError as error:
        found = "refused: " + " ".join(str(error).split())
    except Exception as error:
        found = "broke: " + repr(error)
    print(json.dumps(found))
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return dict(zip(expressions, map(json.loads, ran.stdout.splitlines()), strict=True))


def assert_told(cases: list[tuple[str, str]]) -> None:
    for call, message in cases:
        found = outcomes()[call]
        assert found.startswith("refused: "), f"{call}: {found}"
        assert message in found, f"{call}: {found}"


# --- wrong values are told --------------------------------------------------------------------------------------------

WRONG_TYPES: list[tuple[str, str]] = [
    (
        "Stream('v', gain=0.5)",
        "the gain must be FixedGain, LearnedGain, TokenGain, SigmoidGain or ChannelGain, got 0.5",
    ),
    ("Stream('v', gain=0.5)", "write FixedGain(...)"),
    ("Stream('v', gain='learned')", "got 'learned'; write LearnedGain(...)"),
    ("Stream('v', gain=TokenGain)", "write TokenGain()"),
    ("Stream('v', transform='identity')", "the transform must be Identity, HeadMixing or LinearMap, got 'identity'"),
    ("Stream('v', transform='identity')", "write Identity()"),
    ("Stream('v', transform='head-mixing')", "write HeadMixing()"),
    ("Stream('v', topology='previous')", "write Previous()"),
    ("Stream('v', topology=None)", "the topology must be Previous, Cumulative,"),
    ("Stream('v', gate_rules=GateRule('off'))", "gate_rules must be a tuple whose elements are each GateRule, got"),
    ("Stream('v', gate_rules=GateRule('off'))", "write (GateRule(gate='off', reader=None, source=None, head=None),)"),
    ("Stream('v', gate_rules=('off',))", "gate_rules[0] must be GateRule, got 'off'; write GateRule(...)"),
    ("Stream(0)", "the carrier must be one of ('q', 'k', 'v'), got 0"),
    ("Stream('v', gate=None)", "the gate must be one of"),
    ("Stream('v', gate=['full'])", "the gate must be one of"),
    ("Stream('v', gate='stopp')", "did you mean 'stop'?"),
    ("FixedGain(float('nan'))", "the own must be a finite number, got nan"),
    ("FixedGain(1, float('inf'))", "the stream must be a finite number, got inf"),
    ("FixedGain(True)", "got True; a truth value is no number"),
    ("FixedGain('1')", "the own must be a finite number, got '1'"),
    ("FixedGain(torch.tensor(1.0))", "take the number out of it with .item()"),
    ("FixedGain(np.ones(3))", "give one number"),
    ("FixedGain(10**400)", "the own must be a finite number"),
    ("FixedGain(1j)", "the own must be a finite number"),
    ("FixedGain(Decimal('0.5'))", "the own must be a finite number, got Decimal('0.5') (decimal.Decimal)"),
    ("LearnedGain(0.5, float('nan'))", "the stream must be a finite number"),
    ("LearnedGain(per_head=1)", "per_head must be True or False, got 1"),
    ("LearnedGain(per_head='no')", "per_head must be True or False, got 'no'"),
    ("GateRule('off', 1.0)", "the reader must be a whole number or None, got 1.0; write 1"),
    ("GateRule('shut')", "the gate must be one of"),
    ("First(1)", "the readers must be a tuple whose elements are each a whole number or None, got 1; write (1,)"),
    ("First('12')", "the readers must be a tuple whose elements are each a whole number"),
    ("First((1, 2.0))", "the readers[1] must be a whole number, got 2.0; write 2"),
    ("Listed((1, 0))", "the pairs[0] must be a tuple of 2 (a whole number, a whole number), got 1"),
    ("Listed(((1, 0, 0),))", "the pairs[0] must be a tuple of 2"),
    ("model(mlp=256)", "the mlp must be MLP or None, got 256; write MLP(...)"),
    ("model(inputs=None)", "the inputs must be VectorInputs or TokenInputs, got None; write VectorInputs(...)"),
    ("model(readout=32)", "the readout must be Unembedding or ReluStack, got 32"),
    ("model(dropout='a')", "the dropout must be a finite number, got 'a'"),
    ("model(dropout=float('nan'))", "the dropout must be a finite number, got nan"),
    ("model(biases=1)", "the biases must be True or False, got 1"),
    ("model(init='normal')", "the init must be NormalInit or ToyInit, got 'normal'; write NormalInit(...)"),
    ("model(streams=Stream('v'))", "the streams must be a tuple whose elements are each Stream, got Stream("),
    ("model(streams='v')", "the streams must be a tuple whose elements are each Stream, got 'v'"),
    ("model(streams=('v',))", "the streams[0] must be Stream, got 'v'; write Stream(...)"),
    ("model(n_layers=2.0)", "n_layers must be a whole number, got 2.0; write 2"),
    ("model(n_layers='2')", "n_layers must be a whole number, got '2'"),
    ("model(n_layers=True)", "n_layers must be a whole number, got True"),
    ("model(n_heads=None)", "n_heads must be a whole number, got None"),
    ("model(d_head=32.0)", "d_head must be a whole number, got 32.0"),
    ("model(positions=None)", "the positions must be one of ('one-hot', 'learned', 'none'), got None"),
    ("model(name=3)", "the name must be a string, got 3"),
    ("model(starts=(Start(0),))", "the weight must be a string, got 0"),
    ("Start('W', float('nan'))", "the scale must be a finite number, got nan"),
    (
        "MLP(8, 'gelu_old')",
        "one of ('gelu', 'gelu_new', 'relu', 'relu2', 'silu'), got 'gelu_old'; did you mean",
    ),
    ("lm_config('0.2m', d_model=64.0)", "d_model must be a whole number, got 64.0; write 64"),
    ("lm_config('0.2m', d_vocab='50')", "d_vocab must be a whole number, got '50'"),
    ("lm_config('0.2m', 'resformer-sparse', n_layers='4')", "n_layers must be a whole number, got '4'"),
    ("LMSize(4, 64, 4.0)", "n_heads must be a whole number, got 4.0"),
    ("streams_of('resformer-dense', None)", "n_layers must be a whole number, got None"),
    ("Site(1.0, 'v')", "a site's layer must be a whole number, got 1.0; write 1"),
    ("Site(True, 'v')", "a site's layer must be a whole number, got True"),
    ("Site('1', 'v')", "a site's layer must be a whole number, got '1'"),
    ("Site(1, 3)", "a site's component must be a string, got 3"),
    ("Site(1, ['v'])", "a site's component must be a string"),
    ("Site(1, 'v', ['own'])", "a site's route must be a string"),
    ("Site(1, 'v', head=True)", "a site's head must be a whole number or None, got True"),
    ("Site(1, 'v', position=True)", "a mask is no position"),
    ("Site(1, 'v', position=2.0)", "a site's position is one index"),
    ("Site(1, 'v', position=torch.ones(2, 3) > 0)", "a mask is no position: give the numbers of what it marks"),
    ("Site(1, 'v', position=np.array([1, 2]))", "got array([1, 2]) (numpy.ndarray)"),
    ("Site(1, 'v', position=torch.tensor(3))", "a site's position is one index"),
    ("Site(1, 'v', position=(1, 2))", "a site's position is one index"),
    ("Clamp('1')", "the value must be a finite number, got '1'"),
    ("Clamp(None)", "the value must be a finite number, got None"),
    ("Resample(0.5)", "the seed must be a whole number, got 0.5"),
    ("Resample(True)", "the seed must be a whole number, got True"),
    ("FromRun(3)", "the checkpoint must be a string, got 3"),
    ("FromRun(Path('a'))", "write str(...)"),
    ("Attend(3)", "the to must be one of ('previous', 'self', 'first', 'uniform'), got 3"),
    ("Intervention('v', Zero())", "the site must be Site, got 'v'; write Site(...)"),
    ("Intervention(Site(0, 'v'), 'zero')", "got 'zero'; write Zero()"),
    ("Intervention(Site(0, 'v'), Zero)", "write Zero()"),
    ("Intervention(Site(0, 'v'), Zero(), '1')", "the strength must be a finite number, got '1'"),
    ("Intervention(Site(0, 'v'), Zero(), 1.0, 0.5)", "the first must be a whole number, got 0.5"),
    ("Intervention(Site(0, 'v'), Zero(), last=7.0)", "the last must be a whole number or None, got 7.0; write 7"),
    ("Every(2.0)", "the n must be a whole number, got 2.0; write 2"),
    ("At(5)", "the listed must be a tuple whose elements are each a whole number, got 5; write (5,)"),
    ("LogLinear('4')", "per_doubling must be a whole number, got '4'"),
    ("SGD(rate='fast')", "the rate must be a finite number, got 'fast'"),
    ("SGD(rate=float('inf'))", "the rate must be a finite number, got inf"),
    ("Adam(betas=0.9)", "the betas must be a tuple of 2 (a finite number, a finite number), got 0.9"),
    ("Adam(betas=(0.9,))", "the betas must be a tuple of 2"),
    ("Adam(betas=(0.9, None))", "the betas[1] must be a finite number, got None"),
    ("AdamW(warmup=1.5)", "the warmup must be a whole number, got 1.5"),
    ("Rate('blocks', '2')", "the factor must be a finite number, got '2'"),
    ("GateChange('4', 'off')", "the step must be a whole number, got '4'"),
    ("GateChange(4, None)", "the gate must be one of"),
    ("StopAt('0.9')", "the accuracy must be a finite number, got '0.9'"),
    ("StopAt(0.9, evaluations=True)", "the evaluations must be a whole number, got True"),
    ("training(steps=1e3)", "the steps must be a whole number, got 1000.0; write 1000"),
    ("training(optimizer='adam')", "the optimizer must be SGD, Adam or AdamW, got 'adam'; write Adam(...)"),
    ("training(optimizer=Every(3))", "the optimizer must be SGD, Adam or AdamW, got Every("),
    (
        "training(evaluate_at=Every(5))",
        "evaluate_at must be a tuple whose elements are each Every, At, LogLinear or AtLevels",
    ),
    (
        "training(evaluate_at=500)",
        "evaluate_at must be a tuple whose elements are each Every, At, LogLinear or AtLevels, got 500",
    ),
    ("training(evaluate_at=(500,))", "evaluate_at[0] must be Every, At, LogLinear or AtLevels, got 500; write Every("),
    ("training(checkpoint_at=(AtLevels((0.5,), 5),))", "checkpoint_at[0] must be Every, At or LogLinear, got AtLevels"),
    ("training(gradients_at=(AtLevels((0.5,), 5),))", "gradients_at[0] must be Every, At or LogLinear, got AtLevels"),
    ("AtLevels(0.5, 5)", "the levels must be a tuple whose elements are each a finite number, got 0.5; write (0.5,)"),
    ("training(stop_at=0.9)", "stop_at must be StopAt or None, got 0.9; write StopAt(...)"),
    ("training(interventions=Intervention(Site(0, 'v'), Zero()))", "the interventions must be a tuple whose elements"),
    ("icl_run('value', 'small', seed=True)", "the seed must be a whole number, got True; a truth value is no number"),
    ("icl_run('value', 'small', seed=1.0)", "the seed must be a whole number, got 1.0; write 1"),
    ("icl_run('value', 'small', seed='1')", "the seed must be a whole number, got '1'"),
    ("icl_run('value', 'small', seed=None)", "the seed must be a whole number, got None"),
    ("lm_run(seed=True)", "the seed must be a whole number, got True"),
    ("lm_run(seed=np.bool_(True))", "the seed must be a whole number, got"),
    (
        "dataclasses.replace(run(), task='icl')",
        "the task must be ICLTaskConfig, StoriesConfig, IOIConfig, RepeatsConfig, NestedConfig, TextTaskConfig, "
        "BooksConfig or ImportedConfig, got 'icl'",
    ),
    ("dataclasses.replace(run(), variant=None)", "the variant must be a string, got None"),
    ("dataclasses.replace(lm_run(), task=3)", "the task must be ICLTaskConfig, StoriesConfig, IOIConfig,"),
    (
        "lm_run(task=3)",
        "task must be StoriesConfig, IOIConfig, RepeatsConfig, NestedConfig, TextTaskConfig, BooksConfig or "
        "ImportedConfig, got 3",
    ),
    ("lm_run(training=TRAINING['small'])", "a language model is trained by a TokenTraining, whose"),
    ("TokenTraining(3, precision=16)", "the precision must be one of ('float32', 'bfloat16'), got 16"),
    ("TokenTraining(3, precision='float16')", "unknown precision 'float16': did you mean"),
    ("TokenTraining(3, clip='1')", "the clip must be a finite number or None, got '1'"),
    ("TokenTraining(3, clip=float('inf'))", "the clip must be a finite number or None, got inf"),
]

WRONG_RANGES: list[tuple[str, str]] = [
    ("TokenInputs(0)", "d_vocab must be a positive whole number, got 0"),
    ("VectorInputs(-3)", "d_input must be a positive whole number, got -3"),
    ("MLP(0)", "d_mlp must be a positive whole number, got 0"),
    ("Unembedding(0)", "d_vocab_out must be a positive whole number, got 0"),
    ("ReluStack(0)", "d_vocab_out must be a positive whole number, got 0"),
    ("ReluStack(4, -1)", "depth of ReluStack must be 0 or more, got -1"),
    ("NormalInit(0)", "std must be above 0, got 0.0"),
    ("NormalInit(-0.1)", "std must be above 0, got -0.1"),
    ("lm_config('0.2m', d_vocab=0)", "d_vocab must be a positive whole number, got 0"),
    ("lm_config('0.2m', d_model=0)", "d_model must be a positive whole number, got 0"),
    ("model(d_head=-2)", "d_head must be a positive whole number, got -2"),
    ("model(d_head=0)", "d_head must be a positive whole number, got 0"),
    ("FixedGain(0, 0)", "leaves reading layers nothing to attend to"),
    ("LearnedGain(0, 1, 'own-fixed')", "own = 0 that stays fixed leaves reading layers a projection that never learns"),
    ("Stream('v', gain=FixedGain(1, 0), transform=LinearMap())", "LinearMap() would never learn"),
    ("Stream('v', gain=FixedGain(1, 0), weights='untied')", "untied weights would never learn"),
    ("GateRule('off', -1)", "reader of GateRule counts from 0, got -1"),
    ("GateRule('off', source=-1)", "source of GateRule counts from 0, got -1"),
    ("GateRule('off', head=-1)", "head of GateRule counts from 0, got -1"),
    ("Listed(())", "Listed(()) connects no layers; give (reader, source) pairs"),
    ("Listed(((1, 0), (2, 0), [1, 0]))", "pairs must differ from each other, and (1, 0) came more than once"),
    ("Listed(((1, 1),))", "pair (1, 1): a reader must come after its source"),
    ("First((1, 1))", "readers must differ from each other, and 1 came more than once"),
    ("First((0, 1))", "readers come after the first layer, which is 0, and are counted from it; got [0]"),
    ("First((-1,))", "readers come after the first layer"),
    ("model(streams=(Stream('v', topology=First((1, 3))),))", "readers [3] are layers beyond the last one, 2"),
    ("model(streams=(Stream('v', topology=First((5,))),))", "has no layer to read"),
    ("model(inputs=VectorInputs(64, project=True))", "would never be projected; use VectorInputs(64), or positions="),
    ("icl_config('value', 'small', d_model=1, inputs=VectorInputs(1), positions='none', normalization='LN')", "mean"),
    ("ruled(GateRule('off', reader=0))", "is of no connection of the v stream; its (reader, source) pairs are [(1, 0)"),
    ("ruled(GateRule('off', reader=2, source=0))", "its (reader, source) pairs are [(1, 0), (2, 1)]"),
    ("ruled(GateRule('off', source=2))", "is of no connection of the v stream"),
    (
        "ruled(GateRule('off'), GateRule('off', source=1), topology=First())",
        "GateRule(gate='off', reader=None, source=1",
    ),
    ("ruled(GateRule('off', reader=3))", "names a layer beyond the last one, 2"),
    ("ruled(GateRule('off', head=2))", "names a head beyond the last one, 1"),
    ("Site(-1, 'v')", "layers count from 0, got layer = -1; give the layer's own number"),
    ("Site(0, 'v', head=-1)", "heads count from 0, got head = -1"),
    ("AtLevels((), 3)", "AtLevels needs a level or more; without any, take Every(n)"),
    ("AtLevels((0.5,), 0)", "the mean distance of evaluations must be positive, got 0"),
    ("AtLevels((0.5,), 3, 1.0)", "share is a part of the present step, between 0 and 1, got 1.0"),
    ("Every(3, -1)", "first of Every counts from 0, got -1"),
    ("Every(3, 0, -1)", "last of Every counts from 0, got -1"),
    ("Every(3, 9, 5)", "is never: first must not come after last"),
    ("At((3, -1))", "steps count from 0, got [-1]"),
    ("LogLinear(0)", "per_doubling must be 1 or more, got 0"),
    ("Rate('blocks', -1)", "a rate's factor must be 0 or more, got -1"),
    ("GateChange(-1, 'off')", "step of GateChange counts from 0, got -1"),
    ("StopAt(1.5)", "an accuracy lies between 0 and 1, got 1.5"),
    ("StopAt(95)", "an accuracy lies between 0 and 1, got 95.0"),
    ("StopAt(-0.1)", "an accuracy lies between 0 and 1, got -0.1"),
    ("StopAt(0.9, evaluations=0)", "evaluations must be 1 or more, got 0"),
    ("run(stop_at=StopAt(0.9, 'icc'))", "unknown split to stop at 'icc': did you mean 'ic'"),
    ("run(stop_at=StopAt(0.9, 'train'))", "unknown split to stop at 'train'"),
    ("run(gates=(GateChange(3, 'off', 'k'),))", "is of a stream into k, and this model's streams feed ['v']"),
    ("GateChange(3, 'off', 'w')", "unknown carrier 'w'"),
    ("training(steps=5, gates=(GateChange(5, 'off'),))", "comes when the run of 5 steps has ended"),
]


def test_wrong_types_and_ranges_are_told_at_once() -> None:
    assert_told([*WRONG_TYPES, *WRONG_RANGES])


SAMPLES = """
spare = ("site", "operation", "task", "model", "training")
samples = [
    Previous(), Cumulative(), First((1,)), Dense(), Listed(((1, 0),)), WithinLayer(), FixedGain(), LearnedGain(),
    TokenGain(), Identity(), HeadMixing(), LinearMap(), GateRule("off"), Stream(), VectorInputs(3), TokenInputs(3),
    MLP(3), Unembedding(3), ReluStack(3), NormalInit(), ToyInit(), Start("W"), model(), Site(0, "v"), Zero(), Mean(),
    Clamp(1.0), Attend("self"), Resample(), FromRun("x"), Freeze(), CutForward(), CutGradient(), Without(0),
    Intervention(Site(0, "v"), Zero()), LMSize(4, 64, 4), Every(3), At((3,)), LogLinear(), SGD(), Adam(), AdamW(),
    AtLevels((0.5,), 3),
    Backout(0), ChannelGain(), HalfTruncatedRotary(), QKNorm(), ResidualScalars(), Rotary(), SigmoidGain(), Smear(),
    Tables(((1, 0),)), Llama3Rotary(), NoTraining(),
    Rate("W", 2.0), GateChange(3, "off"), StopAt(0.9), training(), run(), TokenTraining(3), lm_run(),
]
def kinds(of=Checked):
    found = {kind for below in of.__subclasses__() for kind in (below, *kinds(below))}
    return {kind for kind in found if dataclasses.is_dataclass(kind)}  # a family's base class is none

def accepted():
    found = []
    for sample in samples:
        for field in dataclasses.fields(sample):
            try:
                dataclasses.replace(sample, **{field.name: object()})
                found.append(f"{type(sample).__name__}.{field.name}")
            except ValueError:
                pass
    return found

def unsampled():
    own = {kind for kind in kinds() if not kind.__module__.startswith("experiments.tasks")}
    return sorted(kind.__name__ for kind in own - {type(sample) for sample in samples})

def not_understood():
    return [kind.__name__ for kind in kinds() if len(checks_of(kind)) != len(dataclasses.fields(kind))]
"""

EVERY_FIELD = {"accepted()": "[]", "unsampled()": "[]", "not_understood()": "[]", "len(kinds()) > 40": "True"}


def test_every_field_of_every_configuration_is_checked() -> None:
    for call, wanted in EVERY_FIELD.items():
        assert outcomes()[call] == wanted, call


# --- equal values are one ---------------------------------------------------------------------------------------------

SAME = [
    "same(Clamp(1), Clamp(1.0))",
    "same(Clamp(np.float32(0.5)), Clamp(0.5))",
    "same(Clamp(np.int64(2)), Clamp(2))",
    "same(Clamp(-0.0), Clamp(0.0))",
    "same(Clamp(Fraction(1, 2)), Clamp(0.5))",
    "same(FixedGain(2, 3), FixedGain(2.0, 3.0))",
    "same(FixedGain(np.float64(0.7), np.int32(3)), FixedGain(0.7, 3.0))",
    "same(LearnedGain(per_head=np.bool_(True)), LearnedGain(per_head=True))",
    "same(Stream(np.str_('v'), gate_rules=[GateRule('off')]), Stream('v', gate_rules=(GateRule('off'),)))",
    "same(First([1, np.int64(2)]), First((1, 2)))",
    "same(Listed([[1, 0], (np.int8(2), 0)]), Listed(((1, 0), (2, 0))))",
    "same(model(n_layers=np.int64(3)), model())",
    "same(model(dropout=0), model(dropout=0.0))",
    "same(model(n_heads=np.int64(2), biases=np.False_), model(biases=False))",
    "same(model(streams=[Stream('v')]), model(streams=(Stream('v'),)))",
    "same(NormalInit(1), NormalInit(1.0))",
    "same(Start('W', 2), Start('W', 2.0))",
    "same(Site(np.int64(1), 'v', head=np.int32(0), position=np.int64(3)), Site(1, 'v', head=0, position=3))",
    "same(Site(1, np.str_('v'), position=np.str_('end')), Site(1, 'v', position='end'))",
    "same(Resample(np.int64(7)), Resample(7))",
    "same(Intervention(Site(0, 'v'), Zero(), np.float32(2), np.int64(1), np.int64(4)), "
    "Intervention(Site(0, 'v'), Zero(), 2.0, 1, 4))",
    "same(SGD(1), SGD(1.0))",
    "same(Adam(1, [0, 0.5]), Adam(1.0, (0.0, 0.5)))",
    "same(Rate('W', 2), Rate('W', 2.0))",
    "same(StopAt(1), StopAt(1.0))",
    "same(TokenTraining(3, clip=2), TokenTraining(3, clip=2.0))",
    "same(training(steps=np.int64(7), evaluate_at=[Every(np.int64(3))]), training(steps=7, evaluate_at=(Every(3),)))",
    "icl_run('value', 'small', np.int64(3)).name == icl_run('value', 'small', 3).name",
    "lm_run(seed=np.int64(3)).name == lm_run(seed=3).name",
    "icl_run('value', 'small', -1).seed == -1",
    "lm_config('0.2m', n_layers=np.int64(2), d_model=np.int64(32)) == lm_config('0.2m', n_layers=2, d_model=32)",
    "lm_config('0.2m', d_vocab=np.int64(50)) == lm_config('0.2m', d_vocab=50)",
    "type(Clamp(1).value) is type(Clamp(np.float64(1)).value) is float",
    "type(Site(np.int64(1), 'v').layer) is type(TokenInputs(np.int64(4)).d_vocab) is int",
    "RunConfig.from_plain(run(rates=(Rate('W', 2),)).to_plain()).id == run(rates=(Rate('W', 2.0),)).id",
]


def test_equal_values_are_one_configuration_with_one_id() -> None:
    for call in SAME:
        assert outcomes()[call] == "True", f"{call}: {outcomes()[call]}"


def test_what_was_stored_with_another_kind_of_number_is_read_as_the_same() -> None:
    stored = {"site": {"layer": 0, "component": "v"}, "operation": {"type": "Clamp", "value": 1}, "strength": 2}
    found = Intervention.from_plain(stored)
    assert found.operation == Clamp(1.0)
    assert (type(found.strength), found.strength) == (float, 2.0)


def stored(**parts: str) -> str:
    """The call that reads an intervention with other parts than plain ones."""
    whole = {"site": "{'layer': 0, 'component': 'v'}", "operation": "{'type': 'Zero'}"} | parts
    return "Intervention.from_plain({" + ", ".join(f"{name!r}: {text}" for name, text in whole.items()) + "})"


STORED: list[tuple[str, str]] = [
    (stored(site="{'layer': 1.5, 'component': 'v'}"), "a site's layer must be a whole number, got 1.5"),
    (stored(site="{'layer': True, 'component': 'v'}"), "a site's layer must be a whole number, got True"),
    (stored(site="{'layer': '1', 'component': 'v'}"), "a site's layer must be a whole number, got '1'"),
    (stored(site="{'layer': -1, 'component': 'v'}"), "layers count from 0, got layer = -1"),
    (stored(site="{'layer': 1, 'component': 'v', 'position': 2.0}"), "a site's position is one index"),
    (stored(strength="'2'"), "the strength must be a finite number, got '2'"),
    (stored(strength="float('nan')"), "the strength must be a finite number, got nan"),
    (stored(first="0.5"), "the first must be a whole number, got 0.5"),
    (stored(last="True"), "the last must be a whole number or None, got True"),
    (stored(operation="{'type': 'Resample', 'seed': 1.7}"), "the seed must be a whole number, got 1.7"),
    (stored(operation="{'type': 'Clamp', 'value': [1]}"), "the value must be a finite number, got [1]"),
    (stored(operation="{'type': 'Attend', 'to': 3}"), "the to must be one of"),
]
NO_OBJECTS: list[tuple[str, str]] = [
    ("ModelConfig.from_plain([1])", "a stored ModelConfig is an object with its fields, got [1]"),
    ("RunConfig.from_plain(None)", "a stored RunConfig is an object with its fields, got None"),
    ("ModelConfig.from_plain(model().to_plain() | {'streams': 'v'})", "this is not a stored ModelConfig"),
    ("ModelConfig.from_plain(model().to_plain() | {'readout': 3})", "this is not a stored ModelConfig"),
    (
        "ModelConfig.from_plain(model().to_plain() | {'biases': 'false'})",
        "the biases must be True or False, got 'false'",
    ),
    ("ModelConfig.from_plain(model().to_plain() | {'n_layers': 2.7})", "n_layers must be a whole number, got 2.7"),
    ("RunConfig.from_plain(run().to_plain() | {'seed': 1.9})", "the seed must be a whole number, got 1.9"),
]


def test_what_is_stored_is_neither_cut_nor_converted() -> None:
    assert_told(STORED)


def test_what_is_no_object_is_no_stored_configuration() -> None:
    assert_told(NO_OBJECTS)


# --- ids do not change ------------------------------------------------------------------------------------------------


def test_committed_runs_keep_their_ids() -> None:
    runs = Bundle.open().runs
    assert len(runs) > 700
    for run, text in zip(runs.run, runs.config, strict=True):
        plain = json.loads(text)
        config = RunConfig.from_plain(plain)
        assert config.id == run == content_hash(plain)[:12]
        assert canonical_json(config.essence()) == text, "no number is of another kind than its field"


@pytest.mark.parametrize("name", ["streams", "windows", "controls", "connections", "lm"])
def test_the_study_asks_for_runs_that_are_committed(name: str) -> None:
    committed = set(Bundle.open().runs.run)
    assert {arm.config.id for arm in experiment(name).arms("full")} <= committed


# --- the mechanism ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Sample(Checked):
    """One field of every kind."""

    whole: int = 0
    number: float = 0.0
    truth: bool = False
    word: str = ""
    choice: Literal["left", "right"] = "left"
    maybe: Literal["left", "right"] | None = None
    many: tuple[int, ...] = ()
    pair: tuple[str, float] = ("", 0.0)
    either: str | float = 0.5
    inner: Clamp | None = None


def test_every_annotation_in_use_is_understood() -> None:
    kinds = dict(checks_of(Sample))
    assert list(kinds) == [field.name for field in dataclasses.fields(Sample)]
    assert kinds["maybe"].words == "one of ('left', 'right') or None"
    assert kinds["either"].words == "a string or a finite number"
    assert kinds["inner"].parts == (Clamp,)
    assert kinds["either"].fits(0.25)
    assert not kinds["either"].fits(None)
    assert Sample(many=(1, 2)).many == (1, 2)
    assert kinds["either"].take(1) == 1.0


@pytest.mark.parametrize("annotation", ["dict[str, int]", "list[int]", "tuple", "Any", "int | list[int]", "Literal[1]"])
def test_an_annotation_that_is_not_understood_is_an_error_and_not_passed_over(annotation: str) -> None:
    def body(names: dict[str, Any]) -> None:
        names |= {"__annotations__": {"field": annotation}, "__module__": __name__}

    made = types.new_class("Odd", (Checked,), exec_body=body)
    odd: Any = dataclasses.dataclass(frozen=True)(made)
    with pytest.raises(TypeError, match="the field field of Odd: the annotation .* is none of those"):
        odd(3)


def test_helpers_say_what_is_wrong() -> None:
    owner = Sample(whole=-1)
    with pytest.raises(ValueError, match="whole must be a positive whole number, got -1"):
        positive(owner, "whole")
    with pytest.raises(ValueError, match="whole of Sample counts from 0, got -1"):
        counted_from_zero(owner, "maybe", "whole")
    with pytest.raises(ValueError, match="readers must differ from each other, and 2 came more than once"):
        all_different("readers", (1, 2, 2))
    with pytest.raises(ValueError, match=r"a width must be a whole number, got 3\.0; write 3"):
        checked_value(3.0, int, "a width")
    assert checked_value(3, float, "a width") == 3.0


def test_a_plain_dataclass_is_read_strictly_too() -> None:
    @dataclasses.dataclass(frozen=True)
    class Plain:
        width: int
        share: float

    Plain.__annotations__ = {"width": int, "share": float}
    with pytest.raises(ValueError, match=r"a stored value must be a whole number, got 1\.5"):
        from_plain(Plain, {"width": 1.5, "share": 1})


def test_names_of_presets_are_as_they_were() -> None:
    assert icl_run("value", "paper").id == "1d44134f545e"
    assert icl_run("value", "small").id == "d28d9f99544b"
    assert lm_run().id == "1a2444500497"
    assert lm_run("8m", variant="resformer-learned").id == "3dcf3cc0fde9"
    assert content_hash(essence(icl_config("x-transformers", "paper")))[:12] == "a455a359ce98"
    assert content_hash(essence(lm_config("1b", "lime")))[:12] == "40a0b73d563f"


def test_numpys_and_torchs_numbers_seed_what_pythons_do() -> None:
    assert content_hash(["init", np.int64(7)]) == content_hash(["init", 7])
    assert canonical_json({"step": np.int32(4), "gain": np.float64(0.5)}) == '{"gain":0.5,"step":4}'
    with pytest.raises(TypeError, match="ndarray is no number, text, list or mapping of these, got array"):
        canonical_json(np.array([1, 2]))
