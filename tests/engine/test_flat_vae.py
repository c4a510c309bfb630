"""The VAE of one frame against DiffSynth's own: its pictures and latents within float32's rounding, at a third."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffsynth.models.qwen_image_vae import QwenImageCausalConv3d, QwenImageVAE
from safetensors.torch import load_file

from renderer.demo.family import VAE_BASE_WIDTH
from renderer.engine import budget, flat_vae
from renderer.engine.flat_vae import CHANNELS_LAST, FlatTensors
from tests.engine.making import VAE

ROUNDING = {"rtol": 1e-4, "atol": 3e-5}
"""What float32 makes of another order of sums in thirty layers; a wrong weight shows in the first digit."""


@pytest.fixture(scope="module")
def weights(demo_folder: Path) -> dict[str, torch.Tensor]:
    """The demo model's, in float32."""
    return {name: tensor.float() for name, tensor in load_file(demo_folder / VAE).items()}


@pytest.fixture(scope="module")
def own(weights: dict[str, torch.Tensor]) -> Any:
    """DiffSynth's VAE."""
    vae = QwenImageVAE(base_dim=VAE_BASE_WIDTH)
    vae.load_state_dict(weights)
    return vae.eval().requires_grad_(requires_grad=False)


@pytest.fixture(scope="module", params=[True, False], ids=["channels last", "channels first"])
def flat(weights: dict[str, torch.Tensor], request: pytest.FixtureRequest) -> Any:
    """The same of one frame, in either layout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flat_vae, "CHANNELS_LAST", {"cpu": request.param})
        return flattened(weights)


def flattened(weights: dict[str, torch.Tensor]) -> Any:
    vae = QwenImageVAE(base_dim=VAE_BASE_WIDTH)
    flat_vae.flatten(vae)
    vae.load_state_dict(flat_vae.flat(weights, "cpu"), assign=True)
    return vae.eval().requires_grad_(requires_grad=False)


@pytest.fixture
def picture() -> torch.Tensor:
    """Colours from -1 to 1, neither square nor a power of two."""
    dice = torch.Generator().manual_seed(1)
    return torch.rand(1, 3, 80, 112, generator=dice) * 2 - 1


class TestAgainstDiffSynth:
    def test_decode(self, own: Any, flat: Any, picture: torch.Tensor) -> None:
        """Latents become the values that DiffSynth's decoder gives, and no pixel differs by more than 1 of 255."""
        latents = own.encode(picture)
        expected, found = own.decode(latents), flat.decode(latents)
        torch.testing.assert_close(found, expected, **ROUNDING)
        one, other = (((each + 1) * 127.5).clip(0, 255).to(torch.uint8).int() for each in (expected, found))
        assert (one - other).abs().max() <= 1

    def test_encode(self, own: Any, flat: Any, picture: torch.Tensor) -> None:
        """A picture becomes the latents that DiffSynth's encoder gives."""
        torch.testing.assert_close(flat.encode(picture), own.encode(picture), **ROUNDING)

    def test_tiled(self, own: Any, flat: Any, picture: torch.Tensor) -> None:
        """In tiles as well, both ways: what puts them together is DiffSynth's."""
        tiles = {"tiled": True, "tile_size": 8, "tile_stride": 6}
        latents = own.encode(picture, **tiles)
        torch.testing.assert_close(flat.encode(picture, **tiles), latents, **ROUNDING)
        torch.testing.assert_close(flat.decode(latents, **tiles), own.decode(latents, **tiles), **ROUNDING)
        assert set(budget.TILES) == {"tile_size", "tile_stride"}

    def test_random_weights(self, picture: torch.Tensor) -> None:
        """Nothing is owed to the demo's weights: all of them random, the same, so every one of them is in its place."""
        dice = torch.Generator().manual_seed(2)
        shapes = QwenImageVAE(base_dim=VAE_BASE_WIDTH).state_dict()
        weights = {
            name: torch.randn(tensor.shape, generator=dice) * tensor[0].numel() ** -0.5
            for name, tensor in shapes.items()
        }
        own = QwenImageVAE(base_dim=VAE_BASE_WIDTH)
        own.load_state_dict(weights)
        with torch.no_grad():
            latents = own.encode(picture)
            torch.testing.assert_close(flattened(weights).encode(picture), latents, **ROUNDING)
            torch.testing.assert_close(flattened(weights).decode(latents), own.decode(latents), **ROUNDING)


class TestWeights:
    def test_two_thirds_are_not_kept(self, weights: dict[str, torch.Tensor]) -> None:
        """A kernel is a third of what it was, in memory too, and what joins frames is not loaded."""
        flat = flat_vae.flat(weights, "cpu")
        kept = sum(tensor.untyped_storage().nbytes() for tensor in flat.values())
        assert kept < sum(tensor.nbytes for tensor in weights.values()) * 0.37
        assert not any("time_conv" in name for name in flat)
        assert any("time_conv" in name for name in weights)

    def test_one_by_one(self, weights: dict[str, torch.Tensor]) -> None:
        """Read when they are asked for, they are what they are when all are read at once."""
        whole, single = flat_vae.flat(weights, "cpu"), FlatTensors(weights, "cpu")
        assert list(single) == list(whole)
        assert len(single) == len(whole)
        assert all(torch.equal(single[name], tensor) for name, tensor in whole.items())

    def test_nothing_is_left_of_three_dimensions(self, weights: dict[str, torch.Tensor]) -> None:
        """No causal convolution stays behind, and kernels lie as the device convolves fastest."""
        vae = flattened(weights)
        assert not any(isinstance(module, QwenImageCausalConv3d) for module in vae.modules())
        kernels = [each.weight for each in vae.modules() if isinstance(each, torch.nn.Conv2d)]
        layout = torch.channels_last if CHANNELS_LAST["cpu"] else torch.contiguous_format
        assert all(kernel.is_contiguous(memory_format=layout) for kernel in kernels)
        assert not any(parameter.is_meta for parameter in vae.parameters())

    def test_several_frames_are_refused(self, flat: Any) -> None:
        """It is of one frame: a second is not silently convolved with zeros."""
        with pytest.raises(AssertionError, match="one frame"):
            flat.encoder(torch.zeros(1, 3, 2, 16, 16))
