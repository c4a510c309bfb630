"""Matrices in four bits: what is lost, what it takes, and that they are int8 rows in fewer bits."""

from __future__ import annotations

import pytest
import torch

from renderer.errors import ModelError
from renderer.weights.codecs import CODECS, WEIGHT
from renderer.weights.codecs.codec import SCALE
from renderer.weights.codecs.int4 import LEVELS, LOW, MOST_STEP, STEP, group
from renderer.weights.codecs.rows import ROW_CODERS, UNPACKERS, ScaledRows, int4, int8


def weight(rows: int, columns: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def unpacked(parts: dict[str, torch.Tensor]) -> torch.Tensor:
    """A matrix's int8 values."""
    rows, half = parts[WEIGHT].shape
    values = torch.empty((rows, 2 * half), dtype=torch.int8)
    UNPACKERS["int4"](values, parts)
    return values


class TestLoss:
    @pytest.mark.parametrize("columns", [3072, 12288, 3584, 18944])
    def test_random_weights(self, columns: int) -> None:
        """Of Qwen-Image's widths: at the most 0.08, in at the most 4.6 bits; it says itself what was lost."""
        original = weight(48, columns)
        found = int4.encode(original)
        lost = float((int4.decode(dict(found.parts)).float() - original).norm() / original.norm())
        assert lost < 0.078
        assert found.loss is not None
        assert (found.loss.difference / found.loss.original) ** 0.5 == pytest.approx(lost, rel=0.01)
        bits = 8 * sum(part.bytes for part in CODECS["int4"].parts((48, columns))) / original.numel()
        assert 4.37 < bits < 4.4

    @pytest.mark.parametrize("every", [100, 3072])
    def test_outlier_channels(self, every: int) -> None:
        """Columns forty times as large, or a single one, cost nothing: the turn spreads them."""
        original = weight(48, 3072)
        original[:, ::every] *= 40
        found = int4.encode(original)
        assert found.loss is not None
        assert (found.loss.difference / found.loss.original) ** 0.5 < 0.08


class TestBounds:
    def test_a_group_from_end_to_end_has_the_widest_step_that_four_bits_hold(self) -> None:
        """127 and -127 in one group would want 17: its ends are cut off, and nobody else's bits are touched."""
        ends = torch.tensor([127.0, -127.0] * 16)[:, None].repeat(1, 3)
        step, low = int4._searched(ends)
        assert step.tolist() == [MOST_STEP] * 3
        assert ((low + LEVELS * step)[0], low[0]) == (120, -120)

    @pytest.mark.parametrize("row", [0, 599])
    @pytest.mark.parametrize("value", [float("inf"), float("nan")])
    def test_a_number_that_is_none_is_said_wherever_it_stands(self, row: int, value: float) -> None:
        """Large matrices are encoded some rows at a time."""
        rows = weight(600, 256)
        assert int4.encode(rows).is_finite
        rows[row, 7] = value
        assert not int4.encode(rows).is_finite


class TestUnpacked:
    """What is unpacked are int8 rows: scaled and turned as int8's own."""

    @pytest.mark.parametrize(("rows", "columns"), [(3, 256), (5, 160), (1, 48), (9, 8)])
    def test_values(self, rows: int, columns: int) -> None:
        """Of each value its four bits, its group's step and least value, in the place that it has in its row."""
        parts = dict(int4.encode(weight(rows, columns, seed=2)).parts)
        found, size = unpacked(parts), group(columns)
        for row in range(rows):
            for column in range(columns):
                half = column >= columns // 2
                byte = int(parts[WEIGHT][row, column - half * columns // 2]) >> 4 * half & 15
                own, groups = column // size, columns // size
                step = (int(parts[STEP][row, own - half * groups // 2]) >> 4 * half & 15) + 1
                assert int(found[row, column]) == max(-128, min(127, byte * step + int(parts[LOW][row, own])))

    def test_they_are_decoded_as_int8_s(self) -> None:
        """So that a layer that is scaled back has the same weights as one that is multiplied as int8."""
        original = weight(6, 512, seed=3)
        parts = dict(int4.encode(original).parts)
        assert torch.equal(parts[SCALE], int8.encode(original).parts[SCALE])
        assert torch.equal(int4.decode(parts), int8.decode({WEIGHT: unpacked(parts), SCALE: parts[SCALE]}))

    def test_pieces_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Rows that are encoded and decoded some at a time have the bits of all at once."""
        original = weight(9, 64, seed=4)
        whole = int4.encode(original)
        back = int4.decode(dict(whole.parts))
        monkeypatch.setattr(int4, "_PIECE", 2 * 64)
        monkeypatch.setattr(int4, "_UNPACKED", 2 * 64)
        pieces = int4.encode(original)
        assert all(torch.equal(pieces.parts[suffix], part) for suffix, part in whole.parts.items())
        assert torch.equal(int4.decode(dict(pieces.parts)), back)
        assert pieces.loss == pytest.approx(whole.loss)

    def test_the_largest_value_is_kept_within_a_step(self) -> None:
        """int8 reaches no further than 127, and what would lie beyond ends there."""
        original = weight(4, 256, seed=5)
        original[:, 7] = 1000
        assert int(unpacked(dict(int4.encode(original).parts)).int().abs().max()) >= 119


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("columns", [3072, 12288, 640])
def test_the_gpu_makes_the_same_bits(columns: int) -> None:
    """A store is the same wherever it is packed; what is decoded is the same wherever it is rendered."""
    original = weight(700, columns) * torch.logspace(-30, 30, 700)[:, None]
    mine, other = int4.encode(original), int4.encode(original, "cuda")
    assert all(torch.equal(other.parts[suffix], part) for suffix, part in mine.parts.items())
    there = {suffix: part.cuda() for suffix, part in mine.parts.items()}
    assert torch.equal(int4.decode(there).cpu(), int4.decode(dict(mine.parts)))


@pytest.mark.parametrize(("columns", "size"), [(3072, 32), (18944, 32), (640, 32), (160, 16), (48, 8), (8, 4), (20, 0)])
def test_groups_follow_from_the_width_alone(columns: int, size: int) -> None:
    """As many columns as divide each half of a row; widths that nothing divides are refused with what to do."""
    assert group(columns) == size
    if size:
        assert CODECS["int4"].turned(columns) == CODECS["int8"].turned(columns)
        return
    with pytest.raises(ModelError, match="20 columns cannot be kept in four bits") as caught:
        CODECS["int4"].parts((16, columns))
    assert caught.value.hint == "take precision: int8 or fp8"


def test_nobody_s_rows_are_taken_over() -> None:
    """int8 rows of another's file are rounded anew, from what they stand for."""
    rows = ScaledRows(torch.ones(2, 256, dtype=torch.int8), torch.ones(2), turned=256)
    assert ROW_CODERS["int4"].take_over(rows) is None
