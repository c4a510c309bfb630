"""What a job's `image`, `images` and `mask` mean: files looked at, each a picture, and what is made of it.

Each file is read once a manifest. Knows nothing of YAML and lines.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from renderer.catalog import MODELS, SIZE_STEP, Editing, Layering, Model
from renderer.errors import PictureError
from renderer.job import Edit, Input, InputFile, Region, Size
from renderer.manifest.complaints import Complaint
from renderer.manifest.document import Route
from renderer.manifest.input_paths import (
    GoesInFor,
    InputPaths,
    PathPlace,
    WrittenPath,
    hint_of,
    named_with_others,
    regions_of,
    written_paths,
)
from renderer.manifest.looked_at import Found, HeardLooks, LookedAt, WantedFile
from renderer.manifest.reading import Combination, Reading

if TYPE_CHECKING:
    from renderer.outputs.taken_in import InputRecord

STRENGTH = 0.6
"""How much of a picture is noise at first, where a job does not say and nothing of it is masked."""

_SAME_RATIO = 0.02

_MOST_DRAWN_OUT = 100
"""How many times as long as wide a picture to edit is at most: the vision tower takes up to 200, after rounding."""


@dataclass(frozen=True, slots=True)
class InputSet:
    """What goes into a picture: the fields of its job, and where the files are.

    `controls` are what its ControlNets look at, in their order: a picture and a mask; `regions` have their masks.
    """

    image: Input | None = None
    mask: Input | None = None
    files: tuple[InputFile, ...] = ()
    edit: Edit | None = None
    taken_apart: Input | None = None
    layering: Layering | None = None
    controls: tuple[tuple[Input, Input | None], ...] = ()
    regions: tuple[Region, ...] = ()
    context: Input | None = None

    def settings(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """What a job has of it."""
        usual = STRENGTH if self.image and not self.mask else 1.0
        return {
            "input_image": self.image,
            "denoising_strength": fields.get("strength", usual),
            "inpaint_mask": self.mask,
            "inpaint_blur_size": fields.get("mask_blur") or None,
            "edit": self.edit,
            "regions": self.regions,
            "context_image": self.context,
            "layer_input_image": self.taken_apart,
            "layer_num": self._layer_num(fields),
        }

    def _layer_num(self, fields: Mapping[str, Any]) -> int | None:
        """DiffSynth's: layers beside the whole, and none beside one that is taken out alone."""
        if self.layering is None:
            return None
        return 0 if self.layering.alone else fields.get("layers", self.layering.usual)


NOTHING_IN = InputSet()


class InputFinder:
    """Finds what goes in, each file once. Of a server's files nothing is remembered, and nobody is told where they lie.

    `folder` is the manifest's; `record` knows what has gone of what its paths stood for when it was rendered last;
    `heard` hears how many have been looked at.
    """

    def __init__(self, folder: Path, record: InputRecord | None, heard: HeardLooks, *, of_server: bool) -> None:
        self.looked_at = LookedAt(record, heard, remembers=not of_server)
        self._gone: dict[str, tuple[Route, InputFile]] = {}
        self.paths = InputPaths(folder, record, of_server=of_server)
        self._of_server = of_server
        self._said: set[tuple[Path, GoesInFor]] = set()

    def sets(
        self, reading: Reading, combinations: Sequence[Combination], model: Model | None
    ) -> list[tuple[Combination, InputSet]]:
        """Each combination with what goes in: several times, where a pattern fits several files.

        What is wrong with them is complained of in `reading`.
        """
        written = self._written(reading, model)
        if not written:
            return [(combination, NOTHING_IN) for combination in combinations]
        prompts = [
            reading.template("regions", each["prompt"], n, "prompt") for n, each in enumerate(regions_of(reading))
        ]
        if reading.complaints or model is None:
            return []
        return [
            (each.named, self._set(reading, model, written, each.paths, [one.fill(each.named) for one in prompts]))
            for each in self.paths.chosen(reading, combinations, written)
        ]

    def wanted(self, reading: Reading, combinations: Sequence[Combination], model: Model) -> list[list[WantedFile]]:
        """The files that a job names, for each of its combinations: what `sets` looks at, before it does."""
        written = self._written(reading, model)
        if not written or reading.complaints:
            return []
        chosen = self.paths.chosen(reading, combinations, written)
        return [[self.paths.where(one, each.paths[one.place]) for one in written] for each in chosen]

    def _written(self, reading: Reading, model: Model | None) -> list[WrittenPath]:
        """Every path that a job names, once what cannot go together has been complained of."""
        if model is not None:
            _refuse_kind(reading, model)
        _refuse_lonely(reading)
        written = list(written_paths(reading, model))
        for each in [each for each in written if self.paths.is_pattern(each, each.plain)][1:2]:
            each.complain(reading, "a second pattern", "one may be a pattern; {stem} is its file's name")
        return written

    def _set(
        self,
        reading: Reading,
        model: Model,
        written: Sequence[WrittenPath],
        paths: Mapping[PathPlace, str],
        asked: Sequence[str],
    ) -> InputSet:
        wanted = {each.place: self.paths.where(each, paths[each.place]) for each in written}
        looked = {each.place: self._find(reading, each, wanted[each.place], paths[each.place]) for each in written}
        found = {place: each for place, each in looked.items() if each is not None}
        if len(found) < len(looked):
            return NOTHING_IN
        images = [each for place, each in found.items() if place[0] in {"image", "images"}]
        own, mask = NOTHING_IN, found.get(("mask",))
        if images:
            _refuse_mask(reading, ("mask",), wanted, images[0], mask)
            own = _of_files(model, images, mask)
        controls: list[tuple[Input, Input | None]] = []
        for number in range(len(reading.fields.get("controlnets", ()))):
            image, gap = found["controlnets", number, "image"], found.get(("controlnets", number, "mask"))
            _refuse_mask(reading, ("controlnets", number, "mask"), wanted, image, gap)
            controls.append((image[0], gap[0] if gap else None))
        regions = [Region(prompt=text, mask=found["regions", n, "mask"][0]) for n, text in enumerate(asked)]
        context = found.get(("context_image",))
        files = [file for place, (_, file) in found.items() if place[0] not in {"image", "images", "mask"}]
        return replace(
            own,
            files=(*own.files, *files),
            controls=tuple(controls),
            regions=tuple(regions),
            context=context[0] if context else None,
        )

    def doubts(self) -> Iterator[Complaint]:
        """What was hardly meant of files, all in all: what has gone, and what a pattern leaves out."""
        yield from self.paths.doubts
        there = {path: os.path.exists(file.kept) for path, (_, file) in self._gone.items()}  # noqa: PTH110
        for is_kept, hint in ((True, ""), (False, "what is not rendered yet cannot be before it is back")):
            if paths := [path for path in self._gone if there[path] is is_kept]:
                route, file = self._gone[paths[0]]
                are, they = ("is", "it") if len(paths) == 1 else ("are", "they")
                what = f"{they} {are} taken from {Path(file.kept).parent}" if is_kept else "no copy is kept"
                yield Complaint(route, f"{named_with_others(paths)} {are} gone: {what}", hint)

    def _find(self, reading: Reading, written: WrittenPath, wanted: WantedFile, path: str) -> Found | None:
        found = self.looked_at.look(wanted)
        if written.purpose == "edited" and not isinstance(found, PictureError):
            found = _drawn_out(wanted.called, found[0]) or found
        if not isinstance(found, PictureError):
            if found[1].kept:
                self._gone.setdefault(wanted.at, (written.route(reading), found[1]))
            return found
        if (key := (wanted.path, written.purpose)) not in self._said:  # once a manifest
            self._said.add(key)
            hint = "" if self._of_server or os.path.lexists(wanted.path) else hint_of(written, path)
            written.complain(reading, found.message, found.hint or hint)
        return None


def _refuse_mask(
    reading: Reading, place: PathPlace, wanted: Mapping[PathPlace, WantedFile], image: Found, mask: Found | None
) -> None:
    """Complain of a mask of another shape than its image."""
    if mask is None or is_of_shape(mask[0], image[0]):
        return
    sizes = f"{mask[0].width}x{mask[0].height}, and the image {image[0].width}x{image[0].height}"
    field, *rest = place
    reading.complain(str(field), f"{wanted[place].called} is {sizes}", "a mask has the image's shape", *rest)


def _of_files(model: Model, found: Sequence[Found], mask: Found | None) -> InputSet:
    """What a model makes of pictures. One that edits draws within a mask over the first of those that it looks at."""
    editing = model.editing
    if model.layering is not None:
        (taken,) = found
        return InputSet(files=(taken[1],), taken_apart=taken[0], layering=model.layering)
    if editing is None:
        (image,) = found
        files = (image[1], mask[1]) if mask else (image[1],)
        return InputSet(image[0], mask[0] if mask else None, files)
    edit = edit_of([known for known, _ in found], editing)
    if mask is None:
        return InputSet(files=tuple(file for _, file in found), edit=edit)
    others = (file for _, file in found[1:])
    return InputSet(found[0][0], mask[0], (found[0][1], mask[1], *others), edit)


def stand_in(model: Model) -> InputSet:
    """What goes into a usual picture of a model that edits or takes apart; nothing into any other's."""
    usual = next(iter(model.ratios.values()))
    image = Input(sha256="0" * 64, width=usual.width, height=usual.height)
    file = InputFile(sha256=image.sha256, path="", file_sha256=image.sha256)
    return _of_files(model, [(image, file)], None) if model.editing or model.layering else NOTHING_IN


def edit_of(images: Iterable[Input], editing: Editing) -> Edit:
    """Pictures as a model takes them to edit."""
    return Edit(
        images=tuple(images),
        pixels=editing.pixels,
        numbered=editing.numbered,
        zero_cond_t=editing.zero_cond_t,
    )


def _drawn_out(called: str, known: Input) -> PictureError | None:
    """What is wrong with a picture to edit that the vision tower cannot be shown."""
    if max(ratio_of(known), 1 / ratio_of(known)) <= _MOST_DRAWN_OUT:
        return None
    hint = f"one side of a picture to edit is at most {_MOST_DRAWN_OUT} times the other"
    return PictureError(f"{called} is {known.width}x{known.height}", hint=hint)


# ---- what goes with what ---------------------------------------------------------------------------------------------


def _refuse_kind(reading: Reading, model: Model) -> None:
    """Complain of pictures to edit or take apart that are not there, or are given a model which does neither."""
    fields, editing = reading.fields, model.editing
    if "layers" in fields and model.layering is None:
        able = ", ".join(each.id for each in MODELS.values() if each.layering)
        reading.complain("layers", f"{model.id} takes no pictures apart", f"this does: {able}", at_key=True)
    for field, what in (("regions", "regions"), ("context_image", "picture beside one")):
        if field in fields and (editing is not None or model.layering is not None):
            reading.complain(field, f"{model.id} draws from no text alone, and has no {what}", at_key=True)
    if model.layering is not None:
        _refuse_layers(reading, model, model.layering)
    elif editing is None:
        if "images" in fields:
            able = ", ".join(each.id for each in MODELS.values() if each.editing)
            hint = f"these do: {able}; or write image: photo.jpg, to have it drawn over"
            reading.complain("images", f"{model.id} edits no pictures", hint, at_key=True)
    elif "images" not in fields:
        if "image" in fields:
            hint = "write images: [photo.jpg]"
            if model.files and model.id not in MODELS:
                hint += "; if it draws over pictures, whatever its name says, give it kind: picture"
            reading.complain("image", f"{model.id} edits pictures, and draws over none", hint, at_key=True)
    elif len(fields["images"]) > editing.most_images:
        most = editing.most_images
        said = f"{model.id} edits {'one picture' if most == 1 else f'up to {most} pictures'}"
        reading.complain("images", f"{said}, and here are {len(fields['images'])}", "", most)


def _refuse_layers(reading: Reading, model: Model, layering: Layering) -> None:
    """Complain of what a model that takes pictures apart cannot do with them."""
    fields = reading.fields
    others = (("mask", ""), ("strength", ""), ("mask_blur", ""), ("controlnets", ""))
    for field, instead in (("image", "images: [photo.png]"), *others):
        if field in fields:
            hint = f"write {instead}" if instead else "leave it out"
            reading.complain(field, f"{model.id} takes pictures apart, and draws over none", hint, at_key=True)
    if not fields.keys() & {"image", "images"}:
        reading.complain("model", f"{model.id} takes a picture apart, and the job names none", "images: [photo.png]")
    elif len(fields.get("images", ())) > 1:
        reading.complain("images", f"{model.id} takes one picture apart, and here are {len(fields['images'])}", "", 1)
    wanted = fields.get("layers", layering.usual)
    if wanted > layering.most:
        what = "takes one layer out, which the prompt tells of" if layering.alone else f"makes {layering.most} at most"
        reading.complain("layers", f"{model.id} {what}", "leave it out" if layering.alone else "")


def _refuse_lonely(reading: Reading) -> None:
    """Complain of fields that do nothing without another, or beside one."""
    fields = reading.fields
    if "image" in fields and "images" in fields:
        reading.complain("image", "cannot stand beside images", "the first of images is what a mask is of", at_key=True)
    if "image" not in fields and "images" not in fields:
        for field in ("mask", "strength", "mask_blur"):
            if field in fields:
                reading.complain(field, "needs an image", "image: photo.jpg is what it is about", at_key=True)
        return
    if "images" in fields and "strength" in fields and "mask" not in fields and "layers" not in fields:
        reading.complain("strength", "does nothing without a mask, where pictures are edited", at_key=True)
    if "mask_blur" in fields and "mask" not in fields:
        reading.complain("mask_blur", "needs a mask", at_key=True)


# ---- sizes -----------------------------------------------------------------------------------------------------------


def size_of(inputs: InputSet, model: Model) -> Size:
    """The size of a picture of another's shape: as large as the model's usual square, or as what it edits goes in."""
    usual = next(iter(model.ratios.values()))
    looked_at = (image for image, _ in inputs.controls)
    if inputs.edit is not None:
        wanted = inputs.edit.size_of(inputs.edit.images[0])
        sides: tuple[float, float] = (wanted.width, wanted.height)
    elif image := inputs.image or inputs.taken_apart or inputs.context or next(looked_at, None):
        area, ratio = usual.width * usual.height, ratio_of(image)
        sides = (math.sqrt(area * ratio), math.sqrt(area / ratio))
    else:
        return usual
    width, height = (min(max(round(side / SIZE_STEP) * SIZE_STEP, model.min_side), model.max_side) for side in sides)
    return Size(width=width, height=height)


def ratio_of(image: Input | Size) -> float:
    """How many times as wide as high it is."""
    return image.width / image.height


def is_of_shape(image: Input, shape: Input | Size) -> bool:
    """Whether a picture has another's ratio, or a size's, but for what rounding to `SIZE_STEP` makes of it."""
    rounded = SIZE_STEP / 2 * (1 / shape.width + 1 / shape.height) if isinstance(shape, Size) else 0.0
    return abs(math.log(ratio_of(image) / ratio_of(shape))) <= max(_SAME_RATIO, rounded)
