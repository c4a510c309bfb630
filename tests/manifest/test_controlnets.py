"""What a manifest says of ControlNets: found, held against the model and the sizes, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from renderer import catalog
from renderer.errors import ManifestError
from renderer.job import Picture, fingerprint
from renderer.manifest import manifest, replay
from renderer.manifest.replay import ReplayEntry
from renderer.outputs import input_files
from renderer.outputs.folder import OutputFolder
from renderer.weights.control_files import identity_of_file
from renderer.weights.identity import identify
from tests.controlnets import write_controlnet
from tests.loras import write_lora
from tests.nights import make_night

CANNY = "DiffSynth-Studio/Qwen-Image-Blockwise-ControlNet-Canny"
EDGES = "file: edges.safetensors, image: square.png"
GAP = "file: gap.safetensors, image: square.png"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks for the demo model, and pictures."""
    found = tmp_path_factory.mktemp("controlnets")
    write_controlnet(found / "edges.safetensors")
    write_controlnet(found / "gap.safetensors", masked=True)
    write_controlnet(found / "wide.safetensors", width=320)
    write_controlnet(found / "deep.safetensors", layers=6)
    write_lora(found / "lora.safetensors")
    (found / "cut.safetensors").write_bytes((found / "edges.safetensors").read_bytes()[:-2])
    for name, size in {"square": (64, 64), "wide": (96, 64), "a/one": (64, 64), "a/two": (96, 64)}.items():
        (found / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", size, "teal").save(found / f"{name}.png")
    return found


def pictures(folder: Path, job: str) -> tuple[Picture, ...]:
    path = folder / "job.yaml"
    path.write_text(f"defaults: {{model: demo, prompt: a, steps: 4}}\njobs: [{job}]", encoding="utf-8")
    return manifest.load(path).pictures


def test_a_picture_that_is_missing_from_two_jobs_is_a_problem(folder: Path) -> None:
    """Said once, where it was wanted first; the second job has no pictures then, and was a fault of the program's."""
    net = "{prompt: a, controlnets: [{file: edges.safetensors, image: none.png}]}"
    with pytest.raises(ManifestError) as caught:
        pictures(folder, f"{net}, {net}")
    assert [problem.message for problem in caught.value.problems] == ["there is no file none.png"]


def test_a_scale_of_gigabytes_is_not_made(folder: Path) -> None:
    """Nor a path: two short texts make them, and anybody may send such to a server."""
    net = f"file: edges.safetensors, image: square.png, scale: '{'{x}' * 1001}'"
    with pytest.raises(ManifestError, match=r"scale: would be 10,010 characters"):
        pictures(folder, f"{{controlnets: [{{{net}}}], matrix: {{x: [aaaaaaaaaa]}}}}")


@pytest.mark.parametrize("held", ["controlnets: [{file: edges.safetensors, image: odd.png}]", "context_image: odd.png"])
def test_a_size_that_rounding_made_is_of_its_pictures_shape(folder: Path, held: str) -> None:
    """The size of what looks at 67x61 is 272x240: with that written down, as replay does, it is the same picture."""
    Image.new("RGB", (67, 61), "teal").save(folder / "odd.png")
    region = "regions: [{prompt: b, mask: odd.png}]"
    (found,) = pictures(folder, f"{{seed: 1, {held}, {region}}}")
    assert (found.job.width, found.job.height) == (272, 240)
    (again,) = pictures(folder, f"{{seed: 1, {held}, {region}, size: 272x240}}")
    assert again.job == found.job
    with pytest.raises(ManifestError, match="67x61"):
        pictures(folder, f"{{{held}, size: 320x240}}")


@pytest.mark.parametrize(
    ("held", "size"),
    [
        ("controlnets: [{file: edges.safetensors, image: long.png}]", "1024x64"),
        ("context_image: long.png", "1024x64"),
        ("model: demo-edit, images: [long.png], controlnets: [{file: edges.safetensors, image: long.png}]", "1024x64"),
        ("model: demo-edit, images: [odd.png], controlnets: [{file: edges.safetensors, image: odd.png}]", "416x160"),
    ],
)
def test_a_size_that_bounds_made_is_of_its_pictures_shape(folder: Path, held: str, size: str) -> None:
    """So it is where the model draws none that long, or an edit is of multiples of 32."""
    Image.new("RGB", (2000, 60), "teal").save(folder / "long.png")
    Image.new("RGB", (520, 184), "teal").save(folder / "odd.png")
    (found,) = pictures(folder, f"{{seed: 1, {held}}}")
    assert f"{found.job.width}x{found.job.height}" == size
    (again,) = pictures(folder, f"{{seed: 1, {held}, size: {size}}}")
    assert again.job == found.job
    with pytest.raises(ManifestError, match=r"is (2000x60|520x184), and"):
        pictures(folder, f"{{{held}, size: 512x64}}")


class TestFound:
    def test_by_file(self, folder: Path) -> None:
        """By what it holds; the size is of the shape of what it looks at, and the files go in."""
        first = "file: edges.safetensors, image: wide.png, scale: 0.5, start: 0.2, end: 0.8"
        (found,) = pictures(folder, f"{{controlnets: [{{{first}}}, {{file: edges.safetensors, image: wide.png}}]}}")
        one, other = found.job.controlnets
        assert one.source == other.source == str(folder / "edges.safetensors")
        assert one.identity == identity_of_file(folder / "edges.safetensors")
        assert (one.scale, one.start, one.end) == (0.5, 0.2, 0.8)
        assert (other.scale, other.start, other.end) == (1.0, 0.0, 1.0)
        assert found.job.width / found.job.height == pytest.approx(1.5, rel=0.1)
        assert found.job.inputs == (one.image,)
        assert {Path(each.path).name for each in found.inputs} == {"wide.png"}
        assert found.job.denoising_strength == 1

    def test_by_id(self, folder: Path) -> None:
        """Of the catalogue: known by its commit before it is fetched, beside a model as wide as it is."""
        (found,) = pictures(folder, f"{{model: Qwen/Qwen-Image, controlnets: [{{id: {CANNY}, image: square.png}}]}}")
        (net,) = found.job.controlnets
        assert net.source == CANNY
        assert net.identity.startswith(f"{CANNY}@")

    def test_a_mask(self, folder: Path) -> None:
        """Of a network that inpaints; it goes in as a mask."""
        (found,) = pictures(folder, f"{{controlnets: [{{{GAP}, mask: square.png}}]}}")
        (net,) = found.job.controlnets
        assert net.mask in found.job.mask_inputs
        assert net.mask != net.image
        assert found.job.inputs == (net.image, net.mask)

    def test_a_pattern_and_a_matrix(self, folder: Path) -> None:
        """Each file is a picture of its own shape, in each of the matrix's strengths."""
        net = 'file: edges.safetensors, image: a/*.png, scale: "{s}"'
        job = f'{{id: "{{stem}}-{{s}}", matrix: {{s: [0, 0.5]}}, controlnets: [{{{net}}}]}}'
        found = pictures(folder, job)
        assert [each.id for each in found] == ["one-0", "two-0", "one-0.5", "two-0.5"]
        assert [each.job.controlnets[0].scale for each in found] == [0.0, 0.0, 0.5, 0.5]
        assert [len(each.job.controlling) for each in found] == [0, 0, 1, 1]
        assert found[1].job.width > found[1].job.height == found[3].job.height


def test_one_of_another_model_is_doubted(folder: Path) -> None:
    """It has the right shape, and was made for other weights."""
    path = folder / "other.yaml"
    net = f"{{id: {CANNY}, image: square.png}}"
    path.write_text(f"jobs: [{{model: Qwen/Qwen-Image-2512, prompt: a, controlnets: [{net}]}}]", encoding="utf-8")
    (doubt,) = map(str, manifest.load(path).warnings)
    assert f"{CANNY} was made for Qwen/Qwen-Image, and the model is Qwen/Qwen-Image-2512" in doubt


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ("{controlnets: [{file: none.safetensors, image: square.png}]}", 'no file "none.safetensors"'),
        ("{controlnets: [{file: edges.safetensors, image: none.png}]}", "no file none.png"),
        (f"{{controlnets: [{{id: {CANNY}y, image: square.png}}]}}", f'did you mean "{CANNY}"'),
        (f"{{controlnets: [{{id: {CANNY}, image: square.png, mask: square.png}}], model: Qwen/Qwen-Image}}", "no mask"),
        ("{controlnets: [{id: demo/4steps, image: square.png}]}", "is a LoRA, and not a ControlNet"),
        (
            f"{{controlnets: [{{id: {CANNY}, image: square.png}}]}}",
            "made for Qwen/Qwen-Image, whose layers demo does not",
        ),
        ("{controlnets: [{id: demo, image: square.png}]}", "is a model, and not a ControlNet"),
        (f"{{loras: [{CANNY}]}}", "is a ControlNet, and not a LoRA (write it under controlnets)"),
        (f"{{model: {CANNY}}}", "name it under controlnets"),
        (f"{{controlnets: [{{{EDGES}, scale: 9}}]}}", "9 is out of range (allowed: 0 to 4)"),
        (f"{{controlnets: [{{{EDGES}, scale: -1}}]}}", "-1 is out of range"),
        (f"{{controlnets: [{{{EDGES}, scale: '{{s}}'}}], matrix: {{s: [much]}}}}", "the scale much is not a number"),
        (f"{{controlnets: [{{{EDGES}, scale: '{{s}}'}}], matrix: {{s: [5]}}}}", "the scale 5.0 is out of range"),
        (f"{{controlnets: [{{{EDGES}, start: 0.8, end: 0.2}}]}}", "starts at 0.8, after its end at 0.2"),
        (f"{{controlnets: [{{{EDGES}, end: 1.5}}]}}", "1.5 is out of range"),
        (f"{{controlnets: [{{{EDGES}, start: 0.4, end: 0.6}}]}}", "from 0.4 to 0.6 there is none of the 4 steps"),
        (f"{{controlnets: [{{{EDGES}, weight: 1}}]}}", "weight: unknown key"),
        (f"{{controlnets: [{{{EDGES}, mask: square.png}}]}}", "takes no mask"),
        (f"{{controlnets: [{{{GAP}}}]}}", "inpaints, and has no mask"),
        (f"{{controlnets: [{{{GAP}, mask: wide.png}}]}}", "mask: wide.png is 96x64, and the image 64x64"),
        ("{controlnets: [{file: wide.safetensors, image: square.png}]}", "img_in.weight is [320, 64], and [160, 64]"),
        ("{controlnets: [{file: deep.safetensors, image: square.png}]}", "has controlnet_blocks.5"),
        ("{controlnets: [{file: lora.safetensors, image: square.png}]}", "is no ControlNet that is known here"),
        ("{controlnets: [{file: cut.safetensors, image: square.png}]}", "cut.safetensors"),
        ("{controlnets: [{file: edges.safetensors}]}", "image: is missing"),
        ("{controlnets: [edges.safetensors]}", "must be a mapping, not text"),
        ("{controlnets: []}", "must not be empty"),
        ("{controlnet: edges.safetensors}", "write controlnets"),
        (f"{{controlnets: [{{{EDGES}}}], size: 96x64}}", "its image is 64x64, and the size 96x64"),
        (f"{{controlnets: [{{{EDGES}}}], image: wide.png}}", "and what is drawn over 96x64"),
        (
            f"{{controlnets: [{{{EDGES}}}, {{file: edges.safetensors, image: wide.png}}]}}",
            "controlnets[1].image: its image is 96x64, and the first one's 64x64",
        ),
        ("{controlnets: [{file: edges.safetensors, image: a/*.png}], image: a/*.png}", "a second pattern"),
        ("{controlnets: [{file: edges.safetensors, image: b/*.png}]}", "fits no file"),
    ],
)
def test_problems(folder: Path, job: str, said: str) -> None:
    """Each with its place, and what helps."""
    with pytest.raises(ManifestError) as caught:
        pictures(folder, job)
    (problem,) = map(str, caught.value.problems)
    assert said in problem
    assert problem.startswith(f"{folder / 'job.yaml'}:2:") or "job.yaml:2:" in problem


def test_what_holds_a_picture_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the pictures that were kept; a network that is not here any more is said to be left out."""
    monkeypatch.chdir(tmp_path)
    write_controlnet(tmp_path / "controlnets/gap.safetensors", masked=True)
    Image.new("RGB", (64, 64), "teal").save("shop.png")
    (tmp_path / "held.yaml").write_text(
        "{defaults: {model: demo, steps: 4, size: 64x64}, jobs: [{prompt: a, controlnets: [{file:"
        " controlnets/gap.safetensors, image: shop.png, mask: shop.png, scale: 0.5, start: 0.2, end: 0.8}]}]}"
    )
    held = manifest.load(tmp_path / "held.yaml")
    make_night(held, tmp_path / "out")
    for source in held.pictures[0].inputs:
        input_files.keep(OutputFolder(tmp_path / "out/held"), source)
    (entry,) = replay.collect([tmp_path / "out/held/001.png"])
    assert isinstance(entry, ReplayEntry)
    assert entry.notes == ()
    again = replay.as_manifest([entry]).pictures[0].job
    demo = identify(catalog.DEMO)
    assert fingerprint(again, demo) == fingerprint(held.pictures[0].job, demo)
    write_controlnet(tmp_path / "controlnets/gap.safetensors", 5, masked=True)
    (entry,) = replay.collect([tmp_path / "out/held/001.png"])
    assert isinstance(entry, ReplayEntry)
    assert "left out: ControlNet gap at 0.5 (another file here)" in entry.notes
