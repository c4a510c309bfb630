"""The door to `renderer prune`: what lies in the outputs and no manifest names any more, and away with it.

Arguments in, a list and an exit code out. Without `--yes` nothing is removed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from renderer.cli import arguments
from renderer.cli.manifests import load_named
from renderer.cli.problems import print_problems
from renderer.outputs.folder import OutputFolder
from renderer.text import gb

if TYPE_CHECKING:
    from renderer.planning.prune import Orphans


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser what the command takes."""
    arguments.add_manifests(parser)
    parser.add_argument("--yes", action="store_true", help="remove them")
    arguments.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """List what no manifest names, or remove it.

    A manifest with problems costs its own folder its pruning, and nothing else.
    """
    from renderer.planning import owner, prune  # noqa: PLC0415
    from renderer.planning.plan import make_plan  # noqa: PLC0415

    loaded = load_named(options)
    told = []
    for manifest in loaded.manifests:
        folder = OutputFolder(options.outputs / manifest.name)
        owner.check(folder, manifest)
        if options.yes and folder.path.is_dir():
            with folder.locked():
                orphans = prune.look(make_plan(manifest, options.outputs))
                prune.remove(orphans)
        else:
            orphans = prune.look(make_plan(manifest, options.outputs))
        if not options.json:
            print("\n".join(_lines(orphans, removed=options.yes)))
        told.append(_as_dict(orphans, removed=options.yes))
    if options.json:
        print(json.dumps(told, indent=2, ensure_ascii=False))
    return print_problems(loaded.problems)


def _lines(orphans: Orphans, *, removed: bool) -> Iterator[str]:
    for orphan in orphans.found:
        yield f"  {gb(orphan.bytes):>9}  {orphans.folder.picture(orphan.output, orphan.file_format)}"
    for path, size in orphans.inputs.items():
        yield f"  {gb(size):>9}  {path}"
    for output in orphans.changed:
        yield f"      stays  {orphans.folder.path / output}: its file was changed since it was rendered"
    count = len(orphans.found)
    pictures = "1 picture" if count == 1 else f"{count} pictures"
    done = "removed" if removed else "that the manifest does not name"
    inputs = f" and {len(orphans.inputs)} that went in" if orphans.inputs else ""
    hint = "; --yes removes them" if (orphans.found or orphans.inputs) and not removed else ""
    yield f"{orphans.folder.path}: {pictures}{inputs} {done}, {gb(orphans.bytes)}{hint}"


def _as_dict(orphans: Orphans, *, removed: bool) -> dict[str, object]:
    return {
        "folder": str(orphans.folder.path),
        "removed": removed,
        "bytes": orphans.bytes,
        "pictures": [
            {"file": str(orphans.folder.picture(each.output, each.file_format)), "bytes": each.bytes}
            for each in orphans.found
        ],
        "inputs": [{"file": str(path), "bytes": size} for path, size in orphans.inputs.items()],
        "changed": list(orphans.changed),
    }
