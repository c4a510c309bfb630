"""A device that fails in the night: what becomes of its pictures, and that it may come back."""

from __future__ import annotations

from pathlib import Path

import pytest

from renderer.protocol import Failed, Render, Started
from renderer.supervisor import events, holdings
from renderer.supervisor.worker import Gone, Heard
from tests.fakes import Behaviour, InlineWorker
from tests.making import make_manifest
from tests.supervisor.running import Night, counts
from tests.supervisor.test_several import TWO, Broken, Workers


class LosesItsDevice(InlineWorker):
    """A worker whose card falls off the bus: it says so of the picture that it has begun, and ends."""

    def hear(self, timeout_s: float) -> Heard | None:
        key = next((order.key for order in self._orders if isinstance(order, Render)), None)
        if key is None:
            return super().hear(timeout_s)
        if not self._heard:
            message = "the device is lost: CUDA error: unspecified launch failure"
            failed = Failed(key=key, kind="DeviceLostError", message=message)
            self._heard.extend([(Started(key=key), b""), (failed, b""), (Gone(70), b"")])
        return self._heard.popleft()


class TestACardFallsOff:
    def test_a_card_that_falls_off_fails_no_picture(self, night: Night) -> None:
        """What its workers say when they end is the card's: each picture is done elsewhere, without a try to spare."""
        hire = Workers(InlineWorker, LosesItsDevice)
        manifest = make_manifest([f"{number}" for number in range(24)])
        summary = night.render(manifest, gpus=TWO, hire=hire, retries=0)
        assert counts(summary) == (24, 0, 0, 0)
        (left,) = night.of(events.DeviceLeft)
        assert "3 workers in a row were lost there (the device is lost: CUDA error: unspecified launch" in left.text
        assert len(hire.given["worker-2.log"]) == len(set(hire.given["worker-2.log"])) == 3


class TestACardComesBack:
    def test_one_that_was_left_out_is_tried_again(self, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
        """It lost three workers; when its pause is over it has another, and renders with the others."""
        monkeypatch.setattr(holdings, "OUT_S", 0.0)
        hired = [0]

        class BrokenAtFirst(Broken):
            def __init__(self, log: Path, behaviour: Behaviour | None = None) -> None:
                super().__init__(log, behaviour)
                hired[0] += 1
                self._number = hired[0]

            def hear(self, timeout_s: float) -> Heard | None:
                return super().hear(timeout_s) if self._number <= 3 else InlineWorker.hear(self, timeout_s)

        hire = Workers(BrokenAtFirst)
        summary = night.render(make_manifest([f"{number}" for number in range(24)]), gpus=TWO, hire=hire)
        assert counts(summary) == (24, 0, 0, 0)
        assert hired[0] == 4
        assert "nothing is tried on it for" in night.of(events.DeviceLeft)[0].text

    def test_each_time_it_is_left_out_for_longer(self) -> None:
        """Until a picture comes from it; one more loss is enough meanwhile."""
        health = holdings.DeviceHealth()
        health.losses = 3
        assert [health.leave_out() for _ in range(5)] == [600, 1200, 2400, 3600, 3600]
        assert health.is_out
        health.losses = 3
        health.leave_out()
        assert health.losses == 2, "a picture that is to blame for the next loss costs the device nothing"
        health.brought()
        assert health.leave_out() == 600
