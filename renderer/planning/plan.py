"""A manifest and what lies in its folder ▶ what is done, what lies elsewhere, and what will be rendered in which order.

Reads sidecars and the journal; writes nothing, starts nothing, imports no torch. How it is rendered is `placement`'s
business, how long it takes and what it needs of the disk `forecast`'s.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from renderer import catalog
from renderer.catalog import Model
from renderer.job import Expect, Lettering, ModelIdentity, Picture, Weights, fingerprint
from renderer.manifest.manifest import Manifest
from renderer.outputs import done, picks
from renderer.outputs import sources as sourcing
from renderer.outputs.done import Done, FoundSidecar
from renderer.outputs.folder import OutputFolder, Own
from renderer.outputs.journal import MAX_CRASHES, Journal
from renderer.outputs.sources import Location, Wanted, can_become
from renderer.planning import auto, takes
from renderer.planning.selection import Selection
from renderer.system.files import WriteGuard
from renderer.weights.identity import identify

if TYPE_CHECKING:
    from renderer.machine.hardware import Machine

State = Literal["done", "to do", "failed", "set aside"]

NOT_READ = "its lettering is not read yet"

_AT_A_TIME = 200
"""Pictures that are looked at between two looks at whether to go on."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One picture and what is to happen to it. `note` says why it is not done, when there is more to say than that.

    `sidecar` is what is known of it where it is done. One that is to do needs no rendering where it has a `source`, a
    place where it lies already, or is another's `twin`: the id of a picture of the same fingerprint that is rendered.
    `batch` is the name of its manifest, for pictures of several may be on their way together.
    Somebody who watches wants so many `previews` of it.
    A picture that failed and has a `sidecar` is there, and its lettering is not what its job expects. A `retake` is one
    more take of a picture, in whose place the best so far lies: `best`, and its fingerprint; `scores` are what the
    takes had that its sidecar tells of.
    """

    picture: Picture
    model: Model
    identity: ModelIdentity
    fingerprint: str
    state: State
    note: str = ""
    suspect: bool = False
    sidecar: Done | None = None
    source: Location | None = None
    twin: str = ""
    previews: int = 0
    retake: bool = False
    batch: str = ""
    best: tuple[Picture, str] | None = None
    scores: tuple[float, ...] = ()

    @property
    def seen(self) -> tuple[Picture, str]:
        """What people see in its place, and its fingerprint: of a retake the best so far."""
        return self.best or (self.picture, self.fingerprint)

    @property
    def output(self) -> str:
        """Where it is written: in its place, or as a retake beside it, until it has been read."""
        if not self.retake:
            return self.picture.output
        mine = hashlib.sha256(self.picture.output.encode()).hexdigest()  # two pictures may have the same take
        return f"{Own.TAKES}/{mine[:24]}-{self.fingerprint[:32]}"

    @property
    def is_to_read(self) -> bool:
        """Whether it lies where it is to be read, and nothing else is to be done with it before."""
        if self.source is None:
            return False
        in_place = self.source == Location(self.picture.output, self.picture.keep)
        return self.retake or in_place


@dataclass(frozen=True, slots=True)
class Plan:
    """One manifest against its output folder. `items` are in the manifest's order.

    `ids` are those of the pictures that were chosen, None where all are.
    """

    manifest: Manifest
    folder: OutputFolder
    items: tuple[Planned, ...]
    journal: Journal
    ids: frozenset[str] | None = None

    @property
    def chosen(self) -> Sequence[Planned]:
        """The pictures that were chosen."""
        return self.items if self.ids is None else [item for item in self.items if item.picture.id in self.ids]

    def is_chosen(self, item: Planned) -> bool:
        return self.ids is None or item.picture.id in self.ids

    def to_render(self) -> list[Planned]:
        """What will be rendered, in order: by weights as first met, and suspects after everybody else."""
        met: dict[Weights, int] = {}
        for item in self.items:
            met.setdefault(Weights.of(item.picture.job), len(met))

        def rank(item: Planned) -> tuple[int, bool]:
            return met[Weights.of(item.picture.job)], item.suspect

        wanted = (item for item in self.chosen if item.state in ("to do", "failed") and item.sidecar is None)
        return sorted((item for item in wanted if item.source is None and not item.twin), key=rank)

    def may_render(self) -> list[Planned]:
        """What will be rendered, and behind it what will be if its lettering turns out to be wrong."""
        there = (item for item in self.chosen if item.source is not None)
        return [*self.to_render(), *(item for item in there if item.picture.lettering and item.picture.lettering.seeds)]

    def to_bring(self) -> list[Planned]:
        """What lies in the folder already, of the whole manifest: what is chosen may be rendered over it."""
        return [item for item in self.items if item.source is not None and not item.is_to_read]

    def to_read(self) -> list[Planned]:
        """Chosen pictures that are there, and whose lettering has not been read."""
        return [item for item in self.chosen if item.is_to_read]

    def twins(self) -> list[Planned]:
        """Chosen pictures that are another's once that is rendered."""
        return [item for item in self.chosen if item.twin]

    def to_write(self) -> list[Planned]:
        """What takes room on the disk: what is rendered, copied, or kept another way; moving takes none."""
        changing = (item for item in self.to_bring() if item.source and item.source.keep != item.picture.keep)
        return [*self.to_render(), *self.twins(), *changing]

    def guarded(self, guard: WriteGuard) -> Plan:
        """The same plan for a run that may lose its folder: `guard` raises `LeaseLostError` then."""
        folder = self.folder.guarded(guard)
        return replace(self, folder=folder, journal=replace(self.journal, folder=folder))

    def count(self, state: State) -> int:
        """How many of the chosen pictures are in this state."""
        return sum(item.state == state for item in self.chosen)

    def updated(self, changes: Mapping[str, Planned]) -> Plan:
        """The plan with other items for some picture ids."""
        return replace(self, items=tuple(changes.get(item.picture.id, item) for item in self.items))


class PlanWatcher(Protocol):
    """Hears every now and then how far the looking is. What it raises ends it."""

    def looked(self, done: int, total: int) -> None:
        """So many of so many pictures have been looked at."""

    def read(self, done: int, total: int) -> None:
        """So many of so many bytes have been read of a model's files that nobody knows yet."""


def make_plan(
    manifest: Manifest,
    outputs: Path,
    *,
    only: Sequence[str] = (),
    force: bool = False,
    thorough: bool = False,
    heard: PlanWatcher | None = None,
    machine: Machine | None = None,
) -> Plan:
    """Hold a manifest against its output folder.

    `only` chooses pictures (see `selection`), and the others stay in the plan; `force` takes nothing for done that is
    chosen; `thorough` compares the SHA-256 of every finished file that is chosen, as a run must before it skips one.
    `machine` is the one for which a precision is chosen that a manifest leaves open; None: this one.

    Raises `ModelError` for a model that is not there, `DiskError` for a folder or journal that cannot be read, and
    `UsageError` for a state in `only` that there is not.
    """
    folder = OutputFolder(outputs / manifest.name)
    journal = Journal.read(folder)
    names = {picture.job.model for picture in manifest.pictures}
    models = {name: catalog.find(name) for name in names}
    identities = {name: identify(model, heard.read if heard else None) for name, model in models.items()}
    manifest = auto.resolved(manifest, outputs, identities, machine)
    selection = Selection.of(only)
    marks = picks.read(folder) if selection.states else {}

    def meant(picture: Picture) -> bool:
        """Whether it is chosen. How it stands is looked at where that was asked for."""
        if not selection.states or selection.is_named(picture):
            return not selection or selection.is_named(picture)
        model, identity = models[picture.job.model], identities[picture.job.model]
        found, _ = _look(picture, model, identity, folder, journal, force=False, thorough=False)
        return selection.is_in_state(found, marks)

    ids = frozenset(picture.id for picture in manifest.pictures if meant(picture)) if selection else None

    def look(picture: Picture) -> tuple[Planned, FoundSidecar | None]:
        wanted = ids is None or picture.id in ids
        model, identity = models[picture.job.model], identities[picture.job.model]
        return _look(picture, model, identity, folder, journal, force=force and wanted, thorough=thorough and wanted)

    pictures = manifest.pictures
    items: list[Planned] = []
    elsewhere: list[FoundSidecar] = []
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for begin in range(0, len(pictures), _AT_A_TIME):
            some = pictures[begin : begin + _AT_A_TIME]
            for item, found in pool.map(look, some) if thorough else map(look, some):
                items.append(item)
                if found is not None:
                    elsewhere.append(found)
            if heard is not None:
                heard.looked(len(items), len(pictures))
    plan = Plan(manifest, folder, tuple(items), journal, ids)
    return _with_sources(plan, elsewhere, force=force, thorough=thorough)


def _with_sources(plan: Plan, elsewhere: Sequence[FoundSidecar], *, force: bool, thorough: bool) -> Plan:
    """The plan, and where those pictures lie that are not in their places. `elsewhere`: what stands there instead."""
    forced = {item.picture.output for item in plan.chosen} if force else set()
    open_still = [item for item in plan.items if item.sidecar is None and item.source is None]
    if open_still:
        outputs = {item.picture.output for item in plan.items}
        elsewhere = [*elsewhere, *done.find_all(plan.folder, outputs)]
        plan = plan.updated(
            _furthest(plan, [item for item in open_still if item.picture.output not in forced], elsewhere)
        )
    wanted = [
        Wanted(item.fingerprint, item.output, item.picture.keep)
        for item in plan.items
        if item.sidecar is None and item.source is None and item.picture.output not in forced
    ]
    sources: dict[str, Location] = {}
    if wanted:
        in_place = {
            item.fingerprint: Location(item.picture.output, item.picture.keep)
            for item in plan.items
            if item.sidecar or (item.is_to_read and not item.retake)
        }
        sources = sourcing.choose(plan.folder, wanted, elsewhere, in_place, thorough=thorough)
    brought = replace(plan, items=tuple(_with_source(item, sources.get(item.output)) for item in plan.items))
    return brought.updated(_twins(brought.to_render()))


def _furthest(plan: Plan, items: Iterable[Planned], elsewhere: Sequence[FoundSidecar]) -> dict[str, Planned]:
    """Pictures that are not in their places, as those takes of them that lie elsewhere, where some do."""
    able = [item for item in items if not item.retake and item.picture.lettering and item.picture.lettering.seeds]
    whole = [one for one in elsewhere if one.is_whole(plan.folder, thorough=False)] if able else []
    by_mark = {one.fingerprint: one for one in whole}
    found = ((item, takes.find(item.picture, item.identity, by_mark)) for item in able)
    return {
        item.picture.id: replace(item, picture=take, fingerprint=fingerprint(take.job, item.identity))
        for item, take in found
        if take is not None
    }


def _with_source(item: Planned, source: Location | None) -> Planned:
    if source is None:
        return item
    if item.retake:
        return replace(item, state="to do", note=NOT_READ, suspect=False, source=source)
    note = f"rendered already, as {source.output}"
    if source.output == item.picture.output:
        note = "its format or what it embeds has changed"
    return replace(item, state="to do", note=note, suspect=False, source=source)


def _twins(to_render: Sequence[Planned]) -> dict[str, Planned]:
    """Pictures of one fingerprint: one is rendered, from whose file the others can be made.

    One that may be taken several times ends as another picture: only those of the same takes are its twins.
    """
    firsts: dict[str, Planned] = {}
    able = [item for item in to_render if not item.retake]
    for item in sorted(able, key=lambda item: (_takes_of(item) is not None, item.picture.keep.format == "jpeg")):
        firsts.setdefault(item.fingerprint, item)
    return {
        item.picture.id: replace(item, twin=first.picture.id, note=f"the same as {first.picture.id}")
        for item in able
        if (first := firsts[item.fingerprint]) is not item
        and can_become(first.picture.keep, item.picture.keep)
        and _takes_of(first) in (None, _takes_of(item))
    }


def _takes_of(item: Planned) -> tuple[Lettering, Expect | None] | None:
    """What says which of several takes a picture ends as; None for one that is taken once."""
    lettering = item.picture.lettering
    return (lettering, item.picture.expect) if lettering is not None and lettering.seeds else None


def look_again(plan: Plan, positions: Iterable[int]) -> list[Planned]:
    """The pictures at some positions of a plan, held against their places as they are now and the journal as read."""
    items = (plan.items[position] for position in positions)
    return [
        _look(item.picture, item.model, item.identity, plan.folder, plan.journal, force=False, thorough=False)[0]
        for item in items
    ]


def _look(
    picture: Picture,
    model: Model,
    identity: ModelIdentity,
    folder: OutputFolder,
    journal: Journal,
    *,
    force: bool,
    thorough: bool,
) -> tuple[Planned, FoundSidecar | None]:
    """A picture by what stands in its place; and what does, where that is not the picture as it is to be."""
    picture = takes.asked_for(picture)
    mark, batch = fingerprint(picture.job, identity), folder.path.name
    found = done.find(folder, picture.output)
    if force:
        return Planned(picture, model, identity, mark, "to do", "rendered anew on request", batch=batch), found
    note = ""
    if found is not None:
        take = picture if found.fingerprint == mark else takes.take_of(picture, identity, found.fingerprint)
        if take is None:
            note = "the job has changed"
        elif found.keep != take.keep:
            note = "its format or what it embeds has changed"
        elif found.is_whole(folder, thorough=thorough):
            known = found.of(take.job)
            there = Planned(take, model, identity, found.fingerprint, "done", sidecar=known, batch=batch)
            if (further := _is_further(there)) is None:
                return _as_read(there), None
            return _with_record(further, journal), None
        else:
            note = "the file is not what its sidecar says"
    return _with_record(Planned(picture, model, identity, mark, "to do", note, batch=batch), journal), found


def _as_read(there: Planned) -> Planned:
    """A picture in its place: done, or to be read, or read and not what its job expects."""
    lettering, known = there.picture.lettering, there.sidecar
    assert known is not None
    if lettering is None:
        return there
    if known.lettering is None or not takes.is_read(known.lettering, lettering):
        source = Location(there.picture.output, there.picture.keep)
        return replace(there, state="to do", note=NOT_READ, sidecar=None, source=source)
    wrong = takes.complaint(takes.expected_of(there.picture), known.lettering)
    return replace(there, state="failed", note=wrong) if wrong else there


def _is_further(there: Planned) -> Planned | None:
    """The next take of a picture whose best so far is in its place; None where that is the last."""
    lettering, known = there.picture.lettering, there.sidecar
    assert known is not None
    if lettering is None or known.lettering is None or not takes.is_read(known.lettering, lettering):
        return None
    seed = takes.next_seed(there.picture, known.lettering)
    return None if seed is None else retaken(there, seed)


def retaken(item: Planned, seed: int) -> Planned:
    """A picture's next take."""
    take = takes.with_seed(item.picture, seed)
    mark = fingerprint(take.job, item.identity)
    note = "its lettering was wrong"
    told = item.sidecar.lettering if item.sidecar is not None else None
    made = Planned(take, item.model, item.identity, mark, "to do", note, retake=True, batch=item.batch)
    return replace(made, best=(item.picture, item.fingerprint), scores=takes.scores(told) if told else ())


def _with_record(item: Planned, journal: Journal) -> Planned:
    """What is to be rendered, with what the journal holds against it."""
    record = journal.record(item.fingerprint)
    if record.set_aside:
        note = f"brought down {MAX_CRASHES} workers: {record.failure}; --force tries again"
        return replace(item, state="set aside", note=note)
    if record.failure:
        return replace(item, state="failed", note=record.failure, suspect=record.crashes > 0)
    return replace(item, suspect=record.left_open)
