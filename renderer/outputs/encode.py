"""Pixels ▶ a picture's file: PNG, WebP or JPEG, with what the file says of itself in the place its format has for it.

The same pixels and labels give the same bytes, always. Knows nothing of disks, jobs or what labels mean.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from renderer.job import Format

XMP_KEY = "XML:com.adobe.xmp"
EXIF_IFD, USER_COMMENT = 0x8769, 0x9286
_PNG_COMPRESSION = 4  # zlib level 4 is three times as fast as 6 on photographs, and 2 % larger
_WEBP_EFFORT = 2  # of 6; the higher ones take seconds a picture, and save 3 %
_JPEG_QUALITY = 95
_JPEG_SEGMENT_BYTES = 65_000  # JPEG keeps metadata in segments of at most 64 KiB


@dataclass(frozen=True, slots=True)
class Pixels:
    """A rendered picture: `height * width * 3` bytes of RGB, row by row."""

    width: int
    height: int
    rgb: bytes


@dataclass(frozen=True, slots=True)
class LayerPixels:
    """A layer of a picture, as large: `height * width * 4` bytes of RGBA, row by row."""

    width: int
    height: int
    rgba: bytes

    def image(self) -> Image.Image:
        """It as Pillow has it."""
        return Image.frombytes("RGBA", (self.width, self.height), self.rgba)


@dataclass(frozen=True, slots=True)
class Labels:
    """What a picture's file says of itself: text keys for PNG, a comment for EXIF, and an XMP packet; all may be empty.

    What they mean is `metadata`'s business; here they are put where each format has room for them.
    """

    texts: Mapping[str, str] = field(default_factory=dict)
    comment: str = ""
    xmp: str = ""


NO_LABELS = Labels()


def encode(pixels: Pixels, file_format: Format = "png", labels: Labels = NO_LABELS) -> bytes:
    """The picture as a file's bytes: the same for the same pixels and labels, always.

    PNG text that is not ASCII becomes iTXt, which is UTF-8. A label too long for JPEG's segments is left out.
    """
    image = Image.frombytes("RGB", (pixels.width, pixels.height), pixels.rgb)
    buffer = io.BytesIO()
    if file_format == "png":
        image.save(buffer, "PNG", compress_level=_PNG_COMPRESSION, pnginfo=_png_chunks(labels))
        return buffer.getvalue()
    limit = _JPEG_SEGMENT_BYTES if file_format == "jpeg" else None
    parts = {"exif": _exif(labels.comment), "xmp": labels.xmp.encode()}
    written = {name: part for name, part in parts.items() if part and (limit is None or len(part) <= limit)}
    if file_format == "webp":
        image.save(buffer, "WEBP", lossless=True, exact=True, method=_WEBP_EFFORT, **written)
    else:
        image.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0, **written)
    return buffer.getvalue()


def encode_layer(layer: LayerPixels, labels: Labels = NO_LABELS) -> bytes:
    """A layer as a PNG's bytes, which keeps every value, also of what cannot be seen."""
    buffer = io.BytesIO()
    layer.image().save(buffer, "PNG", compress_level=_PNG_COMPRESSION, pnginfo=_png_chunks(labels))
    return buffer.getvalue()


def _png_chunks(labels: Labels) -> PngInfo:
    chunks = PngInfo()
    if labels.xmp:
        chunks.add_itxt(XMP_KEY, labels.xmp)
    for key, text in labels.texts.items():
        if text.isascii():
            chunks.add_text(key, text)
        else:
            chunks.add_itxt(key, text)
    return chunks


def _exif(comment: str) -> bytes:
    """EXIF with one UserComment, big-endian and of type "undefined": Pillow writes another type, which is not read."""
    if not comment:
        return b""
    text = b"UNICODE\0" + comment.encode("utf-16-be")
    first = struct.pack(">HHHLLL", 1, EXIF_IFD, 4, 1, 26, 0)  # one entry, a long: where the next directory stands
    second = struct.pack(">HHHLLL", 1, USER_COMMENT, 7, len(text), 44, 0)  # one entry, bytes: how many, and where
    return b"Exif\0\0MM\0\x2a\0\0\0\x08" + first + second + text
