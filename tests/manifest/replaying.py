"""Pictures that are replayed, as entries and as the jobs that a table of them makes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from renderer.job import Job
from renderer.manifest import replay, replay_tables
from renderer.manifest.manifest import load
from renderer.manifest.replay import PassedOver, ReplayEntry
from tests.manifest.labels import making
from tests.manifest.labels.making import A1111


def foreign(folder: Path, text: str = A1111, name: str = "foreign") -> Path:
    return making.write(folder, making.png(making.text("parameters", text)), f"{name}.png")


def entries_of(*paths: Path) -> list[ReplayEntry]:
    found = list(replay.collect(paths))
    assert not [each for each in found if isinstance(each, PassedOver)]
    return [each for each in found if isinstance(each, ReplayEntry)]


def again(folder: Path, entries: Sequence[ReplayEntry]) -> list[Job]:
    """The jobs that a table of these makes, which are the same in both forms."""
    made = []
    for kind in replay_tables.TABLE_KINDS:
        assert [replay_tables.lost(entry, kind) for entry in entries] == [""] * len(entries)
        path = folder / f"again.{kind}"
        path.write_text(replay_tables.write(entries, kind), encoding="utf-8", newline="")
        pictures = load(path).pictures
        assert [picture.id for picture in pictures] == [entry.id for entry in entries]
        made.append([picture.job for picture in pictures])
    assert made[0] == made[1]
    return made[0]
