"""The door to what is read in the morning: `renderer report`.

Pages and Markdown out of what lies in the output folders. Whatever takes time to import is imported by the command.
"""

from __future__ import annotations

import argparse
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from renderer.cli import arguments
from renderer.cli.manifests import Loaded, load_named
from renderer.cli.problems import print_problems
from renderer.errors import UsageError
from renderer.system import signals

if TYPE_CHECKING:
    from renderer.planning.plan import Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser what the command takes."""
    arguments.add_manifests(parser)
    parser.add_argument(
        "--format", choices=["html", "markdown"], default="html", help="markdown goes to standard output, for CI"
    )
    parser.add_argument("--watch", action="store_true", help="serve the page to this machine, up to date, until Ctrl-C")
    parser.add_argument(
        "--port", type=arguments.port, default=0, metavar="N", help="for --watch (default: any that is free)"
    )


def run(options: argparse.Namespace) -> int:
    """Write the pages, or serve them."""
    from renderer.planning.plan import make_plan  # noqa: PLC0415
    from renderer.report import gather, page  # noqa: PLC0415

    loaded = load_named(options)
    if options.watch:
        return _watch(options, loaded)
    for manifest in loaded.manifests:
        plan = make_plan(manifest, options.outputs)
        folder = plan.folder.path
        if not folder.is_dir():
            raise UsageError(f"nothing of {manifest.file} has been rendered into {folder}", hint="renderer render does")
        if options.format == "markdown":
            print(page.write_markdown(gather.gather(plan)), end="")
        else:
            print(_write(plan))
    return print_problems(loaded.problems)


def _write(plan: Plan) -> Path:
    """Write the page; how far it is is shown while it takes long."""
    from renderer.cli import console  # noqa: PLC0415
    from renderer.report import page  # noqa: PLC0415

    screen = console.open_console("auto")
    try:
        return page.write(plan, screen.watch)
    finally:
        screen.close()


def _watch(options: argparse.Namespace, loaded: Loaded) -> int:
    """Serve the pages until somebody asks to stop."""
    from renderer.report.gallery import Gallery  # noqa: PLC0415
    from renderer.service.watching import WatchServer  # noqa: PLC0415

    if options.format != "html":
        raise UsageError("--watch serves the page, which is HTML", hint="leave --format out")
    asked = threading.Event()
    code = print_problems(loaded.problems)
    galleries = [Gallery(manifest, options.outputs) for manifest in loaded.manifests]
    with signals.heard(asked.set), WatchServer(galleries, options.port) as server:
        for url in server.urls:
            print(url, flush=True)
        print("Ctrl-C ends this", file=sys.stderr)
        asked.wait()
    return code
