"""Pictures that wait: in whose order, how many, for how long.

With a worker that only seems to render, so that a picture takes as long as its prompt says.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from renderer.job import Weights
from renderer.outputs.folder import OutputFolder
from renderer.planning.plan import Planned, make_plan
from renderer.service import request_queue, shifts
from renderer.service.queue_file import Asked, Ended, QueueFile, WhatIsKnown
from renderer.service.request_queue import MOST_AHEAD, MOST_PATIENT_AHEAD, QueuedItem, RequestQueue, RequestSource
from tests.making import make_manifest
from tests.service.running import Server, serving
from tests.waiting import until


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> tuple[Planned, ...]:
    manifest = make_manifest([f"picture {number}" for number in range(40)])
    return make_plan(manifest, tmp_path_factory.mktemp("outputs")).items


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("outputs"), "--most-waiting", "20", fake="--capacity 2") as served:
        yield served


class TestOrder:
    def queue(self, items: tuple[Planned, ...], *whose: str) -> tuple[RequestQueue, RequestSource]:
        """One picture each of these clients, in order; those with small letters are patient."""
        queue = RequestQueue()
        queue.add(QueuedItem(item, client, client.islower()) for item, client in zip(items, whose, strict=False))
        return queue, RequestSource(queue, Weights.of(items[0].picture.job), 60.0)

    def test_a_shift_does_not_remember_all_that_it_had(
        self, items: tuple[Planned, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each picture is counted once, and forgotten some time after it is through."""
        monkeypatch.setattr(shifts, "_MOST_KNOWN", 3)
        queue, counted = RequestQueue(), list[Planned]()
        outcomes: Any = SimpleNamespace(progress=SimpleNamespace(joins=counted.append), readings=())
        weights = Weights.of(items[0].picture.job)
        source = shifts._JoiningSource(queue, weights, 60.0, outcomes, lambda: False)
        for item in items:
            queue.add([QueuedItem(item, "A", patient=False)])
            for _ in range(2):  # the second time it was given back
                taken = source.first()
                assert taken is not None
                source.take(taken)
                source.put_back(taken)
            source.take(item)
            queue.ended(item.picture.id)
        assert counted == list(items)
        assert len(source._known) <= 4

    def order(self, source: RequestSource, items: tuple[Planned, ...], queue: RequestQueue) -> list[int]:
        taken = []
        while (item := source.first()) is not None:
            source.take(item)
            queue.began(item.picture.id)
            taken.append(items.index(item))
        return taken

    def test_clients_take_turns_and_batches_wait(self, items: tuple[Planned, ...]) -> None:
        queue, source = self.queue(items, "a", "A", "A", "A", "B", "C", "b", "a")
        assert self.order(source, items, queue) == [1, 4, 5, 2, 3, 0, 6, 7]

    def test_what_comes_back_is_the_next_one(self, items: tuple[Planned, ...]) -> None:
        queue, source = self.queue(items, "A", "B", "A")
        first = source.first()
        assert first is not None
        source.take(first)
        source.put_back(first)
        assert self.order(source, items, queue) == [0, 1, 2]

    def test_what_is_tried_again_waits_behind_the_rest_of_its_client(self, items: tuple[Planned, ...]) -> None:
        queue, source = self.queue(items, "A", "A", "A")
        first = source.first()
        assert first is not None
        source.take(first)
        source.try_again([first])
        assert self.order(source, items, queue) == [1, 2, 0]

    def test_one_that_somebody_waits_for_now_comes_first(self, items: tuple[Planned, ...]) -> None:
        queue, source = self.queue(items, "a", "a", "a")
        queue.hurry(items[2].picture.id)
        assert self.order(source, items, queue) == [2, 0, 1]
        assert len(queue) == 0

    def test_one_that_is_cancelled_is_passed_over(self, items: tuple[Planned, ...]) -> None:
        queue, source = self.queue(items, "A", "A", "A")
        assert queue.cancel(items[1].picture.id)
        assert not queue.cancel(items[1].picture.id)
        assert self.order(source, items, queue) == [0, 2]
        assert not queue.cancel(items[0].picture.id)

    def test_a_worker_has_few_that_it_has_not_begun(self, items: tuple[Planned, ...]) -> None:
        """So that one that comes later is behind few, and few cannot be cancelled; batches have fewer yet."""
        queue, source = self.queue(items, *["a"] * 20, *["A"] * 2)
        taken = []
        while (item := source.first()) is not None:
            source.take(item)
            taken.append(item)
        assert len(taken) == MOST_PATIENT_AHEAD + 2
        queue.add(QueuedItem(item, "B", patient=False) for item in items[30:])
        while (item := source.first()) is not None:
            source.take(item)
            taken.append(item)
        assert len(taken) == MOST_AHEAD
        queue.began(taken[0].picture.id)
        assert source.first() is not None

    def test_a_shift_ends_when_nobody_asks(self, items: tuple[Planned, ...]) -> None:
        queue = RequestQueue()
        weights = Weights.of(items[0].picture.job)
        assert RequestSource(queue, weights, 60.0)
        assert not RequestSource(queue, weights, -1.0)
        queue.add([QueuedItem(items[0], "A", patient=False)])
        assert RequestSource(queue, weights, -1.0)

    def test_a_shift_ends_when_others_wait_for_other_weights(self, items: tuple[Planned, ...]) -> None:
        """At once where nothing else is to do; after a while where there is."""
        queue, source = self.queue(items, "A")
        other = items[1].picture.job.model_copy(update={"precision": "fp8"})
        item = Planned(
            items[1].picture.model_copy(update={"job": other}), items[1].model, items[1].identity, "f", "to do"
        )
        queue.add([QueuedItem(item, "B", patient=False)])
        assert source.first() is items[0]
        source.take(items[0])
        assert not source
        assert source.first() is None
        assert queue.wait(0.0) == Weights.of(other)
        late = RequestQueue()
        late.add(
            [
                QueuedItem(items[0], "A", patient=False),
                QueuedItem(item, "B", patient=False, since_s=time.monotonic() - 99),
            ]
        )
        assert not RequestSource(late, Weights.of(items[0].picture.job), 60.0)

    @pytest.mark.parametrize(
        ("ours", "theirs", "waited_s", "over"),
        [
            ("a", "B", 1.5, False),  # a batch has the worker, and somebody waits for other weights
            ("a", "B", 3, True),
            ("a", "b", 3, False),
            ("a", "b", 21, True),
            ("A", "B", 3, False),
            ("A", "B", 21, True),
        ],
    )
    def test_how_long_others_wait(
        self,
        items: tuple[Planned, ...],
        ours: str,
        theirs: str,
        waited_s: float,
        over: bool,  # noqa: FBT001
    ) -> None:
        """Less where it is somebody who waits for a batch; and nobody for ever."""
        queue, _ = self.queue(items, ours)
        since_s = time.monotonic() - waited_s
        queue.add([QueuedItem(at_fp8(items[1]), theirs, theirs.islower(), since_s=since_s)])
        assert queue.is_over(Weights.of(items[0].picture.job), 60.0) == over

    def test_who_waits_longest_has_the_next_worker(self, items: tuple[Planned, ...]) -> None:
        """Also where it was in no hurry at first; batches come after all of those."""
        queue, now_s = RequestQueue(), time.monotonic()
        other = at_fp8(items[1])
        queue.add([QueuedItem(items[0], "A", patient=False, since_s=now_s - 5)])
        queue.add([QueuedItem(other, "b", patient=True, since_s=now_s - 10)])
        assert queue.wait(0.0) == Weights.of(items[0].picture.job)
        queue.hurry(other.picture.id)
        assert queue.wait(0.0) == Weights.of(other.picture.job)

    def test_what_a_worker_was_lost_with_waits_again(self, items: tuple[Planned, ...]) -> None:
        """In the order in which it was asked for."""
        queue, source = self.queue(items, "A", "A")
        source.take(items[0])
        source.take(items[1])
        queue.recall()
        assert (len(queue), queue.in_hand) == (2, 0)
        assert self.order(source, items, queue) == [0, 1]


def at_fp8(item: Planned) -> Planned:
    """A picture for which other weights are needed."""
    job = item.picture.job.model_copy(update={"precision": "fp8"})
    return dataclasses.replace(item, picture=item.picture.model_copy(update={"job": job}))


class TestFile:
    def asked(self, items: tuple[Planned, ...], number: int) -> Asked:
        return Asked(number=number, fingerprint=items[number].fingerprint, picture=items[number].picture)

    def test_what_was_accepted_is_read_again(self, items: tuple[Planned, ...], tmp_path: Path) -> None:
        """A line that a killed server began is none; what ended is not asked for; numbers go on."""
        file = QueueFile(tmp_path / "queue.jsonl")
        assert file.read() == WhatIsKnown([])
        file.append([self.asked(items, 1), self.asked(items, 2)])
        file.append([Ended(number=1, how="cancelled"), self.asked(items, 3)])
        with file.path.open("ab") as stream:
            stream.write(b'{"what": "asked", "number": 4, "fing')
        file.append([self.asked(items, 5)])
        again = QueueFile(file.path)
        assert [asked.number for asked in again.read().asked] == [2, 3, 5]
        assert again.last == 5

    def test_a_file_that_is_written_anew_goes_on_counting(self, items: tuple[Planned, ...], tmp_path: Path) -> None:
        file = QueueFile(tmp_path / "queue.jsonl")
        file.append([self.asked(items, number) for number in range(9)])
        file.read()
        file.keep(WhatIsKnown())
        again = QueueFile(file.path)
        assert again.read() == WhatIsKnown([])
        assert again.last == 8


class TestServer:
    def test_what_has_not_begun_can_be_cancelled(self, server: Server) -> None:
        """It is not rendered; asked for again, it is."""
        keys = [server.accept("slow", seed=seed).json()["id"] for seed in range(20)]
        last = keys[-1]
        until(lambda: server.client.get(f"/api/v1/images/{keys[0]}").json()["state"] not in ("waiting", "failed"))
        assert server.client.delete(f"/api/v1/images/{last}").json()["state"] == "cancelled"
        assert server.client.delete(f"/api/v1/images/{last}").status_code == 409
        for key in keys[:-1]:
            server.client.delete(f"/api/v1/images/{key}")
        assert {server.until_done(key)["state"] for key in keys} == {"done", "cancelled"}
        assert not (server.folder / f"{last}.json").exists()
        assert server.generate("slow", seed=19).json()["id"] == last

    def test_too_many_are_refused_with_a_time(self, server: Server) -> None:
        """A queue that is full says when to ask again; what was accepted comes."""
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda seed: server.accept("a slow crowd", seed=seed), range(60)))
        busy = [answer for answer in answers if answer.status_code == 429]
        accepted = [answer.json()["id"] for answer in answers if answer.status_code == 202]
        assert busy
        assert len(busy) + len(accepted) == 60
        assert all(int(answer.headers["Retry-After"]) >= 1 for answer in busy)
        assert busy[0].json()["error"]["code"] == "busy"
        for key in accepted:
            server.client.delete(f"/api/v1/images/{key}")
        assert {server.until_done(key)["state"] for key in accepted} <= {"done", "cancelled"}

    def test_a_picture_that_fails_says_why(self, server: Server) -> None:
        """It is tried again once; asked for again, it is tried anew."""
        for _ in range(2):
            answer = server.generate("fail")
            assert answer.status_code == 500
            assert (answer.json()["error"]["code"], answer.json()["error"]["message"]) == (
                "picture_failed",
                "one flat colour",
            )
        assert server.generate("fail-once").status_code == 200

    def test_one_that_brings_workers_down_costs_no_other(self, server: Server) -> None:
        """It is set aside after three, and then refused at once; the server goes on."""
        with ThreadPoolExecutor(2) as pool:
            bad, good = pool.map(server.generate, ("crash", "beside it"))
        assert (bad.status_code, good.status_code) == (500, 200)
        until(lambda: len(server.workers("lost")) == 3)  # the log comes by another way than answers
        assert "brought down 3 workers" in server.generate("crash").json()["error"]["message"]
        assert len(server.workers("lost")) == 3
        assert server.generate("after it").status_code == 200


def test_nobody_is_idle_while_a_worker_is_on_its_way() -> None:
    """Weights that take longer to open than a server waits idle would never be open; one that is lost is on no way."""
    queue, weights = RequestQueue(), Weights("demo", "bf16")
    assert queue.is_over(weights, -1.0)
    assert not queue.is_over(weights, -1.0, opening=True)
    assert queue.is_over(weights, -1.0)
    assert not queue.is_over(weights, 60.0)


def test_idle_begins_when_the_last_is_there(items: tuple[Planned, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """However long ago it was asked for; and when a worker is open, however long that took."""
    clock = [100.0]
    monkeypatch.setattr(request_queue, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    queue = RequestQueue()
    queue.add([QueuedItem(items[0], "A", patient=False)])
    queue.take(items[0])
    clock[0] = 200.0
    queue.ended(items[0].picture.id)
    found = []
    for clock[0], opening in ((240.0, False), (251.0, False), (300.0, True), (340.0, False), (351.0, False)):
        found.append(queue.is_idle(50.0, opening=opening))
    assert found == [False, True, False, False, True]


def test_one_that_is_cancelled_as_its_turn_comes_is_not_taken(items: tuple[Planned, ...]) -> None:
    """Whoever gives it to a worker looks first, and clients are answered by another thread."""
    queue, weights = RequestQueue(), Weights.of(items[0].picture.job)
    queue.add(QueuedItem(item, "a", patient=False) for item in items[:2])
    source = RequestSource(queue, weights, 60.0)
    turn = source.first()
    assert turn is items[0]
    assert queue.cancel(turn.picture.id)
    assert not source.take(turn)
    assert queue.in_hand == 0
    assert source.first() is items[1]
    assert source.take(items[1])


def test_the_worker_goes_when_nobody_asks(tmp_path: Path) -> None:
    """And comes again when somebody does. `--preload` has it there from the beginning."""
    with serving(tmp_path, "--idle", "0.005", "--preload", fake="") as server:
        for opened in (1, 2):
            until(lambda opened=opened: len(server.workers("open")) >= opened)  # type: ignore[misc]
            until(lambda: server.client.get("/health").json()["worker"] == "none")
            assert server.generate("awake", seed=opened).status_code == 200


def test_a_trouble_is_over_when_it_is_time_to_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a server that is asked only while it is well would never be asked again."""
    condition = shifts.Condition()
    condition.failed("the model does not open")
    assert condition.trouble == "the model does not open"
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 60)
    assert condition.trouble == ""


def test_a_model_that_cannot_run_here_is_refused_at_once(tmp_path: Path) -> None:
    """With the reason and what helps; nothing is accepted, and the server goes on."""
    with serving(tmp_path, "--model", "Qwen/Qwen-Image", "--offline", fake="") as server:
        answer = server.generate("x", width=256, height=256)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "cannot_render")
        assert server.client.get("/health").json()["status"] == "ready"
        assert server.metric("renderer_accepted_total") == 0


def test_a_model_that_does_not_open_is_said_as_that(tmp_path: Path) -> None:
    """To whoever waits, with the reason; to others, as a word: the reason is in the log."""
    with serving(tmp_path, fake="--refuses /secret/file") as server:
        answer = server.generate("x")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "cannot_render")
        told = server.client.get("/health").json()
        assert told["status"] == "failed"
        assert "secret" not in str(told)
        until(lambda: any("/secret/file" in line.get("text", "") for line in server.log))


def test_one_server_a_folder(tmp_path: Path) -> None:
    with serving(tmp_path, fake=""), pytest.raises(AssertionError, match="another run"), serving(tmp_path, fake=""):
        pass


def test_whoever_waits_is_told_when_it_stops(tmp_path: Path) -> None:
    """SIGTERM lets what has begun finish; the rest stays accepted, and those who wait for it are told so."""
    with serving(tmp_path, fake="") as server:
        with ThreadPoolExecutor(6) as pool:
            asked = [pool.submit(server.generate, "slow", seed=seed, num_inference_steps=6) for seed in range(5)]
            until(lambda: server.metric("renderer_accepted_total") == 5 and server.metric("renderer_steps_total") > 0)
            server.process.terminate()
            statuses = [each.result().status_code for each in asked]
        assert set(statuses) == {200, 503}
        assert server.process.wait(30) == 0
    left = [asked.picture.id for asked in QueueFile(OutputFolder(server.folder).queue).read().asked]
    with serving(tmp_path, fake="") as again:
        assert {again.until_done(key)["state"] for key in left} == {"done"}
