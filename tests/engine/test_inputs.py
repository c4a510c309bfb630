"""Pictures that go in: the bits of DiffSynth's own call, alone, in company, and through few slots."""

from __future__ import annotations

import io
import queue
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageDraw

from renderer.engine import inputs, worker
from renderer.engine.inputs import Inputs
from renderer.engine.native import NativeEngine
from renderer.engine.worker import OrderIn
from renderer.errors import PictureError
from renderer.job import Edit, Input, Job
from renderer.outputs import input_files
from renderer.protocol import Render, write_frame
from tests.engine.making import bare_picture, bare_pipeline, flattened, make_job
from tests.engine.test_streaming import Heard, open_engine

SIDE = 64


def drawn(side: int = SIDE) -> Image.Image:
    image = Image.new("RGB", (side, side), "teal")
    ImageDraw.Draw(image).ellipse([side // 4, side // 4, side // 2, side // 2], fill="orange")
    return image


def masked(side: int = SIDE) -> Image.Image:
    mask = Image.new("L", (side, side), 0)
    ImageDraw.Draw(mask).rectangle([0, 0, side // 2 - 1, side], fill=255)
    return mask


def known(image: Image.Image, purpose: input_files.Purpose = "picture") -> tuple[Input, bytes]:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return input_files.decode(buffer.getvalue(), "it", purpose).known, buffer.getvalue()


IMAGE, MASK, OTHER = known(drawn()), known(masked(), "mask"), known(masked().convert("RGB"))
GIVEN: Inputs = {IMAGE[0].sha256: drawn(), MASK[0].sha256: masked(), OTHER[0].sha256: masked().convert("RGB")}


def jobs() -> list[tuple[Job, dict[str, Any]]]:
    """Over a picture, within a mask, with a soft edge; with one beside it; from noise; what DiffSynth is given."""
    small = {"width": SIDE, "height": SIDE, "num_inference_steps": 3}
    image, mask = {"input_image": IMAGE[0]}, {"inpaint_mask": MASK[0]}
    theirs, within = {"input_image": drawn()}, {"inpaint_mask": masked()}
    return [
        (make_job(**small, **image, denoising_strength=0.7), {**theirs, "denoising_strength": 0.7}),
        (make_job(**small, **image, **mask, cfg_scale=1.0), {**theirs, **within, "denoising_strength": 1.0}),
        (
            make_job(**small, **image, **mask, denoising_strength=0.5, inpaint_blur_size=1),
            {**theirs, **within, "denoising_strength": 0.5, "inpaint_blur_size": 1, "inpaint_blur_sigma": 0.5},
        ),
        (make_job(**small, context_image=IMAGE[0]), {"context_image": drawn()}),
        (
            make_job(**small, **image, context_image=OTHER[0], denoising_strength=0.7, cfg_scale=1.0),
            {**theirs, "context_image": masked().convert("RGB"), "denoising_strength": 0.7},
        ),
        (make_job(**small), {}),
    ]


@pytest.fixture(scope="module")
def bare(demo_folder: Path) -> list[bytes]:
    """Each by a bare call of DiffSynth's."""
    pipe = flattened(bare_pipeline(demo_folder))
    return [bare_picture(pipe, job, **given) for job, given in jobs()]


def test_natively(engine: NativeEngine, bare: list[bytes]) -> None:
    assert [engine.render(job, lambda *_: None, GIVEN).rgb for job, _ in jobs()] == bare
    assert len(set(bare)) == len(bare)


@pytest.mark.parametrize(("slots", "in_flight"), [(2, 1), (3, 4)])
def test_streamed(bare: list[bytes], slots: int, in_flight: int) -> None:
    """Beside pictures from noise, in any company: the bits that each has alone."""
    streaming, heard = open_engine(slots=slots, in_flight=in_flight), Heard()
    for number, (job, _) in enumerate(jobs()):
        streaming.take(str(number), job, GIVEN)
    while streaming.busy:
        streaming.advance(heard)
    assert heard.failures == {}
    assert [heard.pictures[str(number)].rgb for number in range(len(bare))] == bare


def test_outside_the_mask_the_picture_stays(bare: list[bytes]) -> None:
    """What is black in the mask is the picture that went in, but for the VAE's way there and back."""
    found = Image.frombytes("RGB", (SIDE, SIDE), bare[1])
    apart = ImageChops.difference(found, drawn()).convert("L")
    half = SIDE // 2 - 8
    kept, anew = (max(apart.crop((left, 0, left + half, SIDE)).tobytes()) for left in (SIDE // 2 + 8, 0))
    assert kept < 40
    assert anew > 100


class TestOrders:
    def order(self, job: Job, *files: bytes) -> tuple[Render, bytes]:
        return Render(key="k", job=job, files=tuple(map(len, files))), b"".join(files)

    def test_unpacked(self) -> None:
        """Files come one after the other, in the order of the job's inputs."""
        found = inputs.unpack(*self.order(jobs()[1][0], IMAGE[1], MASK[1]))
        assert {name: image.tobytes() for name, image in found.items()} == {
            each.sha256: GIVEN[each.sha256].tobytes() for each in (IMAGE[0], MASK[0])
        }

    def test_other_pixels_are_refused(self) -> None:
        """A file that is another picture than was planned with is never rendered as if it were that."""
        with pytest.raises(PictureError, match="not those that were planned with"):
            inputs.unpack(*self.order(jobs()[0][0], known(drawn(32))[1]))
        with pytest.raises(PictureError):
            inputs.unpack(*self.order(jobs()[0][0], b"nothing"))

    def test_of_another_shape(self) -> None:
        """Scaled until it covers the picture, and cut at the middle; never stretched. The whole of it is not kept."""
        wide = Image.new("RGB", (200, 50), "red")
        wide.paste("blue", (75, 0, 125, 50))
        wanted, file = known(wide)
        job = make_job(width=32, height=32, input_image=wanted)
        given = inputs.unpack(*self.order(job, file))
        (fitted,) = given.values()
        assert inputs.arguments(job, given)["input_image"] is fitted
        assert fitted.size == (32, 32)
        assert fitted.getpixel((16, 16)) == (0, 0, 255)


@pytest.mark.parametrize("at", ["_opened", "_plain", "_known"])
def test_a_picture_too_large_for_memory_fails_alone(monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """Wherever memory runs out while it is opened, the next order is heard, and the process lives."""
    wanted, file = known(drawn(8))
    job = make_job(input_image=wanted)
    pipe = io.BytesIO()
    write_frame(pipe, Render(key="one", job=job, files=(len(file),)), file)
    write_frame(pipe, Render(key="two", job=make_job()))
    pipe.seek(0)
    ended: list[int] = []

    def nothing_left(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(input_files, at, nothing_left)
    monkeypatch.setattr(worker, "_end", ended.append)
    orders: queue.SimpleQueue[OrderIn] = queue.SimpleQueue()
    worker._listen(pipe, orders)
    (_, given), (_, after) = orders.get_nowait(), orders.get_nowait()
    assert isinstance(given, PictureError)
    assert "not memory enough" in given.message
    assert after == {}
    assert ended == [worker.EXIT_ENDED]


def test_what_nobody_foresaw_while_one_is_opened_fails_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also beside Pillow: what it was is said."""

    def nothing_left(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("renderer.engine.inputs.unpack", nothing_left)
    order = Render(key="one", job=make_job(), files=(1,))
    found = worker._unpacked(order, b"x")
    assert isinstance(found, PictureError)
    assert found.message == "what goes in cannot be opened: MemoryError"


@pytest.mark.parametrize(("size", "box"), [((128, 64), (32, 0, 96, 64)), ((64, 128), (0, 32, 64, 96))])
def test_what_goes_in_covers_the_picture_and_is_cut_at_the_middle(
    size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    """Scaled by Lanczos' filter: no fingerprint says by which, so that it may never be another."""
    image = Image.effect_noise(size, 90).convert("RGB")
    job = make_job().model_copy(update={"width": 64, "height": 64})
    assert inputs._fitted(image, job).tobytes() == image.crop(box).tobytes()
    large = image.resize((3 * size[0], 3 * size[1]), Image.Resampling.NEAREST)
    cut = (3.0 * box[0], 3.0 * box[1], 3.0 * box[2], 3.0 * box[3])
    assert inputs._fitted(large, job).tobytes() == large.resize((64, 64), Image.Resampling.LANCZOS, cut).tobytes()


def test_a_picture_that_is_edited_in_two_sizes_is_two() -> None:
    """Jobs that bring it to the same size share it; others have it beside theirs."""
    small, large = (Edit(images=(IMAGE[0],), pixels=pixels) for pixels in (64 * 64, 128 * 128))
    assert inputs.name_edited(IMAGE[0], small) != inputs.name_edited(IMAGE[0], large)
    assert inputs.name_edited(IMAGE[0], small) != inputs.name_edited(OTHER[0], small)
    both = {inputs.name_edited(IMAGE[0], each): drawn(side) for each, side in ((small, 64), (large, 128))}
    assert [[image.size for image in inputs.edited(each, both)] for each in (small, large)] == [
        [(64, 64)],
        [(128, 128)],
    ]
