"""The door to the HTTP door: `renderer serve`.

Arguments in, one call, words and an exit code out. Whatever takes time to import is imported by the command.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from renderer.cli import arguments, models, render
from renderer.errors import EXIT_DONE, MachineError, UsageError
from renderer.system import signals, streams
from renderer.text import installing

if TYPE_CHECKING:
    from renderer.service.configuration import ServiceSettings
    from renderer.supervisor import events

_QUIET = frozenset({"/health", "health", "metrics"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser what the command takes."""
    parser.add_argument("--host", help="where to listen (default: $RENDERER_HOST, 127.0.0.1); others need a token")
    parser.add_argument("--port", type=arguments.port, help="default: $RENDERER_PORT, 8000; 0 takes any that is free")
    parser.add_argument(
        "--model", action="append", default=[], metavar="ID", help="a model to serve, the usual one first; repeatable"
    )
    parser.add_argument("--name", default="served", help="the folder of its pictures, under the outputs")
    arguments.add_outputs(parser)
    arguments.add_profile(parser, "where weights wait (default: stream)")
    arguments.add_vram(parser)
    arguments.add_gpus(parser)
    arguments.add_fetch_options(parser)
    parser.add_argument("--yes", action="store_true", help="agree to downloads of more than 1 GB")
    parser.add_argument("--preload", action="store_true", help="open the model now, not at the first request")
    parser.add_argument(
        "--idle",
        type=arguments.positive,
        metavar="MIN",
        help="give the GPU back after so many minutes without a request (default: $RENDERER_IDLE, 10)",
    )
    parser.add_argument(
        "--in-flight", type=arguments.whole(1, 64), metavar="N", help="pictures that ride together (default: as helps)"
    )
    parser.add_argument(
        "--most-waiting", type=arguments.whole(1, 100_000), default=256, metavar="N", help="then 429 (default: 256)"
    )
    parser.add_argument("--strict-models", action="store_true", help="refuse names of models that this server has not")
    parser.add_argument("--log-format", choices=["plain", "json"], default="plain", help="default: plain")


def run(options: argparse.Namespace) -> int:
    """Serve until somebody asks to stop."""
    try:
        from renderer.service.serving import serve  # noqa: PLC0415
    except ImportError as error:
        raise MachineError(f"the server lacks {error.name}", hint=installing("service")) from error
    from renderer.supervisor.settings import StopRequests  # noqa: PLC0415

    log = _Log(as_json=options.log_format == "json")
    stop = StopRequests()
    with signals.heard(stop.request):
        serve(settings_of(options), stop, log.say, log.watch)
    return EXIT_DONE


def settings_of(options: argparse.Namespace) -> ServiceSettings:
    """The settings that the options, the environment and the `.env` file make. Raises `UsageError`."""
    from renderer.machine import hardware  # noqa: PLC0415
    from renderer.manifest.naming import safe_component  # noqa: PLC0415
    from renderer.service import configuration  # noqa: PLC0415
    from renderer.supervisor.settings import Settings  # noqa: PLC0415

    environment = configuration.environment()
    here = hardware.look()
    if options.name != safe_component(options.name):
        raise UsageError(f"{options.name} cannot be a folder's name", hint=f"like {safe_component(options.name)}")
    rendering = Settings(
        outputs=options.outputs,
        profile=None if options.profile == "auto" else options.profile,
        vram_bytes=options.vram or configuration.vram_of(environment, here),
        gpus=arguments.gpus_of(options, environment),
        terms=models.terms(options, most_bytes=None if options.yes else render.GB),
        retries=1,
        max_failures=sys.maxsize,
    )
    return configuration.ServiceSettings(
        rendering=rendering,
        shelf=configuration.shelf_of(options.model, environment, here),
        host=options.host or environment.get("RENDERER_HOST") or "127.0.0.1",
        port=_port(options, environment),
        name=options.name,
        keys=configuration.keys_of(environment),
        idle_s=60.0 * _idle(options, environment),
        preload=options.preload,
        strict_models=options.strict_models,
        in_flight=options.in_flight,
        limits=configuration.Limits(waiting=options.most_waiting),
    )


def _port(options: argparse.Namespace, environment: Mapping[str, str]) -> int:
    try:
        return arguments.port(environment.get("RENDERER_PORT", "8000")) if options.port is None else options.port
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"RENDERER_PORT: {error}") from error


def _idle(options: argparse.Namespace, environment: Mapping[str, str]) -> float:
    try:
        return arguments.positive(environment.get("RENDERER_IDLE", "10")) if options.idle is None else options.idle
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"RENDERER_IDLE: {error}") from error


def _where(where: str) -> dict[str, str]:
    return {"where": where} if where else {}


class _Log:
    """What the server says: a line an event, on standard error; no prompt is among them."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def say(self, event: str, told: Mapping[str, Any]) -> None:
        """A line. Questions that come every few seconds for ever are left out."""
        if event == "request" and told.get("route") in _QUIET and told.get("status") == 200:  # noqa: PLR2004
            return
        if self._as_json:
            streams.say(
                json.dumps({"event": event, "at": datetime.now(UTC).isoformat(timespec="milliseconds"), **told})
            )
            return
        words = " ".join(f"{key}={value}" for key, value in told.items())
        streams.say(f"{datetime.now(UTC).astimezone():%H:%M:%S} {event} {words}")

    def watch(self, what: events.Event) -> None:
        """What happens on the rendering side, as far as somebody who looks after a server wants to know."""
        from renderer.supervisor import events  # noqa: PLC0415

        match what:
            case events.WorkerOpened(opened=opened, where=where):
                self.say("worker", {"state": "open", "load_s": round(opened.load_s, 2), **_where(where)})
            case events.WorkerLost(reason=reason, where=where):
                self.say("worker", {"state": "lost", "reason": reason, **_where(where)})
            case events.PictureDone(item=item, sidecar=sidecar):
                told = {
                    "id": item.picture.id,
                    "request_id": item.picture.place.job_id,
                    "seconds": sidecar.timing.total_s,
                }
                self.say("picture", told)
            case events.PictureFailed(item=item, kind=kind, again=again):
                told = {"id": item.picture.id, "request_id": item.picture.place.job_id, "kind": kind, "again": again}
                self.say("picture_failed", told)
            case events.Remark(text=text):
                self.say("remark", {"text": text})
