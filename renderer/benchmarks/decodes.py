"""The VAE alone, at full size with random weights: `python -m renderer.benchmarks.decodes`, a line of JSON each.

A decode's seconds and peaks beside its weights, by size: DiffSynth's own, ours by plain torch, ours by the kernels, and
that in strips of other sizes. Then errors against float32, bits under caps on memory, and encodes. Needs no model and
no store, and takes two minutes. Without a GPU it tries itself on small ones.
"""

from __future__ import annotations

import gc
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal

import torch
from diffsynth.core.vram.initialization import skip_model_initialization
from diffsynth.models.qwen_image_vae import QwenImageVAE

from renderer.benchmarks.running import Figures
from renderer.demo.members import VAE_BASE_WIDTH
from renderer.engine import microbenchmark, vae_reference
from renderer.engine import picture_vae as ours
from renderer.engine.device import Device, computation_dtype
from renderer.families.qwen_image.decode import STRIP_BYTES
from renderer.text import GIB, MIB
from renderer.weights.synthetic import STD

Variant = Literal["diffsynth", "torch", "kernels", "kernels, 64 MiB", "kernels, whole"]

FORMS: Mapping[Variant, int] = MappingProxyType(
    {
        "diffsynth": 0,
        "torch": STRIP_BYTES,
        "kernels": STRIP_BYTES,
        "kernels, 64 MiB": 64 * MIB,
        "kernels, whole": 2**50,
    }
)
"""What computes, with what its strips may take."""

DECODE_SIZES = ((512, 512), (768, 768), (1024, 1024), (1328, 1328), (1664, 928), (2048, 2048))
EXACT_SIDES = (512, 1328)
CAPPED_SIDES = (512, 1328, 2048)
DECODE_CAPS_GIB = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0)
"""What the process may hold in all."""

RUNS = 5
BASE_WIDTH = 96


def main() -> None:
    """Measure all of it."""
    device: Device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.no_grad():
        for row in measure(device):
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()


def measure(device: Device) -> Iterator[Figures]:
    """The rows: the machine's rates, then each form's decodes, errors, bits under caps, and encodes."""
    on_gpu = device == "cuda"
    yield {"what": "machine", "torch": torch.__version__, **microbenchmark.measure(device).model_dump()}
    sizes = DECODE_SIZES if on_gpu else ((64, 64),)
    exact, capped = (EXACT_SIDES, CAPPED_SIDES) if on_gpu else ((64,), ())
    base = BASE_WIDTH if on_gpu else VAE_BASE_WIDTH
    references = {side: _reference(side, device, base) for side in exact}
    for form in FORMS:
        before = _allocated(device)
        vae = make(form, device, base)
        yield {"what": "weights", "form": form, "bytes": _allocated(device) - before}
        for width, height in sizes:
            yield {"what": "decode", "form": form, **_decode(vae, width, height, device)}
            yield {"what": "encode", "form": form, **_encode(vae, width, height, device)}
        for side, reference in references.items():
            found = vae.decode(_latents(side, side, device)).float()
            error = float((found - reference).norm() / reference.norm())
            yield {"what": "error", "form": form, "side": side, "relative": error}
        for side in capped:
            yield {"what": "capped", "form": form, "side": side, "bits": dict(_capped(vae, side))}
        del vae
        gc.collect()


def make(form: Variant, device: Device, base: int, dtype: torch.dtype | None = None) -> Any:
    """A VAE of random weights, the same for every form, in what the device computes in."""
    with skip_model_initialization():
        vae = QwenImageVAE(base_dim=base)
    dice = torch.Generator().manual_seed(0)
    shapes = {name: tensor.shape for name, tensor in vae.state_dict().items()}
    weights = {
        name: _random(name, shape, dice).to(device, dtype or computation_dtype(device))
        for name, shape in shapes.items()
    }
    if form == "diffsynth":
        vae.load_state_dict(weights, assign=True)
        return vae.eval().requires_grad_(requires_grad=False)
    run = vae_reference if form == "torch" else None
    return ours.PictureVae(vae, weights, FORMS[form], run)


def _reference(side: int, device: Device, base: int) -> torch.Tensor:
    """A decode in float32, without the shortcuts that cuDNN takes there: by ours, which holds it at any size."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    vae = make("torch", device, base, torch.float32)
    decoded: torch.Tensor = vae.decode(_latents(side, side, device).float())
    return decoded


def _allocated(device: Device) -> int:
    gc.collect()
    return torch.cuda.memory_allocated() if device == "cuda" else 0


def _random(name: str, shape: torch.Size, dice: torch.Generator) -> torch.Tensor:
    if name.endswith("bias"):
        return torch.zeros(shape)
    return torch.ones(shape) if "gamma" in name else torch.randn(shape, generator=dice) * STD


def _decode(vae: Any, width: int, height: int, device: Device) -> Figures:
    latents = _latents(width, height, device)
    return {"size": [width, height], **_measured(lambda: vae.decode(latents), device)}


def _encode(vae: Any, width: int, height: int, device: Device) -> Figures:
    picture = _values(1, 3, height, width, device=device)
    return {"size": [width, height], **_measured(lambda: vae.encode(picture), device)}


def _latents(width: int, height: int, device: Device) -> torch.Tensor:
    return _values(1, 16, height // 8, width // 8, device=device)


def _capped(vae: Any, side: int) -> Iterator[tuple[str, str]]:
    """The bits of a decode where the process may hold so many GiB, or that it cannot be."""
    latents = _latents(side, side, "cuda")
    total = torch.cuda.get_device_properties(0).total_memory
    for gib in DECODE_CAPS_GIB:
        _emptied()
        torch.cuda.set_per_process_memory_fraction(min(1.0, gib * GIB / total))
        try:
            yield str(gib), _bits(vae.decode(latents))
        except torch.OutOfMemoryError:
            yield str(gib), "out of memory"
        torch.cuda.set_per_process_memory_fraction(1.0)


def _bits(values: torch.Tensor) -> str:
    return hashlib.sha256(values.contiguous().view(torch.uint8).cpu().numpy().tobytes()).hexdigest()[:16]


def _measured(work: Callable[[], torch.Tensor], device: Device) -> Figures:
    """Seconds, bits, and bytes of tensors and of the allocator beside what was there."""
    found = work()
    bits = _bits(found)
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
