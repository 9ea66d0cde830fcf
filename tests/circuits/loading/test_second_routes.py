"""The README's table of second routes: what can be expressed is, and what is refused is, by a sentence."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from circuits import FixedGain, Stream, Tables, load_pretrained, variants
from tests.circuits.loading import test_modded_nanogpt
from tests.helpers import gradients, inputs_for, model_of, token_config

README = (Path(__file__).parents[3] / "circuits" / "README.md").read_text()
REFUSED = {
    "MUDDFormer, MUDDPythia": (["muddformer", "muddpythia"], "mix earlier hidden states"),
    "DenseFormer": (["denseformer"], "mixes hidden states of earlier layers"),
    "Attention Residuals": (["attention_residuals"], "mix hidden states by attention over layers"),
    "hyper-connections, mHC": (["hyper-connections", "mhc"], "keep several residual streams"),
    "RWKV-7": (["rwkv7"], "run through a recurrence"),
    "NeoMME": (["neomme"], "a family that is not known here"),
    "Gemma 3n and 4": (["gemma3n_text", "gemma4_text"], "a family that is not known here"),
}


def rows() -> dict[str, str]:
    table = README.split("## Which second routes can be expressed")[1].split("\n## ")[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("| ")
    ]
    return {re.sub(r"\[(.*?)\]\(.*?\)", r"\1", system): here for system, _, here in cells[1:]}


def test_rules_that_are_named_can_be_expressed() -> None:
    named = {name for here in rows().values() for name in re.findall(r"`([a-z0-9-]+)`", here)} - {"gradient"}
    assert {"value", "nanochat", "rwkv7-rule", "gemma-sharing", "lime", "bank-of-values"} <= named
    classic = model_of(token_config("classic"))
    x = inputs_for(classic.config)
    for name in named:
        assert name in variants.names()
        assert not torch.allclose(model_of(token_config(name))(x), classic(x)), name


def test_both_ends_may_add_a_row_of_a_table() -> None:
    ends = Stream("v", topology=Tables(((0, 0), (2, 1))), gain=FixedGain())
    model = model_of(token_config("classic", streams=(ends,)))
    x = inputs_for(model.config)
    _, cache = model.run_with_cache(x)
    row = model.get_submodule("value_embeds.1").get_parameter("W_VE")[x].unflatten(-1, (4, -1))
    assert torch.allclose(cache["v_mixed", 2], cache["v", 2] + row)
    assert torch.equal(cache["v_mixed", 1], cache["v", 1])


def test_the_gradient_through_a_stream_may_be_multiplied() -> None:
    whole, part = (model_of(token_config("classic", streams=(Stream("v", gradient=g),))) for g in (1.0, 0.3))
    x = inputs_for(whole.config)
    assert torch.equal(whole(x), part(x))
    a, b = (gradients(model, model(x).log_softmax(-1)[..., 0].mean())["blocks.0.attn.W_V"] for model in (whole, part))
    assert not torch.allclose(a, b)


@pytest.mark.parametrize("system", REFUSED)
def test_what_is_refused_says_why(system: str, tmp_path: Path) -> None:
    assert system in rows()
    kinds, sentence = REFUSED[system]
    for kind in kinds:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        with pytest.raises(ValueError, match=sentence):
            load_pretrained(tmp_path)


def test_every_row_is_looked_at(tmp_path: Path) -> None:
    loaded = {system for system, here in rows().items() if here.endswith("loaded")}
    families = ("resformer", "svformer", "modded-nanogpt", "nanochat", "x-transformers")
    assert [system for system in rows() if system in loaded and not system.lower().startswith(families)] == []
    by_rule = {system for system, here in rows().items() if re.search(r"`[a-zA-Z0-9-]+`", here)}
    assert by_rule | set(REFUSED) == set(rows())
    test_modded_nanogpt.saved("8 November", tmp_path, skip_weights=torch.ones(1))
    with pytest.raises(ValueError, match="U-Net skips"):
        load_pretrained(tmp_path)
