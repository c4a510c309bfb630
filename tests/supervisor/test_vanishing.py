"""Machines that vanish: what is held against the pictures that were being rendered there."""

from __future__ import annotations

import pytest

from renderer import protocol
from renderer.supervisor import events
from renderer.supervisor.vanishing import MOST_VANISHED
from renderer.supervisor.worker import Gone, Heard
from tests.fakes import InlineWorker
from tests.making import make_manifest
from tests.supervisor.running import Night, counts


@pytest.mark.parametrize("times", [1, 4])
def test_it_costs_nothing(night: Night, times: int) -> None:
    """All is rendered, each once; nothing is in the journal against anybody, and no try is counted."""

    class Sometimes(InlineWorker):
        left = times

        def hear(self, timeout_s: float) -> Heard | None:
            heard = super().hear(timeout_s)
            if heard is not None and isinstance(heard[0], protocol.Stepped) and Sometimes.left > 0:
                Sometimes.left -= 1
                return Gone(-9, vanished="spot-1 left the cluster"), b""
            return heard

    manifest = make_manifest()
    assert counts(night.render(manifest, hire=Sometimes, retries=0)) == (3, 0, 0, 0)
    assert len(night.of(events.PictureDone)) == 3
    assert len([what for what in night.of(events.Remark) if "spot-1 left the cluster" in what.text]) == times
    assert night.of(events.WorkerLost) == []
    assert '"crashed"' not in night.folder(manifest).journal.read_text()


def test_a_picture_that_was_there_each_time_is_the_cause(night: Night) -> None:
    """After so many machines it counts as a crash, and after three of those the others go on without it."""

    class Fatal(InlineWorker):
        def hear(self, timeout_s: float) -> Heard | None:
            heard = super().hear(timeout_s)
            if heard is not None and isinstance(heard[0], protocol.Stepped) and "p001" in heard[0].key:
                return Gone(-9, vanished="spot-1 left the cluster"), b""
            return heard

    assert counts(night.render(make_manifest(), hire=Fatal)) == (2, 0, 1, 0)
    remarks = [what for what in night.of(events.Remark) if "left the cluster" in what.text]
    assert len(remarks) == MOST_VANISHED - 1
    assert len(night.of(events.WorkerLost)) == 3
