"""The door to the arithmetic of memory: `renderer estimate`. One kind of picture, stage by stage, and whether it fits.

Tables of at most 80 columns, or JSON. Imports no torch.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, get_args

from renderer import catalog, estimate
from renderer.catalog import MOST_TOKENS, Model
from renderer.cli import arguments
from renderer.cli.assumptions import assumptions
from renderer.errors import EXIT_DONE, EXIT_MACHINE, UsageError
from renderer.estimate import Estimate, Kernels, Native, Streaming, Term, Work, decide, fitted, host
from renderer.estimate.looking import told_tokens
from renderer.estimate.memory import TURNING_SLOTS
from renderer.job import Edit, Input, Precision, Profile, Size
from renderer.job.precisions import DEFAULT_PRECISION, multiplies_stored, stored
from renderer.machine.hardware import Machine
from renderer.planning import fitting, placement
from renderer.text import counted, gib, wrap

OTHER = "stable-diffusion-v1-5"
"""Another architecture, which is not rendered with."""

_OTHER_LEAST_SIDE = 64
_NEWEST = (9, 0)  # what is reckoned for where no card is named

_SHOWN_BYTES = 2**30 // 200
"""Terms that round to nothing are in the JSON alone."""

_SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class MemoryAnswer:
    """What `estimate` says. `available` is what the allocator may hold, None where no GPU is known of."""

    title: str
    estimate: Estimate
    needed: int
    available: int | None
    ways: tuple[str, ...]
    host: int | None = None

    @property
    def fits(self) -> bool | None:
        return None if self.available is None else self.needed <= self.available


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser what the command takes."""
    parser.add_argument("--model", default="Qwen/Qwen-Image", metavar="ID", help=f"a model's id, or {OTHER}")
    parser.add_argument("--size", default="1:1", metavar="WxH", help="pixels, or a ratio like 16:9 (default: 1:1)")
    parser.add_argument(
        "--precision", choices=get_args(Precision), default=DEFAULT_PRECISION, help=f"default: {DEFAULT_PRECISION}"
    )
    parser.add_argument("--profile", choices=get_args(Profile), default="stream", help="default: stream")
    parser.add_argument("--cfg", type=float, metavar="N", help="guidance; 1 turns it off (default: the model's)")
    parser.add_argument("--prompt-tokens", type=arguments.whole(0, MOST_TOKENS), default=64, metavar="N", help="64")
    parser.add_argument(
        "--in-flight", type=arguments.whole(1, decide.MOST_IN_FLIGHT), default=1, metavar="N", help="default: 1"
    )
    parser.add_argument(
        "--slots", type=arguments.whole(2, 1000), metavar="N", help="blocks on the GPU (default: what fits)"
    )
    parser.add_argument("--plain-attention", action="store_true", help="as on a card without fused attention")
    arguments.add_machine_options(parser)
    arguments.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Say what a picture takes on the machine that was asked about, and whether it fits."""
    there = assumptions(options).machine
    answer = _other(options, there) if options.model == OTHER else _ours(options, there)
    if options.json:
        told: dict[str, Any] = {
            "title": answer.title,
            "fits": answer.fits,
            "needed_bytes": answer.needed,
            "available_bytes": answer.available,
            "host_bytes": answer.host,
            "ways": list(answer.ways),
            **answer.estimate.as_dict(),
        }
        print(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        print("\n".join(_lines(answer)))
    return EXIT_MACHINE if answer.fits is False else EXIT_DONE


def _ours(options: argparse.Namespace, there: Machine) -> MemoryAnswer:
    """A model of the family: streamed, or by one of DiffSynth's profiles."""
    model = catalog.find(options.model)
    if model.unfit:
        raise UsageError(model.unfit)
    size = _size(options.size, model)
    cfg = model.cfg_scale if options.cfg is None else options.cfg
    if cfg < 1:
        raise UsageError(f"--cfg {cfg:g}: guidance is 1, which turns it off, or more")
    work = _with_picture(Work(size.width, size.height, options.prompt_tokens, guided=cfg != 1.0), model)
    kernels = Kernels.of(
        there.gpu.compute_capability if there.gpu else _NEWEST,
        stored=multiplies_stored(options.precision),
    )
    kernels = replace(kernels, fused_attention=kernels.fused_attention and not options.plain_attention)
    available = fitting.allocator_bytes(there, options.vram)
    if options.profile == "stream":
        return _streamed(options, model, work, kernels, available)
    choice = placement.choose_profile(model, options.precision, there, options.profile, options.vram)
    native = Native(estimate.shape_of(model), stored(options.precision), options.profile, choice.vram_bytes, kernels)
    found = native.estimate(work)
    ways = ("--profile stream takes less: blocks come to the pictures",)
    resident = host.estimate_host(estimate.shape_of(model), stored(options.precision), options.profile)
    return MemoryAnswer(_title(options, model, work), found, native.needed(work), available, ways, resident.bytes)


def _and_besides(work: Work) -> str:
    """What goes in, in words."""
    if work.layer_num is not None:
        return f", taken apart into {counted(max(1, work.layer_num), 'layer')}"
    return ", one picture to edit" if work.edited else ""


def _with_picture(work: Work, model: Model) -> Work:
    """What is asked of a model that edits or takes apart: one picture of the same shape goes in."""
    if model.layering is not None:
        return replace(work, takes_in=True, layer_num=0 if model.layering.alone else model.layering.usual)
    if model.editing is None:
        return work
    own = model.editing
    one = Input(sha256="", width=work.width, height=work.height)
    edit = Edit(images=(one,), pixels=own.pixels, numbered=own.numbered, zero_cond_t=own.zero_cond_t)
    size, told = edit.size_of(one), told_tokens(edit)
    return replace(
        work,
        prompt_tokens=work.prompt_tokens + told,
        negative_tokens=work.negative_tokens + told,
        edited=((size.width, size.height),),
        split=edit.zero_cond_t,
    )


def _streamed(
    options: argparse.Namespace, model: Model, work: Work, kernels: Kernels, available: int | None
) -> MemoryAnswer:
    shape = estimate.shape_of(model)
    if options.slots is not None and options.slots > shape.layers:
        raise UsageError(f"--slots {options.slots}: {model.id} has {shape.layers} blocks")
    streaming = Streaming(shape, stored(options.precision), options.slots or TURNING_SLOTS, kernels)
    works = [work] * options.in_flight
    slots = options.slots
    if slots is None:
        slots = shape.layers if available is None else decide.slots_beside(streaming, [works], available)
    there = replace(streaming, slots=slots)
    company = f"{options.in_flight} in flight" if options.in_flight > 1 else "alone"
    title = f"{_title(options, model, work)}; {slots} of {shape.layers} blocks on the GPU, {company}"
    resident = host.estimate_host(shape, stored(options.precision), split=work.split)
    ways = tuple(_ways(model, streaming, work, works, available)) if available is not None else ()
    return MemoryAnswer(title, there.estimate(works), decide.needed(there, works), available, ways, resident.bytes)


def _ways(model: Model, streaming: Streaming, work: Work, works: list[Work], available: int) -> Iterator[str]:
    """What would fit, where this does not."""
    least = replace(streaming, slots=TURNING_SLOTS)
    if len(works) > 1 and decide.needed(least, [work]) <= available:
        yield "--in-flight 1 fits"
    if streaming.slots > TURNING_SLOTS and decide.needed(least, works) <= available:
        yield f"--slots {TURNING_SLOTS} fits"
    if nearest := decide.nearest_fitting(streaming, model, work, available):
        yield f"--size {nearest} fits"
    enough = decide.needed(least, works) + fitted.CONTEXT_BYTES
    yield f"--vram {-(-enough * 10 // 2**30) / 10:g}GiB would do, with 2 slots"


def _other(options: argparse.Namespace, there: Machine) -> MemoryAnswer:
    """Stable Diffusion 1.5 in fp16, all of it on the GPU."""
    match = _SIZE.fullmatch("512x512" if options.size == "1:1" else options.size)
    if not match or min(map(int, match.groups())) < _OTHER_LEAST_SIDE:
        raise UsageError(f"--size {options.size}: pixels like 512x512, {_OTHER_LEAST_SIDE} or more each way")
    width, height = map(int, match.groups())
    cfg = 7.5 if options.cfg is None else options.cfg
    fused = not options.plain_attention
    found = estimate.estimate_unet(height, width, options.prompt_tokens, cfg, options.in_flight, fused=fused)
    available = fitting.allocator_bytes(there, options.vram)
    if available is not None:
        available += fitted.CONTEXT_BYTES - found.context
    title = f"{OTHER}, {width}x{height}, fp16, {'fused' if fused else 'plain'} attention, batch of {options.in_flight}"
    return MemoryAnswer(title, found, found.allocated, available, ())


# ---- words -----------------------------------------------------------------------------------------------------------


def _title(options: argparse.Namespace, model: Model, work: Work) -> str:
    guided = "guided" if work.guided else "unguided"
    kind = f"{options.precision}, profile {options.profile}"
    told = counted(options.prompt_tokens, "prompt token") + _and_besides(work)
    return f"{model.id}, {work.width}x{work.height}, {kind}, {guided}, {told}"


def _lines(answer: MemoryAnswer) -> Iterator[str]:
    found = answer.estimate
    yield from wrap(answer.title, "  ")
    yield ""
    yield "  stage         GiB   most of it"
    for stage in found.stages:
        mark = "*" if stage is found.peak else " "
        first, second = sorted(stage.terms, key=lambda each: -each.bytes)[:2]
        yield f"{mark} {stage.name:9} {stage.bytes / 2**30:7.2f}   {_named(first)}, {_named(second)}"
    yield ""
    yield f"  the peak, to {found.peak.name}:"
    for term in sorted(found.peak.terms, key=lambda each: -each.bytes):
        if term.bytes >= _SHOWN_BYTES:
            yield f"  {term.bytes / 2**30:18.2f}   {term.name}"
    yield ""
    yield from wrap(
        f"GPU    {gib(found.allocated)} of tensors; up to {gib(found.reserved)} reserved where there is room; "
        f"{gib(found.context)} beside it for CUDA's context and kernels",
        "       ",
    )
    if answer.host is not None:
        yield f"host   {gib(answer.host)}"
    if answer.available is None:
        yield "fits   nobody knows: no GPU here; --vram or --gpu says what there is"
        return
    needed = f"{answer.needed / 2**30:.2f} of {answer.available / 2**30:.2f} GiB beside the context"
    yield f"fits   {'yes' if answer.fits else 'NO'}: {needed}"
    if not answer.fits:
        for way in answer.ways:
            yield from wrap(f"       {way}", "         ")


def _named(term: Term) -> str:
    return f"{term.name} {term.bytes / 2**30:.2f}"


# ---- arguments -------------------------------------------------------------------------------------------------------


def _size(text: str, model: Model) -> Size:
    """A size that the model renders. Raises `UsageError`."""
    if text in model.ratios:
        return model.ratios[text]
    match = _SIZE.fullmatch(text)
    if not match:
        known = ", ".join(model.ratios)
        raise UsageError(f'--size "{text}" is not a size', hint=f"pixels like 1328x1328, or one of {known}")
    size = Size(width=int(match[1]), height=int(match[2]))
    if reason := model.refusal(size):
        near = " or ".join(str(fitting) for fitting in model.nearest(size))
        raise UsageError(reason, hint=f"use {near}" if near else "")
    return size
