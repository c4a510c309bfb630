"""A decode's bytes: those of the engine's own tensors, and those that an H100 showed."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest
import torch
from diffsynth.models.qwen_image_vae import QwenImageVAE

from renderer import catalog
from renderer.engine.picture_vae import PictureVae
from renderer.engine.strips import Kernel, Strip, whole
from renderer.estimate import Streaming, Work, weight_bytes
from renderer.estimate.terms import total
from renderer.families.qwen_image import costs, decode
from renderer.text import GIB
from tests.estimate.tape import Tape, fused_attention

ROWS = [
    json.loads(line)
    for line in (Path(__file__).parent.parent / "benchmarks" / "decodes-h100.jsonl").read_text().splitlines()
]
DECODES = [row for row in ROWS if (row["what"], row.get("form")) == ("decode", "kernels")]
MEASURED = {tuple(row["size"]): row["allocated_bytes"] for row in DECODES}
BASE = catalog.QWEN_IMAGE_ARCHITECTURE.vae_width


class Fused:
    """The kernels of `vae_kernels`, as far as memory goes: what each makes, and nothing beside it."""

    @staticmethod
    def convolve(strip: Strip, kernel: Kernel, first: int, last: int, _residual: Any = None) -> torch.Tensor:
        columns = strip.values.shape[1] * kernel.up // kernel.stride
        return strip.values.new_empty((last - first, columns, kernel.channels_out))

    @staticmethod
    def normalise(values: torch.Tensor, _gain: torch.Tensor, *, silu: bool) -> torch.Tensor:
        del silu
        return torch.empty_like(values)


class TestFlops:
    @pytest.mark.parametrize("inwards", [False, True])
    def test_they_are_those_of_the_engine_s_convolutions(
        self,
        monkeypatch: pytest.MonkeyPatch,
        inwards: bool,  # noqa: FBT001  # pytest's
    ) -> None:
        """Counted one by one, in a decode and on the way in; those that look at a single pixel are 1 to 2 % more."""
        done = 0

        class Counted(Fused):
            @staticmethod
            def convolve(strip: Strip, kernel: Kernel, first: int, last: int, _residual: Any = None) -> torch.Tensor:
                nonlocal done
                found = Fused.convolve(strip, kernel, first, last)
                done += 2 * found.numel() * kernel.channels_in * kernel.side**2 if kernel.side > 1 else 0
                return found

        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", fused_attention)
        with torch.device("meta"), torch.no_grad():
            own = QwenImageVAE(base_dim=BASE).to(torch.bfloat16)
            there = PictureVae(own, own.state_dict(), run=cast("ModuleType", Counted))
            if inwards:
                there.encode(torch.empty(1, 3, 256, 256, dtype=torch.bfloat16))
            else:
                there.decode(torch.empty(1, 16, 32, 32, dtype=torch.bfloat16))
        reckoned = costs.encode_flops if inwards else costs.decode_flops
        assert reckoned(catalog.QWEN_IMAGE_ARCHITECTURE, Work(256, 256))[0] == pytest.approx(done, rel=0.005)


class TestDecode:
    @pytest.mark.parametrize(
        ("width", "height"),
        [(512, 512), (768, 768), (1024, 1024), (1664, 928), (928, 1664), (1328, 1328), (2048, 2048), (3072, 2048)],
    )
    def test_it_is_what_the_engine_holds(self, monkeypatch: pytest.MonkeyPatch, width: int, height: int) -> None:
        """The terms are the tensors that are there at the peak of a decode, in one strip or in many."""
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", fused_attention)
        with torch.device("meta"), torch.no_grad():
            own = QwenImageVAE(base_dim=BASE).to(torch.bfloat16)
            there = PictureVae(own, own.state_dict(), run=cast("ModuleType", Fused))
            latents = torch.empty(1, 16, height // 8, width // 8, dtype=torch.bfloat16)
            with Tape() as tape:
                there.decode(latents)
        assert total(decode.decode(BASE, width, height).terms) == tape.peak - 2 * 2 * 16  # but mean and deviation

    @pytest.mark.parametrize(
        ("width", "height"), [(256, 256), (512, 512), (1024, 1024), (1664, 928), (1328, 1328), (2048, 2048)]
    )
    def test_the_way_in_is_what_the_engine_holds(
        self, monkeypatch: pytest.MonkeyPatch, width: int, height: int
    ) -> None:
        """A picture's way to latents, byte for byte as well."""
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", fused_attention)
        with torch.device("meta"), torch.no_grad():
            own = QwenImageVAE(base_dim=BASE).to(torch.bfloat16)
            there = PictureVae(own, own.state_dict(), run=cast("ModuleType", Fused))
            picture = torch.empty(1, 3, height, width, dtype=torch.bfloat16)
            with Tape() as tape:
                there.encode(picture)
        assert total(decode.encode(BASE, width, height).terms) == tape.peak - 2 * 2 * 16  # but mean and deviation

    @pytest.mark.parametrize(("side", "layers"), [(640, 1), (640, 4), (1024, 16)])
    def test_layers_are_held_beside_a_decode(self, monkeypatch: pytest.MonkeyPatch, side: int, layers: int) -> None:
        """One after the other, of four channels: no more than is forecast, and not much less."""
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", fused_attention)
        with torch.device("meta"), torch.no_grad():
            own = QwenImageVAE(base_dim=BASE, image_channels=4).to(torch.bfloat16)
            there = PictureVae(own, own.state_dict(), run=cast("ModuleType", Fused))
            latents = torch.empty(1 + layers, 16, side // 8, side // 8, dtype=torch.bfloat16)
            with Tape() as tape:
                assert there.decode(latents).shape == (1 + layers, 4, side, side)
        streaming = Streaming(catalog.QWEN_IMAGE_ARCHITECTURE, "fp8", 3)
        expected = total(streaming.decoder(Work(side, side, takes_in=True, layer_num=layers)).terms)
        assert 0.9 * expected < tape.peak <= expected

    def test_the_middle_is_what_the_engine_holds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its attention's queries, keys and values, where nothing of the later stages is there yet."""
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", fused_attention)
        with torch.device("meta"), torch.no_grad():
            own = QwenImageVAE(base_dim=BASE).to(torch.bfloat16)
            there = PictureVae(own, own.state_dict(), run=cast("ModuleType", Fused))
            with Tape() as tape:
                there._through(there._stages_out[:1], whole(torch.empty(64, 64, 16, dtype=torch.bfloat16)))
        assert total(decode._middle(BASE, 64 * 64, fused=True).terms) == tape.peak - 64 * 64 * 16 * 2

    @pytest.mark.parametrize("size", MEASURED)
    def test_it_is_what_a_gpu_showed(self, size: tuple[int, int]) -> None:
        """Within 1 % of the H100's figures, at every size."""
        assert total(decode.decode(BASE, *size).terms) == pytest.approx(MEASURED[size], rel=0.01)

    def test_strips_bound_it(self) -> None:
        """A larger picture takes more by what is whole of its stages, and less than 1 GiB at 2048x2048."""
        large, small = (total(decode.decode(BASE, side, side).terms) for side in (2048, 1024))
        assert large < GIB
        assert large / small < 3

    def test_without_a_fused_kernel_attention_is_quadratic(self) -> None:
        """Scores over all latent pixels, twice in float32, are then most of it."""
        plain = decode.decode(BASE, 2048, 2048, fused=False)
        assert total(plain.terms) > 2 * 4 * (2048 * 2048 // 64) ** 2
        assert plain.piece == 4 * (2048 * 2048 // 64) ** 2


class TestWeights:
    def test_two_thirds_of_the_kernels_are_not_kept(self) -> None:
        """What the arithmetic says stays on the GPU is what the engine keeps, and what the H100 showed."""
        kept = weight_bytes(catalog.QWEN_IMAGE_ARCHITECTURE, "fp8").vae_kept
        measured = next(row["bytes"] for row in ROWS if (row["what"], row.get("form")) == ("weights", "kernels"))
        assert kept == pytest.approx(measured, rel=0.01)
        assert kept < weight_bytes(catalog.QWEN_IMAGE_ARCHITECTURE, "fp8").vae / 2.5
