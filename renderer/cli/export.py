"""The door to `renderer export`: chosen pictures in a folder or a zip, with a table and a contact sheet.

Arguments in, a line and an exit code out.
"""

from __future__ import annotations

import argparse

from renderer.cli import arguments
from renderer.cli.manifests import load_named
from renderer.cli.problems import print_problems
from renderer.system import streams
from renderer.system.folders import expanded
from renderer.text import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser what the command takes."""
    arguments.add_manifests(parser)
    arguments.add_only(parser)
    parser.add_argument(
        "--to", type=expanded, required=True, metavar="PATH", help="a folder that is not there yet, or a name with .zip"
    )


def run(options: argparse.Namespace) -> int:
    """Copy what is chosen and there."""
    from renderer.planning.plan import make_plan  # noqa: PLC0415
    from renderer.planning.selection import Selection  # noqa: PLC0415
    from renderer.report.exporting import export  # noqa: PLC0415

    loaded = load_named(options)
    Selection.of(options.only).check(loaded.manifests)
    plans = [make_plan(manifest, options.outputs, only=options.only) for manifest in loaded.manifests]
    if plans:
        count = export(plans, options.to)
        print(streams.harmless(f"{options.to}: {counted(count, 'picture')}, with a table and a contact sheet"))
    return print_problems(loaded.problems)
