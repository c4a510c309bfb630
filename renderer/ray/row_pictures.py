"""Pictures that stand in the cells of a data set, as files: a job names those that go in by their paths.

A cell may have a file's bytes, as Parquet and Hugging Face's data sets do, or pixels, as `ray.data.read_images` gives
them. What a picture is called says nothing: fingerprints go by pixels.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from renderer.errors import UsageError

_SEVERAL = "images"
_FIELDS = frozenset({"image", _SEVERAL, "mask", "context_image"})
_CHANNELS = ((), (1,), (3,), (4,))


def kept(field: str, value: Any, folder: Path) -> Any:
    """A cell of a field, with a file of `folder` in the place of each picture. Raises `UsageError` for other pixels."""
    if field not in _FIELDS:
        return value
    if field == _SEVERAL and isinstance(value, list | np.ndarray):
        return [_kept(f"{field}[{place}]", each, folder) for place, each in enumerate(value)]
    return _kept(field, value, folder)


def _kept(place: str, value: Any, folder: Path) -> Any:
    if isinstance(value, Mapping) and "bytes" in value:
        value = value["bytes"] or value.get("path")
    if isinstance(value, np.ndarray):
        value = _file_of(place, value)
    if not isinstance(value, bytes):
        return value
    path = folder / hashlib.sha256(value).hexdigest()
    if not path.exists():
        path.write_bytes(value)
    return str(path)


def _file_of(place: str, pixels: np.ndarray) -> bytes:
    shape = pixels.shape
    if pixels.dtype != np.uint8 or not shape[1:] or shape[2:] not in _CHANNELS:
        told = f"{place}: a tensor of {' x '.join(map(str, shape))} {pixels.dtype} is no picture"
        raise UsageError(told, hint="rows x columns x 1, 3 or 4 channels of uint8 are")
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if shape[2:] == (1,) else pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()
