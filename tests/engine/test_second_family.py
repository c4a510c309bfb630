"""A second family is a folder and rows: the engine streams one with two kinds of blocks, and knows nothing of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from renderer import catalog, families
from renderer.catalog import Model
from renderer.engine import beginning
from renderer.engine.streaming import StreamingEngine
from renderer.job import Job, ModelIdentity, Size, Stored
from renderer.protocol import Setup
from renderer.weights import pack
from renderer.weights.store import Store, open_store
from tests.engine.test_streaming import render
from tests.families import toy, toy_networks
from tests.making import make_job

MODEL = Model(
    id="toy", about="for tests", family="toy", ratios={"1:1": Size(width=64, height=64)}, min_side=32, max_side=256,
    max_pixels=256 * 256, steps=2, cfg_scale=1.0,
)  # fmt: skip


@pytest.fixture(scope="module", params=["bf16", "fp8"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder, precision = tmp_path_factory.mktemp("toy"), request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(families, "FAMILIES", {**families.FAMILIES, "toy": toy.TOY})
        source = toy.make(folder)
        identity = ModelIdentity(id="toy", revision="1")
        pack.pack(source, folder / "tokenizer", folder / "packed", precision, identity, device="cpu")
        return open_store(folder / "packed")


def jobs(precision: Stored) -> list[Job]:
    kinds = [("a", 64, 3, 4.0), ("bb", 96, 2, 1.0), ("a cup", 64, 4, 2.0)]
    return [
        make_job(words, side=side, steps=steps).model_copy(
            update={"model": "toy", "precision": precision, "cfg_scale": guidance, "seed": number}
        )
        for number, (words, side, steps, guidance) in enumerate(kinds)
    ]


@pytest.mark.parametrize("slots", [2, 5])
def test_two_kinds_of_blocks_come_past_the_pictures(
    store: Store, slots: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Pictures of several sizes and guidance ride together, and have the bits of one plain call each."""
    monkeypatch.setattr(families, "FAMILIES", {**families.FAMILIES, "toy": toy.TOY})
    monkeypatch.setattr("renderer.engine.prompts.cache_folder", lambda: tmp_path)
    monkeypatch.setattr(catalog, "find", lambda _: MODEL)
    precision = store.index.precision
    setup = Setup(model="toy", precision=precision, profile="stream", store=str(store.folder), slots=slots, in_flight=3)
    engine = StreamingEngine(setup, beginning.of(store, "cpu"), MODEL, lambda _: None)
    assert [(each.section, each.index) for each in engine._passage.bring_past(engine._slots)] == [
        *(("double", number) for number in range(2)),
        *(("single", number) for number in range(3)),
    ]
    wanted = jobs(precision)
    heard = render(engine, wanted)
    assert heard.failures == {}
    for number, job in enumerate(wanted):
        found = heard.pictures[str(number)]
        assert found.rgb == toy_networks.whole(store, job).tobytes()
        assert found.sharing is not None
        assert found.sharing.blocks == 5
