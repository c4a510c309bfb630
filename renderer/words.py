"""What is said of a run, in words for people: a picture that is done, how a batch stands, a summary.

Texts out of values, for consoles, `status` and messages; prints nothing and watches nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime

from tqdm.utils import disp_len, disp_trim

from renderer import news, supplies
from renderer.job import Sidecar, Summary
from renderer.standing import MemoryNow, Standing
from renderer.weights.needs import Bill, Need, Supplied, gb

GIB = 2**30
COLUMNS = 80
_SHOWN = 16
_LAST_LINES = 3


def describe_done(sidecar: Sidecar) -> str:
    """One line on a finished picture."""
    job, memory = sidecar.job, sidecar.memory
    peak = memory.peak_reserved_bytes
    where = f"{gib(peak)} GPU" if peak is not None else f"{gib(memory.peak_rss_bytes)} RAM"
    took = f"{sidecar.timing.total_s or 0.0:.1f} s"
    size = f"{job.width}x{job.height}"
    return f"{sidecar.id}  {size}, {job.num_inference_steps} steps, seed {job.seed}: {took}, {where}"


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
    for failure in summary.failures:
        kind = "set aside" if failure.set_aside else "refused" if failure.refused else "failed"
        lines.append(f"  {kind}: {failure.id}: {failure.message}" + (f" ({failure.hint})" if failure.hint else ""))
    if summary.ending != "complete":
        lines.append(f"  stopped {_why(summary)}")
    return lines


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


def describe_supply(need: Need, answer: supplies.News | None) -> str | None:
    """What fetching or packing a model costs, or that it is done; None for its progress."""
    match answer:
        case None:
            what = f"not packed in {need.store}" if need.store else "not all here"
            return f"{need.model} is {what}: asking what it takes"
        case Bill(download_bytes=download, store_bytes=store):
            parts = [f"{gb(download)} to download from {answer.source}"] if download else []
            parts += [f"{gb(store)} to pack"] if store else []
            took = f"about {duration(answer.seconds)}" if answer.seconds is not None else "no time measured yet"
            room = f"  into {answer.folder}, {gb(answer.free_bytes)} free; {took}"
            note = f"\n  note: {answer.note}" if answer.note else ""
            return f"{answer.model}: {', '.join(parts) or 'nothing to fetch'}\n{room}{note}"
        case Supplied(note=note):
            return note or f"{need.model} is here"
    return None


def describe_facts(standing: Standing) -> list[str]:
    """How fast a batch goes, how long the rest will take and how many failed, as far as it is known."""
    facts = [f"{standing.failed} failed"] if standing.failed else []
    if standing.left_s is not None and standing.phase != "stopping":
        facts.append(f"{duration(standing.left_s)} left")
    if standing.pictures_per_hour is not None:
        facts.append(f"{standing.pictures_per_hour:.0f} pictures/h")
    return facts


def describe_flight(standing: Standing) -> str:
    """What is in flight, by name where it is one picture; an empty string for nothing."""
    furthest, count = standing.furthest, len(standing.in_flight)
    if furthest is None:
        return ""
    return f"{count} in flight, furthest {furthest.id}" if count > 1 else furthest.id


def describe_standing(standing: Standing) -> str:
    """How a batch stands, in a line."""
    furthest = standing.furthest
    step = f"{describe_flight(standing)} at step {furthest.step} of {furthest.steps}" if furthest else standing.phase
    return "; ".join([f"{standing.done} of {standing.to_render} done", *describe_facts(standing), step])


def describe_running(standing: Standing, memory: MemoryNow, now: datetime) -> Iterator[str]:
    """How a batch stands that somebody else renders: lines of at most 80 columns, in this machine's time."""
    facts = [f"{standing.done} of {standing.to_render} done", *describe_facts(standing)]
    began = standing.began_at.astimezone()
    yield from wrap(f"  {standing.phase} since {began:%H:%M}: {', '.join(facts)}", "    ")
    for one in standing.in_flight[:_SHOWN]:
        again = f", try {one.attempt}" if one.attempt > 1 else ""
        since = one.since.astimezone()
        told = (
            f"step {one.step} of {one.steps} since {since:%H:%M:%S}, {duration((now - since).total_seconds())}{again}"
        )
        yield f"    {cut(one.id, COLUMNS - 6 - len(told))}  {told}"
    if len(standing.in_flight) > _SHOWN:
        yield f"    and {len(standing.in_flight) - _SHOWN} more in flight"
    if standing.queued:
        yield f"    {standing.queued} more with the worker, not begun"
    used = [f"worker {gib(memory.worker_rss_bytes)}"] if memory.worker_rss_bytes is not None else []
    if memory.device_bytes is not None:
        used.append(f"GPU {gib(memory.device_bytes)} of {gib(memory.device_total_bytes)}")
    if used:
        yield f"    memory now: {', '.join(used)}"


def cut(text: str, columns: int) -> str:
    """A text that takes at most so many columns of a terminal, Chinese letters taking two each."""
    if disp_len(text) <= columns:
        return text
    return f"{disp_trim(text, max(0, columns - 1))}…"


def wrap(text: str, indent: str) -> Iterator[str]:
    """A text in lines of at most 80 columns, whatever its own are; all but the first begin with `indent`."""
    text = re.sub(r"\s*[\r\n]\s*", " ", text)
    first, *rest = text.lstrip().split(" ")
    line = text[: len(text) - len(text.lstrip())] + first
    for word in [*rest, None]:
        while disp_len(line) > COLUMNS:  # a word that is wider, or letters without spaces between them
            part = disp_trim(line, COLUMNS)
            yield part
            line = indent + line[len(part) :]
        if word is None:
            yield line
        elif disp_len(f"{line} {word}") > COLUMNS:
            yield line
            line = indent + word
        else:
            line = f"{line} {word}"


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 3 min 20 s, 7 h 05 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{seconds:.1f} s"


def gib(count: int | None) -> str:
    """Bytes in GiB, or that they are not known."""
    return "?" if count is None else f"{count / GIB:.1f} GiB"


def sentence(what: news.News) -> str | None:
    """What happened, in a line; None for what a bar shows better, or nobody needs to read."""
    match what:
        case news.ManifestProblem(problem=problem):
            return str(problem) if problem.warning else f"not rendered: {problem}"
        case news.BatchBegan(plan=plan, to_render=count):
            there = len(plan.to_bring()) + len(plan.twins())
            bring = _counted(there, "to move, copy or keep another way")
            return f"{plan.manifest.name}: {count} to render{bring}, {plan.count('done')} done, into {plan.folder.path}"
        case news.Serving(url=url):
            return f"to watch: {url}"
        case news.Supplying(need=need, what=answer):
            return describe_supply(need, answer)
        case news.WorkerOpened(opened=opened):
            where = f"{opened.gpu.name}, {gib(opened.gpu.total_bytes)}" if opened.gpu else "the CPU"
            engine = f"engine {opened.engine.name}, profile {opened.engine.profile}"
            first = f"model open after {duration(opened.load_s)}: {engine}, {where}"
            return "\n".join([first, *(f"  note: {note}" for note in opened.notes)])
        case news.PictureDone(sidecar=sidecar):
            return "\n".join([describe_done(sidecar), *(f"  warning: {warning}" for warning in sidecar.warnings)])
        case news.PictureFailed():
            hint = f" ({what.hint})" if what.hint else ""
            return f"FAILED {what.item.picture.id}: {what.message}{hint}{'; trying again later' if what.again else ''}"
        case news.WorkerLost(reason=reason, hint=hint, excerpt=excerpt):
            first = f"{reason}; starting another" + (f" ({hint})" if hint else "")
            return "\n".join([first, *(f"  it said: {line}" for line in excerpt.splitlines()[-_LAST_LINES:])])
        case news.Remark(text=text):
            return f"warning: {text}"
        case news.Stopping(in_flight=0):
            return "stopping"
        case news.Stopping(in_flight=count, grace_s=grace_s):
            return f"stopping: {count} in flight may finish within {grace_s:.0f} s; ask again to stop at once"
    return None


def describe_busy(what: news.Busy) -> str:
    """Work that is no rendering, and how far it is."""
    return f"{what.name}: {what.what}, {what.done} of {what.total}"


def describe_opening(what: news.WorkerOpening) -> str:
    """What a worker is busy with before it takes orders."""
    setup = what.setup
    return f"opening {setup.model} in {setup.precision}, profile {setup.profile}" if setup else f"loading {what.what}"
