"""The door to what is known before anything is rendered: `renderer validate`, `plan` and `estimate`.

Words, tables of at most 80 columns and JSON for what `manifest`, `plan` and `estimate` say. Imports no torch.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence

from pydantic import TypeAdapter, ValidationError

from renderer.errors import EXIT_DONE
from renderer.fields import AmountOfBytes
from renderer.manifest import Manifest

Load = Callable[[argparse.Namespace], list[Manifest]]


def add_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], manifests: argparse.ArgumentParser, load: Load
) -> None:
    """Give the parser its commands. `load` reads the manifests that the options name."""
    validate = commands.add_parser("validate", parents=[manifests], help="say what is wrong with manifests")
    validate.set_defaults(command=lambda options: _validate(load(options)))

    plan = commands.add_parser("plan", parents=[manifests], help="list what would be rendered, and what is done")
    plan.add_argument("--only", action="append", default=[], metavar="ID", help="this picture or job; repeatable")
    plan.add_argument("--force", action="store_true", help="as if nothing were done")
    plan.add_argument("--json", action="store_true", help="for machines")
    plan.set_defaults(command=lambda options: show_plan(options, load(options)))


def _validate(manifests: Sequence[Manifest]) -> int:
    for manifest in manifests:
        print(f"{manifest.file}: {_count(len(manifest.pictures), 'picture')}, no problems")
    return EXIT_DONE


def show_plan(options: argparse.Namespace, manifests: Sequence[Manifest]) -> int:
    """Say what would become of each picture; nothing is rendered."""
    from renderer.plan import make_plan  # noqa: PLC0415

    plans = [make_plan(manifest, options.outputs, only=options.only, force=options.force) for manifest in manifests]
    if options.json:
        rows = [
            {
                "manifest": plan.manifest.file,
                "name": plan.manifest.name,
                "folder": str(plan.folder.path),
                "pictures": [
                    {
                        "id": item.picture.id,
                        "state": item.state,
                        "note": item.note,
                        "file": str(plan.folder.picture(item.picture.output, item.picture.keep.format)),
                        "fingerprint": item.fingerprint,
                        "line": item.picture.place.line,
                        "job": item.picture.job.model_dump(mode="json"),
                    }
                    for item in plan.items
                ],
            }
            for plan in plans
        ]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return EXIT_DONE
    for plan in plans:
        print(f"{plan.manifest.file} ▶ {plan.folder.path}")
        for item in plan.items:
            job = item.picture.job
            size = f"{job.width}x{job.height}"
            line = f"  {item.state:9} {size:>9} {job.num_inference_steps:>3} steps  {item.picture.id}"
            print(f"{line}  ({item.note})" if item.note else line)
        print(f"  {_count(len(plan.to_render()), 'picture')} to render, {plan.count('done')} done")
    return EXIT_DONE


def amount_of_bytes(text: str) -> int:
    """An argument like 10GiB."""
    try:
        return TypeAdapter(AmountOfBytes).validate_python(int(text) if text.isdecimal() else text)
    except ValidationError:
        raise argparse.ArgumentTypeError(f'{text!r} is not an amount of bytes like "10GiB"') from None


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
