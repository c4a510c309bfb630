"""Every tensor a Qwen-Image network has, by name and shape, for any widths. Arithmetic and names; nothing is read.

The names are those of the hub's files. `tests/families/test_shapes.py` holds them against DiffSynth's own classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from renderer.families.family import Shape, Shapes


@dataclass(frozen=True, slots=True)
class TransformerWidths:
    """The numbers that fix a DiT's shapes."""

    layers: int = 60
    width: int = 3072
    head: int = 128
    mlp: int = 12288
    text: int = 3584
    latent: int = 64
    timestep: int = 256
    layered: bool = False
    """Whether it places tokens by layers, and is told of each timestep which of two it is."""


@dataclass(frozen=True, slots=True)
class TextEncoderWidths:
    """The numbers that fix a Qwen2.5-VL's shapes."""

    layers: int = 28
    width: int = 3584
    queries: int = 3584
    keys: int = 512
    mlp: int = 18944
    vocabulary: int = 152064
    vision_layers: int = 32
    vision: int = 1280
    vision_mlp: int = 3420
    vision_patch: Shape = (3, 2, 14, 14)


@dataclass(frozen=True, slots=True)
class VaeWidths:
    """The numbers that fix a VAE's shapes."""

    base: int = 96
    latent: int = 16
    colours: int = 3


LAYERED = "time_text_embed.addition_t_embedding.weight"
"""A tensor that only Qwen-Image-Layered's DiT has, and what was made of it."""


def transformer(widths: TransformerWidths) -> Shapes:
    """The DiT: 60 blocks of two streams, and what stands before and after them."""
    width, found = widths.width, Shapes()
    for stem, rows, columns in (
        ("img_in", width, widths.latent),
        ("txt_in", width, widths.text),
        ("time_text_embed.timestep_embedder.linear_1", width, widths.timestep),
        ("time_text_embed.timestep_embedder.linear_2", width, width),
        ("norm_out.linear", 2 * width, width),
        ("proj_out", widths.latent, width),
    ):
        found |= _linear(stem, rows, columns)
    found["txt_norm.weight"] = (widths.text,)
    if widths.layered:
        found[LAYERED] = (2, width)
    for number in range(widths.layers):
        block = f"transformer_blocks.{number}."
        for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_out.0", "to_add_out"):
            found |= _linear(f"{block}attn.{name}", width, width)
        for stream in ("img", "txt"):
            found |= _linear(f"{block}{stream}_mod.1", 6 * width, width)
            found |= _linear(f"{block}{stream}_mlp.net.0.proj", widths.mlp, width)
            found |= _linear(f"{block}{stream}_mlp.net.2", width, widths.mlp)
        for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            found[f"{block}attn.{name}.weight"] = (widths.head,)
    return found


def controlnet(layers: int, width: int, masked: bool) -> Shapes:  # noqa: FBT001  # one of three numbers, as it were
    """A blockwise ControlNet: a block of two layers beside each of the DiT's, and the layer that latents come in by.

    One that looks at a mask as well takes four numbers more a token: one for each of its latent pixels.
    """
    found = _linear("img_in", width, TransformerWidths().latent + 4 * masked)
    for number in range(layers):
        block = f"controlnet_blocks.{number}."
        found |= _linear(f"{block}input_proj", width, width) | _linear(f"{block}output_proj", width, width)
        found |= {f"{block}x_rms.weight": (width,), f"{block}y_rms.weight": (width,)}
    return found


def text_encoder(widths: TextEncoderWidths) -> Shapes:
    """Qwen2.5-VL without its `lm_head`: decoder layers, embedding, final norm, vision tower."""
    width, mlp, found = widths.width, widths.mlp, Shapes()
    found["model.embed_tokens.weight"] = (widths.vocabulary, width)
    found["model.norm.weight"] = (width,)
    for number in range(widths.layers):
        layer = f"model.layers.{number}."
        found |= _linear(f"{layer}self_attn.q_proj", widths.queries, width)
        found |= _linear(f"{layer}self_attn.k_proj", widths.keys, width)
        found |= _linear(f"{layer}self_attn.v_proj", widths.keys, width)
        found[f"{layer}self_attn.o_proj.weight"] = (width, widths.queries)
        found[f"{layer}mlp.gate_proj.weight"] = (mlp, width)
        found[f"{layer}mlp.up_proj.weight"] = (mlp, width)
        found[f"{layer}mlp.down_proj.weight"] = (width, mlp)
        found[f"{layer}input_layernorm.weight"] = (width,)
        found[f"{layer}post_attention_layernorm.weight"] = (width,)
    return found | _vision(widths)


def _vision(widths: TextEncoderWidths) -> Shapes:
    width, mlp, found = widths.vision, widths.vision_mlp, Shapes()
    if not widths.vision_layers:
        return found
    found["visual.patch_embed.proj.weight"] = (width, *widths.vision_patch)
    for number in range(widths.vision_layers):
        block = f"visual.blocks.{number}."
        found |= _linear(f"{block}attn.qkv", 3 * width, width) | _linear(f"{block}attn.proj", width, width)
        found |= _linear(f"{block}mlp.gate_proj", mlp, width) | _linear(f"{block}mlp.up_proj", mlp, width)
        found |= _linear(f"{block}mlp.down_proj", width, mlp)
        found |= {f"{block}norm1.weight": (width,), f"{block}norm2.weight": (width,)}
    found["visual.merger.ln_q.weight"] = (width,)
    merged = 4 * width  # two patches by two
    return found | _linear("visual.merger.mlp.0", merged, merged) | _linear("visual.merger.mlp.2", widths.width, merged)


def vae(widths: VaeWidths) -> Shapes:
    """The VAE: encoder and decoder of causal 3D convolutions in four stages."""
    base, latent, colours = widths.base, widths.latent, widths.colours
    top = 4 * base
    found = _conv("quant_conv", 2 * latent, 2 * latent, (1, 1, 1)) | _conv("post_quant_conv", latent, latent, (1, 1, 1))
    found |= _conv("encoder.conv_in", base, colours, _CUBE) | _conv("encoder.conv_out", 2 * latent, top, _CUBE)
    found |= _conv("decoder.conv_in", top, latent, _CUBE) | _conv("decoder.conv_out", colours, base, _CUBE)
    found |= {"encoder.norm_out.gamma": (top, 1, 1, 1), "decoder.norm_out.gamma": (base, 1, 1, 1)}
    found |= _vae_middle("encoder.mid_block", top) | _vae_middle("decoder.mid_block", top)
    for part in (*_vae_down(base), *_vae_up(base)):
        found |= part
    return found


_CUBE = (3, 3, 3)
_IN_TIME = (3, 1, 1)


def _vae_down(base: int) -> Iterator[Shapes]:
    """The encoder's stages: two residual blocks each, and between stages a halving (in time too, but not the first)."""
    widths = (base, base, 2 * base, 4 * base, 4 * base)
    number = 0
    for stage, (before, width) in enumerate(pairwise(widths)):
        yield _residual(f"encoder.down_blocks.{number}", before, width)
        yield _residual(f"encoder.down_blocks.{number + 1}", width, width)
        if stage < 3:  # noqa: PLR2004  # four stages, three halvings
            yield _conv(f"encoder.down_blocks.{number + 2}.resample.1", width, width, (3, 3))
            if stage > 0:
                yield _conv(f"encoder.down_blocks.{number + 2}.time_conv", width, width, _IN_TIME)
        number += 3


def _vae_up(base: int) -> Iterator[Shapes]:
    """The decoder's stages: three residual blocks each, and between stages a doubling (in time too, but the last)."""
    for stage, (before, width) in enumerate(((4, 4), (2, 4), (2, 2), (1, 1))):
        name = f"decoder.up_blocks.{stage}"
        yield _residual(f"{name}.resnets.0", before * base, width * base)
        yield _residual(f"{name}.resnets.1", width * base, width * base)
        yield _residual(f"{name}.resnets.2", width * base, width * base)
        if stage < 3:  # noqa: PLR2004  # four stages, three doublings
            yield _conv(f"{name}.upsamplers.0.resample.1", width * base // 2, width * base, (3, 3))
        if stage < 2:  # noqa: PLR2004
            yield _conv(f"{name}.upsamplers.0.time_conv", 2 * width * base, width * base, _IN_TIME)


def _vae_middle(name: str, width: int) -> Shapes:
    attention = f"{name}.attentions.0"
    found = _conv(f"{attention}.to_qkv", 3 * width, width, (1, 1)) | _conv(f"{attention}.proj", width, width, (1, 1))
    found[f"{attention}.norm.gamma"] = (width, 1, 1)
    return found | _residual(f"{name}.resnets.0", width, width) | _residual(f"{name}.resnets.1", width, width)


def _residual(name: str, before: int, width: int) -> Shapes:
    found = _conv(f"{name}.conv1", width, before, _CUBE) | _conv(f"{name}.conv2", width, width, _CUBE)
    found |= {f"{name}.norm1.gamma": (before, 1, 1, 1), f"{name}.norm2.gamma": (width, 1, 1, 1)}
    return found if before == width else found | _conv(f"{name}.conv_shortcut", width, before, (1, 1, 1))


def _linear(stem: str, rows: int, columns: int) -> Shapes:
    return {f"{stem}.weight": (rows, columns), f"{stem}.bias": (rows,)}


def _conv(stem: str, after: int, before: int, kernel: Shape) -> Shapes:
    return {f"{stem}.weight": (after, before, *kernel), f"{stem}.bias": (after,)}


# ---- which widths a checkpoint has -----------------------------------------------------------------------------------


def transformer_widths(found: Mapping[str, Shape]) -> TransformerWidths:
    """The widths a DiT's tensors imply. Raises `LookupError` with the name of one that is needed and not there."""
    first = "transformer_blocks.0."
    width, latent = _pair(found, "img_in.weight")
    return TransformerWidths(
        layers=_count(found, "transformer_blocks."),
        width=width,
        head=_vector(found, f"{first}attn.norm_q.weight"),
        mlp=_pair(found, f"{first}img_mlp.net.0.proj.weight")[0],
        text=_vector(found, "txt_norm.weight"),
        latent=latent,
        timestep=_pair(found, "time_text_embed.timestep_embedder.linear_1.weight")[1],
        layered=LAYERED in found,
    )


def text_encoder_widths(found: Mapping[str, Shape]) -> TextEncoderWidths:
    """The widths a Qwen2.5-VL's tensors imply, also one's without its vision tower.

    Raises `LookupError` with the name of one that is not there.
    """
    first, first_vision = "model.layers.0.", "visual.blocks.0."
    vocabulary, width = _pair(found, "model.embed_tokens.weight")
    blind = TextEncoderWidths(
        layers=_count(found, "model.layers."),
        width=width,
        queries=_pair(found, f"{first}self_attn.q_proj.weight")[0],
        keys=_pair(found, f"{first}self_attn.k_proj.weight")[0],
        mlp=_pair(found, f"{first}mlp.gate_proj.weight")[0],
        vocabulary=vocabulary,
        vision_layers=0,
    )
    if not any(name.startswith("visual.") for name in found):
        return blind
    vision, *patch = _shape(found, "visual.patch_embed.proj.weight", 5)
    return replace(
        blind,
        vision_layers=_count(found, "visual.blocks."),
        vision=vision,
        vision_mlp=_pair(found, f"{first_vision}mlp.gate_proj.weight")[0],
        vision_patch=tuple(patch),
    )


def vae_widths(found: Mapping[str, Shape]) -> VaeWidths:
    """The widths a VAE's tensors imply. Raises `LookupError` with the name of one that is needed and not there."""
    base, colours, *_ = _shape(found, "encoder.conv_in.weight", 5)
    return VaeWidths(base=base, latent=_shape(found, "post_quant_conv.weight", 5)[0], colours=colours)


def _count(found: Mapping[str, Shape], prefix: str) -> int:
    """How many layers there are, if they are numbered from 0 without a gap; if not, what lacks shows it."""
    numbers = {name.removeprefix(prefix).partition(".")[0] for name in found if name.startswith(prefix)}
    return sum(number.isdecimal() for number in numbers)


def _shape(found: Mapping[str, Shape], name: str, dimensions: int) -> Shape:
    shape = found.get(name, ())
    if len(shape) != dimensions:
        raise LookupError(name)
    return shape


def _pair(found: Mapping[str, Shape], name: str) -> tuple[int, int]:
    rows, columns = _shape(found, name, 2)
    return rows, columns


def _vector(found: Mapping[str, Shape], name: str) -> int:
    return _shape(found, name, 1)[0]
