from __future__ import annotations

from pathlib import Path

import pytest

from renderer.outputs import journal
from renderer.outputs.folder import OutputFolder
from renderer.outputs.journal import Journal, PictureRecord

MARK = "a" * 64


def read(tmp_path: Path) -> PictureRecord:
    return Journal.read(OutputFolder(tmp_path)).record(MARK)


def test_an_attempt_is_known_before_anything_came_of_it(tmp_path: Path) -> None:
    """An attempt without an outcome is left open: its run vanished."""
    Journal.read(OutputFolder(tmp_path)).write("attempt", "p", MARK)
    assert read(tmp_path) == PictureRecord(attempts=1, left_open=True)


def test_three_crashes_set_a_picture_aside(tmp_path: Path) -> None:
    """The third worker brought down is the last."""
    book = Journal.read(OutputFolder(tmp_path))
    for count in range(journal.MAX_CRASHES):
        assert not read(tmp_path).set_aside, count
        book.write("attempt", "p", MARK)
        book.write("crashed", "p", MARK, "SIGSEGV")
    assert read(tmp_path) == PictureRecord(attempts=3, crashes=3, failure="SIGSEGV")
    assert read(tmp_path).set_aside


def test_a_dropped_attempt_counts_for_nothing(tmp_path: Path) -> None:
    """What was given up because somebody stopped the run is not held against the picture."""
    book = Journal.read(OutputFolder(tmp_path))
    book.write("attempt", "p", MARK)
    book.write("dropped", "p", MARK)
    assert read(tmp_path) == PictureRecord()


def test_what_was_given_up_before_it_was_attempted_counts_for_nothing_either(tmp_path: Path) -> None:
    """The line of its attempt may have been torn."""
    Journal.read(OutputFolder(tmp_path)).write("dropped", "p", MARK)
    assert read(tmp_path) == PictureRecord()


def test_the_last_failure_is_known_while_it_is_tried_again(tmp_path: Path) -> None:
    book = Journal.read(OutputFolder(tmp_path))
    book.write("failed", "p", MARK, "flat")
    book.write("attempt", "p", MARK)
    assert read(tmp_path) == PictureRecord(attempts=1, left_open=True, failure="flat")


def test_done_wipes_the_slate(tmp_path: Path) -> None:
    """A picture that came after all starts anew the next time."""
    book = Journal.read(OutputFolder(tmp_path))
    book.write("attempt", "p", MARK)
    book.write("failed", "p", MARK, "flat")
    book.write("attempt", "p", MARK)
    book.write("done", "p", MARK)
    assert read(tmp_path) == PictureRecord()


def test_a_torn_line_is_passed_over_and_the_next_stands_alone(tmp_path: Path) -> None:
    """A run that died in the middle of a line loses that line, and not the one after it."""
    book = Journal.read(OutputFolder(tmp_path))
    book.write("attempt", "p", MARK)
    with book.path.open("ab") as stream:
        stream.write(b'{"at": "2026-01-0')
    book.write("crashed", "p", MARK, "gone")
    assert read(tmp_path) == PictureRecord(attempts=1, crashes=1, failure="gone")


def test_a_large_journal_keeps_what_matters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compaction drops the entries of finished pictures and keeps those of unfinished ones."""
    monkeypatch.setattr(journal, "_COMPACT_ABOVE_BYTES", 100)
    book = Journal.read(OutputFolder(tmp_path))
    book.write("failed", "p", MARK, "flat")
    book.write("done", "q", "b" * 64)
    book.compact()
    assert "q" not in book.path.read_text()
    assert read(tmp_path) == PictureRecord(failure="flat")


def test_whoever_reads_on_takes_whole_lines(tmp_path: Path) -> None:
    """One that is being written is taken when its end is there."""
    book = Journal.read(OutputFolder(tmp_path))
    book.write("attempt", "p", MARK)
    book.write("attempt", "q", "b" * 64)
    first, line = book.path.read_bytes().splitlines(keepends=True)
    book.path.write_bytes(first + line[:40])
    reader = Journal.read(OutputFolder(tmp_path))
    assert reader.records.keys() == {MARK}
    assert not reader.read_on()
    with book.path.open("ab") as stream:
        stream.write(line[40:])
    assert [entry.id for entry in reader.read_on()] == ["q"]
    assert not reader.read_on()
    assert reader.records == book.records


@pytest.mark.parametrize("anew", [True, False])
def test_one_that_is_written_anew_is_read_from_its_beginning(tmp_path: Path, anew: bool) -> None:  # noqa: FBT001
    """As another file, or cut short in its place: what stands there no more counts no more."""
    book = Journal.read(OutputFolder(tmp_path))
    for number in range(3):
        book.write("crashed", "p", MARK, f"{number}")
    reader = Journal.read(OutputFolder(tmp_path))
    first = book.path.read_bytes().splitlines(keepends=True)[0]
    if anew:
        (tmp_path / "other").write_bytes(first)
        (tmp_path / "other").replace(book.path)
    else:
        book.path.write_bytes(first)
    assert len(reader.read_on()) == 1
    assert reader.record(MARK) == PictureRecord(crashes=1, failure="0")


def test_what_is_written_at_once_is_written_at_the_outermost_end(tmp_path: Path) -> None:
    """And nothing before."""
    book = Journal.read(OutputFolder(tmp_path))
    with book.at_once():
        book.write("attempt", "p", MARK)
        with book.at_once():
            book.write("crashed", "p", MARK, "gone")
        assert not book.path.exists()
    assert read(tmp_path) == book.record(MARK) == PictureRecord(attempts=1, crashes=1, failure="gone")
