"""Every registered codec, and one that is none of ours: parts of half bytes with a scale a group."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import renderer
from renderer.engine import precision
from renderer.engine.coded import CodedLinear
from renderer.families import QWEN_IMAGE_FAMILY
from renderer.families.family import Shape
from renderer.job import Stored
from renderer.weights import codecs
from renderer.weights.codecs import CODECS, WEIGHT, Codec, CodecPart
from renderer.weights.codecs import rows as numbers
from renderer.weights.codecs.rows import ROW_CODERS, EncodedRows, Loss
from renderer.weights.dtypes import TORCH_DTYPES
from renderer.weights.layout import plan_files
from renderer.weights.store import views
from renderer.weights.unpacked import unpacked
from tests.weights import tiny

EVERY = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
MOST_SHRUNK = 2.0**-110
"""Of a row whose numbers are far from bf16's smallest, and its scale as well."""


def weight(rows: int, columns: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.02


def decoded(codec: Codec, values: torch.Tensor) -> torch.Tensor:
    return ROW_CODERS[codec.name].decode(ROW_CODERS[codec.name].encode(values).parts)


class TestEvery:
    def test_the_tables(self) -> None:
        """A precision that weights may have is a codec with its numbers, by the same name."""
        assert list(CODECS) == list(ROW_CODERS) == list(get_args(Stored))
        assert all(codec.name == name for name, codec in CODECS.items())

    def test_no_two_are_alike_in_a_file(self) -> None:
        """A file's names and types tell which codec a weight is kept by."""
        for one, other in combinations(CODECS.values(), 2):
            assert not one.dtypes.items() <= other.dtypes.items()
            assert not other.dtypes.items() <= one.dtypes.items()

    @EVERY
    @given(rows=st.integers(1, 5), columns=st.integers(1, 9).map(lambda count: 16 * count))
    @settings(max_examples=20, deadline=None)
    def test_parts_are_what_is_made(self, codec: Codec, rows: int, columns: int) -> None:
        """Types, shapes and bytes are those that were said, and the matrix's shape is told by them."""
        made = ROW_CODERS[codec.name].encode(weight(rows, columns)).parts
        parts = codec.parts((rows, columns))
        assert [part.suffix for part in parts] == list(codec.dtypes) == list(made)
        assert parts[0].suffix == WEIGHT
        for part in parts:
            tensor = made[part.suffix]
            assert (tensor.dtype, tuple(tensor.shape), tensor.nbytes) == (
                *(TORCH_DTYPES[part.dtype], part.shape),
                part.bytes,
            )
            assert part.dtype == codec.dtypes[part.suffix]
            assert part.shape[0] == rows
        assert codec.shape({part.suffix: part.shape for part in parts}) == (rows, columns)

    @EVERY
    @given(exponents=st.lists(st.integers(-80, 90), min_size=1, max_size=6), seed=st.integers(0, 1000))
    @settings(max_examples=50, deadline=None)
    def test_what_is_read_back(self, codec: Codec, exponents: list[int], seed: int) -> None:
        """No value is further off than the codec says, however large or small its row is."""
        original = weight(len(exponents), 64, seed) * torch.tensor([[2.0**each] for each in exponents])
        found = decoded(codec, original)
        assert found.dtype == torch.bfloat16
        assert found.shape == original.shape
        peak = original.abs().amax(dim=1, keepdim=True)
        assert bool(((found.float() - original).abs() <= codec.error * peak).all())

    @EVERY
    def test_the_error_is_no_larger_than_it_must_be(self, codec: Codec) -> None:
        """It is reached to a half, so that it says something."""
        original = weight(64, 4096)
        peak = original.abs().amax(dim=1, keepdim=True)
        assert float(((decoded(codec, original).float() - original).abs() / peak).max()) >= codec.error / 2

    @EVERY
    def test_rows_alone(self, codec: Codec) -> None:
        """A row's parts do not depend on the rows beside it, in any format of the source that holds them."""
        original = weight(12, 32).to(torch.bfloat16)
        whole = ROW_CODERS[codec.name].encode(original).parts
        for dtype in (torch.bfloat16, torch.float32, torch.float64):
            pieces = [ROW_CODERS[codec.name].encode(original[row : row + 3].to(dtype)).parts for row in range(0, 12, 3)]
            for suffix, part in whole.items():
                joined = torch.cat([piece[suffix] for piece in pieces])
                assert torch.equal(joined.view(torch.uint8), part.view(torch.uint8))

    @EVERY
    @pytest.mark.parametrize("value", [0.0, 1e-30, -1e-30])
    def test_rows_of_one_value(self, codec: Codec, value: float) -> None:
        """Of zeros nothing comes but zeros; of the smallest, the smallest."""
        original = torch.full((3, 16), value)
        encoded = ROW_CODERS[codec.name].encode(original)
        assert encoded.is_finite
        found = ROW_CODERS[codec.name].decode(encoded.parts).float()
        assert torch.allclose(found, original, rtol=codec.error, atol=0)

    @EVERY
    @pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
    def test_a_number_that_is_none(self, codec: Codec, value: float, dtype: torch.dtype) -> None:
        """One alone is told, wherever it stands."""
        original = weight(4, 16).to(dtype)
        assert ROW_CODERS[codec.name].encode(original).is_finite
        original[2, 7] = value
        assert not ROW_CODERS[codec.name].encode(original).is_finite

    @EVERY
    def test_the_loss(self, codec: Codec) -> None:
        """What a codec tells of its loss is what is lost, but for rounding to bf16; a plain one tells nothing."""
        original = weight(32, 64)
        loss = ROW_CODERS[codec.name].encode(original).loss
        assert (loss is None) == codec.is_plain
        if loss is not None:
            rounded = original.to(torch.bfloat16).float()
            lost, rounding = (
                float((each - original).norm() / original.norm())
                for each in (decoded(codec, original).float(), rounded)
            )
            assert math.hypot((loss.difference / loss.original) ** 0.5, rounding) == pytest.approx(lost, rel=0.02)

    @EVERY
    def test_a_layer(self, codec: Codec) -> None:
        """A layer of DiffSynth's that holds the parts multiplies what they stand for, with its bias."""
        linear = torch.nn.Linear(32, 16)
        layer = CodedLinear(linear, codec)
        bias = linear.bias.detach().to(torch.bfloat16)
        parts = ROW_CODERS[codec.name].encode(linear.weight.detach()).parts
        layer.load_state_dict({**parts, "bias": bias}, assign=True)
        values = weight(3, 32).to(torch.bfloat16)
        whole = ROW_CODERS[codec.name].decode(parts)
        assert torch.equal(layer(values), torch.nn.functional.linear(values, whole, bias))


def test_nobody_else_names_one() -> None:
    """Layout, packer, store and families ask codecs; a new one changes no line of theirs."""
    root = Path(renderer.__file__).parent
    own = root / "weights" / "codecs"
    asking = [
        path for wing in ("weights", "families") for path in (root / wing).rglob("*.py") if own not in path.parents
    ]
    named = {
        (path.name, node.value)
        for path in [*asking, root / "estimate" / "weights.py", root / "engine" / "tensor_map.py"]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in CODECS
    }
    assert not named


class TestKept:
    def test_a_block(self) -> None:
        """Each tensor of the module once, by its codec; what belongs to another is no tensor of its own."""
        found = codecs.kept(
            {"a.weight": "F8_E4M3", "b.weight": "BF16", "a.scale": "F32", "a.bias": "BF16", "norm.weight": "BF16"}
        )
        assert {name: each.codec.name for name, each in found.items()} == {
            "a.weight": "fp8",
            "b.weight": "bf16",
            "a.bias": "bf16",
            "norm.weight": "bf16",
        }
        assert found["a.weight"].parts == {"weight": "a.weight", "scale": "a.scale"}

    def test_a_scale_that_is_nobodys(self) -> None:
        """It stays a tensor, so that whoever loads it notices."""
        assert codecs.kept({"a.scale": "F32"}).keys() == {"a.scale"}


# ---- a codec of half bytes -------------------------------------------------------------------------------------------

GROUP = 8


@dataclass(frozen=True, slots=True)
class Nibbles:
    """Four bits a value, two in a byte, and for each eight of them a bf16 scale, and what stands for zero."""

    name: ClassVar[Any] = "nibbles"
    error: float = 1 / 14 + 2.0**-7
    is_plain: bool = False
    dtypes: Mapping[str, str] = field(default_factory=lambda: {WEIGHT: "U8", "scales": "BF16", "zeros": "U8"})

    def parts(self, shape: Shape) -> tuple[CodecPart, ...]:
        rows, columns = shape
        groups = (rows, columns // GROUP)
        return (
            CodecPart(WEIGHT, "U8", (rows, columns // 2)),
            CodecPart("scales", "BF16", groups),
            CodecPart("zeros", "U8", groups),
        )

    def shape(self, parts: Mapping[str, Shape]) -> Shape:
        rows, half = parts[WEIGHT]
        return rows, 2 * half

    def encode(self, rows: torch.Tensor, device: str = "cpu") -> EncodedRows:
        groups = rows.to(device).float().unflatten(1, (-1, GROUP))
        scales = (groups.abs().amax(dim=2) / 7).to(torch.bfloat16)
        steps = (groups / scales.float()[..., None]).round().clamp(-7, 7).flatten(1).to(torch.int64) + 8
        values = (steps[:, ::2] + 16 * steps[:, 1::2]).to(torch.uint8)
        parts = {WEIGHT: values, "scales": scales, "zeros": torch.full(scales.shape, 8, dtype=torch.uint8)}
        lost = float((self.decode(parts).float() - rows.float()).norm()) ** 2
        return EncodedRows(parts, bool(scales.isfinite().all()), Loss(lost, float(rows.float().norm()) ** 2))

    def decode(self, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        both = torch.stack([parts[WEIGHT] % 16, parts[WEIGHT] // 16], dim=2).flatten(1).float()
        steps = both.unflatten(1, (-1, GROUP)) - parts["zeros"].float()[..., None]
        return (steps * parts["scales"].float()[..., None]).flatten(1).to(torch.bfloat16)


@pytest.fixture
def nibbles(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The codec in both tables, as a new one would stand there."""
    codec, name = Nibbles(), Nibbles.name
    for module in ("renderer.weights.codecs", "renderer.weights.layout"):
        monkeypatch.setattr(f"{module}.CODECS", {**CODECS, name: codec})
    for module in ("renderer.weights.convert", "renderer.engine.precision", "renderer.engine.coded"):
        monkeypatch.setattr(f"{module}.ROW_CODERS", {**numbers.ROW_CODERS, name: codec})
    return name


class TestAnother:
    """A new codec is a file in either half and a line in either table: nothing else knows it."""

    def test_layout(self, nibbles: Any) -> None:
        """A tensor's bytes are what the codec says, and the biases and norms stay as they are."""
        files = {file.name: file for file in plan_files(QWEN_IMAGE_FAMILY, tiny.SHAPES, nibbles)}
        tensors = {each.name: each for each in files["transformer/block-000.safetensors"].tensors}
        assert tensors["attn.to_q.weight"].bytes == 16 * 16 // 2
        assert tensors["attn.to_q.scales"].bytes == 2 * 16 * 16 // GROUP
        assert tensors["attn.to_q.bias"].codec.is_plain
        names = list(tensors)
        assert names[12:14] == ["attn.to_q.scales", "attn.to_k.scales"]  # side by side, as the weights they belong to
        assert names[24:26] == ["attn.to_q.zeros", "attn.to_k.zeros"]
        assert names[36:38] == ["attn.to_q.bias", "attn.to_k.bias"]

    def test_there_and_back(self, nibbles: Any, tmp_path: Path) -> None:
        """A checkpoint reads like its store, and a block's tensors are decoded to what they were, within the error."""
        source = tiny.make(tmp_path / "source")
        originals = tiny.tensors_of(source.networks["transformer"])
        weights = unpacked(source.networks, source.tokenizer, nibbles)
        file = next(
            each for each in weights.files if (each.network, each.kind, each.number) == ("transformer", "block", 1)
        )
        flat = torch.empty(file.bytes, dtype=torch.uint8)
        file.read_into(flat)
        tensors, how = views(flat, file.tensors), precision.kept(file.tensors)
        found = precision.restored(tensors, how, torch.bfloat16)
        room = precision.room_for(tensors, how, torch.float32)
        precision.restore_into(room, how, tensors)
        assert len(found) == 12 + 12 + 4
        for name, tensor in found.items():
            original = originals[f"transformer_blocks.1.{name}"]
            assert tensor.shape == original.shape
            assert torch.equal(room[name], tensor.float())
            far = (tensor.float() - original.float()).abs()
            assert bool((far <= Nibbles().error * original.float().abs().amax()).all())
        for part in ("weight", "scales", "zeros"):
            some = file.tensors_of([f"attn.to_q.{part}"])
            assert some.keys() == {f"attn.to_q.{part}"}
            assert torch.equal(some[f"attn.to_q.{part}"], tensors[f"attn.to_q.{part}"])
