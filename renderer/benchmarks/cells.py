"""Peaks of memory as they were measured, each beside its forecast, and their table. Imports no torch.

A cell is one kind of batch on full-size random weights, and the peaks of its stages: bytes of tensors, and bytes that
torch's allocator had taken. What the allocator held in vain before a cell began is measured as well, and added to what
is forecast.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from renderer import catalog
from renderer.benchmarks.running import Figures
from renderer.estimate import Native, Stage, Streaming, WeightBytes, Work, decide, weight_bytes
from renderer.estimate.fitted import CONTEXT_BYTES
from renderer.estimate.terms import terms
from renderer.text import GIB


@dataclass(frozen=True, slots=True)
class Comparison:
    """Forecast and measured, of the same stages: bytes of tensors and bytes reserved."""

    title: tuple[str, ...]
    allocated: tuple[int, int]
    reserved: tuple[int, int]

    @property
    def allocated_error(self) -> float:
        forecast, measured = self.allocated
        return forecast / measured - 1

    @property
    def reserved_error(self) -> float:
        forecast, measured = self.reserved
        return forecast / measured - 1


_MEASURED_WITH = {"modulate": "encode", "image": "encode"}

_SHAPE = catalog.QWEN_IMAGE_ARCHITECTURE


def cell(row: Figures) -> Comparison:
    """A row as it was measured, with what is forecast of it, of the stages that it has.

    A row with `vae_bytes` was measured with another VAE's weights on the GPU, of so many bytes; one without `together`,
    when no riders went through a block together.
    """
    if "works" in row:
        works = [_work(each) for each in row["works"]]
        title = tuple(row["case"].split(", ", 2))
    else:
        jobs = row["jobs"] if len(row["jobs"]) > 1 else row["jobs"] * row["in_flight"]
        works = [Work(width, height, row["prompt_tokens"], guided=cfg != 1.0) for width, height, cfg in jobs]
        title = _title(row, jobs)
    measured: dict[str, tuple[int, int]] = row["stages"]
    other = row["vae_bytes"] - _weights(row).vae_kept if "vae_bytes" in row else 0
    stages = [stage for stage in _stages(row, works) if _measured_as(stage) in measured]
    allocated = max(stage.bytes for stage in stages) + other, max(tensors for tensors, _ in measured.values())
    expected = max(stage.reserved for stage in stages) + row.get("held_before", 0) + other
    reserved = expected, max(taken for _, taken in measured.values())
    return Comparison((row["precision"], *title), allocated, reserved)


def _measured_as(stage: Stage) -> str:
    return _MEASURED_WITH.get(stage.name, stage.name)


def _work(fields: Figures) -> Work:
    return Work(**{**fields, "edited": tuple(map(tuple, fields["edited"]))})


def _title(row: Figures, jobs: Sequence[Sequence[float]]) -> tuple[str, ...]:
    place = f"{row['slots']} slots" if row["engine"] == "stream" else _placed(row)
    sizes = "+".join(dict.fromkeys(f"{width}x{height}" for width, height, _ in jobs))
    guided = "/".join(dict.fromkeys("guided" if cfg != 1.0 else "unguided" for *_, cfg in jobs))
    return place, sizes, guided, str(row["prompt_tokens"]), str(len(jobs))


def _stages(row: Figures, works: list[Work]) -> tuple[Stage, ...]:
    if row["engine"] != "stream":
        return Native(_SHAPE, row["precision"], row["profile"], row["vram_limit_bytes"]).stages(works[0])
    streaming = Streaming(_SHAPE, row["precision"], row["slots"], together=row.get("together", 0))
    if "works" not in row:
        return streaming.stages(works, row["prompts"])
    return tuple(_with_inputs(stage, row, works) for stage in streaming.stages(works, _encoded(row, works, streaming)))


def _with_inputs(stage: Stage, row: Figures, works: list[Work]) -> Stage:
    """A stage of pictures with inputs, as they are measured.

    `ridden_bytes` are ControlNets', which come with the first sweep: what was encoded before had the room to itself.
    The store is an edit model's, so what is around its vision tower's blocks is there for pictures from text as well.
    """
    ridden = 0 if _measured_as(stage) == "encode" else row["ridden_bytes"]
    tower = 0 if any(work.edited for work in works) else _weights(row).looking
    return replace(stage, terms=(*stage.terms, *terms(ControlNets=ridden, vision_tower=tower)))


def _encoded(row: Figures, works: list[Work], streaming: Streaming) -> list[int]:
    """Tokens of the prompts that are encoded together, where a limit may let fewer."""
    if row["limit_bytes"] is None:
        return streaming.group(works)
    most = decide.tokens_together(streaming, (), row["limit_bytes"] - CONTEXT_BYTES)
    return streaming.group(works, most)


def _weights(row: Figures) -> WeightBytes:
    return weight_bytes(_SHAPE, row["precision"])


def _placed(row: Figures) -> str:
    limit = row["vram_limit_bytes"]
    return row["profile"] if limit is None else f"{row['profile']}, {limit / GIB:.0f} GiB"


FROM_TEXT = ("precision", "on the GPU", "size", "guidance", "tokens", "in flight")
WITH_INPUTS = ("precision", "on the GPU", "pictures", "with")
"""The columns that say what a cell is."""


def table(cells: Iterable[Comparison], columns: Sequence[str] = FROM_TEXT) -> Iterator[str]:
    """The cells as a table in Markdown."""
    names = ("tensors, GiB", "forecast", "error", "reserved, GiB", "forecast", "error")
    yield f"| {' | '.join((*columns, *names))} |"
    yield "|---" * len((*columns, *names)) + "|"
    for each in cells:
        figures = [*_figures(*each.allocated, each.allocated_error)]
        figures += _figures(*each.reserved, each.reserved_error)
        yield f"| {' | '.join((*each.title, *figures))} |"


def _figures(forecast: int, measured: int, error: float) -> tuple[str, str, str]:
    return f"{measured / GIB:.3f}", f"{forecast / GIB:.3f}", f"{100 * error:+.1f} %"
