"""What is begun before a deadline: that nothing fits is not asked again before something else waits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from renderer.planning.plan import Planned, make_plan
from renderer.supervisor.groups import Group
from renderer.supervisor.picture_source import PlanSource
from renderer.supervisor.timely import Timely
from tests.making import make_manifest, make_picture


@dataclasses.dataclass(eq=False)
class GroupLike:
    """A group, as far as it is asked here."""

    source: PlanSource
    profile: str = "cpu"


class Asked:
    """A hundred seconds before a deadline: a source, and how often its pictures are held against what is left.

    A picture takes as many seconds as it has steps.
    """

    def __init__(self, outputs: Path) -> None:
        (self._like,) = make_plan(make_manifest(("a",)), outputs).items
        self.count = 0
        self.source = PlanSource([self.item(300), self.item(400)])
        self.group = cast("Group", GroupLike(self.source))
        settings = SimpleNamespace(left_s=100.0)
        night = cast("Any", SimpleNamespace(settings=settings, pool=SimpleNamespace(flights=[])))
        self.slowness = 1.0
        deal = cast(
            "Any",
            SimpleNamespace(
                first=lambda group, _seat, fits: group.source.first(fits), slowness=lambda _group, _seat: self.slowness
            ),
        )
        outcomes = cast("Any", SimpleNamespace(writing=[], rendered=0))
        self._timely = Timely(deal, night, cast("Any", self), outcomes)

    def item(self, seconds: int) -> Planned:
        """One that takes so long."""
        return dataclasses.replace(self._like, picture=make_picture(seconds, steps=seconds))

    def expect_s(self, item: Planned, _profile: str) -> float:
        self.count += 1
        return item.picture.job.num_inference_steps

    def first(self) -> Planned | None:
        return self._timely.first(self.group, cast("Any", SimpleNamespace(number=0, flights=[])))


def test_a_slow_card_counts_with_its_own_time(tmp_path: Path) -> None:
    """What takes the others 60 s takes it 120: with 100 left, it begins that no more, and they do."""
    asked = Asked(tmp_path)
    asked.source.join([asked.item(60)])
    asked.slowness = 2.0
    assert asked.first() is None
    asked.slowness = 1.0
    asked.source.join([asked.item(500)])  # else it is not asked again
    found = asked.first()
    assert found is not None
    assert found.picture.job.num_inference_steps == 60


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(tmp_path)


def test_that_nothing_fits_is_asked_once(asked: Asked) -> None:
    assert asked.first() is asked.first() is None
    assert asked.count == 2


def test_what_joins_or_comes_back_is_seen(asked: Asked) -> None:
    """Another take of a picture; one that a worker gives back; one that failed, when its next turn comes."""
    quick = asked.item(50)
    assert asked.first() is None
    asked.source.join([quick])
    assert asked.first() is quick
    asked.source.take(quick)
    assert asked.first() is None
    asked.source.put_back(quick)
    assert asked.first() is quick
    for item in list(asked.source):
        asked.source.take(item)
    assert asked.first() is None
    asked.source.try_again([quick])
    assert asked.first() is None
    assert asked.source.next_round()
    assert asked.first() is quick
