"""How fast this device and its host are: `python -m renderer.engine.microbenchmark` says so in a line of JSON, in 2 s.

It holds the fields of `renderer.machine.rates.Rates`, or `error`. Each figure is the median of several runs after two
for warming up, of the shapes that the engine has. On the CPU the same code runs with small ones. Knows nothing of
models or jobs but where models' files lie.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.nn import functional

from renderer.engine import arithmetic, picture_vae
from renderer.engine.device import Device, arithmetic_of, computation_dtype
from renderer.engine.fp8_reference import FAST_ACCUMULATION
from renderer.engine.pinned import pinned_buffer
from renderer.engine.precision import multiplies
from renderer.engine.strips import Kernel, whole
from renderer.errors import MachineError
from renderer.machine.rates import CPU_DEVICE, Rates
from renderer.system import streams
from renderer.system.folders import models_folder
from renderer.text import MIB
from renderer.weights.codecs import Codec, fp8, int8

Figure = TypeVar("Figure")


WARM_UPS = 2
PROBE_RUNS = (3, 30)
"""At least, and at most so many."""

LAUNCHES = 200
"""Fewer than what a stream takes before the host has to wait."""

PROBE_READ_BYTES = 64 * MIB
READS = 4
"""From the disk: so many pieces of a file at once."""


@dataclass(frozen=True, slots=True)
class ProbeSizes:
    """What is measured: a product's rows, columns and depth; heads, their width, tokens; (channels, side); bytes."""

    rows: int
    width: int
    wide: int
    heads: int
    head: int
    tokens: int
    convolutions: tuple[tuple[int, int], ...]
    pass_bytes: int
    copy_bytes: int
    run_s: float


GPU_SIZES = ProbeSizes(
    rows=6912,
    width=3072,
    wide=12288,
    heads=24,
    head=128,
    tokens=6912,
    convolutions=((384, 64), (384, 128), (192, 256), (96, 512)),
    pass_bytes=512 * MIB,
    copy_bytes=256 * MIB,
    run_s=0.1,
)

CPU_SIZES = ProbeSizes(
    rows=64,
    width=384,
    wide=1536,
    heads=4,
    head=64,
    tokens=256,
    convolutions=((48, 16), (24, 32)),
    pass_bytes=32 * MIB,
    copy_bytes=32 * MIB,
    run_s=0.05,
)


def main() -> None:
    """Write the figures to stdout, and what libraries print to stderr."""
    sys.stdout.flush()
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    streams.settle()
    try:
        found = measure("cuda" if torch.cuda.is_available() else "cpu").model_dump()
    except Exception as error:  # noqa: BLE001  # whatever is wrong here is what was asked for
        notes: list[str] = getattr(error, "__notes__", [])
        words = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        found = {"error": ": ".join([*notes, words])}
    with os.fdopen(answer, "w", encoding="utf-8") as stream:
        stream.write(json.dumps(found, indent=2) + "\n")


def measure(device: Device, sizes: ProbeSizes | None = None) -> Rates:
    """All figures of one device. What goes wrong is raised, with a note of which figure it was."""
    sizes = sizes or (GPU_SIZES if device == "cuda" else CPU_SIZES)
    bench = Bench(device, sizes)
    with torch.inference_mode():
        return Rates(
            source="measured",
            device=torch.cuda.get_device_name() if device == "cuda" else CPU_DEVICE,
            arithmetic=arithmetic_of(device),
            product_flops=_named("product", bench.product),
            fp8_flops=_named("FP8 product", bench.fp8_product) if _has(fp8.CODEC, device) else None,
            int8_flops=_named("int8 product", bench.int8_product) if _has(int8.CODEC, device) else None,
            attention_flops=_named("attention", bench.attention),
            convolution_flops=_named("convolutions", bench.convolutions),
            memory_bytes_per_s=_named("memory", bench.memory),
            pinned_bytes_per_s=_named("copies from pinned memory", bench.pinned),
            pageable_bytes_per_s=_named("copies from pageable memory", bench.pageable),
            host_copy_bytes_per_s=_named("copies within host memory", bench.host_copy),
            disk_bytes_per_s=_named("disk", lambda: disk_bytes_per_s(models_folder())),
            launch_s=_named("launches", bench.launch),
        )


def _has(codec: Codec, device: Device) -> bool:
    """Whether products of what a codec keeps are a card's own; a CPU has none that are worth a rate of their own."""
    return device == "cuda" and multiplies(codec, device)


def _named(what: str, find: Callable[[], Figure]) -> Figure:
    try:
        return find()
    except Exception as error:
        error.add_note(what)
        raise


class Bench:
    """Measures one device."""

    def __init__(self, device: Device, sizes: ProbeSizes) -> None:
        self._device = device
        self._sizes = sizes

    # -- arithmetic: operations a second --

    def product(self) -> float:
        sizes = self._sizes
        rows, weight = self._random(sizes.rows, sizes.width), self._random(sizes.wide, sizes.width)
        return self._flops(sizes) / self._seconds(lambda: functional.linear(rows, weight))

    def fp8_product(self) -> float:
        """With a scale for each row and each column, as in the blocks."""
        sizes = self._sizes
        rows = self._random(sizes.rows, sizes.width).to(torch.float8_e4m3fn)
        weight = self._random(sizes.wide, sizes.width).to(torch.float8_e4m3fn).t()
        row_scales = torch.ones(sizes.rows, 1, device=self._device)
        column_scales = torch.ones(1, sizes.wide, device=self._device)

        def multiply() -> Any:
            return torch._scaled_mm(  # noqa: SLF001  # torch has no public name for it
                rows,
                weight,
                scale_a=row_scales,
                scale_b=column_scales,
                out_dtype=torch.bfloat16,
                use_fast_accum=FAST_ACCUMULATION,
            )

        return self._flops(sizes) / self._seconds(multiply)

    def int8_product(self) -> float:
        """By what blocks are computed with here."""
        sizes = self._sizes
        run = arithmetic.operations(int8.CODEC.arithmetic, self._device)
        rows = run.quantise(self._random(sizes.rows, sizes.width))
        weight = run.as_stored(self._random(sizes.wide, sizes.width))
        scale, bias = torch.ones(sizes.wide, device=self._device), self._random(sizes.wide)
        return self._flops(sizes) / self._seconds(lambda: run.multiply(rows, weight, scale, bias))

    def attention(self) -> float:
        sizes = self._sizes
        query, key, value = (self._random(1, sizes.heads, sizes.tokens, sizes.head) for _ in range(3))
        seconds = self._seconds(lambda: functional.scaled_dot_product_attention(query, key, value))
        return 4.0 * sizes.heads * sizes.head * sizes.tokens**2 / seconds

    def convolutions(self) -> float:
        """As in decoding one frame: norm, activation, 3 x 3, by what the VAE is computed with here."""
        run = picture_vae.operations(torch.device(self._device))
        flops = seconds = 0.0
        for channels, side in self._sizes.convolutions:
            frame = self._random(side, side, channels)
            kernel = Kernel(self._random(channels, 9 * channels), self._random(channels).float(), side=3, pad=1)

            def convolve(frame: Any = frame, kernel: Kernel = kernel) -> Any:
                normed = run.normalise(frame, kernel.bias, silu=True)
                return run.convolve(whole(normed), kernel, 0, len(normed))

            seconds += self._seconds(convolve, share=1 / len(self._sizes.convolutions))
            flops += 2.0 * 9 * channels**2 * side**2
        return flops / seconds

    # -- bytes a second --

    def memory(self) -> float:
        """A pass that reads and writes as much."""
        source = torch.zeros(self._sizes.pass_bytes // 2, dtype=torch.bfloat16, device=self._device)
        target = torch.empty_like(source)
        return 2.0 * self._sizes.pass_bytes / self._seconds(lambda: torch.add(source, 1, out=target))

    def pinned(self) -> float | None:
        """From memory as blocks have it; None where none can be pinned."""
        try:
            buffer = pinned_buffer(self._sizes.copy_bytes, self._device, _touch)
        except MachineError:
            return None
        return self._copies(buffer)

    def pageable(self) -> float:
        return self._copies(torch.zeros(self._sizes.copy_bytes, dtype=torch.uint8))

    def host_copy(self) -> float:
        source = torch.zeros(self._sizes.copy_bytes, dtype=torch.uint8)
        target = torch.zeros_like(source)
        return self._sizes.copy_bytes / _host_seconds(lambda: target.copy_(source), self._sizes.run_s)

    def _copies(self, buffer: Any) -> float:
        target = torch.empty(self._sizes.copy_bytes, dtype=torch.uint8, device=self._device)
        return self._sizes.copy_bytes / self._seconds(lambda: target.copy_(buffer, non_blocking=True))

    # -- seconds --

    def launch(self) -> float:
        """Of the host, for torch's shortest operation."""
        value = torch.zeros(1, device=self._device)

        def enqueue() -> None:
            for _ in range(LAUNCHES):
                value.add_(1)

        found = []
        for _ in range(WARM_UPS + 7):
            self._wait()
            began_s = time.perf_counter()
            enqueue()
            found.append((time.perf_counter() - began_s) / LAUNCHES)
        return statistics.median(found[WARM_UPS:])

    def _seconds(self, work: Callable[[], Any], share: float = 1.0) -> float:
        """The median of several runs, each by the device's own clock."""
        if self._device == "cpu":
            return _host_seconds(work, self._sizes.run_s * share)
        for _ in range(WARM_UPS):
            work()
        self._wait()
        began_s = time.perf_counter()
        work()
        self._wait()
        runs = _runs(time.perf_counter() - began_s, self._sizes.run_s * share)
        moments = [torch.cuda.Event(enable_timing=True) for _ in range(runs + 1)]
        moments[0].record()
        for moment in moments[1:]:
            work()
            moment.record()
        self._wait()
        took = (first.elapsed_time(second) for first, second in itertools.pairwise(moments))
        return statistics.median(took) / 1000

    def _wait(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()

    def _random(self, *shape: int) -> Any:
        return torch.randn(shape, dtype=computation_dtype(self._device), device=self._device)

    @staticmethod
    def _flops(sizes: ProbeSizes) -> float:
        return 2.0 * sizes.rows * sizes.width * sizes.wide


def disk_bytes_per_s(folder: Path) -> float | None:
    """Reading the largest weights below a folder, several pieces at once and not from the page cache; None: no such.

    The pieces read are dropped from the cache first. What is too small to tell anything is not read.
    """
    found = ((path.stat().st_size, path) for path in folder.rglob("*.safetensors") if path.is_file())
    size, path = max(found, default=(0, folder))
    if size < READS * PROBE_READ_BYTES or not hasattr(os, "posix_fadvise"):
        return None

    def read(place: int) -> None:
        start = place * (size // READS)
        with path.open("rb", buffering=0) as stream:
            os.posix_fadvise(stream.fileno(), start, PROBE_READ_BYTES, os.POSIX_FADV_DONTNEED)
            stream.seek(start)
            buffer = memoryview(bytearray(4 * MIB))
            for _ in range(PROBE_READ_BYTES // len(buffer)):
                stream.readinto(buffer)

    with contextlib.suppress(OSError), ThreadPoolExecutor(READS) as pool:
        began_s = time.perf_counter()
        list(pool.map(read, range(READS)))
        return READS * PROBE_READ_BYTES / (time.perf_counter() - began_s)
    return None


def _touch(memory: Any) -> None:
    memory.zero_()


def _host_seconds(work: Callable[[], Any], run_s: float) -> float:
    for _ in range(WARM_UPS):
        work()
    took: list[float] = []
    runs = PROBE_RUNS[0]
    while len(took) < runs:
        began_s = time.perf_counter()
        work()
        took.append(time.perf_counter() - began_s)
        runs = _runs(took[0], run_s)
    return statistics.median(took)


def _runs(one_s: float, run_s: float) -> int:
    """How often to run what takes `one_s`, to spend `run_s` on it."""
    least, most = PROBE_RUNS
    return max(least, min(most, int(run_s / max(one_s, 1e-9))))


if __name__ == "__main__":
    main()
