"""What was found by measuring, and not by reckoning: every such constant of the forecasts, with the data it is of.

Each names its files under `tests/benchmarks`, or says that it is assumed. `memory-h200.md`, `engine-h200.md` and
`time-h100.md` say which data fitted and which only tested. Knows no formulas.
"""

from __future__ import annotations

from renderer.text import GIB, MIB

# ---- memory: what the allocator and the device hold beside tensors ---------------------------------------------------

IN_VAIN = 0.48
"""Of the largest piece that comes and goes, what the allocator holds in holes that are too small for it
(`memory-h200.jsonl`; tested by `memory-h100.jsonl`)."""

BETWEEN = 0.35
"""Of what stays while such pieces come and go, as states of pictures that wait: the holes between them
(`memory-h200.jsonl`)."""

MOST_HOLES, MORE_HOLES = 400 * MIB, 0.05
"""In all holes together: they lie among what an earlier stage left, and are hardly larger than that, whatever comes
(`memory-h200.jsonl`)."""

PAGES_BEGUN = 15 * MIB
"""Of pages of 20 MiB each, begun and not filled (`memory-h200.jsonl`)."""

PAGES_BYTES, PAGES_PART = 96 * MIB, 0.01
"""Pages that tensors begin and end in, which the allocator cannot give back, and the part of a peak that they are
beside: by what rendered under caps and what did not (`verdicts-h200.jsonl`; tested by `verdicts-h100.jsonl`)."""

CONTEXT_BYTES = 1408 * MIB
"""On the device beside the allocator once all kernels are loaded: CUDA's context, modules (`memory-h200.md`)."""

EARLY_CONTEXT_BYTES = 500 * MIB
"""The same while DiffSynth still takes weights up: many kernels are loaded later (`memory-h200.md`)."""

NATIVE_HOLES_MOST, NATIVE_HOLES_OF_WORK, NATIVE_HOLES_OF_WEIGHTS = 500 * MIB, 0.6, 0.03
"""What is held in vain where weights are taken up one by one, between activations that come and go: of the activations
(at most so much), and of the weights. At 24, 16 and 10 GiB (`memory-h200.jsonl`)."""

LIBRARIES_BYTES = 5 * GIB // 2
"""Resident set of a worker beside its weights: torch, CUDA, DiffSynth, transformers (`engine-h200.md`)."""

# ---- time: what a machine keeps up of the rates that are measured for a moment ---------------------------------------

HOST_CALLS = {"fp8": 170, "int8": 170, "bf16": 250}
"""Of torch's shortest operation, as many as launching one block for one rider takes on the host.

By steps of 512x512 without recordings: fp8 0.071 s beside an H100, both passes together; bf16 by DiffSynth's own, 0.182
s beside an H100 and 0.148 beside an H200, which are 243 to 256 (`engine-h100.json`, `engine-h200.json`). int8 launches
as much as fp8.
"""

HOST_CALLS_RECORDED = 40
"""The same where a block's launches are recorded: bringing its rows, playing, taking them away. Assumed: they are fewer
than 84, for a step of 512x512 takes 0.048 s (`engine-h200.json`)."""

HOST_CALLS_MORE = 26
"""The same for one rider more that goes through a block with others: by the same step, and by eight passes of 512x512,
which wait for no launches (`engine-h100.json`)."""

BYTES_A_NUMBER = {"fp8": 43, "int8": 43, "bf16": 270}
"""What one block reads and writes between its products, for each token and channel: counted in `engine.scaled_blocks`.
Of DiffSynth's block, which passes over its rows some seventy times, it is by what an H200 and an H100 took at
1328x1328: 0.668 and 0.706 s a step, which are met within 5 % (`engine-h200.json`, `engine-h100.json`)."""

KERNELS = {"fp8": 20, "int8": 20, "bf16": 52}
"""Kernels that a block is for one rider, or in fp8 and int8 for all that go together: counted, with those that bring a
recording what it computes with, and take it away."""

KERNEL_S = 5.5e-6
"""What lies between kernels and at their ends, where the GPU is not filled: by steps of 512x512 to 1328x1328, which are
within 6 % with it (`engine-h100.json`)."""

KEPT_UP = 0.825
"""Of the rates that the probe measures for a moment, what a sweep of real shapes keeps up.

FP8 products of the engine's own shapes reach 0.92 to 0.99 of the probe's rate, attention 0.95. The rest, about 0.87, is
known from whole sweeps alone: clocks that fall under lasting load are likely. With it 1328x1328 in fp8 takes 0.318 s a
step, where 0.314 to 0.318 were measured (`engine-h200.json`); on an H100, which had no part in this figure, 0.327 where
0.313 to 0.316 were (`engine-h100.json`).
"""

DECODE_CONVOLUTIONS, DECODE_ATTENTION = 0.96, 0.19
"""Of the rates that are measured, what a decode's two parts reach (`decodes-h100.jsonl`).

Its convolutions take 15.3 ms a million pixels; the middle's one head of 384 channels takes 52.8 ms at 2048x2048, by
torch's memory-efficient kernel. Beside a host of half the speed the probe's short ones waited for it, and showed 0.79
of this rate: a decode took the same.
"""

DECODE_HOST_CALLS = 530
"""Of torch's shortest operation, as many as launching a decode takes on the host: by 512x512, which waited for the
slower host, 6.1 ms where the faster one took 4.6 (`decodes-h100.jsonl`)."""

UNPACKING_CALLS = 15
"""The same for unpacking a block's matrices, in four runs of one width, and copying what is beside them. Assumed: five
launches, most of them Triton's."""

LEAST_ROWS = 128
"""A product of fewer rows takes as long: the weights have to be read. Assumed."""

DISK_BYTES_PER_S = 2e9
"""Where no model's file has been read yet. Assumed: an NVMe disk."""

START_S = 8.0
"""From a worker's first breath to a loaded DiffSynth, before any weights (`time-h200.md`)."""
