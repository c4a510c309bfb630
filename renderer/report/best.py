"""Of a night's pictures those that are shown to somebody who has a minute: the picked, or the first of each job."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from renderer.errors import DiskError
from renderer.outputs import picks
from renderer.planning.plan import Plan, Planned
from renderer.report import thumbnails
from renderer.report.thumbnails import Tile

MOST = 48
"""Pictures of a sheet that goes into a message."""


def choose(plan: Plan, ids: Collection[str]) -> list[Planned]:
    """Of the pictures of these ids that are there: those with stars, the most first; where none has any, one a job.

    None that somebody has rejected.
    """
    try:
        marks = picks.read(plan.folder)
    except DiskError:
        marks = {}
    there = [item for item in plan.items if item.picture.id in ids and item.sidecar is not None]
    there = [item for item in there if marks.get(item.fingerprint) != "x"]
    stars = {item.picture.id: mark for item in there if isinstance(mark := marks.get(item.fingerprint), int)}
    if stars:
        picked = (item for item in there if item.picture.id in stars)
        return sorted(picked, key=lambda item: -stars[item.picture.id])
    firsts: dict[str, Planned] = {}
    for item in there:
        firsts.setdefault(item.picture.place.job_id, item)
    return list(firsts.values())


def write_sheet(path: Path, nights: Sequence[tuple[Plan, Collection[str]]]) -> bool:
    """Write a JPEG of the best of several manifests' pictures; whether there are any. Raises `OSError`."""
    several = len(nights) > 1
    tiles = [
        Tile(plan, item, f"{plan.manifest.name}/{item.picture.id}" if several else item.picture.id)
        for plan, ids in nights
        for item in choose(plan, ids)
    ]
    if tiles:
        path.write_bytes(thumbnails.draw_sheet(tiles, most=MOST, file_format="JPEG"))
    return bool(tiles)
