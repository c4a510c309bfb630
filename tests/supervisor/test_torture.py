"""`kill -9` at random moments and at every write point: nothing lost, nothing doubled, nothing that does not match.

RENDERER_KILLS sets how many (200 in CI, 1,000 with `make torture`).
"""

from __future__ import annotations

import functools
import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from renderer.job import Format, Keep
from renderer.manifest.manifest import Manifest
from renderer.outputs import picture_files
from renderer.outputs.encode import Labels, Pixels, encode
from renderer.outputs.folder import OutputFolder
from renderer.outputs.journal import Journal, JournalEntry
from renderer.protocol import Render
from renderer.supervisor import run, writing
from renderer.supervisor.settings import Settings, StopRequests
from renderer.supervisor.worker import Gone, Heard, Hire
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
    several: Hire | None = None,
) -> int:
    """Run in a forked child that is killed after some time, or dies at the n-th passing of a write point.

    `prepare` is called in the child before it begins; `several` hires workers for four devices.
    """
    child = os.fork()
    if child == 0:
        status = 9
        try:
            if die_at is not None:
                files.reached = _dying(*die_at)
            if prepare is not None:
                prepare()
            settings = Settings(outputs=outputs, hire=InlineWorker)
            if several is not None:
                settings = Settings(outputs=outputs, gpus="cpu,cpu,cpu,cpu", hire=several)
            (summary,) = run.render([manifest], settings, lambda _: None, StopRequests())
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
    outputs, kills, batches, interrupted, before = tmp_path / "0", 0, 0, 0, 0
    while kills < KILLS:
        interrupted += run_until_killed(outputs, kill_after_s=dice.uniform(0.0, 0.1)) == signal.SIGKILL
        kills += 1
        after = check(outputs)
        assert after >= before, "a finished picture was lost"
        before = after
        if after == len(MANIFEST.pictures):
            finish(outputs)
            batches += 1
            outputs, before = tmp_path / str(batches), 0
    finish(outputs)
    assert interrupted > KILLS // 2, "most kills came after the run had ended: they proved nothing"
    print(f"{kills} kills, {interrupted} in the middle of a run, {batches + 1} batches completed")  # noqa: T201


class MortalWorker(InlineWorker):
    """A worker that dies with every third picture that it begins, once for each, whatever run it is in."""

    def __init__(self, log: Path) -> None:
        super().__init__(log)
        self._deaths = log.parent.parent / "deaths"

    def hear(self, timeout_s: float) -> Heard | None:
        for order in self._orders:
            if isinstance(order, Render) and int(order.key[1:]) % 3 == 0 and not (self._deaths / order.key).exists():
                (self._deaths / order.key).mkdir(parents=True)
                return Gone(-9), b""
        return super().hear(timeout_s)


def test_kills_of_several_workers_and_of_their_run(tmp_path: Path) -> None:
    """Four workers that die now and then, in a run that is killed: nothing is lost, and nothing is rendered twice."""
    dice = random.Random(20261126)  # noqa: S311
    outputs, kills, batches, before = tmp_path / "0", 0, 0, 0
    while kills < max(10, KILLS // 10):
        run_until_killed(outputs, kill_after_s=dice.uniform(0.05, 0.3), several=MortalWorker)
        kills += 1
        after = check(outputs)
        assert after >= before, "a finished picture was lost"
        before = after
        if after == len(MANIFEST.pictures):
            _check_once(outputs)
            batches += 1
            outputs, before = tmp_path / str(batches), 0
    assert run_until_killed(outputs, several=MortalWorker) == 0
    assert check(outputs) == len(MANIFEST.pictures)
    _check_once(outputs)


def _check_once(outputs: Path) -> None:
    """By the journal no picture was done twice, and each that brought down a worker did so once."""
    lines = map(JournalEntry.model_validate_json, (outputs / MANIFEST.name / "journal.jsonl").read_bytes().splitlines())
    told = Counter((entry.what, entry.id) for entry in lines if entry.what in ("done", "crashed"))
    assert set(told.values()) == {1}


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


TWO = make_manifest(("a", "b"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outputs with two pictures, as a run has left them."""
    outputs = tmp_path_factory.mktemp("two")
    assert run_until_killed(outputs, manifest=TWO) == 0
    return outputs


@pytest.mark.parametrize("point", ["part-opened", "part-written", "part-synced", "renamed", "folder-synced"])
@pytest.mark.parametrize("passing", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("back", [False, True])
def test_death_while_a_format_changes(tmp_path: Path, two: Path, point: WritePoint, passing: int, back: bool) -> None:  # noqa: FBT001
    """Die between PNG and WebP: after the next run, whichever of the two it wants, there is one file a picture."""
    before = TWO
    pictures = tuple(one.model_copy(update={"keep": Keep(format="webp")}) for one in before.pictures)
    after = Manifest(before.file, before.name, pictures)
    shutil.copytree(two, tmp_path, dirs_exist_ok=True)
    assert run_until_killed(tmp_path, die_at=(point, passing), manifest=after) == signal.SIGKILL
    last = before if back else after
    assert run_until_killed(tmp_path, manifest=last) == 0
    folder = OutputFolder(tmp_path / before.name)
    suffix = ".png" if back else ".webp"
    found = {path.name for path in folder.path.iterdir() if path.suffix in {".png", ".webp"}} - {"contact-sheet.png"}
    assert found == {f"p000{suffix}", f"p001{suffix}"}
    assert not list(folder.path.glob(".part-*"))
    assert not folder.aside.exists()
    for picture in last.pictures:
        assert pixels_of(folder.picture(picture.output, picture.keep.format)) == draw(picture.job)
