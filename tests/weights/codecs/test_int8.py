"""Matrices in int8: how columns are turned, and rows that others have made."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from renderer.errors import ModelError
from renderer.weights.codecs import CODECS, WEIGHT
from renderer.weights.codecs.codec import SCALE
from renderer.weights.codecs.int8 import group
from renderer.weights.codecs.rows import int8
from renderer.weights.codecs.rows.scaled_rows import ScaledRows
from renderer.weights.codecs.rows.turns import matrix, turned
from renderer.weights.index import INDEX, read_index
from renderer.weights.store import open_store
from renderer.weights.unpacked import unpacked
from tests.weights import foreign, tiny


def weight(rows: int, columns: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


class TestTurns:
    @pytest.mark.parametrize(
        ("columns", "size"), [(3072, 256), (12288, 256), (3584, 256), (18944, 256), (640, 64), (160, 16), (40, 0)]
    )
    def test_groups_follow_from_the_width_alone(self, columns: int, size: int) -> None:
        """Of Qwen-Image's widths, of the demo's, and of one that nothing divides."""
        assert group(columns) == size == CODECS["int8"].turned(columns)

    @pytest.mark.parametrize("size", [16, 64, 256])
    def test_a_turn_undoes_itself(self, size: int) -> None:
        """It is symmetric and keeps lengths; as a matrix it is the same."""
        values = weight(3, 2 * size)
        once = turned(values, size)
        assert torch.allclose(once.norm(dim=1), values.norm(dim=1))
        assert torch.allclose(turned(once, size), values, atol=1e-5)
        whole = (values.view(-1, size) @ matrix(size)).view(3, -1) / size**0.5
        assert torch.allclose(once, whole, atol=1e-5)

    def test_rows_are_turned_alike_among_any(self) -> None:
        """Bit by bit: nothing is left to a library's order of sums."""
        values = weight(7, 512)
        assert torch.equal(turned(values, 256)[2:5], turned(values[2:5].clone(), 256))

    def test_what_all_columns_have_in_common_is_spread(self) -> None:
        """A constant stays one, and does not come to stand in a single column."""
        assert torch.equal(turned(torch.full((1, 256), 3.0), 256), torch.full((1, 256), 3.0))


class TestTakenOver:
    def test_rows_that_were_turned_as_ours(self) -> None:
        """ComfyUI's ConvRot in groups of 256 keeps its bits and its scales, and stands for the same numbers."""
        values = torch.randint(-128, 128, (4, 512), dtype=torch.int8)
        rows = ScaledRows(values, torch.rand(4) + 0.1, turned=256)
        found = int8.take_over(rows)
        assert found is not None
        assert torch.equal(found.parts[WEIGHT], values)
        assert torch.equal(found.parts[SCALE], rows.scale)
        assert torch.equal(int8.decode(found.parts), rows.whole())

    @pytest.mark.parametrize(
        "rows",
        [
            ScaledRows(torch.ones(2, 512, dtype=torch.int8), torch.ones(2)),
            ScaledRows(torch.ones(2, 512, dtype=torch.int8), torch.ones(2), turned=64),
            ScaledRows(torch.ones(2, 512).to(torch.float8_e4m3fn), torch.ones(2), turned=256),
        ],
    )
    def test_others_are_rounded_anew(self, rows: ScaledRows) -> None:
        """Those that were not turned, or in other groups, or are no whole numbers."""
        assert int8.take_over(rows) is None

    def test_a_scale_that_is_none(self) -> None:
        """It is told."""
        found = int8.take_over(ScaledRows(torch.ones(2, 256, dtype=torch.int8), torch.tensor([1.0, torch.inf]), 256))
        assert found is not None
        assert not found.is_finite


def test_decoding_in_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large matrix is turned back some rows at a time."""
    parts = int8.encode(weight(9, 64)).parts
    whole = int8.decode(parts)
    monkeypatch.setattr(int8, "_PIECE", 2 * 64)
    assert torch.equal(int8.decode(parts), whole)


def test_a_store_tells_how_its_columns_were_turned(tmp_path: Path) -> None:
    """By their width; one that was turned otherwise than here is refused, and one of another codec tells nothing."""
    source = tiny.make(tmp_path / "source")
    index = source.pack(tmp_path / "int8", "int8")
    assert index.turned
    assert index.turned == {columns: group(columns) for columns in index.turned}
    assert read_index(tmp_path / "int8") == index
    assert open_store(tmp_path / "int8").precision == "int8"
    assert "turned" not in source.pack(tmp_path / "fp8", "fp8").text()
    other = index.model_copy(update={"turned": dict.fromkeys(index.turned, 1024)}).sealed()
    (tmp_path / "int8" / INDEX).write_text(other.text(), encoding="utf-8")
    with pytest.raises(ModelError, match="1024 were turned together, and here it is 16"):
        read_index(tmp_path / "int8")


@pytest.mark.parametrize(("size", "kept"), [(16, True), (4, False)])
def test_a_file_of_comfyui_s_that_is_turned_as_ours(tmp_path: Path, size: int, kept: bool) -> None:  # noqa: FBT001
    """Its whole numbers go into the store as they are; those turned in other groups are rounded anew."""
    source = tiny.make(tmp_path / "source")
    made = foreign.convrot(tiny.tensors_of(source.networks["transformer"]), size)
    for path in (*source.networks["transformer"], *(source.folder / "transformer").glob("*.json")):
        path.unlink()
    save_file(made.tensors, source.folder / "transformer/whole.safetensors", metadata=made.metadata)
    files = unpacked(source.networks, source.tokenizer, "int8").files
    file = next(each for each in files if (each.network, each.kind, each.number) == ("transformer", "block", 0))
    name = "attn.to_q.weight"
    found = file.tensors_of([name])[name]
    assert torch.equal(found, made.tensors[f"transformer_blocks.0.{name}"]) == kept
