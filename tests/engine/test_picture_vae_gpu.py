"""The VAE's kernels at Qwen-Image's widths on a GPU: exact enough, and the same bits however they are cut."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch

from renderer.benchmarks.decodes import BASE_WIDTH, make
from renderer.engine import picture_vae
from renderer.text import GIB

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

SIDES = (512, 1328, 2048)


@pytest.fixture(scope="module")
def kernels() -> Any:
    """Ours, in bf16, in strips as they are by default."""
    found = make("kernels", "cuda", BASE_WIDTH)
    assert picture_vae.operations(torch.device("cuda")).__name__.endswith("vae_kernels")
    return found


def latents(side: int) -> torch.Tensor:
    dice = torch.Generator().manual_seed(side)
    return torch.randn(1, 16, side // 8, side // 8, generator=dice).to("cuda", torch.bfloat16)


def bits(values: torch.Tensor) -> str:
    return hashlib.sha256(values.contiguous().view(torch.uint8).cpu().numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("side", SIDES)
def test_bits_depend_on_no_strips(kernels: Any, side: int) -> None:
    """A decode and an encode have the bits in thin strips that they have in thick ones, and in the whole."""
    decoded = kernels.decode(latents(side))
    encoded = kernels.encode(decoded)
    for form in ("kernels, 64 MiB", "kernels, whole"):
        other = make(form, "cuda", BASE_WIDTH)
        assert bits(other.decode(latents(side))) == bits(decoded)
        assert bits(other.encode(decoded)) == bits(encoded)


@pytest.mark.parametrize("side", SIDES)
def test_bits_depend_on_no_free_memory(kernels: Any, side: int) -> None:
    """Nor on how much of the card the process may have."""
    expected = bits(kernels.decode(latents(side)))
    total = torch.cuda.get_device_properties(0).total_memory
    found = set()
    try:
        for gib in (1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0):
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(gib * GIB / total)
            found.add(bits(kernels.decode(latents(side))))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert found == {expected}


def test_error_is_less_than_diffsynths(kernels: Any) -> None:
    """Against float32, the values of a decode are nearer than those of DiffSynth's own; an encode's as near."""
    own, exact = make("diffsynth", "cuda", BASE_WIDTH), make("torch", "cuda", BASE_WIDTH, torch.float32)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    decoded = exact.decode(latents(512).float())
    encoded = exact.encode(decoded)

    def error(values: torch.Tensor, expected: torch.Tensor) -> float:
        return float((values.float() - expected).norm() / expected.norm())

    assert error(kernels.decode(latents(512)), decoded) < error(own.decode(latents(512)), decoded)
    picture = decoded.to(torch.bfloat16)
    assert error(kernels.encode(picture), encoded) < 1.1 * error(own.encode(picture), encoded)


@pytest.mark.parametrize("side", [1328, 2048])
def test_memory_is_bounded(kernels: Any, side: int) -> None:
    """A decode takes at most 1 GiB beside the weights, at any of these sizes."""
    given = latents(side)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kernels.decode(given)
    assert torch.cuda.max_memory_allocated() - before < GIB
