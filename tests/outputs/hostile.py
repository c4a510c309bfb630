"""Files that are no pictures, or not quite, or too much: what people and enemies hand in, drawn by lot.

Each is a name, and what makes a file of it. Some are sound and only look odd: those have the pixels that they show.
"""

from __future__ import annotations

import io
import os
import random
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageCms, features

SIDE = (48, 32)
Kinds = dict[str, dict[str, Any]]

SOUND: Kinds = {
    "png": {"format": "PNG"},
    "jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    "webp": {"format": "WEBP", "lossless": True},
    "tif": {"format": "TIFF"},
    "bmp": {"format": "BMP"},
    **({"avif": {"format": "AVIF", "quality": 95}} if features.check("avif") else {}),
}
"""The formats that are read, and how they are written here."""


@dataclass(frozen=True, slots=True)
class Hostile:
    """One of them. `shows` is the picture that it is, if it is one; `make` puts it at a path."""

    name: str
    make: Callable[[Path], object]
    shows: Image.Image | None = None


def of(seed: int = 20261126) -> list[Hostile]:
    """All, in their order: a few more than three hundred."""
    dice = random.Random(seed)  # noqa: S311  # no secrets
    found = [*_cut(dice), *_flipped(dice), *_bombs(), *_moving(), *_modes(), *_labels(dice), *_others(dice), *_places()]
    return [Hostile(f"{number:03}-{each.name}", each.make, each.shows) for number, each in enumerate(found)]


def drawn(size: tuple[int, int] = SIDE) -> Image.Image:
    """Something with an upper left corner."""
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    image.paste((200, 60, 20), (0, 0, size[0] // 3, size[1] // 4))
    return image


def encoded(image: Image.Image, kind: str, **more: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **{**SOUND[kind], **more})
    return buffer.getvalue()


def many_scans(image: Image.Image, count: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again: each costs a pass over all pixels."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", progressive=True)
    whole = buffer.getvalue()
    last = whole.rindex(b"\xff\xda")
    return whole[:-2] + whole[last:-2] * count + b"\xff\xd9"


def many_pages(count: int) -> bytes:
    """A TIFF of as many pages, each a pixel."""
    one = _tiff(1, 1)[8:-16]
    places = (8 + (len(one) + 4) * number for number in range(1, count))
    return b"II*\0" + struct.pack("<I", 8) + b"".join(one + struct.pack("<I", place) for place in (*places, 0))


def _file(name: str, data: bytes, shows: Image.Image | None = None) -> Hostile:
    return Hostile(name, lambda path: path.write_bytes(data), shows)


def _cut(dice: random.Random) -> Iterator[Hostile]:
    """Cut off somewhere, also within the first bytes."""
    for kind in SOUND:
        whole = encoded(drawn((96, 80)), kind)
        for length in (1, 4, 12, *(dice.randrange(13, len(whole) - 40) for _ in range(9))):
            yield _file(f"cut-at-{length}.{kind}", whole[:length])


def _flipped(dice: random.Random) -> Iterator[Hostile]:
    """Some bytes are others."""
    for kind in SOUND:
        whole = encoded(drawn(), kind)
        for number in range(14):
            data = bytearray(whole)
            for _ in range(1 + number // 2):
                data[dice.randrange(len(data))] = dice.randrange(256)
            yield _file(f"flipped-{number}.{kind}", bytes(data))


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(width: int, height: int, *chunks: bytes, depth: int = 8, colours: int = 2, pixels: bytes = b"") -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _bombs() -> Iterator[Hostile]:
    """Small files that say they are large, or become it."""
    for width, height in ((60_000, 60_000), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (1, 200_000_000), (0, 5), (5, 0)):
        yield _file(f"bomb-{width}x{height}.png", _png(width, height, pixels=zlib.compress(bytes(2**20))))
    nothing = zlib.compress(bytes(100 * 2**20), 9)
    for name, chunk in (
        ("text", _chunk(b"zTXt", b"a\0\0" + nothing)),
        ("international", _chunk(b"iTXt", b"a\0\1\0\0\0" + nothing)),
        ("profile", _chunk(b"iCCP", b"a\0\0" + nothing)),
        ("texts", _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(900_000), 9)) * 300),
    ):
        rows = zlib.compress(bytes((1 + 3 * 48) * 32))
        yield _file(f"bomb-{name}.png", _png(*SIDE, chunk, pixels=rows))
    yield _file("bomb-rows.png", _png(*SIDE, pixels=nothing))
    jpeg = bytearray(encoded(drawn(), "jpg"))
    place = jpeg.index(b"\xff\xc0") + 5
    jpeg[place : place + 4] = b"\xff\xff\xff\xff"
    yield _file("bomb.jpg", bytes(jpeg))
    bitmap = bytearray(encoded(drawn(), "bmp"))
    for size in ((2**30, 2**30), (-(2**31), -(2**31)), (40_000, -40_000), (2**31 - 1, 1)):
        bitmap[18:26] = struct.pack("<ii", *size)
        yield _file(f"bomb-{size[0]}x{size[1]}.bmp", bytes(bitmap))
    webp = bytearray(encoded(drawn(), "webp"))
    place = webp.index(b"VP8L") + 9
    webp[place : place + 4] = b"\xff\xff\xff\x0f"  # 16384 x 16384
    yield _file("bomb.webp", bytes(webp))
    yield _file("bomb.tif", _tiff(100_000, 100_000))
    yield _file("bomb-strips.tif", _tiff(48, 2**31 - 1))
    yield _file("many-scans.jpg", many_scans(drawn((640, 640)), 3000))


def _tiff(width: int, height: int) -> bytes:
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (278, 4, height)]
    tags.append((279, 4, 8))
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + bytes(16)


def _moving() -> Iterator[Hostile]:
    """Several frames, or pages."""
    frames = [drawn(), drawn().rotate(180), drawn().transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    for kind in ("png", "webp", "tif", "avif"):
        if kind in SOUND:
            yield _file(f"moving.{kind}", encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    yield _file("moving.gif", buffer.getvalue())
    yield _file("moving-as.png", buffer.getvalue())


def _modes() -> Iterator[Hostile]:
    """Kinds of pixels that are rare, of which each shows what it shows; and some that are none of ours."""
    plain = drawn()
    for name, image, kind in (
        ("grey", plain.convert("L"), "png"),
        ("bits", plain.convert("1"), "png"),
        ("palette", plain.quantize(16), "png"),
        ("alpha", _faded(plain), "png"),
        ("grey-alpha", _faded(plain).convert("LA"), "png"),
        ("alpha", _faded(plain), "webp"),
        ("alpha", _faded(plain), "tif"),
        ("grey", plain.convert("L"), "tif"),
        ("grey", plain.convert("L"), "bmp"),
        ("palette", plain.quantize(16), "bmp"),
    ):
        white = Image.new("RGBA", image.size, "white")
        shows = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
        yield _file(f"{name}.{kind}", encoded(image, kind), shows)
    deep = plain.convert("L").point(lambda value: value * 256, "I").convert("I;16")
    yield _file("deep.png", encoded(deep, "png"), plain.convert("L").convert("RGB"))
    yield _file("deep.tif", encoded(deep, "tif"), plain.convert("L").convert("RGB"))
    rows = b"".join(b"\0" + bytes(6 * 48) for _ in range(32))
    yield _file("deep-colours.png", _png(*SIDE, depth=16, pixels=zlib.compress(rows)), Image.new("RGB", SIDE))
    buffer = io.BytesIO()
    plain.convert("CMYK").save(buffer, "JPEG", quality=100, subsampling=0)
    with Image.open(io.BytesIO(buffer.getvalue())) as seen:
        yield _file("cmyk.jpg", buffer.getvalue(), seen.convert("RGB"))
    lab = ImageCms.profileToProfile(
        plain, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    grey = plain.convert("L")
    for image in (grey.convert("F"), grey.convert("I"), plain.convert("CMYK"), plain.convert("YCbCr"), lab):
        yield _file(f"{image.mode}.tif", encoded(image, "tif"))


def _faded(image: Image.Image) -> Image.Image:
    faded = image.convert("RGBA")
    faded.putalpha(Image.linear_gradient("L").resize(image.size))
    return faded


def _labels(dice: random.Random) -> Iterator[Hostile]:
    """What a picture says of itself makes no sense: it is shown all the same, or not at all."""
    plain = drawn()
    for kind in ("png", "jpg", "webp", "tif"):
        for number in range(3):
            junk = dice.randbytes(dice.choice((1, 20, 500)))
            if kind != "tif":  # which is all labels itself
                yield _file(f"exif-{number}.{kind}", encoded(plain, kind, exif=b"Exif\0\0" + junk))
            yield _file(f"profile-{number}.{kind}", encoded(plain, kind, icc_profile=junk))
        for way in (0, 9, 2**16 - 1):
            exif = Image.Exif()
            exif[0x0112] = way
            yield _file(f"turned-{way}.{kind}", encoded(plain, kind, exif=exif))
        real = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
        for number in range(4):
            spoilt = bytearray(real)
            for _ in range(1 + 40 * number):
                spoilt[dice.randrange(len(spoilt))] = dice.randrange(256)
            yield _file(f"spoilt-profile-{number}.{kind}", encoded(plain, kind, icc_profile=bytes(spoilt)))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = plain.transpose(Image.Transpose.ROTATE_270)
    yield _file("turned-6.png", encoded(plain, "png", exif=exif), turned)


def _others(dice: random.Random) -> Iterator[Hostile]:
    """What is something else altogether, under a picture's name; and pictures under another one's."""
    plain = drawn()
    for kind in ("jpg", "webp", "bmp"):
        shows = Image.open(io.BytesIO(encoded(plain, kind))).convert("RGB")
        yield _file(f"{kind}-as.png", encoded(plain, kind), shows)
    yield _file("png-as.txt", encoded(plain, "png"), plain)
    yield _file("png-and-more.png", encoded(plain, "png") + dice.randbytes(1000), plain)
    for name, data in (
        ("empty", b""),
        ("zeros", bytes(4096)),
        ("text", b"a red boat\n" * 100),
        ("page", b"<!DOCTYPE html><html><body>404</body></html>"),
        ("svg", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'),
        ("pdf", b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n"),
        ("script", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n"),
        ("lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        ("zip", b"PK\x03\x04" + bytes(60)),
        ("film", b"\0\0\0\x18ftypmp42" + bytes(200)),
        ("heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)),
    ):
        yield _file(f"{name}.png", data)
    for number in range(12):
        yield _file(f"noise-{number}.jpg", dice.randbytes(dice.choice((10, 1000, 100_000))))
        head = encoded(plain, dice.choice(list(SOUND)))[: dice.choice((8, 30, 60))]
        yield _file(f"head-and-noise-{number}.png", head + dice.randbytes(3000))


def _places() -> Iterator[Hostile]:
    """What is no file."""
    yield Hostile("folder.png", lambda path: path.mkdir())
    for name, target in (("zero", "/dev/zero"), ("null", "/dev/null"), ("random", "/dev/urandom"), ("tty", "/dev/tty")):
        yield Hostile(f"link-to-{name}.png", lambda path, target=target: path.symlink_to(target))  # type: ignore[misc]
    yield Hostile("link-to-nothing.png", lambda path: path.symlink_to("nowhere"))
    yield Hostile("link-to-itself.png", lambda path: path.symlink_to(path.name))
    yield Hostile("link-to-memory.png", lambda path: path.symlink_to("/proc/self/mem"))
    yield Hostile("link-to-folder.png", lambda path: path.symlink_to(path.parent))
    yield Hostile("pipe.png", os.mkfifo)
    yield Hostile("socket.png", _listen)
    yield Hostile("missing.png", _nothing)
    yield Hostile("sparse.png", _sparse)


def _listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path)[-100:] if len(str(path)) < 100 else os.path.relpath(path))


def _nothing(_path: Path) -> None:
    """No file."""


def _sparse(path: Path) -> None:
    """A terabyte of nothing, which takes no room on the disk."""
    with path.open("wb") as stream:
        stream.truncate(2**40)
