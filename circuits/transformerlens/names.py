"""Names of hook points: which tensors they have, which of them wait for a flag, and what else they are called."""

from __future__ import annotations

import re

from circuits.config.streams import CARRIERS

HEAD_POINTS = frozenset(
    f"hook_{name}"
    for name in (
        *("z", "result", "attn_in", "q_input", "k_input", "v_input", "rot_q", "rot_k"),
        *(f"{carrier}{route}" for carrier in CARRIERS for route in ("", "_residual", "_mixed", "_stream")),
    )
)
"""Points whose tensors are (batch pos head width), with those of single connections, ``hook_from_<layer>``."""

FLAGGED_POINTS = {
    "hook_result": "use_attn_result",
    "hook_attn_in": "use_attn_in",
    "hook_q_input": "use_split_qkv_input",
    "hook_k_input": "use_split_qkv_input",
    "hook_v_input": "use_split_qkv_input",
    "hook_mlp_in": "use_hook_mlp_in",
}
"""Points that fire only while a flag of ``cfg`` is set, as in HookedTransformer."""

OF_ATTENTION = r"attn_in|[qkv]_(?:input|residual|mixed|stream)"

_OTHER_NAMES = [
    (re.compile(rf"^{other}((?:_grad)?)$"), full)
    for other, full in (
        (rf"(blocks\.\d+\.)(hook_(?:{OF_ATTENTION}))", r"\1attn.\2\3"),
        # A bridge's names, where an edit there is an edit here: not ln2.hook_in, which is the norm's input alone, and
        # not mlp.in.hook_out, which in a gated MLP is another factor than hook_pre.
        (r"(embed|pos_embed)\.hook_out", r"hook_\1\2"),
        (r"(blocks\.\d+\.)hook_in", r"\1hook_resid_pre\2"),
        (r"(blocks\.\d+\.)hook_out", r"\1hook_resid_post\2"),
        (r"(blocks\.\d+\.)(attn|mlp)\.hook_out", r"\1hook_\2_out\3"),
        (r"(blocks\.\d+\.attn\.)([qkv])\.hook_out", r"\1hook_\2\3"),
        (r"(blocks\.\d+\.attn\.)o\.hook_in", r"\1hook_z\2"),
        (r"(blocks\.\d+\.mlp\.)out\.hook_in", r"\1hook_post\2"),
    )
]


def has_heads(name: str) -> bool:
    """Return whether a hook point's tensors are (batch pos head width): positions on the third axis from the end."""
    last = name.rsplit(".", 1)[-1]
    return last in HEAD_POINTS or last.startswith("hook_from_")


def full_name(name: str) -> str:
    """Return what a hook point is called here, of what transformer-lens calls it; of any other name, that itself.

    ``get_act_name("v_mixed", 1)`` gives ``blocks.1.hook_v_mixed``, without ``attn``, and a TransformerBridge says
    ``blocks.1.hook_out`` for ``blocks.1.hook_resid_post``. So is a gradient's name, with ``_grad`` at its end.
    """
    for other, full in _OTHER_NAMES:
        if other.match(name):
            return other.sub(full, name)
    return name
