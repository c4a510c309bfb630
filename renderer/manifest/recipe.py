"""A job as it is cooked: its fields, what the defaults add to them, and how many pictures they make at most."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from renderer.manifest.complaints import Complaint
from renderer.manifest.document import Route
from renderer.manifest.draws import Indices
from renderer.manifest.fields import EXCLUDING, JobFields

DEFAULT_SIZE = "1:1"

STEM = "stem"
"""In braces: the name of the file that goes in, without its ending."""

ROW = "row"
"""In braces: the row's number, where no column and no axis of the matrix is called so."""


def takes_in(fields: Mapping[str, object]) -> bool:
    """Whether a picture goes in, by a job's fields."""
    return bool(fields.keys() & {"image", "images", "controlnets", "context_image"})


GROUPS = (
    frozenset({"size", "sizes", "width", "height"}),
    frozenset({"seed", "seeds", "count"}),
    frozenset({"steps", "num_inference_steps"}),
    frozenset({"image", "images"}),
)
"""Fields that belong together: a job that gives one of a group takes none of it from the defaults."""


def refuse_pairs(given: Mapping[str, Any], route: Route) -> list[Complaint]:
    """Fields of one mapping that exclude each other, or lack their other half. Kinds of values do not matter here."""
    order = list(given)
    complaints = {}
    for one, other in EXCLUDING:
        if one in given and other in given:
            first, second = sorted((one, other), key=order.index)
            message = f"cannot stand beside {first}, which says the same"
            complaints[second] = Complaint((*route, second), message, "keep one of them", at_key=True)
    for one, other in (("width", "height"), ("height", "width")):
        if one in given and other not in given:
            complaints.setdefault(one, Complaint((*route, one), f"needs {other} beside it", "or use size", at_key=True))
    return list(complaints.values())


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What holds of all jobs of a manifest: where their paths are from, and its `vars`.

    `folders` are those of the defaults that were written in another file; of all other fields it is `folder`.
    """

    folder: Path = Path()
    folders: Mapping[str, Path] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)


_NOTHING_AROUND = Surroundings()


@dataclass(frozen=True, slots=True)
class TableRow:
    """A job's row: its table's file, the line that it begins in, and its number among the rows that say the same.

    `is_counted`: its number in the table stands in braces as `ROW`, which no column is called.
    """

    file: str
    line: int
    twin: int = 1
    is_counted: bool = True


@dataclass(frozen=True)
class Recipe:
    """A job's fields, the defaults filled in, and where each was written.

    `cells` are those of its row that stand in braces; in fields that are `plain`, braces are just braces. `chosen` are
    those combinations of its matrix that were drawn for its row.
    """

    number: str
    route: Route
    fields: JobFields
    origins: Mapping[str, Route]
    around: Surroundings = _NOTHING_AROUND
    cells: Mapping[str, str] = field(default_factory=dict)
    plain: frozenset[str] = frozenset()
    chosen: Sequence[Indices] | None = None
    row: TableRow | None = None

    @property
    def given(self) -> Mapping[str, str]:
        """The values of the names that have one in all of its pictures: what is nearer to the job wins."""
        return {**self.around.variables, **self.cells} if self.cells else self.around.variables

    @property
    def names(self) -> Collection[str]:
        """What may stand in braces in its texts. Where there is nothing, braces are just braces."""
        return [*self.given, *self.fields.get("matrix", ()), *([STEM] if takes_in(self.fields) else [])]

    def folder_of(self, name: str) -> Path:
        """Where the paths in a field are from."""
        here, (top, *rest) = self.around.folder, self.origin(name)
        return self.around.folders.get(str(rest[0]), here) if top == "defaults" else here

    def origin(self, field: str) -> Route:
        """Where `field` was written; the job itself for one that was not."""
        return self.origins.get(field, self.route)

    @cached_property
    def combinations_count(self) -> int:
        """How many combinations the matrix makes at most: exclusions are not looked at."""
        product = math.prod(map(len, self.fields.get("matrix", {}).values()))
        drawn = min(product, self.fields.get("sample", product)) if self.chosen is None else len(self.chosen)
        return drawn + len(self.fields.get("include", ()))

    @property
    def pictures_count(self) -> int:
        """How many pictures the job makes at most: what the cap looks at, before anything is expanded."""
        return self.combinations_count * self.pictures_of_each

    @property
    def pictures_of_each(self) -> int:
        """How many pictures a combination makes."""
        sizes = len(self.fields.get("sizes", (DEFAULT_SIZE,)))
        return sizes * (self.fields.get("count") or len(self.fields.get("seeds", (0,))))


def merge(
    number: str,
    job: JobFields,
    route: Route,
    defaults: JobFields,
    defaults_route: Route,
    around: Surroundings = _NOTHING_AROUND,
) -> Recipe:
    """A job with what it does not say taken from the defaults."""
    taken = {name: defaults[name] for name in left_of(defaults, job)}  # type: ignore[literal-required]
    origins = {name: (*defaults_route, name) for name in taken} | {name: (*route, name) for name in job}
    return Recipe(number, route, cast("JobFields", taken | job), origins, around)


def left_of(defaults: Mapping[str, Any], job: Mapping[str, Any]) -> list[str]:
    """The fields of the defaults that hold beside those of what stands nearer.

    Its own matrix also drops the defaults' `include` and `exclude`, which speak of another matrix.
    """
    dropped = set().union(*(group for group in GROUPS if group & job.keys()))
    if "matrix" in job:
        dropped |= {"include", "exclude"}
    return [name for name in defaults if name not in job and name not in dropped]
