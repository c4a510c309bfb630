"""The door to what is known before anything is rendered: `renderer plan` and `estimate`.

Words, tables of at most 80 columns and JSON for what `manifest`, `plan`, `forecast` and `estimate` say. Imports no
torch. Whatever takes time to import is imported by the command.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, get_args

from pydantic import TypeAdapter, ValidationError

from renderer.cli.manifests import Load, Loaded
from renderer.job import Precision, Profile
from renderer.manifest.fields import AmountOfBytes
from renderer.system import streams
from renderer.text import counted, cut, duration, gb, gib, wrap

if TYPE_CHECKING:
    from renderer.machine.hardware import Machine
    from renderer.machine.rates import Rates
    from renderer.planning.fitting import SizeRefusal
    from renderer.planning.forecast import Assumptions, Forecast, GroupForecast
    from renderer.planning.plan import Plan

WIDTH = 80
_LEAST_BYTES = 2**20
_MOST_IN_FLIGHT = 16
_MOST_TOKENS = 4096


def add_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], manifests: argparse.ArgumentParser, load: Load
) -> None:
    """Give the parser its commands. `load` reads the manifests that the options name."""
    plan = commands.add_parser("plan", parents=[manifests], help="what would be rendered, and what that will take")
    plan.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="ID",
        help="this picture or job, or a pattern like 'moon*'; repeatable",
    )
    plan.add_argument("--force", action="store_true", help="as if nothing were done")
    plan.add_argument("--profile", choices=["auto", *get_args(Profile)], default="auto", help="as render would")
    add_machine_options(plan)
    plan.add_argument("--json", action="store_true", help="for machines")
    plan.set_defaults(command=lambda options: show_plan(options, load(options)))

    estimate = commands.add_parser("estimate", help="memory that a picture takes, stage by stage, and whether it fits")
    _add_estimate_options(estimate)
    estimate.set_defaults(command=_estimate)


def _add_estimate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default="Qwen/Qwen-Image", metavar="ID", help="a model's id, or stable-diffusion-v1-5"
    )
    parser.add_argument("--size", default="1:1", metavar="WxH", help="pixels, or a ratio like 16:9 (default: 1:1)")
    parser.add_argument("--precision", choices=get_args(Precision), default="fp8", help="default: fp8")
    parser.add_argument("--profile", choices=get_args(Profile), default="stream", help="default: stream")
    parser.add_argument("--cfg", type=float, metavar="N", help="guidance; 1 turns it off (default: the model's)")
    parser.add_argument("--prompt-tokens", type=whole(0, _MOST_TOKENS), default=64, metavar="N", help="64")
    parser.add_argument("--in-flight", type=whole(1, _MOST_IN_FLIGHT), default=1, metavar="N", help="default: 1")
    parser.add_argument("--slots", type=whole(2, 1000), metavar="N", help="blocks on the GPU (default: what fits)")
    parser.add_argument("--plain-attention", action="store_true", help="as on a card without fused attention")
    add_machine_options(parser)
    parser.add_argument("--json", action="store_true", help="for machines")


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """Options that plan for another machine than this one."""
    parser.add_argument("--vram", type=amount_of_bytes, metavar="BYTES", help="GPU memory to use at most, like 10GiB")
    parser.add_argument("--ram", type=amount_of_bytes, metavar="BYTES", help="as if this much host memory were free")
    parser.add_argument("--gpu", metavar="NAME", help='as if this were the card, like "RTX 3080"')


def _estimate(options: argparse.Namespace) -> int:
    from renderer.cli import estimate as estimate_cli  # noqa: PLC0415

    return estimate_cli.show(options, terms(options).machine)


def show_plan(options: argparse.Namespace, loaded: Loaded) -> int:
    """Say what would become of each picture, and what it would take; nothing is rendered."""
    from renderer.cli import console  # noqa: PLC0415
    from renderer.planning import forecast  # noqa: PLC0415
    from renderer.planning.plan import check_chosen, make_plan  # noqa: PLC0415

    told = [*loaded.problems, *loaded.warnings]
    check_chosen(loaded.manifests, options.only)
    plans = [
        make_plan(manifest, options.outputs, only=options.only, force=options.force) for manifest in loaded.manifests
    ]
    found = forecast.forecast(plans, terms(options), datetime.now().astimezone())
    if options.json:
        print(json.dumps(_as_dict(plans, found), indent=2, ensure_ascii=False))
        return console.print_problems(told, console.MOST_WARNINGS)
    for plan in plans:
        print(streams.harmless("\n".join(_plan_lines(plan, found))))
    for line in _forecast_lines(found):
        print(streams.harmless(line))
    return console.print_problems(told, console.MOST_WARNINGS)


# ---- which machine ---------------------------------------------------------------------------------------------------


def terms(options: argparse.Namespace) -> Assumptions:
    """The machine that is planned for: this one, or another where `--gpu` or `--ram` say so."""
    from renderer.machine import hardware  # noqa: PLC0415
    from renderer.planning.forecast import Assumptions  # noqa: PLC0415

    asked = vars(options)
    here = hardware.look()
    profile = asked.get("profile")
    there, rates = described(here, asked.get("gpu"), asked.get("vram"), asked.get("ram"))
    return Assumptions(
        machine=there,
        profile=None if profile in (None, "auto") else profile,
        vram_bytes=asked.get("vram"),
        rates=rates,
        ready=there != here,
    )


def described(
    here: Machine, name: str | None, vram_bytes: int | None, ram_bytes: int | None
) -> tuple[Machine, Rates | None]:
    """A machine with another card or other memory than this one, and its rates, if they are known.

    Raises `UsageError` for a card that nobody knows.
    """
    from renderer.catalog import cards  # noqa: PLC0415
    from renderer.machine import rates  # noqa: PLC0415
    from renderer.machine.gpus import LocalGpu  # noqa: PLC0415

    there = here if ram_bytes is None else replace(here, ram_bytes=ram_bytes, ram_free_bytes=ram_bytes)
    if name is not None:
        match = cards.find(name)
        if match.note:
            print(f"note: {name}: {match.note}", file=sys.stderr)
        card = match.card
        size = vram_bytes if vram_bytes is not None else card.memory_bytes
        gpu = LocalGpu(0, card.name, "", size, size, "", card.compute_capability)
        return replace(there, gpus=(gpu,)), rates.of_card(card)
    if here.gpu is None and vram_bytes is not None:
        return replace(there, gpus=(LocalGpu(0, "some GPU", "", vram_bytes, vram_bytes, "", (8, 9)),)), None
    if here.gpu is None:  # a CPU's rates, measured at a large model's shapes, tell nothing of the demo model
        return there, None
    own = cards.of_gpu(here.gpu.name, here.gpu.total_bytes)
    return there, rates.cached(here) or (rates.of_card(own) if own else None)


# ---- words -----------------------------------------------------------------------------------------------------------


def _plan_lines(plan: Plan, found: Forecast) -> Iterator[str]:

    yield cut(f"{plan.manifest.file} ▶ {plan.folder.path}", WIDTH)
    refused = 0
    told: set[SizeRefusal] = set()
    for item in plan.chosen:
        job, refusal = item.picture.job, found.refused.get(item.picture.job)
        refused += refusal is not None
        state = "refused" if refusal else item.state
        line = f"  {state:9} {f'{job.width}x{job.height}':>9} {job.num_inference_steps:>3} steps  {item.picture.id}"
        yield cut(f"{line}  ({item.note})" if item.note and not refusal else line, WIDTH)
        if refusal is not None and refusal not in told:  # once a size
            told.add(refusal)
            yield from wrap(f"            {refusal.message}; {refusal.hint}", "            ")
    left = counted(len(plan.to_render()) - refused, "picture")
    there = len(plan.to_bring()) + len(plan.twins())
    bring = f", {there} to move, copy or keep another way" if there else ""
    yield f"  {left} to render{bring}, {plan.count('done')} done" + (f", {refused} refused" if refused else "")


def _forecast_lines(found: Forecast) -> Iterator[str]:

    for group in found.groups:
        yield ""
        yield from _group_lines(group)
    for trouble in found.troubles:
        yield ""
        yield from wrap(f"cannot be rendered here: {trouble}", "")
    for mixture in found.mixtures:
        yield ""
        yield from wrap(f"note: {mixture}", "  ")
    if not found.groups:
        return
    yield ""
    disk = found.disk
    parts = [f"{gb(disk.outputs_bytes)} of pictures"]
    parts += [f"{gb(disk.download_bytes)} to download"] if disk.download_bytes else []
    parts += [f"{gb(disk.store_bytes)} for the packed store"] if disk.store_bytes else []
    free = f"{gb(disk.outputs_free_bytes)} free"
    free += "" if disk.same_disk else f", {gb(disk.models_free_bytes)} where models are"
    yield from wrap(f"disk   {', '.join(parts)}; {free}", "       ")
    if disk.short_bytes:
        yield from wrap(f"       NOT ENOUGH: {gb(disk.short_bytes)} are missing", "       ")
    gpu = "" if found.vram_bytes is None else f"{gib(found.vram_bytes)} of the GPU's memory, "
    yield f"peak   {gpu}{gib(found.ram_bytes)} of the host's memory"
    if found.seconds is None or found.ends_at is None:
        told = "not known before a picture like these was rendered here, or `renderer doctor` measured the GPU"
        yield from wrap(f"time   {told}", "       ")
        return
    when = "%H:%M" if found.ends_at.date() == found.begins_at.date() else "%H:%M on %A, %d %B"
    yield f"time   {duration(found.seconds)}: from {found.begins_at:%H:%M} to {found.ends_at:{when}}"


def _group_lines(group: GroupForecast) -> Iterator[str]:

    yield from wrap(
        f"{group.model} at {group.precision}: {counted(group.pictures, 'picture')}, profile {group.profile}", "  "
    )
    peak, there = group.estimate.peak, group.available_bytes
    if group.slots is not None:
        waiting = "the disk" if group.from_disk else "host memory"
        place = f"{group.slots} of {group.blocks} blocks on the GPU, the others come from {waiting}"
        if group.slots >= group.blocks:
            place = f"all {group.blocks} blocks stay {'in memory' if there is None else 'on the GPU'}"
        flight = f"{group.in_flight} in flight" if group.in_flight > 1 else "one picture at a time"
        yield from wrap(f"  how    {place}; {flight}", "         ")
    if there is not None:
        of = f"{gib(peak.bytes)} of {gib(there)} beside CUDA's context"
        most = f"{peak.largest.name} {gib(peak.largest.bytes)}"
        yield from wrap(f"  GPU    {of}, while it has to {peak.name} (most: {most})", "         ")
    yield from wrap(f"  host   {gib(group.host.bytes)} (most: {group.host.largest.name})", "         ")
    if group.seconds is not None and group.step_s is not None:
        spent = group.seconds
        told = "as earlier pictures were" if group.measured else "by arithmetic and rates"
        each = (spent.denoise + spent.decode + spent.encode) / group.pictures
        parts = f"start {duration(spent.start)}, prompts {duration(spent.encode)}, steps {duration(spent.denoise)}"
        yield from wrap(
            f"  time   {parts}, decode {duration(spent.decode)}: {duration(each)} a picture; {group.step_s:.2f} s for "
            f"the longest step{f', bound by {group.limit}' if group.limit else ''} ({told})",
            "         ",
        )


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


def amount_of_bytes(text: str) -> int:
    """An argument like 10GiB."""
    try:
        amount: int = TypeAdapter(AmountOfBytes).validate_python(int(text) if text.isdecimal() else text)
    except ValidationError:
        raise argparse.ArgumentTypeError(f'{text!r} is not an amount of bytes like "10GiB"') from None
    if amount < _LEAST_BYTES:
        hint = f'; did you mean "{text}GiB"?' if text.isdecimal() else ""
        raise argparse.ArgumentTypeError(f"{text!r} is {counted(amount, 'byte')}, too few for anything{hint}")
    return amount


def whole(least: int, most: int) -> Callable[[str], int]:
    """Reads a whole number between two, for argparse."""

    def read(text: str) -> int:
        if text.isdecimal() and least <= int(text) <= most:
            return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")

    return read
