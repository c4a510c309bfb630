"""Rows of a data set, rendered: by the actor that Ray would call, in this process; and by Ray Data where it is here."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
from collections.abc import Callable, Iterator
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
from renderer.ray.data_rows import RowProcessor, RowRenderer
from renderer.ray.kept_worker import KeptWorker
from tests.fakes import draw
from tests.ray.conftest import FAKE_OF_TWO

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


def batch(**columns: Any) -> dict[str, np.ndarray]:
    return {name: np.array(values) for name, values in columns.items()}


def test_each_row_has_its_picture(rendering: Make) -> None:
    """With its sidecar and fingerprint; ids and all other columns are as they were."""
    rows = batch(id=["x/1", "x/1"], prompt=["a", "b"], seed=[4, 5], note=[0.5, 1.5])
    found = rendering()(rows)
    assert list(found["error"]) == [None, None]
    assert [list(found[name]) for name in ("id", "note")] == [["x/1", "x/1"], [0.5, 1.5]]
    for place, seed in enumerate((4, 5)):
        sidecar = Sidecar.model_validate_json(found["sidecar"][place])
        assert (sidecar.id, sidecar.job.seed, sidecar.fingerprint) == ("x/1", seed, found["fingerprint"][place])
        with Image.open(io.BytesIO(found["picture"][place])) as image:
            assert image.convert("RGB").tobytes() == draw(sidecar.job.model_copy(update={"model": "demo"})).rgb


def test_a_row_that_fails_costs_itself(rendering: Make) -> None:
    """What it asks for cannot be, or does not come, or brings its worker down: its reason stands in its column."""
    found = rendering(retries=0)(
        batch(prompt=["good", "fail", "bad", "crash", "well"], size=["64x64", "64x64", "63", "64x64", "128x64"])
    )
    reasons = list(found["error"])
    assert [reason is None for reason in reasons] == [True, False, False, False, True]
    assert [picture is not None for picture in found["picture"]] == [True, False, False, False, True]
    assert reasons[1] == "one flat colour"
    assert reasons[2].startswith("size: ")
    assert "status 66" in reasons[3]


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
    assert found["error"][0] is not None
    assert actor(batch(prompt=["d"]))["error"][0] is None
    assert actor._worker.pid != first


def test_an_empty_cell_is_no_field(rendering: Make) -> None:
    """Whatever a data set has for nothing."""
    rows = {"prompt": np.array(["a", "b"]), "seed": np.array([float("nan"), 7.0]), "size": np.array([None, "64x64"])}
    found = rendering()(rows)
    assert list(found["error"]) == [None, None]
    assert [Sidecar.model_validate_json(each).job.seed for each in found["sidecar"]][1] == 7


def test_a_cell_that_no_field_holds_costs_its_row(rendering: Make) -> None:
    """Bytes, a set, a moment: its column is named. A whole decimal is a number, and no moment is no field."""
    cells = (b"\x89PNG", {1}, np.datetime64("2026-01-01"), np.datetime64("NaT"), Decimal(7))
    seeds = np.empty(len(cells), dtype=object)
    seeds[:] = cells
    found = rendering()({"prompt": np.array(["a"] * len(cells)), "seed": seeds})
    reasons = list(found["error"])
    assert reasons[:2] == [f"seed: a cell of type {name} is no value of a field" for name in ("bytes", "set")]
    assert reasons[2].startswith("seed: must be a whole number")
    assert reasons[3:] == [None, None]
    assert Sidecar.model_validate_json(found["sidecar"][4]).job.seed == 7


def test_a_model_that_rows_name_and_no_machine_has_costs_those_rows(rendering: Make) -> None:
    """All of a batch, too; where it is the processor's own, nothing can be rendered at all, and the job fails."""
    made = rendering(offline=True)
    found = made(batch(prompt=["a", "b"], model=["Qwen/Qwen-Image"] * 2, size=["256x256"] * 2))
    assert all("Qwen/Qwen-Image" in reason for reason in found["error"])
    other = rendering(offline=True, model="Qwen/Qwen-Image", size="256x256")
    with pytest.raises(MachineError, match="Qwen/Qwen-Image"):
        other(batch(prompt=["a"]))


def test_a_row_names_its_precision(rendering: Make) -> None:
    """What a machine would choose depends on which one the row comes to: that is said, and it is not fp8 in silence."""
    found = rendering(precision="auto")(batch(prompt=["a", "b"], precision=["fp8", None]))
    assert found["error"][0] is None
    assert found["error"][1].startswith("precision: auto is chosen when a manifest is planned")


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


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="no pyarrow here (it is in the extra ray-data)")
def test_ray_data_renders_a_data_set(cluster: Any) -> None:  # noqa: ARG001
    """Two actors, batches of four: every row comes back once, whoever rendered it."""
    connecting.library()
    import ray.data  # noqa: PLC0415

    rows = [{"id": f"row {number}", "prompt": f"{number}", "seed": number} for number in range(12)]
    found = made(concurrency=(1, 2), batch_size=4)(ray.data.from_items(rows)).take_all()
    assert sorted(str(row["id"]) for row in found) == sorted(str(row["id"]) for row in rows)
    assert all(row["error"] is None and row["picture"] for row in found)
