"""What is asked of a night by files: what is heard, what is not, and what a dead one has left there."""

from __future__ import annotations

import os
import resource
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
