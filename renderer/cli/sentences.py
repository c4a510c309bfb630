"""What happens in a run, a sentence each: for consoles, logs and messages. Prints nothing and watches nothing."""

from __future__ import annotations

from renderer.outputs.describe import describe_done
from renderer.supervisor import events, provision
from renderer.text import duration, gb, gib
from renderer.weights.needs import Bill, Need, Supplied

_LAST_LINES = 3


def supply(need: Need, answer: provision.SupplyEvent | None) -> str | None:
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


def sentence(what: events.Event, *, several: bool = False) -> str | None:
    """What happened, in a line; None for what a bar shows better, or nobody needs to read.

    Where `several` manifests are on their way, a picture's is said too.
    """
    match what:
        case events.ManifestProblem(problem=problem):
            return str(problem) if problem.warning else f"not rendered: {problem}"
        case events.BatchBegan(plan=plan, to_render=count):
            there = len(plan.to_bring()) + len(plan.twins())
            bring = _with(there, "to move, copy or keep another way")
            return f"{plan.manifest.name}: {count} to render{bring}, {plan.count('done')} done, into {plan.folder.path}"
        case events.Serving(url=url):
            return f"to watch: {url}"
        case events.Supplying(need=need, what=answer):
            return supply(need, answer)
        case events.WorkerOpened(opened=opened):
            where = f"{opened.gpu.described}, {gib(opened.gpu.total_bytes)}" if opened.gpu else "the CPU"
            engine = f"engine {opened.engine.name}, profile {opened.engine.profile}"
            first = f"{_at(what.where)}model open after {duration(opened.load_s)}: {engine}, {where}"
            return "\n".join([first, *(f"  note: {note}" for note in opened.notes)])
        case events.PictureDone(item=item, sidecar=sidecar):
            first = (f"{item.batch}/" if several else "") + describe_done(sidecar)
            return "\n".join([first, *(f"  warning: {warning}" for warning in sidecar.warnings)])
        case events.PictureFailed():
            hint = f" ({what.hint})" if what.hint else ""
            name = f"{what.item.batch}/{what.item.picture.id}" if several else what.item.picture.id
            return f"FAILED {name}: {what.message}{hint}{'; trying again later' if what.again else ''}"
        case events.WorkerLost(reason=reason, hint=hint, excerpt=excerpt):
            first = f"{_at(what.where)}{reason}; starting another" + (f" ({hint})" if hint else "")
            return "\n".join([first, *(f"  it said: {line}" for line in excerpt.splitlines()[-_LAST_LINES:])])
        case events.Remark(text=text):
            return f"warning: {text}"
    return _beginning(what)


def _beginning(what: events.Event) -> str | None:
    """That nothing more is begun, or something again; what a plan says."""
    match what:
        case events.Note(text=text):
            return text
        case events.Waiting(folder=folder):
            return f"waiting for manifests in {folder}"
        case events.Pausing(let_go=True):
            return "paused: the GPU's memory is given back"
        case events.Pausing(paused=paused):
            return "paused: nothing is begun before renderer resume" if paused else "going on"
        case events.Stopping(in_flight=0):
            return "stopping"
        case events.Stopping(in_flight=count, grace_s=grace_s):
            return f"stopping: {count} in flight may finish within {grace_s:.0f} s; ask again to stop at once"
    return None


def busy(what: events.Busy) -> str:
    """Work that is no rendering, and how far it is."""
    return f"{what.name}: {what.what}, {what.done} of {what.total}"


def opening(what: events.WorkerOpening) -> str:
    """What a worker is busy with before it takes orders."""
    setup = what.setup
    told = f"opening {setup.model} in {setup.precision}, profile {setup.profile}" if setup else f"loading {what.what}"
    return f"{_at(what.where)}{told}"


def _at(where: str) -> str:
    return f"{where}: " if where else ""


def _with(count: int, what: str) -> str:
    return f", {count} {what}" if count else ""
