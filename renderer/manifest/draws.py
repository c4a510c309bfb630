"""What is drawn by a written-down seed: an option of several, and a sample of combinations.

A draw is a hash of what it is about, and of no place in a list: the same manifest draws the same on every machine and
with every Python, and what is put in somewhere moves little of the rest. Knows nothing of manifests.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import math
from collections.abc import Callable, Sequence

MOST_RANKED = 200_000
"""So many combinations are looked at each; of more than that, they are drawn an axis at a time."""

_BETWEEN = "\x1f"

Indices = tuple[int, ...]
"""A combination: the place of its value on each axis."""


def key_of(*parts: str) -> str:
    """What a draw is about, as one text."""
    return _BETWEEN.join(parts)


def rank(key: str) -> int:
    """A number of 64 bits that a text has everywhere."""
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def pick(options: Sequence[str], key: str) -> int:
    """The place of one of the options. A further option takes some of the draws, and moves none of the others.

    An option that is there twice is drawn twice as often.
    """
    seen: dict[str, int] = {}
    best, place = -1, 0
    for position, option in enumerate(options):
        seen[option] = seen.get(option, 0) + 1
        if (found := rank(key_of(key, option, str(seen[option])))) > best:
            best, place = found, position
    return place


def sample(axes: Sequence[Sequence[str]], count: int, key: str, keeps: Callable[[Indices], bool]) -> list[Indices]:
    """So many of the axes' combinations that are kept, or all where there are no more, in their order.

    Fewer, where hardly any is kept of a great many.
    """
    if math.prod(map(len, axes)) > MOST_RANKED:
        return sorted(_by_axes(axes, count, key, keeps))
    kept = filter(keeps, itertools.product(*(range(len(axis)) for axis in axes)))
    ranked = ((rank(key_of(key, *map(_at, axes, each))), each) for each in kept)
    return sorted(each for _, each in heapq.nsmallest(count, ranked))


def _at(axis: Sequence[str], place: int) -> str:
    return axis[place]


def _by_axes(axes: Sequence[Sequence[str]], count: int, key: str, keeps: Callable[[Indices], bool]) -> set[Indices]:
    found: set[Indices] = set()
    for number in range(50 * count + 1000):
        drawn = tuple(_jump(rank(key_of(key, str(number), str(axis))), len(axes[axis])) for axis in range(len(axes)))
        if keeps(drawn):
            found.add(drawn)
        if len(found) == count:
            break
    return found


def _jump(key: int, buckets: int) -> int:
    """One of so many, that stays for most keys when there are more.

    Lamping, Veach: A Fast, Minimal Memory, Consistent Hash Algorithm, 2014.
    """
    place, ahead = -1, 0
    while ahead < buckets:
        place = ahead
        key = (key * 2862933555777941757 + 1) % 2**64
        ahead = int((place + 1) * (2**31 / ((key >> 33) + 1)))
    return place
