"""The night: folders locked, manifests planned, models brought, and then batch after batch.

Unattended: whatever happens to this process, what is on the disk is whole and the next run goes on from it. Imports no
torch, prints nothing, and tells whoever watches through `news`. How one batch goes is `batch`'s business.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime

from renderer import artifacts, disk, machine, news, plan, rates, standing, supplies, workers
from renderer.batch import Batch, Night
from renderer.disk import Disk
from renderer.events import Setup
from renderer.hand import Hand
from renderer.job import Job, Summary
from renderer.layout import OutputFolder
from renderer.machine import Machine
from renderer.manifest import Manifest
from renderer.news import Watch
from renderer.plan import Plan
from renderer.settings import Settings, Stop
from renderer.weights.needs import Need


def render(manifests: Sequence[Manifest], settings: Settings, watch: Watch, stop: Stop) -> list[Summary]:
    """Render what is not done of each manifest, in order, and write each one's `summary.json`.

    Raises `LockedError` at once when another run holds one of the folders; `ModelError` and `MachineError` before
    anything is rendered when this machine cannot do it, or its disk cannot hold the pictures; `DiskError` when nothing
    more can be written.
    """
    with contextlib.ExitStack() as held:
        for manifest in manifests:
            folder = OutputFolder(settings.outputs / manifest.name)
            held.enter_context(folder.locked())
            _end_orphan(folder, watch)
            artifacts.sweep(folder)
        batches = [_plan(manifest, settings) for manifest in manifests]
        here = machine.look()
        setups = _setups(batches, settings, here)
        refused = _refused(batches, setups, here)
        left = {(job.model, job.precision) for job in _jobs(batches) if job not in refused}
        needed = [setup for key, setup in setups.items() if key in left]
        before = _check_room(batches, needed, refused, settings, watch)
        _supply(needed, settings, watch, stop)
        if before.models_bytes:  # nobody knew to the byte what models would leave
            _check_room(batches, (), refused, settings, watch)
        with Hand(settings.hire, watch) as hand:
            known = rates.cached(here) if here.gpu else None
            night = Night(settings, setups, refused, known, hand, watch, stop)
            return [Batch(batch, night).render() for batch in batches]


def _end_orphan(folder: OutputFolder, watch: Watch) -> None:
    """Have the worker of a dead run gone before anybody asks how much memory is free. Call it with the lock held."""
    left = standing.left_behind(folder)
    if left is not None and not workers.end_orphan(left):
        watch(news.Remark(f"the worker of an earlier run, process {left.worker_pid}, does not go, and holds memory"))


def _plan(manifest: Manifest, settings: Settings) -> Plan:
    batch = plan.make_plan(manifest, settings.outputs, only=settings.only, force=settings.force, thorough=True)
    batch.journal.compact(item.fingerprint for item in batch.items if item.state != "done")
    return batch


def _jobs(batches: Sequence[Plan]) -> list[Job]:
    """All that is to be rendered."""
    return [item.picture.job for batch in batches for item in batch.to_render()]


def _setups(batches: Sequence[Plan], settings: Settings, here: Machine) -> dict[tuple[str, str], Setup]:
    """What each model and precision needs opened: found before anything is, so that what cannot run says so at once."""
    jobs: dict[tuple[str, str], list[Job]] = {}
    for job in _jobs(batches):
        jobs.setdefault((job.model, job.precision), []).append(job)
    return {
        key: plan.setup_for(members, here, settings.profile, settings.vram_bytes).model_copy(
            update={"offline": settings.terms.offline}
        )
        for key, members in jobs.items()
    }


def _refused(batches: Sequence[Plan], setups: dict[tuple[str, str], Setup], here: Machine) -> dict[Job, plan.Refusal]:
    """The jobs that cannot fit on this machine in any way."""
    jobs = _jobs(batches)
    found: dict[Job, plan.Refusal] = {}
    for key, setup in setups.items():
        found |= plan.refusals([job for job in jobs if (job.model, job.precision) == key], setup, here)
    return found


def _check_room(
    batches: Sequence[Plan], setups: Iterable[Setup], refused: Collection[Job], settings: Settings, watch: Watch
) -> Disk:
    """Hold what will be written against what is free, and warn where it may not be enough.

    Raises `MachineError` where it cannot be: the pictures alone, for models have a bill of their own.
    """
    left = [item for batch in batches for item in batch.to_render() if item.picture.job not in refused]
    found = disk.look(batches, left, setups)
    if warning := disk.check_room(found, settings.outputs, partly=settings.deadline is not None):
        watch(news.Remark(warning))
    return found


def _supply(setups: Iterable[Setup], settings: Settings, watch: Watch, stop: Stop) -> None:
    """Fetch the models that are missing. Asked to stop, or out of time, it leaves; so will every batch at once."""

    def stopped() -> bool:
        watch(news.Tick())
        return stop.requests > 0 or (settings.deadline is not None and datetime.now(UTC) > settings.deadline)

    def tell(need: Need, what: supplies.News | None) -> None:
        watch(news.Supplying(need, what))

    supplies.obtain(supplies.needs_of(setups, settings.terms), settings.terms, tell, stopped)
