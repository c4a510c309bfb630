"""What others make of the same weights: `python -m renderer.benchmarks.peers PEER SOURCE`, a line of JSON a size.

DiffSynth and diffusers as their own documents have it, none of our code between: a pipeline is opened, and called.
CFG 4, two passes a step. DiffSynth has its text encoder with it; diffusers is given ready embeddings instead, which
spares it 15 GiB. diffusers comes with the extra `bench`.
"""

from __future__ import annotations

import gc
import hashlib
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from PIL import Image

from renderer.benchmarks.running import Figures
from renderer.benchmarks.streamed import BENCH_PROMPT, latents_of
from renderer.demo import looks
from renderer.demo.tokenizer import IMAGE_TOKEN

Call = Callable[[int, int, "PeerClock"], Any]
"""Renders one picture: its side, its steps, and a clock that is told of each step. Gives a picture of Pillow's."""

TOKENS = 128
"""Length of the embeddings that diffusers is given."""


class PeerClock:
    """Hears of each step, and notes the moments, waiting for the GPU at each; and the latents' bits, if told."""

    def __init__(self) -> None:
        self.moments_s: list[float] = []
        self.latents: list[str] = []

    def note(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.moments_s.append(time.perf_counter())

    def watch(self, timesteps: Any) -> Iterator[Any]:
        """A progress bar, as DiffSynth takes one."""
        self.note()
        for timestep in timesteps:
            yield timestep
            self.note()

    def steps_s(self) -> list[float]:
        """Seconds of each step but the first, which some spend on bringing the weights."""
        return [after - before for before, after in zip(self.moments_s[1:], self.moments_s[2:], strict=False)]


def diffsynth(source: Path, vram_gib: float | None, *, edits: bool = False) -> Call:
    """DiffSynth's pipeline: all in bf16 on the GPU, or its FP8 offload with a `vram_limit` in GiB.

    With `edits`, a picture goes in, as with Qwen-Image-Edit-2511.
    """
    from diffsynth.pipelines.qwen_image import ModelConfig, QwenImagePipeline  # noqa: PLC0415  # this peer alone

    offload: dict[str, Any] = {}
    if vram_gib is not None:
        stored = torch.float8_e4m3fn
        offload = {
            **{f"{state}_dtype": stored for state in ("offload", "onload", "preparing")},
            "offload_device": "cpu",
            "onload_device": "cpu",
            "preparing_device": "cuda",
            "computation_dtype": torch.bfloat16,
            "computation_device": "cuda",
        }
    patterns = ("transformer/*.safetensors", "text_encoder/*.safetensors", "vae/*.safetensors")
    files = [[str(path) for path in sorted(source.glob(pattern))] for pattern in patterns]
    pipe = QwenImagePipeline.from_pretrained(
        torch_dtype=torch.bfloat16,
        device="cuda",
        model_configs=[ModelConfig(path=paths if len(paths) > 1 else paths[0], **offload) for paths in files],
        tokenizer_config=ModelConfig(path=str(source / "tokenizer")),
        vram_limit=vram_gib,
    )

    more = _edit_of(pipe, source) if edits else {}

    def call(side: int, steps: int, clock: PeerClock) -> Any:
        shape = {"height": side, "width": side, "num_inference_steps": steps, "seed": 1, "rand_device": "cpu", **more}
        with latents_of(pipe.vae) as clock.latents:
            return pipe(BENCH_PROMPT, negative_prompt="", cfg_scale=4.0, progress_bar_cmd=clock.watch, **shape)

    return call


def _edit_of(pipe: Any, source: Path) -> dict[str, Any]:
    """What a picture is edited by: one of 1024x1024, as DiffSynth brings it to its size."""
    from transformers import Qwen2VLProcessor  # noqa: PLC0415  # this peer alone

    looks.write(source / "processor")
    pipe.processor = Qwen2VLProcessor.from_pretrained(str(source / "processor"))
    pipe.text_encoder.config.image_token_id = pipe.text_encoder.model.config.image_token_id = IMAGE_TOKEN
    image = Image.effect_noise((1024, 1024), 64).convert("RGB")
    return {"edit_image": [image], "edit_image_auto_resize": True, "zero_cond_t": True}


_SCHEDULE: Mapping[str, Any] = {
    "base_image_seq_len": 256,
    "max_image_seq_len": 8192,
    "base_shift": 0.5,
    "max_shift": 0.9,
    "use_dynamic_shifting": True,
    "shift_terminal": 0.02,
    "time_shift_type": "exponential",
}
"""As the model's repository has it."""


def diffusers(source: Path, *, offloaded: bool) -> Call:
    """Diffusers' pipeline in bf16: all on the GPU, or its group offload, a block at a time on a stream of its own."""
    from diffusers import (  # noqa: PLC0415  # this peer alone
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
    )
    from safetensors.torch import load_file  # noqa: PLC0415

    place = "cpu" if offloaded else "cuda"
    with torch.device("meta"):
        transformer = QwenImageTransformer2DModel()
    weights: dict[str, torch.Tensor] = {}
    for path in sorted(source.glob("transformer/*.safetensors")):
        weights |= load_file(path, device=place)
    transformer.load_state_dict(weights, assign=True)
    del weights
    transformer = transformer.to(torch.bfloat16).eval()
    _settle(transformer)
    vae = AutoencoderKLQwenImage()
    vae.load_state_dict(load_file(next(source.glob("vae/*.safetensors"))))
    pipe = QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**_SCHEDULE),
        vae=vae.to("cuda", torch.bfloat16),
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
    )
    if offloaded:
        transformer.enable_group_offload(
            onload_device=torch.device("cuda"),
            offload_device=torch.device("cpu"),
            offload_type="block_level",
            num_blocks_per_group=1,
            use_stream=True,
            non_blocking=True,
            record_stream=True,
        )
    embedding = torch.randn(1, TOKENS, 3584, device="cuda", dtype=torch.bfloat16)
    mask = torch.ones(1, TOKENS, dtype=torch.long, device="cuda")
    prompts = {"prompt_embeds": embedding, "prompt_embeds_mask": mask}
    prompts |= {"negative_prompt_embeds": embedding, "negative_prompt_embeds_mask": mask}

    def call(side: int, steps: int, clock: PeerClock) -> Any:
        def stepped(_pipe: Any, _step: int, _timestep: Any, inputs: Any) -> Any:
            clock.note()
            return inputs

        clock.note()
        shape = {"height": side, "width": side, "num_inference_steps": steps}
        return pipe(**prompts, true_cfg_scale=4.0, callback_on_step_end=stepped, **shape).images[0]

    return call


def _settle(transformer: Any) -> None:
    """What the transformer computes at its making, and no file holds, was computed of nothing on the meta device."""
    rope = transformer.pos_embed
    fresh = type(rope)(theta=rope.theta, axes_dim=rope.axes_dim, scale_rope=rope.scale_rope)
    transformer.pos_embed = fresh


PEERS: Mapping[str, Callable[[Path], Call]] = MappingProxyType(
    {
        "diffsynth-bf16": lambda source: diffsynth(source, None),
        "diffsynth-fp8-24": lambda source: diffsynth(source, 23.5),
        "diffsynth-fp8-16": lambda source: diffsynth(source, 15.5),
        "diffsynth-fp8-10": lambda source: diffsynth(source, 9.5),
        "diffsynth-edit-bf16": lambda source: diffsynth(source, None, edits=True),
        "diffusers-bf16": lambda source: diffusers(source, offloaded=False),
        "diffusers-group-offload": lambda source: diffusers(source, offloaded=True),
    }
)
"""The limits leave half a GiB to what is no weight."""

SIDES: Mapping[str, tuple[tuple[int, int], ...]] = MappingProxyType(
    {
        "diffsynth-bf16": ((1328, 8), (512, 12)),
        "diffsynth-fp8-24": ((1328, 4),),
        "diffsynth-fp8-16": ((1328, 3),),
        "diffsynth-fp8-10": ((1328, 3),),
        "diffsynth-edit-bf16": ((1024, 6),),
        "diffusers-bf16": ((1328, 6), (512, 8)),
        "diffusers-group-offload": ((1328, 4), (512, 4)),
    }
)
"""Sides and steps: few where a step takes long."""


def main() -> None:
    """Measure one peer."""
    name, source = sys.argv[1], Path(sys.argv[2])
    began = time.perf_counter()
    call = PEERS[name](source)
    load_s = time.perf_counter() - began
    for side, steps in SIDES[name]:
        print(json.dumps({"case": name, "load_s": load_s, **_measure(call, side, steps)}), flush=True)  # noqa: T201


def _measure(call: Call, side: int, steps: int) -> Figures:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    clock, began = PeerClock(), time.perf_counter()
    with torch.no_grad():
        picture = call(side, steps, clock)
    torch.cuda.synchronize()
    return {
        "side": side,
        "steps": steps,
        "step_s": statistics.median(clock.steps_s()),
        "first_step_s": clock.moments_s[1] - clock.moments_s[0],
        "before_s": clock.moments_s[0] - began,
        "after_s": time.perf_counter() - clock.moments_s[-1],
        "sha256": hashlib.sha256(picture.convert("RGB").tobytes()).hexdigest(),
        "latents": clock.latents,
        "reserved_bytes": torch.cuda.max_memory_reserved(),
        "allocated_bytes": torch.cuda.max_memory_allocated(),
        "rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


if __name__ == "__main__":
    main()
