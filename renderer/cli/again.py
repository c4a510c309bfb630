"""The door to `renderer again`: chosen pictures once more, with more steps, another size or more seeds.

Arguments in, a night over what they make, words and an exit code out.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import get_args

from renderer.cli import arguments, render
from renderer.cli.manifests import load_named
from renderer.errors import ManifestError, UsageError
from renderer.job import Precision

_MOST_STEPS, _MOST_SEEDS = 200, 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser what the command takes."""
    parser.add_argument("manifests", nargs="+", metavar="MANIFEST", help="as for render")
    arguments.add_outputs(parser)
    arguments.add_only(parser)
    parser.add_argument("--steps", type=arguments.whole(2, _MOST_STEPS), metavar="N", help="so many steps")
    parser.add_argument("--size", metavar="SIZE", help='like 1664x928, or a ratio like "16:9"')
    parser.add_argument("--cfg-scale", type=arguments.positive, metavar="X", help="so much guidance, from 1")
    parser.add_argument("--precision", choices=get_args(Precision), help="at this precision")
    parser.add_argument("--seeds", type=arguments.whole(1, _MOST_SEEDS), default=0, metavar="N", help="N further seeds")
    arguments.add_for_tables(parser)
    parser.add_argument("--force", action="store_true", help="also what is done")
    parser.add_argument("--strict", action="store_true", help="one problem or warning keeps all back")
    render.add_night_options(parser)


def run(options: argparse.Namespace) -> int:
    """Render what is chosen once more, beside the first."""
    from renderer.planning.once_more import Changes, once_more  # noqa: PLC0415
    from renderer.planning.plan import make_plan  # noqa: PLC0415
    from renderer.planning.selection import Selection  # noqa: PLC0415

    if options.cfg_scale is not None and not 1 <= options.cfg_scale <= 30:  # noqa: PLR2004  # as a job's
        raise UsageError(f"--cfg-scale {options.cfg_scale:g} is out of range", hint="allowed: 1 to 30")
    changes = Changes(options.steps, options.size, options.cfg_scale, options.precision, options.seeds)
    options.model, options.proof, options.precision = None, False, None
    loaded = load_named(options)
    if not loaded.manifests:
        raise ManifestError(loaded.problems)
    Selection.of(options.only).check(loaded.manifests)
    plans = [make_plan(manifest, options.outputs, only=options.only) for manifest in loaded.manifests]
    chosen = [(plan.manifest, [item.seen[0] for item in plan.chosen]) for plan in plans]
    manifests = tuple(once_more(manifest, pictures, changes) for manifest, pictures in chosen if pictures)
    if not manifests:
        raise UsageError("no picture was chosen", hint="renderer plan says how they stand")
    options.only = []
    again = replace(loaded, manifests=manifests)
    return render.exit_code(render.render_loaded(options, again), again)
