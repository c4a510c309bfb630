"""int8 blocks: what a layer loses, products that are exact on any processor, and pictures of the streaming engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from renderer.engine import arithmetic, int8_reference, product_trial, stores
from renderer.engine.blocks import ModuleBlocks
from renderer.engine.int8_reference import EXACT_COLUMNS, Rows, multiply, quantise
from renderer.engine.scaled_blocks import ScaledBlocks
from renderer.families.qwen_image import networks
from renderer.job import Lora
from renderer.protocol import Setup
from renderer.weights.adapters.whereabouts import identity_of
from renderer.weights.codecs import WEIGHT
from renderer.weights.codecs.codec import SCALE
from renderer.weights.codecs.rows import ROW_CODERS
from renderer.weights.store import Store
from tests import loras
from tests.engine.test_fp8 import error, inputs
from tests.engine.test_streaming import open_engine, pixels, render, variants

WIDTH, COLUMNS = 3072, 512
"""A layer of Qwen-Image's width, with fewer channels out: an error is of each row."""


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A layer without bias, as an int8 block has it."""
    parts = ROW_CODERS["int8"].encode(weight).parts
    return multiply(quantise(x), parts[WEIGHT], parts[SCALE], torch.zeros(len(weight)).bfloat16())


class TestLayer:
    """What a layer loses beside float64, by what goes in. FP8 loses 0.037 of each."""

    def lost(self, x: torch.Tensor) -> float:
        weight = 0.02 * random(COLUMNS, WIDTH, seed=1)
        exact = x.double() @ weight.double().T
        return float((layer(x, weight).double() - exact).norm() / exact.norm())

    def test_gaussian_rows(self) -> None:
        """Three times as exact as FP8."""
        assert self.lost(random(256, WIDTH, seed=2)) < 0.013

    def test_outlier_channels(self) -> None:
        """A hundredth of the channels forty times as large costs nothing: without the turn it would be 0.053."""
        x = random(256, WIDTH, seed=2)
        x[:, torch.randperm(WIDTH, generator=torch.Generator().manual_seed(3))[: WIDTH // 100]] *= 40
        assert self.lost(x) < 0.013

    def test_after_gelu(self) -> None:
        """Where all channels have something in common, which a turn by Sylvester's matrix would heap into one."""
        x = 2 * random(256, WIDTH, seed=2)
        assert self.lost(x * torch.sigmoid(1.702 * x)) < 0.02

    @pytest.mark.parametrize("width", [160, 640, 40])
    def test_widths_that_no_256_divides(self, width: int) -> None:
        """The demo's, in groups of 16 and 64, and one that is not turned at all."""
        weight, x = random(64, width, seed=4), random(64, width, seed=5)
        exact = x.double() @ weight.double().T
        assert float((layer(x, weight).double() - exact).norm() / exact.norm()) < 0.013


class TestProducts:
    """Sums are whole numbers: exact by whatever way, and the same for a row among any others."""

    @pytest.fixture(params=["as torch has it", "in float32"])
    def way(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        if request.param == "in float32":
            monkeypatch.setattr(int8_reference, "adds_exactly", lambda: False)
        elif not int8_reference.adds_exactly():
            pytest.skip("this processor's int8 products are not exact")

    @pytest.mark.usefixtures("way")
    @pytest.mark.parametrize("width", [160, EXACT_COLUMNS, 3 * EXACT_COLUMNS + 64])
    def test_exact(self, width: int) -> None:
        """At the largest numbers there are, and at random ones."""
        dice = torch.Generator().manual_seed(6)
        values = torch.randint(-128, 128, (40, width), dtype=torch.int8, generator=dice)
        values[0], values[1] = 127, -128
        weight = torch.randint(-128, 128, (48, width), dtype=torch.int8, generator=dice)
        weight[0], weight[1] = 127, -128
        scales, columns, bias = torch.rand(40), torch.rand(48), random(48, seed=7).bfloat16()
        whole = multiply(Rows(values, scales, 40), weight, columns, bias)
        total = (values.long() @ weight.long().T).float()
        assert torch.equal(whole, (total * scales[:, None] * columns + bias.float()).bfloat16())
        for first, last in ((0, 1), (3, 21), (39, 40)):
            part = multiply(Rows(values, scales, 40).part(first, last), weight, columns, bias)
            assert torch.equal(part, whole[first:last])

    def test_a_number_that_is_none_is_handed_on(self) -> None:
        """Its row is no number at all; the others are theirs."""
        x = random(6, 256, seed=8)
        x[1, 3], x[2, 5], x[3, 7] = torch.nan, torch.inf, -torch.inf
        found = layer(x, random(32, 256, seed=9))
        assert found.isfinite().all(1).tolist() == [True, False, False, False, True, True]

    def test_a_processor_that_cuts_sums_off_is_found_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Those without VNNI add two products in 16 bits."""
        exact = torch._int_mm
        monkeypatch.setattr(torch, "_int_mm", lambda one, other: exact(one, other).clamp(-32768 * 16, 32767 * 16))
        int8_reference.adds_exactly.cache_clear()
        assert not int8_reference.adds_exactly()
        monkeypatch.undo()
        int8_reference.adds_exactly.cache_clear()


@pytest.fixture(scope="module")
def store() -> Store:
    return stores.find(Setup(model="demo", precision="int8", profile="stream"), lambda _: None)


@pytest.fixture(scope="module")
def plain(store: Store) -> ModuleBlocks:
    return ModuleBlocks(networks.build(store, "cpu").templates["transformer"], store.blocks("transformer")[0].tensors)


@pytest.fixture
def blocks(store: Store, plain: ModuleBlocks) -> ScaledBlocks:
    attention = plain._template.get_submodule("attn")
    places = store.blocks("transformer")[0].tensors
    return ScaledBlocks(plain, places, attention.num_heads, attention.head_dim, int8_reference)


@pytest.fixture(scope="module")
def slot(store: Store) -> torch.Tensor:
    file = store.blocks("transformer")[1]
    buffer = torch.empty(file.bytes, dtype=torch.uint8)
    file.read_into(buffer)
    return buffer


class TestBlock:
    def test_it_computes_what_diffsynth_s_block_does(
        self, store: Store, slot: torch.Tensor, plain: ModuleBlocks, blocks: ScaledBlocks
    ) -> None:
        """Both streams come out as from the bf16 block, but for the rounding of activations."""
        given = inputs(store)
        expected = plain.arrive(1, slot)(**given)
        found = blocks.arrive(1, slot)(**given)
        for one, other, before in zip(found, expected, (given["text"], given["image"]), strict=True):
            assert error(one, other) < 0.015
            assert error(one, other) < 0.1 * error(before, other), "it changed nothing that matters"

    def test_riders_together_have_the_bits_of_each_alone(
        self, store: Store, slot: torch.Tensor, blocks: ScaledBlocks
    ) -> None:
        """Of several sizes."""
        riders = [inputs(store, *size) for size in ((48, 7), (16, 9), (64, 3))]
        block = blocks.arrive(1, slot)
        for rider, together in zip(riders, block.together(riders), strict=True):
            assert all(map(torch.equal, together, block(**rider)))

    def test_loras_ride_beside_it(
        self, store: Store, slot: torch.Tensor, plain: ModuleBlocks, blocks: ScaledBlocks
    ) -> None:
        """What they add is what they add to the bf16 block, though rows are turned; one of zeros changes no bit."""
        given, dice = inputs(store), torch.Generator().manual_seed(8)
        shapes = {place.name.removesuffix(".weight"): place.shape for place in store.blocks("transformer")[0].tensors}
        added: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        for name, shape in shapes.items():
            if len(shape) > 1:
                down, up = (torch.randn(size, generator=dice).bfloat16() / 8 for size in ((4, shape[1]), (shape[0], 4)))
                added[name] = [(down, up)]
        bare = blocks.arrive(1, slot)(**given)
        zero = {name: [(down, 0 * up) for down, up in pairs] for name, pairs in added.items()}
        assert all(map(torch.equal, blocks.arrive(1, slot)(**given, adapted=zero), bare))
        expected = plain.arrive(1, slot)(**given, adapted=added)
        for one, other, without in zip(blocks.arrive(1, slot)(**given, adapted=added), expected, bare, strict=True):
            assert error(one, other) < 0.02
            assert error(one, other) < 0.1 * error(without, other)


class TestPictures:
    """By the streaming engine, on the CPU: as stored, in whole numbers."""

    @pytest.mark.parametrize("kind", ["as this CPU computes", "float32"])
    def test_they_do_not_depend_on_company_or_slots(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Alone with all blocks resident, or together through two slots, the bits are the same."""
        if kind == "float32":
            monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
        jobs = variants("int8")[:3]
        heard = render(open_engine("int8", slots=2, in_flight=3), jobs)
        assert [found.sharing and found.sharing.arithmetic for found in heard.pictures.values()] == ["int8"] * 3
        engine = open_engine("int8", slots=60, in_flight=1)
        assert pixels(heard) == [pixels(render(engine, [job]))[0] for job in jobs]

    def test_they_are_nearer_to_bf16_than_fp8_s(self) -> None:
        """Although fp8 is multiplied in bf16 here, and int8 in int8."""

        def picture(precision: Any) -> torch.Tensor:
            (found,) = pixels(render(open_engine(precision), variants(precision)[:1]))
            return torch.frombuffer(bytearray(found), dtype=torch.uint8).float()

        exact, turned, scaled = (picture(precision) for precision in ("bf16", "int8", "fp8"))
        assert 0 < (turned - exact).square().mean() < (scaled - exact).square().mean()

    def test_one_that_has_a_lora(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It rides with its own, beside one without, whose bits stay."""
        monkeypatch.setenv("RENDERER_MODELS", str(tmp_path / "models"))
        path = loras.write_lora(tmp_path / "ink.safetensors", loras.factors(seed=1))
        lora = Lora(source=str(path), identity=identity_of(path))
        job = variants("int8")[0]
        heard = render(open_engine("int8", slots=2, in_flight=2), [job, job.model_copy(update={"loras": (lora,)})])
        bare, worn = pixels(heard)
        assert bare != worn
        assert pixels(render(open_engine("int8"), [job])) == [bare]


def test_a_trial_knows_right_from_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of these products as of FP8's, at a narrower bound."""
    shapes = [(96, 256), (64, 160)]
    assert product_trial.complaint(int8_reference, shapes, "cpu", rows=(1, 40)) == ""
    monkeypatch.setattr(int8_reference, "widened", lambda weight: weight.float())
    assert "came out wrong" in product_trial.complaint(int8_reference, shapes, "cpu", rows=(1, 40))
    monkeypatch.undo()
    monkeypatch.setattr(int8_reference, "multiply", lambda x, weight, scale, bias: multiply(x, weight, scale, 0 * bias))
    assert "came out wrong" in product_trial.complaint(int8_reference, shapes, "cpu", rows=(40,))


def test_a_cpu_tries_and_records_nothing(store: Store, plain: ModuleBlocks) -> None:
    """Its products are exact, and riders go alone; what is stored for others' products is decoded."""
    places = store.blocks("transformer")[0].tensors
    attention = plain._template.get_submodule("attn")

    def fast(_places: Any, given: ModuleBlocks, operations: Any) -> ScaledBlocks:
        return ScaledBlocks(given, places, attention.num_heads, attention.head_dim, operations)

    chosen = arithmetic.choose(plain._template, places, "cpu", fast=fast)
    assert (chosen.arithmetic, chosen.shares) == ("int8", False)  # type: ignore[attr-defined]  # fast blocks
    chosen = arithmetic.choose(plain._template, places, "cpu", fast=fast, stored=False)
    assert isinstance(chosen, ModuleBlocks)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("rows", [1, 5, 37, 128, 1000])
def test_the_kernels_on_a_gpu(rows: int) -> None:
    """Products have the bits of the CPU's; rows are within a step of its, for sums before them are added otherwise."""
    kernels: Any = int8_reference.compiled()
    x, up, vectors = random(rows, WIDTH, seed=1), random(rows, 4 * WIDTH, seed=2), 0.3 * random(2, 6 * WIDTH, seed=3)
    whose = (torch.arange(rows) % 2).int()
    cases: list[tuple[str, list[torch.Tensor], list[int]]] = [
        ("quantise", [x.bfloat16()], []),
        ("activate", [up.bfloat16()], []),
        ("modulate", [x.bfloat16(), vectors.bfloat16(), whose], [3]),
    ]
    for name, given, more in cases:
        expected = getattr(int8_reference, name)(*given, *more)
        found = getattr(kernels, name)(*(each.cuda() for each in given), *more)
        apart = (found.values[:rows].cpu().int() - expected.values.int()).abs()
        assert int(apart.max()) <= 1
        assert float((apart > 0).float().mean()) < 0.1
        assert torch.allclose(found.scale[:rows].cpu(), expected.scale, rtol=2**-7)
    for width in (WIDTH, 4 * WIDTH):
        weight = int8_reference.as_stored(random(COLUMNS, width, seed=4))
        scale, bias = torch.rand(COLUMNS), random(COLUMNS, seed=5).bfloat16()
        mine = quantise(random(rows, width, seed=6))
        there = Rows(mine.values.cuda(), mine.scale.cuda(), rows)
        product = kernels.multiply(there, weight.cuda(), scale.cuda(), bias.cuda())
        assert torch.equal(product.cpu(), multiply(mine, weight, scale, bias))
