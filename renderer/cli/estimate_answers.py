"""What `renderer estimate` answers, of one device or of several, as values, JSON and tables of at most 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from renderer.estimate import Estimate, Term
from renderer.text import counted, duration, gib, wrap

_SHOWN_BYTES = 2**30 // 200
"""Terms that round to nothing are in the JSON alone."""


@dataclass(frozen=True, slots=True)
class MemoryAnswer:
    """What `estimate` says of one device. `available` is what the allocator may hold, None where no GPU is known of.

    `picture_s` are seconds of one picture among many, at the model's own steps; None where no rates are known.
    """

    kind: str
    estimate: Estimate
    needed: int
    available: int | None
    ways: tuple[str, ...]
    host: int | None = None
    how: str = ""
    picture_s: float | None = None

    @property
    def title(self) -> str:
        return f"{self.kind}; {self.how}" if self.how else self.kind

    @property
    def fits(self) -> bool | None:
        return None if self.available is None else self.needed <= self.available

    def as_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "title": self.title,
            "fits": self.fits,
            "needed_bytes": self.needed,
            "available_bytes": self.available,
            "host_bytes": self.host,
            "picture_s": self.picture_s,
            "ways": list(self.ways),
            **self.estimate.as_dict(),
        }


@dataclass(frozen=True, slots=True)
class SeveralAnswers:
    """What `estimate` says of several devices, by their names; `troubles` say why some cannot open the model."""

    each: Mapping[str, MemoryAnswer]
    troubles: Mapping[str, str]

    @property
    def fits(self) -> bool | None:
        """Whether the picture fits on one of them at least."""
        told = [answer.fits for answer in self.each.values()]
        return None if None in told else any(told)

    @property
    def picture_s(self) -> float | None:
        """Seconds of one picture among many that are dealt to those on which it fits, so that all end together."""
        spent = [answer.picture_s for answer in self.each.values() if answer.fits]
        speeds = [1 / one for one in spent if one]
        return 1 / sum(speeds) if speeds and len(speeds) == len(spent) else None

    @property
    def host(self) -> int | None:
        """Bytes of all their workers together."""
        return sum(answer.host or 0 for answer in self.each.values()) or None

    def as_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "fits": self.fits,
            "picture_s": self.picture_s,
            "host_bytes": self.host,
            "devices": [{"device": name, **answer.as_dict()} for name, answer in self.each.items()],
            "troubles": dict(self.troubles),
        }

    def lines(self) -> Iterator[str]:
        """Lines of at most 80 columns: one of each device, and what all take together."""
        yield from wrap(next(iter(self.each.values())).kind, "  ")
        yield ""
        for name, answer in self.each.items():
            yield from wrap(f"{name}: {_verdict(answer)}", "       ")
        for name, trouble in self.troubles.items():
            yield from wrap(f"{name}: left out: {trouble}", "       ")
        yield ""
        if self.host is not None:
            yield f"host   {gib(self.host)} for {counted(len(self.each), 'worker')} together"
        if self.fits is False:
            largest = max(self.each.values(), key=lambda answer: answer.available or 0)
            yield "fits   NO, on none of them"
            for way in largest.ways:
                yield from wrap(f"       {way}", "         ")
        elif self.picture_s is not None:
            rate = f"{3600 / self.picture_s:.0f} an hour"
            yield from wrap(f"time   {duration(self.picture_s)} a picture by all together, {rate}", "       ")


def _verdict(answer: MemoryAnswer) -> str:
    """What is said of one of several devices, in a line."""
    if answer.available is None:
        return "no GPU, whose memory could be too small"
    how = f"{answer.how}; " if answer.how else ""
    needed = f"{answer.needed / 2**30:.2f} of {answer.available / 2**30:.2f} GiB"
    if not answer.fits:
        return f"does NOT fit: {needed}"
    return f"fits: {how}{needed}" + ("" if answer.picture_s is None else f"; {duration(answer.picture_s)} a picture")


def lines_of(answer: MemoryAnswer) -> Iterator[str]:
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
    if answer.picture_s is not None and answer.fits:
        yield f"time   {duration(answer.picture_s)} a picture, at the model's own steps"
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
