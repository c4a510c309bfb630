"""The door to what is known before anything is rendered: `renderer plan`.

Words, tables of at most 80 columns and JSON for what `plan` and `forecast` say. Imports no torch. Whatever takes time
to import is imported by the command.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from renderer.cli import arguments
from renderer.cli.manifests import Loaded, load_part
from renderer.cli.problems import MOST_WARNINGS, print_problems
from renderer.system import streams
from renderer.text import COLUMNS, counted, cut, duration, gb, gib, wrap

if TYPE_CHECKING:
    from renderer.planning.fitting import SizeRefusal
    from renderer.planning.forecast import Forecast
    from renderer.planning.group_forecast import GroupForecast
    from renderer.planning.plan import Plan
    from renderer.planning.space import Disk


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser what the command takes."""
    arguments.add_manifests(parser)
    arguments.add_only(parser)
    arguments.add_shard(parser)
    parser.add_argument("--force", action="store_true", help="as if nothing were done")
    arguments.add_profile(parser, "as render would")
    arguments.add_machine_options(parser)
    arguments.add_gpus(parser)
    arguments.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Say what would become of each picture, and what it would take."""
    return show_plan(options, load_part(options))


def show_plan(options: argparse.Namespace, loaded: Loaded) -> int:
    """Say what would become of each picture, and what it would take; nothing is rendered."""
    from renderer.cli.assumptions import assumptions  # noqa: PLC0415
    from renderer.planning import forecast  # noqa: PLC0415
    from renderer.planning.plan import make_plan  # noqa: PLC0415
    from renderer.planning.selection import Selection  # noqa: PLC0415
    from renderer.planning.takes import check_reader  # noqa: PLC0415

    told = [*loaded.problems, *loaded.warnings]
    Selection.of(options.only).check(loaded.manifests)
    there = assumptions(options)
    choice: dict[str, Any] = {"only": options.only, "force": options.force, "machine": there.machine}
    plans = [make_plan(manifest, options.outputs, **choice) for manifest in loaded.manifests]
    check_reader(item.picture for plan in plans for item in plan.chosen if item.sidecar is None)
    found = forecast.forecast(plans, there, datetime.now().astimezone())
    if options.json:
        print(json.dumps(_as_dict(plans, found), indent=2, ensure_ascii=False))
        return print_problems(told, MOST_WARNINGS)
    for plan in plans:
        print(streams.harmless("\n".join(_plan_lines(plan, found))))
    for line in _forecast_lines(found):
        print(streams.harmless(line))
    return print_problems(told, MOST_WARNINGS)


# ---- words -----------------------------------------------------------------------------------------------------------


def _plan_lines(plan: Plan, found: Forecast) -> Iterator[str]:
    yield cut(f"{plan.manifest.file} ▶ {plan.folder.path}", COLUMNS)
    for remark in plan.manifest.remarks:
        yield from wrap(f"  {remark}", "    ")
    refused = 0
    told: set[SizeRefusal] = set()
    for item in plan.chosen:
        job, refusal = item.picture.job, found.refused.get(item.picture.job)
        refused += refusal is not None
        state = "refused" if refusal else item.state
        line = f"  {state:9} {f'{job.width}x{job.height}':>9} {job.num_inference_steps:>3} steps  {item.picture.id}"
        yield cut(f"{line}  ({item.note})" if item.note and not refusal else line, COLUMNS)
        if refusal is not None and refusal not in told:  # once a size
            told.add(refusal)
            yield from wrap(f"            {refusal.message}; {refusal.hint}", "            ")
    left = counted(len(plan.to_render()) - refused, "picture")
    there = len(plan.to_bring()) + len(plan.twins())
    bring = f", {there} to move, copy or keep another way" if there else ""
    bring += f", {reading} to read" if (reading := len(plan.to_read())) else ""
    yield f"  {left} to render{bring}, {plan.count('done')} done" + (f", {refused} refused" if refused else "")


def _forecast_lines(found: Forecast) -> Iterator[str]:
    for group in found.groups:
        yield ""
        yield from _group_lines(group)
    for trouble in found.troubles:
        yield ""
        yield from wrap(f"cannot be rendered here: {trouble}", "")
    for note in (*found.mixtures, *found.advice):
        yield ""
        yield from wrap(f"note: {note}", "  ")
    if not found.groups:
        return
    yield ""
    for names, disk in found.disks:
        yield from _disk_lines(disk, names if len(found.disks) > 1 else ())
    whose = "one GPU's" if any(len(group.devices) > 1 for group in found.groups) else "the GPU's"
    gpu = "" if found.vram_bytes is None else f"{gib(found.vram_bytes)} of {whose} memory, "
    yield f"peak   {gpu}{gib(found.ram_bytes)} of the host's memory"
    if found.seconds is None or found.ends_at is None:
        told = "not known before a picture like these was rendered here, or `renderer doctor` measured the GPU"
        yield from wrap(f"time   {told}", "       ")
        return
    yield f"time   {duration(found.seconds)}: from {found.begins_at:%H:%M} to {_when(found, found.ends_at)}"
    for each in found.urgencies:
        told = f"priority {each.priority:g} ({', '.join(each.manifests)}): until {_when(found, each.ends_at)}"
        yield from wrap(f"       {told}", "         ")


def _when(found: Forecast, at: datetime) -> str:
    return f"{at:%H:%M}" if at.date() == found.begins_at.date() else f"{at:%H:%M on %A, %d %B}"


def _disk_lines(disk: Disk, names: Sequence[str]) -> Iterator[str]:
    """What is written on a disk, of the manifests of these names where there are several."""
    of = f" ({', '.join(names)})" if names else ""
    parts = [f"{gb(disk.outputs_bytes)} of pictures{of}"]
    parts += [f"{gb(disk.download_bytes)} to download"] if disk.download_bytes else []
    parts += [f"{gb(disk.store_bytes)} for the packed store"] if disk.store_bytes else []
    free = f"{gb(disk.outputs_free_bytes)} free"
    free += "" if disk.same_disk else f", {gb(disk.models_free_bytes)} where models are"
    yield from wrap(f"disk   {', '.join(parts)}; {free}", "       ")
    if disk.short_bytes:
        yield from wrap(f"       NOT ENOUGH: {gb(disk.short_bytes)} are missing", "       ")


def _group_lines(group: GroupForecast) -> Iterator[str]:
    yield from wrap(
        f"{group.model} at {group.precision}: {counted(group.pictures, 'picture')}{_retakes(group)}, "
        f"profile {group.profile}",
        "  ",
    )
    for one in group.devices:
        yield from wrap(f"  {one.device:7}{'; '.join(_on(one))}", "         ")
    peak, there = group.estimate.peak, group.available_bytes
    if not group.devices and group.slots is not None:
        yield from wrap(f"  how    {_how(group)}", "         ")
    if there is not None and not group.devices:
        of = f"{gib(peak.bytes)} of {gib(there)} beside CUDA's context"
        most = f"{peak.largest.name} {gib(peak.largest.bytes)}"
        yield from wrap(f"  GPU    {of}, while it has to {peak.name} (most: {most})", "         ")
    workers = f" for each of {len(group.devices)} workers" if group.devices else ""
    yield from wrap(f"  host   {gib(group.host.bytes)}{workers} (most: {group.host.largest.name})", "         ")
    if group.loras:
        yield f"  LoRAs  {group.loras}, of {gb(group.lora_bytes)}"
    if group.controlnets:
        yield f"  beside {counted(group.controlnets, 'ControlNet')}, of {gb(group.controlnet_bytes)}"
    if group.licences:
        under: dict[str, list[str]] = {}
        for name, licence in group.licences.items():
            under.setdefault(licence, []).append(name)
        told = "; ".join(f"{licence} ({', '.join(names)})" for licence, names in under.items())
        yield from wrap(f"  under  {told}", "         ")
    if group.seconds is not None and group.step_s is not None:
        spent = group.seconds
        told = "as earlier pictures were" if group.measured else "by arithmetic and rates"
        each = (spent.denoise + spent.decode + spent.encode) / (group.pictures + group.retakes)
        parts = f"start {duration(spent.start)}, prompts {duration(spent.encode)}, steps {duration(spent.denoise)}"
        longest = "" if group.devices else f"; {_longest(group)}"
        yield from wrap(
            f"  time   {parts}, decode {duration(spent.decode)}: {duration(each)} a picture{longest} ({told})",
            "         ",
        )


def _longest(group: GroupForecast) -> str:
    """What the picture takes for a step that takes most, and what that waits for."""
    return f"{group.step_s:.2f} s for the longest step{f', bound by {group.limit}' if group.limit else ''}"


def _on(one: GroupForecast) -> Iterator[str]:
    """What one of several devices does of a group: its pictures, what they take there, and its memory."""
    parts = [one.card] if one.card else []
    if one.dealt is not None:
        parts.append(counted(one.dealt, "picture"))
    if (spent := one.seconds) is not None and one.step_s is not None:
        each = (spent.denoise + spent.decode + spent.encode) / (one.pictures + one.retakes)
        parts.append(f"{duration(each)} each, {_longest(one)}")
    if parts:
        yield ", ".join(parts)
    yield _how(one)
    if one.available_bytes is not None:
        yield f"{gib(one.estimate.peak.bytes)} of {gib(one.available_bytes)} beside CUDA's context"


def _retakes(group: GroupForecast) -> str:
    count = round(group.retakes)
    return f" and about {counted(count, 'retake')}" if count else ""


def _how(group: GroupForecast) -> str:
    """How pictures are rendered on a device."""
    flight = f"{group.in_flight} in flight" if group.in_flight > 1 else "one picture at a time"
    if group.slots is None:
        return flight
    waiting = "the disk" if group.from_disk else "host memory"
    place = f"{group.slots} of {group.blocks} blocks on the GPU, the others come from {waiting}"
    if group.slots >= group.blocks:
        place = f"all {group.blocks} blocks stay {'in memory' if group.available_bytes is None else 'on the GPU'}"
    return f"{place}; {flight}"


def _as_dict(plans: Sequence[Plan], found: Forecast) -> dict[str, Any]:
    return {
        "manifests": [
            {
                "manifest": plan.manifest.file,
                "name": plan.manifest.name,
                "folder": str(plan.folder.path),
                "warnings": [asdict(warning) for warning in plan.manifest.warnings],
                "pictures": [
                    {
                        "id": item.picture.id,
                        "state": "refused" if item.picture.job in found.refused else item.state,
                        "note": item.note,
                        "refusal": _refusal_as_dict(found.refused.get(item.picture.job)),
                        "file": str(plan.folder.picture(item.picture.output, item.picture.keep.format)),
                        "fingerprint": item.fingerprint,
                        "line": item.picture.place.line,
                        "job": item.picture.job.model_dump(mode="json"),
                    }
                    for item in plan.chosen
                ],
            }
            for plan in plans
        ],
        "remarks": [remark for plan in plans for remark in plan.manifest.remarks],
        "forecast": found.as_dict(),
    }


def _refusal_as_dict(refusal: SizeRefusal | None) -> dict[str, Any] | None:
    if refusal is None:
        return None
    return {
        "message": refusal.message,
        "hint": refusal.hint,
        "needed_bytes": refusal.needed_bytes,
        "available_bytes": refusal.available_bytes,
        "nearest": str(refusal.nearest) if refusal.nearest else None,
    }
