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
    ("copy_score(model, x, y)", "(item, 64) of vectors, as those of a sequence one after the other; got (4, 17, 64)"),
    ("copy_score(model, x[:, -1].tolist(), y)", "one after the other; got list"),
    ("copy_score(model, y, y)", "(item, 64) of vectors, as those of a sequence one after the other; got (4,) of"),
    ("copy_score(model, x[:, -1, :9], y)", "this model takes (batch, pos, 64) vectors of torch.float32"),
    ("copy_score(model, x[:, -1], y + 40)", "answers are numbers of logits, from 0 to 31, got 4"),
    ("copy_score(model, x[:, -1], ['a', 'b', 'c', 'd'])", "answers are whole numbers, one an example, got ['a', 'b'"),
    ("copy_score(words, tokens)", "(item) of token numbers, as those of a sequence one after the other; got (4, 5)"),
    ("copy_score(words, [1, 2, 3])", "give a tensor (item) of token numbers, as those of a sequence"),
    ("copy_score(words, torch.tensor([1.0, 2.0]))", "one after the other; got (2,) of torch.float32"),
    ("copy_score(words, torch.tensor([2, 40]))", "token numbers from 2 to 40, but d_vocab = 40"),
    ("copy_score(words, tokens[0] > 1)", "answers are whole numbers, one an example, got (5,) of torch.bool"),
    ("model(x, attention_mask=[[1] * 17] * 4)", "(batch, pos) = (4, 17); got list; use torch.as_tensor(mask)"),
    ("model(x, attention_mask=short.numpy())", "(batch, pos) = (4, 17); got ndarray; use torch.as_tensor(mask)"),
    ("model(x, attention_mask=short[:, :5])", "for every position, (batch, pos) = (4, 17); got (4, 5) of torch.bool"),
    ("words.generate(tokens, attention_mask=[[1] * 5] * 4)", "(batch, pos) = (4, 5); got list; use torch.as_tensor"),
    ("load_pretrained('.', dtype='float32')", "of floating point of torch, as torch.bfloat16, got 'float32'"),
    ("load_pretrained('.', dtype=torch.int64)", "of floating point of torch, as torch.bfloat16, got torch.int64"),
    ("checkpoint_step({'checkpoints': {'5': ''}}, 'a', 'last')", "whole number of at least -1, got 'last'"),
    ("checkpoint_step({'checkpoints': {'5': ''}}, 'a', 5.0)", "checkpoint (-1 is the last) must be a whole number of"),
    ("checkpoint_step({'checkpoints': {'5': ''}}, 'a', 3)", "a has no checkpoint at step 3; the nearest is at 5"),
    ("model.run_with_cache(x)[1]['v_mixed', -7]", "cache['v_mixed', -7] is of no layer of this model: it has 2"),
    ("words.run_with_cache(tokens)[1]['q', 3]", "cache['q', 3] is of no layer of this model: it has 3, numbered from"),
    ("Every(0)", "the distance must be positive"),
    ("steps_to_threshold(None, 0.9, 'last')", "unknown rule 'last': there are 'first', 'interpolated'"),
    ("split_gradient(model, None, x, by='pairs')", "unknown way to split 'pairs': did you mean 'pair'"),
    ("amicl_study('ful')", "unknown size 'ful': did you mean 'full'"),
    ("experiment('data').arms('miniatur')", "unknown size 'miniatur': did you mean 'miniature'"),
    ("acting_at(torch.zeros(4, 17, dtype=torch.bool))", "and this is a mask: give mask.nonzero"),
    (
        "acting_at(torch.full((4, 1), 2.0))",
        "must be whole numbers of positions, got torch.float32; use positions.long()",
    ),
    ("acting_at(torch.full((4,), 2))", "positions of 't' must be (batch, n), got (4,)"),
    ("Pair(x, x + 1, y, y + 1, {'a': x[:, :1, 0] > 0})", "positions of 'a' must be numbers of positions"),
    ("Pair(x, x + 1, y, y + 1, {}, y > 1)", "read_at must be numbers of positions, (batch, n) of them, and this is a"),
    ("Pair(x, x + 1, y, y + 1, {}, 2.0)", "read_at must be whole numbers of positions, got torch.float32"),
    ("Pair(x, x + 1, y.float(), y)", "answers are whole numbers, one an example, got (4,) of torch.float32"),
    ("Pair(x, x + 1, y, y > 1)", "wrong are whole numbers, one an example, got (4,) of torch.bool"),
    ("Pair(x[:0], x[:0], y[:0], y[:0])", "a pair holds at least one example"),
    ("Pair(x[:, 0, 0], x[:, 0, 0], y, y)", "(batch, pos) tokens or (batch, pos, d_input) vectors, got (4,)"),
    ("Pair(x, x + 1, y, y)", "the answer and the wrong one are the same number in 4 of 4 examples (first: [0])"),
    ("Pair(x, x + 1, y, y + 1, mask=x[:, :, 0])", "a mask says True where an input stands and False where padding"),
    ("Pair(x, x + 1, y, y + 1, mask=torch.arange(17) < y[:, None] * 0)", "example [0] is padding and nothing else"),
    ("Pair(x, x + 1, y, y + 1, {'a': y[:, None] * 0 + 9}, mask=short)", "positions of 'a': in 4 of 4 examples"),
    ("Pair(x, x + 1, y, y + 1, {}, -1, short)", "read_at: in 4 of 4 examples (first: [0]) that is padding"),
    ("pair[7]", "there is no pair 7: there are 4"),
    ("duplicate_token(tokens, torch.ones(4, 3, dtype=torch.bool))", "the shape (batch, pos) = (4, 5); got (4, 3)"),
    ("duplicate_token(tokens, torch.ones(4, 5))", "got (4, 5) of torch.float32"),
    ("induction(x)", "repeated tokens are found among token numbers (batch, pos), got (4, 17, 64)"),
    ("patch(model, answering(40), [Site(1, 'v')])", "answers are numbers of logits, from 0 to 31, got 0 to 40"),
    ("ablate(model, answering(-1))", "answers are numbers of logits, from 0 to 31, got -1 to"),
    ("model(x, start_at_layer=True)", "start_at_layer = True is no layer of this model: it has 2, numbered from 0"),
    ("model(x, stop_at_layer=1.0)", "stop_at_layer = 1.0 is no layer of this model"),
    ("model.state(x, 'last')", "layer = 'last' is no layer of this model"),
    ("find_sites(model, ['z'], layers=[True])", "layers are a list of int or integer, and it holds [True]"),
    ("find_sites(model, ['z'], heads='some')", "unknown heads 'some': there are 'all', 'each'"),
    ("patch(model, pair, Site(1, 'v'))", "sites are a list of Site, or of tuples of them to patch together"),
    ("patch(model, pair, ['v'])", "it holds ['v']"),
    ("patch(model, pair, [Site(1, 'v')], 3)", "a metric is one of ['logit_difference', 'probability', 'rank', 'loss',"),
    ("ablate(model, pair, ['head'])", "(Ablation.head(model, 0, 1) makes one), and it holds ['head']"),
    ("find_sites(model, ['z'], layers=1)", "layers are a list of int or integer, got 1"),
    ("find_sites(model, ['z'], positions='END')", "positions are a list of int or integer or str, got 'END'"),
    ("find_sites(model, ['v'], routes=[])", "routes are a list of str, 1 or more, and it is empty"),
    ("find_sites(model, ['z'], layers=[1, 1])", "layers must differ from each other, and 1 came more than once"),
    ("Pair(x.numpy(), x, y, y)", "clean inputs are a tensor, got ndarray"),
    ("Pair(x, x + 1, ['a', 'b', 'c', 'd'], y)", "answers are whole numbers, one an example, got ['a', 'b'"),
    ("Pair(x, x + 1, y, y + 1, {}, 'end')", "read_at must be numbers of positions, got 'end'"),
    ("Pair(x, x + 1, y, y + 1, {'a': torch.zeros(4, 0)})", "positions of 'a' must be whole numbers"),
    ("Pair(x, x + 1, y, y + 1, {'a': y[:, None][:, :0]})", "positions of 'a' must be (batch, n), one or more for each"),
    ("pair[1.5]", "the row of a pair must be a whole number of at least -4, got 1.5"),
    ("previous_token('text')", "a score is made of inputs, a tensor (batch, pos ...), or of a pair, got str"),
    ("patch(model, pair, [Site(1, 'v')], max_memory=float('nan'))", "max_memory must be a whole number of at least 0"),
    ("HookedStreamTransformer(model.config, True)", "seed must be a whole number, got True"),
    ("icl_config(3)", "a variant is named by a string, got 3; there are 'classic'"),
    ("paired_seeds([1.0, 2.0], [2.0, 3.0], 'rato')", "unknown contrast 'rato': did you mean 'ratio'"),
]

SCRIPT = """
import torch
from analysis import Ablation, Pair, Site, ablate, find_sites, patch, split_gradient
from analysis.heads.attention_scores import duplicate_token, induction, previous_token
from analysis.statistics.paired_seeds import paired_seeds
from analysis.statistics.thresholds import steps_to_threshold
from analysis.heads.copying import copy_score
from circuits import HookedStreamTransformer, Intervention, Stream, icl_config, intervened, lm_config, load_pretrained
from circuits.interventions.intervention import Attend, Zero
from circuits.config.gains import LearnedGain
from experiments.runs.record import checkpoint_step
from experiments.runs.training_config import SGD, Adam, Every, GateChange
from experiments.tasks.in_context.task import ICLTask
from experiments.studies.associative_memory.study import ask as amicl_study
from experiments.studies.registry import experiment
model = HookedStreamTransformer(icl_config("value", "small")).eval()
words = HookedStreamTransformer(lm_config("0.2m", "value", 40, n_layers=3)).eval()
pair = ICLTask("small").pairs(4)
x, y = pair.clean, pair.answers
tokens, short = torch.arange(20).view(4, 5) % 3, (torch.arange(17) < 9).expand(4, -1)
def answering(n):
    return Pair(x, x + 1, torch.tensor([0, 1, 2, n]), torch.tensor([1, 2, 3, 4]))
def acting_at(places):
    with intervened(model, [Intervention(Site(1, "z", position="t"), Zero())], positions=dict(t=places)):
        model(x)
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
