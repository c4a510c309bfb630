"""What a page shows, as frozen values: pictures by job with their places in the matrix, and what happened.

A pure function of a plan and a summary, besides the tail of the worker's log. Knows nothing of HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from renderer.catalog import MODELS
from renderer.errors import DiskError
from renderer.job import Picture
from renderer.manifest import choices
from renderer.manifest.recipe import takes_in
from renderer.outputs import input_files, picks
from renderer.outputs.done import Done, DoneLettering
from renderer.outputs.folder import OutputFolder, Own
from renderer.outputs.picks import Pick, PickMap
from renderer.outputs.summary import Summary, read_summary
from renderer.planning.plan import Plan, Planned, State
from renderer.report import made_by
from renderer.report.made_by import DeviceRow
from renderer.system import folders

_LOG_BYTES = 4000
_MAX_AXIS = 200
_MOST_EMPTY = 3
"""Cells of a grid, a picture: that of a table's rows, each with values of its own, would be a diagonal."""


@dataclass(frozen=True, slots=True)
class JobGroup:
    """The pictures of one job of the manifest; `positions` are theirs in the page's list.

    `rows` and `columns` are the labels of a grid, and `cells` where each picture stands in it; all are empty for a job
    whose matrix has no names that vary, or whose grid would be nearly empty.
    """

    title: str
    line: int
    positions: tuple[int, ...]
    corner: str = ""
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    cells: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """All that a page shows. `pictures` are plain values for the page's script."""

    name: str
    manifest: str
    pictures: tuple[Mapping[str, Any], ...]
    groups: tuple[JobGroup, ...]
    counts: Mapping[State, int]
    told: str
    trouble: tuple[Planned, ...]
    summary: Summary | None
    sidecars: tuple[Done, ...]
    log: str = ""
    devices: tuple[DeviceRow, ...] = ()


def gather(plan: Plan, described: Sequence[Mapping[str, Any]] | None = None) -> Page:
    """What there is to show of a plan's pictures; `described` spares describing them again."""
    marks = read_marks(plan.folder) if described is None else {}
    trouble = tuple(item for item in plan.items if item.state in ("failed", "set aside"))
    counts = count_states(plan.items)
    summary = read_summary(plan.folder)
    sidecars = tuple(item.sidecar for item in plan.items if item.sidecar is not None)
    return Page(
        name=plan.manifest.name,
        manifest=plan.manifest.file,
        pictures=tuple(described or (describe(item, marks.get(item.fingerprint)) for item in plan.items)),
        groups=tuple(_groups(plan.items)),
        counts=counts,
        told=describe_counts(counts),
        trouble=trouble,
        summary=summary,
        sidecars=sidecars,
        log="\n".join(filter(None, map(_tail, plan.folder.worker_logs))) if trouble else "",
        devices=made_by.rows(sidecars, summary),
    )


def read_marks(folder: OutputFolder) -> PickMap:
    """How somebody has marked pictures; none where that cannot be read: the pictures are shown all the same."""
    try:
        return picks.read(folder)
    except DiskError:
        return {}


def thumbnail_name(sidecar: Done) -> str:
    """A thumbnail, as a path from the page: named by its picture's bytes, so that it is made once for them."""
    return f"{Own.THUMBS}/{sidecar.file.sha256[:24]}.webp"


def file_name(item: Planned) -> str:
    """A finished picture's file, as a path from the page."""
    assert item.sidecar is not None
    folder = item.picture.output.rpartition("/")[0]
    return f"{folder}/{item.sidecar.file.name}" if folder else item.sidecar.file.name


def layer_names(item: Planned) -> list[str]:
    """The files of a finished picture's layers, the hindmost first, from its output folder."""
    if item.sidecar is None:
        return []
    folder, _, _ = file_name(item).rpartition("/")
    return [f"{folder}/{layer.name}" if folder else layer.name for layer in item.sidecar.layers]


def count_states(items: Iterable[Planned]) -> dict[State, int]:
    """How many pictures are in which state, those that are done first."""
    counts: dict[State, int] = {"done": 0, "failed": 0, "set aside": 0, "to do": 0}
    for item in items:
        counts[item.state] += 1
    return counts


def describe_counts(counts: Mapping[State, int]) -> str:
    """How many pictures are in which state, in words."""
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count)


def describe(item: Planned, mark: Pick | None = None) -> Mapping[str, Any]:
    """One picture as the page's script gets it, and how somebody has marked it."""
    picture, job, sidecar = item.picture, item.picture.job, item.sidecar
    told: dict[str, Any] = {
        "id": picture.id,
        "job": picture.place.job_id,
        "line": picture.place.line,
        "state": item.state,
        "note": hide_paths(item.note),
        "prompt": job.prompt,
        "negative_prompt": job.negative_prompt,
        "model": item.identity.id,
        "precision": job.precision,
        "width": job.width,
        "height": job.height,
        "steps": job.num_inference_steps,
        "cfg_scale": job.cfg_scale,
        "seed": str(job.seed),  # a script's numbers end at 2^53
        "matrix": picture.place.matrix,
    }
    if job.inputs:
        told |= _went_in(picture)
    if job.controlnets:
        told["controlnets"] = _held_by(picture)
    if job.context_image:
        told["context_image"] = next(
            Path(each.path).name for each in picture.inputs if each.sha256 == job.context_image.sha256
        )
    if job.regions:
        files = {each.sha256: Path(each.path).name for each in picture.inputs}
        told["regions"] = [{"prompt": each.prompt, "mask": files[each.mask.sha256]} for each in job.regions]
    if job.loras:
        told["loras"] = [{"file": hide_paths(lora.source), "weight": lora.weight} for lora in job.loras]
    if job.loras or job.schedule != "qwen-image":
        told["schedule"] = job.model_dump(mode="json")["schedule"]
    written = {name: choices.as_text(told[name], filled=takes_in(told)) for name in ("prompt", "negative_prompt")}
    if written != {name: told[name] for name in written}:
        told["written"] = written  # as an entry has them, so that braces are text
    if sidecar is not None:
        told |= _finished(item, sidecar)
        if sidecar.layers:
            told["layer_files"] = [
                {"file": quote(name), "covered": layer.covered}
                for name, layer in zip(layer_names(item), sidecar.layers, strict=True)
            ]
        if sidecar.lettering is not None:
            told["lettering"] = _lettering(sidecar.lettering)
        if mark is not None:
            told["mark"] = mark
    return told


def _finished(item: Planned, sidecar: Done) -> dict[str, Any]:
    """Where a finished picture lies, what rendered it and what it took."""
    timing, memory = sidecar.timing, sidecar.memory
    return {
        "file": quote(file_name(item)),
        "thumb": thumbnail_name(sidecar),
        "seconds": timing.total_s,
        "vram": memory.peak_reserved_bytes or memory.peak_device_bytes,
        "ram": memory.peak_rss_bytes,
        "ended": timing.ended_at.isoformat(timespec="seconds"),
        "attempt": sidecar.attempt,
        "device": made_by.device_of(sidecar),
        "warnings": sidecar.warnings,
    }


def _went_in(picture: Picture) -> dict[str, Any]:
    """What a picture was made of.

    What it is drawn over stands before it, or the first of what it edits or is held to.
    """
    job = picture.job
    files = {each.sha256: each for each in picture.inputs}
    images = job.edit.images if job.edit else (job.input_image or job.layer_input_image,)
    named = [Path(files[each.sha256].path).name for each in images if each is not None]
    first = files[job.inputs[0].sha256]
    mask = Path(files[job.inpaint_mask.sha256].path).name if job.inpaint_mask else ""
    told: dict[str, Any] = {"before": input_files.kept_name(first), "image": ", ".join(named), "mask": mask}
    told |= {"images": named} if job.edit or job.layers else {}
    told |= {"layers": job.layers} if job.layers else {}
    return told | ({"strength": job.denoising_strength} if job.input_image else {})


def _held_by(picture: Picture) -> list[Mapping[str, Any]]:
    """The ControlNets of a picture, with what they look at, as a manifest has them."""
    files = {each.sha256: Path(each.path).name for each in picture.inputs}
    return [
        {
            "id" if net.source in MODELS else "file": hide_paths(net.source),
            "image": files[net.image.sha256],
            **({"mask": files[net.mask.sha256]} if net.mask else {}),
            "scale": net.scale,
            "start": net.start,
            "end": net.end,
        }
        for net in picture.job.controlnets
    ]


def _lettering(read: DoneLettering) -> Mapping[str, Any]:
    """What was read: its score, each text with where it stands, and how many takes there were."""
    boxes = (
        (each.box.left, each.box.top, each.box.right, each.box.bottom) if each.box else None for each in read.texts
    )
    texts = [(each.text, each.read, each.score, box) for each, box in zip(read.texts, boxes, strict=True)]
    return {"score": read.score, "texts": texts, "takes": len(read.takes)}


# ---- groups and grids ------------------------------------------------------------------------------------------------


def _groups(items: Sequence[Planned]) -> Iterator[JobGroup]:
    for (line, *_), pairs in groupby(enumerate(items), key=lambda pair: _job(pair[1])):
        positions, members = zip(*pairs, strict=True)
        yield _group(line, positions, members)


def _job(item: Planned) -> tuple[int, str, tuple[str, ...]]:
    """What tells one job of the manifest from another: its line, and its id where no matrix fills that in."""
    place = item.picture.place
    return place.line, "" if place.matrix else place.job_id, tuple(place.matrix)


def _group(line: int, positions: tuple[int, ...], items: tuple[Planned, ...]) -> JobGroup:
    ids = list(dict.fromkeys(item.picture.place.job_id for item in items))
    varying = [name for name in items[0].picture.place.matrix if len({_value(item, name) for item in items}) > 1]
    title = ids[0] if len(ids) == 1 else " x ".join(varying) or f"{ids[0]} … {ids[-1]}"
    if not varying:
        return JobGroup(title, line, positions)
    column = _fullest(items, varying)
    across = [name for name in varying if name != column]
    across += ["size"] if len({_value(item, "size") for item in items}) > 1 else []
    # Seeds that are derived differ from prompt to prompt; only those that are given make rows.
    fixed = {_label(item, [*across, column]) for item in items}
    across += ["seed"] if len(fixed) < len(items) else []
    columns = _labels(items, [column])
    rows = _labels(items, across)
    if max(len(rows), len(columns)) > _MAX_AXIS or len(rows) * len(columns) > _MOST_EMPTY * len(items):
        return JobGroup(title, line, positions)
    cells = tuple((rows.index(_label(item, across)), columns.index(_label(item, [column]))) for item in items)
    corner = f"{', '.join(across)} / {column}" if across else column
    return JobGroup(title, line, positions, corner, tuple(rows), tuple(columns), cells)


def _fullest(items: Sequence[Planned], varying: Sequence[str]) -> str:
    """The name whose values, as columns, leave the fewest cells empty; the last of several."""

    def cells(column: str) -> int:
        return len(_labels(items, [column])) * len(_labels(items, [name for name in varying if name != column]))

    return min(reversed(varying), key=cells)


def _labels(items: Sequence[Planned], names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(_label(item, names) for item in items))


def _label(item: Planned, names: Sequence[str]) -> str:
    return ", ".join(_value(item, name) for name in names)


def _value(item: Planned, name: str) -> str:
    job = item.picture.job
    if name in item.picture.place.matrix:
        return item.picture.place.matrix[name]
    return f"{job.width}x{job.height}" if name == "size" else f"seed {job.seed}"


# ---- what happened ---------------------------------------------------------------------------------------------------


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - _LOG_BYTES))
            return hide_paths(stream.read(_LOG_BYTES).decode("utf-8", "replace"))
    except OSError:
        return ""


_PATH = re.compile(r"(?<![\w.:/~-])(?:file://)?(?:~|/)[\w.@+~-]*(?:/[\w.@+~ -]*[\w.@+~-])+/?")
_KNOWN = ("site-packages/", "dist-packages/")


def hide_paths(text: str) -> str:
    """A text in which paths of this machine are cut: to what they are in the project, in a library, or to their names.

    Pages are handed on; who works here, and where, is nobody's business.
    """
    here = f"{Path.cwd()}/"
    text = text.replace(f"file://{here}", "").replace(here, "")
    return _PATH.sub(lambda found: _cut(found[0]), folders.hidden(text))


def _cut(path: str) -> str:
    for folder in _KNOWN:
        if folder in path:
            return path.rpartition(folder)[2]
    return f"…/{path.rstrip('/').rpartition('/')[2]}"
