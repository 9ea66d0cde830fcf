"""Mistakes that the type checker of the other tests would catch first: what a user without one is told.

All in one fresh process, because the checker is an import hook.
"""

from __future__ import annotations

import subprocess
import sys

CASES: list[tuple[str, str]] = [
    ("Stream('w')", "carrier must be one of ('q', 'k', 'v'), got 'w'"),
    ("Stream('v', source='x')", "source must be one of ('q', 'k', 'v') or None, got 'x'"),
    ("Stream('v', weights='frozen')", "weights must be one of ('own', 'initial', 'untied'), got 'frozen'"),
    ("Stream('v', gate='shut')", "gate must be one of ('full', 'stop', 'gradient-only', 'off'), got 'shut'"),
    ("LearnedGain(tie='loose')", "tie must be one of"),
    (
        "icl_config('value', positions='rotary')",
        "positions must be one of ('one-hot', 'learned', 'none'), got 'rotary'",
    ),
    ("icl_config('value', normalization='BN')", "normalization must be one of"),
    ("model.set_gate('shut')", "gate must be one of"),
    ("Site(0, 'v', 'incoming')", "unknown route 'incoming': did you mean 'outgoing'"),
    ("find_sites(model, routes=['mixt'])", "unknown route 'mixt': did you mean 'mixed'"),
    ("patch(model, pair, find_sites(model), direction='denoising')", "did you mean 'denoise'"),
    ("Pair(x, x, y[:2], y, {})", "4 inputs with 2 answers and 4 wrong ones"),
    ("Pair(x, x, y, y, {'a': y[:2, None]})", "positions of 'a' are given for 2 of 4 examples"),
    ("Pair(x, x + 1, y, y, {}, y[:2])", "read_at has 2 positions for 4 examples"),
    ("Ablation.stream(model, 'men')", "unknown method 'men': did you mean 'mean'"),
    ("Intervention(Site(0, 'pattern'), Attend('previuos'))", "unknown attention 'previuos': did you mean 'previous'"),
    ("GateChange(3, 'stopp')", "unknown gate 'stopp': did you mean 'stop'"),
    ("model(x, return_type='los')", "unknown return_type 'los': did you mean 'loss'"),
    ("model(x, return_type='loss')", "take the logits, and the loss of your task of them"),
    ("SGD(rate=0.0)", "SGD needs a positive rate and a decay from 0 to below 1, got 0.0"),
    ("Adam(betas=(0.9, 1.0))", "Adam needs a positive rate and betas from 0 to below 1"),
    ("copy_score(model, x[:, -1], y, 'streem')", "unknown route 'streem': did you mean 'stream'"),
    ("copy_score(model, x[:, -1], y[:2])", "a copy score needs items and one answer each: 4 items, 2 answers"),
    ("Every(0)", "the distance must be positive"),
    ("steps_to_threshold(None, 0.9, 'last')", "unknown rule 'last': there are 'first', 'sustained'"),
    ("split_gradient(model, None, x, by='pairs')", "unknown way to split 'pairs': did you mean 'pair'"),
    ("amicl_study('ful')", "unknown size 'ful': did you mean 'full'"),
    ("experiment('data').arms('miniatur')", "unknown size 'miniatur': did you mean 'miniature'"),
    ("paired_seeds([1.0, 2.0], [2.0, 3.0], 'rato')", "unknown contrast 'rato': did you mean 'ratio'"),
]

SCRIPT = """
from analysis import Ablation, Pair, Site, find_sites, patch, split_gradient
from analysis.seeds import paired_seeds
from analysis.thresholds import steps_to_threshold
from analysis.copying import copy_score
from circuits import HookedStreamTransformer, Intervention, Stream, icl_config
from circuits.interventions import Attend
from circuits.stream_config import LearnedGain
from experiments.config import SGD, Adam, Every, GateChange
from experiments.tasks import ICLTask
from experiments.amicl import study as amicl_study
from experiments.paper import experiment
model = HookedStreamTransformer(icl_config("value", "small")).eval()
pair = ICLTask("small").pairs(4)
x, y = pair.clean, pair.answers
for call in {calls!r}:
    try:
        eval(call)
        print("no error")
    except ValueError as error:
        print(str(error).replace("\\n", " "))
"""


def test_messages_without_a_type_checker() -> None:
    script = SCRIPT.format(calls=[call for call, _ in CASES])
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    said = ran.stdout.splitlines()
    assert len(said) == len(CASES)
    for (call, message), line in zip(CASES, said, strict=True):
        assert message in line, f"{call} said: {line}"
