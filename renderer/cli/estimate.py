"""The door to the arithmetic of memory: `renderer estimate`. One kind of picture, stage by stage, and whether it fits.

Tables of at most 80 columns, or JSON. Imports no torch.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

from renderer import catalog, estimate
from renderer.catalog import MOST_TOKENS, Model
from renderer.cli import arguments
from renderer.cli.assumptions import assumptions
from renderer.cli.estimate_answers import MemoryAnswer, SeveralAnswers, lines_of
from renderer.errors import EXIT_DONE, EXIT_MACHINE, MachineError, UsageError
from renderer.estimate import Kernels, Native, Streaming, Work, decide, fitted, host
from renderer.estimate.looking import told_tokens
from renderer.estimate.memory import TURNING_SLOTS
from renderer.job import Edit, Input, Precision, Profile, Size
from renderer.job.precisions import DEFAULT_PRECISION, multiplies_stored, stored
from renderer.machine.hardware import Machine
from renderer.machine.rates import Rates
from renderer.planning import deployment, fitting, pace, placement
from renderer.planning.forecast import Assumptions
from renderer.planning.pace import Way
from renderer.text import counted

OTHER = "stable-diffusion-v1-5"
"""Another architecture, which is not rendered with."""

_OTHER_LEAST_SIDE = 64
_NEWEST = (9, 0)  # what is reckoned for where no card is named

_SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")


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
    arguments.add_gpus(parser)
    arguments.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Say what a picture takes on the machine that was asked about, and whether it fits."""
    terms = assumptions(options)
    if terms.devices:
        return _run_several(options, terms)
    answer = _answer(options, terms.machine, terms.rates)
    if options.json:
        print(json.dumps(answer.as_dict(), indent=2, ensure_ascii=False))
    else:
        print("\n".join(lines_of(answer)))
    return EXIT_MACHINE if answer.fits is False else EXIT_DONE


def _run_several(options: argparse.Namespace, terms: Assumptions) -> int:
    """Say it of each device, and how long a picture takes all of them together.

    A device that cannot open the model is left out, as by `render`. Raises `MachineError` where none can.
    """
    several: dict[str, MemoryAnswer] = {}
    troubles: dict[str, MachineError] = {}
    for device, known in terms.devices:
        name = f"{device.label}, {device.machine.gpu.described}" if device.machine.gpu else device.label
        try:
            answer = _answer(options, device.machine, known)
            if options.profile != "stream" and answer.host is not None:
                deployment.check_host(answer.kind, answer.host, device.machine.ram_free_bytes, len(terms.devices))
            several[name] = answer
        except MachineError as error:
            troubles[name] = error
    if not several:
        raise next(iter(troubles.values()))
    found = SeveralAnswers(several, {name: error.message for name, error in troubles.items()})
    if options.json:
        print(json.dumps(found.as_dict(), indent=2, ensure_ascii=False))
    else:
        print("\n".join(found.lines()))
    return EXIT_MACHINE if found.fits is False else EXIT_DONE


def _answer(options: argparse.Namespace, there: Machine, known: Rates | None) -> MemoryAnswer:
    return _other(options, there) if options.model == OTHER else _ours(options, there, known)


def _ours(options: argparse.Namespace, there: Machine, known: Rates | None) -> MemoryAnswer:
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
        return _streamed(options, model, work, kernels, there, known)
    choice = placement.choose_profile(model, options.precision, there, options.profile, options.vram)
    native = Native(estimate.shape_of(model), stored(options.precision), options.profile, choice.vram_bytes, kernels)
    found = native.estimate(work)
    ways = ("--profile stream takes less: blocks come to the pictures",)
    shape = estimate.shape_of(model)
    resident = host.estimate_host(shape, stored(options.precision), options.profile)
    answer = MemoryAnswer(_title(options, model, work), found, native.needed(work), available, ways, resident.bytes)
    return replace(answer, picture_s=_picture_s(options, model, work, Way(shape.layers, 1), known))


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
    options: argparse.Namespace, model: Model, work: Work, kernels: Kernels, machine: Machine, known: Rates | None
) -> MemoryAnswer:
    shape, available = estimate.shape_of(model), fitting.allocator_bytes(machine, options.vram)
    if options.slots is not None and options.slots > shape.layers:
        raise UsageError(f"--slots {options.slots}: {model.id} has {shape.layers} blocks")
    streaming = Streaming(shape, stored(options.precision), options.slots or TURNING_SLOTS, kernels)
    works = [work] * options.in_flight
    slots = options.slots
    if slots is None:
        slots = shape.layers if available is None else decide.slots_beside(streaming, [works], available)
    there = replace(streaming, slots=slots)
    company = f"{options.in_flight} in flight" if options.in_flight > 1 else "alone"
    how = f"{slots} of {shape.layers} blocks on the GPU, {company}"
    kept, host_has = stored(options.precision), (machine.ram_free_bytes, machine.sharers)
    resident = host.estimate_host(shape, kept, split=work.split, free_bytes=host_has[0], sharers=host_has[1])
    from_disk = not host.blocks_in_memory(shape, kept, *host_has)
    ways = tuple(_ways(model, streaming, work, works, available)) if available is not None else ()
    return MemoryAnswer(
        kind=_title(options, model, work),
        estimate=there.estimate(works),
        needed=decide.needed(there, works),
        available=available,
        ways=ways,
        host=resident.bytes,
        how=how + (", the others come from the disk" if from_disk and slots < shape.layers else ""),
        picture_s=_picture_s(options, model, work, Way(slots, options.in_flight, from_disk=from_disk), known),
    )


def _picture_s(options: argparse.Namespace, model: Model, work: Work, way: Way, known: Rates | None) -> float | None:
    if known is None:
        return None
    shape = estimate.shape_of(model)
    return pace.work_seconds(shape, work, model.steps, options.precision, options.profile, way, known)[0]


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
