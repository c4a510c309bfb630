"""What lies in an output folder, in words for people: a picture that is done, how a batch stands, a summary.

Texts out of values; prints nothing and watches nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from renderer.job import Sidecar
from renderer.outputs.status import MemoryNow, NightStatus, RunStatus, WorkerStatus
from renderer.outputs.summary import Summary, left_out, total
from renderer.text import COLUMNS, counted, cut, duration, gib, wrap

_SHOWN = 16
_MOST_NAMED = 3
_SELDOM = {"refused": "refused", "set_aside": "set aside", "not_chosen": "not chosen"}


def describe_done(sidecar: Sidecar) -> str:
    """One line on a finished picture."""
    job, memory = sidecar.job, sidecar.memory
    peak = memory.peak_reserved_bytes
    where = f"{gib(peak)} GPU" if peak is not None else f"{gib(memory.peak_rss_bytes)} RAM"
    took = f"{sidecar.timing.total_s or 0.0:.1f} s"
    size = f"{job.width}x{job.height}"
    return f"{sidecar.id}  {size}, {job.num_inference_steps} steps, seed {job.seed}: {took}, {where}"


def describe_night(summaries: Sequence[Summary]) -> str:
    """A run over several manifests in a line."""
    counts = total(summaries)
    facts = [f"{counts.pop('rendered')} rendered", f"{counts.pop('skipped')} already done"]
    facts += [f"{counts[what]} {what}" for what in ("failed", "left")]
    facts += [f"{counts[what]} {told}" for what, told in _SELDOM.items() if counts[what]]
    passed = max(each.ended_at for each in summaries) - min(each.began_at for each in summaries)
    took_s = max(passed.total_seconds(), *(each.elapsed_s for each in summaries))  # the clock may have been put back
    gone = left_out(summaries)
    more = f"; left out: {', '.join(gone)}" if gone else ""
    of = f"of {counts['pictures']}, in {duration(took_s)}{more}"
    return f"{counted(len(summaries), 'manifest')} together: {', '.join(facts)} {of}"


def describe_summary(summary: Summary) -> list[str]:
    """A run in a few lines."""
    first = (
        f"{summary.name}: {summary.rendered} rendered, {summary.skipped} already done, {summary.failed} failed"
        f"{_counted(summary.refused, 'refused')}{_counted(summary.set_aside, 'set aside')}, {summary.left} left"
        f"{_counted(summary.not_chosen, 'not chosen')} of {summary.pictures}, in {duration(summary.elapsed_s)}"
    )
    if summary.pictures_per_hour:
        first += f" ({summary.pictures_per_hour:.0f} pictures an hour)"
    lines = [first]
    if (read := summary.lettering) is not None:
        again = f", {counted(read.retakes, 'retake')}" if read.retakes else ""
        lines.append(f"  lettering right in {read.right} of {read.read} that were read{again}")
    lines += [f"  {line}" for line in _of_devices(summary)]
    for failure in summary.failures:
        kind = "set aside" if failure.set_aside else "refused" if failure.refused else "failed"
        lines.append(f"  {kind}: {failure.id}: {failure.message}" + (f" ({failure.hint})" if failure.hint else ""))
    if summary.ending != "complete":
        lines.append(f"  stopped {_why(summary)}")
    return lines


def _of_devices(summary: Summary) -> Iterator[str]:
    """What each of several devices did; of many alike, no more than which were left out."""
    several = 1 < len(summary.devices) <= _SHOWN
    for each in summary.devices:
        if each.left_out:
            yield f"{each.named}: {each.rendered} rendered; it was left out: {each.left_out}"
        elif several:
            peak = each.memory.peak_device_bytes or each.memory.peak_reserved_bytes
            memory = f", {gib(peak)} GPU" if peak else ""
            yield f"{each.named}: {each.rendered} rendered, {each.busy_s / max(1, each.rendered):.1f} s each{memory}"


def describe_ending(summary: Summary, now: datetime) -> str:
    """When a run stopped before it was through, and why. `now` says in which zone to tell."""
    ended = summary.ended_at.astimezone(now.tzinfo)
    when = f"{ended:%H:%M}" if ended.date() == now.date() else f"{ended:%H:%M on %d %B}"
    return f"stopped at {when} {_why(summary)}"


def _why(summary: Summary) -> str:
    """Why a run stopped, as it stands after that word."""
    reasons = {
        "deadline": "because the time was up; the same command goes on from here",
        "signal": "on request; the same command goes on from here",
        "failures": "after too many failures in a row (--max-failures)",
        "error": f"with an error: {summary.error}",
        "complete": "when all was done",
    }
    return reasons[summary.ending]


def _counted(count: int, what: str) -> str:
    return f", {count} {what}" if count else ""


def describe_facts(status: RunStatus) -> list[str]:
    """How fast a batch goes, how long the rest will take and how many failed, as far as it is known."""
    facts = [f"{status.failed} failed"] if status.failed else []
    pace: RunStatus | NightStatus = status
    if (night := status.night) is not None:
        facts.append(f"of the {night.manifests} manifests together {night.done} of {night.to_render}")
        pace = night
    if pace.left_s is not None and status.phase != "stopping":
        facts.append(f"{duration(pace.left_s)} left")
    if pace.pictures_per_hour is not None:
        facts.append(f"{pace.pictures_per_hour:.0f} pictures/h")
    if left_out := [worker.where for worker in status.workers if worker.state == "left out"]:
        facts.append(
            f"{', '.join(left_out[:_MOST_NAMED])} left out"
            if len(left_out) <= _MOST_NAMED
            else f"{len(left_out)} devices left out"
        )
    return facts


def describe_flight(status: RunStatus) -> str:
    """What is in flight, by name where it is one picture; an empty string for nothing."""
    furthest, count = status.furthest, len(status.in_flight)
    if furthest is None:
        return ""
    return f"{count} in flight, furthest {furthest.id}" if count > 1 else furthest.id


def describe_status(status: RunStatus) -> str:
    """How a batch stands, in a line."""
    furthest = status.furthest
    paused = ["paused"] if status.phase == "paused" and furthest is not None else []
    step = f"{describe_flight(status)} at step {furthest.step} of {furthest.steps}" if furthest else status.phase
    return "; ".join([f"{status.done} of {status.to_render} done", *describe_facts(status), *paused, step])


def describe_running(status: RunStatus, memory: MemoryNow, now: datetime) -> Iterator[str]:
    """How a batch stands that somebody else renders: lines of at most 80 columns, in this machine's time."""
    facts = [f"{status.done} of {status.to_render} done", *describe_facts(status)]
    began = status.began_at.astimezone()
    when = ", begun at" if status.phase == "paused" else " since"
    yield from wrap(f"  {status.phase}{when} {began:%H:%M}: {', '.join(facts)}", "    ")
    if status.phase == "paused":
        memory_is = "is held for a while" if status.worker_pids else "is given back"
        yield f"    nothing is begun before renderer resume; the GPU's memory {memory_is}"
    for one in status.in_flight[:_SHOWN]:
        again = f", try {one.attempt}" if one.attempt > 1 else ""
        again += f", {one.where}" if one.where else ""
        since = one.since.astimezone()
        told = (
            f"step {one.step} of {one.steps} since {since:%H:%M:%S}, {duration((now - since).total_seconds())}{again}"
        )
        yield f"    {cut(one.id, COLUMNS - 6 - len(told))}  {told}"
    if len(status.in_flight) > _SHOWN:
        yield f"    and {len(status.in_flight) - _SHOWN} more in flight"
    if status.queued:
        yield f"    {status.queued} more with the worker, not begun"
    if status.workers:
        for worker, held in zip(status.workers, memory.workers, strict=False):
            yield from wrap(f"    {_worker(worker, held)}", "      ")
        return
    used = [f"worker {gib(memory.worker_rss_bytes)}"] if memory.worker_rss_bytes is not None else []
    if memory.device_bytes is not None:
        used.append(f"GPU {gib(memory.device_bytes)} of {gib(memory.device_total_bytes)}")
    if used:
        yield f"    memory now: {', '.join(used)}"


def _worker(worker: WorkerStatus, held: MemoryNow) -> str:
    """One of several workers, and the memory that it holds now."""
    parts: list[str] = [f"{worker.state} ({worker.trouble})" if worker.trouble else worker.state]
    if worker.rendered:
        parts.append(f"{worker.rendered} rendered")
    if worker.model is not None:
        parts += [worker.model, f"{counted(worker.pictures, 'picture')} in hand"]
    if held.worker_rss_bytes is not None:
        parts.append(gib(held.worker_rss_bytes))
    if held.device_bytes is not None:
        parts.append(f"GPU {gib(held.device_bytes)} of {gib(held.device_total_bytes)}")
    return f"{worker.where}{f', {worker.card}' if worker.card else ''}: {', '.join(parts)}"
