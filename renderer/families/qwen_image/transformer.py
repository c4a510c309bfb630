"""The DiT: blocks of two streams, one section. Their modulation sees the timestep alone, and is computed beforehand."""

from __future__ import annotations

from renderer.families.family import BlockPart, Network, Outside, Section, Staying
from renderer.families.qwen_image import shapes

BLOCK = BlockPart(
    "block",
    layers=(
        *("attn.to_q", "attn.to_k", "attn.to_v"),  # one product of [3 * width, width]
        *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),  # another
        "attn.to_out.0",
        "attn.to_add_out",
        "img_mlp.net.0.proj",
        "img_mlp.net.2",
        "txt_mlp.net.0.proj",
        "txt_mlp.net.2",
    ),
    norms=tuple(f"attn.norm_{name}.weight" for name in ("q", "k", "added_q", "added_k")),
    of_text=(
        *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
        *("txt_mlp.net.0.proj", "txt_mlp.net.2"),
    ),
)

MODULATION = BlockPart("modulation", layers=("img_mod.1", "txt_mod.1"))

BLOCKS = Section("transformer", "transformer_blocks.", BLOCK, MODULATION)

EDIT_2511_MARK = "__index_timestep_zero__"
"""A tensor of ComfyUI's files of Qwen-Image-Edit-2511 alone, which says that pictures are edited as of no noise."""

TRANSFORMER = Network(
    "transformer",
    "transformer",
    expected=lambda found: shapes.transformer(shapes.transformer_widths(found)),
    anchor="img_in.weight",
    own=("transformer_blocks.0.img_mod.1.weight",),
    sections=(BLOCKS,),
    outside=(Outside("outside", "transformer/outside"),),
    stays=(
        Staying(r"\.bias$", "added, not multiplied; a vector a layer, so nothing would be saved"),
        Staying(r"\.norm_(added_)?[qk]\.weight$", "scales every query and key; 128 numbers"),
        Staying(
            r"^(img_in|txt_in|txt_norm|time_text_embed|norm_out|proj_out)\.",
            "every value of every layer passes here, and an error here reaches every pixel; 0.2 % of the weights",
        ),
    ),
    renamed=(("model.diffusion_model.", ""),),
    depths=(("num_layers", BLOCKS.name),),
    left_out=(EDIT_2511_MARK,),
)
