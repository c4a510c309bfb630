"""The door to what is read in the morning: `renderer report` and `renderer replay`.

Pages, Markdown and manifest entries out of what lies in the output folders. Whatever takes time to import is imported
by the command.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from renderer.errors import EXIT_DONE, UsageError
from renderer.manifest import Manifest

Load = Callable[[argparse.Namespace], list[Manifest]]


def add_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], manifests: argparse.ArgumentParser, load: Load
) -> None:
    """Give the parser its commands. `load` reads the manifests that the options name."""
    report = commands.add_parser("report", parents=[manifests], help="write the page to look at: index.html")
    report.add_argument(
        "--format", choices=["html", "markdown"], default="html", help="markdown goes to standard output, for CI"
    )
    report.set_defaults(command=lambda options: _report(options, load(options)))


def _report(options: argparse.Namespace, manifests: Sequence[Manifest]) -> int:
    from renderer.plan import make_plan  # noqa: PLC0415
    from renderer.report import gather, page  # noqa: PLC0415

    for manifest in manifests:
        folder: Path = options.outputs / manifest.name
        if not folder.is_dir():
            raise UsageError(f"nothing of {manifest.file} has been rendered into {folder}", hint="renderer render does")
        plan = make_plan(manifest, options.outputs)
        if options.format == "markdown":
            print(page.write_markdown(gather.gather(plan)), end="")
        else:
            print(page.write(plan))
    return EXIT_DONE
