"""The door to `renderer replay`: pictures and sidecars in, a manifest's entries out, or the same pictures once more.

Arguments in, one call, words and an exit code out. Whatever takes time to import is imported by the command.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from renderer.cli import arguments, render
from renderer.cli.first_look import FirstLook
from renderer.cli.manifests import Loaded
from renderer.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, RendererError, UsageError
from renderer.job import Software
from renderer.outputs.summary import Summary
from renderer.system.folders import expanded

if TYPE_CHECKING:
    from renderer.manifest.manifest import Manifest
    from renderer.manifest.replay import PassedOver, ReplayEntry
    from renderer.manifest.replay_tables import TableKind
    from renderer.outputs.folder import OutputFolder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser what the command takes."""
    parser.add_argument("pictures", nargs="+", type=expanded, metavar="PICTURE", help="PNG, WebP, JPEG or a sidecar")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--table", choices=("csv", "jsonl"), help="print a table, which render takes, and no manifest")
    way.add_argument(
        "--render",
        action="store_true",
        help="render them again, and say whether the bits match; the options below are for that",
    )
    arguments.add_outputs(parser)
    render.add_night_options(parser)
    parser.set_defaults(only=[], force=True, strict=False)


def run(options: argparse.Namespace) -> int:
    """Print the entries of pictures and sidecars, or render them again."""
    from renderer.manifest import replay  # noqa: PLC0415

    found: list[ReplayEntry | PassedOver] = []
    with FirstLook("replay", options, "reading how pictures were made") as heard:
        for read in replay.collect(options.pictures):
            found.append(read)
            heard(len(found), len(options.pictures))
    entries = [each for each in found if isinstance(each, replay.ReplayEntry)]
    passed = [each for each in found if isinstance(each, replay.PassedOver)]
    if not entries and len(passed) == 1:
        raise UsageError(passed[0].message, hint=passed[0].hint)
    for each in passed:
        print(_passed_over(each), file=sys.stderr)
    if not entries:
        raise UsageError(f"none of the {len(options.pictures)} files tells how it was made")
    if options.render:
        code = _render_again(options, entries, replay.as_manifest(entries))
    elif options.table:
        _print_table(entries, options.table)
        code = EXIT_DONE
    else:
        _print_entries(entries)
        code = EXIT_DONE
    return code or (EXIT_FAILED if any(not each.ours for each in passed) else EXIT_DONE)


def _passed_over(each: PassedOver) -> str:
    return f"passed over: {each.message}" + (f" ({each.hint})" if each.hint else "")


def _print_entries(entries: Sequence[ReplayEntry]) -> None:
    """The entries as a manifest, each under what was left out of it."""
    print("jobs:")
    for entry in entries:
        for note in entry.notes:
            print(f"# {note}")
        print(entry.text, end="")


def _print_table(entries: Sequence[ReplayEntry], kind: TableKind) -> None:
    """The entries as a table, and what was left out where it is in nobody's way."""
    from renderer.manifest import replay_tables  # noqa: PLC0415

    for entry in entries:
        for note in filter(None, (*entry.notes, replay_tables.lost(entry, kind))):
            print(f"{entry.id}: {note}", file=sys.stderr)
    print(replay_tables.write(entries, kind), end="")


# ---- once more -------------------------------------------------------------------------------------------------------


def _render_again(options: argparse.Namespace, entries: Sequence[ReplayEntry], manifest: Manifest) -> int:
    """Render the entries, and say of each whether it has the bits that it had before."""
    from renderer.outputs.folder import OutputFolder  # noqa: PLC0415

    for entry in entries:
        for note in entry.notes:
            print(f"{entry.id}: {note}", file=sys.stderr)
    folder = OutputFolder(options.outputs / manifest.name)
    with _kept_as_they_were(entries, folder) as before:
        (summary,) = render.render_loaded(options, Loaded((manifest,)))
        matching = sum([_say_how_alike(entry, folder, summary) for entry in before])
    if summary.ending in {"deadline", "signal"}:
        return EXIT_STOPPED
    return EXIT_DONE if matching == len(entries) else EXIT_FAILED


@contextlib.contextmanager
def _kept_as_they_were(entries: Sequence[ReplayEntry], folder: OutputFolder) -> Iterator[list[ReplayEntry]]:
    """The entries, with a second name for each picture that lies where they are rendered: rendering takes its place.

    A new picture never writes into an old one's file, so that a second name keeps the old one's bytes.
    """
    inside = {entry.id for entry in entries if entry.picture.resolve().is_relative_to(folder.path.resolve())}
    with tempfile.TemporaryDirectory(prefix=".replay-", dir=folder.path.parent if inside else None) as kept:
        yield [
            replace(entry, picture=_second_name(entry.picture, Path(kept) / f"{number}{entry.picture.suffix}"))
            if entry.id in inside
            else entry
            for number, entry in enumerate(entries)
        ]


def _second_name(picture: Path, kept: Path) -> Path:
    with contextlib.suppress(FileNotFoundError):  # a sidecar may have lost its picture: then nothing is compared
        try:
            os.link(picture.resolve(), kept)
        except OSError:
            shutil.copyfile(picture, kept)
    return kept


def _say_how_alike(entry: ReplayEntry, folder: OutputFolder, summary: Summary) -> bool:
    """Print how a picture compares with what it was replayed from, and give whether every bit is the same."""
    from renderer.manifest import replay  # noqa: PLC0415
    from renderer.outputs.picture_files import read_sidecar  # noqa: PLC0415

    rendered = folder.picture(entry.made.output, entry.made.keep.format)
    if not rendered.is_file() or entry.id in {failure.id for failure in summary.failures}:
        print(f"{entry.id}: not rendered")
        return False
    try:
        difference = replay.compare(entry, rendered)
    except RendererError as error:
        print(f"{entry.id}: {error.message}")
        return False
    print(f"{entry.id}: {difference or 'the same bits'}")
    now = read_sidecar(folder.sidecar(entry.made.output))
    if difference and entry.software and now and now.software != entry.software:
        print(f"  rendered then with {_versions(entry.software)}; now with {_versions(now.software)}")
    return not difference


def _versions(software: Software) -> str:
    told = (f"{name} {value}" for name, value in software if name != "python" and value)
    return ", ".join(told)
