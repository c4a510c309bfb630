"""A model's networks from its packed store, without their blocks: `Stop`s stand in the blocks' places.

What lies outside the blocks goes to the device. Which classes to build is told by the widths the store has. Knows
nothing of slots or pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffsynth.core.vram.initialization import skip_model_initialization
from diffsynth.models.qwen_image_dit import QwenImageDiT
from diffsynth.models.qwen_image_text_encoder import QwenImageTextEncoder
from diffsynth.models.qwen_image_vae import QwenImageVAE
from diffsynth.pipelines.qwen_image import QwenImagePipeline, QwenImageUnit_PromptEmbedder
from safetensors import safe_open
from transformers import Qwen2Tokenizer

from renderer.catalog import DROPPED_TOKENS
from renderer.demo import family
from renderer.demo.tokenizer import TEMPLATE_PREFIX
from renderer.engine.device import Device, computation_dtype
from renderer.engine.encoding import Encoded, HostEmbedding, ReadyPrompts, TextStop
from renderer.engine.modulation import PickImage, PickText
from renderer.engine.riders import Stop
from renderer.engine.vae import PictureVae
from renderer.errors import ModelError, shorten
from renderer.weights.store import Store, load

QWEN_IMAGE_WIDTH = 3072

_TOKENIZER_HINT = "the tokenizer is damaged, or another model's"


@dataclass(frozen=True, slots=True)
class Skeleton:
    """The networks with stops for blocks, and one block of each kind on the meta device.

    What is loaded is in the type that the device computes in; blocks come in what they are stored in. `checking` ends
    when the embedding table, which stays in its file, has been read and held against the index.
    """

    dit: Any
    dit_block: torch.nn.Module
    text_encoder: Any
    text_block: torch.nn.Module
    vae: Any
    tokenizer: Any
    width: int
    checking: Future[None]


def empty(width: int, layers: int) -> tuple[Any, Any, Any]:
    """DiT, text encoder and VAE of the model whose DiT is `width` wide, all on the meta device.

    Raises `ModelError` for a width that no known model has.
    """
    with skip_model_initialization():
        if width == QWEN_IMAGE_WIDTH:
            return QwenImageDiT(num_layers=layers), QwenImageTextEncoder(), QwenImageVAE()
        if width == family.DIT_WIDTH:
            return family.DemoDiT(), family.DemoTextEncoder(), QwenImageVAE(base_dim=family.VAE_BASE_WIDTH)
    raise ModelError(f"no known model of the family has a DiT {width} wide")


def build(store: Store, device: Device) -> Skeleton:
    """Build the networks of a store. Raises `ModelError` for widths that no known model has."""
    dtype = computation_dtype(device)
    outside = _cast(load(store.outside("transformer"), device), dtype)
    width = outside["img_in.weight"].shape[0]
    layers = len(store.blocks("transformer"))
    dit, text_encoder, vae = empty(width, layers)
    dit_block = dit.transformer_blocks[0]
    dit_block.img_mod, dit_block.txt_mod = PickImage(), PickText()
    dit.transformer_blocks = torch.nn.ModuleList(Stop(number) for number in range(layers))
    dit.load_state_dict(outside, assign=True)
    checking = _in_the_background(store.outside("text_encoder").check)
    text_block = _hollow_out(text_encoder, store, device, dtype)
    return Skeleton(
        dit=dit.eval(),
        dit_block=dit_block,
        text_encoder=text_encoder.eval(),
        text_block=text_block,
        vae=PictureVae(vae, _cast(load(store.vae(), device), dtype)),
        tokenizer=open_tokenizer(store.tokenizer),
        width=width,
        checking=checking,
    )


def pipeline(skeleton: Skeleton, encoded: Mapping[str, Encoded], device: Device) -> Any:
    """A pipeline of DiffSynth's for one picture: its own scheduler, everybody's networks, prompts that are encoded."""
    pipe = QwenImagePipeline(device=device, torch_dtype=computation_dtype(device))
    pipe.dit, pipe.vae = skeleton.dit, skeleton.vae
    pipe.text_encoder, pipe.tokenizer = skeleton.text_encoder, skeleton.tokenizer
    pipe.units = [
        ReadyPrompts(encoded) if isinstance(unit, QwenImageUnit_PromptEmbedder) else unit for unit in pipe.units
    ]
    return pipe


def _in_the_background(work: Callable[[], None]) -> Future[None]:
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(work)
    finally:
        pool.shutdown(wait=False)


def open_tokenizer(folder: Path) -> Any:
    """A model's tokenizer. Raises `ModelError`, naming the folder, unless it cuts prompts as DiffSynth takes it to."""
    try:
        tokenizer = Qwen2Tokenizer.from_pretrained(str(folder))
        dropped = len(tokenizer(TEMPLATE_PREFIX).input_ids)
    except Exception as error:  # whatever its library says of a file that is none
        raise ModelError(f"{folder}: not a tokenizer: {shorten(str(error))}", hint=_TOKENIZER_HINT) from error
    if dropped != DROPPED_TOKENS:
        message = f"{folder}: the prompt template takes {dropped} tokens, and DiffSynth drops {DROPPED_TOKENS}"
        raise ModelError(message, hint=_TOKENIZER_HINT)
    return tokenizer


def _cast(tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Tensors in another type, where they are of another."""
    return {name: tensor.to(dtype=dtype) for name, tensor in tensors.items()}


def _hollow_out(encoder: Any, store: Store, device: Device, dtype: torch.dtype) -> torch.nn.Module:
    """Take the text encoder's layers, vision tower and head out; one of its layers is what comes back."""
    language = encoder.model.language_model
    block: torch.nn.Module = language.layers[0]
    count = len(language.layers)
    language.layers = torch.nn.ModuleList(TextStop(number) for number in range(count))
    outside = store.outside("text_encoder")
    with safe_open(outside.path, framework="pt") as file:  # mapped: the embedding table is not read
        norm = file.get_tensor("model.norm.weight").to(device, dtype)
        language.embed_tokens = HostEmbedding(file.get_tensor("model.embed_tokens.weight"), device, dtype)
    language.norm.weight = torch.nn.Parameter(norm, requires_grad=False)
    language.rotary_emb.to(device=device, dtype=dtype)  # frequencies like all else, as DiffSynth has them
    encoder.model.visual = None
    encoder.lm_head = None
    return block
