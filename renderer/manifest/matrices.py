"""A job's matrix: its axes, what is left out of their product, and what is drawn of it. Knows nothing of problems."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from renderer.manifest import draws
from renderer.manifest.draws import Indices


class JobMatrix:
    """The axes of a job, by its fields; one of no axes has a single combination, which is empty.

    Exclusions of the same names are looked up at once: there may be many.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.values: Mapping[str, Sequence[str]] = fields.get("matrix", {})
        self._axes = list(self.values.values())
        self._excluded: dict[tuple[int, ...], set[tuple[str, ...]]] = {}
        self._count: int | None = fields.get("sample")
        self._key = draws.key_of(str(fields.get("sample_seed", 0)), "sample", *self.values)
        order = {name: place for place, name in enumerate(self.values)}
        for pattern in fields.get("exclude", ()):
            if pattern.keys() <= order.keys():
                places = tuple(sorted(order[name] for name in pattern))
                by_place = {order[name]: value for name, value in pattern.items()}
                self._excluded.setdefault(places, set()).add(tuple(by_place[place] for place in places))

    def excludes_any(self, pattern: Mapping[str, str]) -> bool:
        """Whether a combination has these values; all of their names are the matrix's."""
        return all(value in self.values[name] for name, value in pattern.items())

    def combinations(self, chosen: Sequence[Indices] | None) -> list[dict[str, str]]:
        """What is not left out, or what was chosen of it, in written order."""
        if chosen is None:
            chosen = self.sample() if self._count and self._axes else self._product()
        return [dict(zip(self.values, map(_at, self._axes, each), strict=True)) for each in chosen]

    def sample(self) -> list[Indices]:
        """What is drawn of it."""
        return draws.sample(self._axes, self._count or 1, self._key, self._keeps)

    def sample_with(self, rows: Sequence[str]) -> Iterator[tuple[int, list[Indices]]]:
        """What is drawn of rows and matrix: a row's place with its combinations. Each row says what it is."""
        found = draws.sample([rows, *self._axes], self._count or 1, self._key, lambda each: self._keeps(each[1:]))
        for place, group in itertools.groupby(found, lambda each: each[0]):
            yield place, [each[1:] for each in group]

    def _product(self) -> list[Indices]:
        return list(filter(self._keeps, itertools.product(*(range(len(axis)) for axis in self._axes))))

    def _keeps(self, indices: Indices) -> bool:
        return not any(
            tuple(self._axes[place][indices[place]] for place in places) in values
            for places, values in self._excluded.items()
        )


def _at(axis: Sequence[str], place: int) -> str:
    return axis[place]
