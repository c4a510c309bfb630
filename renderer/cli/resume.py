"""The door to `renderer resume`: have a paused night go on.

Arguments in, a line and an exit code out.
"""

from __future__ import annotations

import argparse

from renderer.cli import wishing
from renderer.outputs.nights import Wish


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser what the command takes."""
    wishing.add_night(parser)


def run(options: argparse.Namespace) -> int:
    """Ask it of the night, and say what it answers."""
    return wishing.ask(options, Wish(what="resume"))
