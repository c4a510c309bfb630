"""Setups, jobs and spoiled models for the engine's tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffsynth.pipelines.qwen_image import ModelConfig, QwenImagePipeline
from safetensors.torch import load_file, save_file

from renderer.demo import members
from renderer.engine.device import Device, computation_dtype
from renderer.engine.picture_vae import PictureVae
from renderer.job import Job, Precision, Profile
from renderer.protocol import Setup

DIT = "transformer/diffusion_pytorch_model.safetensors"
TEXT_ENCODER = "text_encoder/model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"

ON_CPU: list[tuple[Profile, Precision]] = [("cpu", "bf16"), ("cpu", "fp8"), ("disk", "bf16"), ("disk", "fp8")]


def make_setup(model: str | Path = "demo", profile: Profile = "cpu", precision: Precision = "bf16") -> Setup:
    """The demo model on the CPU, if nothing else is said."""
    return Setup(model=str(model), precision=precision, profile=profile, offline=True)


def make_job(**changes: Any) -> Job:
    """A small job for the demo model at bf16; 96x64 and two steps, if nothing else is said."""
    job = Job(
        model="demo",
        precision="bf16",
        prompt='a red circle left of the text "HELLO 你好"',
        negative_prompt="blurry",
        cfg_scale=4.0,
        num_inference_steps=2,
        width=96,
        height=64,
        seed=7,
    )
    return job.model_copy(update={key: str(value) if key == "model" else value for key, value in changes.items()})


def bare_pipeline(folder: Path, device: Device = "cpu", **states: Any) -> Any:
    """DiffSynth's pipeline as anyone would open it, in what the device computes in, with nothing of ours in it.

    But for the demo model's classes. `states` are those of DiT and text encoder, as `ModelConfig` takes them.
    """
    members.register()
    return QwenImagePipeline.from_pretrained(
        torch_dtype=computation_dtype(device),
        device=device,
        model_configs=[
            *(ModelConfig(path=str(folder / file), **states) for file in (DIT, TEXT_ENCODER)),
            ModelConfig(path=str(folder / VAE)),
        ],
        tokenizer_config=ModelConfig(path=str(folder / "tokenizer")),
    )


def flattened(pipe: Any) -> Any:
    """The same pipeline with a VAE of one frame, in which the engines' pixels have their bits."""
    pipe.vae = PictureVae(pipe.vae, pipe.vae.state_dict())
    return pipe


def latents_decoded(vae: Any, call: Callable[[], object]) -> torch.Tensor:
    """What a VAE is given to decode while `call` renders one picture."""
    decode, given = vae.decode, []

    def noted(latents: torch.Tensor, **options: Any) -> torch.Tensor:
        given.append(latents.clone())
        decoded: torch.Tensor = decode(latents, **options)
        return decoded

    vae.decode = noted
    try:
        call()
    finally:
        del vae.decode
    (latents,) = given
    return latents


def bare_picture(pipe: Any, job: Job, **inputs: Any) -> bytes:
    """RGB bytes of what DiffSynth's own call gives for a job."""
    image = pipe(
        prompt=job.prompt,
        negative_prompt=job.negative_prompt,
        cfg_scale=job.cfg_scale,
        height=job.height,
        width=job.width,
        seed=job.seed,
        rand_device="cpu",
        num_inference_steps=job.num_inference_steps,
        progress_bar_cmd=lambda timesteps: timesteps,
        **inputs,
    )
    return bytes(image.tobytes())


def copy_model(source: Path, target: Path) -> Path:
    """A copy of a model's folder that a test may spoil."""
    shutil.copytree(source, target)
    return target


def without_vision(folder: Path) -> Path:
    """Take the vision tower out of a model's text encoder; the same folder."""
    tensors = load_file(folder / TEXT_ENCODER)
    save_file({name: each for name, each in tensors.items() if not name.startswith("visual.")}, folder / TEXT_ENCODER)
    return folder


def cast(path: Path, dtype: torch.dtype) -> None:
    """Bring all tensors of a safetensors file into another type."""
    save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path)


def alter(path: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Replace one tensor of a safetensors file."""
    tensors = load_file(path)
    tensors[name] = change(tensors[name]).contiguous()
    save_file(tensors, path)


def distance(one: bytes, other: bytes) -> float:
    """The mean difference of two pictures' bytes, in steps of 255."""
    pair = [torch.frombuffer(bytearray(data), dtype=torch.uint8).float() for data in (one, other)]
    return float((pair[0] - pair[1]).abs().mean())
