"""Models given to transformers: equal logits, generation with its caches, padding, texts opened as in training."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache, StaticCache

from circuits import HookedStreamTransformer, Stream, export_huggingface, lm_config, load_pretrained
from circuits.exporting.wrapper import ValueStreamForCausalLM
from circuits.initial_weights import Initialised
from circuits.loading.tokenizers import open_with, opening_tokens
from experiments import plain_english
from experiments.cli import main
from experiments.runs.run import Run
from tests.helpers import MAKES, build, inputs_for, lm_run_named, made

CASES = [
    *(("gpt", variant) for variant in ("classic", "value", "cumulative", "x-transformers")),
    *((make, variant) for make in MAKES for variant in ("value", "nanochat")),
    ("nanochat", "gemma-sharing"),
    ("llama", "rwkv7-rule"),
]


def model_of(make: str, variant: str) -> HookedStreamTransformer:
    return build(variant, "tokens", 3) if make == "gpt" else made(make, variant)


def through_files(model: HookedStreamTransformer, folder: Path) -> ValueStreamForCausalLM:
    export_huggingface(model, folder)
    opened = AutoModelForCausalLM.from_pretrained(folder)
    assert isinstance(opened, ValueStreamForCausalLM)
    return opened


def going_on(model: Any, x: Tensor, mask: Tensor | None = None, **options: Any) -> Tensor:
    mask = torch.ones_like(x) if mask is None else mask
    options = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": None, "pad_token_id": 0} | options
    return model.generate(x, attention_mask=mask, **options)


# --- what comes back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "variant"), CASES)
def test_what_transformers_opens_has_our_logits_and_gradients(make: str, variant: str, tmp_path: Path) -> None:
    model = model_of(make, variant)
    theirs = through_files(model, tmp_path)
    x = inputs_for(model.config)
    output = theirs(x, labels=x)
    assert torch.equal(output.logits, model(x))
    assert output.logits.dtype == torch.float64
    loss = model(x, "loss")
    assert torch.allclose(output.loss, loss.to(output.loss.dtype), rtol=1e-6)
    output.loss.backward()
    loss.backward()
    own = dict(model.named_parameters())
    for name, parameter in theirs.model.named_parameters():
        found, wanted = parameter.grad, own[name].grad
        assert (found is None) == (wanted is None), name
        assert found is None or wanted is None or torch.allclose(found, wanted, atol=1e-6), name
    again = load_pretrained(tmp_path, dtype=torch.float64)
    assert again.config == model.config
    assert torch.equal(again(x), model(x))
    with torch.no_grad():
        theirs.model.W_U[:, 0] += 1.0
    assert not torch.equal(theirs(x).logits, model(x))


def test_what_no_file_holds_is_there_again(tmp_path: Path) -> None:
    """Weights that an architecture lacks: zeros, and the identity in the place of an output matrix."""
    config = lm_config("0.2m", "value", 50, n_heads=4, d_head=16, output_matrix=False, biases=False)
    model = HookedStreamTransformer(config).eval()
    x = inputs_for(config)
    theirs, ours = through_files(model, tmp_path), load_pretrained(tmp_path)
    for opened in (theirs.model, ours):
        assert torch.equal(opened(x), model(x))
        assert torch.equal(opened.W_O, model.W_O)
        assert torch.equal(opened.W_O[0].flatten(0, 1), torch.eye(64))
        assert not opened.b_V.any()


@pytest.mark.parametrize(("make", "variant"), CASES)
def test_generation_is_the_same_with_a_cache_as_without(make: str, variant: str, tmp_path: Path) -> None:
    model = model_of(make, variant)
    theirs = through_files(model, tmp_path)
    x = inputs_for(model.config, batch=3, length=4)
    x[:, 0] = x[:, 0].clamp(min=1)
    wanted = model.generate(x, max_new_tokens=6, do_sample=False, stop_at_eos=False)
    assert torch.equal(going_on(theirs, x), wanted)
    assert torch.equal(going_on(theirs, x, use_cache=False), wanted)
    beams = going_on(theirs, x, num_beams=3)
    assert torch.equal(beams, going_on(theirs, x, num_beams=3, use_cache=False))
    padded, mask = F.pad(x, (2, 0)), F.pad(torch.ones_like(x), (2, 0))
    assert torch.equal(going_on(theirs, padded, mask)[:, 2:], wanted)
    assert not torch.equal(theirs(padded).logits[:, 2:], model(x)), "without a mask padding is seen"


@pytest.mark.parametrize("make", ["llama", "nanochat"])
def test_padding_on_either_side_changes_nothing(make: str, tmp_path: Path) -> None:
    model = made(make, "value")
    theirs = through_files(model, tmp_path)
    x = inputs_for(model.config, length=5)
    for before, after in ((3, 0), (0, 3), (1, 2)):
        padded, mask = F.pad(x, (before, after), value=1), F.pad(torch.ones_like(x), (before, after))
        found = theirs(padded, attention_mask=mask).logits[:, before : before + 5]
        assert torch.allclose(found, model(x), atol=1e-12)


def test_a_cache_that_is_cut_goes_on_as_if_the_rest_had_not_been(tmp_path: Path) -> None:
    """A smear needs the embedding of the token before, which then is another one."""
    model = made("nanochat", "nanochat")
    theirs = through_files(model, tmp_path)
    x, other = inputs_for(model.config, length=9), inputs_for(model.config, length=9, seed=3)
    cache = DynamicCache(config=theirs.config)
    mixed = torch.cat([x[:, :4], other[:, 4:7]], 1)
    theirs(mixed, past_key_values=cache, use_cache=True)
    cache.crop(-3)
    assert cache.get_seq_length() == 4
    found = theirs(x[:, 4:], past_key_values=cache, use_cache=True).logits
    assert torch.allclose(found, model(x)[:, 4:], atol=1e-10)
    uncut = DynamicCache()
    theirs(mixed, past_key_values=uncut, use_cache=True)
    assert not torch.allclose(theirs(x[:, 4:], past_key_values=uncut).logits, model(x)[:, 4:], atol=1e-3)


def test_only_the_logits_that_are_asked_for_are_made(tmp_path: Path) -> None:
    model = made("llama", "value")
    theirs = through_files(model, tmp_path)
    x = inputs_for(model.config)
    # A product of fewer rows may round otherwise.
    torch.testing.assert_close(theirs(x, logits_to_keep=1).logits, model(x)[:, -1:], rtol=0, atol=1e-12)
    some = theirs(x, logits_to_keep=torch.tensor([0, 3])).logits
    torch.testing.assert_close(some, model(x)[:, [0, 3]], rtol=0, atol=1e-12)
    assert isinstance(theirs(x, return_dict=False), tuple)


def test_other_types_of_number_and_fresh_weights(tmp_path: Path) -> None:
    model = made("llama", "value")
    export_huggingface(model, tmp_path)
    coarse = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in coarse.parameters()} == {torch.bfloat16}
    assert coarse.model.dtype == torch.bfloat16
    assert coarse(inputs_for(model.config)).logits.dtype == torch.bfloat16
    coarse.config.dtype = None
    fresh = []
    for seed in (0, 0, 5):
        torch.manual_seed(seed)
        fresh.append(AutoModelForCausalLM.from_config(coarse.config).model)
    assert torch.equal(fresh[0].W_Q, fresh[1].W_Q)
    assert not torch.equal(fresh[0].W_Q, fresh[2].W_Q)
    assert torch.equal(fresh[2].W_Q, HookedStreamTransformer(model.config, seed=5).W_Q), "as a model of ours starts"
    assert all(isinstance(m, Initialised) for m in fresh[0].modules() if m._non_persistent_buffers_set)


def test_what_stays_as_it_starts_starts_with_the_rest(tmp_path: Path) -> None:
    streams = (Stream("v", weights="initial"),)
    model = build("classic", "tokens", 3, streams=streams)
    export_huggingface(model, tmp_path)
    fresh = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path)).model
    first = fresh.layers[0].attn
    assert torch.equal(first.get_buffer("W_V_stream"), first.W_V)
    held = load_file(tmp_path / "model.safetensors")
    del held["model.blocks.1.attn.W_V"]
    save_file(held, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"\['W_V'\] of blocks.1.attn are in no file"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


# --- texts ------------------------------------------------------------------------------------------------------------


def test_texts_are_opened_as_in_training(tmp_path: Path) -> None:
    tokenizer = plain_english()
    model = HookedStreamTransformer(lm_config("0.2m", "value", len(tokenizer))).eval()
    cases: list[dict[str, Any]] = [
        {},
        {"prepend_bos": False},
        {"opening": tokenizer.convert_tokens_to_ids(["<unk>", "<story>"])},
    ]
    for i, options in enumerate(cases):
        model.set_tokenizer(tokenizer, **options)
        folder = export_huggingface(model, tmp_path / str(i))
        spoken = AutoTokenizer.from_pretrained(folder)
        text = "When Mary and John went to the park"
        assert spoken(text, return_tensors="pt").input_ids.tolist() == model.to_tokens(text).tolist()
        assert [*spoken(text)] == ["input_ids", "attention_mask"]
        again = load_pretrained(folder)
        assert again.to_tokens(text).tolist() == model.to_tokens(text).tolist()
    assert tokenizer("Mary").input_ids == [tokenizer.get_vocab()["Mary"]], "the tokenizer itself stays as it is"


def test_a_tokenizer_of_ones_own_keeps_its_template(tmp_path: Path) -> None:
    tokenizer = plain_english()
    open_with(tokenizer, ["<story>", "<story>"])
    model = HookedStreamTransformer(lm_config("0.2m", "value", len(tokenizer))).eval()
    spoken = AutoTokenizer.from_pretrained(export_huggingface(model, tmp_path, tokenizer))
    assert opening_tokens(spoken) == (tokenizer.bos_token_id,) * 2
    assert model.tokenizer is None, "the model stays as it is"
    with pytest.raises(ValueError, match="highest token number"):
        export_huggingface(build("value", "tokens"), tmp_path, tokenizer)


# --- one folder, again ------------------------------------------------------------------------------------------------


def test_an_earlier_export_is_replaced_whole(tmp_path: Path) -> None:
    """The trap: the tokenizer of one model beside the weights of another."""
    tokenizer = plain_english()
    first = HookedStreamTransformer(lm_config("0.2m", "value", len(tokenizer))).eval()
    first.set_tokenizer(tokenizer)
    alone, both = tmp_path / "alone", tmp_path / "both"
    first.tokenizer.chat_template = {"default": "{{ messages }}", "other": "{{ messages }} "}  # type: ignore[union-attr] # set
    assert load_pretrained(export_huggingface(first, both)).tokenizer is not None
    assert (both / "additional_chat_templates").is_dir()
    (both / "model-00001-of-00002.safetensors").write_text("a part, of larger models")
    second = HookedStreamTransformer(lm_config("0.2m", "classic", len(tokenizer)), seed=1).eval()
    for folder in (alone, both):
        export_huggingface(second, folder)
    assert load_pretrained(both).tokenizer is None
    held = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in (alone, both)]
    assert held[0] == held[1]
    (both / "notes.md").write_text("mine")
    with pytest.raises(ValueError, match=r"holds other files \(notes.md, ...\)"):
        export_huggingface(first, both)
    (both / "notes.md").unlink()
    (both / "modeling_valuestream.py").unlink()
    with pytest.raises(ValueError, match=r"holds other files \(config.json, .*an earlier export alone"):
        export_huggingface(first, both)
    assert {path.name: path.read_bytes() for path in both.iterdir()}.items() < held[0].items(), "as it was"


@pytest.mark.parametrize("after", range(9))
def test_an_export_that_is_cut_short_gives_no_mixture_and_can_be_repeated(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was done last: what is in the folder is one of the two models, or is not opened."""
    first, second = (HookedStreamTransformer(build("value", "tokens").config, seed=s).eval() for s in (1, 2))
    x = inputs_for(first.config)
    export_huggingface(first, tmp_path / "out")
    left = iter(range(after))

    def stops(done: Any) -> Any:
        def last(*args: Any, **kwargs: Any) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return done(*args, **kwargs)

        return last

    with monkeypatch.context() as cut:
        for name in ("replace", "unlink"):
            cut.setattr(Path, name, stops(getattr(Path, name)))
        # Nobody tidies up after a process that was killed.
        cut.setattr("circuits.exporting.export.shutil.rmtree", lambda *args, **kwargs: None)
        with pytest.raises(KeyboardInterrupt):
            export_huggingface(second, tmp_path / "out")
    if (tmp_path / "out" / "config.json").exists():
        found = load_pretrained(tmp_path / "out")(x)
        assert any(torch.equal(found, model(x)) for model in (first, second))
    else:
        with pytest.raises(ValueError, match="no configuration"):
            load_pretrained(tmp_path / "out")
    export_huggingface(second, tmp_path / "out")
    assert torch.equal(load_pretrained(tmp_path / "out")(x), second(x))
    names = {"config.json", "generation_config.json", "model.safetensors", "modeling_valuestream.py"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names


# --- what is refused --------------------------------------------------------------------------------------------------


def test_what_cannot_be_given_back_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="takes vectors"):
        export_huggingface(build("value"), tmp_path)
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"holds other files \(thesis.tex, ...\): give a new folder"):
        export_huggingface(build("value", "tokens"), tmp_path)
    with pytest.raises(ValueError, match=r"thesis.tex is a file: give a folder"):
        export_huggingface(build("value", "tokens"), tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"input_ids": None}, "give input_ids"),
        ({"inputs_embeds": torch.zeros(3, 7, 8)}, "may read the tokens themselves: give input_ids"),
        ({"position_ids": torch.arange(7)[None]}, "counted by the attention_mask"),
        ({"output_attentions": True}, "run_with_cache"),
        ({"output_hidden_states": True}, "run_with_cache"),
        ({"attention_mask": torch.ones(3, 1, 7, 7)}, r"attention_mask must be \(3, 7\)"),
        ({"attention_mask": torch.ones(3, 6)}, r"attention_mask must be \(3, 7\)"),
    ],
)
def test_what_only_other_models_take_is_refused(given: dict[str, Any], says: str, tmp_path: Path) -> None:
    model = build("value", "tokens")
    theirs = through_files(model, tmp_path)
    with pytest.raises(ValueError, match=says):
        theirs(**{"input_ids": inputs_for(model.config)} | given)


def test_caches_of_a_fixed_size_and_other_vocabularies_are_refused(tmp_path: Path) -> None:
    model = build("value", "tokens")
    theirs = through_files(model, tmp_path)
    with pytest.raises(ValueError, match="must grow with the text"):
        theirs(inputs_for(model.config), past_key_values=StaticCache(theirs.config, max_cache_len=8))
    with pytest.raises(ValueError, match="the vocabulary is the architecture's"):
        theirs.resize_token_embeddings(100)


# --- from the shell, and other programs -------------------------------------------------------------------------------


def test_a_run_is_exported_from_the_shell(lm_runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = lm_run_named(lm_runs, "value")
    assert main(["export", run.path.name, str(tmp_path / "out"), "--root", str(lm_runs)]) == 0
    assert "trust_remote_code=True) opens it" in capsys.readouterr().out
    model = run.load_model()
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokens = AutoTokenizer.from_pretrained(tmp_path / "out")("Mary gave", return_tensors="pt")
    assert torch.equal(theirs(**tokens).logits, model("Mary gave"))
    assert main(["export", "nothing", str(tmp_path / "out"), "--root", str(lm_runs)]) == 2
    first = run.checkpoints()[0]
    assert main(["export", run.path.name, str(tmp_path / "out"), "--step", str(first), "--root", str(lm_runs)]) == 0
    assert not torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / "out")(**tokens).logits, model("Mary gave"))


OPEN = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
tokens = AutoTokenizer.from_pretrained(sys.argv[1])("Mary and John", return_tensors="pt")
print(model(**tokens).logits[0, -1, :3].tolist())
"""


@pytest.mark.slow
def test_who_has_imported_nothing_trusts_the_file_beside_the_weights(lm_runs: Path, tmp_path: Path) -> None:
    model = lm_run_named(lm_runs, "value").load_model()
    folder = export_huggingface(model, tmp_path / "out")
    env = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(folder)], env=env, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == pytest.approx(model("Mary and John")[0, -1, :3].tolist(), abs=1e-5)


TASK = """
task: who
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
target_delimiter: " "
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""


def _scores(model: HookedStreamTransformer, prompt: str, choices: list[str]) -> list[float]:
    last = model(prompt)[0, -1].detach().log_softmax(-1)
    return [float(last[model.to_single_token(choice)]) for choice in choices]


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm-eval is of the extra 'peers', which is not installed"
)
def test_lm_eval_scores_as_we_do(lm_runs: Path, tmp_path: Path) -> None:
    run: Run = lm_run_named(lm_runs, "value")
    model = run.load_model()
    prompts = [
        "When Mary and John went to the park, John gave the ball to",
        "When Anna and Tom went to the beach, Anna gave the book to",
        "Mary and Tom went to the park. Mary gave the ball to",
    ]
    names = [["Mary", "John"], ["Anna", "Tom"], ["Mary", "Tom"]]
    rows = [{"prompt": p, "choices": c, "label": 0} for p, c in zip(prompts, names, strict=True)]
    data, tasks = tmp_path / "who.jsonl", tmp_path / "tasks"
    data.write_text("\n".join(map(json.dumps, rows)))
    tasks.mkdir()
    (tasks / "who.yaml").write_text(TASK.format(file=data))
    folder = export_huggingface(model, tmp_path / "out")
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu", "--batch_size", "2"]
    command += ["--model_args", f"pretrained={folder},trust_remote_code=True,dtype=float32", "--tasks", "who"]
    command += ["--include_path", str(tasks), "--output_path", str(tmp_path / "found"), "--log_samples"]
    env = os.environ | {"HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (samples,) = (tmp_path / "found").rglob("samples_who_*.jsonl")
    for line in samples.read_text().splitlines():
        sample = json.loads(line)
        found = [float(response[0]) for response in sample["filtered_resps"]]
        row = rows[sample["doc_id"]]
        assert found == pytest.approx(_scores(model, str(row["prompt"]), list(row["choices"])), abs=1e-4)
    (results,) = (tmp_path / "found").rglob("results_*.json")
    ours = [max(range(2), key=_scores(model, p, c).__getitem__) == 0 for p, c in zip(prompts, names, strict=True)]
    assert json.loads(results.read_text())["results"]["who"]["acc,none"] == pytest.approx(sum(ours) / len(ours))
