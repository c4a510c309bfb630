"""The door to what is read in the morning: `renderer report` and `renderer replay`.

Pages, Markdown and manifest entries out of what lies in the output folders. Whatever takes time to import is imported
by the command.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from renderer.errors import EXIT_DONE, EXIT_FAILED, UsageError
from renderer.folders import expanded
from renderer.job import Software
from renderer.loading import Load, Loaded
from renderer.manifest import Manifest

if TYPE_CHECKING:
    from renderer.replay import Entry


def add_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], manifests: argparse.ArgumentParser, load: Load
) -> None:
    """Give the parser its commands. `load` reads the manifests that the options name."""
    report = commands.add_parser("report", parents=[manifests], help="write the page to look at: index.html")
    report.add_argument(
        "--format", choices=["html", "markdown"], default="html", help="markdown goes to standard output, for CI"
    )
    report.add_argument("--watch", action="store_true", help="serve the page to this machine, up to date, until Ctrl-C")
    report.add_argument("--port", type=port, default=0, metavar="N", help="for --watch (default: any that is free)")
    report.set_defaults(command=lambda options: _report(options, load(options)))

    replay = commands.add_parser("replay", help="turn pictures or sidecars, of any tool, into a manifest's entries")
    replay.add_argument("pictures", nargs="+", type=expanded, metavar="PICTURE", help="PNG, WebP, JPEG or a sidecar")
    replay.add_argument("--render", action="store_true", help="render them again, and say whether the bits match")
    replay.add_argument("--outputs", type=expanded, default=Path("outputs"), metavar="DIR", help="default: outputs")
    replay.set_defaults(command=_replay)


def _report(options: argparse.Namespace, loaded: Loaded) -> int:
    from renderer import console  # noqa: PLC0415
    from renderer.plan import make_plan  # noqa: PLC0415
    from renderer.report import gather, page  # noqa: PLC0415

    if options.watch:
        return _watch(options, loaded)
    for manifest in loaded.manifests:
        folder: Path = options.outputs / manifest.name
        if not folder.is_dir():
            raise UsageError(f"nothing of {manifest.file} has been rendered into {folder}", hint="renderer render does")
        plan = make_plan(manifest, options.outputs)
        if options.format == "markdown":
            print(page.write_markdown(gather.gather(plan)), end="")
        else:
            print(page.write(plan))
    return console.print_problems(loaded.problems)


def _watch(options: argparse.Namespace, loaded: Loaded) -> int:
    """Serve the pages until somebody asks to stop."""
    from renderer import console  # noqa: PLC0415
    from renderer.report.gallery import Gallery  # noqa: PLC0415
    from renderer.report.server import Server  # noqa: PLC0415

    if options.format != "html":
        raise UsageError("--watch serves the page, which is HTML", hint="leave --format out")
    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: asked.set())
    code = console.print_problems(loaded.problems)
    with Server([Gallery(manifest, options.outputs) for manifest in loaded.manifests], options.port) as server:
        for url in server.urls:
            print(url, flush=True)
        print("Ctrl-C ends this", file=sys.stderr)
        asked.wait()
    return code


def port(text: str) -> int:
    """A TCP port, for argparse; 0 lets the system choose."""
    if text.isdecimal() and int(text) < 2**16:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port, a whole number from 0 to 65535")


def _replay(options: argparse.Namespace) -> int:
    from renderer import replay  # noqa: PLC0415

    entries = replay.write_entries(options.pictures)
    manifest = replay.as_manifest(entries)
    if options.render:
        return _render_again(entries, manifest, options.outputs)
    print("jobs:")
    for entry in entries:
        for note in entry.notes:
            print(f"# {note}")
        print(entry.text, end="")
    return EXIT_DONE


def _render_again(entries: Sequence[Entry], manifest: Manifest, outputs: Path) -> int:
    from renderer import console, replay, run  # noqa: PLC0415
    from renderer.artifacts import read_sidecar  # noqa: PLC0415
    from renderer.layout import OutputFolder  # noqa: PLC0415
    from renderer.report import page  # noqa: PLC0415
    from renderer.settings import Settings, Stop  # noqa: PLC0415

    screen = console.open_console("auto")
    try:
        watch = page.watching(screen.watch)
        (summary,) = run.render([manifest], Settings(outputs=outputs, force=True), watch, Stop())
    finally:
        screen.close()
    folder = OutputFolder(outputs / manifest.name)
    failed = {failure.id for failure in summary.failures}
    matching = 0
    for entry, picture in zip(entries, manifest.pictures, strict=True):
        if entry.id in failed or not folder.picture(picture.output).is_file():
            print(f"{entry.id}: not rendered")
            continue
        difference = replay.compare(entry, folder.picture(picture.output))
        matching += not difference
        print(f"{entry.id}: {difference or 'the same bits'}")
        now = read_sidecar(folder.sidecar(picture.output))
        if difference and entry.software and now and now.software != entry.software:
            print(f"  rendered then with {_versions(entry.software)}; now with {_versions(now.software)}")
    return EXIT_DONE if matching == len(entries) else EXIT_FAILED


def _versions(software: Software) -> str:
    told = (f"{name} {value}" for name, value in software if name != "python" and value)
    return ", ".join(told)
