"""The door: arguments in, one call, words and an exit code out.

A command is a row of `COMMANDS` and a room of the same name in this wing: `add_arguments` gives a parser what the
command takes, `run` does it. The room is imported when its command is typed, and no other is. Exit codes stand in
`errors.py`.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol, cast

from renderer import __version__
from renderer.errors import EXIT_CRASHED, EXIT_INTERRUPTED, ManifestError, RendererError
from renderer.system import folders, streams, utf8

COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "validate": "say what is wrong with manifests",
        "plan": "what would be rendered, and what that will take",
        "estimate": "memory that a picture takes, stage by stage, and whether it fits",
        "status": "what is done; how a run stands, or ended",
        "render": "render what is not done",
        "add": "have a run that is on render further manifests",
        "pause": "have a run that is on begin nothing more, until resume",
        "resume": "have a paused run go on",
        "stop": "end a run that is on, as Ctrl-C does",
        "again": "render chosen pictures once more, with more steps, another size, more seeds",
        "export": "copy chosen pictures to a folder or a zip, with a table and a contact sheet",
        "schema": "print the JSON Schema of manifests, or of what a run writes",
        "prune": "list finished pictures that manifests name no more; --yes removes them",
        "serve": "answer requests for pictures over HTTP",
        "smoke": "ask a server for a picture or three, and say what came back",
        "merge": "bring together what machines have rendered of --shard's parts",
        "report": "write the page to look at: index.html",
        "compare": "render a manifest at several precisions, and say how alike the pictures are",
        "replay": "turn pictures or sidecars, of any tool, into a manifest's entries",
        "models": "list, pull, pack, verify and remove models",
        "bench": "measure this machine on full-size random weights",
        "doctor": "say what this machine is, what it can render, and how fast",
        "cluster": "examine the machines of a Ray cluster, and say what differs",
        "completion": "print the script with which a shell completes this command",
    }
)
"""Each command, and what `--help` says of it."""


class Room(Protocol):
    """What the module of a command has."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, options: argparse.Namespace) -> int: ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Whatever happens in it ends here, as a line for people."""
    if arguments is None:
        utf8.restart()
    streams.settle()
    try:
        folders.settle()
        options = parser().parse_args(arguments)
        code = _room(options.command).run(options)
    except ManifestError as error:
        from renderer.cli import problems  # noqa: PLC0415

        problems.print_problems(error.problems)
        code = error.exit_code
    except RendererError as error:
        from renderer.cli import problems  # noqa: PLC0415

        problems.print_error(error)
        code = error.exit_code
    except KeyboardInterrupt:
        streams.say("interrupted")
        code = EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001  # a fault of our own
        from renderer.system import crashes  # noqa: PLC0415

        crashes.tell(error)
        code = EXIT_CRASHED
    return streams.finish(code)


def parser(*, filled: bool = False) -> argparse.ArgumentParser:
    """The parser of the whole command line.

    A command's own arguments come to it when the command is typed; `filled` has them all at once.
    """
    whole = argparse.ArgumentParser(
        prog="renderer",
        description="Render YAML manifests of prompts into pictures with sidecars, in batches, unattended.",
        epilog="exit codes: 0 done; 1 some pictures failed; 2 manifest or arguments; 3 this machine cannot; "
        "4 stopped early, resumable; 70 a fault of the renderer's own; 75 locked by another run; 130 Ctrl-C",
    )
    whole.add_argument("--version", action="version", version=f"renderer {__version__}")
    commands = whole.add_subparsers(required=True, dest="command", metavar="COMMAND", parser_class=CommandParser)
    for name, told in COMMANDS.items():
        each = commands.add_parser(name, help=told)
        each.room = name
        if filled:
            each.fill()
    return whole


class CommandParser(argparse.ArgumentParser):
    """The parser of one command, which has its arguments from the room once it is asked to parse anything."""

    room = ""

    def fill(self) -> None:
        """Take the arguments from the room, once."""
        room, self.room = self.room, ""
        if room:
            _room(room).add_arguments(self)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.fill()
        return super().parse_known_args(args, namespace)


def _room(command: str) -> Room:
    return cast("Room", importlib.import_module(f"renderer.cli.{command}"))
