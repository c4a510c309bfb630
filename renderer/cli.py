"""The door: arguments in, one call, words and an exit code out.

Commands that only read (`validate`, `plan`, `status`, `schema`) never import torch. Exit codes stand in `errors.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, get_args

from renderer import __version__, models_cli, plan_cli, report_cli
from renderer.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_MACHINE,
    EXIT_STOPPED,
    ManifestError,
    Problem,
    RendererError,
    UsageError,
)
from renderer.job import Precision, Profile, Summary
from renderer.manifest import Manifest, Overrides, load

if TYPE_CHECKING:
    from renderer import doctor, run

GB = 10**9
"""What may be downloaded when nobody is at a terminal to see it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    from renderer import console  # noqa: PLC0415  (tqdm is not needed to say what is wrong with an argument)

    try:
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except ManifestError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        print(f"{_count(len(error.problems), 'problem')}; nothing was rendered", file=sys.stderr)
        return error.exit_code
    except RendererError as error:
        console.print_error(error)
        return error.exit_code
    except BrokenPipeError:  # `renderer plan … | head`
        sys.stderr.close()
        return EXIT_DONE


# ---- commands --------------------------------------------------------------------------------------------------------


def _status(options: argparse.Namespace) -> int:
    from renderer.plan import make_plan  # noqa: PLC0415

    states = []
    for manifest in _load(options):
        plan = make_plan(manifest, options.outputs, thorough=options.verify)
        trouble = [item for item in plan.items if item.state in ("failed", "set aside")]
        states.append(
            {
                "manifest": manifest.file,
                "name": manifest.name,
                "pictures": len(plan.items),
                "done": plan.count("done"),
                "failed": plan.count("failed"),
                "set_aside": plan.count("set aside"),
                "to_do": plan.count("to do"),
                "trouble": [{"id": item.picture.id, "state": item.state, "note": item.note} for item in trouble],
            }
        )
        if not options.json:
            last = states[-1]
            counts = (
                f"{last['done']} done, {last['failed']} failed, {last['set_aside']} set aside, {last['to_do']} to do"
            )
            print(f"{manifest.name}: {counts} of {len(plan.items)}")
            for item in trouble:
                print(f"  {item.state}: {item.picture.id}: {item.note}")
    if options.json:
        print(json.dumps(states, indent=2, ensure_ascii=False))
    return EXIT_DONE


def _render(options: argparse.Namespace) -> int:
    from renderer import console, run  # noqa: PLC0415

    manifests = _load(options)
    if options.dry_run:
        options.json = False
        return plan_cli.show_plan(options, manifests)
    settings = run.Settings(
        outputs=options.outputs,
        only=tuple(options.only),
        force=options.force,
        profile=None if options.profile == "auto" else options.profile,
        vram_bytes=options.vram,
        terms=models_cli.terms(options, most_bytes=None if options.yes or sys.stderr.isatty() else GB),
        retries=options.retries,
        max_failures=options.max_failures,
        stuck_after_s=options.stuck_after,
        grace_s=options.grace,
        deadline=_deadline(options, datetime.now().astimezone()),
    )
    screen = console.open_console(options.log_format)
    try:
        with _stopping_on_signals() as stop:
            summaries = run.render(manifests, settings, screen.watch, stop)
    finally:
        screen.close()
    return _exit_code(summaries)


def _schema(options: argparse.Namespace) -> int:
    from renderer import schemas  # noqa: PLC0415

    print(json.dumps(schemas.SCHEMAS[options.of](), indent=2, ensure_ascii=False))
    return EXIT_DONE


def _bench(options: argparse.Namespace) -> int:
    from renderer.benchmarks import weights  # noqa: PLC0415

    found = weights.measure(options.folder, options.layers)
    print(json.dumps(found, indent=2) if options.json else "\n".join(weights.lines(found)))
    return EXIT_DONE


def _doctor(options: argparse.Namespace) -> int:
    from renderer import doctor  # noqa: PLC0415

    found = doctor.examine(options.outputs)
    if options.json:
        print(json.dumps(found.as_dict(), indent=2, ensure_ascii=False))
    else:
        print("\n".join(_doctor_lines(found)))
    return EXIT_MACHINE if any(finding.fatal for finding in found.findings) else EXIT_DONE


def _doctor_lines(found: doctor.Diagnosis) -> Iterator[str]:
    from renderer.console import gib  # noqa: PLC0415

    here, torch = found.machine, found.torch
    yield f"memory     {gib(here.ram_bytes)}, {gib(here.ram_free_bytes)} free; {_count(here.cpus, 'core')}"
    yield f"disk       {gib(found.free_disk_bytes)} free for outputs"
    for gpu in here.gpus:
        capability = ".".join(map(str, gpu.compute_capability))
        yield f"GPU {gpu.index}      {gpu.name}, {gib(gpu.total_bytes)}, {gib(gpu.free_bytes)} free, cc {capability}"
        yield f"           driver {gpu.driver}"
    versions = (f"{name} {torch.get(name) or '?'}" for name in ("python", "torch", "cuda", "diffsynth", "transformers"))
    yield f"software   {', '.join(versions)}"
    for gpu in torch.get("gpus") or ():
        yield f"torch      sees {gpu.get('name')}: a kernel ran: {gpu.get('kernel')}; FP8 product: {gpu.get('fp8')}"
    for model, where in found.models.items():
        yield f"model      {model}: {where}"
    for what, profile in found.profiles.items():
        yield f"profile    {what}: {profile}"
    for finding in found.findings:
        yield f"{'PROBLEM' if finding.fatal else 'note':10} {finding.message}"
        if finding.hint:
            yield f"           {finding.hint}"


# ---- what the commands share -----------------------------------------------------------------------------------------


def _load(options: argparse.Namespace) -> list[Manifest]:
    """All manifests named, or every problem of every one of them."""
    overrides = Overrides(model=options.model, precision=options.precision, proof=options.proof)
    manifests: list[Manifest] = []
    problems: list[Problem] = []
    for path in _expand(options.manifests):
        try:
            manifests.append(load(path, overrides))
        except ManifestError as error:
            problems.extend(error.problems)
    if problems:
        raise ManifestError(problems)
    by_name: dict[str, Manifest] = {}
    for manifest in manifests:
        if other := by_name.get(manifest.name.casefold()):
            message = f"{other.file} and {manifest.file} are both named {manifest.name}, and would share a folder"
            raise UsageError(message, hint="give one of them another name:")
        by_name[manifest.name.casefold()] = manifest
    return manifests


def _expand(patterns: Sequence[str]) -> list[Path]:
    """The files that the patterns name, each once, in order."""
    paths: dict[Path, None] = {}
    for pattern in patterns:
        if Path(pattern).exists() or not glob.has_magic(pattern):
            paths[Path(pattern)] = None
            continue
        found = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  (a pattern may be absolute)
        if not found:
            raise UsageError(f"no manifest matches {pattern}")
        paths.update((Path(name), None) for name in found)
    return list(paths)


def _deadline(options: argparse.Namespace, now: datetime) -> datetime | None:
    """The earlier of --until and --max-hours."""
    moments = []
    if options.until is not None:
        moment = now.replace(hour=options.until.hour, minute=options.until.minute, second=0, microsecond=0)
        moments.append(moment if moment > now else moment + timedelta(days=1))
    if options.max_hours is not None:
        moments.append(now + timedelta(hours=options.max_hours))
    return min(moments, default=None)


@contextlib.contextmanager
def _stopping_on_signals() -> Iterator[run.Stop]:
    """Turn Ctrl-C and SIGTERM into a request to stop."""
    from renderer import run  # noqa: PLC0415

    stop = run.Stop()

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.request()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit_code(summaries: Sequence[Summary]) -> int:
    if any(summary.ending in ("deadline", "signal") for summary in summaries):
        return EXIT_STOPPED
    return EXIT_FAILED if any(summary.failed or summary.left for summary in summaries) else EXIT_DONE


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


# ---- arguments -------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="renderer",
        description="Render YAML manifests of prompts into pictures with sidecars, in batches, unattended.",
        epilog="exit codes: 0 done; 1 some pictures failed; 2 manifest or arguments; 3 this machine cannot; "
        "4 stopped early, resumable; 75 locked by another run",
    )
    parser.add_argument("--version", action="version", version=f"renderer {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    manifests = _manifest_options()

    plan_cli.add_commands(commands, manifests, _load)

    status = commands.add_parser("status", parents=[manifests], help="count what is done, failed and to do")
    status.add_argument("--verify", action="store_true", help="compare every finished file's SHA-256")
    status.add_argument("--json", action="store_true", help="for machines")
    status.set_defaults(command=_status)

    render = commands.add_parser("render", parents=[manifests], help="render what is not done")
    _add_render_options(render)
    render.set_defaults(command=_render)

    schema = commands.add_parser("schema", help="print the JSON Schema of manifests, or of what a run writes")
    schema.add_argument("of", nargs="?", default="manifest", choices=["manifest", "sidecar", "summary"])
    schema.set_defaults(command=_schema)

    report_cli.add_commands(commands, manifests, _load)
    models_cli.add_commands(commands.add_parser("models", help="list, pull, pack, verify and remove models"))

    bench = commands.add_parser("bench", help="measure this machine on full-size random weights")
    bench.add_argument("what", choices=["weights"], help="packing and loading")
    bench.add_argument("--folder", type=Path, required=True, metavar="DIR", help="takes up to 90 GB")
    bench.add_argument("--layers", type=_natural, default=60, metavar="N", help="of the transformer (default: 60)")
    bench.add_argument("--json", action="store_true", help="for machines")
    bench.set_defaults(command=_bench)

    doctor = commands.add_parser("doctor", help="say what this machine is, and what it can render")
    doctor.add_argument("--outputs", type=Path, default=Path("outputs"), help=argparse.SUPPRESS)
    doctor.add_argument("--json", action="store_true", help="for machines")
    doctor.set_defaults(command=_doctor)
    return parser


def _manifest_options() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("manifests", nargs="+", metavar="MANIFEST", help="a YAML file, or a pattern in quotes")
    shared.add_argument("--outputs", type=Path, default=Path("outputs"), metavar="DIR", help="default: outputs")
    shared.add_argument("--model", metavar="ID", help="render every job with this model")
    shared.add_argument("--precision", choices=get_args(Precision), help="render every job at this precision")
    shared.add_argument("--proof", action="store_true", help="a rehearsal: the demo model, small, in <name>-proof")
    return shared


def _add_render_options(render: argparse.ArgumentParser) -> None:
    render.add_argument("--only", action="append", default=[], metavar="ID", help="this picture or job; repeatable")
    render.add_argument("--force", action="store_true", help="render also what is done or set aside")
    render.add_argument("--dry-run", action="store_true", help="the same as plan")
    profiles = ["auto", *get_args(Profile)]
    render.add_argument("--profile", choices=profiles, default="auto", help="where weights wait (default: stream)")
    render.add_argument(
        "--vram", type=plan_cli.amount_of_bytes, metavar="BYTES", help="GPU memory to use at most, like 10GiB"
    )
    models_cli.add_fetch_options(render)
    render.add_argument("--yes", action="store_true", help="agree to downloads of more than 1 GB")
    render.add_argument("--until", type=_clock, metavar="HH:MM", help="start no picture that would end later")
    render.add_argument("--max-hours", type=_positive, metavar="N", help="the same, from now")
    render.add_argument("--retries", type=_natural, default=2, metavar="N", help="tries after the first (default: 2)")
    render.add_argument(
        "--max-failures", type=_natural, default=10, metavar="N", help="stop after N failures in a row (default: 10)"
    )
    render.add_argument(
        "--stuck-after", type=_positive, default=900.0, metavar="S", help="replace a silent worker (default: 900 s)"
    )
    render.add_argument(
        "--grace", type=_positive, default=60.0, metavar="S", help="for what is in flight when stopped (default: 60 s)"
    )
    render.add_argument("--log-format", choices=["auto", "plain", "json"], default="auto", help="default: auto")


def _clock(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%H:%M")  # noqa: DTZ007  (an hour of the day, on this machine's clock)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time of day like 07:00") from None


def _positive(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (number := float(text)) < float("inf"):
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")


def _natural(text: str) -> int:
    if text.isdecimal():
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
