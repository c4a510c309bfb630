"""The VAE alone, at full size with random weights: `python -m renderer.benchmarks.decodes`, a line of JSON each.

A decode's seconds and peaks beside its weights, by size, in DiffSynth's own three dimensions and in two, the latter in
both layouts; under caps below its peak as well, where cuDNN has to make do with less; and encodes. Needs no model and
no store, and takes a minute. Without a GPU it tries itself on small ones.
"""

from __future__ import annotations

import gc
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from diffsynth.core.vram.initialization import skip_model_initialization
from diffsynth.models.qwen_image_vae import QwenImageVAE

from renderer.benchmarks.running import Figures
from renderer.demo.family import VAE_BASE_WIDTH
from renderer.engine import budget, flat_vae, rates
from renderer.engine.placement import Device, computation_dtype

Form = Literal["diffsynth", "channels first", "channels last"]

FORMS: tuple[Form, ...] = ("diffsynth", "channels first", "channels last")

SIZES = ((512, 512), (768, 768), (1024, 1024), (1328, 1328), (1664, 928), (2048, 2048))
TILED = ((1024, 1024), (2048, 2048))
CAPPED_SIDE = 1328
CAPS = (1.02, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Of a decode's own peak of tensors: what the allocator may hold beside the weights."""

RUNS = 5
STD = 0.02
BASE_WIDTH = 96


def main() -> None:
    """Measure all of it."""
    device: Device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.no_grad():
        for row in measure(device):
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()


def measure(device: Device) -> Iterator[Figures]:
    """The rows: the machine's rates, then each form's decodes, decodes under caps, and encodes."""
    on_gpu = device == "cuda"
    yield {"what": "machine", "torch": torch.__version__, **rates.measure(device).model_dump()}
    sizes, tiled, side = (SIZES, TILED, CAPPED_SIDE) if on_gpu else (((64, 64),), ((64, 64),), 64)
    for form in FORMS:
        vae = make(form, device, BASE_WIDTH if on_gpu else VAE_BASE_WIDTH)
        yield {"what": "weights", "form": form, "bytes": sum(each.nbytes for each in vae.parameters())}
        for width, height in sizes:
            yield {"what": "decode", "form": form, "tiled": False, **_decode(vae, width, height, device)}
        for width, height in tiled:
            yield {"what": "decode", "form": form, "tiled": True, **_decode(vae, width, height, device, tiled=True)}
        yield {"what": "encode", "form": form, **_encode(vae, side, side, device)}
        if on_gpu:
            yield from ({"what": "capped", "form": form, **row} for row in _capped(vae, side))
        del vae
        gc.collect()


def make(form: Form, device: Device, base: int) -> Any:
    """A VAE of random weights, the same for every form, in what the device computes in."""
    with skip_model_initialization():
        vae = QwenImageVAE(base_dim=base)
    dice = torch.Generator().manual_seed(0)
    weights = {name: _random(name, tensor.shape, dice) for name, tensor in vae.state_dict().items()}
    if form != "diffsynth":
        flat_vae.flatten(vae)
        weights = flat_vae.flat(weights, device, channels_last=form == "channels last")
    vae.load_state_dict(
        {name: tensor.to(device, computation_dtype(device)) for name, tensor in weights.items()}, assign=True
    )
    return vae.eval().requires_grad_(requires_grad=False)


def _random(name: str, shape: torch.Size, dice: torch.Generator) -> torch.Tensor:
    if name.endswith("bias"):
        return torch.zeros(shape)
    return torch.ones(shape) if "gamma" in name else torch.randn(shape, generator=dice) * STD


def _decode(vae: Any, width: int, height: int, device: Device, *, tiled: bool = False) -> Figures:
    latents = _values(1, 16, height // 8, width // 8, device=device)
    tiling = {"tiled": True, **budget.TILES} if tiled else {}
    return {"size": [width, height], **_measured(lambda: vae.decode(latents, **tiling), device)}


def _encode(vae: Any, width: int, height: int, device: Device) -> Figures:
    picture = _values(1, 3, height, width, device=device)
    return {"size": [width, height], **_measured(lambda: vae.encode(picture), device)}


def _capped(vae: Any, side: int) -> Iterator[Figures]:
    """Whether a decode runs with parts of its own peak, and with which bits."""
    latents = _values(1, 16, side // 8, side // 8, device="cuda")
    free = _measured(lambda: vae.decode(latents), "cuda")
    total = torch.cuda.get_device_properties(0).total_memory
    for part in CAPS:
        _emptied()
        allowed = torch.cuda.memory_reserved() + part * free["allocated_bytes"]
        torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total))
        row: Figures = {"size": [side, side], "part": part, "allowed_bytes": round(part * free["allocated_bytes"])}
        try:
            row |= _measured(lambda: vae.decode(latents), "cuda")
        except torch.OutOfMemoryError:
            row["out_of_memory"] = True
        torch.cuda.set_per_process_memory_fraction(1.0)
        yield row


def _measured(work: Callable[[], torch.Tensor], device: Device) -> Figures:
    """Seconds, bits, and bytes of tensors and of the allocator beside what was there."""
    found = work()
    bits = hashlib.sha256(found.contiguous().view(torch.uint8).cpu().numpy().tobytes()).hexdigest()[:16]
    del found
    work()
    took = []
    for _ in range(RUNS):
        began_s = time.perf_counter()
        work()
        _wait(device)
        took.append(time.perf_counter() - began_s)
    row: Figures = {"seconds": statistics.median(took), "bits": bits}
    if device == "cuda":
        _emptied()
        before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
        work()
        _wait(device)
        row["allocated_bytes"] = torch.cuda.max_memory_allocated() - before[0]
        row["reserved_bytes"] = torch.cuda.max_memory_reserved() - before[1]
        _emptied()
    return row


def _emptied() -> None:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def _wait(device: Device) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _values(*shape: int, device: Device) -> torch.Tensor:
    dice = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=dice).to(device, computation_dtype(device))


if __name__ == "__main__":
    main()
