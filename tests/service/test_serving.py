"""What a server's parts do when others do not as they should: clients that dawdle, and disks that are full."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from renderer.errors import DiskError
from renderer.job import Weights
from renderer.machine import hardware
from renderer.manifest.shelf import Shelf
from renderer.outputs.folder import OutputFolder
from renderer.outputs.journal import Journal
from renderer.planning import deployment, fitting, placement
from renderer.protocol import Setup
from renderer.service import http_server, request_queue, shifts
from renderer.service.configuration import ServiceSettings
from renderer.service.health import _of_workers
from renderer.service.intake import Intake
from renderer.service.request_queue import QueuedItem, RequestQueue
from renderer.service.shifts import Shifts
from renderer.supervisor import events, provision, results
from renderer.supervisor.settings import Settings, StopRequests
from tests.fakes import InlineWorker
from tests.supervisor.test_several import Refuses, Workers
from tests.supervisor.test_several import _refusals as large_ones_refused
from tests.waiting import until

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def refuse(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


@pytest.mark.parametrize("said", [b"", b"G", REQUEST + b"G", REQUEST * 2 + b"G"])
def test_who_does_not_say_what_it_wants_is_let_go(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """At first, and after each answer: one byte more keeps no connection for good."""
    monkeypatch.setattr(http_server, "_HEAD_S", 0.2)

    async def dawdle() -> None:
        config = uvicorn.Config(refuse, lifespan="off", log_config=None)
        config.load()
        state = ServerState()
        server = await asyncio.get_running_loop().create_server(
            lambda: http_server.Protocol(config=config, server_state=state, app_state={}), "127.0.0.1", 0
        )
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            for part in said.partition(REQUEST):
                writer.write(part)
                if part == REQUEST:
                    await reader.readuntil(b"\r\n\r\n")
            async with asyncio.timeout(10):
                await reader.read()
            writer.close()
        assert not state.connections

    asyncio.run(dawdle())


def test_a_disk_that_takes_no_model_ends_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was accepted goes on waiting for it."""
    settings = ServiceSettings(Settings(), Shelf({"demo": "demo"}))
    (one,) = Intake(settings.shelf, settings.limits).read({"prompt": "x", "width": 64, "height": 64}, "request")
    folder, queue, stop = OutputFolder(tmp_path), RequestQueue(), StopRequests()
    queue.add([QueuedItem(one.item, "A", patient=False)])

    def full(*_: Any) -> bool:
        stop.request()
        raise DiskError("the disk is full")

    monkeypatch.setattr(provision, "obtain", full)
    rendering = Shifts(settings, folder, Journal.read(folder), queue, lambda _: None)
    rendering.run(stop)
    assert rendering.condition.trouble == "the disk is full"
    assert len(queue) == 1


@pytest.mark.timeout(20)
def test_nothing_is_rendered_for_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked at instead, and the server says that it is; once there is room, the picture is rendered again."""
    settings = ServiceSettings(Settings(hire=InlineWorker), Shelf({"demo": "demo"}))
    (one,) = Intake(settings.shelf, settings.limits).read({"prompt": "x", "width": 64, "height": 64}, "request")
    folder, queue, stop = OutputFolder(tmp_path), RequestQueue(), StopRequests()
    queue.add([QueuedItem(one.item, "A", patient=False)])
    save, saved, looked = results.save, list[bool](), list[str]()

    def saving(*told: Any) -> Any:
        saved.append(True)
        if len(saved) == 1:
            raise DiskError("the disk is full", ends_the_night=True)
        return save(*told)

    def free(_: Path) -> int:
        looked.append(rendering.condition.trouble)
        return 3 * 64 * 64 - (len(looked) < 5)

    def watch(what: events.Event) -> None:
        if isinstance(what, events.PictureDone):
            stop.request()

    monkeypatch.setattr(results, "save", saving)
    monkeypatch.setattr(hardware, "free_disk_bytes", free)
    monkeypatch.setattr(shifts, "_PAUSE_S", 0.0)
    monkeypatch.setattr(shifts, "_TICK_S", 0.0)
    rendering = Shifts(settings, folder, Journal.read(folder), queue, watch)
    rendering.run(stop)
    assert (len(saved), len(looked)) == (2, 5)
    assert set(looked[1:]) == {"the disk is full"}


@pytest.mark.timeout(20)
def test_a_device_that_is_left_out_keeps_nobody_from_being_idle(tmp_path: Path) -> None:
    """One of two does not open: the other renders, and when nobody asks any more its worker goes all the same."""
    terms = Settings(gpus="cpu,cpu", hire=Workers(Refuses, InlineWorker))
    settings = ServiceSettings(terms, Shelf({"demo": "demo"}), idle_s=0.01)
    folder, queue, heard = OutputFolder(tmp_path), RequestQueue(), list[events.Event]()
    shelf = Intake(settings.shelf, settings.limits)
    for seed in range(3):
        (one,) = shelf.read({"prompt": "x", "width": 64, "height": 64, "seed": seed}, f"request-{seed}")
        queue.add([QueuedItem(one.item, "A", patient=False)])
    rendering = Shifts(settings, folder, Journal.read(folder), queue, heard.append)
    rendering._shift(Weights.of(one.item.picture.job), StopRequests())
    assert [what.where for what in heard if isinstance(what, events.DeviceLeft)] == ["CPU 1"]
    assert sum(isinstance(what, events.PictureDone) for what in heard) == 3
    assert [(worker.state, worker.model) for worker in rendering.workers()] == [("left out", None), ("none", None)]


def test_nobody_asks_after_a_shift_that_had_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its worker goes all the same, when the server has been idle for as long as it waits."""
    monkeypatch.setattr(request_queue, "MOST_A_SHIFT", 1)
    settings = ServiceSettings(Settings(hire=InlineWorker), Shelf({"demo": "demo"}), idle_s=0.2)
    folder, queue, stop, heard = OutputFolder(tmp_path), RequestQueue(), StopRequests(), list[events.Event]()
    (one,) = Intake(settings.shelf, settings.limits).read({"prompt": "x", "width": 64, "height": 64}, "request")
    queue.add([QueuedItem(one.item, "A", patient=False)])
    rendering = Shifts(settings, folder, Journal.read(folder), queue, heard.append)
    running = threading.Thread(target=rendering.run, args=(stop,))
    running.start()
    try:
        until(lambda: any(isinstance(what, events.PictureDone) for what in heard))
        until(lambda: {worker.state for worker in rendering.workers()} == {"none"})
        assert rendering.condition.worker == "none"
    finally:
        stop.request()
        queue.close()
        running.join()


def test_a_model_is_opened_beforehand_however_long_that_takes_to_begin(tmp_path: Path) -> None:
    """Nobody has asked for anything, and so the server has been idle for as long as it waits."""
    settings = ServiceSettings(Settings(hire=InlineWorker), Shelf({"demo": "demo"}), idle_s=0.0)
    folder, queue, stop, heard = OutputFolder(tmp_path), RequestQueue(), StopRequests(), list[events.Event]()
    rendering = Shifts(settings, folder, Journal.read(folder), queue, heard.append)
    preload = Intake(settings.shelf, settings.limits).usual_weights()
    running = threading.Thread(target=rendering.run, args=(stop, preload))
    running.start()
    try:
        until(lambda: any(isinstance(what, events.WorkerOpened) for what in heard))
        until(lambda: rendering.condition.worker == "none")
    finally:
        stop.request()
        queue.close()
        running.join()


@pytest.mark.timeout(20)
def test_what_fits_on_one_device_goes_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a server is asked for: a picture that is too large for one is rendered on the other."""
    monkeypatch.setattr(fitting, "refusals", large_ones_refused)
    place, made = placement.setup_for, list[Setup]()

    def setup_for(*terms: Any) -> Setup:
        made.append(place(*terms))
        return made[-1].model_copy(update={"profile": "cpu"}) if len(made) == 2 else made[-1]

    monkeypatch.setattr(placement, "setup_for", setup_for)
    monkeypatch.setattr(deployment, "kind_of", lambda _: object())  # no two devices are alike here
    hire = Workers(InlineWorker, InlineWorker)
    settings = ServiceSettings(Settings(gpus="cpu,cpu", hire=hire), Shelf({"demo": "demo"}), idle_s=0.01)
    folder, queue, large = OutputFolder(tmp_path), RequestQueue(), set[str]()
    for number, prompt in enumerate(("large", "large b", "c", "large d", "e", "f")):
        intake = Intake(settings.shelf, settings.limits)
        (one,) = intake.read({"prompt": prompt, "width": 64, "height": 64, "seed": number}, f"request-{number}")
        queue.add([QueuedItem(one.item, "A", patient=False)])
        large |= {one.item.picture.id} if prompt.startswith("large") else set()
    rendering = Shifts(settings, folder, Journal.read(folder), queue, lambda _: None)
    rendering._shift(Weights.of(one.item.picture.job), StopRequests())
    assert not queue
    assert large <= set(hire.given["worker.log"])
    assert len(hire.given["worker-2.log"]) > 1
    workers = [worker.model_copy(update={"card": "A card (5d3f6c1e)"}) for worker in rendering.workers()]
    told = "".join(_of_workers(workers))
    for log, where in (("worker.log", "CPU 1"), ("worker-2.log", "CPU 2")):
        assert f'renderer_workers_rendered_total{{worker="{where}"}} {len(hire.given[log])}\n' in told
        assert f'renderer_workers_left_out{{worker="{where}"}} 0\n' in told
        assert f'renderer_workers_card{{worker="{where}",card="A card (5d3f6c1e)"}} 1\n' in told


def test_an_answer_is_sent_as_it_is_written() -> None:
    """A body does not wait until its head has been acknowledged, which clients do 40 ms late."""
    with http_server.listen("127.0.0.1", 0) as listening:
        listening.setblocking(True)  # noqa: FBT003
        with socket.create_connection(listening.getsockname()), listening.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
