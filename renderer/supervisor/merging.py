"""What several machines have rendered of a manifest, brought together into the whole's folder.

A picture is linked, then its sidecar is written, then the part's own go: at every moment it is whole in one of the two.
A part that is being rendered is left alone. Prints nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from renderer.errors import LeaseLostError, LockedError
from renderer.manifest.manifest import Manifest
from renderer.outputs import done, picks, picture_files
from renderer.outputs.done import FoundSidecar
from renderer.outputs.folder import OutputFolder
from renderer.outputs.journal import Journal
from renderer.planning import owner, sharding, takes
from renderer.planning.plan import Plan, Planned, make_plan
from renderer.supervisor.sharing import leases_in
from renderer.system.leases import STALE_S, Leases
from renderer.text import counted, duration


@dataclass(frozen=True, slots=True)
class Merged:
    """How many pictures came, the parts that a run holds, and how the whole stands now.

    `troubles` are the pictures of which no part has one and that failed in one, with the reason.
    """

    moved: int
    held: tuple[str, ...]
    plan: Plan
    troubles: tuple[tuple[str, str], ...] = ()


def merge(
    manifest: Manifest, outputs: Path, say: Callable[[str], None] = lambda _: None, stale_s: float = STALE_S
) -> Merged:
    """Bring what parts of a manifest have finished into its folder; those pictures whose jobs are the manifest's.

    `say` hears what takes long. Raises `LockedError` when a run holds the whole's folder, `UsageError` when that is
    another manifest's, `ModelError` for a model that is not there, and `DiskError`.
    """
    folder, moved = OutputFolder(outputs / manifest.name), 0
    held: list[str] = []
    failed: dict[str, str] = {}
    leases = leases_in(outputs, stale_s)
    with folder.locked():
        owner.claim(folder, manifest)
        picture_files.sweep(folder)
        plan = make_plan(manifest, outputs)
        for part in _each(list(sharding.folders(manifest, outputs)), leases, held, say):
            try:
                picture_files.sweep(part)
                _take_marks(folder, part)
                for _ in _take(plan, part):
                    moved += 1
            except LeaseLostError:
                held.append(part.path.name)
                continue
            journal = Journal.read(part)
            failed |= {
                item.picture.id: record.failure
                for item in plan.items
                if (record := journal.record(item.fingerprint)).failure
            }
        if not held:
            for agreed in ("parts", "card", "torch"):
                leases.forget(f"{manifest.name}.{agreed}")
        now = make_plan(manifest, outputs)
    failed |= {item.picture.id: item.note for item in now.items if item.state == "failed"}
    missing = {item.picture.id for item in now.items if item.state != "done"}
    troubles = tuple((key, failure) for key, failure in failed.items() if key in missing)
    return Merged(moved, tuple(held), now, troubles)


def _each(
    parts: Sequence[OutputFolder], leases: Leases, held: list[str], say: Callable[[str], None]
) -> Iterator[OutputFolder]:
    """The parts that nobody else has, each held until the next is asked for; the names of the others come to `held`.

    One whose holder seems to have died is looked at until that is sure.
    """
    until_s: float | None = None
    while parts:
        dead: list[OutputFolder] = []
        for part in parts:
            with ExitStack() as stack:
                if (mine := _hold(part, leases, stack)) is not None:
                    yield mine
                elif sharding.is_shared(part) and not leases.holder(part.path.name):
                    dead.append(part)
                else:
                    held.append(part.path.name)
        if dead and until_s is None:
            until_s = leases.clock() + 2 * leases.looks_on_s
            say(f"who had {counted(len(dead), 'part')} seems to be gone: looking on for {duration(leases.looks_on_s)}")
        elif dead and until_s is not None and leases.clock() > until_s:  # somebody renews it, with another clock
            held += [part.path.name for part in dead]
            return
        if parts := dead:
            time.sleep(leases.looks_on_s / 20)


def _hold(part: OutputFolder, leases: Leases, stack: ExitStack) -> OutputFolder | None:
    """A part's folder, held by its lease or its lock until `stack` ends; None where somebody else has it."""
    if sharding.is_shared(part):
        if (lease := leases.claim(part.path.name)) is None:
            return None
        stack.callback(lease.release)
        return part.guarded(lease.check)
    try:
        stack.enter_context(part.locked())
    except LockedError:
        return None
    return part


def _take(plan: Plan, part: OutputFolder) -> Iterator[str]:
    """Move what a part has of a plan: the names of those that came."""
    for path in part.inputs.iterdir() if part.inputs.is_dir() else ():
        if path.is_file() and not (plan.folder.inputs / path.name).exists():
            plan.folder.link(path, plan.folder.inputs / path.name)
    for item in plan.items:
        output = item.picture.output
        if (lying := done.find(part, output)) is None:
            continue
        found = _finished(item, part)
        if found is None:  # of a merge that died the sidecar may be left
            if not part.picture(output, lying.keep.format).exists() and _finished(item, plan.folder) is not None:
                part.remove(part.sidecar(output))
            continue
        if _finished(item, plan.folder) is not None:
            picture_files.remove(part, output, found.keep.format)
            continue
        picture_files.carry(part, output, output, lambda sidecar: sidecar, leaves=True, into=plan.folder)
        yield output


def _take_marks(folder: OutputFolder, part: OutputFolder) -> None:
    """What somebody thinks of a part's pictures goes with them; marks that the whole has already stay."""
    if theirs := picks.read(part):
        there = picks.read(folder)
        if fresh := {fingerprint: mark for fingerprint, mark in theirs.items() if fingerprint not in there}:
            picks.mark(folder, fresh)


def _finished(item: Planned, folder: OutputFolder) -> FoundSidecar | None:
    """A picture as it lies in a folder, whole and as the last of its takes; None where it does not."""
    found = done.find(folder, item.picture.output)
    if found is None or not takes.is_through(item.picture, item.identity, found):
        return None
    return found if found.is_whole(folder, thorough=True) else None
