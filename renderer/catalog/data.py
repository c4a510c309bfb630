"""The models themselves, as data.

Revisions are commits of the Hugging Face repositories; ModelScope's repositories of the same names have others, and
their `master` is taken. Counts and sizes are those that the repositories' pages show; what nobody has looked up is
null. The edit models and 2512 take text encoder, VAE and tokenizer from Qwen/Qwen-Image, as DiffSynth's own examples
do, so that they lie on a disk once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from renderer.catalog.model import Architecture, Density, Editing, Layering, Model, Part, UNetShape
from renderer.job import Format, Size

TRANSFORMER_FILES = "transformer/diffusion_pytorch_model*.safetensors"
TEXT_ENCODER_FILES = "text_encoder/model*.safetensors"
VAE_FILES = "vae/diffusion_pytorch_model.safetensors"
TOKENIZER = "tokenizer/"
PROCESSOR = "processor/"
PROCESSOR_NEEDS = "preprocessor_config.json"

SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?=\.safetensors$)")
"""In the name of a file that is one of several: which, and of how many."""

_GB = 10**9
_MB = 10**6

_QWEN_IMAGE_ID = "Qwen/Qwen-Image"
_QWEN_IMAGE_REVISION = "75e0b4be04f60ec59a75f475837eced720f823b6"
_EDIT_ID = "Qwen/Qwen-Image-Edit"
_EDIT_REVISION = "ac7f9318f633fc4b5778c59367c8128225f1e3de"


def _transformer(count: int, comfyui: str | None) -> Part:
    return Part("transformer", TRANSFORMER_FILES, count, round(40.9 * _GB), comfyui=comfyui)


_TEXT_ENCODER = Part(
    "text_encoder",
    TEXT_ENCODER_FILES,
    count=4,
    bytes=round(16.6 * _GB),
    comfyui="text_encoders/qwen_2.5_vl_7b.safetensors",
)
_VAE = Part("vae", VAE_FILES, count=1, bytes=254 * _MB, comfyui="vae/qwen_image_vae.safetensors")
_TOKENIZER = Part("tokenizer", TOKENIZER, bytes=round(5.06 * _MB))
PROCESSOR_PART = Part("processor", PROCESSOR, bytes=round(15.9 * _MB), repository=_EDIT_ID, revision=_EDIT_REVISION)

SHARED = tuple(
    replace(part, repository=_QWEN_IMAGE_ID, revision=_QWEN_IMAGE_REVISION)
    for part in (_TEXT_ENCODER, _VAE, _TOKENIZER)
)
"""What other models of the family take from Qwen/Qwen-Image."""

QWEN_IMAGE_ARCHITECTURE = Architecture(
    layers=60,
    width=3072,
    heads=24,
    text_layers=28,
    text_width=3584,
    text_heads=28,
    text_key_heads=4,
    text_mlp_width=18944,
    vocabulary=152_064,
    vae_width=96,
)

DEMO_ARCHITECTURE = Architecture(
    layers=5,
    width=160,
    heads=5,
    text_layers=4,
    text_width=128,
    text_heads=4,
    text_key_heads=2,
    text_mlp_width=320,
    vocabulary=768,
    vae_width=12,
)
"""`renderer.demo.members` builds it."""

STABLE_DIFFUSION_15 = UNetShape(
    unet=859_520_964,
    vae=83_653_863,
    text_encoder=123_060_480,
    safety_checker=304_010_754,
    channels=(320, 640, 1280, 1280),
    heads=8,
    text_width=768,
    vae_channels=(256, 128),
)
"""stable-diffusion-v1-5. It is not rendered with: the arithmetic of memory is held against what is known of it."""

PHOTOGRAPHS: Mapping[Format, Density] = MappingProxyType(
    {"png": Density(1.5), "webp": Density(1.1), "jpeg": Density(0.7)}
)
"""Assumed of every model whose own pictures have not been measured: photographs, no flat graphics.

PNG: three sets of photographs of 0.4 to 1.4 megapixels take libpng 1.50, 1.69 and 1.70 bytes a pixel (QOI's published
benchmark: Tecnick, Kodak, Wikipedia; its screenshots of games and the web, 0.6 and 0.2), and 2.3 million pictures of
512x512 by FLUX.2-dev are published in 1.45 a pixel, captions included. WebP without loss is a quarter smaller. JPEG at
quality 95 and full colour is half of PNG, within a third.
"""

QWEN_IMAGE = Model(
    id=_QWEN_IMAGE_ID,
    about="text to picture, 20 billion parameters, English and Chinese lettering",
    family="qwen-image",
    parts=(
        _transformer(9, "diffusion_models/qwen_image_bf16.safetensors"),
        _TEXT_ENCODER,
        _VAE,
        _TOKENIZER,
    ),
    revision=_QWEN_IMAGE_REVISION,
    shape=QWEN_IMAGE_ARCHITECTURE,
    ratios=MappingProxyType(
        {
            "1:1": Size(width=1328, height=1328),
            "16:9": Size(width=1664, height=928),
            "9:16": Size(width=928, height=1664),
            "4:3": Size(width=1472, height=1104),
            "3:4": Size(width=1104, height=1472),
            "3:2": Size(width=1584, height=1056),
            "2:3": Size(width=1056, height=1584),
        }
    ),
    min_side=256,
    max_side=2560,
    max_pixels=2048 * 2048,
    steps=40,
    cfg_scale=4.0,
    gpu_bytes=MappingProxyType({"bf16": 58 * _GB, "fp8": 29 * _GB, "int8": 29 * _GB, "int4": 17 * _GB}),
    densities=PHOTOGRAPHS,
    licence="Apache-2.0",
)

QWEN_IMAGE_2512 = replace(
    QWEN_IMAGE,
    id="Qwen/Qwen-Image-2512",
    about="text to picture, the December 2025 weights: people, nature, lettering",
    parts=(_transformer(9, "diffusion_models/qwen_image_2512_bf16.safetensors"), *SHARED),
    revision="25468b98e3276ca6700de15c6628e51b7de54a26",
)

EDITING = Editing(most_images=1, numbered=False)
EDITING_2509 = Editing(most_images=8)
EDITING_2511 = replace(EDITING_2509, zero_cond_t=True)
"""Of the three generations of edit models: the first was made for one picture, 2509 and 2511 for one to three."""

QWEN_IMAGE_EDIT = replace(
    QWEN_IMAGE,
    id=_EDIT_ID,
    about="edits a picture as a text says",
    ability="edit",
    parts=(
        _transformer(9, "diffusion_models/qwen_image_edit_bf16.safetensors"),
        *SHARED,
        replace(PROCESSOR_PART, repository=None, revision=None),
    ),
    revision=_EDIT_REVISION,
    editing=EDITING,
)

QWEN_IMAGE_EDIT_2509 = replace(
    QWEN_IMAGE_EDIT,
    id="Qwen/Qwen-Image-Edit-2509",
    about="edits several pictures as a text says",
    parts=(_transformer(5, "diffusion_models/qwen_image_edit_2509_bf16.safetensors"), *SHARED, PROCESSOR_PART),
    revision="d3968ef930e841f4c73640fb8afa3b306a78167e",
    editing=EDITING_2509,
)

QWEN_IMAGE_EDIT_2511 = replace(
    QWEN_IMAGE_EDIT,
    id="Qwen/Qwen-Image-Edit-2511",
    about="edits several pictures as a text says; people stay who they are",
    parts=(_transformer(5, "diffusion_models/qwen_image_edit_2511_bf16.safetensors"), *SHARED, PROCESSOR_PART),
    revision="6f3ccc0b56e431dc6a0c2b2039706d7d26f22cb9",
    editing=EDITING_2511,
)

LAYERING = Layering()
LAYERING_ALONE = Layering(usual=1, most=1, alone=True)
"""Of Qwen-Image-Layered, and of DiffSynth's Layered-Control, which was made of it."""

LAYERED_RATIOS: Mapping[str, Size] = MappingProxyType(
    {
        "1:1": Size(width=640, height=640),
        "16:9": Size(width=864, height=480),
        "9:16": Size(width=480, height=864),
        "4:3": Size(width=736, height=560),
        "3:4": Size(width=560, height=736),
        "3:2": Size(width=784, height=528),
        "2:3": Size(width=528, height=784),
    }
)
"""About 640x640 pixels, which its authors recommend, in multiples of 16; it has learned 1024x1024 as well."""

QWEN_IMAGE_LAYERED = replace(
    QWEN_IMAGE,
    id="Qwen/Qwen-Image-Layered",
    about="takes a picture apart into layers, each with its own transparency",
    ability="layers",
    parts=(
        _transformer(5, "diffusion_models/qwen_image_layered_bf16.safetensors"),
        *(part for part in SHARED if part.role == "text_encoder"),
        replace(_VAE, comfyui="vae/qwen_image_layered_vae.safetensors"),
        *(part for part in SHARED if part.role == "tokenizer"),
    ),
    revision="8f0ca708dfff6ba1dd5f2d85d78f8c108a040bcf",
    ratios=LAYERED_RATIOS,
    layering=LAYERING,
)

LAYERED_VAE = next(
    replace(part, repository=QWEN_IMAGE_LAYERED.id, revision=QWEN_IMAGE_LAYERED.revision)
    for part in QWEN_IMAGE_LAYERED.parts
    if part.role == "vae"
)
"""The VAE of four channels, which knows transparency: for other models that take pictures apart."""


_DEMO_DENSITIES: Mapping[Format, Density] = MappingProxyType(
    {
        "png": Density(0.74, 256 * 256, 0.14, pictures=10, in_float32=0.78),
        "webp": Density(0.50, 256 * 256, 0.20, pictures=10, in_float32=0.85),
        "jpeg": Density(0.20, 256 * 256, 0.30, pictures=10),
    }
)
"""Flat graphics: 167 pictures of four manifests (jobs/demo.yaml, jobs/posters.yaml --proof, and two of what the model
knows, 64x64 to 1024x1024) were rendered, and encoded in each format. The sums of PNG are met within 10 %, and that of
22 others, of which the figure knows nothing, within 2 %. Single pictures differ: at 256x256 plain shapes have 0.52, and
dots, stripes and checks 1.2. As the figure is worth ten pictures, any five of a manifest foretell its others within
20 % in 98 of 100 drawings.

In float32 the 34 pictures of the first two manifests were rendered as well: PNGs have 0.74 and 0.88 of what they have
in bf16, WebPs 0.75 and 0.89, JPEGs 0.95 and 1.01. The sums of PNG are met within 18 % (jobs/demo.yaml is smaller) and
13 %.
"""

DEMO = Model(
    id="demo",
    about="a small member of the family that comes with the package: shapes, colours, short words",
    family="qwen-image",
    ratios=MappingProxyType(
        {
            "1:1": Size(width=256, height=256),
            "16:9": Size(width=336, height=192),
            "9:16": Size(width=192, height=336),
            "4:3": Size(width=304, height=224),
            "3:4": Size(width=224, height=304),
            "3:2": Size(width=320, height=208),
            "2:3": Size(width=208, height=320),
        }
    ),
    min_side=64,
    max_side=1024,
    max_pixels=1024 * 1024,
    steps=8,
    cfg_scale=4.0,
    revision="2",
    shape=DEMO_ARCHITECTURE,
    gpu_bytes=MappingProxyType(dict.fromkeys(("bf16", "fp8", "int8", "int4"), 64 * 2**20)),
    densities=_DEMO_DENSITIES,
    licence="Apache-2.0",
    proof_side=256,
)

DEMO_EDIT = replace(
    DEMO,
    id="demo-edit",
    about="a small edit model that comes with the package: other colours, shapes, words in its own drawings",
    ability="edit",
    cfg_scale=2.5,
    revision="2",
    editing=Editing(most_images=1, pixels=256 * 256, numbered=False, zero_cond_t=True),
)
"""The demo model, trained on to edit: one picture, shown as Qwen-Image-Edit is, and no noise to it, as in 2511."""
