"""The text encoder, Qwen2.5-VL: layers of a language model, one section, and a vision tower that only edits use."""

from __future__ import annotations

from renderer.families.family import BlockPart, Network, Outside, Section, Staying
from renderer.families.qwen_image import shapes

LAYER = BlockPart(
    "block",
    layers=(
        *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "self_attn.o_proj",
        *("mlp.gate_proj", "mlp.up_proj"),
        "mlp.down_proj",
    ),
    norms=("input_layernorm.weight", "post_attention_layernorm.weight"),
)

LAYERS = Section("text_encoder", "model.layers.", LAYER)

_LLAMA_CPP = (
    (r"blk\.(\d+)\.attn_(q|k|v)\.(.+)", r"model.layers.\1.self_attn.\2_proj.\3"),
    (r"blk\.(\d+)\.attn_output\.(.+)", r"model.layers.\1.self_attn.o_proj.\2"),
    (r"blk\.(\d+)\.ffn_(gate|up|down)\.(.+)", r"model.layers.\1.mlp.\2_proj.\3"),
    (r"blk\.(\d+)\.attn_norm\.(.+)", r"model.layers.\1.input_layernorm.\2"),
    (r"blk\.(\d+)\.ffn_norm\.(.+)", r"model.layers.\1.post_attention_layernorm.\2"),
    (r"token_embd\.(.+)", r"model.embed_tokens.\1"),
    (r"output_norm\.(.+)", r"model.norm.\1"),
    (r"output\.(.+)", r"lm_head.\1"),
)
"""What llama.cpp calls the tensors of such a language model, in GGUF files."""

TEXT_ENCODER = Network(
    "text_encoder",
    "text encoder",
    expected=lambda found: shapes.text_encoder(shapes.text_encoder_widths(found)),
    anchor="model.embed_tokens.weight",
    own=("model.layers.0.self_attn.q_proj.weight",),
    sections=(LAYERS,),
    outside=(
        Outside("outside", "text_encoder/outside"),
        Outside("vision", "text_encoder/vision", prefix="visual.", optional="only edits look with it"),
    ),
    stays=(
        Staying(r"\.bias$", "added, not multiplied; a vector a layer, so nothing would be saved"),
        Staying(r"norm\.weight$", "scales every value that passes; a vector a layer"),
        Staying(r"^model\.embed_tokens\.", "looked up, not multiplied: an error would stay in every layer"),
        Staying(r"^visual\.", "only edits use it; its widths (3420) are none that FP8 products take"),
    ),
    left_out=("lm_head.weight",),  # the language model's output layer, which no picture needs
    renamed=(("model.language_model.", "model."), ("model.visual.", "visual.")),
    respelled=_LLAMA_CPP,
    modules=(("model.", "model.language_model."), ("visual.", "model.visual.")),
    depths=(("num_hidden_layers", LAYERS.name),),
)

_NAMES = (
    *("endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end", "box_start", "box_end"),
    *("quad_start", "quad_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad"),
    *("fim_prefix", "fim_middle", "fim_suffix", "fim_pad", "repo_name", "file_sep"),
)

MARKS = (*(f"<|{name}|>" for name in _NAMES), "<tool_call>", "</tool_call>")
"""Tokens 151643 to 151664 of Qwen2.5-VL's tokenizer: none is ever cut into the signs that it is written with."""
