"""Pictures that go in: read from somebody's file, known by their pixels, and kept once beside what was made of them.

What a file is called, how it is compressed and what it says of itself makes no other picture: an input is known by the
SHA-256 over its pixels, upright and in sRGB. Hostile files cost nothing: what a header tells is looked at first.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from renderer.errors import PictureError
from renderer.job import Input, InputFile
from renderer.outputs.folder import OutputFolder, Own
from renderer.system import files

if TYPE_CHECKING:  # a manifest without pictures does not need it
    from PIL import Image

Purpose = Literal["picture", "mask", "layers"]
"""What a picture goes in for: to be drawn over or edited, to say where, to be taken apart into layers."""

MOST_BYTES = 200 * 2**20
MOST_PIXELS = 100_000_000
"""A larger picture is no photo: 100 megapixels."""

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "HEIF", "TIFF", "BMP")
"""Those that Pillow opens here; AVIF and HEIF where it has been built with them, or a plugin is there."""

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".avif", ".heic", ".heif", ".tif", ".tiff", ".bmp"})

_MODES: dict[Purpose, str] = {"picture": "RGB", "mask": "L", "layers": "RGBA"}
_BEHIND = {"picture": "white", "mask": "black"}
"""What is behind what is transparent; what is taken apart stays so."""
_PLAIN_MODES = frozenset(
    {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "La", "RGBa", "CMYK", "YCbCr", "LAB", "HSV"}
)
_UNREAD: Mapping[bytes, str] = {
    rb"GIF8": "a GIF",
    rb"%PDF": "a PDF",
    rb"8BPS": "a file of Photoshop's",
    rb"\xff\x0a|\0\0\0\x0cJXL ": "a JPEG XL",
    rb"\s*<(\?xml|svg)": "an SVG, or another text",
    rb"....ftyp(heic|heix|heim|heis|hevc|mif1)": "a HEIC",
    rb"....ftyp": "a film",
    rb"Rar!|PK\x03\x04|\x1f\x8b": "an archive",
}
"""What people take for pictures and is not read, by how such files begin."""

_MOST_SCANS = 100
"""Of a JPEG: each is a pass over all pixels. Progressive ones have ten, and the thriftiest tools make some dozens."""

_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")
"""What begins a part of a JPEG: not a byte of a scan's data, nor where that is taken up again."""

_BEGIN, _END, _SCAN, _TEMPORARY = 0xD8, 0xD9, 0xDA, 0x01
_HASHED_PIXELS = 2**20
_DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True, slots=True)
class Decoded:
    """An input's pixels: `image` is RGB, grey for a mask, RGBA for layers; `known` is what a job has of it."""

    known: Input
    image: Image.Image


def read(path: Path, name: str) -> bytes:
    """A file's bytes. Raises `PictureError`, with `name`, for one that is not there, no file, or too large.

    Too large is also what there is no memory left for.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise PictureError(f"{name} is not a file")
            data = b"" if found.st_size > MOST_BYTES else stream.read(MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise PictureError(f"there is no file {name}") from error
    except IsADirectoryError as error:
        raise PictureError(
            f"{name} is a folder", hint="name a file in it; *.jpg stands for all of its photos"
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise PictureError(f"{name} cannot be read: {reason}") from error
    except MemoryError as error:
        raise PictureError(f"{name}: there is not memory enough to read it", hint="export it smaller") from error
    if max(found.st_size, len(data)) > MOST_BYTES:
        raise PictureError(f"{name} has more than {MOST_BYTES // 2**20} MiB", hint="export it smaller")
    return data


def decode(data: bytes, name: str, purpose: Purpose = "picture") -> Decoded:
    """A picture's pixels, upright, in sRGB, on white where it is transparent; a mask's in grey, on black.

    Of one that is taken apart, transparency is kept.

    Raises `PictureError`, with `name`, for what is no picture, is cut off, moves, or has too many pixels.
    """
    from PIL import Image  # noqa: PLC0415  # a manifest without pictures does not need it

    if not data:
        raise PictureError(f"{name} is empty", hint="copy it once more, or export it again")
    try:
        opened = _opened(data, name)
        with _ROOM.taken(opened.width * opened.height):
            plain = _plain(_loaded(opened, data, name), purpose)
            return Decoded(_known(plain), plain)
    except PictureError:
        raise
    except MemoryError as error:
        raise PictureError(f"{name}: there is not memory enough to open it", hint="make it smaller") from error
    except Image.DecompressionBombError as error:  # Pillow's own limit is looked at before ours can be
        raise _too_large(name) from error
    except Exception as error:  # Pillow's decoders raise whatever they like for what is damaged
        if "truncated" in str(error).lower():
            raise PictureError(f"{name}: it is cut off", hint="copy it once more, or export it again") from error
        kind, hint = _told_by_its_beginning(data)
        raise PictureError(f"{name}: it is {kind}", hint=hint) from error


def identify(path: Path, name: str, purpose: Purpose = "picture") -> tuple[Input, InputFile]:
    """What a job has of a file that messages call `name`, and where it is. Raises `PictureError`."""
    data = read(path, name)
    known = decode(data, name, purpose).known
    return known, InputFile(sha256=known.sha256, path=str(path), file_sha256=hashlib.sha256(data).hexdigest())


def is_all(mask: Input, value: int) -> bool:
    """Whether a mask has no other value than this, 0 for black, 255 for white: by what it is known by."""
    return mask.sha256 == _hash_of_all(mask.width, mask.height, value)


@lru_cache(maxsize=64)
def _hash_of_all(width: int, height: int, value: int) -> str:
    found = _hash("L", width, height)
    for _ in range(height):
        found.update(bytes([value]) * width)
    return found.hexdigest()


# ---- kept beside the pictures ----------------------------------------------------------------------------------------


def kept_name(source: InputFile) -> str:
    """Where an input is kept, from the output folder: by its pixels, with its file's ending."""
    suffix = Path(source.path).suffix.lower()
    return f"{Own.INPUTS}/{source.sha256}{suffix if suffix in _SUFFIXES else ''}"


def keep(folder: OutputFolder, source: InputFile) -> bytes:
    """An input's bytes; they lie in the folder from now on, once for all pictures that are made of it.

    What another file of the same pixels left there will do where this one is gone, and so will the copy of another
    folder: a worker looks at the pixels.

    Raises `PictureError` where the file is another by now, `DiskError` where it cannot be kept.
    """
    place, kept = folder.path / kept_name(source), b""
    try:
        kept = place.read_bytes()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise files.disk_error(place, error, doing="read") from error
    else:
        if hashlib.sha256(kept).hexdigest() == source.file_sha256:
            return kept
    if kept and not os.path.exists(source.path):  # noqa: PTH110  # it never raises
        return kept
    if source.kept and os.path.exists(source.kept) and not os.path.exists(source.path):  # noqa: PTH110  # as above
        data = read(Path(source.kept), source.path)
        folder.write(place, data)
        return data
    data = read(Path(source.path), source.path)
    if hashlib.sha256(data).hexdigest() != source.file_sha256:
        hint = "render the manifest again: it is then another picture"
        raise PictureError(f"{source.path} has changed since the pictures were planned", hint=hint)
    folder.write(place, data)
    return data


# ---- pixels ----------------------------------------------------------------------------------------------------------


class _Room:
    """So many pixels are decoded at once, on all threads; of a picture that has more by itself, that one alone."""

    def __init__(self, pixels: int) -> None:
        self._all = self._left = pixels
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        pixels = min(pixels, self._all)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= pixels)
            self._left -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._left += pixels
                self._changed.notify_all()


_ROOM = _Room(2 * MOST_PIXELS)
"""Two of the largest pictures, or eight photos of 24 megapixels: 9 bytes a pixel, so 1.8 GB."""


def _opened(data: bytes, name: str) -> Image.Image:
    """A file of which the header has been read, and has nothing in it that is refused."""
    from PIL import Image  # noqa: PLC0415  # as above

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow's own limit: ours is looked at next
        opened = Image.open(io.BytesIO(data), formats=[each for each in FORMATS if _is_able(each)])
    _refuse(opened, name)
    return opened


def _loaded(opened: Image.Image, data: bytes, name: str) -> Image.Image:
    """What it shows, upright; as it was read it is not held any longer."""
    with contextlib.closing(opened):
        if opened.format in {"JPEG", "MPO"} and _scans(data) > _MOST_SCANS:
            hint = "export it again: it would take minutes to open"
            raise PictureError(f"{name} has more than {_MOST_SCANS} scans", hint=hint)
        opened.load()
        return _upright(opened)


def _is_able(kind: str) -> bool:
    from PIL import Image  # noqa: PLC0415  # as above

    Image.init()
    if kind == "HEIF" and kind not in Image.OPEN:
        with contextlib.suppress(ImportError):  # Pillow looks for no plugins but its own
            importlib.import_module("pillow_heif.HeifImagePlugin")
    return kind in Image.OPEN


def _told_by_its_beginning(data: bytes) -> tuple[str, str]:
    """What a file is that cannot be opened, and what helps."""
    kind = next((what for begins, what in _UNREAD.items() if re.match(begins, data, re.DOTALL)), "")
    if kind == "a HEIC" and not _is_able("HEIF"):
        return "a HEIC, which nothing here can read", "install pillow-heif, or export it as JPEG"
    hint = "PNG, JPEG, WebP, TIFF and BMP are read, and AVIF and HEIC where Pillow can"
    return f"{kind}, which is not read" if kind else "no picture that can be read here", hint


def _refuse(opened: Image.Image, name: str) -> None:
    width, height = opened.size
    if width * height > MOST_PIXELS:
        raise _too_large(name)
    if _is_several(opened):
        raise PictureError(f"{name} has several frames or pages", hint="export the one that is meant")
    if opened.mode not in _PLAIN_MODES and opened.mode not in _DEEP_MODES:
        raise PictureError(f"{name} has pixels of the kind {opened.mode}", hint="export it with 8 bits a channel")


def _is_several(opened: Image.Image) -> bool:
    """Whether it has frames or pages; a phone's second picture is a thumbnail.

    A TIFF's are not counted: each is looked at then, and all before it, which takes minutes where they are thousands.
    """
    if opened.format == "TIFF":
        return bool(getattr(opened, "is_animated", False))
    return getattr(opened, "n_frames", 1) > 1 and opened.format != "MPO"


def _too_large(name: str) -> PictureError:
    message = f"{name} has more than {MOST_PIXELS // 10**6} million pixels"
    return PictureError(message, hint="make it smaller: it is scaled to the picture's size anyway")


def _scans(data: bytes) -> int:
    """How many passes over its pixels a JPEG has, if not many more than are taken."""
    count, place = 0, 0
    while count <= _MOST_SCANS and (found := _MARKER.search(data, place)) is not None:
        kind, place = found[1][0], found.end()
        if kind == _END:
            break
        if kind not in (_BEGIN, _TEMPORARY):  # these have no length behind them
            count += kind == _SCAN
            place += int.from_bytes(data[place : place + 2])
    return count


def _upright(opened: Image.Image) -> Image.Image:
    """A picture as it is to be looked at; labels that make no sense are as if there were none."""
    from PIL import ImageOps  # noqa: PLC0415  # as above

    try:
        return ImageOps.exif_transpose(opened)
    except Exception:  # noqa: BLE001  # Pillow's readers of labels raise what they like
        return opened.copy()


def _plain(image: Image.Image, purpose: Purpose) -> Image.Image:
    from PIL import Image  # noqa: PLC0415  # as above

    if image.mode in _DEEP_MODES:  # 16 bits: the upper eight
        image = image.point(lambda value: value / 256).convert("L")
    image = _in_srgb(image)
    if image.mode in {"LA", "PA", "RGBA", "La", "RGBa"} or "transparency" in image.info:
        image = image.convert("RGBA")
        if purpose in _BEHIND:
            image = Image.alpha_composite(Image.new("RGBA", image.size, _BEHIND[purpose]), image)
    return image.convert(_MODES[purpose])


def _in_srgb(image: Image.Image) -> Image.Image:
    """Colours by the picture's own profile, as sRGB; a profile that makes no sense is as if there were none."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in {"RGB", "RGBA", "CMYK", "L"}:
        return image
    from PIL import ImageCms  # noqa: PLC0415  # as above

    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    try:
        known = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        colours = image.convert("RGB") if alpha else image
        found = ImageCms.profileToProfile(colours, known, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    if found is None:
        return image
    if alpha:
        found.putalpha(alpha)
    return found


def _hash(mode: str, width: int, height: int) -> hashlib._Hash:
    return hashlib.sha256(f"{mode} {width}x{height}\n".encode())


def _known(image: Image.Image) -> Input:
    """What a job has of it; it is hashed some rows at a time, for its bytes would take as much as it does, twice."""
    width, height = image.size
    hashed = _hash(image.mode, width, height)
    rows = max(1, _HASHED_PIXELS // width)
    for top in range(0, height, rows):
        hashed.update(image.crop((0, top, width, min(top + rows, height))).tobytes())
    return Input(sha256=hashed.hexdigest(), width=width, height=height)
