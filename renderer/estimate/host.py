"""Host memory of a worker, by arithmetic: what waits there, what is read there, and what the libraries take."""

from __future__ import annotations

from collections.abc import Iterable

from renderer.catalog import Architecture
from renderer.estimate.fitted import LIBRARIES_BYTES
from renderer.estimate.terms import Stage, Term, terms
from renderer.estimate.weights import weight_bytes
from renderer.job import Job, Profile, Stored
from renderer.text import GIB, MIB

MARGIN_BYTES = 4 * GIB
"""Host memory left to the rest of the worker, to the page cache and to everybody else."""

READS_AT_ONCE = 3
"""Reads of blocks from the disk that are under way together. Cold, a virtual disk gave blocks of 466 MB past the page
cache at 1.9, 2.0, 2.3 and 2.2 GB/s with 1, 2, 3 and 4, and through it at 1.1, 2.6, 2.3 and 2.4: a fourth only costs
memory. One buffer more is there to be copied from."""

MOST_TABLES = 512
"""Timesteps whose modulation is kept: 2.3 GB of host memory for Qwen-Image, or a dozen schedules of 40 steps."""

AT_HAND = 32
"""Pictures that a streaming worker is given at once, with what goes into each."""

PIXEL_BYTES = 4
"""Of a picture in Pillow's memory, whether or not it is transparent."""

OPENING_COPIES = 3
"""Of a picture that goes in, while it is opened: what is transparent, what is behind it, both in one."""


def estimate_host(
    shape: Architecture,
    precision: Stored,
    profile: Profile = "stream",
    *,
    timesteps: int = 40,
    split: bool = False,
    free_bytes: int | None = None,
    inputs_bytes: int = 0,
    sharers: int = 1,
) -> Stage:
    """Peak resident set of a worker. `timesteps` are those of all schedules; `free_bytes` what the host has.

    `split` says whether some are of edits whose pictures are modulated apart (DiffSynth's `zero_cond_t`).

    `inputs_bytes` is what pictures that go in take (`of_inputs`).

    Streamed blocks wait in pinned memory where `free_bytes` allow, and otherwise are read from the disk, a few ahead.
    Where several workers have one copy of them, it is a worker's part of it: `sharers` is how many they are.
    """
    weights = weight_bytes(shape, precision)
    libraries = terms(libraries=LIBRARIES_BYTES, **({"pictures_that_go_in": inputs_bytes} if inputs_bytes else {}))
    if profile == "stream":
        modulations = timesteps * (3 if split else 2)
        return Stage("host", libraries + _streamed(shape, precision, modulations, free_bytes, sharers))
    if profile == "resident":
        return Stage("host", libraries + terms(one_file_as_it_is_loaded=10 * MIB))
    return Stage("host", libraries + terms(all_weights=weights.store))


def of_inputs(jobs: Iterable[Job], profile: Profile) -> int:
    """Bytes of pictures that go into jobs: one at a time is opened, and they are held at their job's size.

    Beside that is its file, of 200 MiB at the most, of which nothing is known here.
    """
    wanted = [job for job in jobs if job.inputs]
    opened = max((each.width * each.height for job in wanted for each in job.inputs), default=0)
    held = sorted((_held(job) for job in wanted), reverse=True)
    return PIXEL_BYTES * (OPENING_COPIES * opened + sum(held[: AT_HAND if profile == "stream" else 1]))


def _held(job: Job) -> int:
    """Pixels of what goes into a job, as it is held: what is drawn over of its own size, what is edited of its."""
    controls = {net.image for net in job.controlnets}
    over = {job.input_image, job.layer_input_image, job.context_image, *controls, *job.mask_inputs} - {None}
    return len(over) * job.width * job.height + (len(job.edit.images) * job.edit.pixels if job.edit else 0)


def blocks_in_memory(shape: Architecture, precision: Stored, free_bytes: int | None, sharers: int = 1) -> bool:
    """Whether all of the DiT's blocks wait in host memory, of which a worker's part has `free_bytes` free.

    So many `sharers` have one copy between them.
    """
    count = -(-shape.layers * weight_bytes(shape, precision).block // sharers)
    return free_bytes is None or has_room(count, free_bytes)


def has_room(count: int, free_bytes: int) -> bool:
    """Whether so many bytes of blocks may wait in host memory, of which so many are free."""
    return count + MARGIN_BYTES <= free_bytes


def _streamed(
    shape: Architecture, precision: Stored, modulations: int, free_bytes: int | None, sharers: int
) -> tuple[Term, ...]:
    """`modulations` are those of a block in all timesteps: the image's, the text's, and those of pictures apart."""
    weights = weight_bytes(shape, precision)
    in_memory = blocks_in_memory(shape, precision, free_bytes, sharers)
    waiting = -(-shape.layers * weights.block // sharers) if in_memory else (READS_AT_ONCE + 1) * weights.block
    one = shape.layers * 6 * shape.width * 2  # as large as it is: `engine.pinned.host_buffer` rounds to pages
    return terms(
        blocks_of_the_DiT=waiting,
        layers_of_the_text_encoder=(READS_AT_ONCE + 1) * weights.text_block,
        modulation_tables=modulations * one,
    )
