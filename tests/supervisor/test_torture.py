"""`kill -9` at random moments and at every write point: nothing lost, nothing doubled, nothing that does not match.

RENDERER_KILLS sets how many (200 in CI, 1,000 with `make torture`).
"""

from __future__ import annotations

import functools
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from renderer.job import Format, Keep
from renderer.manifest.manifest import Manifest
from renderer.outputs import picture_files
from renderer.outputs.encode import Labels, Pixels, encode
from renderer.outputs.folder import OutputFolder
from renderer.outputs.journal import Journal
from renderer.supervisor import run, writing
from renderer.supervisor.settings import Settings, StopRequests
from renderer.system import files
from renderer.system.files import WritePoint
from tests.fakes import InlineWorker, draw
from tests.making import make_manifest, pixels_of

KILLS = int(os.environ.get("RENDERER_KILLS", "200"))
_THREADS = 4
MANIFEST = make_manifest([f"picture {number}" for number in range(48)])


def run_until_killed(
    outputs: Path,
    kill_after_s: float | None = None,
    die_at: tuple[WritePoint, int] | None = None,
    manifest: Manifest = MANIFEST,
    prepare: Callable[[], None] | None = None,
) -> int:
    """Run in a forked child that is killed after some time, or dies at the n-th passing of a write point.

    `prepare` is called in the child before it begins.
    """
    child = os.fork()
    if child == 0:
        status = 9
        try:
            if die_at is not None:
                files.reached = _dying(*die_at)
            if prepare is not None:
                prepare()
            (summary,) = run.render(
                [manifest], Settings(outputs=outputs, hire=InlineWorker), lambda _: None, StopRequests()
            )
            status = summary.failed
        finally:
            os._exit(status)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def _dying(point: WritePoint, passing: int):  # type: ignore[no-untyped-def]  # noqa: ANN202
    passed = 0

    def reached(here: WritePoint, _path: Path) -> None:
        nonlocal passed
        passed += here == point
        if passed == passing:
            os.kill(os.getpid(), signal.SIGKILL)

    return reached


def check(outputs: Path) -> int:
    """Every sidecar on the disk belongs to a whole picture of the right job; how many there are."""
    folder = OutputFolder(outputs / MANIFEST.name)
    found = 0
    for picture in MANIFEST.pictures:
        sidecar = picture_files.read_sidecar(folder.sidecar(picture.output))
        if sidecar is None:
            assert not folder.sidecar(picture.output).exists(), "a sidecar that is not whole"
            continue
        found += 1
        assert sidecar.job == picture.job
        assert pixels_of(folder.picture(picture.output)) == draw(picture.job), "a picture that is not its sidecar's"
        assert sidecar.file.sha256 == files.sha256_of(folder.picture(picture.output))
    return found


def finish(outputs: Path) -> None:
    """A last run that nobody kills: then all is there, once, and no temporary file."""
    assert run_until_killed(outputs) == 0
    assert check(outputs) == len(MANIFEST.pictures)
    folder = outputs / MANIFEST.name
    names = {path.name for path in folder.iterdir()} - {"index.html", "contact-sheet.png", "report", "thumbs"}
    expected = {f"{picture.output}{suffix}" for picture in MANIFEST.pictures for suffix in (".png", ".json")}
    assert names - {".lock", "worker.log"} == expected | {"summary.json", "journal.jsonl"}


@pytest.mark.timeout(1200)
def test_random_kills_lose_nothing(tmp_path: Path) -> None:
    """Kill the run at random moments, again and again: what is on the disk is always whole, and in the end complete."""
    dice = random.Random(20261121)  # noqa: S311
    outputs, kills, batches, interrupted = tmp_path / "0", 0, 0, 0
    while kills < KILLS:
        before = check(outputs)
        interrupted += run_until_killed(outputs, kill_after_s=dice.uniform(0.0, 0.1)) == signal.SIGKILL
        kills += 1
        after = check(outputs)
        assert after >= before, "a finished picture was lost"
        if after == len(MANIFEST.pictures):
            finish(outputs)
            batches += 1
            outputs = tmp_path / str(batches)
    finish(outputs)
    assert interrupted > KILLS // 2, "most kills came after the run had ended: they proved nothing"
    print(f"{kills} kills, {interrupted} in the middle of a run, {batches + 1} batches completed")  # noqa: T201


@pytest.mark.parametrize("point", sorted(set(get_args(WritePoint)) - {"linked", "removed"}))  # those are test_moving's
@pytest.mark.parametrize("passing", [1, 2, 3, 4, 5])
def test_death_at_every_write_point(tmp_path: Path, point: WritePoint, passing: int) -> None:
    """Die at the n-th passing of each write point: what is on the disk is whole, and the next run completes it."""
    assert run_until_killed(tmp_path, die_at=(point, passing)) == signal.SIGKILL
    check(tmp_path)
    finish(tmp_path)


@pytest.mark.parametrize("written", [0, 7])
@pytest.mark.parametrize("several", [2, 3, 4])
def test_death_with_several_pictures_in_the_encoder(tmp_path: Path, several: int, written: int) -> None:
    """What was written before is there, what was being encoded is not, and the next run goes on, not held up by it."""
    assert run_until_killed(tmp_path, prepare=functools.partial(_die_encoding, several, written)) == signal.SIGKILL
    assert check(tmp_path) >= written - (_THREADS - several), "the other threads may have been writing still"
    folder = OutputFolder(tmp_path / MANIFEST.name)
    began = [record for record in Journal.read(folder).records.values() if record.left_open]
    assert len(began) >= several, "the journal knows of every attempt"
    assert not any(record.crashes or record.set_aside for record in began)
    finish(tmp_path)


def _die_encoding(several: int, written: int) -> None:
    """Have this process die when so many are in the encoder at once, of which the first `written` come through."""
    inside: list[int] = []
    lock = threading.Lock()

    def encode_or_die(pixels: Pixels, file_format: Format, labels: Labels) -> bytes:
        with lock:
            inside.append(len(inside))
            if len(inside) == written + several:
                os.kill(os.getpid(), signal.SIGKILL)
            if len(inside) <= written:
                return encode(pixels, file_format, labels)
        threading.Event().wait()
        raise AssertionError("it has died")

    patch = pytest.MonkeyPatch()
    patch.setattr(writing, "cores", lambda: _THREADS)
    patch.setattr(picture_files, "encode", encode_or_die)


@pytest.mark.parametrize("point", ["part-opened", "part-written", "part-synced", "renamed", "folder-synced"])
@pytest.mark.parametrize("passing", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("back", [False, True])
def test_death_while_a_format_changes(tmp_path: Path, point: WritePoint, passing: int, back: bool) -> None:  # noqa: FBT001
    """Die between PNG and WebP: after the next run, whichever of the two it wants, there is one file a picture."""
    before = make_manifest(("a", "b"))
    pictures = tuple(one.model_copy(update={"keep": Keep(format="webp")}) for one in before.pictures)
    after = Manifest(before.file, before.name, pictures)
    assert run_until_killed(tmp_path, manifest=before) == 0
    assert run_until_killed(tmp_path, die_at=(point, passing), manifest=after) == signal.SIGKILL
    last = before if back else after
    assert run_until_killed(tmp_path, manifest=last) == 0
    folder = OutputFolder(tmp_path / before.name)
    suffix = ".png" if back else ".webp"
    found = {path.name for path in folder.path.iterdir() if path.suffix in {".png", ".webp"}} - {"contact-sheet.png"}
    assert found == {f"p000{suffix}", f"p001{suffix}"}
    assert not list(folder.path.glob(".part-*"))
    for picture in last.pictures:
        assert pixels_of(folder.picture(picture.output, picture.keep.format)) == draw(picture.job)
