"""Several workers for one batch: how pictures are dealt, what a bad device costs, and whose each attempt is."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from renderer.cli import notify
from renderer.cli import render as render_door
from renderer.cli.manifests import Loaded
from renderer.errors import MachineError
from renderer.job import Job, Size
from renderer.machine.hardware import Machine
from renderer.manifest.manifest import Manifest
from renderer.outputs.describe import describe_running, describe_status, describe_summary
from renderer.outputs.journal import Journal
from renderer.outputs.status import RunStatus, memory_now
from renderer.planning import deployment, fitting, placement
from renderer.planning.fitting import SizeRefusal
from renderer.planning.plan import make_plan
from renderer.protocol import AnyOrder, Open, Opening, Render, Setup
from renderer.report import gather
from renderer.report.page import write_happened
from renderer.supervisor import events, run
from renderer.supervisor.settings import Settings
from renderer.supervisor.worker import Gone, Heard
from tests.fakes import Behaviour, DyingWorker, InlineWorker
from tests.making import make_job, make_manifest
from tests.supervisor.running import Night, counts

TWO, FOUR = "cpu,cpu", "cpu,cpu,cpu,cpu"


class Workers:
    """Hires workers in this process, a kind for each device, and remembers what each was given, by its log's name."""

    def __init__(self, *kinds: type[InlineWorker], capacity: int = 1, opened_in_s: float = 0.0) -> None:
        self._kinds = dict(zip(("worker.log", "worker-2.log", "worker-3.log", "worker-4.log"), kinds, strict=False))
        self._capacity, self._opened_in_s = capacity, opened_in_s
        self.given: dict[str, list[str]] = {}
        self.opened: dict[str, list[Setup]] = {}

    def __call__(self, log: Path) -> InlineWorker:
        found = self._kinds.get(log.name, InlineWorker)(log, Behaviour(self._opened_in_s, self._capacity))
        send, name = found.send, log.name

        def noted(order: AnyOrder, payload: bytes = b"") -> None:
            if isinstance(order, Render):
                self.given.setdefault(name, []).append(order.key)
            elif isinstance(order, Open):
                self.opened.setdefault(name, []).append(order.setup)
            send(order, payload)

        found.send = noted  # type: ignore[method-assign]
        return found


class Broken(InlineWorker):
    """A worker of a card that fails: it opens, takes a picture, begins it and dies."""

    def hear(self, timeout_s: float) -> Heard | None:
        if any(isinstance(order, Render) for order in self._orders):
            return Gone(-9), b""
        return super().hear(timeout_s)


class Spoilt(InlineWorker):
    """A worker that some pictures bring down, wherever it is."""

    def hear(self, timeout_s: float) -> Heard | None:
        if any(isinstance(order, Render) and order.job.prompt.startswith("bad") for order in self._orders):
            return Gone(-9), b""
        return super().hear(timeout_s)


class Refuses(InlineWorker):
    """A worker that says why it cannot open anything."""

    def __init__(self, log: Path, _: Behaviour | None = None) -> None:
        super().__init__(log, Behaviour(refuses="no room for two blocks"))


class WithoutAPlace(InlineWorker):
    """A worker for whom a cluster has no device yet, and never will."""

    def hear(self, _timeout_s: float) -> Heard | None:
        return Opening(what="nothing yet", placed=False), b""


def mixed(*kinds: tuple[str, int]) -> Manifest:
    """A manifest with so many pictures at each precision."""
    manifest = make_manifest([f"{number}" for number in range(sum(count for _, count in kinds))])
    precisions = [precision for precision, count in kinds for _ in range(count)]
    pictures = tuple(
        picture.model_copy(update={"job": picture.job.model_copy(update={"precision": precision})})
        for picture, precision in zip(manifest.pictures, precisions, strict=True)
    )
    return dataclasses.replace(manifest, pictures=pictures)


class TestDealing:
    def test_groups_are_opened_once_each_where_there_are_enough(self, night: Night) -> None:
        """Two models and two workers: each has one, and opens nothing else while the other is busy with its own."""
        hire = Workers()
        summary = night.render(mixed(("bf16", 8), ("fp8", 8)), gpus=TWO, hire=hire)
        assert counts(summary) == (16, 0, 0, 0)
        first = [setups[0].precision for setups in hire.opened.values()]
        assert sorted(first) == ["bf16", "fp8"]

    def test_a_small_group_has_a_seat_before_a_large_one_has_two(self, night: Night) -> None:
        """So it is opened once, however much more there is of the other."""
        hire = Workers()
        night.render(mixed(("bf16", 12), ("fp8", 2)), gpus=TWO, hire=hire)
        assert sorted(setups[0].precision for setups in hire.opened.values()) == ["bf16", "fp8"]

    def test_one_large_group_is_shared(self, night: Night) -> None:
        """All workers open it, and none has more than a part of what waits, however much it would take."""
        hire = Workers(capacity=32)
        night.render(make_manifest([f"{number}" for number in range(16)]), gpus=FOUR, hire=hire)
        assert sorted(map(len, hire.given.values())) == [4, 4, 4, 4]

    def test_a_share_is_work_and_not_a_number(self, night: Night) -> None:
        """Whoever opens first takes no more than half of the work, however little the others hold yet."""
        manifest = make_manifest([f"{number}" for number in range(12)])
        pictures = tuple(
            picture.model_copy(update={"job": picture.job.model_copy(update={"num_inference_steps": steps})})
            for picture, steps in zip(manifest.pictures, [20] * 4 + [2] * 8, strict=True)
        )
        hire = Workers(capacity=32)
        night.render(dataclasses.replace(manifest, pictures=pictures), gpus=TWO, hire=hire)
        large = {f"p{number:03}" for number in range(4)}
        assert [len(large & set(keys)) for keys in hire.given.values()] == [2, 2]

    def test_who_waits_for_a_place_has_no_share(self, night: Night) -> None:
        """A cluster may grow to many workers: the one that is there holds as many pictures as it takes, not a part."""
        hire = Workers(InlineWorker, *[WithoutAPlace] * 3, capacity=8)
        given = []

        def watch(what: events.Event) -> None:
            night.heard.append(what)
            if isinstance(what, events.PictureStepped) and not night.of(events.PictureDone):
                given.append(len(hire.given["worker.log"]))

        settings = Settings(outputs=night.settings.outputs, gpus=FOUR, hire=hire)
        (summary,) = run.render([make_manifest([f"{number}" for number in range(24)])], settings, watch, night.stop)
        assert counts(summary) == (24, 0, 0, 0)
        assert given[0] == 8

    def test_the_longest_come_first(self, night: Night) -> None:
        """So the last ones are small, and all workers end at about the same time; one worker keeps the order."""
        steps = [2, 9, 4, 12, 3]
        manifest = make_manifest(tuple("abcde"))
        pictures = tuple(
            picture.model_copy(update={"job": make_job(picture.job.prompt, seed=number, steps=steps[number])})
            for number, picture in enumerate(manifest.pictures)
        )
        manifest = dataclasses.replace(manifest, pictures=pictures)
        hire = Workers()
        night.render(manifest, gpus=TWO, hire=hire)
        began = night.began()
        assert [steps[int(key[1:])] for key in began[:2]] == [12, 9]
        assert steps[int(began[-1][1:])] == 2
        night.render(manifest, force=True)
        assert night.began() == ["p000", "p001", "p002", "p003", "p004"]

    def test_a_single_picture_opens_one_worker(self, night: Night) -> None:
        hire = Workers()
        night.render(make_manifest(("a",)), gpus=FOUR, hire=hire)
        assert len(hire.opened) == 1

    def test_each_has_its_log_and_its_part(self, night: Night) -> None:
        """Of the host's memory and of the pictures that it opens for."""
        hire = Workers()
        night.render(make_manifest(tuple("abcd")), gpus=TWO, hire=hire)
        assert set(hire.opened) == {"worker.log", "worker-2.log"}
        for (setup,) in hire.opened.values():
            assert (setup.gpu, [demand.pictures for demand in setup.demands]) == ("", [2])
            assert setup.ram_bytes is not None

    def test_what_fits_on_one_device_goes_there(self, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
        """Cards may differ: a picture that is too large for one is rendered on the other, and refused by neither."""
        second_is_small(monkeypatch)
        hire = Workers()
        summary = night.render(make_manifest(("large", "b", "large c", "d")), gpus=TWO, hire=hire)
        assert counts(summary) == (4, 0, 0, 0)
        assert {"p000", "p002"} <= set(hire.given["worker.log"])
        assert hire.given["worker-2.log"]


def second_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have two devices of which the second is too small for large pictures."""
    monkeypatch.setattr(fitting, "refusals", _refusals)
    place = placement.setup_for
    made: list[Setup] = []

    def setup_for(*terms: Any) -> Setup:
        made.append(place(*terms))
        return made[-1].model_copy(update={"profile": "cpu"}) if len(made) == 2 else made[-1]

    monkeypatch.setattr(placement, "setup_for", setup_for)
    monkeypatch.setattr(deployment, "kind_of", lambda _: object())  # no two devices are alike here


def _refusals(jobs: Sequence[Job], setup: Setup, _machine: Machine) -> dict[Job, SizeRefusal]:
    """Large ones do not fit on the second of two devices."""
    size = Size(width=64, height=64)
    large = [job for job in jobs if job.prompt.startswith("large")]
    return {job: SizeRefusal(size, 2, 1, None) for job in large if setup.profile == "cpu"}


class TestABadDevice:
    def test_it_is_left_out_and_its_pictures_go_on_elsewhere(self, night: Night) -> None:
        """Three workers in a row with other pictures each: then no more. The pictures have one crash, and are done."""
        hire = Workers(InlineWorker, Broken)
        summary = night.render(make_manifest([f"{number}" for number in range(12)]), gpus=TWO, hire=hire)
        assert counts(summary) == (12, 0, 0, 0)
        assert len(night.of(events.WorkerLost)) == 3
        (remark,) = [what.text for what in night.of(events.Remark)]
        assert remark == (
            "CPU 2 is left out: 3 workers in a row were lost there (the worker was ended by SIGKILL), and nothing is "
            "tried on it for 10 min 00 s"
        )

    def test_who_looks_is_told(self, night: Night) -> None:
        """By the status while it is on; in the morning by summary, message and page. All is there, and the code 0."""
        stands: list[RunStatus] = []

        def watch(what: events.Event) -> None:
            night.heard.append(what)
            if isinstance(what, events.Tick) and what.status is not None:
                stands.append(what.status)

        class Slow(InlineWorker):
            """A worker that lets the loop come by."""

            def hear(self, timeout_s: float) -> Heard | None:
                time.sleep(0.005)
                return super().hear(timeout_s)

        manifest = make_manifest([f"{number}" for number in range(24)])
        settings = Settings(outputs=night.settings.outputs, gpus=TWO, hire=Workers(Slow, Broken))
        (summary,) = run.render([manifest], settings, watch, night.stop)
        assert (summary.is_all_there, render_door.exit_code([summary], Loaded((manifest,)))) == (True, 0)
        first, second = summary.devices
        assert (first.where, first.rendered, first.left_out) == ("CPU 1", 24, "")
        assert (second.where, second.rendered) == ("CPU 2", 0)
        assert second.left_out.startswith("3 workers in a row were lost there")
        assert "  CPU 2: 0 rendered; it was left out: 3 workers in a row" in "\n".join(describe_summary(summary))
        message = notify._at_the_end([summary], [], None)
        assert (message.title, message.good) == ("renderer: 24 rendered, 0 failed, CPU 2 left out", False)
        last = stands[-1]
        assert [worker.state for worker in last.workers] == ["open", "left out"]
        assert "CPU 2 left out" in describe_status(last)
        told = " ".join(" ".join(describe_running(last, memory_now(last), last.at)).split())
        assert (
            "CPU 2: left out (3 workers in a row were lost there (the worker was ended by SIGKILL), and nothing" in told
        )
        page = gather.gather(make_plan(manifest, night.settings.outputs))
        assert [(row.name, row.pictures, bool(row.trouble)) for row in page.devices] == [
            ("CPU 1", 24, False), ("CPU 2", 0, True),
        ]  # fmt: skip
        assert "left out in the last run: 3 workers in a row" in write_happened(page)

    def test_what_fits_only_there_is_refused(self, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody waits for a card that is left out: its own pictures are refused, and the run is through."""
        second_is_small(monkeypatch)
        manifest = make_manifest((*(f"large {number}" for number in range(4)), "b", "c"))
        summary = night.render(manifest, gpus=TWO, hire=Workers(Broken, InlineWorker))
        assert (summary.ending, summary.rendered, summary.refused) == ("complete", 2, 4)
        assert {each.message for each in summary.failures} == {"the devices on which it fits were left out"}

    def test_one_that_does_not_open_is_left_out(self, night: Night) -> None:
        """By what it says, and after three deaths; all is rendered by the other."""
        for kind in (Refuses, Dies):
            hire = Workers(kind, InlineWorker)
            summary = night.render(make_manifest([f"{kind} {number}" for number in range(4)]), gpus=TWO, hire=hire)
            assert counts(summary) == (4, 0, 0, 0)
            assert any(what.text.startswith("CPU 1 is left out: demo") for what in night.of(events.Remark))

    def test_a_model_that_does_not_open_costs_no_device(self, night: Night) -> None:
        """Workers that die while they open it say nothing of their devices, which have the next model's pictures."""
        manifest = mixed(("fp8", 12), ("bf16", 8))
        hire = Workers(*[DiesOfFp8] * 4)
        summary = night.render(manifest, gpus=FOUR, hire=hire)
        assert (summary.rendered, summary.refused) == (8, 12)
        assert not [what.text for what in night.of(events.Remark) if "nothing is tried on it" in what.text]

    def test_where_none_opens_the_pictures_fail_with_the_reason(self, night: Night) -> None:
        """As one worker's do."""
        with pytest.raises(MachineError, match="no room for two blocks"):
            night.render(make_manifest(tuple("abc")), gpus=TWO, hire=Workers(Refuses, Refuses))
        assert [what.message for what in night.of(events.PictureFailed)] == ["no room for two blocks"] * 3

    def test_the_last_one_is_never_left_out(self, night: Night) -> None:
        """Where all lose workers, each picture is set aside after its three, as with one."""
        manifest = make_manifest(tuple("abcdefgh"))
        summary = night.render(manifest, gpus=TWO, hire=Workers(Broken, Broken), max_failures=100)
        assert (summary.set_aside, summary.refused, summary.left) == (8, 0, 0)
        assert len(night.of(events.DeviceLeft)) == 1

    def test_pictures_that_bring_down_every_worker_cost_no_device(self, night: Night) -> None:
        """Only the first worker that a picture brings down may have been its device's doing."""
        manifest = make_manifest(("bad 1", "bad 2", "bad 3", *(f"{number}" for number in range(6))))
        summary = night.render(manifest, gpus=TWO, hire=Workers(Spoilt, Spoilt), max_failures=100)
        assert (summary.set_aside, summary.rendered) == (3, 6)
        assert not night.of(events.DeviceLeft)

    @pytest.mark.timeout(20)
    def test_a_single_picture_that_crashes_is_tried_elsewhere(self, night: Night) -> None:
        """Nobody else was needed for it before, and none would be worth its opening; it is done all the same."""
        hire = Workers(Broken, InlineWorker, opened_in_s=1000.0)
        summary = night.render(make_manifest(("a",)), gpus=TWO, hire=hire)
        assert counts(summary) == (1, 0, 0, 0)
        assert hire.given == {"worker.log": ["p000"], "worker-2.log": ["p000"]}

    def test_a_picture_that_crashes_is_tried_elsewhere(self, night: Night) -> None:
        """Its crashes are its own, and no device is blamed for them."""
        manifest = make_manifest([f"{number}" for number in range(6)])
        hire = Workers(Broken, InlineWorker)
        night.render(manifest, gpus=TWO, hire=hire)
        records = Journal.read(night.folder(manifest)).records
        assert not records, "all are done, and nothing is held against them"
        assert not set(hire.given["worker.log"]) - set(hire.given["worker-2.log"])


class Dies(DyingWorker):
    """A worker that dies before it opens, whatever its behaviour."""

    def __init__(self, log: Path, _: Behaviour | None = None) -> None:
        super().__init__(log)


class DiesOfFp8(InlineWorker):
    """A worker that dies while it opens one of two models."""

    def hear(self, timeout_s: float) -> Heard | None:
        if any(isinstance(order, Open) and order.setup.precision == "fp8" for order in self._orders):
            return Gone(-9), b""
        return super().hear(timeout_s)
