"""Small pictures: thumbnails, made once for each file, and the contact sheet. Knows sidecars and folders, no HTML."""

from __future__ import annotations

import contextlib
import io
import os
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

from renderer.errors import DiskError
from renderer.outputs.folder import Own
from renderer.planning.plan import Plan, Planned
from renderer.report.gather import thumbnail_name
from renderer.system.folders import expanded

THUMB_SIDE = 320
_SHEET_SIDE = 160
_SHEET_COLUMNS = 8
_SHEET_MOST = 120
_CAPTION = 18
_MARGIN = 8
_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansSC-Regular.otf",
    "NotoSansCJKsc-Regular.otf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "PingFang.ttc",
    "msyh.ttc",
    "DejaVuSans.ttf",
)
"""Fonts that systems have, those with Chinese letters first: a wish, for what a font of that name has is tried."""

_LATIN, _CHINESE = "Aahello-s1", "海报"
_NO_LETTER = "\uffff"
_UNREADABLE = (OSError, ValueError, SyntaxError, struct.error, EOFError, Image.DecompressionBombError)
"""What Pillow raises at files that are no pictures, or no longer."""

OnMade = Callable[[int, int], None]
"""Somebody who hears that so many of so many are made."""

_FONT_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts")


@dataclass(frozen=True, slots=True)
class Tile:
    """A finished picture on a contact sheet, and what stands under it."""

    plan: Plan
    item: Planned
    caption: str


def make_thumbnails(plan: Plan, tell: OnMade | None = None) -> int:
    """Make the thumbnails that are missing and remove those whose picture is gone; how many were missing.

    `tell` hears how many of them are made. Raises `DiskError` and `OSError`.
    """
    folder = plan.folder.path
    wanted = {thumbnail_name(item.sidecar): item for item in plan.items if item.sidecar is not None}
    there = {f"{Own.THUMBS}/{path.name}" for path in plan.folder.thumbs.glob("*.webp")}
    for name in there - wanted.keys():
        plan.folder.remove(folder / name)
    missing = [item for name, item in wanted.items() if name not in there]
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for made, _ in enumerate(pool.map(lambda item: make_thumbnail(plan, item), missing), start=1):
            if tell is not None:
                tell(made, len(missing))
    return len(missing)


def make_thumbnail(plan: Plan, item: Planned) -> None:
    """Make a finished picture's thumbnail, unless it is there or the picture cannot be read. Raises `DiskError`."""
    assert item.sidecar is not None
    target = plan.folder.path / thumbnail_name(item.sidecar)
    if target.exists():
        return
    with contextlib.suppress(*_UNREADABLE), Image.open(_file(plan, item)) as image:
        image.draft("RGB", (THUMB_SIDE, THUMB_SIDE))
        small = image.convert("RGB")
        small.thumbnail((THUMB_SIDE, THUMB_SIDE), reducing_gap=2.0)
        buffer = io.BytesIO()
        small.save(buffer, "WEBP", quality=80, method=2)
        plan.folder.write(target, buffer.getvalue())


def make_contact_sheet(plan: Plan) -> Path | None:
    """One picture of all pictures, with their ids, for chats and comments; None when there is none to show."""
    done = [item for item in plan.items if item.sidecar is not None]
    if not done:
        return None
    path = plan.folder.contact_sheet
    plan.folder.write(path, draw_contact_sheet(plan, done))
    return path


def draw_contact_sheet(plan: Plan, done: Sequence[Planned]) -> bytes:
    """One picture of these, which are there, with their ids: a PNG. Thumbnails that are missing are made."""
    return draw_sheet([Tile(plan, item, item.picture.id) for item in done], _SHEET_MOST)


def draw_sheet(done: Sequence[Tile], most: int, file_format: Literal["PNG", "JPEG"] = "PNG") -> bytes:
    """One picture of pictures, of several plans too, `most` of them."""
    shown = done[:most]
    for tile in shown:
        with contextlib.suppress(DiskError):  # a full disk may be one plan's: the picture itself is shown
            make_thumbnail(tile.plan, tile.item)
    columns = min(_SHEET_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    cell_width, cell_height = _SHEET_SIDE + _MARGIN, _SHEET_SIDE + _CAPTION + _MARGIN
    more = f"… and {len(done) - len(shown)} more" if len(done) > len(shown) else ""
    height = rows * cell_height + _MARGIN + (_CAPTION if more else 0)
    sheet = Image.new("RGB", (columns * cell_width + _MARGIN, height), "#ffffff")
    draw, font = ImageDraw.Draw(sheet), find_font(12)
    for number, tile in enumerate(shown):
        left, top = _MARGIN + number % columns * cell_width, _MARGIN + number // columns * cell_height
        _paste(sheet, tile.plan, tile.item, (left, top))
        draw.text((left, top + _SHEET_SIDE + 2), _fit(tile.caption, font), fill="#333333", font=font)
    if more:
        draw.text((_MARGIN, height - _CAPTION), more, fill="#333333", font=font)
    buffer = io.BytesIO()
    sheet.save(buffer, file_format, optimize=True)
    return buffer.getvalue()


def find_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """A font of this system in which ids can be read, with Chinese letters if there is one; Pillow's own otherwise."""
    folders = (folder for folder in map(expanded, _FONT_FOLDERS) if folder.is_dir())
    there = {path.name: path for folder in folders for path in folder.rglob("*.[to]t[fc]")}
    second: ImageFont.FreeTypeFont | None = None
    for name in _FONTS:
        if name in there:
            with contextlib.suppress(OSError):
                font = ImageFont.truetype(there[name], size)
                if _has(font, _LATIN + _CHINESE):
                    return font
                second = second or (font if _has(font, _LATIN) else None)
    return second or ImageFont.load_default(size)


def _has(font: ImageFont.FreeTypeFont, letters: str) -> bool:
    """Whether a font draws these letters, each as something that is neither nothing nor its mark for no letter."""
    none = bytes(font.getmask(_NO_LETTER))
    return all((drawn := bytes(font.getmask(letter))) != none and any(drawn) for letter in letters)


def _file(plan: Plan, item: Planned) -> Path:
    return plan.folder.picture(item.picture.output, item.picture.keep.format)


def _paste(sheet: Image.Image, plan: Plan, item: Planned, place: tuple[int, int]) -> None:
    """A thumbnail in the middle of its square; a picture that cannot be read leaves it empty."""
    assert item.sidecar is not None
    small = plan.folder.path / thumbnail_name(item.sidecar)
    with contextlib.suppress(*_UNREADABLE), Image.open(small if small.exists() else _file(plan, item)) as image:
        image.thumbnail((_SHEET_SIDE, _SHEET_SIDE))
        left, top = place
        sheet.paste(image, (left + (_SHEET_SIDE - image.width) // 2, top + (_SHEET_SIDE - image.height) // 2))


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    if font.getlength(text) <= _SHEET_SIDE:
        return text
    while text and font.getlength(f"{text}…") > _SHEET_SIDE:
        text = text[:-1]
    return f"{text}…"
