"""One copy of the blocks for several workers: read once, never half; each worker's own where it cannot be shared."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from renderer.engine import shared_blocks
from renderer.engine.block_source import BlockSource
from renderer.engine.slots import HostMemory, ReadAhead, source_for
from renderer.estimate import host
from renderer.protocol import HostCopy
from renderer.system import shared_memory
from renderer.system.shared_memory import Pieces, SharedMemory
from tests.engine.test_slots import File, files

NAME = "renderer-test"
SIZE = 3 * shared_memory.PIECE_ALIGNMENT // 2


@pytest.fixture
def at() -> Iterator[str]:
    """A shared memory that this process owns."""
    owner = SharedMemory(NAME)
    yield owner.path
    owner.close()


def copy(at: str, ram_bytes: int = 2**40) -> HostCopy:
    return HostCopy(at=at, name=NAME, ram_bytes=ram_bytes)


def source(mine: Sequence[File], at: str, ram_bytes: int = 2**40, own_bytes: int | None = None) -> BlockSource:
    """What a worker has its blocks from."""
    return source_for(mine, "cpu", 2, own_bytes, shared_blocks.open_for(mine, copy(at, ram_bytes)))


def all_of(source: object) -> list[int]:
    """The number that is all of each block's bytes."""
    assert isinstance(source, HostMemory)
    found = []
    for number in range(source.count):
        (value,) = source.block(number).unique().tolist()
        found.append(value)
    return found


def test_a_block_is_read_by_one_worker_and_is_there_for_all(at: str) -> None:
    """What one writes into its block is seen in the other's: it is the same memory."""
    one, other = files(5), files(5)
    first, second = source(one, at), source(other, at)
    assert all_of(first) == all_of(second) == list(range(5))
    assert [here.reads + there.reads for here, there in zip(one, other, strict=True)] == [1] * 5
    first.block(3)[0] = 77
    assert second.block(3)[0] == 77


def test_other_files_are_not_taken_for_these(at: str, caplog: pytest.LogCaptureFixture) -> None:
    """A worker that has opened something else has its own copy, and says so."""
    assert all_of(source(files(3), at)) == [0, 1, 2]
    mine = [File(number + 10) for number in range(3)]
    assert all_of(source(mine, at)) == [10, 11, 12]
    assert "other files: this one has its own copy" in caplog.text


def test_where_the_owner_is_gone_a_worker_has_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """Also one on another machine, where that number is nobody's."""
    assert all_of(source(files(3), "/proc/0/fd/3")) == [0, 1, 2]
    assert "this worker has its own" in caplog.text


def test_another_file_of_that_number_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """On another machine, the owner's number may be another process's, and its file any."""
    (tmp_path / "precious").write_bytes(b"precious")
    with (tmp_path / "precious").open("r+b") as stream:
        assert all_of(source(files(3), f"/proc/self/fd/{stream.fileno()}")) == [0, 1, 2]
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert "this worker has its own" in caplog.text


def test_what_failed_is_empty_and_read_by_the_next(at: str) -> None:
    """A disk's bad moment leaves no half a block to others."""
    shared = shared_blocks.open_for([File(7)], copy(at))
    assert shared is not None
    with pytest.raises(OSError, match="moment"):
        shared.block(0, "cpu", lambda _: (_ for _ in ()).throw(OSError("a bad moment")))
    found = shared.block(0, "cpu", File(7).read_into)
    assert found is not None
    assert found.unique().tolist() == [7]


DIES = f"""
import os, signal, sys
from renderer.system.shared_memory import Pieces
import mmap
pieces = Pieces(sys.argv[1], "renderer-test").lay_out(b"it", [{SIZE}, {SIZE}])
memory = mmap.mmap(pieces.descriptor, {SIZE}, offset=pieces.place(1))
def half():
    memory[:100] = bytes([9]) * 100
    os.kill(os.getpid(), signal.SIGKILL)
pieces.have(0, lambda: None)
pieces.have(1, half)
"""


def test_a_worker_that_dies_while_it_fills_leaves_no_half(at: str) -> None:
    """What it had filled before stays; the piece that it was at is begun again."""
    died = subprocess.run([sys.executable, "-c", DIES, at], check=False)
    assert died.returncode == -signal.SIGKILL
    pieces = Pieces(at, NAME).lay_out(b"it", [SIZE, SIZE])
    filled: list[int] = []
    assert pieces.have(0, lambda: filled.append(0))
    assert pieces.have(1, lambda: filled.append(1))
    assert filled == [1]
    pieces.close()


def test_a_worker_that_is_stopped_while_it_fills_holds_up_nobody(
    at: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The others have that block for themselves."""
    monkeypatch.setattr(shared_memory, "FILLING_PATIENCE_S", 0.02)
    mine = files(2)
    there = shared_blocks.open_for(mine, copy(at))
    stopped = shared_blocks.open_for(mine, copy(at))
    assert there is not None
    assert stopped is not None

    def meanwhile(buffer: torch.Tensor) -> None:
        assert there.block(0, "cpu", mine[0].read_into) is None
        mine[0].read_into(buffer)

    assert stopped.block(0, "cpu", meanwhile) is not None
    assert "does not get on" in caplog.text


def test_room_is_asked_for_once(at: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Who comes first asks for room for all; the others need what is still missing, however little is free by then."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(host, "MARGIN_BYTES", 100)
    mine = [File(number, SIZE) for number in range(2)]
    assert shared_blocks.open_for(mine, copy(at, 2 * SIZE + 99)) is None
    assert isinstance(source(mine, at, 1, 1), ReadAhead)
    assert all_of(source(mine, at, 2 * SIZE + 100)) == [0, 1]
    assert shared_blocks.open_for(mine, copy(at, 0)) is not None
    pieces = Pieces(at, NAME)
    assert 2 * SIZE <= pieces.taken_bytes < 2 * SIZE + 4 * shared_memory.PIECE_ALIGNMENT
    pieces.close()


SHARES = """
import sys
from renderer.engine.shared_blocks import open_for
from renderer.engine.slots import source_for
from renderer.protocol import HostCopy
from tests.engine.test_slots import File
blocks = [File(number, 2**22) for number in range(4)]
copy = HostCopy(at=sys.argv[1], name="renderer-test", ram_bytes=2**40)
source = source_for(blocks, "cpu", shared=open_for(blocks, copy))
source.wait()
print(sum(int(source.block(number).sum()) for number in range(4)), flush=True)
sys.stdin.read()
"""


def test_two_processes_have_one_copy_and_leave_none(at: str) -> None:
    """Each has all pages, and the kernel counts half of them for each (`/proc/PID/smaps`)."""
    command = [sys.executable, "-c", SHARES, at]
    pipe = subprocess.PIPE
    workers = [subprocess.Popen(command, stdin=pipe, stdout=pipe, encoding="utf-8") for _ in range(2)]
    for worker in workers:
        assert worker.stdout is not None
        assert int(worker.stdout.readline()) == 6 * 2**22
    pages, parts = zip(*(_mapped(worker.pid) for worker in workers), strict=True)
    for worker in workers:
        worker.kill()
        worker.communicate()
    assert pages == (4 * 2**22, 4 * 2**22)
    assert sum(parts) == 4 * 2**22


def _mapped(pid: int) -> tuple[int, int]:
    """Bytes of the shared memory's pages that a process has, and its part of them."""
    sums, ours = {"Rss:": 0, "Pss:": 0}, False
    with Path(f"/proc/{pid}/smaps").open(encoding="utf-8") as lines:
        for line in lines:
            name, *rest = line.split()
            if not name.endswith(":"):
                ours = "renderer-test" in line
            elif ours and name in sums:
                sums[name] += int(rest[0]) * 1024
    return sums["Rss:"], sums["Pss:"]


def test_nothing_of_it_has_a_name() -> None:
    """So that nothing is left, whoever is killed: it is in no folder."""
    owner = SharedMemory(NAME)
    try:
        assert str(Path(owner.path).readlink()) == f"/memfd:{owner.name} (deleted)"
    finally:
        owner.close()
