"""The page while a run is on: what has changed since it was seen last, and what looking costs."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from renderer.outputs.journal import JournalEntry
from renderer.planning.plan import make_plan
from renderer.report import page
from renderer.report.gallery import CORE_SHARE, Gallery
from renderer.report.gather import gather
from renderer.system.files import write_whole
from tests.making import make_manifest
from tests.nights import make_night
from tests.report.live import NOW, PROMPTS, Night, changed


class TestScripts:
    def test_nobody_asks_for_news_before_all_that_shows_them_is_there(self, night: Night) -> None:
        """Scripts of a page come one after the other, and news may come as soon as one asks: the last one does."""
        html = page.write_html(gather(make_plan(night.manifest, night.outputs)))
        scripts = re.findall(r'<script src="report/([a-z]+\.js)" defer>', html)
        assert scripts == [name for name in page.ASSETS if name.endswith(".js")]
        here = Path(page.__file__).parent
        assert [name for name in scripts if "EventSource" in (here / name).read_text()] == scripts[-1:]
        assert sorted(scripts) == sorted(path.name for path in here.glob("*.js"))


class TestGallery:
    def test_only_what_has_changed_is_told(self, night: Night) -> None:
        """The pictures that came since a mark, and no others; nothing when nothing came."""
        gallery = Gallery(night.manifest, night.outputs)
        mark = f"{gallery._epoch}-0"
        assert gallery.since(mark, 0.01) is None
        night.begin()
        gallery.follow()
        first = changed(gallery, mark).mark
        night.finish("p001")
        night.write("failed", "p002", "one flat colour")
        gallery.follow()
        change = changed(gallery, first)
        news = json.loads(change.text)
        assert [(position, one["state"]) for position, one in news["pictures"]] == [(1, "done"), (2, "failed")]
        assert news["counts"] == "1 done, 1 failed, 2 to do"
        assert gallery.since(change.mark, 0.01) is None
        again = json.loads(changed(gallery, mark).text)
        assert [position for position, _ in again["pictures"]] == [1, 2]

    def test_a_folder_that_is_not_there_yet_is_no_trouble(self, night: Night) -> None:
        """The page may be opened before the run that makes the folder; nothing is written for it."""
        gallery = Gallery(night.manifest, night.outputs / "later")
        gallery.follow()
        assert b"picture 3" in gallery.html()
        assert not (night.outputs / "later").exists()

    def test_a_picture_that_came_without_a_word_is_found(self, night: Night) -> None:
        """One that was written or written anew from outside is there at the end of the batch, without the journal."""
        make_night(night.manifest, night.outputs, without=["p001"])
        gallery = Gallery(night.manifest, night.outputs)
        night.begin()
        gallery.follow()
        mark = changed(gallery, f"{gallery._epoch}-0").mark
        make_night(night.manifest, night.outputs, without=["p000", "p002", "p003"])
        night.end()
        gallery.follow()
        assert [position for position, _ in json.loads(changed(gallery, mark).text)["pictures"]] == [1]

    def test_a_journal_that_was_written_anew_is_read_anew(self, night: Night) -> None:
        """What a shortened journal no longer holds against a picture is forgotten; what it says now is told."""
        gallery = Gallery(night.manifest, night.outputs)
        night.begin()
        for _ in range(5):
            night.write("failed", "p000", "once")
        gallery.follow()
        lines = night.folder.journal.read_bytes().splitlines(keepends=True)
        write_whole(night.folder.journal, lines[0].replace(b"once", b"twice"))
        gallery.follow()
        assert gallery._pictures[0]["note"] == "twice"

    def test_pictures_of_the_same_bytes_share_a_thumbnail(self, tmp_path: Path) -> None:
        """When one of them is rendered anew, the other's is still served."""
        manifest = make_manifest(PROMPTS)
        make_night(manifest, tmp_path, same_picture=True)
        gallery = Gallery(manifest, tmp_path)
        thumb = gallery._pictures[0]["thumb"]
        (tmp_path / "test/p000.json").unlink()
        gallery._take(gallery._look_at([0]), None, another=False)
        found = gallery.file(thumb)
        assert found is not None
        assert found.path.is_file()
        assert gallery.file("p000.png") is None

    def test_thousands_cost_a_hundredth_of_a_core(
        self, tmp_path: Path, held: ExitStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A night's journal of twenty thousand lines: one picture more is found by reading what is new, and no more.

        What is read is counted, not timed: a look reads the journal's new lines and one sidecar, names are looked up
        and not searched for, and the page, which takes a second, is drawn once for all who ask in the next minute.
        """
        monkeypatch.setattr("renderer.report.gallery._DEAR_S", 0.0)  # a quick machine draws two thousand in less
        night = Night(tmp_path, held, [f"picture {number}" for number in range(2000)])
        make_night(night.manifest, tmp_path, without=["p1500"], same_picture=True)
        entry = JournalEntry(at=NOW, what="attempt", id="p001", fingerprint=f"{1:064x}").model_dump_json()
        night.folder.journal.write_text(f"{entry}\n" * 20_000)
        gallery = Gallery(night.manifest, tmp_path)
        night.begin()
        gallery.follow()
        plan = gallery._plan
        first = gallery.html()
        spent = time.thread_time()
        gallery.follow()
        nothing_new_s = time.thread_time() - spent
        picture = night.manifest.pictures[1500]
        make_night(dataclasses.replace(night.manifest, pictures=(picture,)), tmp_path)
        plan.journal.write("done", picture.id, plan.items[1500].fingerprint)
        with counted() as opened:
            gallery.follow()
        assert sorted(path.name for path in opened) == [".lock", "journal.jsonl", "p1500.json", "running.json"]
        assert [position for _, position in gallery._changes] == [1500]
        assert gallery.html() is first
        thumb = gallery._pictures[1500]["thumb"]
        gallery.file(thumb)
        spent = time.thread_time()
        for _ in range(100):
            gallery.file("p1500.png"), gallery.file(thumb), gallery.since(f"{gallery._epoch}-1", None)
        took_s = (time.thread_time() - spent) / 100 + nothing_new_s
        assert took_s < 0.5 * CORE_SHARE  # a look every half second


@contextlib.contextmanager
def counted() -> Iterator[list[Path]]:
    """The files that this thread opens to read, as the interpreter's own audit tells of them."""
    opened: list[Path] = []
    me, active = threading.get_ident(), [True]

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if (
            active[0]
            and event == "open"
            and threading.get_ident() == me
            and isinstance(arguments[0], str | os.PathLike)
        ):
            opened.append(Path(arguments[0]))

    sys.addaudithook(hear)
    try:
        yield opened
    finally:
        active[0] = False
