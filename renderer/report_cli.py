"""The door to what is read in the morning: `renderer report` and `renderer replay`.

Pages, Markdown and manifest entries out of what lies in the output folders. Whatever takes time to import is imported
by the command.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from renderer.errors import EXIT_DONE, EXIT_FAILED, UsageError
from renderer.job import Software
from renderer.manifest import Manifest

if TYPE_CHECKING:
    from renderer.replay import Entry

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

    replay = commands.add_parser("replay", help="turn pictures or sidecars, of any tool, into a manifest's entries")
    replay.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE", help="PNG, WebP, JPEG or a sidecar")
    replay.add_argument("--render", action="store_true", help="render them again, and say whether the bits match")
    replay.add_argument("--outputs", type=Path, default=Path("outputs"), metavar="DIR", help="default: outputs")
    replay.set_defaults(command=_replay)


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


def _replay(options: argparse.Namespace) -> int:
    from renderer import replay  # noqa: PLC0415

    entries = replay.write_entries(options.pictures)
    manifest = replay.as_manifest(entries)
    if options.render:
        return _render_again(entries, manifest, options.outputs)
    print("jobs:")
    for entry in entries:
        for note in entry.notes:
            print(f"# {note}")
        print(entry.text, end="")
    return EXIT_DONE


def _render_again(entries: Sequence[Entry], manifest: Manifest, outputs: Path) -> int:
    from renderer import console, replay, run  # noqa: PLC0415
    from renderer.artifacts import OutputFolder, read_sidecar  # noqa: PLC0415
    from renderer.settings import Settings, Stop  # noqa: PLC0415

    screen = console.open_console("auto")
    try:
        (summary,) = run.render([manifest], Settings(outputs=outputs, force=True), screen.watch, Stop())
    finally:
        screen.close()
    folder = OutputFolder(outputs / manifest.name)
    failed = {failure.id for failure in summary.failures}
    matching = 0
    for entry, picture in zip(entries, manifest.pictures, strict=True):
        if entry.id in failed or not folder.picture(picture.output).is_file():
            print(f"{entry.id}: not rendered")
            continue
        difference = replay.compare(entry, folder.picture(picture.output))
        matching += not difference
        print(f"{entry.id}: {difference or 'the same bits'}")
        now = read_sidecar(folder.sidecar(picture.output))
        if difference and entry.software and now and now.software != entry.software:
            print(f"  rendered then with {_versions(entry.software)}; now with {_versions(now.software)}")
    return EXIT_DONE if matching == len(entries) else EXIT_FAILED


def _versions(software: Software) -> str:
    told = (f"{name} {value}" for name, value in software if name != "python" and value)
    return ", ".join(told)
