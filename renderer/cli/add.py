"""The door to `renderer add`: a night that is on takes in further manifests.

They are read here first, so that what is wrong with them is said in full. Arguments in, lines and an exit code out.
"""

from __future__ import annotations

import argparse
import math

from renderer.cli import arguments, wishing
from renderer.cli.manifests import load_named
from renderer.cli.problems import print_error, print_problems
from renderer.errors import RendererError, UsageError
from renderer.manifest.fields import MOST_PRIORITY
from renderer.outputs.nights import Wish
from renderer.system import streams


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser what the command takes."""
    arguments.add_manifests(parser)
    arguments.add_only(parser)
    parser.add_argument("--priority", type=_number, metavar="N", help="in place of the manifests' own; higher is first")
    parser.add_argument("--to", metavar="MANIFEST", help="one that the run has, or its process, where several are on")


def run(options: argparse.Namespace) -> int:
    """Have each manifest join, and say what the night makes of it."""
    loaded = load_named(options)
    hint = f"begin one: renderer render {' '.join(options.manifests)}"
    folder, night = wishing.find(options.outputs, options.to, hint)
    code = 0
    for manifest in loaded.manifests:
        if manifest.path is None:
            raise UsageError(f"{manifest.file} is from nowhere that the run could read it", hint="write it into a file")
        wish = Wish(
            what="add",
            manifest=str(manifest.path.absolute()),
            model=options.model,
            precision=options.precision,
            proof=options.proof,
            defaults=str(options.defaults.absolute()) if options.defaults else None,
            fields=tuple(options.set),
            only=tuple(options.only),
            priority=options.priority,
        )
        try:
            print(streams.harmless(wishing.heard(folder, night, wish).text))
        except RendererError as error:
            print_error(error)
            code = error.exit_code
    return print_problems(loaded.problems) or code


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not -MOST_PRIORITY <= number <= MOST_PRIORITY:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from -{MOST_PRIORITY} to {MOST_PRIORITY}")
    return number
