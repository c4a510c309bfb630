"""Recorded blocks on a real GPU at Qwen-Image's widths: the bits of plain ones, and captures that fail."""

from __future__ import annotations

import functools
import gc
import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from renderer.engine import arithmetic
from renderer.engine.blocks import Blocks
from renderer.engine.modulation import PickImage, PickText, ReadyModulation
from renderer.engine.recorded import CudaRecorder, RecordedBlocks
from renderer.families import QWEN_IMAGE_FAMILY
from renderer.families.qwen_image import networks, shapes
from renderer.job import Stored
from renderer.weights.codecs import CODECS
from renderer.weights.layout import plan_files
from renderer.weights.store import TensorPlace, views

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]

DEVICE = "cuda"
TOKENS = (512 // 16) ** 2
WIDTH, HEAD = 3072, 128
MIB = 2**20


def places(precision: Stored) -> list[TensorPlace]:
    """A block of Qwen-Image's DiT, as it lies in a slot."""
    networks = {
        "transformer": shapes.transformer(shapes.TransformerWidths(layers=1)),
        "text_encoder": shapes.text_encoder(shapes.TextEncoderWidths(layers=1)),
        "vae": shapes.vae(shapes.VaeWidths()),
    }
    found, offset = [], 0
    for tensor in plan_files(QWEN_IMAGE_FAMILY, networks, precision)[0].tensors:  # type: ignore[arg-type]
        found.append(TensorPlace(tensor.name, tensor.part.dtype, tensor.part.shape, offset, tensor.bytes))
        offset += tensor.bytes
    return found


def filled(layout: list[TensorPlace], seed: int) -> torch.Tensor:
    """A slot of random weights: matrices that keep the size of what they multiply, norms about one."""
    dice = torch.Generator(DEVICE).manual_seed(seed)
    flat = torch.empty(layout[-1].offset + layout[-1].bytes, dtype=torch.uint8, device=DEVICE)
    for name, tensor in views(flat, layout).items():
        values = torch.randn(tensor.shape, generator=dice, device=DEVICE)
        if name.endswith(".scale"):
            values = values.abs() * WIDTH**-0.5 + 1e-3
        elif tensor.dim() == 1 and name.endswith(".weight"):
            values = 1 + 0.1 * values
        elif tensor.dtype == torch.bfloat16:
            values *= WIDTH**-0.5
        elif tensor.dtype == torch.uint8:
            values = values.abs()
        tensor.copy_(values.to(tensor.dtype))
    return flat


def template() -> torch.nn.Module:
    dit, _, _ = networks.empty(WIDTH)
    block: torch.nn.Module = dit.transformer_blocks[0]
    block.img_mod, block.txt_mod = PickImage(), PickText()
    return block


def choose(layout: Sequence[TensorPlace], records: Callable[[], bool] = lambda: True) -> Blocks:
    """The DiT's blocks, as the engine chooses them on this GPU."""
    block = template()
    fast = functools.partial(networks.fast_blocks, "transformer", block)
    return arithmetic.choose(block, layout, "cuda", records=records, fast=fast)


def rider(seed: int, words: int) -> dict[str, Any]:
    dice = torch.Generator(DEVICE).manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=dice, device=DEVICE)

    return {
        "image": random(1, TOKENS, WIDTH).bfloat16(),
        "text": random(1, words, WIDTH).bfloat16(),
        "temb": ReadyModulation(0.3 * random(2, 6 * WIDTH).bfloat16()),
        "image_rotary_emb": tuple(
            torch.polar(torch.ones(rows, HEAD // 2, device=DEVICE), random(rows, HEAD // 2)) for rows in (TOKENS, words)
        ),
        "attention_mask": None,
        "enable_fp8_attention": False,
        "modulate_index": None,
        "kv_cache": None,
    }


def sweeps(blocks: Any, slots: list[torch.Tensor], riders: list[dict[str, Any]]) -> list[torch.Tensor]:
    """What riders have after each of three sweeps over two blocks."""
    found = []
    for _ in range(3):
        flying = [dict(inputs) for inputs in riders]
        for number, slot in enumerate(slots):
            block = blocks.arrive(number, slot)
            for inputs in flying:
                with torch.no_grad():
                    inputs["text"], inputs["image"] = block(**inputs)
        found += [inputs[name] for inputs in flying for name in ("text", "image")]
    return found


@pytest.mark.parametrize("precision", ["fp8", "int8", "int4", "bf16"])
def test_recorded_blocks_have_the_bits_of_plain_ones(precision: Stored) -> None:
    """512x512, two blocks and three riders, two of one size: which of the two runs depends on free memory alone."""
    layout = places(precision)
    slots = [filled(layout, seed) for seed in (1, 2)]
    riders = [rider(3, 128), rider(4, 128), rider(5, 37)]
    plain = choose(layout, records=lambda: False)
    recorded = choose(layout)
    assert plain.arithmetic == recorded.arithmetic == CODECS[precision].arithmetic
    expected, found = (sweeps(blocks, slots, riders) for blocks in (plain, recorded))
    assert isinstance(recorded, RecordedBlocks)
    blocks = 1 if CODECS[precision].multiplied_as != precision else 2  # all are unpacked to the same place
    assert [len(form.plays) for form in recorded._forms.values()] == [blocks, blocks]
    assert all(each.isfinite().all() for each in expected)
    assert [torch.equal(one, other) for one, other in zip(found, expected, strict=True)] == [True] * len(expected)
    assert not torch.equal(expected[1], riders[0]["image"])
    recorded.forget()


def given_back() -> int:
    """How many bytes of unused memory the allocator gives back."""
    large = torch.empty(256 * MIB, dtype=torch.uint8, device=DEVICE)
    before = int(torch.cuda.memory_reserved())
    del large
    gc.collect()
    torch.cuda.empty_cache()
    return before - int(torch.cuda.memory_reserved())


def in_a_process_of_its_own(check: Any) -> None:
    """A capture that fails may leave more behind than the next test should find."""
    child = multiprocessing.get_context("spawn").Process(target=check)
    child.start()
    child.join(200)
    assert child.exitcode == 0


def test_a_capture_that_fails_leaves_nothing_behind() -> None:
    """Waiting for the GPU within one is refused, and ends the capture for CUDA; nothing of torch is left in it."""
    in_a_process_of_its_own(fail_captures)


def test_out_of_memory_in_a_capture_leaves_nothing_behind() -> None:
    """What does not fit while launches are recorded is as good as never asked for."""
    in_a_process_of_its_own(run_full)


def test_blocks_go_on_plainly_after_it() -> None:
    """A block that waits for the GPU is not recorded: its riders have what plain blocks give, and it is said once."""
    in_a_process_of_its_own(go_on_plainly)


def draws() -> None:
    """The default generator draws on the GPU what a generator of the same seed does."""
    torch.manual_seed(5)
    expected = torch.rand(1000, generator=torch.Generator(DEVICE).manual_seed(5), device=DEVICE)
    assert torch.equal(torch.rand(1000, device=DEVICE), expected)


def fail_captures() -> None:
    """Three captures that fail, each from a pool of its own; then one that does not."""
    recorder = CudaRecorder()
    x = torch.zeros(MIB, device=DEVICE)
    assert given_back() >= 256 * MIB

    def launch() -> None:
        x.add(1)
        torch.cuda.synchronize()

    for _ in range(3):
        with pytest.raises(RuntimeError, match="captur"):
            recorder.record(launch, recorder.pool())
        assert given_back() >= 256 * MIB
        draws()
    assert torch.ones(MIB).pin_memory().sum() == MIB
    recorder.record(lambda: x.add_(1), recorder.pool())()
    assert x.sum() == MIB
    draws()
    assert given_back() >= 256 * MIB


def run_full() -> None:
    """Two captures for which memory runs out, each from a pool of its own; then one that fits, and one beside it."""
    recorder = CudaRecorder()
    x = torch.zeros(MIB, device=DEVICE)
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            recorder.record(lambda: torch.empty(2**45, dtype=torch.uint8, device=DEVICE), recorder.pool())
        assert given_back() >= 256 * MIB
        draws()
    pool = recorder.pool()
    plays = [recorder.record(lambda: x.add_(1), pool) for _ in range(2)]
    with pytest.raises(torch.OutOfMemoryError):
        recorder.record(lambda: torch.empty(2**45, dtype=torch.uint8, device=DEVICE), pool)
    for play in plays:
        play()
    assert x.sum() == 2 * MIB
    assert given_back() >= 256 * MIB


class Waiting:
    """Blocks that wait for the GPU."""

    arithmetic = "bf16"

    def __init__(self, blocks: Any) -> None:
        self._blocks = blocks
        self._bound: dict[int, Any] = {}

    def arrive(self, number: int, slot: torch.Tensor) -> Any:
        block = self._blocks.arrive(number, slot)

        def waiting(**inputs: Any) -> Any:
            torch.cuda.synchronize()
            return block(**inputs)

        return self._bound.setdefault(slot.data_ptr(), waiting)

    def forget(self) -> None:
        self._blocks.forget()


def go_on_plainly() -> None:
    layout = places("bf16")
    slots = [filled(layout, seed) for seed in (1, 2)]
    riders = [rider(3, 128), rider(4, 37)]
    plain = choose(layout, records=lambda: False)
    stubborn = RecordedBlocks(Waiting(plain), CudaRecorder())  # type: ignore[arg-type]
    expected, found = (sweeps(blocks, slots, riders) for blocks in (plain, stubborn))
    assert [torch.equal(one, other) for one, other in zip(found, expected, strict=True)] == [True] * len(expected)
    assert not stubborn._works
    assert given_back() >= 256 * MIB
    draws()
    recorded = choose(layout)
    again = sweeps(recorded, slots, riders)
    assert [torch.equal(one, other) for one, other in zip(again, expected, strict=True)] == [True] * len(expected)
    assert isinstance(recorded, RecordedBlocks)
    assert [len(form.plays) for form in recorded._forms.values()] == [2, 2]
    recorded.forget()
