"""Which device made which pictures, and what each took: values from sidecars and a summary. Knows nothing of HTML."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from renderer.outputs.done import Done
from renderer.outputs.summary import DeviceCounts, Summary
from renderer.text import gib

_CPU = "the CPU"


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """What one device made, in words; `trouble` is why it was left out in the last run."""

    name: str
    pictures: int
    each: str
    gpu: str
    process: str
    trouble: str = ""


def device_of(sidecar: Done) -> str:
    """What rendered a picture: its card with the first part of its UUID; else which of several workers, if so."""
    gpu = sidecar.gpu
    if gpu is not None and gpu.short_uuid:
        return f"{gpu.name} ({gpu.short_uuid})"
    return ", ".join(filter(None, (sidecar.worker, gpu.name if gpu is not None else ""))) or _CPU


def own_s(sidecar: Done) -> float | None:
    """Seconds of the device's own time that a picture took."""
    if sidecar.sharing is None:
        return sidecar.timing.total_s
    return sidecar.sharing.share_s + (sidecar.timing.decode_s or 0.0)


def by_device(sidecars: Iterable[Done]) -> dict[str, list[Done]]:
    """Finished pictures by what rendered them, by its name."""
    found: dict[str, list[Done]] = {}
    for sidecar in sidecars:
        found.setdefault(device_of(sidecar), []).append(sidecar)
    return dict(sorted(found.items()))


def rows(sidecars: Sequence[Done], summary: Summary | None) -> tuple[DeviceRow, ...]:
    """A row a device, where there are several, or one was left out."""
    there = by_device(sidecars)
    left_out = {each.where: each for each in (summary.devices if summary else ()) if each.left_out}
    found = [_row(name, made, left_out) for name, made in there.items()]
    known = {sidecar.worker for sidecar in sidecars}
    found += [
        DeviceRow(each.named, 0, "", "", "", each.left_out) for where, each in left_out.items() if where not in known
    ]
    return tuple(found) if len(found) > 1 or left_out else ()


def _row(name: str, made: Sequence[Done], left_out: dict[str, DeviceCounts]) -> DeviceRow:
    seconds = [each_s for each in made if (each_s := own_s(each)) is not None]
    gpu = [peak for each in made if (peak := each.memory.peak_device_bytes or each.memory.peak_reserved_bytes)]
    process = [each.memory.peak_rss_bytes for each in made if each.memory.peak_rss_bytes]
    total = made[0].gpu.total_bytes if made[0].gpu else None
    out = left_out.get(made[0].worker)
    return DeviceRow(
        name=name,
        pictures=len(made),
        each=f"{statistics.median(seconds):.1f} s" if seconds else "",
        gpu=f"{gib(max(gpu))} of {gib(total)}" if gpu and total else "",
        process=gib(max(process)) if process else "",
        trouble=out.left_out if out is not None else "",
    )
