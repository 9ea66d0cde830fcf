"""What writes a model's folder for transformers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits.common.errors import require
from circuits.loading.tokenizers import open_with, opening_tokens
from circuits.model import HookedStreamTransformer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
else:
    # Annotations must resolve at run time, and the package is imported only where it is used.
    PreTrainedTokenizerBase = Any


def export_huggingface(
    model: HookedStreamTransformer, folder: str | Path, tokenizer: PreTrainedTokenizerBase | None = None
) -> Path:
    """Return the folder that holds a model for transformers: config.json, model.safetensors, tokenizer, and a file that
    opens it.

    ``AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`` gives the same logits wherever valuestream
    is installed (after ``import circuits.exporting.wrapper``, without ``trust_remote_code``); so does
    ``load_pretrained(folder)``. ``tokenizer`` is by default the model's. What is written opens texts with the tokens
    that the model's own texts were opened with.

    Raises:
        ValueError: for a model of vectors, a tokenizer with more tokens than the model, or a folder that holds other
            files.
    """
    from circuits.exporting.wrapper import OPENER, ValueStreamConfig, ValueStreamForCausalLM

    target = Path(folder).expanduser()
    require(not target.is_file(), f"{target} is a file: give a folder")
    strange = sorted(path.name for path in target.iterdir()) if target.is_dir() else []
    require(
        not strange or OPENER in strange,
        f"{target} holds other files ({', '.join(strange[:3])}, ...): give a new folder, or an earlier export's",
    )
    require(model.config.inputs.are_tokens, "this model takes vectors; transformers' language models take tokens")
    speaks = model.tokenizer if tokenizer is None else tokenizer
    ends = ("bos_token_id", "eos_token_id", "pad_token_id")
    roles: dict[str, Any] = {} if speaks is None else {name: getattr(speaks, name) for name in ends}
    wrapped = ValueStreamForCausalLM(ValueStreamConfig(model.config.to_plain(), **roles))
    wrapped.model.to(model.dtype)
    wrapped.model.load_state_dict(model.state_dict())
    if speaks is not None:
        opening = model.opening_numbers() if tokenizer is None else opening_tokens(speaks)
        wrapped.model.set_tokenizer(speaks, opening=opening)
        _opened_with(speaks, opening).save_pretrained(target)
    wrapped.save_pretrained(target)
    return target


def _opened_with(tokenizer: PreTrainedTokenizerBase, opening: Sequence[int]) -> PreTrainedTokenizerBase:
    opened: Any = copy.deepcopy(tokenizer)
    if list(opening_tokens(tokenizer)) != list(opening):
        open_with(opened, opened.convert_ids_to_tokens(list(opening)))
    # Tokens have no types here, and generate() refuses what a model does not take.
    opened.model_input_names = ["input_ids", "attention_mask"]
    return opened
