"""Seconds and bytes."""

from __future__ import annotations

from renderer.engine.meter import Clock, MemoryMeter


def test_clock_tells_the_parts_apart() -> None:
    """What lies before the first step is encoding, what lies after the last is decoding; the median is of the steps."""
    timing = Clock("cpu", _moments_s=[100.0, 101.0, 103.0, 104.0, 108.0, 110.0]).timing()
    assert (timing.encode_s, timing.denoise_s, timing.decode_s) == (1.0, 7.0, 2.0)
    assert timing.step_median_s == 2.0
    assert timing.began_at <= timing.ended_at


def test_memory_on_the_cpu() -> None:
    """Without a GPU its figures are null, never zero; the process's own is in bytes."""
    with MemoryMeter("cpu").watch() as peaks:
        pass
    memory = peaks.memory()
    assert (memory.peak_allocated_bytes, memory.peak_reserved_bytes, memory.peak_device_bytes) == (None, None, None)
    assert 2**25 < (memory.peak_rss_bytes or 0) < 2**37
