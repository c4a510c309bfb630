"""Pictures with labels as other tools write them: chunk by chunk, so that nothing is what a library makes of it."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

A1111 = """masterpiece, (a cat:1.2)
second line <lora:x:1>
Negative prompt: lowres, bad
anatomy
Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 1234567890, Size: 512x768, Model hash: 6ce0161689, \
Model: v1-5-pruned, Lora hashes: "x: 1234, y: 5678", Hashes: {"model": "6ce0161689", "lora:x": "12"}, Version: v1.6.0"""

HEAD = struct.pack(">LLBBBBB", 64, 48, 8, 2, 0, 0, 0)
PIXELS = zlib.compress((b"\0" + b"\1" * 192) * 48)


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG, its checksum right."""
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def png(*chunks: bytes, after: bytes = b"", head: bytes = HEAD, pixels: bytes = PIXELS) -> bytes:
    """A PNG of 64x48 with these chunks before its pixels, and `after` behind them."""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + b"".join(chunks)
        + chunk(b"IDAT", pixels)
        + after
        + chunk(b"IEND", b"")
    )


def text(key: str, value: str) -> bytes:
    """A text of Latin-1 or, as most tools do against the standard, UTF-8."""
    return chunk(b"tEXt", key.encode() + b"\0" + value.encode())


def packed_text(key: str, value: bytes) -> bytes:
    """A text that is packed."""
    return chunk(b"zTXt", key.encode() + b"\0\0" + zlib.compress(value, 9))


def international(key: str, value: str, *, packed: bool = False) -> bytes:
    """A text in UTF-8, packed or not, with a language and a translated key."""
    data = zlib.compress(value.encode()) if packed else value.encode()
    return chunk(b"iTXt", key.encode() + (b"\0\1\0" if packed else b"\0\0\0") + b"de\0Schl\xc3\xbcssel\0" + data)


def write(folder: Path, data: bytes, name: str = "a.png") -> Path:
    """The bytes as a file."""
    path = folder / name
    path.write_bytes(data)
    return path


def with_texts(folder: Path, texts: Mapping[str, object]) -> Path:
    """A PNG with these texts by key; what is no text is written as JSON."""
    chunks = (text(key, value if isinstance(value, str) else json.dumps(value)) for key, value in texts.items())
    return write(folder, png(*chunks))


def exif(comment: bytes, *, order: str = ">", kind: int = 7, tag: int = 0x9286) -> bytes:
    """EXIF with one comment, in either order of bytes."""
    head = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(f"{order}L", 8)
    if tag != 0x9286:
        return head + struct.pack(f"{order}HHHLLL", 1, tag, kind, len(comment), 26, 0) + comment
    first = struct.pack(f"{order}HHHLLL", 1, 0x8769, 4, 1, 26, 0)
    second = struct.pack(f"{order}HHHLLL", 1, tag, kind, len(comment), 44, 0)
    return head + first + second + comment


def jpeg(exif_data: bytes = b"", xmp: bytes = b"", comment: bytes = b"") -> bytes:
    """A JPEG of 8x8 with these in its segments."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    segments = b""
    if exif_data:
        segments += b"\xff\xe1" + struct.pack(">H", len(exif_data) + 8) + b"Exif\0\0" + exif_data
    if xmp:
        segments += b"\xff\xe1" + struct.pack(">H", len(xmp) + 31) + b"http://ns.adobe.com/xap/1.0/\0" + xmp
    if comment:
        segments += b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment
    return b"\xff\xd8" + segments + buffer.getvalue()[2:]


def webp(exif_data: bytes) -> bytes:
    """A WebP of 8x8 with EXIF."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "WEBP", exif=exif_data)
    return buffer.getvalue()
