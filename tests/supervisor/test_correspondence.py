"""The ways to a worker and back: what waits to be passed on is known, in bytes."""

from __future__ import annotations

from pathlib import Path

from renderer.protocol import AnyOrder, Withdraw
from renderer.supervisor.correspondence import Correspondence


class Passing(Correspondence):
    """Passes orders on, but for those whose files are refused on the way."""

    def pass_on(self) -> list[AnyOrder]:
        found = []
        for order, payload in self._each_order():
            if payload == b"refused":
                continue
            found.append(order)
        return found


def test_an_order_that_is_refused_on_its_way_waits_no_more(tmp_path: Path) -> None:
    """Its bytes would keep the worker full for good."""
    worker = Passing(tmp_path / "worker.log")
    for payload in (b"sent", b"refused", b""):
        worker.send(Withdraw(), payload)
    assert worker.unsent_bytes == 11
    worker._no_more_orders()
    assert worker.pass_on() == [Withdraw(), Withdraw()]
    assert worker.unsent_bytes == 0
