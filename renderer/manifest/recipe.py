"""A job as it is cooked: its fields, what the defaults add to them, and how many pictures they make at most."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from renderer.manifest.complaints import Complaint
from renderer.manifest.document import Route
from renderer.manifest.fields import EXCLUDING, JobFields

DEFAULT_SIZE = "1:1"

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


@dataclass(frozen=True)
class Recipe:
    """A job's fields, the defaults filled in, and where each was written."""

    number: str
    route: Route
    fields: JobFields
    origins: Mapping[str, Route]

    def origin(self, field: str) -> Route:
        """Where `field` was written; the job itself for one that was not."""
        return self.origins.get(field, self.route)

    @cached_property
    def combinations_count(self) -> int:
        """How many combinations the matrix makes at most: exclusions are not looked at."""
        axes = self.fields.get("matrix", {}).values()
        return math.prod(map(len, axes)) + len(self.fields.get("include", ()))

    @property
    def pictures_count(self) -> int:
        """How many pictures the job makes at most: what the cap looks at, before anything is expanded."""
        sizes = len(self.fields.get("sizes", (DEFAULT_SIZE,)))
        seeds = self.fields.get("count") or len(self.fields.get("seeds", (0,)))
        return self.combinations_count * sizes * seeds


def merge(number: str, job: JobFields, route: Route, defaults: JobFields, defaults_route: Route) -> Recipe:
    """A job with what it does not say taken from the defaults.

    A job's own matrix also drops the defaults' `include` and `exclude`, which speak of another matrix.
    """
    dropped = set().union(*(group for group in GROUPS if group & job.keys()))
    if "matrix" in job:
        dropped |= {"include", "exclude"}
    taken = {field: value for field, value in defaults.items() if field not in job and field not in dropped}
    origins = {field: (*defaults_route, field) for field in taken} | {field: (*route, field) for field in job}
    return Recipe(number, route, cast("JobFields", taken | job), origins)
