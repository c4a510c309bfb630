"""What goes into pictures on its way to a worker: kept first, sent with the order, and never another picture's."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from PIL import Image

from renderer.engine import inputs
from renderer.errors import ManifestError
from renderer.manifest import manifest
from renderer.manifest.manifest import Manifest
from renderer.outputs import input_files
from renderer.outputs.folder import OutputFolder
from renderer.planning.plan import make_plan
from renderer.protocol import AnyOrder, Render
from renderer.supervisor import events, incoming, pool
from renderer.supervisor.incoming import GoingIn, Incoming
from tests.fakes import Behaviour, InlineWorker
from tests.supervisor.running import Night, counts
from tests.waiting import until

OF_EIGHT = functools.partial(InlineWorker, behaviour=Behaviour(capacity=8))


class Unpacking(InlineWorker):
    """Unpacks what comes with each order, as a real worker does."""

    seen: list[list[str]]

    def send(self, order: AnyOrder, payload: bytes = b"") -> None:
        if isinstance(order, Render):
            self.seen.append(sorted(inputs.unpack(order, payload)))
        super().send(order, payload)


@pytest.fixture(autouse=True)
def seen() -> list[list[str]]:
    Unpacking.seen = []
    return Unpacking.seen


def written(folder: Path, colour: str = "teal") -> Manifest:
    """Two pictures over one file, one of them within a mask, and one from noise."""
    Image.new("RGB", (64, 64), colour).save(folder / "shop.png")
    Image.new("L", (64, 64), 255).save(folder / "mask.png")
    path = folder / "edit.yaml"
    path.write_text(
        "defaults: {model: demo, size: 64x64, steps: 2}\n"
        "jobs: [{prompt: a, image: shop.png}, {prompt: b, image: shop.png, mask: mask.png}, c]\n",
        encoding="utf-8",
    )
    return manifest.load(path)


def of_one_file(path: Path) -> GoingIn:
    return GoingIn((path.stat().st_size,), path.read_bytes())


def test_inputs_are_kept_once_and_go_with_their_orders(tmp_path: Path, seen: list[list[str]]) -> None:
    night, edit = Night(tmp_path / "out"), written(tmp_path)
    assert counts(night.render(edit, hire=Unpacking)) == (3, 0, 0, 0)
    wanted = [sorted(each.sha256 for each in picture.job.inputs) for picture in edit.pictures]
    assert seen == wanted
    kept = {path.stem for path in night.folder(edit).inputs.iterdir()}
    assert kept == {sha256 for each in wanted for sha256 in each}
    (tmp_path / "shop.png").unlink()
    assert counts(night.render(edit, hire=Unpacking, force=True))[:3] == (3, 0, 0)


def test_what_changed_since_it_was_planned_is_not_rendered(tmp_path: Path) -> None:
    """Those pictures fail with a reason, and cost nobody else anything; planned anew they are other pictures."""
    night, edit = Night(tmp_path / "out"), written(tmp_path)
    Image.new("RGB", (64, 64), "red").save(tmp_path / "shop.png")
    assert counts(night.render(edit, hire=Unpacking)) == (1, 0, 2, 0)
    assert all("has changed since" in what.message for what in night.of(events.PictureFailed))
    again = written(tmp_path, "red")
    assert counts(night.render(again, hire=Unpacking)) == (2, 1, 0, 0)


def test_more_than_goes_to_a_worker_at_once_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame that a worker takes for none would end it, and the next."""
    night, edit = Night(tmp_path / "out"), written(tmp_path)
    monkeypatch.setattr(incoming, "MAX_PAYLOAD_BYTES", (tmp_path / "shop.png").stat().st_size)
    assert counts(night.render(edit, hire=Unpacking)) == (2, 0, 1, 0)
    assert ["together" in what.message for what in night.of(events.PictureFailed)] == [True]


class NoMemory(int):
    """As many bytes as there are no more of."""

    def __add__(self, more: int) -> NoReturn:
        raise MemoryError


def no_memory(*given: Any) -> GoingIn:
    """For what goes into a picture, where anything does."""
    if given and given[0]:
        raise MemoryError
    return GoingIn()


@pytest.mark.parametrize(
    ("module", "name", "full"),
    [(input_files, "keep", no_memory), (input_files, "MOST_BYTES", NoMemory(2**20)), (incoming, "GoingIn", no_memory)],
)
def test_no_memory_for_what_goes_in_is_that_pictures_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, full: Any
) -> None:
    """It ends no night: not as a file is read, nor as all of a picture's are put together for the worker."""
    night, edit = Night(tmp_path / "out"), written(tmp_path)
    monkeypatch.setattr(module, name, full)
    assert counts(night.render(edit, hire=Unpacking)) == (1, 0, 2, 0)
    assert all("memory" in what.message for what in night.of(events.PictureFailed))


def test_no_memory_for_what_is_looked_at_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its line, before the night."""
    written(tmp_path)
    monkeypatch.setattr(input_files, "MOST_BYTES", NoMemory(2**20))
    with pytest.raises(ManifestError, match=r"edit\.yaml:2:\d+ jobs\[0\]\.image: shop\.png: there is not memory"):
        manifest.load(tmp_path / "edit.yaml")


def test_twins_of_one_that_cannot_be_kept_end_too(tmp_path: Path) -> None:
    """Two names of one picture whose input has nowhere to be kept: both fail, and the run ends."""
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "shop.png")
    path = tmp_path / "edit.yaml"
    path.write_text(
        "defaults: {model: demo, size: 64x64, steps: 2}\n"
        "jobs: [{id: a, prompt: a, image: shop.png}, {id: b, prompt: a, image: shop.png}, c]\n",
        encoding="utf-8",
    )
    night, edit = Night(tmp_path / "out"), manifest.load(path)
    night.folder(edit).path.mkdir(parents=True)
    night.folder(edit).inputs.write_text("a file where the folder belongs")
    assert counts(night.render(edit, hire=Unpacking)) == (1, 0, 2, 0)


class SlowDisk:
    """Where files that go in lie: each is read when it may be, and is written down."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._keep = input_files.keep
        self.read: list[str] = []
        self.may = threading.Event()
        monkeypatch.setattr(input_files, "keep", self.keep)

    def keep(self, folder: OutputFolder, source: Any) -> bytes:
        self.read.append(Path(source.path).name)
        if not self.may.wait(10):
            raise AssertionError("nobody did anything meanwhile")
        return self._keep(folder, source)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDisk]:
    found = SlowDisk(monkeypatch)
    yield found
    found.may.set()


def two_files(folder: Path) -> Manifest:
    """One from noise, three over one file, one over another, one from noise."""
    for name in ("shop", "pier"):
        Image.new("RGB", (64, 64), "teal" if name == "shop" else "navy").save(folder / f"{name}.png")
    path = folder / "edit.yaml"
    path.write_text(
        "defaults: {model: demo, size: 64x64, steps: 2}\n"
        "jobs: [{id: a, prompt: a}, {id: b, prompt: b, image: shop.png}, {id: c, prompt: c, image: shop.png},\n"
        "  {id: d, prompt: d, image: shop.png}, {id: e, prompt: e, image: pier.png}, {id: f, prompt: f}]\n",
        encoding="utf-8",
    )
    return manifest.load(path)


class TestSlowDisk:
    def test_workers_are_heard_while_a_file_is_read(self, tmp_path: Path, disk: SlowDisk) -> None:
        """The picture before it comes meanwhile, and all come in their order; a file is read once for its pictures."""
        night, edit = Night(tmp_path / "out"), two_files(tmp_path)

        class Heard(list[events.Event]):
            def append(self, what: events.Event) -> None:
                super().append(what)
                if isinstance(what, events.PictureDone):
                    disk.may.set()

        night.heard = Heard()
        assert counts(night.render(edit, hire=OF_EIGHT)) == (6, 0, 0, 0)
        assert night.began() == ["a", "b", "c", "d", "e", "f"]
        assert disk.read == ["shop.png", "pier.png"]

    def test_a_dead_one_keeps_nobody_from_stopping(
        self, tmp_path: Path, disk: SlowDisk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is being read when the run ends is left to itself."""
        monkeypatch.setattr(incoming, "_PATIENCE_S", 0.1)
        night, edit = Night(tmp_path / "out"), two_files(tmp_path)

        class Heard(list[events.Event]):
            def append(self, what: events.Event) -> None:
                super().append(what)
                if isinstance(what, events.PictureDone):
                    night.stop.requests = 1

        night.heard = Heard()
        began = time.monotonic()
        assert night.render(edit, hire=OF_EIGHT).ending == "signal"
        assert time.monotonic() - began < 5
        assert disk.read == ["shop.png"]

    def test_whoever_waits_is_woken(self, tmp_path: Path, disk: SlowDisk) -> None:
        """The loop sleeps until a worker says something, or until it is ready. It is no other's before."""
        edit = two_files(tmp_path)
        plan = make_plan(edit, tmp_path / "out")
        woken = threading.Event()
        coming = Incoming(plan.folder)
        shop, pier = plan.items[1], plan.items[4]
        assert not coming.is_ready(shop, woken.set)
        assert not coming.is_ready(pier, woken.set)
        disk.may.set()
        assert woken.wait(10)
        assert coming.is_ready(shop, woken.set)
        assert coming.of(shop) == of_one_file(tmp_path / "shop.png")
        assert not coming.is_ready(pier, woken.set)
        until(lambda: coming.is_ready(pier, woken.set))
        assert coming.of(pier) == of_one_file(tmp_path / "pier.png")
        assert coming.of(plan.items[0]) == GoingIn()
        coming.close()


def test_a_worker_with_much_to_read_is_given_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that wait to be written to it are bounded in bytes, and not by how many pictures it takes."""
    most: list[int] = []

    class Full(InlineWorker):
        """It reads an order when it answers it."""

        def __init__(self, log: Path) -> None:
            super().__init__(log, Behaviour(capacity=8))
            self._sizes: list[int] = []

        @property
        def unsent_bytes(self) -> int:
            return sum(self._sizes[-len(self._orders) :]) if self._orders else 0

        def send(self, order: AnyOrder, payload: bytes = b"") -> None:
            super().send(order, payload)
            self._sizes.append(len(payload))
            most.append(self.unsent_bytes)

    night, edit = Night(tmp_path / "out"), two_files(tmp_path)
    size = (tmp_path / "shop.png").stat().st_size
    monkeypatch.setattr(pool, "_MOST_UNSENT_BYTES", size + 1)
    assert counts(night.render(edit, hire=Full)) == (6, 0, 0, 0)
    assert max(most) <= 2 * size
    monkeypatch.setattr(pool, "_MOST_UNSENT_BYTES", 10 * size)
    night.render(edit, hire=Full, force=True)
    assert max(most) > 2 * size
