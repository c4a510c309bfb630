"""Figures of a run: numbers from sidecars ▶ bars and lines with their places in a drawing, and the table behind each.

Times are cut into at most 48 equal spans, so that a night's figure has as many points as an eye can tell apart. The
template draws what stands here; nothing here knows SVG's or HTML's words.
"""

from __future__ import annotations

import copy
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from renderer.outputs.done import Done
from renderer.planning.pace import Pace
from renderer.report.made_by import by_device, device_of
from renderer.text import GIB

WIDTH, HEIGHT = 640, 200
LEFT, RIGHT, TOP, BOTTOM = 64, 8, 12, 24
_MOST_SPANS = 48
_MOST_DEVICES = 8
_SPANS_S = (1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 14400, 43200, 86400)


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar, in the drawing's units."""

    left: float
    top: float
    width: float
    height: float
    told: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line through points, each "x,y"; `kind` says which of the legend's it is."""

    kind: int
    name: str
    points: str
    dots: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure: bars or lines over time, marks at the side, and the numbers as a table."""

    title: str
    told: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    bars: tuple[Bar, ...] = ()
    lines: tuple[Line, ...] = ()
    marks: tuple[tuple[float, str], ...] = ()
    begins: str = ""
    ends: str = ""


def draw(sidecars: Sequence[Done]) -> tuple[Plot, ...]:
    """The figures that these pictures have numbers for, oldest picture first; none when there are no pictures."""
    ordered = sorted(sidecars, key=lambda sidecar: sidecar.timing.ended_at)
    if not ordered:
        return ()
    spans = _Spans(ordered)
    devices = by_device(ordered)
    return (_rate(spans, devices), _stages(ordered), *_memories(spans, devices), _forecast(spans))


class _Spans:
    """Pictures in equal spans of time."""

    def __init__(self, ordered: Sequence[Done]) -> None:
        first, last = ordered[0].timing.began_at, ordered[-1].timing.ended_at
        whole_s = max(1.0, (last - first).total_seconds())
        self.span_s = next((span for span in _SPANS_S if whole_s / span <= _MOST_SPANS), whole_s / _MOST_SPANS)
        self.first = first
        count = min(_MOST_SPANS, int(whole_s / self.span_s) + 1)
        self.members: list[list[Done]] = [[] for _ in range(count)]
        for sidecar in ordered:
            at = int((sidecar.timing.ended_at - first).total_seconds() / self.span_s)
            self.members[min(count - 1, max(0, at))].append(sidecar)

    def of(self, device: str) -> _Spans:
        """The same spans, with the pictures of one device."""
        found = copy.copy(self)
        found.members = [[each for each in members if device_of(each) == device] for members in self.members]
        return found

    def time(self, number: int) -> datetime:
        return self.first + timedelta(seconds=self.span_s * number)

    def label(self, number: int) -> str:
        return f"{self.time(number):%d %b %H:%M:%S}" if self.span_s < 60 else f"{self.time(number):%d %b %H:%M}"  # noqa: PLR2004

    def x(self, number: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * number / len(self.members), 1)


def _y(value: float, highest: float) -> float:
    return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / highest, 1)


def _marks(highest: float, unit: str = "") -> tuple[tuple[float, str], ...]:
    return tuple((_y(part * highest, highest), f"{_short(part * highest)}{unit}") for part in (0.0, 0.5, 1.0))


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004  (three digits are enough at a side)


def _rate(spans: _Spans, devices: Collection[str]) -> Plot:
    """All of them together; where there are several devices, the table has the pictures of each."""
    names = tuple(devices) if 1 < len(devices) <= _MOST_DEVICES else ()
    rates = [len(members) * 3600 / spans.span_s for members in spans.members]
    highest = max(rates) or 1.0
    each = [Counter(map(device_of, members)) if names else Counter() for members in spans.members]
    bars = tuple(
        Bar(spans.x(n), _y(rate, highest), max(1.0, spans.x(1) - spans.x(0) - 1), HEIGHT - BOTTOM - _y(rate, highest),
            "; ".join([f"{spans.label(n)}: {rate:.0f} an hour", *(f"{name}: {each[n][name]}" for name in names)]))
        for n, rate in enumerate(rates)
    )  # fmt: skip
    rows = tuple(
        (spans.label(n), str(len(spans.members[n])), f"{rate:.0f}", *(str(each[n][name]) for name in names))
        for n, rate in enumerate(rates)
        if spans.members[n]
    )
    told = f"at most {highest:.0f} an hour"
    return Plot("Pictures per hour", told, ("from (UTC)", "pictures", "per hour", *names), rows, bars=bars,
                marks=_marks(highest), begins=spans.label(0), ends=spans.label(len(rates)))  # fmt: skip


_STAGES: tuple[tuple[str, Callable[[Done], float | None]], ...] = (
    ("encode", lambda sidecar: sidecar.timing.encode_s),
    ("denoise", lambda sidecar: sidecar.timing.denoise_s),
    ("decode", lambda sidecar: sidecar.timing.decode_s),
    ("save", lambda sidecar: sidecar.timing.save_s),
)


def _stages(ordered: Sequence[Done]) -> Plot:
    sums = [(name, sum(part(sidecar) or 0.0 for sidecar in ordered)) for name, part in _STAGES]
    whole = sum(seconds for _, seconds in sums) or 1.0
    high = (HEIGHT - TOP - BOTTOM) / len(sums)
    bars, marks = [], []
    for number, (name, seconds) in enumerate(sums):
        top = TOP + high * number
        width = (WIDTH - LEFT - RIGHT) * seconds / whole
        bars.append(Bar(LEFT, round(top + 4, 1), round(max(1.0, width), 1), round(high - 8, 1),
                        f"{name}: {seconds:.1f} s, {seconds / whole:.0%}"))  # fmt: skip
        marks.append((round(top + high / 2 + 4, 1), name))
    rows = tuple(
        (name, f"{seconds:.1f}", f"{seconds / whole:.1%}", f"{seconds / len(ordered):.2f}") for name, seconds in sums
    )
    told = f"{max(sums, key=lambda pair: pair[1])[0]} takes most"
    return Plot("Time by stage", told, ("stage", "seconds", "share", "a picture"), rows, tuple(bars),
                marks=tuple(marks))  # fmt: skip


def _series(spans: _Spans, kind: int, name: str, values: Sequence[float | None], highest: float) -> Line:
    dots = tuple((spans.x(n + 0.5), _y(value, highest)) for n, value in enumerate(values) if value is not None)
    return Line(kind, name, " ".join(f"{x},{y}" for x, y in dots), dots)


def _most(spans: _Spans, read: Callable[[Done], int | None]) -> list[float | None]:
    found = [[value / GIB for each in members if (value := read(each)) is not None] for members in spans.members]
    return [max(values) if values else None for values in found]


def _memories(spans: _Spans, devices: Collection[str]) -> Iterator[Plot]:
    """One of each device, in its own card; of many, all in one."""
    if not 1 < len(devices) <= _MOST_DEVICES:
        yield _memory(spans, "Memory")
        return
    for name in devices:
        yield _memory(spans.of(name), f"Memory: {name}")


def _memory(spans: _Spans, title: str) -> Plot:
    gpu = _most(spans, lambda each: each.memory.peak_device_bytes or each.memory.peak_reserved_bytes)
    ram = _most(spans, lambda each: each.memory.peak_rss_bytes)
    card = max((each.gpu.total_bytes / GIB for members in spans.members for each in members if each.gpu), default=None)
    highest = max([value for value in (*gpu, *ram, card) if value is not None], default=1.0) or 1.0
    lines = [_series(spans, 1, "GPU memory", gpu, highest)] if any(gpu) else []
    lines += [_series(spans, 2, "process memory", ram, highest)] if any(ram) else []
    lines += [_series(spans, 3, "the card's size", [card] * len(gpu), highest)] if card else []
    rows = tuple(
        (spans.label(n), _figure(gpu[n]), _figure(ram[n]), _figure(card)) for n in range(len(gpu)) if spans.members[n]
    )
    told = f"at most {_figure(max((value for value in gpu if value), default=None))} GiB of the card, " if card else ""
    told += f"{_figure(max((value for value in ram if value), default=None))} GiB of the process"
    return Plot(title, told, ("from (UTC)", "GPU, GiB", "process, GiB", "card, GiB"), rows, lines=tuple(lines),
                marks=_marks(highest, " GiB"), begins=spans.label(0), ends=spans.label(len(gpu)))  # fmt: skip


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _forecast(spans: _Spans) -> Plot:
    """What each picture took, against what the ones before it on the same device let expect."""
    paces: defaultdict[str, Pace] = defaultdict(Pace)
    measured: list[float | None] = []
    expected: list[float | None] = []
    for members in spans.members:
        took = [each.timing.total_s for each in members if each.timing.total_s is not None]
        forecasts = []
        for each in members:
            pace = paces[device_of(each)]
            if (seconds := pace.expect_of(each)) is not None:
                forecasts.append(seconds)
            pace.learn(each)
        measured.append(statistics.median(took) if took else None)
        expected.append(statistics.median(forecasts) if forecasts else None)
    highest = max([value for value in (*measured, *expected) if value is not None], default=1.0) or 1.0
    lines = (_series(spans, 1, "measured", measured, highest), _series(spans, 2, "forecast", expected, highest))
    rows = tuple(
        (spans.label(n), _figure(measured[n]), _figure(expected[n])) for n in range(len(measured)) if spans.members[n]
    )
    return Plot("Seconds a picture, measured and forecast", "medians", ("from (UTC)", "measured, s", "forecast, s"),
                rows, lines=lines, marks=_marks(highest, " s"), begins=spans.label(0),
                ends=spans.label(len(measured)))  # fmt: skip
