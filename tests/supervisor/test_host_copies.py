"""Which shared memories a pool has: one for all workers of the same weights, as long as any of them has them open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from renderer.estimate import host
from renderer.protocol import AnyOrder, Open, Setup
from renderer.supervisor.host_copies import HostCopies
from renderer.supervisor.pool import WorkerPool
from renderer.system import shared_memory
from renderer.text import GIB
from tests.fakes import InlineWorker


def setup(model: str = "Qwen/Qwen-Image", **changes: object) -> Setup:
    told = Setup(model=model, precision="fp8", profile="stream", store="/store", ram_bytes=20 * GIB)
    return told.model_copy(update=changes)


def test_one_memory_for_all_that_open_the_same_weights() -> None:
    """What is different about the devices counts for nothing; room is what all have, but for a margin each."""
    copies = HostCopies(3)
    first, second = copies.shared(setup(gpu="a")), copies.shared(setup(gpu="b", vram_bytes=3))
    assert first.host_copy is not None
    assert first.host_copy == second.host_copy
    assert first.host_copy.ram_bytes == 3 * 20 * GIB - 2 * host.MARGIN_BYTES
    copies.keep(())


def test_what_is_open_beside_it_leaves_less_room() -> None:
    """Two models at once have the memory together, not each."""
    copies = HostCopies(3)
    alone, beside = copies.shared(setup()), copies.shared(setup(store="/other"))
    assert alone.host_copy is not None
    assert beside.host_copy is not None
    assert alone.host_copy.at != beside.host_copy.at
    assert 12 * GIB < alone.host_copy.ram_bytes - beside.host_copy.ram_bytes < 14 * GIB
    copies.keep(())


def test_who_shares_nothing_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker, another profile, a worker that does not know its part, and a system that has no such memory."""
    assert HostCopies(1).shared(setup()).host_copy is None
    assert HostCopies(2).shared(setup(profile="fp8")).host_copy is None
    assert HostCopies(2).shared(setup(ram_bytes=None)).host_copy is None
    monkeypatch.setattr(shared_memory, "is_possible", lambda: False)
    assert HostCopies(2).shared(setup()).host_copy is None


def test_it_lives_as_long_as_a_worker_has_it_open() -> None:
    """A worker that is lost leaves it to the others; the last one takes it along."""
    opened: list[Setup] = []

    class Noting(InlineWorker):
        def send(self, order: AnyOrder, payload: bytes = b"") -> None:
            if isinstance(order, Open):
                opened.append(order.setup)
            super().send(order, payload)

    with WorkerPool(Noting, lambda _: None, ("CPU 1", "CPU 2")) as pool:
        for seat in pool.seats:
            seat.prepare(setup(), Path(os.devnull))
        assert opened[0].host_copy is not None
        at = opened[0].host_copy.at
        assert opened[1].host_copy == opened[0].host_copy
        pool.seats[0].dismiss(at_once=True)
        assert "renderer-blocks" in str(Path(at).readlink())
        pool.seats[0].prepare(setup(), Path(os.devnull))
        assert opened[2].host_copy == opened[0].host_copy
        for seat in pool.seats:
            seat.dismiss(at_once=True)
        assert not os.path.lexists(at)
