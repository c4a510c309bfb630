"""Riders that go through a block as one: the bits that each has alone, on the CPU by the reference of FP8 products."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from renderer.engine import budget, fp8_reference
from renderer.engine import recorded as recorded_blocks
from renderer.engine.recorded import RecordedBlocks
from renderer.engine.scaled_blocks import ScaledBlock, ScaledBlocks
from renderer.engine.sections import LiveSection, Passage
from renderer.engine.side_by_side import Arrangement, Places, Sizes, Streams
from renderer.engine.streaming import StreamingEngine
from renderer.job import Lora
from renderer.machine import processor
from renderer.weights.adapters.whereabouts import identity_of
from tests import loras
from tests.engine.test_recorded import Again
from tests.engine.test_streaming import open_engine, pixels, render, variants

JOBS = [*variants("fp8"), variants("fp8")[0].model_copy(update={"seed": 9})]
"""Of four sizes, with and without guidance; two of one size, whose attention is one."""


@pytest.fixture(scope="module")
def engine() -> Iterator[StreamingEngine]:
    """One whose blocks multiply FP8, by the reference; between products it computes in bf16, as GPUs do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processor, "arithmetic", lambda: "bf16")
        yield multiplying(open_engine("fp8", slots=3, in_flight=5), fp8_reference)


def multiplying(engine: StreamingEngine, operations: Any) -> StreamingEngine:
    """The same engine with FP8 products in its blocks."""
    (section,) = engine._passage._sections
    engine._passage = Passage([replace(section, blocks=fast(section, operations))])
    engine._budget = engine._shelf._budget = budget.here(
        engine._source, engine._shape, engine.setup, engine.device, "fp8", shares=engine._passage.shares
    )
    return engine


def fast(section: LiveSection, operations: Any) -> ScaledBlocks:
    """A section's blocks by these FP8 products."""
    plain: Any = getattr(section.blocks, "_plain", section.blocks)
    attention = plain._template.get_submodule("attn")
    file: Any = section.files[0]
    return ScaledBlocks(plain, file.tensors, attention.num_heads, attention.head_dim, operations)


@pytest.fixture(scope="module")
def alone(engine: StreamingEngine) -> list[bytes]:
    """Each of the jobs by itself; guidance's passes, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget.Budget, "rows_together", lambda *_: 0)
        return [pixels(render(engine, [job]))[0] for job in JOBS]


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[Sizes]:
    """Who went through blocks with whom."""
    found, together = list[Sizes](), ScaledBlock.together

    def noted(self: ScaledBlock, riders: Sequence[Mapping[str, Any]]) -> list[Streams]:
        found.append(tuple((each["image"].shape[1], each["text"].shape[1]) for each in riders))
        return together(self, riders)

    monkeypatch.setattr(ScaledBlock, "together", noted)
    return found


@pytest.mark.parametrize("most_rows", [0, 80, 9216])
def test_bits_are_those_of_each_alone(
    engine: StreamingEngine,
    alone: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    sizes: list[Sizes],
    most_rows: int,
) -> None:
    """Whoever goes with whom: nobody, some, all there are; pictures come and go meanwhile."""
    monkeypatch.setattr(budget.Budget, "rows_together", lambda *_: most_rows)
    assert pixels(render(engine, JOBS)) == alone
    assert max(map(len, sizes)) == {0: 1, 80: 2, 9216: 9}[most_rows]
    assert all(len(each) <= 2 or sum(map(sum, each)) <= most_rows for each in sizes)


def test_loras_are_added_to_each_one_s_own_rows(
    engine: StreamingEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sizes: list[Sizes]
) -> None:
    """Pictures with and without go together, and have the bits that they have alone."""
    monkeypatch.setenv("RENDERER_MODELS", str(tmp_path / "models"))
    files = [loras.write_lora(tmp_path / f"{seed}.safetensors", loras.factors(seed=seed)) for seed in (1, 2)]
    sets = [[], files[:1], files, files[::-1]]
    mine = [
        JOBS[0].model_copy(
            update={"loras": tuple(Lora(source=str(each), identity=identity_of(each), weight=1.0) for each in found)}
        )
        for found in sets
    ]
    with monkeypatch.context() as patch:
        patch.setattr(budget.Budget, "rows_together", lambda *_: 0)
        alone = [pixels(render(engine, [job]))[0] for job in mine]
    sizes.clear()
    assert pixels(render(engine, mine)) == alone
    assert max(map(len, sizes)) == 2 * len(mine)
    assert len(set(alone)) == len(mine)


def test_recorded_together(engine: StreamingEngine, alone: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is played for several at once gives each its own; a company is recorded once it has stayed together."""
    monkeypatch.setattr(recorded_blocks, "SETTLED", 1)
    (section,) = engine._passage._sections
    recorder = Again()
    recorded = RecordedBlocks(section.blocks, recorder)
    monkeypatch.setattr(engine, "_passage", Passage([replace(section, blocks=recorded)]))
    assert pixels(render(engine, JOBS)) == alone
    assert recorder.recorded > 0


def test_where_there_is_no_room_for_it_each_goes_alone(
    engine: StreamingEngine, alone: list[bytes], monkeypatch: pytest.MonkeyPatch, sizes: list[Sizes]
) -> None:
    """Memory that runs out for several at once costs nobody anything, and is not tried at every block."""
    together = ScaledBlock.together

    def short(self: ScaledBlock, riders: Sequence[Mapping[str, Any]]) -> list[Streams]:
        if len(riders) > 1:
            sizes.append(())
            raise torch.OutOfMemoryError("CUDA out of memory")
        return together(self, riders)

    monkeypatch.setattr(ScaledBlock, "together", short)
    monkeypatch.setattr(engine, "_apart", budget.Recovery(forgiven=0))
    heard = render(engine, JOBS)
    assert pixels(heard) == alone
    assert sizes.count(()) == 1
    assert not any(each.sharing.adjustments for each in heard.pictures.values() if each.sharing)
    engine._apart = budget.Recovery(forgiven=0)


@pytest.mark.parametrize("broken", ["sums by how many rows there are", "another's modulation", "attention of all"])
def test_what_depends_on_the_others_is_seen(
    engine: StreamingEngine, alone: list[bytes], monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """These tests would be red: sums in another order for more rows, vectors or tokens that are another rider's."""
    operations: Any = SimpleNamespace(**vars(fp8_reference))
    match broken:
        case "sums by how many rows there are":

            def multiply(x: Any, *layer: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
                found = fp8_reference.multiply(x, *layer)
                found = found * (1 + 2**-7) if x.count > 100 else found
                return found if out is None else out.copy_(found)

            operations.multiply = multiply
        case "another's modulation":
            operations.add = lambda x, update, vectors, whose, gate: fp8_reference.add(
                x, update, vectors, whose % 2, gate
            )
        case _:
            places = Places.of

            def one(order: Arrangement, device: torch.device) -> Places:
                found = places(order, device)
                return replace(found, alike=((0, 1, order.texts + order.images),))

            monkeypatch.setattr(Places, "of", one)
    (section,) = engine._passage._sections
    monkeypatch.setattr(engine, "_passage", Passage([replace(section, blocks=fast(section, operations))]))
    assert pixels(render(engine, JOBS)) != alone
