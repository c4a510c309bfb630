"""Who wants a picture, as long as it waits: who may cancel it, and what is left of that after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from renderer.errors import DiskError
from renderer.job import Memory, Sidecar
from renderer.manifest.expand import Expander
from renderer.manifest.shelf import Shelf
from renderer.outputs.encode import Pixels
from renderer.outputs.folder import OutputFolder
from renderer.outputs.journal import Journal
from renderer.service import queue_file
from renderer.service.configuration import Limits
from renderer.service.desk import Desk
from renderer.service.guard import Guard, most_bytes
from renderer.service.intake import FieldError, Intake, Requested
from renderer.service.queue_file import Ended
from renderer.service.request_queue import RequestQueue
from renderer.service.standing import BusyError, Standing, StoppingError, Whose
from renderer.supervisor import events
from renderer.supervisor.settings import StopRequests

ONE, TWO, BATCH = Whose("key-1"), Whose("key-2"), Whose("key-1", "batch-1")
INTAKE = Intake(Shelf({"demo": "demo"}), Limits())


class Served:
    """A desk in a folder, as a server that begins there has it."""

    def __init__(self, path: Path) -> None:
        self.folder = OutputFolder(path)
        self.queue = RequestQueue()
        self.stop = StopRequests()
        journal = Journal.read(self.folder)
        self.desk = Desk(self.folder, journal, self.queue, INTAKE, most_waiting=9, wake=lambda: None, stop=self.stop)
        self.restored = self.desk.restore()


@pytest.fixture
def wanted() -> Requested:
    (made,) = INTAKE.read({"prompt": "wanted by several", "width": 64, "height": 64, "seed": 1}, "request")
    return made


def on_a_loop(what: Callable[[Served], Coroutine[Any, Any, None]], path: Path) -> None:
    """Have something done with the desk of a server that begins here, and what it wrote on the disk."""

    async def all_of_it() -> None:
        await what(Served(path))
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)

    asyncio.run(all_of_it())


def test_one_client_cancels_no_other_ones_picture(wanted: Requested, tmp_path: Path) -> None:
    """Each takes back what it asked for itself; the last one cancels."""

    async def ask(served: Served) -> None:
        for each in (ONE, TWO, BATCH):
            await served.desk.accept([wanted], each)
        for each in (Whose("key-3"), ONE, ONE, BATCH):
            assert not served.desk.cancel(wanted.key, each)
        assert served.desk.cancel(wanted.key, TWO)
        assert len(served.queue) == 0

    on_a_loop(ask, tmp_path)
    assert Served(tmp_path).restored == 0


def test_a_stranger_cancels_nothing(wanted: Requested, tmp_path: Path) -> None:
    async def ask(served: Served) -> None:
        await served.desk.accept([wanted], ONE)
        assert not served.desk.cancel(wanted.key, TWO)
        assert len(served.queue) == 1

    on_a_loop(ask, tmp_path)


def test_who_joins_is_known_after_a_restart(wanted: Requested, tmp_path: Path) -> None:
    """Through two of them, for the first writes the file anew; who took it back is known too."""

    async def ask(served: Served) -> None:
        for each, hurried in ((BATCH, 0), (TWO, 1), (ONE, 1)):
            await served.desk.accept([wanted], each)
            assert served.queue.count(patient=False) == hurried
        assert not served.desk.cancel(wanted.key, ONE)

    on_a_loop(ask, tmp_path)
    for _ in range(2):
        served = Served(tmp_path)
        (standing,) = served.desk.standing
        assert standing.wanted_by == {BATCH, TWO}
        assert served.queue.count(patient=False) == 1

    async def withdraw(served: Served) -> None:
        assert not served.desk.cancel(wanted.key, BATCH)
        assert len(served.queue) == 1

    on_a_loop(withdraw, tmp_path)
    assert Served(tmp_path).restored == 1


def test_a_join_that_cannot_be_written_is_none(wanted: Requested, tmp_path: Path) -> None:
    """Whoever joins is told of the disk, and is not counted among those who want it."""

    async def ask(served: Served) -> None:
        await served.desk.accept([wanted], BATCH)
        served.folder.queue.unlink()
        served.folder.queue.mkdir()
        with pytest.raises(DiskError, match=r"queue\.jsonl"):
            await served.desk.accept([wanted], ONE)
        (standing,) = served.desk.standing
        assert standing.wanted_by == {BATCH}

    on_a_loop(ask, tmp_path)


def test_a_server_that_is_to_stop_accepts_nothing(wanted: Requested, tmp_path: Path) -> None:
    """From the first wish on, while what has begun is still finished."""

    async def ask(served: Served) -> None:
        served.stop.request()
        with pytest.raises(StoppingError):
            await served.desk.accept([wanted], ONE)

    on_a_loop(ask, tmp_path)


def test_one_that_did_not_come_keeps_no_preview(wanted: Requested, tmp_path: Path) -> None:
    """Why thousands did not come is remembered, and what they would have looked like is not."""

    async def ask(served: Served) -> None:
        await served.desk.accept([wanted], ONE)
        pixels = Pixels(1, 1, b"abc")
        served.desk._take(events.PicturePreviewed(wanted.item, 1, pixels))
        known = served.desk.look(wanted.key)
        assert isinstance(known, Standing)
        assert known.preview is pixels
        served.desk._take(events.PictureFailed(wanted.item, "flat", "", again=False))
        assert known.preview is None
        assert isinstance(served.desk.look(wanted.key), Ended)

    on_a_loop(ask, tmp_path)


def several(count: int) -> list[Requested]:
    """Different pictures."""
    return INTAKE.read({"prompt": "one of many", "width": 64, "height": 64, "seed": 1, "count": count}, "request")


def test_what_a_worker_has_cannot_be_cancelled(wanted: Requested, tmp_path: Path) -> None:
    """Its last asker wants it no more, and it comes all the same."""

    async def ask(served: Served) -> None:
        (standing,) = await served.desk.accept([wanted], ONE)
        assert served.queue.take(wanted.item)
        assert not served.desk.cancel(wanted.key, ONE)
        assert served.desk.standing == [standing]
        assert served.desk.counts.cancelled == 0

    on_a_loop(ask, tmp_path)
    assert Served(tmp_path).restored == 1


def test_too_many_are_refused_before_any_is_written(tmp_path: Path) -> None:
    """Those count that are on their way to the disk too; a batch waits behind all, and is not counted."""

    async def ask(served: Served) -> None:
        eight = asyncio.create_task(served.desk.accept(several(8), ONE))
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="8 pictures wait already, and 9 may"):
            await served.desk.accept(several(10), TWO)
        await eight
        await served.desk.accept(several(12), BATCH)
        assert served.desk.counts.refused == 2
        assert len(served.queue) == 12
        await served.desk.accept(several(9), ONE)

    on_a_loop(ask, tmp_path)


def test_what_could_not_be_written_was_not_accepted(wanted: Requested, tmp_path: Path) -> None:
    """Whoever asks again when the disk is well is served."""

    async def ask(served: Served) -> None:
        served.folder.queue.mkdir()
        with pytest.raises(DiskError, match=r"queue\.jsonl"):
            await served.desk.accept([wanted], ONE)
        assert served.desk.look(wanted.key) is None
        served.folder.queue.rmdir()
        await served.desk.accept([wanted], ONE)
        assert len(served.queue) == 1

    on_a_loop(ask, tmp_path)


def test_what_brought_workers_down_is_known(wanted: Requested, tmp_path: Path) -> None:
    """What began and vanished with its server rides alone the next time; the third crash is the last."""
    journal = Journal.read(OutputFolder(tmp_path))
    suspects = []

    async def ask(served: Served) -> None:
        (standing,) = await served.desk.accept([wanted], ONE)
        assert isinstance(standing, Standing)
        suspects.append((standing.state, standing.item.suspect))

    on_a_loop(ask, tmp_path / "never")
    journal.write("attempt", wanted.key, wanted.item.fingerprint)
    on_a_loop(ask, tmp_path)
    assert [each.item.suspect for each in Served(tmp_path).desk.standing] == [True]
    for _ in range(3):
        journal.write("crashed", wanted.key, wanted.item.fingerprint, "SIGSEGV")
    (tmp_path / "queue.jsonl").unlink()
    on_a_loop(ask, tmp_path)
    assert suspects == [("waiting", False), ("waiting", True), ("failed", False)]
    assert Served(tmp_path).restored == 0


def test_one_that_failed_may_be_asked_for_again(wanted: Requested, tmp_path: Path) -> None:
    """While it is tried again it waits; when it has failed, that is known until somebody asks once more."""

    async def ask(served: Served) -> None:
        (first,) = await served.desk.accept([wanted], ONE)
        assert isinstance(first, Standing)
        served.desk._take(events.PictureStepped(wanted.item, 2, 4))
        assert (first.state, first.step) == ("rendering", 2)
        served.desk._take(events.PictureFailed(wanted.item, "flat", "", again=True))
        assert (first.state, first.step, served.desk.counts.failed) == ("waiting", 0, 0)
        served.desk._take(events.PictureFailed(wanted.item, "flat", "", again=False))
        assert (first.state, served.desk.counts.failed) == ("failed", 1)
        (second,) = await served.desk.accept([wanted], ONE)
        assert second is not first
        took = SimpleNamespace(timing=SimpleNamespace(total_s=1.0), memory=Memory(peak_rss_bytes=1))
        served.desk._take(events.PictureDone(wanted.item, cast("Sidecar", took)))
        assert served.desk.look(wanted.key) is None, "what it was before is forgotten"

    on_a_loop(ask, tmp_path)


def test_of_those_that_did_not_come_the_last_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_file, "REMEMBERED", 2)

    async def ask(served: Served) -> None:
        three = several(3)
        await served.desk.accept(three, ONE)
        for each in three:
            served.desk._take(events.PictureFailed(each.item, "flat", "", again=False))
        assert [served.desk.look(each.key) is not None for each in three] == [False, True, True]

    on_a_loop(ask, tmp_path)


def test_what_fails_because_the_server_stops_is_still_wanted(wanted: Requested, tmp_path: Path) -> None:
    async def ask(served: Served) -> None:
        await served.desk.accept([wanted], ONE)
        served.desk.stop()
        served.desk._take(events.PictureFailed(wanted.item, "the worker went", "", again=False))

    on_a_loop(ask, tmp_path)
    assert Served(tmp_path).restored == 1


def test_a_request_for_too_many_makes_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many they would be is known before: a small request costs no seconds of a core."""
    monkeypatch.setattr(Expander, "expand", lambda *_: pytest.fail("pictures were made"))
    for fields in ({"count": 10_000}, {"matrix": {f"x{axis}": [*range(10)] for axis in range(4)}}):
        with pytest.raises(FieldError, match="ictures") as failed:
            INTAKE.read({"prompt": "{{" + "|".join("abcdefgh") + "}}", **fields}, "r")
        assert "ask for fewer at once" in failed.value.problems[0][2]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"width": 80, "height": 64}, "80x64 are 5,120 pixels, and 4,096 are allowed"),
        ({"count": 3}, "makes 3 pictures"),
    ],
)
def test_a_request_has_its_bounds(fields: dict[str, Any], said: str) -> None:
    """Of pixels and of pictures; what is just within them is taken."""
    small = Intake(Shelf({"demo": "demo"}), Limits(pictures=2, pixels=64 * 64))
    usual = {"prompt": "x", "width": 64, "height": 64, "count": 2}
    assert len(small.read(usual, "r")) == 2
    with pytest.raises(FieldError) as failed:
        small.read({**usual, **fields}, "r")
    assert said in failed.value.problems[0][1]


def test_only_what_brings_pictures_may_be_long() -> None:
    """What a client sends is read into memory: a prompt has no use for megabytes."""
    limits = Limits(body_bytes=1, manifest_bytes=2, picture_bytes=3, upload_bytes=4)
    paths = {
        "/v1/images/edits": 3, "/v1/images/generations": 3, "/api/v1/images/generations": 3, "/sdapi/v1/img2img": 3,
        "/sdapi/v1/txt2img": 1, "/v1/files": 4, "/v1/files/x": 1, "/api/v1/batches": 2, "/v1/batches": 1, "/health": 1,
    }  # fmt: skip
    assert {path: most_bytes(path, limits) for path in paths} == paths


@pytest.mark.parametrize("announced", [b"9" * 21, b"9" * 5000, b"-1", b"x"])
def test_a_length_that_is_none_is_too_long(announced: bytes) -> None:
    """Of more digits than Python makes a number of, too; the application never hears of it."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def ask() -> None:
        guard = Guard(cast("Any", None), (), Limits(), lambda *_: None)
        headers = [(b"host", b"localhost"), (b"content-length", announced)]
        scope = {"type": "http", "method": "POST", "path": "/v1/batches", "query_string": b"", "headers": headers}
        await guard(scope, cast("Any", None), send)

    asyncio.run(ask())
    assert sent[0]["status"] == 413


def test_why_one_did_not_come_is_known_after_a_restart(tmp_path: Path) -> None:
    """In a file that is written anew too, and of the last ones; one that is asked for again is forgotten."""

    async def ask(served: Served) -> None:
        four = several(4)
        await served.desk.accept(four, ONE)
        for each in four[:3]:
            served.desk._take(events.PictureFailed(each.item, "flat", "look", again=False, refused=True))
        assert served.desk.cancel(four[3].key, ONE)
        await served.desk.accept(four[:1], ONE)

    on_a_loop(ask, tmp_path)
    keys = [each.key for each in several(4)]
    for _ in range(2):
        served = Served(tmp_path)
        assert served.restored == 1
        ended = [known for key in keys if isinstance(known := served.desk.look(key), Ended)]
        assert [(each.key, each.how) for each in ended] == [
            (keys[1], "failed"), (keys[2], "failed"), (keys[3], "cancelled"),
        ]  # fmt: skip
        assert (ended[0].message, ended[0].hint, ended[0].refused) == ("flat", "look", True)


def test_that_one_will_not_come_is_told_when_it_is_on_the_disk(wanted: Requested, tmp_path: Path) -> None:
    async def ask(served: Served) -> None:
        (standing,) = await served.desk.accept([wanted], ONE)
        assert isinstance(standing, Standing)
        served.desk._take(events.PictureFailed(wanted.item, "flat", "", again=False))
        assert not standing.over.is_set()
        await standing.over.wait()
        assert wanted.key in served.folder.queue.read_text().splitlines()[-1]

    on_a_loop(ask, tmp_path)


def test_a_server_that_has_stopped_takes_nothing_back(wanted: Requested, tmp_path: Path) -> None:
    """It would be rendered all the same, by the next one."""

    async def ask(served: Served) -> None:
        await served.desk.accept([wanted], ONE)
        await served.desk.end()
        with pytest.raises(StoppingError):
            served.desk.cancel(wanted.key, ONE)

    on_a_loop(ask, tmp_path)


def test_a_file_that_has_grown_long_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the server runs: what is done goes, what waits or will not come stays, with all who want it."""
    monkeypatch.setattr(queue_file, "LONG_BYTES", 2_000)
    took = SimpleNamespace(timing=SimpleNamespace(total_s=1.0), memory=Memory(peak_rss_bytes=1))
    sizes: list[int] = []

    async def ask(served: Served) -> None:
        those = several(16)
        await served.desk.accept(those[:1], ONE)
        await served.desk.accept(those[:1], BATCH)
        for each in those[1:-1]:
            await served.desk.accept([each], TWO)
            assert served.queue.take(each.item)
            served.queue.ended(each.key)
            served.desk._take(events.PictureDone(each.item, cast("Sidecar", took)))
            sizes.append(served.folder.queue.stat().st_size)
        await served.desk.accept(those[-1:], TWO)
        assert served.desk.cancel(those[-1].key, TWO)

    on_a_loop(ask, tmp_path)
    assert max(sizes) < 8_000, "of 16 lines of a thousand bytes"
    served = Served(tmp_path)
    assert isinstance(first := served.desk.look(several(16)[0].key), Standing)
    assert (first.number, first.wanted_by) == (1, {ONE, BATCH})
    assert isinstance(served.desk.look(several(16)[-1].key), Ended)
    (new,) = INTAKE.read({"prompt": "a new one", "width": 64, "height": 64}, "request")
    on_a_loop(lambda again: cast("Any", again.desk.accept([new], ONE)), tmp_path)
    assert Served(tmp_path).desk.standing[-1].number == 17, "numbers go on"
