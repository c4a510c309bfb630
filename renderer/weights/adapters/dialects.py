"""How tools write a LoRA's keys: which layer a tensor is for, and what it is there. Names alone; imports no torch.

A key is a prefix, a module's name and an ending. Prefixes and endings are the two tables here, and a new tool is a row.
A module's name is one of the model's own, with dots or flattened with `_`: looked up, never guessed.

    peft, diffusers     transformer.transformer_blocks.0.attn.to_q.lora_A.weight
    DiffSynth           transformer_blocks.0.attn.to_q.lora_A.default.weight
    ComfyUI             diffusion_model.transformer_blocks.0.attn.to_q.lora_down.weight, .alpha
    kohya, musubi       lora_unet_transformer_blocks_0_attn_to_q.lora_down.weight, .alpha
    Lightning           transformer_blocks.0.attn.to_q.lora_down.weight, .alpha
    LyCORIS             lycoris_transformer_blocks_0_attn_to_q.lokr_w1, .hada_w1_a, .alpha
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

LayerKind = Literal["LoRA", "LoKr", "LoHa", "difference"]
"""How a layer's change is kept: two factors, a Kronecker product, a product of values of two pairs, the change itself.
"""

PartName = Literal[
    "down", "up", "alpha",
    "w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b",
    "h1_a", "h1_b", "h2_a", "h2_b",
    "weight", "bias",
]  # fmt: skip
"""What a tensor is to its layer. The w's are LoKr's, the h's LoHa's; `weight` and `bias` are differences."""

DOTTED_PREFIXES = ("base_model.model.", "pipe.dit.", "model.diffusion_model.", "diffusion_model.", "transformer.")
"""What tools write before a module's name with dots, perhaps one behind the other."""

FLAT_PREFIXES = ("lora_unet_", "lora_transformer_", "lycoris_")
"""What they write before a flattened one."""

_NAMED = r"(?:\.[^.]+)?"  # peft's name of the adapter, as "default"

_ENDINGS: tuple[tuple[str, LayerKind | None, PartName], ...] = (
    (rf"lora_A{_NAMED}\.weight|lora_down\.weight|lora\.down\.weight|lora_A", "LoRA", "down"),
    (rf"lora_B{_NAMED}\.weight|lora_up\.weight|lora\.up\.weight|lora_B", "LoRA", "up"),
    (r"alpha", None, "alpha"),
    (rf"lokr_w1{_NAMED}", "LoKr", "w1"),
    (rf"lokr_w1_a{_NAMED}", "LoKr", "w1_a"),
    (rf"lokr_w1_b{_NAMED}", "LoKr", "w1_b"),
    (rf"lokr_w2{_NAMED}", "LoKr", "w2"),
    (rf"lokr_w2_a{_NAMED}", "LoKr", "w2_a"),
    (rf"lokr_w2_b{_NAMED}", "LoKr", "w2_b"),
    (rf"hada_w1_a{_NAMED}", "LoHa", "h1_a"),
    (rf"hada_w1_b{_NAMED}", "LoHa", "h1_b"),
    (rf"hada_w2_a{_NAMED}", "LoHa", "h2_a"),
    (rf"hada_w2_b{_NAMED}", "LoHa", "h2_b"),
    (r"diff", "difference", "weight"),
    (r"diff_b", "difference", "bias"),
)
"""Endings, the kind of layer that has them, and what they are there."""

_ENDING = re.compile(
    r"(?P<module>.+?)\.(?:" + "|".join(f"(?P<e{n}>{row[0]})" for n, row in enumerate(_ENDINGS)) + ")", re.DOTALL
)

_LONGEST = 300
"""Characters of a key; no tool writes so many."""

UNREAD: Mapping[str, str] = {
    r"\.dora_scale$|\.lora_magnitude_vector(\.|$)": "DoRA, which scales whole layers and is not read",
    r"\.(oft_|boft_)": "OFT, which turns layers and is not read",
    r"\.(lokr_t2|hada_t[12]|lora_mid)(\.|$)": "a factor of convolutions (Tucker), which the model has none of",
    r"\.[ab][12]\.weight$": "GLoRA, which is not read",
    r"\.set_weight$": "a whole weight in the place of the model's, which is not read",
    r"\.lora_[AB](\.[^.]+)?\.bias$|\.lora_(up|down)\.bias$": "a bias of a factor, which is not read",
    r"\.lora_embedding_[AB]": "an embedding's LoRA, and the model has no embedding",
}
"""Endings that are known and not read, by name: whatever else a file holds, it is refused for them."""


@dataclass(frozen=True, slots=True)
class Spelled:
    """A key taken apart. `modules` are what the module may be called, by all prefixes that fit."""

    modules: tuple[str, ...]
    kind: LayerKind | None
    part: PartName


def spell_out(key: str) -> Spelled | None:
    """What a key says; None where its ending is none that is read."""
    found = _ENDING.fullmatch(key) if len(key) <= _LONGEST else None
    if found is None:
        return None
    row = next(number for number in range(len(_ENDINGS)) if found[f"e{number}"] is not None)
    return Spelled(tuple(_stripped(found["module"])), *_ENDINGS[row][1:])


def unread(key: str) -> str:
    """What a key is of that is known and not read, or an empty text."""
    key = key[-_LONGEST:]
    return next((what for pattern, what in UNREAD.items() if re.search(pattern, key)), "")


def _stripped(module: str) -> Iterator[str]:
    """A module's name without prefixes, from the whole to the barest."""
    yield module
    for prefix in DOTTED_PREFIXES:
        if module.startswith(prefix):
            module = module.removeprefix(prefix)
            yield module
    for prefix in FLAT_PREFIXES:
        if module.startswith(prefix):
            yield module.removeprefix(prefix)


def dialect_of(keys: Mapping[str, object]) -> str:
    """What a file's way of writing is called, for people, by its first key that is read."""
    key = next((each for each in keys if spell_out(each) is not None), "")
    if re.search(r"\.(lokr|hada)_|^lycoris_", key):
        return "LyCORIS"
    if key.startswith(FLAT_PREFIXES):
        return "kohya"
    if ".diff" in key:
        return "differences"
    if key.startswith(("diffusion_model.", "model.diffusion_model.")):
        return "ComfyUI"
    if re.search(r"\.lora_[AB]\.[^.]+\.weight$", key):
        return "DiffSynth"
    if ".lora_A" in key or ".lora_B" in key or ".lora." in key:
        return "peft"
    return "Lightning"
