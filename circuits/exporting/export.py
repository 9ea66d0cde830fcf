"""What writes a model's folder for transformers."""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits.common.errors import require
from circuits.common.fields import shown
from circuits.common.files import check_folder, path_of
from circuits.loading.huggingface import CONFIG
from circuits.loading.tokenizers import open_with, opening_tokens
from circuits.model import HookedStreamTransformer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
else:
    # Annotations must resolve at run time, and the package is imported only where it is used.
    PreTrainedTokenizerBase = Any

_ENDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_ASKED_OF_TOKENIZERS = (*_ENDS, "convert_ids_to_tokens", "save_pretrained", "__len__")
_SCRATCH = ".unfinished_export"
_WRITTEN = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json"
    r"|model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json"
    r"|(vocab|merges)\.txt|(tokenizer|tiktoken|spiece)\.model|chat_template\.jinja|additional_chat_templates"
)
"""Names of what an export writes, beside the file that opens it."""


def export_huggingface(
    model: HookedStreamTransformer, folder: str | Path, tokenizer: PreTrainedTokenizerBase | None = None
) -> Path:
    """Return the folder that holds a model for transformers: config.json, model.safetensors, tokenizer, and a file that
    opens it.

    ``AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`` gives the same logits wherever valuestream
    is installed (after ``import circuits.exporting.wrapper``, without ``trust_remote_code``); so does
    ``load_pretrained(folder)``. ``tokenizer`` is by default the model's. What is written opens texts with the tokens
    that the model's own texts were opened with. An earlier export in the folder is replaced, once all is written.

    Raises:
        ValueError: for what is no model, a model of vectors, what is no tokenizer, one with more tokens than the model,
            or a folder that cannot be made or holds other files than an earlier export's.
    """
    from circuits.exporting.wrapper import OPENER, ValueStreamConfig, ValueStreamForCausalLM

    require(
        isinstance(model, HookedStreamTransformer),
        f"what is exported is a HookedStreamTransformer, as run.load_model() returns, got {type(model).__name__}",
    )
    require(
        tokenizer is None or all(hasattr(tokenizer, name) for name in _ASKED_OF_TOKENIZERS),
        f"tokenizer is one of transformers, as AutoTokenizer.from_pretrained(...) returns, got {shown(tokenizer)}",
    )
    target = path_of("the folder of an export", folder).expanduser()
    check_folder(target)
    held = sorted(path.name for path in target.iterdir() if path.name != _SCRATCH) if target.is_dir() else []
    strange = [name for name in held if OPENER not in held or not (name == OPENER or _WRITTEN.fullmatch(name))]
    require(
        not strange,
        f"{target} holds other files ({', '.join(strange[:3])}, ...): give a new folder, or one with an earlier export "
        f"alone",
    )
    require(model.config.inputs.are_tokens, "this model takes vectors; transformers' language models take tokens")
    speaks = model.tokenizer if tokenizer is None else tokenizer
    roles: dict[str, Any] = {} if speaks is None else {name: getattr(speaks, name) for name in _ENDS}
    wrapped = ValueStreamForCausalLM(ValueStreamConfig(model.config.to_plain(), **roles))
    wrapped.model.to(model.dtype)
    wrapped.model.load_state_dict(model.state_dict())
    scratch = target / _SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        if speaks is not None:
            opening = model.opening_numbers() if tokenizer is None else opening_tokens(speaks)
            wrapped.model.set_tokenizer(speaks, opening=opening)
            _opened_with(speaks, opening).save_pretrained(scratch)
        wrapped.save_pretrained(scratch)
        _take_place(scratch, target, OPENER)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _take_place(scratch: Path, target: Path, opener: str) -> None:
    # By the opener a folder is known as an export, so it is there from first to last, whenever this is cut short; and
    # without a configuration nobody opens what is half of one model and half of another.
    (scratch / opener).replace(target / opener)
    earlier = {*target.iterdir()} - {scratch, target / opener}
    for path in sorted(earlier, key=lambda path: path.name != CONFIG):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in sorted(scratch.iterdir(), key=lambda path: path.name == CONFIG):
        path.replace(target / path.name)


def _opened_with(tokenizer: PreTrainedTokenizerBase, opening: Sequence[int]) -> PreTrainedTokenizerBase:
    opened: Any = copy.deepcopy(tokenizer)
    if list(opening_tokens(tokenizer)) != list(opening):
        open_with(opened, opened.convert_ids_to_tokens(list(opening)))
    # Tokens have no types here, and generate() refuses what a model does not take.
    opened.model_input_names = ["input_ids", "attention_mask"]
    return opened
