"""The kernels of int8 blocks against the reference: compiled where there is a GPU, in Triton's interpreter elsewhere.

The interpreter keeps bf16 as its bits, and would multiply those: it is told to widen them before. It cuts off what bf16
has no room for, where torch and a GPU round.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import triton
from triton import language as tl

from renderer.engine import int8_kernels as kernels
from renderer.engine import int8_reference as reference
from renderer.engine.int8_reference import Rows

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True, scope="module")
def _multiplying_bf16() -> Iterator[None]:
    if DEVICE == "cuda":
        yield
        return
    from triton.runtime import interpreter  # noqa: PLC0415  # only where kernels are interpreted

    builder: Any = interpreter.InterpreterBuilder
    multiply = builder.create_dot

    def widened(handle: Any) -> Any:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        bits = interpreter._convert_float(handle.data, tl.bfloat16, tl.float32, None)
        return interpreter.TensorHandle(bits.view("float32"), tl.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "create_dot", lambda self, a, b, *more: multiply(self, widened(a), widened(b), *more))
        yield


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def whose(x: torch.Tensor) -> torch.Tensor:
    """Rows of two riders, in turns."""
    return (torch.arange(len(x), device=x.device) % 2).int()


def steps(one: Rows, other: Rows) -> torch.Tensor:
    return (one.values[: one.count].int() - other.values[: other.count].int()).abs()


@pytest.mark.parametrize("width", [256, 768, 192, 48, 40])
class TestRows:
    """Turned in groups of 256, of 64, of 16, and not at all."""

    def test_quantised(self, width: int) -> None:
        """What was bf16 is turned and rounded as the reference has it."""
        x = random(5, width, seed=1).bfloat16()
        one, other = kernels.quantise(x), reference.quantise(x)
        assert int(steps(one, other).max()) <= 1
        assert float((steps(one, other) > 0).float().mean()) < (0.15 if width % 256 == 0 else 0.01)
        assert torch.allclose(one.scale[:5], other.scale[:5], rtol=2**-7)
        assert int(one.values[:5].abs().max()) == 127

    def test_between_products(self, width: int) -> None:
        """After norm and modulation, after a residual sum, after GELU."""
        x, update, vectors = random(4, width, seed=2), random(4, width, seed=3), 0.3 * random(2, 6 * width, seed=4)
        for name, given in (
            ("modulate", (x, vectors, whose(x), 0)),
            ("activate", (x,)),
            ("add_and_modulate", (x, update, vectors, whose(x), 2, 3)),
        ):
            one, other = (getattr(run, name)(*given) for run in (kernels, reference))
            if name == "add_and_modulate":
                torch.testing.assert_close(one[0], other[0], rtol=2**-7, atol=1e-3)
                one, other = one[1], other[1]
            assert int(steps(one, other).max()) <= 2, name
            assert torch.allclose(one.scale[:4], other.scale[:4], rtol=2**-6)

    @pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's, in the interpreter
    def test_a_number_that_is_none(self, width: int) -> None:
        """It is its row's scale, which every product has in it."""
        x = random(5, width, seed=5)
        x[1, 3], x[2, 4], x[3] = torch.nan, torch.inf, 0.0
        for run in (kernels, reference):
            assert run.quantise(x).scale[:5].isfinite().tolist() == [True, False, False, True, True]
        assert not kernels.quantise(x).values[3].any()


@pytest.mark.parametrize(("rows", "columns", "width"), [(5, 48, 256), (70, 130, 160), (1, 64, 40)])
def test_products_have_the_reference_s_bits(rows: int, columns: int, width: int) -> None:
    """Whatever tiles divide or do not; and some rows have the bits that they have among all."""
    x = reference.quantise(random(rows, width, seed=6))
    weight = reference.as_stored(random(columns, width, seed=7))
    scale, bias = random(columns, seed=8).abs(), random(columns, seed=9).bfloat16()
    out = torch.full((rows, columns), torch.nan, device=DEVICE)
    kernels.multiply(x, weight, scale, bias, out=out)
    there = Rows(x.values[:rows].cpu(), x.scale[:rows].cpu(), rows)
    expected = torch.empty(rows, columns)
    assert torch.equal(out.cpu(), reference.multiply(there, weight.cpu(), scale.cpu(), bias.cpu(), out=expected))
    part = torch.empty(rows - rows // 2, columns, device=DEVICE)
    assert torch.equal(kernels.multiply(x.part(rows // 2, rows), weight, scale, bias, out=part), out[rows // 2 :])


def test_tiles_are_such_as_triton_has() -> None:
    """Powers of two, and at least what tensor cores multiply at a time."""
    for _, tiles in kernels._TILES:
        assert all(side == triton.next_power_of_2(side) and side >= 32 for side in tiles[:3])
