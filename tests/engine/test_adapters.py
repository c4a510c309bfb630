"""Pictures with LoRAs: the bits of DiffSynth's own hot-loaded ones, alone, in company, and through few slots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffsynth.core.vram.layers import LoRAHotLoadMixin
from diffsynth.utils.lora.general import GeneralLoRALoader
from safetensors.torch import load_file

from renderer import catalog
from renderer.catalog import DEMO_ARCHITECTURE
from renderer.engine.adapters import OpenAdapter
from renderer.engine.native import NativeEngine
from renderer.engine.streaming import StreamingEngine
from renderer.errors import ModelError, PictureError
from renderer.job import Job, Lora
from renderer.weights.adapters.packed import prepare_adapter
from renderer.weights.adapters.whereabouts import identity_of
from tests import loras
from tests.engine.making import bare_picture, bare_pipeline, flattened, make_job, make_setup
from tests.engine.test_streaming import Heard, open_engine, render

WIDTH = DEMO_ARCHITECTURE.width
OUTSIDE = {"img_in": (WIDTH, 64), "proj_out": (64, WIDTH), "time_text_embed.timestep_embedder.linear_1": (WIDTH, 256)}
SMALL = {"width": 64, "height": 64, "num_inference_steps": 3}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two LoRAs: of blocks and their modulation, and of layers outside of blocks too."""
    folder = tmp_path_factory.mktemp("loras")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loras, "SHAPES", {**loras.SHAPES, **OUTSIDE})
        return [
            loras.write_lora(folder / "style.safetensors", loras.factors(seed=1)),
            loras.write_lora(folder / "all.safetensors", loras.factors([*loras.SHAPES, *OUTSIDE], seed=2)),
        ]


@pytest.fixture(scope="module", autouse=True)
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Where they are packed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RENDERER_MODELS", str(tmp_path_factory.mktemp("models")))
        yield


def lora(path: Path, weight: float = 1.0) -> Lora:
    return Lora(source=str(path), identity=identity_of(path), weight=weight)


def jobs(files: list[Path], **changes: Any) -> list[Job]:
    """One set each: none, one, both with weights, the same in another order, and one that adds nothing."""
    one, both = lora(files[0]), (lora(files[0], 0.5), lora(files[1], -1.5))
    sets: list[tuple[Lora, ...]] = [(), (one,), both, both[::-1], (lora(files[0], 0.0),)]
    return [make_job(**SMALL, loras=each, **changes) for each in sets]


def hot_loaded(pipe: Any, job: Job) -> bytes:
    """DiffSynth's picture, its LoRAs by its own loader and its own `lora_forward`."""
    hooks = []
    for each in job.loras:
        stored = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(each.source).items()}
        found = GeneralLoRALoader(torch_dtype=torch.bfloat16).convert_state_dict(stored)
        tensors = {
            name: tensor.to(pipe.torch_dtype) for name, tensor in found.items()
        }  # as a store means them anywhere
        for name, layer in pipe.dit.named_modules():
            if f"{name}.lora_A.weight" in tensors and each.weight:
                mixin = LoRAHotLoadMixin()
                mixin.init_lora_hotload()
                mixin.lora_A_weights.append(tensors[f"{name}.lora_A.weight"] * each.weight)
                mixin.lora_B_weights.append(tensors[f"{name}.lora_B.weight"])
                hooks.append(layer.register_forward_hook(lambda _, x, out, own=mixin: own.lora_forward(x[0], out)))
    try:
        return bare_picture(pipe, job)
    finally:
        for hook in hooks:
            hook.remove()


@pytest.fixture(scope="module")
def bare(demo_folder: Path, files: list[Path]) -> list[bytes]:
    pipe = flattened(bare_pipeline(demo_folder))
    return [hot_loaded(pipe, job) for job in jobs(files)]


def test_natively(engine: NativeEngine, bare: list[bytes], files: list[Path]) -> None:
    assert [engine.render(job, lambda *_: None).rgb for job in jobs(files)] == bare
    assert bare[4] == bare[0]
    assert len(set(bare)) == 4


@pytest.mark.parametrize(("slots", "in_flight"), [(2, 1), (3, 5), (60, 2)])
def test_streamed(bare: list[bytes], files: list[Path], slots: int, in_flight: int) -> None:
    """Each picture has its own set, whoever rides with it."""
    heard = render(open_engine(slots=slots, in_flight=in_flight), jobs(files))
    assert heard.failures == {}
    assert [heard.pictures[str(number)].rgb for number in range(len(bare))] == bare


def test_what_does_not_stay(bare: list[bytes], files: list[Path]) -> None:
    """LoRAs that there is no room for come past two blocks at a time, each in slots of its own, with the same bits."""
    engine = open_engine(slots=3, in_flight=5)
    engine._budget.keeps = lambda flying, count: False  # type: ignore[method-assign]  # noqa: ARG005
    seen: set[int] = set()
    arrive = engine._shelf.arrive

    def noted() -> None:
        arrive()
        seen.update(each._slots.count for each in engine._shelf._each() if each._slots)

    engine._shelf.arrive = noted  # type: ignore[method-assign]
    heard = render(engine, jobs(files))
    assert [heard.pictures[str(number)].rgb for number in range(len(bare))] == bare
    assert seen == {2}
    assert all(each.device_bytes == 0 for each in engine._shelf._each())


class TestRoom:
    """Two LoRAs on a device with room for so many bytes of them."""

    @pytest.fixture
    def engine(self, files: list[Path]) -> StreamingEngine:
        found = open_engine(slots=3, in_flight=5)
        found._shelf.prepare(jobs(files))
        return found

    def given(self, engine: StreamingEngine, room: int) -> None:
        engine._budget.keeps = lambda flying, count: count <= room  # type: ignore[method-assign]  # noqa: ARG005

    def test_what_turns_has_its_room_too(self, engine: StreamingEngine, files: list[Path]) -> None:
        """Where one whole one does not fit beside two blocks of the other, neither stays."""
        one, other = engine._shelf._each()
        self.given(engine, one.whole_bytes + other.least_bytes - 1)
        both = jobs(files)[2:3]
        engine._shelf.begin(both)
        assert (one.device_bytes, other.device_bytes) == (one.least_bytes, other.least_bytes)
        self.given(engine, one.whole_bytes + other.least_bytes)
        engine._shelf.begin(both)
        assert (one.device_bytes, other.device_bytes) == (one.whole_bytes, other.least_bytes)

    def test_who_leaves_makes_room_for_who_comes(self, engine: StreamingEngine, files: list[Path]) -> None:
        """At no moment more is on the device than there is room for."""
        one, other = engine._shelf._each()
        most: list[int] = []
        begin = OpenAdapter.begin

        def noted(self: OpenAdapter, *, stays: bool) -> None:
            begin(self, stays=stays)
            most.append(one.device_bytes + other.device_bytes)

        self.given(engine, other.whole_bytes + one.least_bytes)
        alone, both = jobs(files)[1:3]
        engine._shelf.begin([alone])
        assert one.device_bytes == one.whole_bytes
        one.does_not_fit = True
        engine._shelf._open = dict(reversed(engine._shelf._open.items()))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(OpenAdapter, "begin", noted)
            engine._shelf.begin([both])
        assert (one.device_bytes, other.device_bytes) == (one.least_bytes, other.whole_bytes)
        assert max(most) == other.whole_bytes + one.least_bytes

    def test_a_picture_is_let_in_by_the_least_of_all(
        self, engine: StreamingEngine, files: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The budget hears of two blocks of each; what does not stay beside it has left before it sets out."""
        one, other = engine._shelf._each()
        asked: list[int] = []

        def admits(_flying: list[Job], _job: Job, count: int) -> bool:
            asked.append(count)
            return True

        monkeypatch.setattr(engine._budget, "admits", admits)
        plain, alone, both = jobs(files)[:3]
        self.given(engine, one.whole_bytes)
        engine._shelf.begin([alone])
        assert engine._shelf.admits([alone], plain)
        assert one.device_bytes == one.whole_bytes
        self.given(engine, one.whole_bytes - 1)
        assert engine._shelf.admits([alone], both)
        assert asked == [one.least_bytes, one.least_bytes + other.least_bytes]
        assert one.device_bytes == 0

    def test_one_that_came_later_is_weighed_before_it_sets_out(self, files: list[Path]) -> None:
        """Its LoRA is opened first; while that does not fit beside those in flight, it waits."""
        engine, heard = open_engine(slots=3, in_flight=5), Heard()
        (plain, alone), admits = jobs(files)[:2], engine._budget.admits
        engine._budget.admits = lambda *about: admits(*about) and (not about[0] or about[2] == 0)  # type: ignore[method-assign]
        engine.take("0", plain)
        engine.advance(heard)
        engine.take("1", alone)
        engine.advance(heard)
        assert engine._shelf.has(alone)
        assert [journey.key for journey in engine._flying] == ["0"]
        while engine.busy:
            engine.advance(heard)
        assert heard.pictures.keys() == {"0", "1"}


@pytest.mark.parametrize("part", ["transformer-001", "outside"])
def test_a_damaged_one_fails_its_pictures_alone(bare: list[bytes], files: list[Path], part: str) -> None:
    """Whichever of its packed files was damaged since, by both engines."""
    path = prepare_adapter(lora(files[1]), catalog.find("demo")).folder / f"{part}.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-2] + bytes([255, 255]))
    native = NativeEngine.open(make_setup(), lambda _: None)
    try:
        heard = render(open_engine(in_flight=3), jobs(files)[:3])
        with pytest.raises(PictureError, match="not what was written there"):
            native.render(jobs(files)[2], lambda *_: None)
    finally:
        path.write_bytes(whole)
    assert [heard.pictures[key].rgb for key in ("0", "1")] == bare[:2]
    assert "not what was written there" in heard.failures["2"].message


def test_one_that_goes_away_fails_its_pictures_alone(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole when it was opened, and not to be read any more when its first picture sets out: no sweep breaks off."""

    def gone(*_: object, **__: object) -> None:
        raise ModelError("the disk is gone")

    monkeypatch.setattr("renderer.engine.adapters.AdapterBlock.read_into", gone)
    heard = render(open_engine(in_flight=3), jobs(files)[:3])
    with_loras = {str(number) for number, job in enumerate(jobs(files)[:3]) if job.loras}
    assert heard.failures.keys() == with_loras
    assert heard.pictures.keys() == {"0", "1", "2"} - with_loras
    assert {type(each) for each in heard.failures.values()} == {PictureError}


@pytest.mark.parametrize("number", [0, 1])
def test_a_model_that_cannot_be_read_is_no_lora_s_fault(
    engine: NativeEngine, files: list[Path], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Natively, with a LoRA or none: such a failure is every picture's, and is told as that."""

    def gone(*_: object, **__: object) -> None:
        raise ModelError("a file of the model is gone")

    monkeypatch.setattr("renderer.engine.native.calling.arguments", gone)
    with pytest.raises(ModelError, match="of the model"):
        engine.render(jobs(files)[number], lambda *_: None)


def test_tables_of_modulation_are_let_go_while_others_wait(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while a picture waits whose LoRA nobody has opened yet."""
    monkeypatch.setattr("renderer.engine.modulation.MOST_TABLES", 2)
    engine, heard = open_engine(in_flight=1), Heard()
    engine.take("0", make_job(**SMALL))
    engine.advance(heard)
    engine.take("1", make_job(**SMALL, loras=(lora(files[0]),)))
    while engine.busy:
        engine.advance(heard)
    assert heard.pictures.keys() == {"0", "1"}


def test_beside_fp8_weights(files: list[Path]) -> None:
    """The base stays FP8: bits do not depend on company or slots, and weight 0 gives the base's."""
    mine = jobs(files, precision="fp8")
    alone = [render(open_engine("fp8", slots=60, in_flight=1), [job]).pictures["0"].rgb for job in mine]
    heard = render(open_engine("fp8", slots=2, in_flight=5), mine)
    assert [heard.pictures[str(number)].rgb for number in range(len(mine))] == alone
    assert alone[4] == alone[0] != alone[1]


def test_one_that_is_gone_fails_its_picture_alone(files: list[Path], tmp_path: Path) -> None:
    gone = lora(loras.write_lora(tmp_path / "gone.safetensors", loras.factors(seed=9)))
    (tmp_path / "gone.safetensors").unlink()
    engine, heard = open_engine(), Heard()
    mine = [make_job(**SMALL), make_job(**SMALL, loras=(gone,)), make_job(**SMALL, loras=(lora(files[0]),))]
    for number, job in enumerate(mine):
        engine.take(str(number), job)
    while engine.busy:
        engine.advance(heard)
    assert heard.pictures.keys() == {"0", "2"}
    assert isinstance(heard.failures["1"], PictureError)
    assert "gone" in heard.failures["1"].message
