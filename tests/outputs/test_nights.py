"""What is asked of a night by files: what is heard, what is not, and what a dead one has left there."""

from __future__ import annotations

import os
import resource
from datetime import UTC, datetime
from pathlib import Path

import pytest

from renderer.outputs import nights
from renderer.outputs.nights import NightFolder, Wish


@pytest.fixture
def folder(tmp_path: Path) -> NightFolder:
    return NightFolder.of_process(tmp_path, os.getpid())


def test_what_is_not_understood_is_answered(folder: NightFolder) -> None:
    """Another version's wish, and one without end: who asks waits for an answer."""
    with folder.opened():
        (folder.path / "1.wish").write_text('{"what": "dance"}')
        (folder.path / "2.wish").write_text(" " * 2**21)
        mark = folder.ask(Wish(what="pause"))
        assert folder.wishes() == [(mark, Wish(what="pause"))]
        for number in "12":
            answer = folder.take_answer(number)
            assert answer is not None
            assert (answer.error, answer.text) == (True, "the run does not understand what was asked")
        assert folder.wishes() == []


def test_wishes_are_heard_in_the_order_in_which_they_came(folder: NightFolder) -> None:
    """Whatever their marks are: who pauses and then resumes wants it to go on."""
    with folder.opened():
        for number in range(4):
            mark = folder.ask(Wish(what="pause" if number % 2 else "resume", manifest=str(number)))
            os.utime(folder.path / f"{mark}.wish", (number, number))
        assert [wish.manifest for _, wish in folder.wishes()] == list("0123")


def test_another_user_s_wish_is_refused(folder: NightFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where anybody may write into the folder, a run is its own user's and the machine's administrator's."""
    with folder.opened():
        mark = folder.ask(Wish(what="stop"))
        if os.getuid() == 0:
            os.chown(folder.path / f"{mark}.wish", 4711, -1)
        monkeypatch.setattr(os, "getuid", lambda: 4712)
        assert folder.wishes() == []
        answer = folder.take_answer(mark)
        assert answer is not None
        assert (answer.error, answer.text) == (True, "the run belongs to another user")


def test_what_was_asked_of_a_dead_one_is_not_asked_of_the_next(folder: NightFolder) -> None:
    """A container gives its process the same number each time."""
    folder.ask(Wish(what="stop"))
    (folder.path / "1.answer").write_text("{}")
    with folder.opened():
        assert folder.wishes() == []
        assert not (folder.path / "1.answer").exists()


def test_what_is_taken_back_while_it_is_read_is_not_asked(folder: NightFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever took it back has been told that nothing was asked."""
    read = nights._read_wish

    def withdrawn(path: Path) -> Wish | nights.NightAnswer:
        found = read(path)
        assert folder.withdraw(path.stem)
        return found

    with folder.opened():
        folder.ask(Wish(what="stop"))
        monkeypatch.setattr(nights, "_read_wish", withdrawn)
        assert folder.wishes() == []


def test_only_this_machine_s_dead_nights_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those of another whose name begins the same, and whose locks may not be seen from here."""
    monkeypatch.setattr(nights, "this_machine", lambda: "node")
    for name in ("node-17", "node-1-17"):
        (tmp_path / nights.NIGHTS / name).mkdir(parents=True)
    nights.sweep(tmp_path, 0.0)
    assert [path.name for path in (tmp_path / nights.NIGHTS).iterdir()] == ["node-1-17"]


def test_a_night_that_begins_or_is_on_is_not_swept(tmp_path: Path) -> None:
    """One that begins has a folder and no lock for a moment; one that is on has a lock, however old its folder is."""
    begins, is_on = (NightFolder.of_process(tmp_path, number) for number in (1, 2))
    begins.path.mkdir(parents=True)
    nights.sweep(tmp_path)
    assert begins.path.exists()
    with is_on.opened():
        os.utime(is_on.path, (0, 0))
        nights.sweep(tmp_path)
        assert is_on.path.exists()
        for folder, began in ((is_on, 1), (begins, 2)):
            told = nights.NightFile(
                pid=1, machine="node", began_at=datetime.fromtimestamp(began, UTC), names=(str(began),)
            )
            folder.post(told)
        with begins.opened():
            assert [night.names for _, night in nights.find(tmp_path)] == [("1",), ("2",)]


def test_what_is_asked_while_no_file_can_be_opened_is_heard_later(folder: NightFolder) -> None:
    """The night goes on hearing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with folder.opened():
        mark = folder.ask(Wish(what="pause"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            found = folder.wishes()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert found == []
        assert folder.wishes() == [(mark, Wish(what="pause"))]
