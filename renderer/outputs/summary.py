"""How a run over one manifest went: `summary.json`, written when it ends, however it ends. Knows nothing of runs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from renderer.job import Memory, Seconds, Value
from renderer.outputs.folder import OutputFolder

Ending = Literal["complete", "deadline", "signal", "failures", "error"]
"""Why a run ended: nothing left to do, the time was up, somebody asked for it, too many failures in a row, or an error
that was no picture's."""


class Failure(Value):
    """A picture that is not there at the end of a run, and why.

    `set_aside`: it brought down too many workers, and is not tried again by itself. `refused`: it was not tried, for
    this machine cannot render it, or its model did not open.
    """

    id: str
    message: str
    hint: str = ""
    set_aside: bool = False
    refused: bool = False


class LetteringCounts(Value):
    """Of one run: pictures whose lettering was read, those in which all of it was right, and takes after the first."""

    read: int
    right: int
    retakes: int


class DeviceCounts(Value):
    """What one of several devices did in a run over one manifest: its pictures, its own seconds, the most memory.

    `card` is its name with the first part of its UUID; empty for a CPU, and for one that opened nothing. `left_out`
    says why nothing was tried on it any more, or for a while.
    """

    where: str
    card: str = ""
    rendered: int = 0
    busy_s: Seconds = 0.0
    memory: Memory = Memory()
    left_out: str = ""

    @property
    def named(self) -> str:
        """Where it is, and which card."""
        return f"{self.where}, {self.card}" if self.card else self.where


class Summary(Value):
    """One run over one manifest: `summary.json`. Rates and sums are of this run alone.

    Counts are pictures, each counted once: `rendered`, `skipped` (there already; `brought` of them under
    another name, or kept another way), `failed` (tried, and not
    there), `refused` (not tried: this machine cannot), `set_aside`, `left` (to do still) and `not_chosen` (left out by
    `--only`) add up to `pictures`, which are the manifest's. `error` is what ended the run, where that was an error;
    `lettering` is null where none was read. `devices` are there where there were several.
    """

    summary_version: Literal[2] = 2
    name: str
    manifest: str
    ending: Ending
    error: str = ""
    began_at: datetime
    ended_at: datetime
    pictures: int
    rendered: int
    skipped: int
    brought: int = 0
    failed: int
    refused: int = 0
    set_aside: int = 0
    left: int
    not_chosen: int = 0
    elapsed_s: Seconds
    rendering_s: Seconds
    pictures_per_hour: float | None
    memory: Memory
    failures: tuple[Failure, ...] = ()
    lettering: LetteringCounts | None = None
    devices: tuple[DeviceCounts, ...] = ()

    @property
    def is_all_there(self) -> bool:
        """Whether all pictures that were chosen are there."""
        return not (self.failed or self.refused or self.set_aside or self.left)


def total(summaries: Sequence[Summary]) -> dict[str, int]:
    """The counts of several, added up."""
    names = ("pictures", "rendered", "skipped", "failed", "refused", "set_aside", "left", "not_chosen")
    return {name: sum(getattr(each, name) for each in summaries) for name in names}


def left_out(summaries: Sequence[Summary]) -> list[str]:
    """The devices that were left out in a run, by where they are."""
    return sorted({device.where for summary in summaries for device in summary.devices if device.left_out})


def read_summary(folder: OutputFolder) -> Summary | None:
    """How the last run over a folder's manifest went; None when none has ended yet, or one of another version has."""
    try:
        return Summary.model_validate_json(folder.summary.read_bytes())
    except (OSError, ValueError):
        return None


def write_summary(folder: OutputFolder, summary: Summary) -> None:
    """Write down how a run over a folder's manifest went. Raises `DiskError`, `LeaseLostError`."""
    folder.write(folder.summary, summary.model_dump_json(indent=2).encode() + b"\n")
