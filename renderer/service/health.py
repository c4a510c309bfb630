"""How the server is, for load balancers and for Prometheus. Counts and words; never a prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from renderer import __version__
from renderer.outputs.status import WorkerStatus
from renderer.service.answer_bodies import Health, HealthTold
from renderer.service.answers import tell
from renderer.service.desk import Desk
from renderer.service.guard import Guard
from renderer.service.operations import Operation
from renderer.service.request_queue import RequestQueue
from renderer.service.shifts import Shifts

_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class HealthRoutes:
    """/health and /metrics. `guard` counts answers, once there is one."""

    def __init__(self, desk: Desk, queue: RequestQueue, shifts: Shifts) -> None:
        self._desk = desk
        self._queue = queue
        self._shifts = shifts
        self.guard: Guard | None = None
        self.operations = [
            Operation("GET", "/health", self.health, HealthTold, also={503: HealthTold}),
            Operation("GET", "/metrics", self.metrics, "text/plain"),
        ]

    def state(self) -> Health:
        """`starting`: a model is being opened; `busy`: there are pictures to render; `failed`: none can be."""
        condition = self._shifts.condition
        if self._desk.stopping:
            return "stopping"
        if condition.trouble:
            return "failed"
        if condition.worker == "opening":
            return "starting"
        return "busy" if len(self._queue) or self._queue.in_hand else "ready"

    async def health(self, _request: Request) -> Response:
        """A word, and how much there is to do; 503 where nothing can be rendered.

        Why that is so, the log says: it may hold paths, and nobody needs a token here.
        """
        state = self.state()
        body = HealthTold(
            status=state,
            worker=self._shifts.condition.worker,
            waiting=len(self._queue),
            rendering=self._queue.in_hand,
            version=__version__,
        )
        return tell(body, 503 if state in ("failed", "stopping") else 200)

    async def metrics(self, _request: Request) -> Response:
        """Prometheus' text format, 0.0.4."""
        return PlainTextResponse("".join(self._lines()), media_type=_PROMETHEUS)

    def _lines(self) -> Iterator[str]:
        counts, queue = self._desk.counts, self._queue
        waiting = {
            '{kind="waited_for"}': queue.count(patient=False), '{kind="batch"}': queue.count(patient=True)
        }  # fmt: skip
        yield from _metric("renderer_waiting", "gauge", "Pictures that wait", waiting)
        yield from _metric("renderer_in_flight", "gauge", "Pictures that a worker has", {"": queue.in_hand})
        is_open = self._shifts.condition.worker == "open"
        yield from _metric("renderer_worker_open", "gauge", "Whether a worker is open", {"": is_open})
        if len(workers := self._shifts.workers()) > 1:
            yield from _of_workers(workers)
        counters: Mapping[str, tuple[str, float]] = {
            "renderer_accepted_total": ("Pictures that were accepted", counts.accepted),
            "renderer_found_total": ("Pictures that were there already", counts.found),
            "renderer_rendered_total": ("Pictures that were rendered", counts.rendered),
            "renderer_failed_total": ("Pictures that failed", counts.failed),
            "renderer_cancelled_total": ("Pictures that were cancelled", counts.cancelled),
            "renderer_refused_total": ("Pictures that were refused, too many waiting", counts.refused),
            "renderer_steps_total": ("Denoising steps that were done", counts.steps),
            "renderer_rendering_seconds_total": ("Seconds of pictures' own time", counts.rendering_s),
            "renderer_waiting_seconds_total": ("Seconds that pictures waited for their turn", counts.waiting_s),
        }
        for name, (told, value) in counters.items():
            yield from _metric(name, "counter", told, {"": value})
        yield from _metric(
            "renderer_peak_bytes", "gauge", "The most memory that a picture took", {"": counts.peak_bytes}
        )
        if self.guard is not None:
            answered = {
                f'{{route="{route}",status="{status}"}}': count
                for (route, status), count in sorted(self.guard.answered.items())
            }
            yield from _metric("renderer_http_requests_total", "counter", "Requests by route and status", answered)


def _of_workers(workers: Sequence[WorkerStatus]) -> Iterator[str]:
    """Each of several workers, by where it is."""
    names = [f'{{worker="{worker.where}"}}' for worker in workers]
    figures: Sequence[tuple[str, str, str, Callable[[WorkerStatus], float]]] = (
        ("open", "gauge", "Whether this worker is open", lambda worker: worker.state == "open"),
        ("left_out", "gauge", "Whether this device is left out", lambda worker: worker.state == "left out"),
        ("in_flight", "gauge", "Pictures that this worker has", lambda worker: worker.pictures),
        ("rendered_total", "counter", "Pictures that came from this device", lambda worker: worker.rendered),
    )
    for name, kind, told, value in figures:
        each = {label: value(worker) for label, worker in zip(names, workers, strict=True)}
        yield from _metric(f"renderer_workers_{name}", kind, told, each)
    cards = {f'{{worker="{worker.where}",card="{worker.card}"}}': 1.0 for worker in workers if worker.card}
    yield from _metric("renderer_workers_card", "gauge", "The card of this worker, by name and UUID", cards)


def _metric(name: str, kind: str, told: str, values: Mapping[str, float]) -> Iterator[str]:
    yield f"# HELP {name} {told}.\n# TYPE {name} {kind}\n"
    for labels, value in values.items():
        yield f"{name}{labels} {float(value):g}\n"
