"""The kernels of FP8 blocks against the reference: compiled where there is a GPU, in Triton's interpreter elsewhere.

The interpreter's own e4m3 carries nothing over and knows no NaN, so that the kernels give it what they would store as
float32, and torch rounds that as a GPU does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from renderer.engine import fp8_kernels as kernels
from renderer.engine import fp8_reference as reference
from renderer.engine.fp8_reference import Rows
from renderer.weights.codecs.fp8 import LARGEST

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROWS, WIDTH, HEADS, HEAD = 8, 96, 3, 32

FINITE, NONE, ONE_NAN, INFINITE, MINUS_INFINITE, ZERO, TINY, LARGE = range(ROWS)
"""What each row is: random, all NaN, one NaN, one infinity, one below zero, zeros, 1e-30, as large as squares allow."""

BROKEN = [NONE, ONE_NAN, INFINITE, MINUS_INFINITE]

BF16_STEP = 2.0**-8
"""What sums in bf16 may differ by, which the interpreter rounds otherwise than torch, and a GPU fuses."""

QUANTISING: dict[str, Callable[[Any, torch.Tensor, torch.Tensor], Rows]] = {
    "quantise": lambda run, x, _: run.quantise(x),
    "activate": lambda run, x, _: run.activate(x),
    "modulate the attention": lambda run, x, vectors: run.modulate(x, vectors, whose(x), 0),
    "modulate the MLP": lambda run, x, vectors: run.modulate(x, vectors, whose(x), 3),
    "add and modulate": lambda run, x, vectors: run.add_and_modulate(x, x.flip(1), vectors, whose(x), 2, 3)[1],
}


def whose(x: torch.Tensor) -> torch.Tensor:
    """Rows of two riders, in turns."""
    return (torch.arange(len(x), device=x.device) % 2).int()


def room_in_float32(x: torch.Tensor) -> Rows:
    values = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    return Rows(values, torch.empty(x.shape[0], dtype=torch.float32, device=x.device), x.shape[0])


@pytest.fixture(autouse=True)
def _rounded_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    if DEVICE == "cpu":
        monkeypatch.setattr(kernels, "room_for", room_in_float32)


@pytest.fixture(scope="module")
def vectors() -> torch.Tensor:
    """Two riders' timesteps, six vectors each."""
    return random(2, 6 * WIDTH, seed=7)


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    found = random(ROWS, WIDTH, seed=1)
    found[NONE], found[ZERO], found[TINY] = float("nan"), 0.0, 1e-30
    found[ONE_NAN, 5], found[INFINITE, 7], found[MINUS_INFINITE, 9] = float("nan"), float("inf"), -float("inf")
    found[LARGE] *= 1e15
    return found


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16().to(DEVICE)


def steps(one: Rows, other: Rows) -> torch.Tensor:
    """How many e4m3 numbers lie between the values of one and the other; rows x width."""

    def places(found: Rows) -> torch.Tensor:
        bits = found.values[: found.count].to(torch.float8_e4m3fn).view(torch.uint8).int()
        return torch.where(bits >= 128, 128 - bits, bits)

    return (places(one) - places(other)).abs()


def dequantised(found: Rows) -> torch.Tensor:
    values = found.values[: found.count].to(torch.float8_e4m3fn).float()
    return values * found.scale[: found.count, None]


@pytest.mark.parametrize("name", QUANTISING)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's, in the interpreter
class TestQuantising:
    def test_within_one_step(self, name: str, rows: torch.Tensor, vectors: torch.Tensor) -> None:
        """Values as stored are the reference's or their neighbours, at most one in twenty; so are the scales."""
        finite = [row for row in range(ROWS) if row not in BROKEN]
        one, other = (QUANTISING[name](run, rows[finite], vectors) for run in (kernels, reference))
        apart = steps(one, other)
        assert apart.max() <= 1
        assert (apart > 0).float().mean() < 0.05
        torch.testing.assert_close(one.scale[: one.count], other.scale[: other.count], rtol=BF16_STEP, atol=0.0)

    def test_largest_of_a_row_is_448(self, name: str, rows: torch.Tensor, vectors: torch.Tensor) -> None:
        """Nothing of FP8's range is wasted, and nothing is beyond it."""
        found = QUANTISING[name](kernels, rows[[FINITE]], vectors)
        assert found.values[0].to(torch.float8_e4m3fn).float().abs().max() == LARGEST

    def test_a_number_that_is_none_is_handed_on(self, name: str, rows: torch.Tensor, vectors: torch.Tensor) -> None:
        """A row with NaN or infinity in it is no number at all, as the reference has it; the other rows are theirs."""
        for run in (kernels, reference):
            found = dequantised(QUANTISING[name](run, rows, vectors))
            assert not found[[NONE, ONE_NAN, INFINITE]].isfinite().any()
            assert found[[FINITE, ZERO, TINY]].isfinite().all()
        one, other = (QUANTISING[name](run, rows, vectors) for run in (kernels, reference))
        assert torch.equal(dequantised(one).isfinite(), dequantised(other).isfinite())
        stored = [found.values[:ROWS].to(torch.float8_e4m3fn).isnan() for found in (one, other)]
        assert torch.equal(*stored)


class TestAdding:
    def test_sums(self, rows: torch.Tensor, vectors: torch.Tensor) -> None:
        """The residual sum is the reference's, with its numbers that are none, alone and with what follows it."""
        expected = reference.add(rows, rows.flip(1), vectors, whose(rows), 2)
        for found in (
            kernels.add(rows, rows.flip(1), vectors, whose(rows), 2),
            kernels.add_and_modulate(rows, rows.flip(1), vectors, whose(rows), 2, 3)[0],
        ):
            torch.testing.assert_close(found, expected, rtol=2 * BF16_STEP, atol=1e-38, equal_nan=True)

    def test_the_gate_that_was_asked_for(self, rows: torch.Tensor, vectors: torch.Tensor) -> None:
        """Each of the six vectors of each modulation is a gate of its own."""
        row = rows[[FINITE]]
        found = [
            kernels.add(row, row.flip(1), vectors, torch.full((1,), own, dtype=torch.int32, device=DEVICE), gate)
            for gate in range(6)
            for own in range(2)
        ]
        assert all(not torch.equal(one, other) for at, one in enumerate(found) for other in found[:at])


class TestPlacing:
    def test_queries_keys_and_values(self) -> None:
        """Normed, turned and put where they belong; nothing is written beside them, and NaN stays in its head."""
        qkv, turns = random(ROWS, 3 * HEADS * HEAD, seed=3), random(ROWS, HEAD // 2, 2, seed=4).float()
        weights = random(HEAD, seed=5), random(HEAD, seed=6)
        qkv[2, 1] = qkv[3, HEADS * HEAD + HEAD] = float("nan")
        joints = [
            tuple(torch.zeros(20, HEADS, HEAD, dtype=torch.bfloat16, device=DEVICE) for _ in range(3)) for _ in range(2)
        ]
        places = torch.arange(11, 11 + ROWS, dtype=torch.int32, device=DEVICE)
        kernels.place(qkv, *weights, turns, joints[0], places)
        reference.place(qkv, *weights, turns, joints[1], places)
        for one, other in zip(*joints, strict=True):
            torch.testing.assert_close(one, other, rtol=2 * BF16_STEP, atol=1e-6, equal_nan=True)
            assert not one[:11].any()
            assert not one[11 + ROWS :].any()
        assert joints[0][0][13, 0].isnan().all()
        assert joints[0][1][14, 1].isnan().all()
        assert sum(int(one.isnan().sum()) for one in joints[0]) == 2 * HEAD


class TestLoras:
    """What LoRAs add: through A of either span, then through B into a part of a product."""

    RANKS = (80, 3)
    SPANS = slice(1, 3), slice(4, 70)

    def factor(self, *shape: int, seed: int) -> torch.Tensor:
        """The interpreter multiplies no bf16."""
        found = random(*shape, seed=seed)
        return found if DEVICE == "cuda" else found.float()

    def narrowed(self, run: Any, rows: Rows, *, without: int | None = None) -> list[torch.Tensor]:
        downs = [None if at == without else self.factor(rank, WIDTH, seed=at) for at, rank in enumerate(self.RANKS)]
        found: list[torch.Tensor] = run.narrow(rows, self.SPANS, downs)
        return found

    def rows(self) -> Rows:
        found = reference.quantise(random(72, WIDTH, seed=9))
        values = found.values if DEVICE == "cuda" else found.values.float()  # the interpreter reads no e4m3 either
        return Rows(values, found.scale, found.count)

    def test_through_a(self) -> None:
        """Both spans are the reference's, whatever their ranks; a row that is no number is so alone."""
        rows = self.rows()
        rows.scale[5] = float("nan")
        expected = self.narrowed(reference, rows)
        for without in (None, 0, 1):
            found = self.narrowed(kernels, rows, without=without)
            for at, (one, other) in enumerate(zip(found, expected, strict=True)):
                if at == without:
                    assert one.shape == (len(other), 0)
                else:
                    torch.testing.assert_close(one, other, rtol=2 * BF16_STEP, atol=0.02, equal_nan=True)
        assert int(expected[1].isnan().any(1).sum()) == 1

    def test_through_b(self) -> None:
        """Added to those columns alone, and from those ranks alone."""
        inner, up, whole = (self.factor(*shape, seed=sum(shape)) for shape in ((70, 90), (40, 80), (70, 200)))
        expected = whole.clone()
        reference.widen(expected[:, 32:72], inner[:, 5:85], up)
        kernels.widen(whole[:, 32:72], inner[:, 5:85], up)
        torch.testing.assert_close(whole, expected, rtol=2 * BF16_STEP, atol=0.05)

    def test_a_row_is_the_same_among_any(self) -> None:
        """Wherever in a tile a row lies, its numbers are added in one order; the interpreter's are close."""
        near = 0.0 if DEVICE == "cuda" else 1e-3
        rows, down = self.rows(), self.factor(16, WIDTH, seed=4)
        _, whole = kernels.narrow(rows, (slice(0, 0), slice(0, 72)), (None, down))
        for first, last in ((0, 1), (3, 70), (65, 72)):
            _, part = kernels.narrow(rows, (slice(0, 0), slice(first, last)), (None, down))
            torch.testing.assert_close(part, whole[first:last], rtol=0.0, atol=near)
        out, up = self.factor(72, 40, seed=5), self.factor(40, 16, seed=6)
        alone = out[9:].clone()
        kernels.widen(out, whole, up)
        kernels.widen(alone, whole[9:], up)
        torch.testing.assert_close(alone, out[9:], rtol=0.0, atol=near)
