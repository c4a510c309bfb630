"""Batches whose way is not smooth: a disk that takes nothing for a while, and what nobody foresaw."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from renderer.errors import DiskError
from renderer.manifest.shelf import Shelf
from renderer.outputs.folder import OutputFolder
from renderer.outputs.journal import Journal
from renderer.service import batch_runs
from renderer.service.batch_runs import GENERATIONS, BatchRuns
from renderer.service.batch_store import ENDED, BatchObject, BatchStore, new_id
from renderer.service.configuration import ServiceSettings
from renderer.service.desk import Desk
from renderer.service.images import Pictures
from renderer.service.intake import Intake
from renderer.service.request_queue import RequestQueue
from renderer.service.shifts import Shifts
from renderer.supervisor.settings import Settings, StopRequests


class Served:
    """The parts of a server that nobody renders for."""

    def __init__(self, path: Path, *, strict: bool = False) -> None:
        folder = OutputFolder(path)
        settings = ServiceSettings(Settings(), Shelf({"demo": "demo"}), strict_models=strict)
        queue, journal = RequestQueue(), Journal.read(folder)
        self.intake = Intake(settings.shelf, settings.limits)
        desk = Desk(folder, journal, queue, self.intake, most_waiting=9, wake=lambda: None, stop=StopRequests())
        shifts = Shifts(settings, folder, journal, queue, lambda _: None)
        self.queue = queue
        self.store = BatchStore(folder)
        self.logged: list[tuple[str, Mapping[str, Any]]] = []
        pictures = Pictures(folder, desk, self.intake, shifts)
        self.runs = BatchRuns(self.store, pictures, settings, lambda event, told: self.logged.append((event, told)))

    def begin(self, *bodies: dict[str, Any]) -> BatchObject:
        """Begin a batch of these requests."""
        lines = (
            {"custom_id": f"{number}", "method": "POST", "url": GENERATIONS, "body": body}
            for number, body in enumerate(bodies)
        )
        file = self.store.add_file("\n".join(map(json.dumps, lines)).encode(), "lines", "batch")
        batch = BatchObject(
            id=new_id("batch"), endpoint=GENERATIONS, input_file_id=file.id, completion_window="24h",
            status="validating", created_at=0, expires_at=2**40,
        )  # fmt: skip
        self.store.save(batch)
        self.runs.begin(batch)
        return batch

    async def ended(self, batch: BatchObject) -> BatchObject:
        """The batch, as it is on the disk when it has ended."""
        await eventually(lambda: not self.runs.is_going(batch.id))
        known = self.store.batch(batch.id)
        assert known is not None
        assert known.status in ENDED
        return known


async def eventually(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while True:
            if true():
                return
            await asyncio.sleep(0.01)


def test_a_batch_waits_for_its_disk_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written down is tried again; meanwhile the batch has not ended, and its file is in use."""
    monkeypatch.setattr(batch_runs, "_AGAIN_S", 0.01)

    async def run() -> None:
        served = Served(tmp_path)
        batch = served.begin({"prompt": "x", "stpes": 1}, {"prompt": "y", "stpes": 1})
        in_the_way = tmp_path / ".batches" / f"{batch.id}.results.jsonl"
        in_the_way.mkdir()
        read = mock.Mock(wraps=served.store.results)
        monkeypatch.setattr(served.store, "results", read)
        await eventually(lambda: read.call_count > 1)
        assert served.runs.is_going(batch.id)
        in_the_way.rmdir()
        known = await served.ended(batch)
        assert (known.status, known.request_counts.failed) == ("completed", 2)

    asyncio.run(run())


def test_one_that_waits_for_its_disk_can_be_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_runs, "_AGAIN_S", 0.01)

    async def run() -> None:
        served = Served(tmp_path)
        full = mock.Mock(side_effect=DiskError("the disk is full"))
        with monkeypatch.context() as patch:
            patch.setattr(served.store, "add_result", full)
            batch = served.begin({"prompt": "x", "stpes": 1})
            await eventually(lambda: full.call_count > 1)
            assert (await served.runs.cancel(batch.id) or batch).status == "cancelling"
        assert (await served.ended(batch)).status == "cancelled"

    asyncio.run(run())


def test_what_nobody_foresaw_fails_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends, says that it was the server's fault, and wants none of its pictures any more; the log says where."""

    async def run() -> None:
        served = Served(tmp_path)
        read = served.intake.read

        def unforeseen(fields: Mapping[str, Any], request: str) -> Any:
            if fields["prompt"] == "bad":
                raise LookupError("not foreseen")
            return read(fields, request)

        monkeypatch.setattr(served.intake, "read", unforeseen)
        batch = served.begin({"prompt": "good", "size": "64x64"})
        await eventually(lambda: len(served.queue) == 1)
        other = served.begin({"prompt": "bad"})
        known = await served.ended(other)
        assert known.status == "failed"
        assert (known.errors or {})["data"][0]["code"] == "internal"
        assert served.logged[0][1]["kind"] == "LookupError"
        await served.runs.cancel(batch.id)
        assert (await served.ended(batch)).status == "cancelled"
        assert len(served.queue) == 0

    asyncio.run(run())


def test_a_strict_servers_batches_are_strict(tmp_path: Path) -> None:
    async def run() -> None:
        served = Served(tmp_path, strict=True)
        batch = await served.ended(served.begin({"prompt": "x", "model": "gpt-image-1", "size": "64x64"}))
        assert batch.request_counts.failed == 1
        (result,) = served.store.results(batch.id)
        assert (result.error or {})["code"] == "model_not_found"

    asyncio.run(run())


def test_a_clock_that_is_put_back_ends_no_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time is up when the clock says so, and what waited for it then is not asked for any more."""
    monkeypatch.setattr(batch_runs, "_LOOK_S", 0.01)
    clock = mock.Mock(return_value=2.0**40 - 0.05)  # a batch that is begun here expires at 2**40
    monkeypatch.setattr("renderer.service.batch_runs.time.time", clock)

    async def run() -> None:
        served = Served(tmp_path)
        batch = served.begin({"prompt": "x", "size": "64x64"})
        await eventually(lambda: len(served.queue))
        clock.return_value = 0.0
        clock.reset_mock()
        await eventually(lambda: clock.call_count > 2)
        assert (len(served.queue), served.runs.is_going(batch.id)) == (1, True)
        clock.return_value = 2.0**40
        known = await served.ended(batch)
        assert (known.status, known.request_counts.failed, len(served.queue)) == ("expired", 0, 0)

    asyncio.run(run())
