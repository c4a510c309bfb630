"""int4 blocks: unpacked once a sweep to int8's, whose products they have; and pictures of the streaming engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from renderer.engine import arithmetic, int4_kernels, int8_reference, stores, unpacked_blocks
from renderer.engine.blocks import ModuleBlocks
from renderer.engine.scaled_blocks import ScaledBlocks
from renderer.engine.unpacked_blocks import UnpackedBlocks, as_multiplied
from renderer.families.qwen_image import networks
from renderer.job import Lora
from renderer.protocol import Setup
from renderer.weights.adapters.whereabouts import identity_of
from renderer.weights.codecs import CODECS, WEIGHT
from renderer.weights.codecs.codec import SCALE
from renderer.weights.codecs.int4 import LOW
from renderer.weights.codecs.rows import UNPACKERS, int4
from renderer.weights.store import Store, TensorPlace, views
from tests import loras
from tests.engine.test_fp8 import error, inputs
from tests.engine.test_streaming import open_engine, pixels, render, variants

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="module")
def store() -> Store:
    return stores.find(Setup(model="demo", precision="int4", profile="stream"), lambda _: None)


@pytest.fixture(scope="module")
def int8_store() -> Store:
    return stores.find(Setup(model="demo", precision="int8", profile="stream"), lambda _: None)


@pytest.fixture(scope="module")
def places(store: Store) -> Sequence[TensorPlace]:
    return store.blocks("transformer")[0].tensors


@pytest.fixture(scope="module")
def plain(store: Store, places: Sequence[TensorPlace]) -> ModuleBlocks:
    return ModuleBlocks(networks.build(store, "cpu").templates["transformer"], places)


@pytest.fixture
def blocks(plain: ModuleBlocks, places: Sequence[TensorPlace]) -> UnpackedBlocks:
    attention, there = plain._template.get_submodule("attn"), as_multiplied(places)
    inner = ScaledBlocks(plain, there, attention.num_heads, attention.head_dim, int8_reference)
    return UnpackedBlocks(inner, places, UNPACKERS["int4"])


def slot(store: Store, number: int) -> torch.Tensor:
    file = store.blocks("transformer")[number]
    buffer = torch.empty(file.bytes, dtype=torch.uint8)
    file.read_into(buffer)
    return buffer


class TestUnpacking:
    def test_a_block_is_laid_out_as_int8_s(self, int8_store: Store, places: Sequence[TensorPlace]) -> None:
        """Tensor by tensor: what is known of an int8 store's block holds for what is unpacked."""
        others = int8_store.blocks("transformer")[0].tensors
        assert as_multiplied(places) == others
        assert as_multiplied(others) == others

    def test_every_tensor_is_there(self, store: Store, blocks: UnpackedBlocks, places: Sequence[TensorPlace]) -> None:
        """Of each block that arrives, in the same room: matrices unpacked, all else as it is. In few launches."""
        for number in (0, 1):
            flat = slot(store, number)
            blocks.arrive(number, flat)
            assert blocks._room is not None
            own, found = views(flat, places), views(blocks._room, as_multiplied(places))
            for name, tensor in found.items():
                if name.endswith(f".{WEIGHT}") and tensor.dim() > 1:
                    parts = {suffix: own[name.removesuffix(WEIGHT) + suffix] for suffix in CODECS["int4"].dtypes}
                    expected = torch.empty_like(tensor)
                    int4.unpack_into(expected, parts)
                    assert torch.equal(tensor, expected)
                else:
                    assert torch.equal(tensor, own[name])
        assert (len(blocks._runs), len(blocks._copied)) == (4, 1)

    def test_what_is_let_go(self, store: Store, blocks: UnpackedBlocks) -> None:
        """The room comes back with the next block."""
        blocks.arrive(0, slot(store, 0))
        blocks.forget()
        assert blocks._room is None
        blocks.arrive(0, slot(store, 0))


@pytest.mark.parametrize(("rows", "columns"), [(3, 3072), (7, 640), (5, 160), (2, 48), (1, 8)])
def test_the_kernel_s_bits_are_the_reference_s(rows: int, columns: int) -> None:
    """Of any bits there are, in Triton's interpreter where there is no GPU."""
    dice = torch.Generator().manual_seed(rows)
    parts = {
        part.suffix: torch.randint(0, 256, (part.bytes,), dtype=torch.uint8, generator=dice)
        for part in CODECS["int4"].parts((rows, columns))
    }
    shaped = {part.suffix: part.shape for part in CODECS["int4"].parts((rows, columns))}
    given = {
        suffix: (each.view(torch.int8) if suffix == LOW else each).view(shaped[suffix])
        for suffix, each in parts.items()
        if suffix != SCALE
    }
    expected = torch.empty((rows, columns), dtype=torch.int8)
    int4.unpack_into(expected, given)
    found = torch.zeros((rows, columns), dtype=torch.int8, device=DEVICE)
    int4_kernels.unpack_into(found, {suffix: each.to(DEVICE) for suffix, each in given.items()})
    assert torch.equal(found.cpu(), expected)


class TestUnpacker:
    """Which way matrices are unpacked on a card."""

    def test_the_kernel_where_it_is_right(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is tried before, and plain torch does it where it comes out wrong or does not compile."""
        monkeypatch.setattr(unpacked_blocks, "_same", lambda *_: True)
        assert unpacked_blocks.unpacker(CODECS["int4"], "cuda") is int4_kernels.unpack_into
        monkeypatch.setattr(unpacked_blocks, "_same", lambda *_: False)
        assert unpacked_blocks.unpacker(CODECS["int4"], "cuda") is int4.unpack_into
        monkeypatch.setattr(unpacked_blocks, "_same", lambda *_: 1 / 0)
        assert unpacked_blocks.unpacker(CODECS["int4"], "cuda") is int4.unpack_into
        assert unpacked_blocks.unpacker(CODECS["int4"], "cpu") is int4.unpack_into

    def test_right_from_wrong(self) -> None:
        """By the bits of a small matrix."""
        assert unpacked_blocks._same(CODECS["int4"], int4_kernels.unpack_into, int4.unpack_into, DEVICE)  # type: ignore[arg-type]
        wrong = lambda values, _parts: values.zero_()  # noqa: E731
        assert not unpacked_blocks._same(CODECS["int4"], wrong, int4.unpack_into, "cpu")


class TestBlock:
    def test_it_computes_what_diffsynth_s_block_does(
        self, store: Store, int8_store: Store, plain: ModuleBlocks, blocks: UnpackedBlocks
    ) -> None:
        """With the very weights that are scaled back to bf16: only activations are rounded otherwise."""
        given = inputs(int8_store)
        expected = plain.arrive(1, slot(store, 1))(**given)
        for one, other in zip(blocks.arrive(1, slot(store, 1))(**given), expected, strict=True):
            assert error(one, other) < 0.015

    def test_riders_together_have_the_bits_of_each_alone(
        self, store: Store, int8_store: Store, blocks: UnpackedBlocks
    ) -> None:
        """As int8's have."""
        riders = [inputs(int8_store, *size) for size in ((48, 7), (16, 9))]
        block = blocks.arrive(1, slot(store, 1))
        for rider, together in zip(riders, block.together(riders), strict=True):
            assert all(map(torch.equal, together, block(**rider)))


def test_which_blocks_are_chosen(plain: ModuleBlocks, places: Sequence[TensorPlace]) -> None:
    """Unpacked ones where int8 is multiplied; blocks that are scaled back where nobody wants such products."""
    attention = plain._template.get_submodule("attn")

    def fast(there: Sequence[TensorPlace], given: ModuleBlocks, operations: Any) -> ScaledBlocks:
        assert there == as_multiplied(places)
        return ScaledBlocks(given, there, attention.num_heads, attention.head_dim, operations)

    chosen = arithmetic.choose(plain._template, places, "cpu", fast=fast)
    assert isinstance(chosen, UnpackedBlocks)
    assert (chosen.arithmetic, chosen.shares) == ("int8", False)
    assert isinstance(arithmetic.choose(plain._template, places, "cpu", fast=fast, stored=False), ModuleBlocks)


class TestPictures:
    """By the streaming engine, on the CPU: multiplied as int8."""

    def test_they_do_not_depend_on_company_or_slots(self) -> None:
        """Alone with all blocks resident, or together through two slots, the bits are the same."""
        jobs = variants("int4")[2:4]
        heard = render(open_engine("int4", slots=2, in_flight=2), jobs)
        assert [found.sharing and found.sharing.arithmetic for found in heard.pictures.values()] == ["int8"] * 2
        engine = open_engine("int4", slots=60, in_flight=1)
        assert pixels(heard) == [pixels(render(engine, [job]))[0] for job in jobs]

    def test_one_that_has_a_lora(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It rides with its own, beside one without, whose bits stay."""
        monkeypatch.setenv("RENDERER_MODELS", str(tmp_path / "models"))
        path = loras.write_lora(tmp_path / "ink.safetensors", loras.factors(seed=1))
        lora = Lora(source=str(path), identity=identity_of(path))
        job = variants("int4")[3]
        heard = render(open_engine("int4", slots=2, in_flight=2), [job, job.model_copy(update={"loras": (lora,)})])
        bare, worn = pixels(heard)
        assert bare != worn
        assert pixels(render(open_engine("int4"), [job])) == [bare]
