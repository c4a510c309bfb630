"""Seconds and bytes, as they are spent on one picture. Knows nothing of what is rendered.

Where there is no GPU its figures are None. NVML's are of the whole device, other processes included; torch's are of
this process alone.
"""

from __future__ import annotations

import contextlib
import logging
import resource
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pynvml
import torch

from renderer.engine.device import Device
from renderer.job import Memory, Timing

LOG = logging.getLogger(__name__)

SAMPLE_S = 0.05


@dataclass(slots=True)
class Clock:
    """The moments of one picture: its beginning, the end of encoding, the end of each step, its end.

    Every moment waits for the GPU, so that work is counted where it was asked for.
    """

    device: Device
    began_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    _moments_s: list[float] = field(default_factory=list)

    def mark(self) -> None:
        """Note that one part has ended, and the next begins."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        self._moments_s.append(time.perf_counter())

    def timing(self) -> Timing:
        """Seconds of each part; loading, saving and the total are left to who knows them. One step at least."""
        began_s, encoded_s, *stepped_s, decoded_s = self._moments_s
        steps_s = [after - before for before, after in zip([encoded_s, *stepped_s], stepped_s, strict=False)]
        return Timing(
            encode_s=encoded_s - began_s,
            step_median_s=statistics.median(steps_s),
            denoise_s=stepped_s[-1] - encoded_s,
            decode_s=decoded_s - stepped_s[-1],
            began_at=self.began_at,
            ended_at=datetime.now(UTC),
        )


class Span:
    """Seconds between two points in a stream's work, by the device's own clock: the host's runs ahead of its work.

    Neither point waits for anything; on the CPU they are moments of the wall's clock.
    """

    def __init__(self, device: Device, stream: Any = None) -> None:
        """Begins at what was asked of `stream` so far, the current one if none is named."""
        self._device = device
        self._stream = stream
        self._moments = [self._moment()]

    def stop(self) -> None:
        self._moments.append(self._moment())

    def seconds(self) -> float:
        """What lay between; waits until it is over."""
        began, ended = self._moments
        if self._device != "cuda":
            return float(ended - began)
        ended.synchronize()
        return float(began.elapsed_time(ended)) / 1e3

    @property
    def over(self) -> bool:
        """Whether the device has passed its end; nobody waits for that."""
        return self._device != "cuda" or bool(self._moments[-1].query())

    @contextlib.contextmanager
    def followed_by(self, stream: Any) -> Iterator[None]:
        """Within, launches go to `stream`, and run when this is over; None, on the CPU: as ever."""
        if stream is not None:
            stream.wait_event(self._moments[-1])
        with torch.cuda.stream(stream):
            yield

    def _moment(self) -> Any:
        if self._device != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(self._stream or torch.cuda.current_stream())
        return event


class Spans:
    """Many spans of one stream: what was between them is not counted. None are, where nobody counts."""

    def __init__(self, device: Device, stream: Any = None, *, counting: bool = True) -> None:
        self._device = device
        self._stream = stream
        self._counting = counting
        self._spans: list[Span] = []

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """One more: what is asked of the stream within."""
        if not self._counting:
            yield
            return
        span = Span(self._device, self._stream)
        yield
        span.stop()
        self._spans.append(span)

    @property
    def over(self) -> bool:
        """Whether the device has passed the last of them."""
        return all(span.over for span in self._spans[-1:])

    def seconds(self) -> float:
        """What they took together; waits until the last is over."""
        return sum(span.seconds() for span in reversed(self._spans))


@dataclass(frozen=True, slots=True)
class Shown:
    """What a sweep shows of the device: the whole of it, and within it blocks being computed and being copied.

    Neither of these two has the other's waiting in it.
    """

    whole: Span
    computed: Spans
    copied: Spans
    moved_bytes: int

    @property
    def over(self) -> bool:
        """Whether the device is done with all of it."""
        return self.whole.over and self.computed.over and self.copied.over


class Marks:
    """Moments in the current stream's work, by the device's own clock: noting one waits for nothing."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._noted: list[Span] = []

    def note(self) -> None:
        for span in self._noted[-1:]:
            span.stop()
        self._noted.append(Span(self._device))

    def seconds(self) -> list[float]:
        """What lay between each and the next; waits until the last is over."""
        return [span.seconds() for span in self._noted[:-1]]


class MemoryMeter:
    """Peaks of memory while a picture is rendered."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._handle = _nvml_handle() if device == "cuda" else None

    @contextlib.contextmanager
    def watch(self) -> Iterator[Peaks]:
        """Count from here on; the peaks are there when the block has ended."""
        peaks = Peaks()
        if self._device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with self._sampling(peaks):
            yield peaks
        if self._device == "cuda":
            peaks.allocated_bytes = torch.cuda.max_memory_allocated()
            peaks.reserved_bytes = torch.cuda.max_memory_reserved()

    @contextlib.contextmanager
    def _sampling(self, peaks: Peaks) -> Iterator[None]:
        """Look at the device's memory in use, in a thread of its own, until the block has ended."""
        if self._handle is None:
            yield
            return
        over = threading.Event()

        def sample() -> None:
            while True:
                used = _used_bytes(self._handle)
                if used is not None:
                    peaks.device_bytes = max(peaks.device_bytes or 0, used)
                if over.wait(SAMPLE_S):
                    return

        thread = threading.Thread(target=sample, name="memory-meter", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


@dataclass(slots=True)
class Peaks:
    """What was seen so far, in bytes."""

    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    device_bytes: int | None = None

    def include(self, other: Peaks) -> None:
        """Take over what is higher in `other`."""
        for name in ("allocated_bytes", "reserved_bytes", "device_bytes"):
            found = [value for value in (getattr(self, name), getattr(other, name)) if value is not None]
            setattr(self, name, max(found, default=None))

    def memory(self) -> Memory:
        """As it stands in a sidecar, with the process's highest resident set so far."""
        return Memory(
            peak_allocated_bytes=self.allocated_bytes,
            peak_reserved_bytes=self.reserved_bytes,
            peak_device_bytes=self.device_bytes,
            peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,  # Linux counts in KiB
        )


def driver_version() -> str | None:
    """The NVIDIA driver's version, or None where there is none."""
    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None


def _nvml_handle() -> Any | None:
    """NVML's handle of torch's current device: by UUID, else by its place on the bus; NVML counts in another order."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    address = f"{properties.pci_domain_id:08x}:{properties.pci_bus_id:02x}:{properties.pci_device_id:02x}.0"
    try:
        pynvml.nvmlInit()
        for kind in ("GPU", "MIG"):  # a card, or a part of one that is split
            with contextlib.suppress(pynvml.NVMLError):
                return pynvml.nvmlDeviceGetHandleByUUID(f"{kind}-{properties.uuid}")
        return pynvml.nvmlDeviceGetHandleByPciBusId(address)
    except pynvml.NVMLError as error:
        LOG.warning("the device's memory cannot be watched: %s", error)
        return None


def _used_bytes(handle: Any) -> int | None:
    try:
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)
    except pynvml.NVMLError:
        return None
