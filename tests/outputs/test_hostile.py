"""Whatever is handed in as a picture is read rightly or refused, in a blink, and in little memory.

RENDERER_HOSTILE=all tries all three hundred files; without it every fourth, and all that are sound.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from renderer.errors import ManifestError, PictureError
from renderer.manifest import manifest
from renderer.outputs import input_files
from renderer.outputs.input_files import Purpose
from tests.outputs import hostile
from tests.outputs.hostile import Hostile

ALL = hostile.of()
_ALWAYS = ("bomb", "link-to", "sparse")
CHOSEN = [
    one
    for number, one in enumerate(ALL)
    if number % 4 == 0
    or one.shows is not None
    or any(word in one.name for word in _ALWAYS)
    or os.environ.get("RENDERER_HOSTILE") == "all"
]
PURPOSES: tuple[Purpose, ...] = ("picture", "mask", "layers")
_SECONDS = 5.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("hostile")
    for one in CHOSEN:
        one.make(found / one.name)
    return found


def test_they_are_three_hundred() -> None:
    assert len(ALL) >= 300
    assert len({one.name for one in ALL}) == len(ALL)


def test_each_is_read_or_refused(folder: Path) -> None:
    """By what it is, with its name; nothing else is ever raised."""
    wrong: list[str] = []
    for one in CHOSEN:
        for purpose in PURPOSES:
            began = time.process_time()
            try:
                known, _ = input_files.identify(folder / one.name, one.name, purpose)
            except PictureError as error:
                wrong += [f"{one.name} as {purpose}: {error}"] if one.shows or one.name not in error.message else []
            else:
                wrong += [] if 0 < known.width * known.height <= input_files.MOST_PIXELS else [one.name]
            wrong += [f"{one.name} took long"] if time.process_time() - began > _SECONDS else []
    assert wrong == []


@pytest.mark.parametrize("one", [each for each in ALL if each.shows is not None], ids=lambda each: each.name)
def test_what_is_sound_shows_what_it_is(folder: Path, one: Hostile) -> None:
    assert one.shows is not None
    found = input_files.decode(input_files.read(folder / one.name, one.name), one.name).image
    assert (found.mode, found.size) == ("RGB", one.shows.size)
    assert found.tobytes() == one.shows.convert("RGB").tobytes()


def test_labels_that_make_no_sense_are_as_if_there_were_none(tmp_path: Path) -> None:
    """A sound picture is not refused for what it says of itself."""
    for one in ALL:
        if "exif" in one.name:
            one.make(tmp_path / one.name)
            found = input_files.decode((tmp_path / one.name).read_bytes(), one.name)
            assert found.image.size == hostile.SIDE


def test_many_scans_take_no_minutes() -> None:
    """Each is a pass over all pixels: two thousand of 16 megapixels took eleven seconds, in 150 kB."""
    data = hostile.many_scans(hostile.drawn((2000, 2000)), 2000)
    began = time.process_time()
    with pytest.raises(PictureError, match="more than 100 scans"):
        input_files.decode(data, "it")
    assert time.process_time() - began < 1
    usual = hostile.many_scans(hostile.drawn(), 60)
    assert input_files.decode(usual + bytes(range(256)) * 400, "it").image.size == hostile.SIDE


def test_no_scan_hides_behind_a_marker_without_a_length() -> None:
    """What stands behind 01 is no length: eight hundred scans were skipped as if they were what it measures."""
    flat = Image.new("RGB", (512, 512), "teal")
    whole, many = hostile.many_scans(flat, 0), hostile.many_scans(flat, 800)
    hidden = whole[:-2] + b"\xff\x01" + many[len(whole) - 2 :]
    with pytest.raises(PictureError, match="more than 100 scans"):
        input_files.decode(hidden, "it")


def test_pages_are_not_counted() -> None:
    """Each is looked at with all before it: forty thousand took twenty seconds, in 4.5 MB."""
    data = hostile.many_pages(20_000)
    began = time.process_time()
    with pytest.raises(PictureError, match="several frames or pages"):
        input_files.decode(data, "it")
    assert time.process_time() - began < 1


MEASURED = """
import sys
from pathlib import Path
from renderer.errors import PictureError
from renderer.outputs import input_files

def most():  # of this program: the operating system's own figure begins with the parent's
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1])

input_files.identify(Path(sys.argv[1]), "first")
before = most()
for path in sys.argv[2:]:
    try:
        input_files.identify(Path(path), "it")
    except PictureError:
        pass
print(most() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="its peak is told by /proc")
def test_bombs_take_no_memory(folder: Path) -> None:
    """All of them, one after the other: less than 100 MB, where each says that it is gigabytes."""
    names = [one.name for one in CHOSEN if any(word in one.name for word in _ALWAYS)]
    sound = next(one.name for one in CHOSEN if one.shows is not None)
    command = [sys.executable, "-c", MEASURED, *(str(folder / name) for name in (sound, *names))]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 100_000


@pytest.mark.parametrize("field", ["image", "mask", "images"])
def test_in_a_manifest_each_is_a_problem_with_its_line(folder: Path, field: str) -> None:
    (folder / "sound.png").write_bytes(hostile.encoded(hostile.drawn(), "png"))
    model = "Qwen/Qwen-Image-Edit-2511" if field == "images" else "demo"
    lines = []
    for number, one in enumerate(CHOSEN):
        files = {"image": one.name, "mask": one.name, "images": f"[{one.name}]"}
        image = "image: sound.png, " if field == "mask" else ""
        lines.append(f"  - {{id: p{number}, prompt: a, {image}{field}: {files[field]}}}")
    path = folder / f"{field}.yaml"
    path.write_text(f"defaults: {{model: {model}}}\njobs:\n" + "\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(ManifestError) as caught:
        manifest.load(path)
    refused = {problem.line - 3 for problem in caught.value.problems}
    sound = {number for number, one in enumerate(CHOSEN) if one.shows is not None and one.shows.size == hostile.SIDE}
    assert not refused & sound
    assert len(refused) > len(CHOSEN) // 3
    assert all(problem.path.startswith(f"jobs[{problem.line - 3}].{field}") for problem in caught.value.problems)
