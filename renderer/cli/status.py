"""The door to `renderer status`: what is done of manifests, how a run stands that is on, and how the last one ended.

Reads what lies in the outputs; renders nothing, and is in no run's way.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from renderer.cli import arguments
from renderer.cli.manifests import load_part
from renderer.cli.problems import print_problems
from renderer.errors import DiskError
from renderer.outputs.describe import describe_ending, describe_running
from renderer.outputs.summary import Failure, Summary, read_summary
from renderer.system import streams
from renderer.system.lock import Hold
from renderer.text import wrap

if TYPE_CHECKING:
    from renderer.outputs.status import MemoryNow, RunStatus
    from renderer.planning.plan import Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser what the command takes."""
    arguments.add_manifests(parser)
    arguments.add_shard(parser)
    arguments.add_share(parser)
    parser.add_argument("--verify", action="store_true", help="compare every finished file's SHA-256")
    arguments.add_json(parser)


@dataclass(frozen=True, slots=True)
class _Status:
    """All that is said of one manifest. `holder` is who has the lease on a part of a shared one."""

    plan: Plan
    last: Summary | None
    running: RunStatus | None
    memory: MemoryNow | None
    hold: Hold
    holder: str = ""

    @property
    def refused(self) -> list[Failure]:
        """Pictures that the last run did not try, because the machine could not, and that are still to do."""
        to_do = {item.picture.id for item in self.plan.items if item.state == "to do"}
        return [
            failure for failure in (self.last.failures if self.last else ()) if failure.refused and failure.id in to_do
        ]

    def counts(self) -> dict[str, int]:
        """Pictures by what has become of them, each counted once."""
        refused = len(self.refused)
        return {
            "done": self.plan.count("done"),
            "failed": self.plan.count("failed"),
            "set aside": self.plan.count("set aside"),
            "refused": refused,
            "to do": self.plan.count("to do") - refused,
        }

    def trouble(self) -> list[dict[str, str]]:
        """The pictures that are not there, and why."""
        held = [item for item in self.plan.items if item.state in ("failed", "set aside")]
        told = [{"id": item.picture.id, "state": str(item.state), "note": item.note} for item in held]
        return told + [{"id": each.id, "state": "refused", "note": each.message} for each in self.refused]

    def as_dict(self) -> dict[str, Any]:
        counts = {name.replace(" ", "_"): count for name, count in self.counts().items()}
        return {
            "manifest": self.plan.manifest.file,
            "name": self.plan.manifest.name,
            "pictures": len(self.plan.items),
            **counts,
            "trouble": self.trouble(),
            "last_run": self.last.model_dump(mode="json", exclude={"failures"}) if self.last else None,
            "held": self.hold == "held",
            "running": self.running.model_dump(mode="json") if self.running else None,
            "memory": self.memory.model_dump(mode="json") if self.memory else None,
        }

    def lines(self, now: datetime) -> Iterator[str]:
        """Lines of at most 80 columns. `now` says in which zone to tell."""
        counts = [f"{count} {name}" for name, count in self.counts().items() if count or name != "refused"]
        yield from wrap(f"{self.plan.manifest.name}: {', '.join(counts)} of {len(self.plan.items)}", "  ")
        if self.running is not None and self.memory is not None:
            yield from describe_running(self.running, self.memory, now)
        elif self.holder:
            yield from wrap(f"  {self.holder} renders it", "    ")
        elif self.hold == "held":
            yield "  a run has locked this folder: it is preparing, or at another manifest"
        elif self.hold == "unknown":
            yield "  whether a run is on cannot be told: its lock may not be looked at"
        elif self.last is not None and self.last.ending != "complete":
            yield from wrap(f"  the last run {describe_ending(self.last, now)}", "    ")
        for one in self.trouble():
            yield from wrap(f"  {one['state']}: {one['id']}: {one['note']}", "    ")


def _held(plan: Plan) -> tuple[Hold, str]:
    """Whether a run holds a manifest's folder: by its lock; or by a lease, and who has that."""
    if not plan.manifest.is_shared:
        return plan.folder.hold(), ""
    from renderer.supervisor.sharing import leases_in  # noqa: PLC0415

    try:
        holder = leases_in(plan.folder.path.parent).holder(plan.manifest.name)
    except DiskError:
        return "unknown", ""
    return ("held" if holder else "free"), holder


def run(options: argparse.Namespace) -> int:
    """Say of each manifest what is done, and how its run stands."""
    from renderer.outputs import status as run_status  # noqa: PLC0415
    from renderer.planning.plan import make_plan  # noqa: PLC0415

    loaded = load_part(options)
    states = []
    for manifest in loaded.manifests:
        plan = make_plan(manifest, options.outputs, thorough=options.verify)
        running = run_status.read(plan.folder)
        memory = run_status.memory_now(running) if running else None
        hold, holder = _held(plan)
        status = _Status(plan, read_summary(plan.folder), running, memory, hold, holder)
        states.append(status.as_dict())
        if not options.json:
            print(streams.harmless("\n".join(status.lines(datetime.now().astimezone()))))
    if options.json:
        print(json.dumps(states, indent=2, ensure_ascii=False))
    return print_problems(loaded.problems)
