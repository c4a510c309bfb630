"""Marks of pictures: whole or not at all, and several at once."""

from __future__ import annotations

import sys
from pathlib import Path
from subprocess import Popen

import pytest

from renderer.errors import DiskError
from renderer.outputs import picks
from renderer.outputs.folder import OutputFolder
from renderer.system import lock


def test_marks_stay_until_they_are_taken_away(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    assert picks.read(folder) == {}
    picks.mark(folder, {"a": 5, "b": "x"})
    picks.mark(folder, {"a": 3, "c": 1})
    assert picks.mark(folder, {"b": None}) == {"a": 3, "c": 1} == picks.read(folder)


MARKING = """
import sys
from pathlib import Path
from renderer.outputs import picks
from renderer.outputs.folder import OutputFolder
for number in range(20):
    picks.mark(OutputFolder(Path(sys.argv[1])), {sys.argv[2] + str(number): 1 + number % 5})
"""


def test_several_processes_mark_at_once_and_none_is_lost(tmp_path: Path) -> None:
    running = [Popen([sys.executable, "-c", MARKING, str(tmp_path), name]) for name in "ab"]
    assert [one.wait(60) for one in running] == [0, 0]
    assert len(picks.read(OutputFolder(tmp_path))) == 40


@pytest.mark.parametrize("text", ["", "[]", '{"marks": {"a": 6}}', '{"marks": {"a": "y"}}', '{"picks_version": 2}'])
def test_a_file_that_is_none_is_never_written_over(tmp_path: Path, text: str) -> None:
    folder = OutputFolder(tmp_path)
    folder.picks.write_text(text)
    with pytest.raises(DiskError, match=r"picks\.json"):
        picks.read(folder)
    with pytest.raises(DiskError) as caught:
        picks.mark(folder, {"a": 1})
    assert "move it away" in caught.value.hint
    assert folder.picks.read_text() == text


def test_a_lock_that_nobody_lets_go_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk of a network it may be a machine's that died: a server's threads would all end up there."""
    monkeypatch.setattr(picks, "_PATIENCE_S", 0.0)
    folder = OutputFolder(tmp_path)
    with lock.held(folder.picks_lock), pytest.raises(DiskError, match="somebody else"):
        picks.mark(folder, {"a": 5})
    assert picks.mark(folder, {"a": 5}) == {"a": 5}
