"""Runs over one output folder, for tests of what a night does."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

from renderer.manifest.manifest import Manifest
from renderer.outputs.folder import OutputFolder
from renderer.outputs.journal import Journal
from renderer.outputs.summary import Summary
from renderer.supervisor import events, run
from renderer.supervisor.local_worker import LocalWorker
from renderer.supervisor.settings import Settings, StopRequests
from tests.fakes import InlineWorker

FAKE = functools.partial(LocalWorker, command=(sys.executable, "-m", "tests.fakes"))


FAKE_OF_EIGHT = functools.partial(LocalWorker, command=(sys.executable, "-m", "tests.fakes", "--capacity", "8"))


class Night:
    """One output folder and the runs over it."""

    def __init__(self, tmp_path: Path) -> None:
        self.settings = Settings(outputs=tmp_path, hire=InlineWorker)
        self.heard: list[events.Event] = []
        self.stop = StopRequests()

    def render(self, manifest: Manifest, **changes: Any) -> Summary:
        self.heard.clear()
        self.stop.requests = 0
        settings = Settings(**{**{name: getattr(self.settings, name) for name in Settings.__slots__}, **changes})
        (summary,) = run.render([manifest], settings, self.heard.append, self.stop)
        return summary

    def summary(self, manifest: Manifest) -> Summary:
        """What `summary.json` says."""
        return Summary.model_validate_json((self.folder(manifest).path / "summary.json").read_bytes())

    def folder(self, manifest: Manifest) -> OutputFolder:
        return OutputFolder(self.settings.outputs / manifest.name)

    def of(self, kind: type[Any]) -> list[Any]:
        return [what for what in self.heard if isinstance(what, kind)]

    def began(self) -> list[str]:
        return [what.item.picture.id for what in self.of(events.PictureBegan)]


def counts(summary: Summary) -> tuple[int, int, int, int]:
    """Rendered, there already, not there for good, left: with those that were not chosen, all there are."""
    absent = summary.failed + summary.refused + summary.set_aside
    found = summary.rendered, summary.skipped, absent, summary.left
    assert sum(found) + summary.not_chosen == summary.pictures
    return found


def journal_open(folder: Path) -> list[str]:
    """Pictures that have been handed over and not come back, by the journal."""
    book = Journal.read(OutputFolder(folder))
    return [mark for mark, record in book.records.items() if record.left_open]
