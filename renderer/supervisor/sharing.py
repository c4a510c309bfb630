"""Several supervisors, on several machines, at one manifest in one shared folder: whose turn it is at which part.

A manifest is cut into parts, each with its own folder and journal, and a lease a part says who renders it. Whoever dies
loses it, and the next goes on in that folder as after any other kill. Whoever was stopped, and wakes, finds that it has
the lease no more, and throws its pictures away. Asks no lock of the file system.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from renderer.errors import LeaseLostError, MachineError, UsageError
from renderer.job import Weights
from renderer.manifest.manifest import Manifest
from renderer.outputs import done, picture_files, status
from renderer.outputs.folder import OutputFolder
from renderer.outputs.summary import Ending, read_summary
from renderer.planning import owner, part_folders, sharding
from renderer.planning.plan import Plan
from renderer.supervisor import events
from renderer.supervisor.heartbeat import TICK_S
from renderer.supervisor.night import Night
from renderer.supervisor.progress import BatchProgress
from renderer.supervisor.same_bits import Agree, RenderingKind, kind_of
from renderer.supervisor.settings import Settings
from renderer.system.leases import STALE_S, Lease, Leases
from renderer.text import counted

LEASES = ".leases"

_LOOK_S = 2.0


def leases_in(outputs: Path, stale_s: float = STALE_S) -> Leases:
    """The leases on parts of manifests whose folders lie in `outputs`."""
    return Leases(outputs / LEASES, stale_s)


def shared_bits(plans: Sequence[Plan], settings: Settings) -> tuple[Agree, set[RenderingKind]]:
    """What those keep to that render other parts of these manifests: the first says it, until all is merged.

    And the kinds of what lies in the wholes' folders and the others', but where all is rendered anew.
    """
    outputs, own = settings.outputs, {plan.folder.path for plan in plans}
    wholes = sorted({part_folders.whole_name(plan.manifest.name) for plan in plans if plan.manifest.is_part})
    leases, kinds = leases_in(outputs), set()

    def agree(what: str, told: str) -> str:
        agreed = {whole: leases.agree(f"{whole}.{what}", told) for whole in wholes}
        if len(set(agreed.values())) > 1:
            those = ", ".join(f"{whole} of {kept}" for whole, kept in agreed.items())
            raise MachineError(f"--same-bits: they are kept to several kinds: {those}", hint="a run for each manifest")
        return next(iter(agreed.values()), told)

    for whole in () if settings.force else wholes:
        for folder in (OutputFolder(outputs / whole), *part_folders.folders(whole, outputs)):
            one = next(done.find_all(folder), None) if folder.path not in own and folder.path.is_dir() else None
            if one is not None and (sidecar := picture_files.read_sidecar(folder.sidecar(one.output))) is not None:
                kinds.add(kind_of(sidecar))
    return agree, kinds


class SharedParts:
    """The parts of shared manifests in one run: each has a turn here when nobody else is at it, until it is through."""

    def __init__(self, plans: Sequence[Plan], night: Night, plan_anew: Callable[[Manifest], Plan]) -> None:
        """`plans` as they were when this run began; `plan_anew` says how one is when its turn has come."""
        self._left = {plan.manifest.name: plan for plan in plans if plan.items}
        self._weights = {name: Weights.of(plan.manifest.pictures[0].job) for name, plan in self._left.items()}
        self._night, self._plan_anew = night, plan_anew
        self._leases = leases_in(night.settings.outputs, night.settings.stale_s)
        empty = (plan for plan in plans if not plan.items)
        self.through = {plan.manifest.name: BatchProgress(plan).summary("complete") for plan in empty}
        """Of parts in which there was nothing to do any more."""

    @property
    def ending(self) -> Ending:
        """Why those that are not through are not."""
        return self._night.asked_to_end() or "failures"

    def turns(self) -> Iterator[Plan]:
        """Parts to be rendered, each held until the next is asked for; waits for those that others hold.

        Where one is lost meanwhile, whatever is written into its folder raises `LeaseLostError`; it has another turn
        when the others are through. One that was given up while the file server did not answer has it when that does.
        Raises `DiskError`.
        """
        self._agree()
        waits = False
        while self._left and self._night.asked_to_end() is None and not self._night.has_failed_enough:
            lease = next(filter(None, map(self._leases.claim, self._order())), None)
            if lease is None:
                if not waits:
                    self._night.pool.dismiss()
                    told = f"others are at {counted(len(self._left), 'part')}: this run takes over what they leave"
                    self._night.watch(events.Remark(told))
                waits = True
                self._wait()
                continue
            waits = False
            try:
                yield from self._turn(lease)
            finally:
                lease.release()
            if not (lease.is_lost or lease.is_doubtful):
                del self._left[lease.name]

    def _turn(self, lease: Lease) -> Iterator[Plan]:
        plan = self._left[lease.name].guarded(lease.check)
        try:
            picture_files.sweep(plan.folder)  # what one who lost it was about to rename is gone
            plan.journal.take_over()
            owner.claim(plan.folder, plan.manifest)
            self._agree()  # a merge may have let others choose another number meanwhile
            now = self._plan_anew(plan.manifest).guarded(lease.check)
            now.journal.compact()
        except LeaseLostError:
            return
        if not now.items or _has_ended_well(now):
            self.through[lease.name] = BatchProgress(now).summary("complete")
        else:
            yield now

    def _agree(self) -> None:
        """Raise `UsageError` where others have cut a manifest into another number of parts."""
        for whole, count in {sharding.cut_of(name) for name in self._left}:
            agreed = self._leases.agree(f"{whole}.parts", str(count))
            if agreed != str(count):
                raise UsageError(
                    f"{whole} is cut into {agreed} parts already, and --share {count} would render pictures twice",
                    hint=f"--share {agreed}; or renderer merge first, when nobody renders it any more",
                )

    def _order(self) -> list[str]:
        """What is open goes on, and then what fewest others are at: so weights are opened least often."""
        elsewhere = Counter(self._weights[name] for name in self._leases.taken(self._weights))
        opened = {seat.setup.weights for seat in self._night.pool.seats if seat.setup is not None}

        def rank(name: str) -> tuple[bool, int]:
            weights = self._weights[name]
            return weights not in opened, elsewhere[weights]

        return sorted(self._left, key=rank)

    def _wait(self) -> None:
        until = time.monotonic() + min(_LOOK_S, self._night.settings.stale_s / 6)
        while time.monotonic() < until and self._night.asked_to_end() is None:
            self._night.watch(events.Tick())
            time.sleep(min(TICK_S, 0.1))


def _has_ended_well(plan: Plan) -> bool:
    """Whether nothing is to be done of a part, and whoever did the last of it came to its end: summary and page too."""
    last = read_summary(plan.folder)
    is_done = plan.count("done") == len(plan.chosen) and status.left_behind(plan.folder) is None
    return is_done and last is not None and last.ending == "complete" and last.is_all_there
