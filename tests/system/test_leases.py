"""Leases without locks: one holder at a time, whatever dies, sleeps or has another clock."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from renderer.errors import DiskError, LeaseLostError
from renderer.system.leases import Lease, Leases


class Clock:
    """A clock that goes on when it is told."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def claimed(leases: Leases, name: str) -> Lease:
    """A lease that is there to be had."""
    lease = leases.claim(name)
    assert lease is not None
    return lease


def aged(folder: Path, name: str, seconds: float) -> None:
    """Have a lease renewed so long ago, by the clock of the file system."""
    (newest,) = sorted(folder.glob(f"{name}.*"))[-1:]
    then = newest.stat().st_mtime - seconds
    os.utime(newest, (then, then))


def test_one_has_it_and_then_the_next(tmp_path: Path) -> None:
    """While it is held nobody else has it; released, or of another name, it is there to be had."""
    one, other = Leases(tmp_path), Leases(tmp_path)
    lease = one.claim("a")
    assert lease is not None
    assert lease.holds()
    assert other.claim("a") is None
    assert str(os.getpid()) in other.holder("a")
    there = claimed(other, "b")
    lease.release()
    assert not lease.holds()
    assert other.holder("a") == ""
    again = claimed(other, "a")
    assert not lease.holds()
    assert len(list(tmp_path.glob("a.*"))) == 1, "what is past is cleared away"
    for each in (there, again):
        each.release()


def test_of_many_at_once_one_has_it(tmp_path: Path) -> None:
    """Time and again, from many threads with eyes of their own."""
    for turn in range(10):
        found: list[Lease] = []
        start = threading.Barrier(8)

        def claim(start: threading.Barrier = start, found: list[Lease] = found) -> None:
            leases = Leases(tmp_path)
            start.wait()
            if (lease := leases.claim("a")) is not None:
                found.append(lease)

        threads = [threading.Thread(target=claim) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 1, turn
        found[0].release()


DIES = """
import os, signal, sys
from pathlib import Path
from renderer.system.leases import Leases
assert Leases(Path(sys.argv[1])).claim("a") is not None
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_dead_process_had_is_taken_when_nobody_renews_it(tmp_path: Path) -> None:
    """`kill -9` releases nothing: it has to be old by the server's clock, and unchanged while one looks on."""
    assert subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], check=False).returncode == -signal.SIGKILL
    clock = Clock()
    leases = Leases(tmp_path, 60.0, clock)
    assert leases.claim("a") is None
    aged(tmp_path, "a", 61)
    assert leases.claim("a") is None
    clock.now_s += 19
    assert leases.claim("a") is None
    clock.now_s += 2
    lease = claimed(leases, "a")
    lease.release()


def test_a_holder_whose_machine_is_a_day_behind_keeps_it(tmp_path: Path) -> None:
    """Some file systems write a machine's own time: what is renewed is somebody's, however old it looks."""
    clock = Clock()
    one, other = Leases(tmp_path, 60.0, clock), Leases(tmp_path, 60.0, clock)
    lease = claimed(one, "a")
    for _ in range(4):
        aged(tmp_path, "a", 86400)
        assert other.claim("a") is None
        clock.now_s += 31
        assert lease.holds()
    lease.release()


def test_one_that_is_replaced_while_it_is_read_is_somebodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS says ESTALE then: the holder has renewed it a moment ago. That ends nobody's night."""
    lease = claimed(Leases(tmp_path), "a")

    def stale(_: Path) -> bytes:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with monkeypatch.context() as broken:
        broken.setattr(Path, "read_bytes", stale)
        assert Leases(tmp_path).claim("a") is None
        assert Leases(tmp_path).taken({"a", "b"}) == {"a"}
    lease.release()


@pytest.mark.parametrize("skew_s", [-7200.0, 7200.0])
def test_clocks_of_machines_count_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skew_s: float) -> None:
    """A machine two hours off takes nothing that is held, and has what is dead as soon as the others."""
    held = Leases(tmp_path).claim("held")
    assert held is not None
    assert subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], check=False).returncode == -signal.SIGKILL
    aged(tmp_path, "a", 61)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + skew_s)
    clock = Clock()
    off = Leases(tmp_path, 60.0, clock)
    assert off.claim("held") is off.claim("a") is None
    clock.now_s += 30
    assert off.claim("held") is None
    lease = claimed(off, "a")
    for each in (held, lease):
        each.release()


def test_a_server_whose_clock_jumps_takes_nothing_from_anybody(tmp_path: Path) -> None:
    """All leases look old at once; one that is renewed meanwhile is left alone."""
    clock = Clock()
    one, other = Leases(tmp_path, 60.0, clock), Leases(tmp_path, 60.0, clock)
    lease = one.claim("a")
    assert lease is not None
    aged(tmp_path, "a", 300)
    assert other.claim("a") is None
    clock.now_s += 40
    assert lease.holds()
    assert other.claim("a") is None
    aged(tmp_path, "a", 300)
    assert other.claim("a") is None
    clock.now_s += 10
    assert other.claim("a") is None
    lease.release()


def test_a_holder_that_was_stopped_finds_that_it_has_it_no_more(tmp_path: Path) -> None:
    """It asks before it goes on; and nothing that it does takes it from whoever has it now."""
    clock = Clock()
    paused = Leases(tmp_path, 60.0, clock).claim("a")
    assert paused is not None
    aged(tmp_path, "a", 601)
    theirs = Clock()
    others = Leases(tmp_path, 60.0, theirs)
    assert others.claim("a") is None
    theirs.now_s += 21
    taker = claimed(others, "a")
    clock.now_s += 3600
    assert not paused.holds()
    assert paused.is_lost
    paused.release()
    assert taker.holds()
    assert Leases(tmp_path).claim("a") is None
    taker.release()


def test_one_whose_clock_stood_still_finds_out_too(tmp_path: Path) -> None:
    """A machine that was paused as a whole knows nothing of it; and two have had the lease since."""
    clock = Clock()
    paused = claimed(Leases(tmp_path, 60.0, clock), "a")
    assert paused.holds()
    for _ in range(2):
        aged(tmp_path, "a", 61)
        theirs = Clock()
        others = Leases(tmp_path, 60.0, theirs)
        assert others.claim("a") is None
        theirs.now_s += 21
        taker = claimed(others, "a")
    with pytest.raises(LeaseLostError, match="a: its lease could not be renewed in time"):
        paused.check()
    assert paused.is_lost
    assert taker.holds()
    taker.release()


def test_whose_folder_of_leases_was_removed_loses_them_to_whoever_begins_anew(tmp_path: Path) -> None:
    """Both have the number 1 then, and one of them the file; until somebody begins, it is as it was."""
    folder = tmp_path / "leases"
    first = claimed(Leases(folder), "a")
    folder.rename(tmp_path / "away")
    assert first.holds()
    other = claimed(Leases(folder), "a")
    assert not first.holds()
    assert not first._leases.renew("a", 1)
    first.release()
    assert other.holds()
    other.release()


def test_one_that_is_late_has_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It saw a free lease, slept, and makes a number that others have taken and cleared away since."""
    leases = Leases(tmp_path)
    first = leases.claim("a")
    assert first is not None
    first.release()
    made = Leases._made

    def late(self: Leases, path: Path, data: bytes) -> bool:
        monkeypatch.setattr(Leases, "_made", made)
        for _ in range(2):
            between = Leases(tmp_path).claim("a")
            assert between is not None
            between.release()
        held = claimed(Leases(tmp_path), "a")
        holding.append(held)
        return made(self, path, data)

    holding: list[Lease] = []
    monkeypatch.setattr(Leases, "_made", late)
    assert leases.claim("a") is None
    assert holding[0].holds()
    holding[0].release()


def test_a_next_number_is_seen_at_once(tmp_path: Path) -> None:
    """Whoever made it, and however short a time ago the lease was renewed."""
    leases = Leases(tmp_path)
    lease = claimed(leases, "a")
    leases.path("a", 2).write_text("{}")
    assert not lease.holds()
    assert lease.is_lost


def test_a_renewal_that_takes_long_counts_from_its_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been written at any moment of it: the server is asked again before the time is up."""
    clock, renew, asked = Clock(), Leases.renew, []
    lease = claimed(Leases(tmp_path, 60.0, clock), "a")

    def slowly(self: Leases, name: str, number: int, state: str = "held") -> bool:
        asked.append(name)
        clock.now_s += 40
        return renew(self, name, number, state)

    monkeypatch.setattr(Leases, "renew", slowly)
    clock.now_s += 31
    assert lease.holds()
    assert lease.holds()
    assert len(asked) == 2
    lease.release()


def test_one_that_was_released_is_not_renewed_by_a_thread_that_is_late(tmp_path: Path) -> None:
    """It was about to, when whoever had it let it go."""
    lease = claimed(Leases(tmp_path), "a")
    lease.release()
    assert not lease._renew()
    claimed(Leases(tmp_path), "a").release()


def test_a_server_whose_answer_was_lost_has_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS asks again by itself, and is told that the file is there: it is this process's own."""
    link = os.link

    def twice(one: Path, other: Path) -> None:
        link(one, other)
        link(one, other)

    monkeypatch.setattr(os, "link", twice)
    claimed(Leases(tmp_path), "a").release()


def test_it_is_renewed_by_itself(tmp_path: Path) -> None:
    """And while the server does not answer, nobody says that it holds."""
    leases = Leases(tmp_path / "leases", 0.3)
    lease = leases.claim("a")
    assert lease is not None
    (path,) = (tmp_path / "leases").glob("a.*")
    before, until = path.stat().st_ino, time.monotonic() + 10
    while path.stat().st_ino == before and time.monotonic() < until:
        time.sleep(0.01)
    assert path.stat().st_ino != before
    (tmp_path / "leases").rename(tmp_path / "away")
    until = time.monotonic() + 10
    while lease.holds() and time.monotonic() < until:
        time.sleep(0.01)
    assert not lease.holds()
    (tmp_path / "away").rename(tmp_path / "leases")
    assert lease.holds()
    lease.release()


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made exclusively all the same."""

    def none(*_: object) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", none)
    lease = Leases(tmp_path).claim("a")
    assert lease is not None
    assert Leases(tmp_path).claim("a") is None
    assert Leases(tmp_path).agree("parts", "16") == "16"
    assert Leases(tmp_path).agree("parts", "32") == "16"
    lease.release()


def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError):
        Leases(tmp_path / "file").claim("a")
