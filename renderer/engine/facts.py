"""What renders: versions and the card. Knows nothing of what is rendered."""

from __future__ import annotations

import platform
from importlib import metadata

import torch
from diffsynth.models import qwen_image_dit

import renderer
from renderer.engine.device import Device
from renderer.engine.meter import driver_version
from renderer.job import Gpu, Software

FLASH_ATTENTION_3 = "flash_attn_interface"
"""The module that DiffSynth's blocks of Qwen-Image take attention from, where it can be imported."""


def software(device: Device) -> Software:
    """Versions that could change a picture's bits; those of CUDA and of what runs on it only where it is used."""
    on_gpu = device == "cuda"
    return Software(
        renderer=renderer.__version__,
        python=platform.python_version(),
        diffsynth=metadata.version("diffsynth"),
        torch=metadata.version("torch"),
        transformers=metadata.version("transformers"),
        cuda=torch.version.cuda if on_gpu else None,
        cudnn=_cudnn() if on_gpu else None,
        triton=_version("triton") if on_gpu else None,
        attention=_attention() if on_gpu else None,
    )


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _cudnn() -> str | None:
    """As torch tells it: 91002 is 9.10.2."""
    number = torch.backends.cudnn.version()
    return None if number is None else f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def _attention() -> str | None:
    """What DiffSynth has found in place of torch's attention, with its version where it has one."""
    if not qwen_image_dit.FLASH_ATTN_3_AVAILABLE:
        return None
    names = metadata.packages_distributions().get(FLASH_ATTENTION_3, [])
    versions = sorted({f"{name} {metadata.version(name)}" for name in names})
    return ", ".join(versions) or FLASH_ATTENTION_3


def gpu(device: Device) -> Gpu | None:
    """The card that renders, or None on the CPU."""
    if device != "cuda":
        return None
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return Gpu(
        name=properties.name,
        total_bytes=properties.total_memory,
        driver=driver_version(),
        compute_capability=f"{properties.major}.{properties.minor}",
        short_uuid=str(properties.uuid).partition("-")[0],
    )
