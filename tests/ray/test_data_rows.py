"""Rows of a data set, rendered: by the actor that Ray would call, in this process; and by Ray Data where it is here."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import renderer.ray
from renderer.errors import MachineError, UsageError
from renderer.job import Sidecar
from renderer.ray import connecting
from renderer.ray.data_rows import MADE, RowProcessor, RowRenderer
from renderer.ray.kept_worker import KeptWorker
from tests import tools
from tests.fakes import draw
from tests.ray.conftest import FAKE_OF_TWO

pytestmark = tools.needs("pyarrow")

FIELDS: dict[str, Any] = {"precision": "bf16", "size": "64x64", "steps": 2}

Make = Callable[..., RowRenderer]


def made(**more: Any) -> RowProcessor:
    """A processor whose workers draw at once."""
    found: RowProcessor = renderer.ray.processor(num_gpus=0, **{"model": "demo", **FIELDS, **more})
    return dataclasses.replace(found, posting=dataclasses.replace(found.posting, command=FAKE_OF_TWO))


@pytest.fixture
def rendering() -> Iterator[Make]:
    """Makes actors; their workers end with the test."""
    there: list[RowRenderer] = []

    def make(**more: Any) -> RowRenderer:
        there.append(RowRenderer(made(**more)))
        return there[-1]

    yield make
    for each in there:
        each._worker.kill()


def batch(**columns: Any) -> Any:
    """A batch as Ray Data gives it."""
    import pyarrow as pa  # noqa: PLC0415  # where the mark has found it

    return pa.table(columns)


def tensors(*pixels: np.ndarray) -> Any:
    """A column as `ray.data.read_images` gives it."""
    from ray.data.extensions import ArrowTensorArray  # noqa: PLC0415

    return ArrowTensorArray.from_numpy(np.stack(pixels))


def of(found: Any, name: str = "error") -> list[Any]:
    """A column of what comes back."""
    values: list[Any] = found[name].to_pylist()
    return values


def test_each_row_has_its_picture(rendering: Make) -> None:
    """With its sidecar and fingerprint."""
    found = rendering()(batch(id=["x/1", "x/1"], prompt=["a", "b"], seed=[4, 5]))
    assert of(found) == [None, None]
    assert of(found, "id") == ["x/1", "x/1"]
    for place, seed in enumerate((4, 5)):
        sidecar = Sidecar.model_validate_json(of(found, "sidecar")[place])
        assert (sidecar.id, sidecar.job.seed, sidecar.fingerprint) == ("x/1", seed, of(found, "fingerprint")[place])
        with Image.open(io.BytesIO(of(found, "picture")[place])) as image:
            assert image.convert("RGB").tobytes() == draw(sidecar.job.model_copy(update={"model": "demo"})).rgb


def test_other_columns_are_as_they_were(rendering: Make) -> None:
    """With their types and empty cells: a whole number of 61 bits is no other for the empty cell beside it."""
    days = [datetime(2026, 11, 26, tzinfo=UTC).date(), None]
    rows = batch(id=[2**60 + 1, None], prompt=["a", "fail"], day=days, tags=[["x"], []], seed=[7, None])
    found = rendering(retries=0)(rows)
    assert found.select(rows.column_names).equals(rows)
    assert Sidecar.model_validate_json(of(found, "sidecar")[0]).id == str(2**60 + 1)
    alone = rendering(retries=0)(batch(prompt=["fail"]))
    assert [alone.schema.field(name).type for name in MADE] == [found.schema.field(name).type for name in MADE]


def test_a_row_that_fails_costs_itself(rendering: Make) -> None:
    """What it asks for cannot be, or does not come, or brings its worker down: its reason stands in its column."""
    found = rendering(retries=0)(
        batch(prompt=["good", "fail", "bad", "crash", "well"], size=["64x64", "64x64", "63", "64x64", "128x64"])
    )
    reasons = of(found)
    assert [reason is None for reason in reasons] == [True, False, False, False, True]
    assert [picture is not None for picture in of(found, "picture")] == [True, False, False, False, True]
    assert reasons[1] == "one flat colour"
    assert reasons[2].startswith("size: ")
    assert "status 66" in reasons[3]


def test_rows_that_fail_one_after_the_other_have_each_its_reason(rendering: Make) -> None:
    """However often each is tried: a batch is no night that is given up after ten failures in a row."""
    assert of(rendering()(batch(prompt=["fail"] * 4))) == ["one flat colour"] * 4


def test_a_worker_stays_open_from_batch_to_batch(rendering: Make) -> None:
    """A model is opened once, and anew where a batch needs more than it was opened for."""
    actor = rendering()
    actor(batch(prompt=["a"]))
    first = actor._worker.pid
    opened = actor._worker._setup
    actor(batch(prompt=["b"]))
    assert (actor._worker.pid, actor._worker._setup) == (first, opened)
    actor(batch(prompt=["c"], size=["128x128"]))
    assert actor._worker.pid == first
    assert actor._worker._setup != opened
    found = actor(batch(prompt=["crash"]))
    assert of(found)[0] is not None
    assert of(actor(batch(prompt=["d"]))) == [None]
    assert actor._worker.pid != first


def test_an_empty_cell_is_no_field(rendering: Make) -> None:
    """Whatever a data set has for nothing: CSV has a text of nothing, and a struct has all members of its kind."""
    nan = float("nan")
    rows = batch(
        id=["x", "", None],
        prompt=["a", "b", "c"],
        seed=[nan, 7.0, None],
        size=["", "64x64", None],
        expect=[{"seconds": 100.0, "ram": None}, {"seconds": None, "ram": "100GiB"}, None],
    )
    found = rendering()(rows)
    assert of(found) == [None] * 3
    sidecars = [Sidecar.model_validate_json(each) for each in of(found, "sidecar")]
    assert sidecars[1].job.seed == 7
    assert [each.id for each in sidecars] == ["x", "001", "001"]


def test_a_cell_that_no_field_holds_costs_its_row(rendering: Make) -> None:
    """Bytes or a moment: its column is named. A whole decimal is a number."""
    bad = rendering()(batch(prompt=["a", "a"], seed=[b"\x89PNG", None]))
    assert of(bad) == ["seed: a cell of type bytes is no value of a field", None]
    moments = rendering()(batch(prompt=["a", "a"], seed=[datetime(2026, 1, 1, tzinfo=UTC), None]))
    assert of(moments) == ["seed: a cell of type datetime is no value of a field", None]
    found = rendering()(batch(prompt=["a"], seed=[Decimal(7)]))
    assert Sidecar.model_validate_json(of(found, "sidecar")[0]).job.seed == 7


def test_pictures_in_cells_go_in(rendering: Make, tmp_path: Path) -> None:
    """A file's path, its bytes, both as Hugging Face has them, and pixels are one picture; other pixels are none."""
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    file = tmp_path / "in.png"
    Image.fromarray(pixels).save(file)
    cells = [
        str(file),
        file.read_bytes(),
        {"bytes": file.read_bytes(), "path": None},
        {"bytes": None, "path": str(file)},
    ]
    render = rendering()
    found = [render(batch(prompt=["a"], image=[cell])) for cell in cells]
    found.append(render(batch(prompt=["a"]).append_column("image", tensors(pixels))))
    assert [of(each) for each in found] == [[None]] * 5
    assert {of(each, "fingerprint")[0] for each in found} == {of(found[0], "fingerprint")[0]}
    other = render(batch(prompt=["a"]).append_column("image", tensors(pixels.astype(np.float32))))
    assert of(other)[0].startswith("image: a tensor of 4 x 4 x 3 float32 is no picture")


def test_a_model_that_rows_name_and_no_machine_has_costs_those_rows(rendering: Make) -> None:
    """All of a batch, too; where it is the processor's own, nothing can be rendered at all, and the job fails."""
    made = rendering(offline=True)
    found = made(batch(prompt=["a", "b"], model=["Qwen/Qwen-Image"] * 2, size=["256x256"] * 2))
    assert all("Qwen/Qwen-Image" in reason for reason in of(found))
    other = rendering(offline=True, model="Qwen/Qwen-Image", size="256x256")
    with pytest.raises(MachineError, match="Qwen/Qwen-Image"):
        other(batch(prompt=["a"]))


def test_a_row_names_its_precision(rendering: Make) -> None:
    """What a machine would choose depends on which one the row comes to: that is said, and it is not fp8 in silence."""
    found = rendering(precision="auto")(batch(prompt=["a", "b"], precision=["fp8", None]))
    assert of(found)[0] is None
    assert of(found)[1].startswith("precision: auto is chosen when a manifest is planned")


def test_fields_that_no_job_has_are_refused() -> None:
    with pytest.raises(UsageError, match="no job has a field stpes"):
        renderer.ray.processor("demo", stpes=4)


def test_another_renderer_is_refused() -> None:
    """The machine that calls is another than the one that renders."""
    there = made()
    with pytest.raises(MachineError, match="9 is here"):
        RowRenderer(dataclasses.replace(there, here={**there.here, "torch": "9"}))


def test_a_worker_that_holds_nothing_does_not_stay() -> None:
    """It was hired, and its run ended before it was open."""
    kept = KeptWorker(FAKE_OF_TWO)
    pid = kept.hire(Path("/dev/null")).pid
    assert pid
    kept.end()
    assert kept.pid is None


def test_ray_data_renders_a_data_set(cluster: Any) -> None:  # noqa: ARG001
    """In batches of four: every row comes back once; those of a batch that fails too."""
    connecting.library()
    import ray.data  # noqa: PLC0415

    rows = [{"id": number, "prompt": "fail" if number < 4 else "well", "seed": number or None} for number in range(12)]
    found = sorted(made(batch_size=4)(ray.data.from_items(rows)).take_all(), key=lambda row: row["id"])
    assert [(row["id"], row["seed"]) for row in found] == [(row["id"], row["seed"]) for row in rows]
    assert [row["error"] for row in found] == ["one flat colour"] * 4 + [None] * 8
    assert [bool(row["picture"]) for row in found] == [False] * 4 + [True] * 8
