"""The door to `renderer merge`: what several machines have rendered of manifests' parts comes into the whole's folder.

Arguments in, a few lines and an exit code out. Whatever takes time to import is imported by the command.
"""

from __future__ import annotations

import argparse
import sys

from renderer.cli import arguments
from renderer.cli.manifests import load_named
from renderer.cli.problems import print_problems
from renderer.errors import EXIT_FAILED
from renderer.system import streams
from renderer.text import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser what the command takes."""
    arguments.add_manifests(parser)


def run(options: argparse.Namespace) -> int:
    """Bring the parts of each manifest together, write its page, and say what is still missing."""
    from renderer.report import page  # noqa: PLC0415
    from renderer.supervisor.merging import merge  # noqa: PLC0415

    loaded = load_named(options)
    missing = 0
    for manifest in loaded.manifests:
        found = merge(manifest, options.outputs, lambda text: print(streams.harmless(text), file=sys.stderr))
        left = len(found.plan.items) - found.plan.count("done")
        missing += left
        told = f"{manifest.name}: {counted(found.moved, 'picture')} came, {found.plan.count('done')} are there"
        print(streams.harmless(f"{told}, {left} missing"))
        for part in found.held:
            print(streams.harmless(f"  {part} is being rendered: merge again when it has ended"), file=sys.stderr)
        for key, failure in found.troubles:
            print(streams.harmless(f"  failed: {key}: {failure}"), file=sys.stderr)
        print(page.write(found.plan))
    return print_problems(loaded.problems) or (EXIT_FAILED if missing else 0)
