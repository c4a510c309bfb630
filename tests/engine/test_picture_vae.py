"""The VAE of one frame against DiffSynth's own, whole and in strips: by torch, and by interpreted kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffsynth.models.qwen_image_vae import QwenImageVAE
from safetensors.torch import load_file

from renderer.demo.members import VAE_BASE_WIDTH
from renderer.engine import picture_vae, vae_reference
from renderer.engine.picture_vae import PictureVae
from renderer.engine.strips import Kernel, Layer, Strip, in_strips, rows_of, whole
from renderer.errors import ModelError
from renderer.families.qwen_image.decode import STRIP_BYTES
from tests.engine.making import VAE

ROUNDING = {"rtol": 1e-4, "atol": 3e-5}
"""What float32 makes of another order of sums in thirty layers; a wrong weight shows in the first digit."""

WIDTH = 16
"""Of the VAEs that the interpreter goes through: it takes its time."""

Tensors = Mapping[str, torch.Tensor]


@pytest.fixture(scope="module")
def weights(demo_folder: Path) -> Tensors:
    """The demo model's, in float32."""
    return {name: tensor.float() for name, tensor in load_file(demo_folder / VAE).items()}


@pytest.fixture(scope="module")
def own(weights: Tensors) -> Any:
    """DiffSynth's VAE."""
    return diffsynth_vae(weights, VAE_BASE_WIDTH)


@pytest.fixture(scope="module")
def scattered() -> Tensors:
    """Random weights of a narrow VAE: nothing is owed to the demo's, and every one of them has to be in its place."""
    dice = torch.Generator().manual_seed(2)
    shapes = QwenImageVAE(base_dim=WIDTH).state_dict()
    return {
        name: torch.randn(tensor.shape, generator=dice) * tensor[0].numel() ** -0.5 for name, tensor in shapes.items()
    }


@pytest.fixture
def picture() -> torch.Tensor:
    """Colours from -1 to 1, neither square nor a power of two."""
    dice = torch.Generator().manual_seed(1)
    return torch.rand(1, 3, 80, 112, generator=dice) * 2 - 1


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The kernels in Triton's interpreter, which `tests/conftest.py` asks for where there is no GPU."""
    from renderer.engine import vae_kernels  # noqa: PLC0415  # Triton is not everywhere

    monkeypatch.setattr(picture_vae, "operations", lambda _device: vae_kernels)
    return vae_kernels


def diffsynth_vae(weights: Tensors, width: int) -> Any:
    found = QwenImageVAE(base_dim=width)
    found.load_state_dict(dict(weights))
    return found.eval().requires_grad_(requires_grad=False)


class TestAgainstDiffSynth:
    def test_decode(self, own: Any, weights: Tensors, picture: torch.Tensor) -> None:
        """Latents become the values that DiffSynth's decoder gives, and no pixel differs by more than 1 of 255."""
        latents = own.encode(picture)
        expected, found = own.decode(latents), PictureVae(own, weights).decode(latents)
        torch.testing.assert_close(found, expected, **ROUNDING)
        one, other = (((each + 1) * 127.5).clip(0, 255).to(torch.uint8).int() for each in (expected, found))
        assert (one - other).abs().max() <= 1

    def test_encode(self, own: Any, weights: Tensors, picture: torch.Tensor) -> None:
        """A picture becomes the latents that DiffSynth's encoder gives."""
        torch.testing.assert_close(PictureVae(own, weights).encode(picture), own.encode(picture), **ROUNDING)

    @pytest.mark.parametrize("strip_bytes", [STRIP_BYTES, 2**15], ids=["whole", "in strips"])
    @pytest.mark.parametrize("run", ["torch", "kernels"])
    def test_random_weights(
        self, scattered: Tensors, picture: torch.Tensor, run: str, strip_bytes: int, request: pytest.FixtureRequest
    ) -> None:
        """Both ways, by either arithmetic, whole and in strips of a few rows."""
        if run == "kernels":
            request.getfixturevalue("kernels")
            picture = picture[..., :24, :32]
        one = diffsynth_vae(scattered, WIDTH)
        other = PictureVae(one, scattered, strip_bytes)
        latents = one.encode(picture)
        torch.testing.assert_close(other.encode(picture), latents, **ROUNDING)
        torch.testing.assert_close(other.decode(latents), one.decode(latents), **ROUNDING)

    def test_strips_are_taken(self, scattered: Tensors, monkeypatch: pytest.MonkeyPatch) -> None:
        """Little room makes many strips: the tests above would be green if there were only ever one."""
        made: list[int] = []

        def noted(layers: Sequence[Layer], picture: Strip, rows: int) -> Strip:
            made.append(rows)
            return in_strips(layers, picture, rows)

        monkeypatch.setattr(picture_vae, "in_strips", noted)
        PictureVae(QwenImageVAE(base_dim=WIDTH), scattered, 2**16).decode(torch.zeros(1, 16, 6, 7))
        assert min(made) < 48 / 3


class TestKernels:
    """The kernels mean what `vae_reference` says."""

    @pytest.mark.parametrize(
        ("channels_in", "channels_out", "options"),
        [
            (16, 48, {}),
            (32, 96, {"up": 2}),
            (48, 160, {"stride": 2, "pad": 0}),
            (16, 3, {}),
            (3, 16, {}),
            (24, 24, {}),
            (32, 32, {"side": 1, "pad": 0}),
        ],
    )
    def test_convolution(self, kernels: Any, channels_in: int, channels_out: int, options: dict[str, int]) -> None:
        """Every kind of convolution there is, of inner rows and of those at the edges."""
        options = {"side": 3, "pad": 1, **options}
        dice = torch.Generator().manual_seed(3)
        terms = options["side"] ** 2 * channels_in
        kernel = Kernel(
            torch.randn(channels_out, terms, generator=dice) * terms**-0.5,
            torch.randn(channels_out, generator=dice),
            **options,
        )
        picture = whole(torch.randn(12, 10, channels_in, generator=dice))
        height = 12 * kernel.up // kernel.stride
        for first, last in ((0, height), (0, 2), (2, 5), (height - 2, height)):
            expected = vae_reference.convolve(picture, kernel, first, last)
            torch.testing.assert_close(kernels.convolve(picture, kernel, first, last), expected, rtol=1e-5, atol=1e-5)
            residual = torch.randn(expected.shape, generator=dice)
            found = kernels.convolve(picture, kernel, first, last, residual)
            torch.testing.assert_close(found, expected + residual, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("silu", [True, False])
    def test_norm(self, kernels: Any, silu: bool) -> None:  # noqa: FBT001
        """Zeros stay zeros; what is not finite stays so, and in its own pixel."""
        values = torch.randn(3, 5, 48, generator=torch.Generator().manual_seed(4))
        values[0, 0] = 0.0
        values[1, 1, 7] = float("nan")
        values[1, 2, 7] = float("inf")
        gain = torch.linspace(0.5, 2.0, 48)
        expected = vae_reference.normalise(values, gain, silu=silu)
        torch.testing.assert_close(kernels.normalise(values, gain, silu=silu), expected, equal_nan=True)
        assert expected.isnan().any(-1).sum() == 2
        assert not expected[0, 0].any()

    def test_tiles_fit_every_card(self, kernels: Any) -> None:
        """A tile's two sides, as often as there are stages, fit the shared memory of a card of 64 KiB."""
        for channels_in in (3, 16, 24, 48, 96, 192, 384):
            for channels_out in (3, 16, 32, 48, 96, 192, 384, 1152):
                for shared in (64 * 2**10, 99 * 2**10, 227 * 2**10):
                    pixels, channels, terms, stages, _ = kernels._tiles(channels_in, channels_out, shared)
                    assert terms in {16, 32, 64}
                    assert (pixels + channels) * terms * 2 * stages <= shared


class TestStrips:
    def test_a_chain_asks_for_the_rows_it_needs(self) -> None:
        """Rows of a result are made from no other rows of the input than reach them."""
        dice = torch.Generator().manual_seed(5)

        def convolution(**options: int) -> Layer:
            return picture_vae.Convolution(
                Kernel(torch.randn(8, 72, generator=dice), torch.zeros(8), 3, **options), vae_reference
            )

        layers = [convolution(pad=1), convolution(up=2, pad=1), convolution(pad=1)]
        values = torch.randn(20, 6, 8, generator=dice)
        expected = rows_of(layers, whole(values), 0, 40).values[16:20]
        seen = values.clone()
        seen[:6], seen[12:] = float("nan"), float("nan")
        torch.testing.assert_close(rows_of(layers, whole(seen), 16, 20).values, expected)

    def test_a_strip_knows_its_place(self) -> None:
        """Part of a strip is the picture's rows, wherever the strip begins."""
        rows = torch.arange(24.0).view(12, 2, 1)
        strip = Strip(rows[4:9], 4, 12)
        assert torch.equal(strip.part(5, 7).values, rows[5:7])


class TestWeights:
    def test_a_part_that_is_missing_is_named(self, scattered: Tensors) -> None:
        """A tensor or a stage that is not there, or is of another shape, is an error and not a layer less."""
        own = QwenImageVAE(base_dim=WIDTH)
        for part in ("decoder.up_blocks.3.", "encoder.conv_in.bias", "quant_conv.weight"):
            with pytest.raises(ModelError, match=f"{part}.* is nothing"):
                PictureVae(own, {key: value for key, value in scattered.items() if not key.startswith(part)})
        with pytest.raises(ModelError, match=r"quant_conv.bias is \[3\], and should be \[32\]"):
            PictureVae(own, {**scattered, "quant_conv.bias": torch.zeros(3)})

    def test_two_thirds_are_not_kept(self, scattered: Tensors) -> None:
        """Of a kernel, what meets the frames of zeros is not held in memory."""
        found = PictureVae(QwenImageVAE(base_dim=WIDTH), scattered)
        first = found._stages_out[0][1]
        assert isinstance(first, picture_vae.Convolution)
        weight = first.kernel.weight
        assert weight.untyped_storage().nbytes() == scattered["decoder.conv_in.weight"].nbytes / 3
