"""A store's place after a crash: killed at any step of a replacement, there is one whole store, and nothing is left."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from renderer.job import Stored
from renderer.weights import settle
from renderer.weights.store import open_store
from tests.weights import tiny
from tests.weights.tiny import Source

STEPS = frozenset({"os.rename", "os.remove", "os.rmdir", "open"})
"""What Python tells of before it does it; `open` is of the folders that are synced."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store in its place, of bf16, and one that is to replace it, of fp8."""
    source: Source = tiny.make(tmp_path_factory.mktemp("settle") / "source")
    folder = tmp_path_factory.mktemp("made")
    source.pack(folder / "packed", "bf16")
    source.pack(folder / "new", "fp8")
    (folder / "new").rename(folder / "packed.part")
    (folder / "packed.part" / settle.PROGRESS).write_text("{}", encoding="utf-8")
    (folder / ".packed.lock").unlink(missing_ok=True)
    return folder


@pytest.fixture(params=["in one step", "one after the other"])
def exchanges(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the system exchanges names in one step."""
    if request.param != "in one step":
        monkeypatch.setattr(settle, "_exchange", lambda *_: False)
        return False
    return True


def killed(at_step: int, work: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Do it in a process that is killed at its n-th step; whether there was such a step."""
    child = os.fork()
    if child == 0:
        steps = [0]

        def step(*_: object) -> None:
            steps[0] += 1
            if steps[0] > at_step:
                os.kill(os.getpid(), signal.SIGKILL)

        really = settle._exchange

        def exchange(one: Path, other: Path) -> bool:
            step()
            return really(one, other)

        monkeypatch.setattr(settle, "_exchange", exchange)
        sys.addaudithook(lambda event, _: step() if event in STEPS else None)
        work()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def test_killed_at_every_step(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool) -> None:  # noqa: FBT001  # a fixture
    """The old store or the new one opens: at once where names are exchanged, else when somebody has looked for one.

    What is left over goes when the next store is made; and a replacement that died before it began is gone on with.
    """
    at_step = 0
    found: set[Stored] = set()
    while True:
        folder = tmp_path / str(at_step)
        shutil.copytree(made, folder)
        target = folder / "packed"
        dead = killed(at_step, lambda target=target: settle.put(target), monkeypatch)  # type: ignore[misc]
        if not exchanges:
            settle.recover(target)
        found.add(open_store(target).precision)
        settle.sweep(target)
        assert settle.leftovers(target) == []
        settle.settle(target)
        begun = {"packed.part"} if open_store(target).precision == "bf16" else set()
        assert left(folder) == {"packed"} | begun
        shutil.rmtree(folder)
        if not dead:
            break
        at_step += 1
    assert at_step > 10
    assert found == {"bf16", "fp8"}


def test_killed_while_it_is_put_right(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also whoever finds two stores and an empty place may be killed at any step."""
    at_step = 0
    while True:
        folder = tmp_path / str(at_step)
        shutil.copytree(made, folder)
        target = folder / "packed"
        target.rename(settle.old_of(target))
        dead = killed(at_step, lambda target=target: settle.settle(target), monkeypatch)  # type: ignore[misc]
        settle.recover(target)
        open_store(target)
        settle.sweep(target)
        assert settle.leftovers(target) == []
        shutil.rmtree(folder)
        if not dead:
            break
        at_step += 1
    assert at_step > 5


def test_nothing_is_touched_while_another_process_is_at_it(made: Path, tmp_path: Path) -> None:
    """Its two renames are under way: the place is empty for a moment."""
    shutil.copytree(made, tmp_path / "x")
    target = tmp_path / "x" / "packed"
    target.rename(settle.old_of(target))
    with FileLock(settle.lock_of(target)):
        settle.recover(target)
        assert left(target.parent) == {"packed.old", "packed.part"}
        target.mkdir()
        shutil.copy(settle.old_of(target) / "index.json", target)
        settle.sweep(target)
        assert left(target.parent) == {"packed", "packed.old", "packed.part"}


def test_links_are_not_followed(made: Path, tmp_path: Path) -> None:
    """A link beside a store is nobody's leftover, and what it leads to stays."""
    folder = tmp_path / "x"
    shutil.copytree(made, folder)
    shutil.rmtree(folder / "packed.part")
    home = tmp_path / "home"
    shutil.copytree(made / "packed", home)
    (folder / "packed.old").symlink_to(home)
    assert settle.leftovers(folder / "packed") == []
    settle.settle(folder / "packed")
    (folder / "packed").rename(tmp_path / "away")
    settle.recover(folder / "packed")
    assert left(folder) == {"packed.old"}
    assert (home / "index.json").is_file()
