"""The door to `renderer compare`: a manifest's pictures at several precisions, side by side, and how alike they are.

Arguments in, one call, words and an exit code out. Whatever takes time to import is imported by the command.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from renderer.cli import arguments, render
from renderer.cli.first_look import FirstLook
from renderer.cli.manifests import Loaded
from renderer.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, UsageError
from renderer.job import Precision

if TYPE_CHECKING:
    from renderer.manifest.manifest import Manifest

COMPARED_SUFFIX = "-compare"
"""What the folder is called behind the manifest's name."""

_DEFAULT = "bf16,fp8,int8,int4"
_LEAST = 2


@dataclass(frozen=True, slots=True)
class Likeness:
    """A picture at a precision beside the same at the first one. `psnr_db` None: every bit is the same.

    `lpips` None: nothing here tells it.
    """

    id: str
    precision: Precision
    psnr_db: float | None
    ssim: float
    lpips: float | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser what the command takes."""
    parser.add_argument("manifest", metavar="MANIFEST", help="a YAML file, or a table")
    parser.add_argument(
        "--precision",
        type=_precisions,
        default=_precisions(_DEFAULT),
        metavar="P,P",
        help=f"several, the first of which the others are held against (default: {_DEFAULT})",
    )
    arguments.add_outputs(parser)
    arguments.add_only(parser)
    parser.add_argument("--model", metavar="ID", help="render every job with this model")
    arguments.add_json(parser)
    render.add_night_options(parser)
    parser.set_defaults(force=False, strict=False)


def run(options: argparse.Namespace) -> int:
    """Render what is not there of all precisions, and print how alike they are."""
    from renderer.planning.plan import make_plan  # noqa: PLC0415

    manifests = _manifests(options)
    whole, precisions = _side_by_side(manifests), list(manifests)
    options.only = []
    (summary,) = render.render_loaded(options, Loaded((whole,)))
    plan = make_plan(whole, options.outputs)
    folder = plan.folder
    there = {item.picture.id: folder.picture(item.picture.output, "png") for item in plan.items if item.state == "done"}
    found, missing = _perceived(list(_likenesses(manifests, there)), precisions[0], there)
    if missing:
        print(f"note: without LPIPS: {missing}", file=sys.stderr)
    if options.json:
        told = {"against": precisions[0], "page": str(folder.page), "without_lpips": missing or None}
        print(json.dumps({**told, "pictures": [asdict(each) for each in found]}, indent=2))
    else:
        print("\n".join(_lines(found, precisions)))
        print(folder.page)
    if summary.ending in {"deadline", "signal"}:
        return EXIT_STOPPED
    wanted = len(whole.pictures) - len(whole.pictures) // len(precisions)
    return EXIT_DONE if len(found) == wanted else EXIT_FAILED


def _precisions(text: str) -> tuple[Precision, ...]:
    """Several of them, by commas, each once."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if unknown := [name for name in names if name not in get_args(Precision)]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(get_args(Precision))}")
    if len(names) < _LEAST:
        raise argparse.ArgumentTypeError(f"{text}: give two at the least, like bf16,int8")
    return cast("tuple[Precision, ...]", names)


def _manifests(options: argparse.Namespace) -> Mapping[Precision, Manifest]:
    """The manifest at each precision, of the pictures that were chosen. Raises as `load` does, and `UsageError`."""
    from renderer.manifest.manifest import Overrides, load  # noqa: PLC0415
    from renderer.planning.plan import make_plan  # noqa: PLC0415
    from renderer.planning.selection import Selection  # noqa: PLC0415

    with FirstLook(Path(options.manifest).stem, options) as heard:
        written = load(Path(options.manifest), Overrides(options.model, outputs=options.outputs), heard)
    Selection.of(options.only).check([written])
    ids = make_plan(written, options.outputs, only=options.only).ids if options.only else None
    found = {}
    for precision in options.precision:
        manifest = load(Path(options.manifest), Overrides(options.model, precision, outputs=options.outputs))
        if ids is not None:
            manifest = replace(manifest, pictures=tuple(each for each in manifest.pictures if each.id in ids))
        if not manifest.pictures:
            raise UsageError(f"{manifest.file} has no pictures to compare")
        found[precision] = manifest
    return found


def _side_by_side(manifests: Mapping[Precision, Manifest]) -> Manifest:
    """One manifest of all: each picture at each precision behind one another, without what a format would lose.

    None is begun again where its lettering is wrong: another seed's picture would be compared.
    """
    first = next(iter(manifests.values()))
    pictures = [
        picture.model_copy(
            update={
                "id": _named(picture.id, precision),
                "output": _named(picture.output, precision),
                "keep": picture.keep.model_copy(update={"format": "png"}),
                "lettering": picture.lettering and picture.lettering.model_copy(update={"seeds": ()}),
            }
        )
        for same in zip(*(manifest.pictures for manifest in manifests.values()), strict=True)
        for precision, picture in zip(manifests, same, strict=True)
    ]
    return replace(first, name=first.name + COMPARED_SUFFIX, pictures=tuple(pictures))


def _named(name: str, precision: Precision) -> str:
    return f"{name}-{precision}"


def _likenesses(manifests: Mapping[Precision, Manifest], there: Mapping[str, Path]) -> Iterator[Likeness]:
    """Each picture that is there at the first precision and at another."""
    import numpy as np  # noqa: PLC0415
    from PIL import Image  # noqa: PLC0415

    from renderer.report import likeness  # noqa: PLC0415

    def pixels(path: Path) -> Any:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))

    first, *others = manifests
    for picture in manifests[first].pictures:
        exact = there.get(_named(picture.id, first))
        for precision in others:
            found = there.get(_named(picture.id, precision))
            if exact is not None and found is not None:
                both = pixels(exact), pixels(found)
                yield Likeness(picture.id, precision, likeness.psnr_db(*both), round(likeness.ssim(*both), 5))


def _perceived(
    found: Sequence[Likeness], first: Precision, there: Mapping[str, Path]
) -> tuple[Sequence[Likeness], str]:
    """The same with LPIPS; or as they are, and why it is not told."""
    from renderer.report import perception  # noqa: PLC0415

    pairs = [(there[_named(each.id, first)], there[_named(each.id, each.precision)]) for each in found]
    told = perception.distances(pairs)
    if not told.values:
        return found, told.reason
    return [replace(each, lpips=round(value, 5)) for each, value in zip(found, told.values, strict=True)], ""


def _lines(found: Sequence[Likeness], precisions: Sequence[Precision]) -> Iterator[str]:
    """A table: of each precision the middle picture, and the one that is least alike."""
    first, *others = precisions
    head = f"against {first}"
    perceived = any(each.lpips is not None for each in found)
    more = f" {'LPIPS':>7} {'highest':>7}" if perceived else ""
    yield f"{head:14} {'pictures':>8} {'PSNR, dB':>9} {'lowest':>7} {'SSIM':>7} {'lowest':>7}{more}  least alike"
    for precision in others:
        own = [each for each in found if each.precision == precision]
        if not own:
            yield f"{precision:14} {0:8}"
            continue
        ratios = [float("inf") if each.psnr_db is None else each.psnr_db for each in own]
        least = min(own, key=lambda each: each.ssim)
        figures = f"{statistics.median(ratios):9.1f} {min(ratios):7.1f}"
        figures += f" {statistics.median(each.ssim for each in own):7.4f} {least.ssim:7.4f}"
        if perceived:
            apart = [each.lpips for each in own if each.lpips is not None]
            figures += f" {statistics.median(apart):7.4f} {max(apart):7.4f}"
        yield f"{precision:14} {len(own):8} {figures}  {least.id}"
