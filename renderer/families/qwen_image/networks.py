"""Qwen-Image's networks as DiffSynth builds them, hollow: `Stop`s stand in their blocks' places. The engine calls this.

What lies outside the blocks goes to the device. Which classes to build is told by the widths the store has.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffsynth.core.vram.initialization import skip_model_initialization
from diffsynth.models.qwen_image_controlnet import BlockWiseControlBlock, QwenImageBlockWiseControlNet
from diffsynth.models.qwen_image_dit import QwenEmbedLayer3DRope, QwenImageDiT
from diffsynth.models.qwen_image_text_encoder import QwenImageTextEncoder
from diffsynth.models.qwen_image_vae import QwenImageVAE
from diffsynth.pipelines.qwen_image import (
    QwenImageBlockwiseMultiControlNet,
    QwenImagePipeline,
    QwenImageUnit_EntityControl,
    QwenImageUnit_PromptEmbedder,
)
from safetensors import safe_open
from transformers import PreTrainedModel, Qwen2Tokenizer, Qwen2VLProcessor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLDecoderLayer, Qwen2_5_VLModel

from renderer.catalog import DROPPED_TOKENS, EDIT_DROPPED_TOKENS, MOST_REGION_TOKENS
from renderer.demo import members
from renderer.demo.tokenizer import EDIT_TEMPLATE_PREFIX, TEMPLATE_PREFIX
from renderer.engine import adapted as loras
from renderer.engine import calling, inputs, libraries, schedules
from renderer.engine.adapters import AdapterShelf
from renderer.engine.blocks import FastBlocks, ModuleBlocks
from renderer.engine.device import Device, computation_dtype
from renderer.engine.encoding import AskedPrompt, Encoded, HostEmbedding
from renderer.engine.inputs import Inputs
from renderer.engine.modulation import Modulations, PickImage, PickText, ReadyModulation
from renderer.engine.picture_vae import PictureVae
from renderer.engine.pinned import sent
from renderer.engine.riders import Halt, Stop, pause
from renderer.engine.scaled_blocks import ScaledBlocks
from renderer.engine.skeletons import Beforehand, Skeleton
from renderer.errors import ModelError, shorten
from renderer.families.qwen_image.shapes import LAYERED
from renderer.job import Job
from renderer.weights.store import Store, TensorPlace, load
from renderer.weights.within import BlockWithin, blocks_within

QWEN_IMAGE_WIDTH = 3072

DIT, TEXT, VISION = "transformer", "text_encoder", "vision"
"""The sections."""

_TOWER = "visual."

LAYERED_OPTIONS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"transformer": {"use_layer3d_rope": True, "use_additional_t_cond": True}, "vae": {"image_channels": 4}}
)
"""What DiffSynth builds the networks with that take pictures apart, by their roles."""

MOST_SIZES = 32
"""Sizes whose rotary frequencies stay on the device: up to 8 MB each."""

_TOKENIZER_HINT = "the tokenizer is damaged, or another model's"
_PROCESSOR_HINT = "what prepares pictures is damaged, or another model's"

_TYPES = "mm_token_type_ids"
"""Under this name transformers is told of each token what it is of: 0 is text, 1 a picture."""


def empty(width: int, *, layered: bool = False) -> tuple[Any, Any, Any]:
    """DiT, text encoder and VAE of the model whose DiT is `width` wide, all on the meta device: a DiT of few blocks.

    `layered` are those that take pictures apart. Raises `ModelError` for a width that no known model has.
    """
    options = LAYERED_OPTIONS if layered else {}
    dit, vae = options.get("transformer", {}), options.get("vae", {})
    with skip_model_initialization(), _uninitialised():
        if width == QWEN_IMAGE_WIDTH:
            return QwenImageDiT(num_layers=1, **dit), QwenImageTextEncoder(), QwenImageVAE(**vae)
        if width == members.DIT_WIDTH:
            small = QwenImageVAE(base_dim=members.VAE_BASE_WIDTH, **vae)
            return members.DemoDiT(**dit), members.DemoTextEncoder(), small
    raise ModelError(f"no known model of the family has a DiT {width} wide")


@contextlib.contextmanager
def _uninitialised() -> Iterator[None]:
    """Within, nobody draws weights for what is built without memory, for which torch would bring its compiler."""
    drawing = {name: value for name, value in vars(torch.nn.init).items() if name.endswith("_") and name[0] != "_"}
    before = PreTrainedModel.init_weights
    PreTrainedModel.init_weights = lambda _: None
    vars(torch.nn.init).update(dict.fromkeys(drawing, lambda tensor, *_, **__: tensor))
    try:
        yield
    finally:
        PreTrainedModel.init_weights = before
        vars(torch.nn.init).update(drawing)


def build(store: Store, device: Device) -> Skeleton:
    """Build the networks of a store. Raises `ModelError` for widths that no known model has."""
    dtype = computation_dtype(device)
    outside = _cast(load(store.outside("transformer"), device), dtype)
    width = outside["img_in.weight"].shape[0]
    layers = len(store.blocks("transformer"))
    dit, text_encoder, vae = empty(width, layered=LAYERED in outside)
    dit_block = dit.transformer_blocks[0]
    dit_block.img_mod, dit_block.txt_mod = PickImage(), PickText()
    dit.transformer_blocks = torch.nn.ModuleList(Stop(DIT, number) for number in range(layers))
    dit.load_state_dict(outside, assign=True)
    loras.listen(dit)
    checking = _in_the_background(lambda: _check(store))
    looks = store.processor is not None
    seen: tuple[BlockWithin, ...] = blocks_within(store.vision(), f"{_TOWER}blocks.") if looks else ()
    templates = {DIT: dit_block}
    if looks:
        templates[VISION] = _hollow_tower(text_encoder.model.visual, store, device, dtype)
        tell_pictures_from_text(text_encoder)
    templates[TEXT] = _hollow_out(text_encoder, store, device, dtype, looks=looks)
    parts = {
        "dit": dit.eval(),
        "text_encoder": text_encoder.eval(),
        "vae": PictureVae(vae, _cast(load(store.vae(), device), dtype)),
        "tokenizer": open_tokenizer(store.tokenizer),
        "processor": open_processor(store.processor) if store.processor is not None else None,
    }

    def tidy() -> None:
        _tidy_places(dit.pos_embed)

    return Skeleton(
        parts=parts,
        templates=templates,
        sections=(DIT,),
        text_sections=(TEXT,),
        tokenizer=parts["tokenizer"],
        width=width,
        checking=checking,
        tidy=tidy,
        looking_sections=(VISION,) if looks else (),
        own_files={VISION: seen} if looks else {},
    )


def _tidy_places(places: Any) -> None:
    """Let go of rotary frequencies, which DiffSynth keeps in a table; of layers, in its methods' own."""
    if isinstance(places, QwenEmbedLayer3DRope):
        for kept in (QwenEmbedLayer3DRope._compute_video_freqs, QwenEmbedLayer3DRope._compute_condition_freqs):  # noqa: SLF001
            if kept.cache_info().currsize > MOST_SIZES:
                kept.cache_clear()
    elif len(places.rope_cache) > MOST_SIZES:
        places.rope_cache.clear()


def _check(store: Store) -> None:
    store.outside("text_encoder").check()
    if store.processor is not None:
        store.vision().check()


def pipeline(
    skeleton: Skeleton,
    encoded: Mapping[str, Encoded],
    device: Device,
    job: Job | None = None,
    controls: Sequence[Any] = (),
) -> Any:
    """A pipeline of DiffSynth's for one picture: its scheduler, everybody's networks, prompts that are encoded."""
    pipe = QwenImagePipeline(device=device, torch_dtype=computation_dtype(device))
    calling.send_noise_of(pipe)
    for name, part in skeleton.parts.items():
        setattr(pipe, name, part)
    if controls:
        pipe.blockwise_controlnet = together(controls)
    if job is not None:
        schedules.follow(pipe, job)
    ready = {QwenImageUnit_PromptEmbedder: ReadyPrompts(encoded), QwenImageUnit_EntityControl: ReadyRegions(encoded)}
    pipe.units = [ready.get(type(unit), unit) for unit in pipe.units]
    return pipe


def encode(pipe: Any, prompt: AskedPrompt, given: Inputs) -> Encoded:
    """Encode a prompt as DiffSynth does, pausing at every layer."""
    images: Any = None
    if prompt.edit is not None:
        images = inputs.edited(prompt.edit, given)
        images = images if prompt.edit.numbered else images[0]
    found = QwenImageUnit_PromptEmbedder().process(pipe, prompt.text, images)
    return Encoded(found["prompt_emb"].cpu(), found["prompt_emb_mask"].cpu())


def arguments(job: Job, given: Inputs) -> dict[str, Any]:
    """What `pipe(...)` is called with, `progress_bar_cmd` aside."""
    return calling.arguments(job, given)


def beforehand(skeleton: Skeleton, store: Store, device: Device, shelf: AdapterShelf) -> Beforehand:
    """The modulations, a third of the DiT's weights: they see the timestep alone, and a picture's LoRAs."""
    return Modulations(skeleton.parts["dit"].time_text_embed, store.modulations(), device, shelf)


def given(halt: Halt, ready: torch.Tensor | None) -> Mapping[str, Any]:
    """A block's modulation is ready-made, and stands in for the timestep's embedding."""
    assert ready is not None
    return {**halt.kwargs, "temb": ReadyModulation(ready[halt.index])}


def fast_blocks(
    section: str, template: torch.nn.Module, places: Sequence[TensorPlace], plain: ModuleBlocks, operations: Any
) -> FastBlocks | None:
    """The DiT's blocks by products of what is stored."""
    if section != DIT:
        return None
    attention = template.get_submodule("attn")
    return ScaledBlocks(plain, places, attention.num_heads, attention.head_dim, operations)


def renumber(section: str) -> Callable[[torch.nn.Module, int], None] | None:
    """A layer of the text encoder keeps its keys and values under its number."""
    return _renumber if section == TEXT else None


def _renumber(layer: Any, number: int) -> None:
    layer.self_attn.layer_idx = number


def control_block(width: int) -> torch.nn.Module:
    """A blockwise ControlNet's block, empty."""
    with skip_model_initialization(), _uninitialised():
        block: torch.nn.Module = BlockWiseControlBlock(width)
    return block


def controlnet(section: str, layers: int, outside: Mapping[str, torch.Tensor]) -> Any:
    """A blockwise ControlNet with stops for blocks: it waits after each of the DiT's, as DiffSynth calls it there."""
    weight = outside["img_in.weight"]
    with skip_model_initialization(), _uninitialised():
        found = QwenImageBlockWiseControlNet(0, in_dim=weight.shape[1], dim=weight.shape[0])
    found.controlnet_blocks = torch.nn.ModuleList(Stop(section, number) for number in range(layers))
    found.load_state_dict(outside, assign=True)
    return found.eval()


def together(controlnets: Sequence[Any]) -> Any:
    """Several ControlNets as one, by DiffSynth's own class."""
    return QwenImageBlockwiseMultiControlNet(list(controlnets))


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


def open_processor(folder: Path) -> Any:
    """What prepares pictures for a model, opened as DiffSynth does.

    Raises `ModelError`, naming the folder, for what is none, and where it cuts prompts otherwise than DiffSynth thinks.
    """
    libraries.see()
    try:
        processor = Qwen2VLProcessor.from_pretrained(str(folder))
        dropped = len(processor.tokenizer(EDIT_TEMPLATE_PREFIX).input_ids)
    except Exception as error:  # whatever its library says of a file that is none
        raise ModelError(f"{folder}: prepares no pictures: {shorten(str(error))}", hint=_PROCESSOR_HINT) from error
    if dropped != EDIT_DROPPED_TOKENS:
        message = f"{folder}: the template of edits takes {dropped} tokens, and DiffSynth drops {EDIT_DROPPED_TOKENS}"
        raise ModelError(message, hint=_PROCESSOR_HINT)
    return processor


def tell_pictures_from_text(encoder: Any) -> None:
    """Have a text encoder of DiffSynth's told which tokens are of pictures, where there are any.

    From transformers 5 on, Qwen2.5-VL knows that by `mm_token_type_ids` alone, which DiffSynth 2.1.12 does not hand on:
    without a word, a picture's patches are then numbered in one row, like words, and not by row and column, as the
    model has learned them. What earlier versions of transformers did by themselves is done here.
    """
    if _TYPES not in inspect.signature(Qwen2_5_VLModel.forward).parameters:
        return  # transformers 4 looks for itself

    def told(_encoder: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], Any] | None:
        if named.get("pixel_values") is None or _TYPES in named:
            return None
        types = (named["input_ids"] == encoder.config.image_token_id).int()
        return arguments, {**named, _TYPES: types}

    encoder.register_forward_pre_hook(told, with_kwargs=True)


def _cast(tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Tensors in another type, where they are of another."""
    return {name: tensor.to(dtype=dtype) for name, tensor in tensors.items()}


def _hollow_tower(tower: Any, store: Store, device: Device, dtype: torch.dtype) -> torch.nn.Module:
    """Take the vision tower's blocks out; one of them is what comes back. What is around them is loaded."""
    block: torch.nn.Module = tower.blocks[0]
    tower.blocks = torch.nn.ModuleList(Stop(VISION, number) for number in range(len(tower.blocks)))
    with safe_open(store.vision().path, framework="pt") as file:  # mapped: blocks are not read
        around = [name for name in file.keys() if not name.startswith(f"{_TOWER}blocks.")]  # noqa: SIM118  # no dict
        loaded = {name.removeprefix(_TOWER): file.get_tensor(name).to(device, dtype) for name in around}
    tower.load_state_dict(loaded, assign=True)
    tower.rotary_pos_emb.to(device=device, dtype=dtype)  # as the text encoder's, below
    return block


def _hollow_out(encoder: Any, store: Store, device: Device, dtype: torch.dtype, *, looks: bool) -> torch.nn.Module:
    """Take the text encoder's layers and head out, and its vision tower where it never `looks`.

    One of its layers is what comes back.
    """
    language = encoder.model.language_model
    block: torch.nn.Module = language.layers[0]
    count = len(language.layers)
    language.layers = torch.nn.ModuleList(TextStop(TEXT, number) for number in range(count))
    outside = store.outside("text_encoder")
    with safe_open(outside.path, framework="pt") as file:  # mapped: the embedding table is not read
        norm = file.get_tensor("model.norm.weight").to(device, dtype)
        language.embed_tokens = HostEmbedding(file.get_tensor("model.embed_tokens.weight"), device, dtype)
    language.norm.weight = torch.nn.Parameter(norm, requires_grad=False)
    language.rotary_emb.to(device=device, dtype=dtype)  # frequencies like all else, as DiffSynth has them
    encoder.model.visual = encoder.model.visual if looks else None
    encoder.lm_head = None
    return block


class TextStop(Qwen2_5_VLDecoderLayer):
    """Stands where a decoder layer stood. It is one by class, because transformers records what its layers give."""

    def __init__(self, section: str, index: int) -> None:
        torch.nn.Module.__init__(self)
        self._section = section
        self._index = index

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return pause(Halt(self._section, self._index, args, kwargs))


class ReadyPrompts(QwenImageUnit_PromptEmbedder):
    """In a pipeline, in the prompt unit's place: hands out what has been encoded.

    The mask stays on the host: DiffSynth reads nothing off it but the number of tokens, twice a step, and on the GPU
    that would wait for all the work before it.
    """

    def __init__(self, encoded: Mapping[str, Encoded]) -> None:
        super().__init__()
        self._encoded = encoded

    def process(self, pipe: Any, prompt: str, edit_image: Any = None) -> dict[str, torch.Tensor]:
        del edit_image  # what has been encoded is of this picture's own
        found = self._encoded[prompt]
        return {"prompt_emb": sent(found.embedding, pipe.device), "prompt_emb_mask": found.mask}


class ReadyRegions(QwenImageUnit_EntityControl):
    """The same in the place of the unit that encodes prompts of regions, which it cuts off at 1024 tokens."""

    def __init__(self, encoded: Mapping[str, Encoded]) -> None:
        super().__init__()
        self._encoded = encoded

    def get_prompt_emb(self, pipe: Any, prompt: str) -> dict[str, torch.Tensor]:
        found, most = self._encoded[prompt], MOST_REGION_TOKENS
        return {
            "prompt_emb": sent(found.embedding[:, :most].contiguous(), pipe.device),
            "prompt_emb_mask": found.mask[:, :most],
        }
