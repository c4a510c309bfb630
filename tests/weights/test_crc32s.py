"""Sums of parts, put together: zlib's own sum of the whole."""

from __future__ import annotations

import random
import threading
import time
import zlib

import pytest

from renderer.weights import crc32s


@pytest.mark.parametrize("sizes", [(0, 5), (5, 0), (1, 1), (1000, 65539), (7, 2**20), (2**20 - 1, 3)])
def test_two_parts(sizes: tuple[int, int]) -> None:
    """Of any lengths, an empty one too."""
    first, second = (random.Random(size).randbytes(size) for size in sizes)  # noqa: S311  # the same every time
    assert crc32s.joined(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 5678])
def test_many_parts(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is left for the last."""
    monkeypatch.setattr(crc32s, "PART_BYTES", 1000)
    data = random.Random(1).randbytes(count)  # noqa: S311  # as above
    assert crc32s.of_parts(count, lambda begin, end: zlib.crc32(data[begin:end])) == zlib.crc32(data)


def test_one_thread_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where others do the same beside it: in this thread, and afterwards by all again."""
    monkeypatch.setattr(crc32s, "PART_BYTES", 10)
    threads = set[int]()

    def part(begin: int, end: int) -> int:
        threads.add(threading.get_ident())
        return zlib.crc32(bytes(end - begin))

    with crc32s.alone():
        assert crc32s.of_parts(95, part) == zlib.crc32(bytes(95))
    assert threads == {threading.get_ident()}
    threads.clear()
    assert crc32s.of_parts(95, part) == zlib.crc32(bytes(95))
    assert threading.get_ident() not in threads


def test_an_error_comes_when_no_part_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is told may close the file and use the memory for another."""
    monkeypatch.setattr(crc32s, "PART_BYTES", 10)
    under_way = set[int]()

    def part(begin: int, end: int) -> int:
        if begin == 0:
            raise OSError("the disk")
        under_way.add(begin)
        time.sleep(0.01)
        under_way.discard(begin)
        return end

    with pytest.raises(OSError, match="the disk"):
        crc32s.of_parts(100, part)
    assert not under_way
