"""ControlNets: the bits of DiffSynth's own call, alone and in company, through few slots."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from diffsynth.models.qwen_image_controlnet import QwenImageBlockWiseControlNet
from diffsynth.pipelines.qwen_image import ControlNetInput, QwenImageBlockwiseMultiControlNet
from PIL import Image
from safetensors.torch import load_file

from renderer import catalog
from renderer.engine import controls, inputs
from renderer.engine.controls import OpenControlNet
from renderer.engine.in_step import InStep
from renderer.engine.inputs import Inputs
from renderer.engine.native import NativeEngine
from renderer.engine.sections import Passing
from renderer.engine.streaming import StreamingEngine
from renderer.job import ControlNet, Job, Precision
from renderer.protocol import Render
from renderer.weights import control_files
from renderer.weights.control_files import identity_of_file
from tests.controlnets import LAYERS, WIDTH, write_controlnet
from tests.engine.making import bare_picture, bare_pipeline, flattened, make_job
from tests.engine.test_inputs import drawn, known, masked
from tests.engine.test_streaming import Heard, open_engine

SIDE = 64
EDGES, OTHER = drawn(), Image.linear_gradient("L").resize((SIDE, SIDE)).convert("RGB")
KNOWN, ANOTHER, MASK = known(EDGES), known(OTHER), known(masked(), "mask")
FILES = dict((KNOWN, ANOTHER, MASK))


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two that look at a picture, and one that looks at a mask as well."""
    folder = tmp_path_factory.mktemp("nets")
    return [
        write_controlnet(folder / "edges.safetensors", 1),
        write_controlnet(folder / "depth.safetensors", 2),
        write_controlnet(folder / "gap.safetensors", 3, masked=True),
    ]


def control(path: Path, image: Any = KNOWN[0], **changes: Any) -> ControlNet:
    return ControlNet(source=str(path), identity=identity_of_file(path), image=image, **changes)


def jobs(nets: list[Path]) -> list[Job]:
    """One; two that count at different steps, guided; the same in the other order; within a mask; none."""
    edges, depth, gap = nets
    small = {"width": SIDE, "height": SIDE, "num_inference_steps": 4}
    one, two = control(edges, scale=0.5), control(depth, ANOTHER[0], start=0.5)
    return [
        make_job(**small, cfg_scale=1.0, controlnets=(one,)),
        make_job(**small, controlnets=(one, two.model_copy(update={"end": 0.7, "start": 0.0}))),
        make_job(**small, controlnets=(two, one), seed=3),
        make_job(**small, cfg_scale=1.0, controlnets=(control(gap, mask=MASK[0]), control(edges, ANOTHER[0]))),
        make_job(**small, cfg_scale=1.0, input_image=KNOWN[0], denoising_strength=0.7, controlnets=(two,)),
        make_job(**small),
    ]


def given(job: Job) -> Inputs:
    data = [FILES[each] for each in job.inputs]
    return inputs.unpack(Render(key="k", job=job, files=tuple(map(len, data))), b"".join(data))


def network(path: Path) -> Any:
    """As DiffSynth opens one."""
    tensors = load_file(path)
    more = tensors["img_in.weight"].shape[1] - 64
    found = QwenImageBlockWiseControlNet(LAYERS, additional_in_dim=more, dim=WIDTH)
    found.load_state_dict(tensors)
    return found.to(torch.bfloat16).eval()


def bare_inputs(job: Job) -> dict[str, Any]:
    """What DiffSynth's call is given for a job by somebody who knows nothing of ours."""
    images = {KNOWN[0]: EDGES, ANOTHER[0]: OTHER}
    found: dict[str, Any] = {}
    if job.controlnets:
        found["blockwise_controlnet_inputs"] = [
            ControlNetInput(
                controlnet_id=place,
                scale=net.scale,
                start=1 - net.start,
                end=1 - net.end,
                image=images[net.image],
                inpaint_mask=masked().convert("RGB") if net.mask else None,
            )
            for place, net in enumerate(job.controlnets)
        ]
    if job.input_image:
        found |= {"input_image": EDGES, "denoising_strength": job.denoising_strength}
    return found


@pytest.fixture(scope="module")
def bare(demo_folder: Path, nets: list[Path]) -> list[bytes]:
    """Each by a bare call of DiffSynth's."""
    pipe, found = flattened(bare_pipeline(demo_folder)), []
    for job in jobs(nets):
        pipe.blockwise_controlnet = QwenImageBlockwiseMultiControlNet(
            [network(Path(net.source)).to(pipe.torch_dtype) for net in job.controlnets]
        )
        found.append(bare_picture(pipe, job, **bare_inputs(job)))
    return found


def rendered(engine: StreamingEngine, jobs: list[Job]) -> list[bytes]:
    heard = Heard()
    for number, job in enumerate(jobs):
        engine.take(str(number), job, given(job))
    while engine.busy:
        engine.advance(heard)
    assert heard.failures == {}
    return [heard.pictures[str(number)].rgb for number in range(len(jobs))]


def test_natively(engine: NativeEngine, bare: list[bytes], nets: list[Path]) -> None:
    assert [engine.render(job, lambda *_: None, given(job)).rgb for job in jobs(nets)] == bare
    assert len(set(bare)) == len(bare)


@pytest.mark.parametrize(("slots", "in_flight"), [(2, 1), (3, 6)])
def test_streamed(bare: list[bytes], nets: list[Path], slots: int, in_flight: int) -> None:
    """In any company: the bits that each has alone."""
    assert rendered(open_engine(slots=slots, in_flight=in_flight), jobs(nets)) == bare


def test_what_does_not_stay_comes_past(bare: list[bytes], nets: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no room for all blocks of a ControlNet, two of them take turns."""
    begun: list[tuple[bool, int]] = []
    begin = InStep.begin

    def noted(self: InStep, *, stays: bool) -> None:
        begin(self, stays=False)
        begun.append((stays, self.device_bytes // self.host.block_bytes))

    monkeypatch.setattr(InStep, "begin", noted)
    engine = open_engine(slots=2, in_flight=2)
    assert rendered(engine, jobs(nets)[:2]) == bare[:2]
    assert set(begun) == {(True, 2)}
    assert not any(each.device_bytes for each in engine._shelf._each())  # nobody wants them any more


@pytest.mark.parametrize("broken", ["gone", "changed", "cut"])
def test_one_that_cannot_be_had_fails_its_pictures_alone(
    bare: list[bytes], nets: list[Path], tmp_path: Path, broken: str
) -> None:
    path = write_controlnet(tmp_path / "net.safetensors", 1)
    job = make_job(width=SIDE, height=SIDE, controlnets=(control(path),))
    if broken == "gone":
        path.unlink()
    elif broken == "changed":
        write_controlnet(path, 9)
    else:
        path.write_bytes(path.read_bytes()[:-64])
    engine, heard, fine = open_engine(slots=2, in_flight=2), Heard(), jobs(nets)[0]
    engine.take("broken", job, given(job))
    engine.take("fine", fine, given(fine))
    while engine.busy:
        engine.advance(heard)
    assert str(path) in heard.failures["broken"].message
    assert heard.pictures["fine"].rgb == bare[0]


def test_a_sweep_that_breaks_off_at_a_controlnet(
    bare: list[bytes], nets: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The youngest begins again, the others go on from the block that they wait for: all have their bits."""
    passing, calls = OpenControlNet.passing, []

    def full(self: OpenControlNet, *, last: bool) -> Passing:
        calls.append(last)
        if len(calls) == 12:
            raise torch.OutOfMemoryError("out of memory")
        return passing(self, last=last)

    monkeypatch.setattr(OpenControlNet, "passing", full)
    assert rendered(open_engine(slots=2, in_flight=3), jobs(nets)[:3]) == bare[:3]
    assert len(calls) > 12


@pytest.mark.parametrize("precision", ["fp8", "int8"])
def test_beside_scaled_weights(nets: list[Path], precision: Precision) -> None:
    """Company changes no bit there either."""
    wanted = [job.model_copy(update={"precision": precision}) for job in jobs(nets)[:3]]
    alone = [rendered(open_engine(precision, slots=60, in_flight=1), [job])[0] for job in wanted]
    assert rendered(open_engine(precision, slots=2, in_flight=3), wanted) == alone
    assert len(set(alone)) == 3


def test_natively_those_of_the_last_picture_stay_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no others: each takes gigabytes of the GPU."""
    monkeypatch.setattr(control_files, "here", lambda net, _model: (net.identity, None))
    monkeypatch.setattr(controls.WholeControlNets, "_opened", lambda _self, identity, _shape: [identity])
    whole = controls.WholeControlNets(catalog.QWEN_IMAGE, cast("Any", None), None)

    def prepare(*names: str) -> list[Any]:
        nets = tuple(ControlNet(source=name, identity=name, image=KNOWN[0]) for name in names)
        return whole.prepare(make_job().model_copy(update={"controlnets": nets}))

    (first,) = prepare("a")
    (second, again) = prepare("b", "a")
    assert again is first
    assert prepare("b") == [second]
    assert list(whole._open) == ["b"]
    assert prepare("a")[0] is not first
