"""Qwen-Image: a DiT of two streams, Qwen2.5-VL for its prompts, and a VAE of causal convolutions.

    transformer.py    the DiT in a store: its blocks' layers in the order of a slot, what stays bf16 and why
    text_encoder.py   the text encoder's, with its vision tower
    vae.py            the VAE's
    networks.py       how DiffSynth builds and calls them: for the engine, and the only file here with torch in it
    costs.py          what they have in memory and compute: for the estimates
    decode.py         of it, a decode in strips: how high these are, and what each holds
    shapes.py         every tensor they have, by name and shape, for any widths

The demo model is a member with small widths.
"""

from __future__ import annotations

from collections.abc import Mapping

from renderer.catalog import QWEN_IMAGE_ARCHITECTURE, Architecture, Role
from renderer.families.family import ControlNets, Family, Shape, Shapes
from renderer.families.qwen_image import shapes
from renderer.families.qwen_image.text_encoder import MARKS, TEXT_ENCODER
from renderer.families.qwen_image.transformer import TRANSFORMER
from renderer.families.qwen_image.vae import VAE

_PATCH = 4
"""The DiT takes latent pixels two by two."""

_WITH_ALPHA = 4
"""Channels of a picture that has transparency."""


def _unfit(found: Mapping[Role, Mapping[str, Shape]]) -> str:
    transformer = shapes.transformer_widths(found["transformer"])
    for what, mine, others in (
        ("text encoder", transformer.text, shapes.text_encoder_widths(found["text_encoder"]).width),
        ("VAE", transformer.latent, _PATCH * shapes.vae_widths(found["vae"]).latent),
    ):
        if mine != others:
            return f"wants a {what} of width {mine}, and this one has {others}"
    channels = shapes.vae_widths(found["vae"]).colours
    if transformer.layered and channels != _WITH_ALPHA:
        return "takes pictures apart, and wants a VAE that knows transparency: Qwen-Image-Layered's"
    if not transformer.layered and channels == _WITH_ALPHA:
        return "makes no layers, and this VAE is Qwen-Image-Layered's"
    return ""


def _shapes(model: Architecture) -> dict[Role, Shapes]:
    text = model.text_width
    transformer = shapes.TransformerWidths(
        layers=1, width=model.width, head=model.head_width, mlp=model.mlp_width, text=text
    )
    text_encoder = shapes.TextEncoderWidths(
        layers=1,
        width=text,
        queries=text,
        keys=model.text_key_width,
        mlp=model.text_mlp_width,
        vocabulary=model.vocabulary,
    )
    return {
        "transformer": shapes.transformer(transformer),
        "text_encoder": shapes.text_encoder(text_encoder),
        "vae": shapes.vae(shapes.VaeWidths(base=model.vae_width)),
    }


QWEN_IMAGE_FAMILY = Family(
    "qwen-image",
    "Qwen-Image",
    (TRANSFORMER, TEXT_ENCODER, VAE),
    unfit=_unfit,
    shapes=_shapes,
    torch_half=f"{__name__}.networks",
    costs=f"{__name__}.costs",
    architecture=QWEN_IMAGE_ARCHITECTURE,
    controlnets=ControlNets("controlnet_blocks.", "img_in.weight", shapes.controlnet),
    marks=MARKS,
)
