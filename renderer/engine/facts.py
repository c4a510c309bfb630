"""What renders: versions and the card. Knows nothing of what is rendered."""

from __future__ import annotations

import platform
from importlib import metadata

import torch

import renderer
from renderer.engine.device import Device
from renderer.engine.meter import driver_version
from renderer.job import Gpu, Software


def software(device: Device) -> Software:
    """Versions that could change a picture's bits; CUDA's only where it is used."""
    return Software(
        renderer=renderer.__version__,
        python=platform.python_version(),
        diffsynth=metadata.version("diffsynth"),
        torch=metadata.version("torch"),
        transformers=metadata.version("transformers"),
        cuda=torch.version.cuda if device == "cuda" else None,
    )


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
    )
