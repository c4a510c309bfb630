"""The door to a run: `renderer render`.

Arguments in, one call, words and an exit code out. Whatever takes time to import is imported by the command.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from renderer.cli import arguments, models
from renderer.cli.manifests import Loaded, load_part, overrides_of
from renderer.cli.problems import print_problems
from renderer.cli.refusals import Refusals
from renderer.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, ManifestError, Problem, UsageError
from renderer.manifest import source
from renderer.manifest.manifest import is_without_jobs
from renderer.outputs.summary import Summary
from renderer.system import streams
from renderer.system.folders import expanded
from renderer.text import counted

if TYPE_CHECKING:
    from renderer.supervisor.fleet import Fleet
    from renderer.supervisor.settings import Terms

GB = 10**9
"""What may be downloaded when nobody is at a terminal to see it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser what the command takes."""
    arguments.add_manifests(parser, may_be_none=True)
    told = "render manifests that are put there, as they come, until stopped"
    parser.add_argument("--watch-folder", type=expanded, metavar="DIR", help=told)
    arguments.add_only(parser)
    arguments.add_shard(parser)
    arguments.add_share(parser)
    parser.add_argument("--force", action="store_true", help="render also what is done or set aside")
    parser.add_argument("--dry-run", action="store_true", help="the same as plan")
    add_night_options(parser)


def run(options: argparse.Namespace) -> int:
    """Render what is not done of the manifests, or say what that would be."""
    _check_folder(options)
    if options.dry_run and options.cluster is not None:
        message = "--dry-run says what this machine would take, and --cluster renders on others"
        raise UsageError(message, hint="renderer plan --gpu NAME says it for one of their cards")
    if options.dry_run:
        return _show_plan(options)
    loaded = load_part(options)
    if not loaded.manifests and options.watch_folder is None:
        raise ManifestError(loaded.problems)
    refusals = Refusals()
    summaries = render_loaded(options, loaded, refusals)
    return exit_code(summaries, replace(loaded, problems=refusals.problems))


def _show_plan(options: argparse.Namespace) -> int:
    """Say what would be rendered: of a watched folder, what lies there now."""
    from renderer.cli import plan  # noqa: PLC0415

    options.json = False
    if options.watch_folder is None:
        return plan.show_plan(options, load_part(options))
    from renderer.supervisor.watched import WatchedFolder  # noqa: PLC0415

    there = WatchedFolder(options.watch_folder).there()
    told = counted(len(there), "file") if there else "nothing"
    print(streams.harmless(f"{told} in {options.watch_folder} now; what comes later would be rendered as well"))
    options.manifests = list(dict.fromkeys([*options.manifests, *map(str, there)]))
    loaded = load_part(options)
    mine = {source.show(path) for path in there}
    problems = [each for each in loaded.problems if each.file not in mine or not _is_base(each.file, loaded.problems)]
    loaded = replace(loaded, problems=tuple(problems))
    return plan.show_plan(options, loaded) if loaded.manifests else print_problems(loaded.problems)


def _is_base(file: str, problems: Sequence[Problem]) -> bool:
    """Whether a file lacks nothing but jobs: in a watched folder it may be there for others to extend."""
    return is_without_jobs([each for each in problems if each.file == file])


def _check_folder(options: argparse.Namespace) -> None:
    """Raise `UsageError` where there is nothing to render, or nowhere to look for it."""
    folder = options.watch_folder
    if folder is None:
        if not options.manifests:
            raise UsageError(
                "no manifest is named", hint="renderer render M.yaml; or --watch-folder DIR waits for some"
            )
        return
    if not folder.is_dir():
        raise UsageError(f"--watch-folder {folder} is no folder that is there", hint=f"mkdir -p {folder}")
    if options.shard is not None or options.share is not None or options.only:
        raise UsageError("manifests of a folder are rendered whole", hint="leave --shard, --share and --only out")


def render_loaded(options: argparse.Namespace, loaded: Loaded, refusals: Refusals | None = None) -> list[Summary]:
    """Render as the options of `add_night_options` say; `options` have `only`, `force` and `strict` besides.

    `refusals` hear of manifests that are not well.
    """
    from renderer.cli import attended  # noqa: PLC0415
    from renderer.cli.notify import addresses  # noqa: PLC0415
    from renderer.cli.ping import ping_addresses  # noqa: PLC0415
    from renderer.supervisor.settings import Settings, uptime_s  # noqa: PLC0415

    terms = models.terms(options, most_bytes=None if options.yes or sys.stderr.isatty() else GB)
    settings = Settings(
        outputs=options.outputs,
        only=tuple(options.only),
        force=options.force,
        profile=None if options.profile == "auto" else options.profile,
        vram_bytes=options.vram,
        gpus=arguments.gpus_of(options),
        terms=terms,
        retries=options.retries,
        max_failures=options.max_failures,
        strict=options.strict,
        stuck_after_s=options.stuck_after,
        grace_s=options.grace,
        deadline=next_moment(options.until, datetime.now().astimezone()) if options.until is not None else None,
        ends_s=uptime_s() + 3600 * options.max_hours if options.max_hours is not None else None,
        same_bits=options.same_bits,
    )
    if vars(options).get("watch_folder") is not None:
        settings = replace(settings, watch_folder=options.watch_folder, overrides=overrides_of(options))
    with _fleet(options, terms) as fleet:
        return attended.render(
            loaded,
            replace(settings, fleet=fleet),
            log_format=options.log_format,
            notify=addresses(options.notify),
            ping=ping_addresses(options.ping),
            live_port=options.port if options.live else None,
            refusals=refusals,
        )


@contextlib.contextmanager
def _fleet(options: argparse.Namespace, terms: Terms) -> Iterator[Fleet | None]:
    """Where the workers are: on a cluster, while this lasts, or None on this machine."""
    if options.cluster is None:
        if options.workers is not None:
            raise UsageError("--workers is of a cluster, and --cluster names none", hint="--gpus chooses devices here")
        yield None
        return
    from renderer.ray import connecting  # noqa: PLC0415
    from renderer.ray.cluster_fleet import ClusterFleet, WantedWorkers  # noqa: PLC0415

    least, most = options.workers or (0, connecting.workers_in(options.cluster))
    wanted = WantedWorkers(least, most, options.gpus)
    with connecting.connected(options.cluster), ClusterFleet(wanted, terms, options.vram) as fleet:
        yield fleet


def next_moment(clock: datetime, now: datetime) -> datetime:
    """When this machine's clocks show an hour and a minute next: also in a night in which they are changed."""
    today = now.astimezone().replace(tzinfo=None, hour=clock.hour, minute=clock.minute, second=0, microsecond=0)
    return next(moment for days in (0, 1, 2) for moment in _moments(today + timedelta(days=days)) if moment > now)


def _moments(local: datetime) -> list[datetime]:
    """The moments at which clocks show this: one, or two where they are put back.

    Where they are put forward over it, it is as long after that as it would have been.
    """
    found = sorted(local.replace(fold=fold).astimezone() for fold in (0, 1))
    shown = [moment for moment in found if moment.replace(tzinfo=None, fold=0) == local.replace(fold=0)]
    return shown or found[-1:]


def exit_code(summaries: Sequence[Summary], loaded: Loaded) -> int:
    """What a night over these manifests ends with."""
    if any(summary.ending in ("deadline", "signal") for summary in summaries):
        return EXIT_STOPPED
    complete = all(summary.ending == "complete" and summary.is_all_there for summary in summaries)
    return EXIT_DONE if complete and not loaded.problems else EXIT_FAILED


def add_night_options(render: argparse.ArgumentParser) -> None:
    """Give a parser the options that say how a night goes, whatever is rendered in it."""
    arguments.add_profile(render, "where weights wait (default: stream)")
    arguments.add_vram(render)
    arguments.add_gpus(render)
    arguments.add_cluster(render)
    arguments.add_fetch_options(render)
    render.add_argument("--yes", action="store_true", help="agree to downloads of more than 1 GB")
    render.add_argument("--until", type=arguments.clock, metavar="HH:MM", help="start no picture that would end later")
    render.add_argument("--max-hours", type=arguments.positive, metavar="N", help="the same, from now")
    render.add_argument(
        "--retries", type=arguments.natural, default=2, metavar="N", help="tries after the first (default: 2)"
    )
    render.add_argument(
        "--max-failures",
        type=arguments.whole(1, 10**9),
        default=10,
        metavar="N",
        help="stop after N failures in a row, over all manifests (default: 10)",
    )
    render.add_argument(
        "--stuck-after",
        type=arguments.positive,
        default=900.0,
        metavar="S",
        help="replace a silent worker (default: 900 s)",
    )
    render.add_argument(
        "--grace",
        type=arguments.positive,
        default=60.0,
        metavar="S",
        help="for what is in flight when stopped (default: 60 s)",
    )
    render.add_argument(
        "--same-bits", action="store_true", help="render all on one kind of card: that of the pictures that are there"
    )
    render.add_argument("--live", action="store_true", help="serve the page to this machine while the run is on")
    render.add_argument(
        "--port", type=arguments.port, default=0, metavar="N", help="for --live (default: any that is free)"
    )
    render.add_argument(
        "--notify", action="append", default=[], metavar="URL", help="Apprise's address, told of the first failure and"
        " the end; repeatable. RENDERER_NOTIFY keeps it out of the process list",
    )  # fmt: skip
    render.add_argument(
        "--ping", action="append", default=[], metavar="URL", help="told of the beginning (/start), the end and a"
        " failure (/fail), as healthchecks.io takes it; repeatable; also RENDERER_PING",
    )  # fmt: skip
    render.add_argument("--log-format", choices=["auto", "plain", "json"], default="auto", help="default: auto")
