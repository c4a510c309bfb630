"""Cards of different speeds side by side: what each is given, and whether a forecast foretells what then happens."""

from __future__ import annotations

from pathlib import Path

import pytest

from renderer.machine import rates
from renderer.planning import fitting
from tests.supervisor import timed
from tests.supervisor.timed import NIGHTS, TimedDevice, TimedNight


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "known", timed.known)


@pytest.mark.parametrize("name", NIGHTS)
def test_a_night_takes_what_is_foretold(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the real pool and dispatcher, to a twentieth; and a card more never makes it longer."""
    night = NIGHTS[name]
    monkeypatch.setattr(fitting, "refusals", night.refusals)
    summary, took_s = night.took(tmp_path)
    assert (summary.rendered, summary.refused) == (summary.pictures, 0)
    assert night.foretold_s() == pytest.approx(took_s, rel=0.05)
    assert took_s <= night.alone_s() * 1.05


class TestShares:
    def test_a_card_that_has_nothing_is_given_what_another_has_not_begun(self, tmp_path: Path) -> None:
        """The other's worker holds all 24 pictures of the large group, and gives back what it has not begun."""
        _, took_s = NIGHTS["two equal cards, a large and a small group"].took(tmp_path)
        assert took_s <= 1.1 * 28 * 10 / 2

    def test_a_slow_card_begins_nothing_that_the_fast_one_has_sooner(self, tmp_path: Path) -> None:
        """Two pictures on cards of 100:1: the slow one renders none."""
        night = TimedNight((TimedDevice(1), TimedDevice(100)), (("bf16", 2, 10),))
        _, took_s = night.took(tmp_path)
        assert took_s == night.foretold_s() == 25

    def test_speeds_are_learnt(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where nobody knows the cards, the first pictures tell: the slow one gives back what it has not begun."""
        monkeypatch.setattr(rates, "known", lambda _: None)
        night = NIGHTS["10:1, 60 pictures"]
        _, took_s = night.took(tmp_path)
        assert took_s <= night.alone_s()
