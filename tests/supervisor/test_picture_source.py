"""Where pictures come from: a plan, in its order; or, in a test, one that comes while nobody is busy."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from renderer.dealing.parties import Fits
from renderer.job import Weights
from renderer.machine import devices, hardware
from renderer.planning.deployment import deploy
from renderer.planning.pace import Pace
from renderer.planning.plan import Planned, make_plan
from renderer.supervisor import events
from renderer.supervisor.dispatcher import Dispatcher
from renderer.supervisor.groups import Group
from renderer.supervisor.heartbeat import Heartbeat
from renderer.supervisor.night import Night
from renderer.supervisor.outcomes import Outcomes
from renderer.supervisor.picture_source import PlanSource
from renderer.supervisor.pool import WorkerPool
from renderer.supervisor.settings import Settings, StopRequests
from renderer.supervisor.together import Together
from tests.fakes import InlineWorker
from tests.making import make_manifest, make_picture


def test_a_hundred_thousand_may_wait(tmp_path: Path) -> None:
    """Whether one fits is asked once a kind; turns are kept, and what comes back stands before the others."""
    (item,) = make_plan(make_manifest(("a",)), tmp_path).items
    kinds = [
        dataclasses.replace(item, picture=make_picture(0, "word " * (1 + number), steps=2 + number % 3))
        for number in range(6)
    ]
    items = [dataclasses.replace(kinds[number % 6]) for number in range(100_000)]
    waiting = PlanSource(items)
    asked: list[Planned] = []

    def fits(one: Planned) -> bool:
        asked.append(one)
        return one.picture.job.num_inference_steps == 4

    assert waiting.first() is items[0]
    assert waiting.first(fits) is items[2]
    assert len(asked) == 6
    waiting.take(items[2])
    assert waiting.first(fits) is items[5]
    waiting.put_back(items[2])
    assert waiting.first() is items[2]
    waiting.take(items[2])
    waiting.try_again([items[2]])
    assert not waiting.next_round()
    assert waiting.give_up()[-1] is items[2]
    assert not waiting


class LateSource:
    """A queue: the next picture comes some seconds after the last was asked for, and then it is closed."""

    def __init__(self, items: Iterable[Planned], every_s: float) -> None:
        self._items = deque(items)
        self._every_s = every_s
        self._comes_s = time.monotonic()

    def __bool__(self) -> bool:
        return bool(self._items)

    def first(self, fits: Fits[Planned] | None = None) -> Planned | None:
        there = bool(self._items) and time.monotonic() >= self._comes_s
        return self._items[0] if there and (fits is None or fits(self._items[0])) else None

    def take(self, item: Planned) -> bool:
        assert self._items.popleft() is item
        self._comes_s = time.monotonic() + self._every_s
        return True

    @property
    def waiting(self) -> int:
        return len(self._items)

    @property
    def waiting_work(self) -> float:
        return float(self.waiting)

    def put_back(self, item: Planned) -> None:
        self._items.appendleft(item)

    def try_again(self, items: Iterable[Planned]) -> None:
        self._items += items

    def join(self, items: Iterable[Planned]) -> None:
        self._items += items

    def next_round(self) -> bool:
        return False

    def give_up(self) -> list[Planned]:
        left = list(self._items)
        self._items.clear()
        return left


def test_a_worker_waits_for_what_comes_later(tmp_path: Path) -> None:
    """Where nothing waits at this moment the run is not over, and a worker that has nothing to do is not stuck."""
    plan = make_plan(make_manifest(("a", "b")), tmp_path)
    heard: list[events.Event] = []
    settings = Settings(tmp_path, hire=InlineWorker, stuck_after_s=0.3)
    job = plan.items[0].picture.job
    deployment = deploy([job], devices.choose(None, hardware.look()))
    with WorkerPool(InlineWorker, heard.append) as pool:
        night = Night(settings, {Weights.of(job): deployment}, {}, {}, None, pool, heard.append, StopRequests())
        outcomes = Outcomes(plan, night.row, night.watch)
        heart = Heartbeat(plan.folder, outcomes.progress, night.watch)
        source = LateSource(plan.items, every_s=1.0)
        with outcomes.bringing:
            outcomes.begin(plan.items)
            group = Group(source, deployment)
            together = Together(night.row, night.watch, outcomes.beside, outcomes)
            dispatcher = Dispatcher([group], together, night, Pace(), heart, lambda _, __: None)
            ending = dispatcher.run()
    assert ending == "complete"
    assert sum(isinstance(what, events.PictureDone) for what in heard) == 2
    assert not any(isinstance(what, events.WorkerLost) for what in heard)
