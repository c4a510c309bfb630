"""Host memory of a worker, by arithmetic: what waits there, what is read there, and what the libraries take."""

from __future__ import annotations

from renderer.catalog import Shape
from renderer.estimate.terms import Stage, Term, terms
from renderer.estimate.weights import weight_bytes
from renderer.job import Profile, Stored
from renderer.text import GIB, MIB

LIBRARIES = 5 * GIB // 2
"""Resident set of a worker beside its weights: torch, CUDA, DiffSynth, transformers (measured)."""

MARGIN_BYTES = 4 * GIB
"""Host memory that `engine.slots` leaves to the rest of the worker and to everybody else."""

AHEAD = 4
"""Buffers of blocks that come from the disk: three reads under way, and one that is copied from."""


def estimate_host(
    shape: Shape,
    precision: Stored,
    profile: Profile = "stream",
    *,
    timesteps: int = 40,
    free_bytes: int | None = None,
) -> Stage:
    """Peak resident set of a worker. `timesteps` are those of all schedules; `free_bytes` what the host has.

    Streamed blocks wait in pinned memory where `free_bytes` allow, and otherwise are read from the disk, a few ahead.
    """
    weights = weight_bytes(shape, precision)
    libraries = terms(libraries=LIBRARIES)
    if profile == "stream":
        return Stage("host", libraries + _streamed(shape, precision, timesteps, free_bytes))
    if profile == "resident":
        return Stage("host", libraries + terms(one_file_as_it_is_loaded=10 * MIB))
    return Stage("host", libraries + terms(all_weights=weights.store))


def blocks_in_memory(shape: Shape, precision: Stored, free_bytes: int | None) -> bool:
    """Whether all of the DiT's blocks wait in host memory."""
    needed = shape.layers * weight_bytes(shape, precision).block + MARGIN_BYTES
    return free_bytes is None or needed <= free_bytes


def _streamed(shape: Shape, precision: Stored, timesteps: int, free_bytes: int | None) -> tuple[Term, ...]:
    weights = weight_bytes(shape, precision)
    waiting = shape.layers if blocks_in_memory(shape, precision, free_bytes) else AHEAD
    table = shape.layers * 2 * 6 * shape.width * 2  # as large as it is: `engine.slots.host_buffer` rounds to pages
    return terms(
        blocks_of_the_DiT=waiting * weights.block,
        layers_of_the_text_encoder=AHEAD * weights.text_block,
        modulation_tables=timesteps * table,
    )
