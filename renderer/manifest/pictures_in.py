"""What a job's `image` and `mask` mean: files found and looked at, each a picture, and what it is drawn over.

A path is from the manifest's folder; a pattern stands for every file that it fits, in the order of their names, and
`{stem}` for a file's name without its ending. Each file is read once a manifest. Knows nothing of YAML and lines.
"""

from __future__ import annotations

import glob
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from renderer.catalog import SIZE_STEP, Model
from renderer.errors import PictureError, shorten
from renderer.job import Input, InputFile, Size
from renderer.manifest.reading import STEM, Combination, Reading

MOST_FILES = 100_000
"""Files that one pattern may stand for."""

STRENGTH = 0.6
"""How much of a picture is noise at first, where a job does not say and nothing of it is masked."""

_SAME_RATIO = 0.02
_HINT = "paths are from the manifest's folder"


@dataclass(frozen=True, slots=True)
class InputSet:
    """What goes into a picture: the fields of its job, and where the files are."""

    image: Input | None = None
    mask: Input | None = None
    files: tuple[InputFile, ...] = ()

    def settings(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """What a job has of it."""
        usual = STRENGTH if self.image and not self.mask else 1.0
        return {
            "input_image": self.image,
            "denoising_strength": fields.get("strength", usual),
            "inpaint_mask": self.mask,
            "inpaint_blur_size": fields.get("mask_blur") or None,
        }


NOTHING_IN = InputSet()


class InputFinder:
    """Finds what goes in, each file once. `folder` is where their paths are from."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._found: dict[tuple[str, str], tuple[Input, InputFile] | PictureError] = {}

    def sets(self, reading: Reading, combinations: Sequence[Combination]) -> list[tuple[Combination, InputSet]]:
        """Each combination with what goes in: several times, where a pattern fits several files.

        What is wrong with them is complained of in `reading`.
        """
        fields = reading.fields
        if "image" not in fields:
            for field in ("mask", "strength", "mask_blur"):
                if field in fields:
                    reading.complain(field, "needs an image", "image: photo.jpg is what it is about", at_key=True)
            return [(combination, NOTHING_IN) for combination in combinations]
        if "mask_blur" in fields and "mask" not in fields:
            reading.complain("mask_blur", "needs a mask", at_key=True)
        image = reading.template("image", fields["image"])
        mask = reading.template("mask", fields["mask"]) if "mask" in fields else None
        found: list[tuple[Combination, InputSet]] = []
        for combination in combinations if not reading.complaints else ():
            for path in self._files(reading, image.fill(combination)):
                named = {**combination, STEM: Path(path).stem}
                found.append((named, self._set(reading, path, mask.fill(named) if mask else None)))
        return found

    def _files(self, reading: Reading, written: str) -> Sequence[str]:
        """The files that a path or a pattern stands for, from the manifest's folder."""
        if not glob.has_magic(written) or (self._folder / written).is_file():
            return [written]
        found = sorted(glob.iglob(written, root_dir=self._folder, recursive=True))  # noqa: PTH207  # with the rules of shells
        files = [each for each in found if (self._folder / each).is_file()]
        if not files:
            reading.complain("image", f"{shorten(written)} fits no file", _HINT)
        if len(files) > MOST_FILES:
            reading.complain("image", f"{shorten(written)} fits {len(files):,} files", f"at most {MOST_FILES:,}")
            return []
        return files

    def _set(self, reading: Reading, path: str, mask_path: str | None) -> InputSet:
        image = self._find(reading, "image", path)
        mask = self._find(reading, "mask", mask_path) if mask_path is not None else None
        if image is None or (mask_path is not None and mask is None):
            return NOTHING_IN
        if mask is None:
            return InputSet(image[0], None, (image[1],))
        if abs(math.log(_ratio(image[0]) / _ratio(mask[0]))) > _SAME_RATIO:
            sizes = f"{mask[0].width}x{mask[0].height}, and the image {image[0].width}x{image[0].height}"
            reading.complain("mask", f"{shorten(str(mask_path))} is {sizes}", "a mask has the image's shape")
        return InputSet(image[0], mask[0], (image[1], mask[1]))

    def _find(self, reading: Reading, field: Literal["image", "mask"], path: str) -> tuple[Input, InputFile] | None:
        if (path, field) not in self._found:
            from renderer.outputs import input_files  # noqa: PLC0415  # most manifests have none

            try:
                purpose: input_files.Purpose = "mask" if field == "mask" else "picture"
                self._found[path, field] = input_files.identify(self._folder / path, shorten(path), purpose)
            except PictureError as error:
                self._found[path, field] = error
                reading.complain(field, error.message, error.hint or _HINT)
        found = self._found[path, field]
        return None if isinstance(found, PictureError) else found


def size_of(image: Input | None, model: Model) -> Size:
    """The size of a picture that is drawn over another: of its shape, and as large as the model's usual square."""
    usual = next(iter(model.ratios.values()))
    if image is None:
        return usual
    area, ratio = usual.width * usual.height, _ratio(image)
    sides = (math.sqrt(area * ratio), math.sqrt(area / ratio))
    width, height = (min(max(round(side / SIZE_STEP) * SIZE_STEP, model.min_side), model.max_side) for side in sides)
    return Size(width=width, height=height)


def _ratio(image: Input) -> float:
    return image.width / image.height
