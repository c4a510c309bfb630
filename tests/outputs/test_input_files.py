"""Pictures that go in: known by their pixels, kept once, and refused by name where they are none."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import random
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image, ImageCms

from renderer.errors import PictureError
from renderer.job import InputFile
from renderer.outputs import input_files
from renderer.outputs.folder import OutputFolder


def photo(width: int = 24, height: int = 16) -> Image.Image:
    """A picture whose corners differ."""
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    image.putpixel((0, 0), (255, 0, 0))
    return image


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


class TestPixels:
    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "WEBP"])
    def test_the_same_pixels_are_the_same_input(self, kind: str) -> None:
        """However they are kept, and whatever else the file says."""
        plain = input_files.decode(saved(photo()), "a.png").known
        options = {"lossless": True} if kind == "WEBP" else {}
        assert input_files.decode(saved(photo(), kind, **options), "b").known == plain
        other = photo()
        other.putpixel((5, 5), (1, 2, 3))
        assert input_files.decode(saved(other), "c").known != plain

    def test_a_size_is_part_of_it(self) -> None:
        """The same bytes in rows of another length are another picture."""
        wide, tall = (Image.new("RGB", size, "red") for size in ((24, 16), (16, 24)))
        assert input_files.decode(saved(wide), "a").known.sha256 != input_files.decode(saved(tall), "b").known.sha256

    def test_a_phones_second_picture_is_passed_over(self) -> None:
        """Its JPEG has a thumbnail behind it, or the depth of the same view."""
        found = input_files.decode(saved(photo(), "MPO", save_all=True, append_images=[photo(8, 8)]), "a.jpg")
        assert found.image.size == (24, 16)

    def test_upright(self) -> None:
        """EXIF's orientation is applied: a phone's portrait is one."""
        exif = Image.Exif()
        exif[0x0112] = 6
        turned = input_files.decode(saved(photo(), "PNG", exif=exif), "a.png")
        assert turned.image.size == (16, 24)
        assert turned.known.width == 16
        assert turned.image.getpixel((15, 0)) == (255, 0, 0)

    def test_transparent_is_white_and_in_a_mask_black(self) -> None:
        clear = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
        assert input_files.decode(saved(clear), "a").image.getpixel((0, 0)) == (255, 255, 255)
        assert input_files.decode(saved(clear), "a", "mask").image.getpixel((0, 0)) == 0

    @pytest.mark.parametrize("mode", ["RGB", "L", "P"])
    def test_one_colour_that_is_transparent(self, mode: str) -> None:
        """As old PNGs and palettes have it: it is white."""
        image = Image.new("L", (8, 8), 10).convert(mode)
        told = saved(image, transparency=(10, 10, 10) if mode == "RGB" else 10)
        assert input_files.decode(told, "a").image.getpixel((0, 0)) == (255, 255, 255)

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
    def test_every_kind_of_pixels(self, mode: str) -> None:
        """White is white, whatever it is written in."""
        white = Image.new("L", (4, 4), 255).convert("I;16").point(lambda value: value * 257) if mode == "I;16" else (
            Image.new("RGB", (4, 4), "white").convert(mode))  # fmt: skip
        data = saved(white, "TIFF" if mode in {"CMYK", "I;16"} else "PNG")
        assert input_files.decode(data, "a").image.getpixel((1, 1)) == (255, 255, 255)

    def test_a_colour_profile_is_applied(self) -> None:
        """One that turns red and green changes what is seen, and not how transparent it is; nonsense, nothing."""
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        swapped = srgb.replace(b"rXYZ", b"-XYZ", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"-XYZ", b"gXYZ", 1)
        red = Image.new("RGB", (4, 4), (200, 30, 30))
        plain = input_files.decode(saved(red), "a").known
        assert input_files.decode(saved(red, icc_profile=srgb), "a").known == plain
        assert input_files.decode(saved(red, icc_profile=b"nonsense"), "a").known == plain
        assert input_files.decode(saved(red, icc_profile=swapped), "a").image.getpixel((0, 0)) == (30, 200, 30)
        red.putalpha(128)
        assert input_files.decode(saved(red, icc_profile=swapped), "a", "layers").image.getpixel((0, 0)) == (
            30,
            200,
            30,
            128,
        )
        red = red.convert("RGB")
        wide = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
        assert input_files.decode(saved(red, icc_profile=wide), "a").image.size == (4, 4)

    def test_a_large_one_is_known_by_its_pixels_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """However many rows are hashed at a time: its last ones may be fewer."""
        whole = input_files.decode(saved(photo(24, 17)), "a").known
        monkeypatch.setattr(input_files, "_HASHED_PIXELS", 24 * 5)
        assert input_files.decode(saved(photo(24, 17)), "a").known == whole

    def test_sixteen_bits_are_their_upper_eight(self) -> None:
        """Rounded down: black is what has next to nothing in it."""
        deep = Image.new("I;16", (3, 1))
        for place, value in enumerate((0x00FF, 0x80FF, 0xFFFF)):
            deep.putpixel((place, 0), value)
        found = input_files.decode(saved(deep), "deep.png", "mask").image
        assert [found.getpixel((place, 0)) for place in range(3)] == [0x00, 0x80, 0xFF]

    def test_a_jpeg_s_scans_are_counted(self) -> None:
        """One, or as many as a progressive one has; markers without a length behind them hide none."""
        picture = Image.linear_gradient("L").convert("RGB")
        plain, progressive = (saved(picture, "JPEG", progressive=each) for each in (False, True))
        assert (input_files._scans(plain), input_files._scans(progressive)) == (1, 10)


class TestRefused:
    @pytest.mark.timeout(30)
    def test_a_pipe_is_no_file(self, tmp_path: Path) -> None:
        """Nobody waits for what may never be written into it."""
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(PictureError, match="is not a file"):
            input_files.identify(tmp_path / "pipe.png", "pipe.png")

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        for path, words in ((tmp_path / "none.png", "there is no file"), (tmp_path, "is a folder")):
            with pytest.raises(PictureError, match=words):
                input_files.identify(path, path.name)

    def test_a_bomb_costs_nothing(self) -> None:
        """What the header tells is looked at before any pixel is made."""
        bomb = saved(Image.new("1", (20_000, 20_000)))
        assert len(bomb) < 100_000
        with pytest.raises(PictureError, match="more than 100 million"):
            input_files.decode(bomb, "bomb.png")

    @pytest.mark.parametrize("mode", ["F", "I"])
    def test_pixels_without_a_white(self, mode: str) -> None:
        """What measures something in 32 bits a pixel shows nothing until somebody says what is white in it."""
        with pytest.raises(PictureError, match=f"heights.tif has pixels of the kind {mode}"):
            input_files.decode(saved(Image.new(mode, (8, 8), 70_000), "TIFF"), "heights.tif")

    def test_what_moves(self) -> None:
        frames = [photo(), photo(24, 16).rotate(90)]
        with pytest.raises(PictureError, match="several frames"):
            input_files.decode(saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]), "film.webp")

    @pytest.mark.parametrize(
        ("data", "words", "hint"),
        [
            (b"", "x is empty", "copy it once more"),
            (b"GIF89a", "x: it is a GIF, which is not read", "PNG, JPEG"),
            (b"<?xml version", "x: it is an SVG, or another text, which is not read", "PNG, JPEG"),
            (b"\0\0\0\x18ftypheic", "x: it is a HEIC, which nothing here can read", "install pillow-heif"),
            (b"\0\0\0\x18ftypisom", "x: it is a film, which is not read", "PNG, JPEG"),
            (b"none of all", "x: it is no picture that can be read here", "PNG, JPEG"),
        ],
    )
    def test_what_it_is_instead(self, monkeypatch: pytest.MonkeyPatch, data: bytes, words: str, hint: str) -> None:
        """By how it begins, for those that people have; and what helps."""
        monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        with pytest.raises(PictureError) as caught:
            input_files.decode(data, "x")
        assert caught.value.message == words
        assert caught.value.hint.startswith(hint)

    def test_a_plugin_that_pillow_does_not_know_of(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is there, and reads a phone's photos: Pillow itself looks for no others than its own."""
        plugin = tmp_path / "pillow_heif/HeifImagePlugin.py"
        plugin.parent.mkdir()
        (plugin.parent / "__init__.py").touch()
        plugin.write_text(
            "import io\n"
            "from PIL import Image, PngImagePlugin\n"
            "def opened(file, name):\n"
            "    return PngImagePlugin.PngImageFile(io.BytesIO(file.read()[12:]))\n"
            "Image.register_open('HEIF', opened, lambda start: start[8:12] == b'heic')\n"
        )
        for name in ("pillow_heif", "pillow_heif.HeifImagePlugin"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        Image.init()
        monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
        monkeypatch.setattr(Image, "ID", [*Image.ID])
        monkeypatch.syspath_prepend(tmp_path)
        data = b"\0\0\0\x18ftypheic" + saved(photo())
        assert input_files.decode(data, "x").known == input_files.decode(saved(photo()), "x").known
        monkeypatch.delitem(sys.modules, "pillow_heif.HeifImagePlugin")

    def test_a_format_that_is_none_of_ours(self) -> None:
        with pytest.raises(PictureError, match="no picture"):
            input_files.decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "a.eps")

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "AVIF"])
    def test_damaged_files(self, kind: str) -> None:
        """50 of each format, cut off or with bytes changed: a picture, or one clear sentence."""
        whole, dice = saved(photo(64, 48), kind), random.Random(kind)  # noqa: S311  # the same damage every time
        refused = 0
        for number in range(50):
            data = bytearray(whole)
            if number % 2:
                del data[dice.randrange(1, len(data)) :]
            else:
                for _ in range(8):
                    data[dice.randrange(len(data))] = dice.randrange(256)
            with contextlib.suppress(PictureError):
                input_files.decode(bytes(data), "damaged")
                continue
            refused += 1
        assert refused >= 20


class TestKept:
    def source(self, folder: Path, name: str = "shop.png") -> InputFile:
        (folder / name).write_bytes(saved(photo()))
        return input_files.identify(folder / name, name)[1]

    def test_once(self, tmp_path: Path) -> None:
        """It is kept under its pixels' hash, and goes on when the original has moved."""
        folder, source = OutputFolder(tmp_path / "out"), self.source(tmp_path)
        data = input_files.keep(folder, source)
        (tmp_path / "shop.png").unlink()
        assert input_files.keep(folder, source) == data
        (kept,) = folder.inputs.iterdir()
        assert kept.name == f"{source.sha256}.png"
        assert hashlib.sha256(kept.read_bytes()).hexdigest() == source.file_sha256

    def test_the_same_pixels_of_another_file_will_do(self, tmp_path: Path) -> None:
        """One that is compressed otherwise left its bytes there, and this one's file is gone: pixels count."""
        folder, source = OutputFolder(tmp_path / "out"), self.source(tmp_path)
        input_files.keep(folder, source)
        (tmp_path / "shop.png").write_bytes(other := saved(photo(), compress_level=0))
        again = input_files.identify(tmp_path / "shop.png", "shop.png")[1]
        (tmp_path / "shop.png").unlink()
        assert again.sha256 == source.sha256
        assert again.file_sha256 != source.file_sha256
        assert input_files.keep(folder, again) != other

    @pytest.mark.parametrize(
        ("name", "ending"), [("shop.PNG", ".png"), ("shop.cgi", ""), ("shop", ""), ("a.tar.gz", "")]
    )
    def test_the_ending_is_a_pictures(self, tmp_path: Path, name: str, ending: str) -> None:
        """Whatever the file is called: the folder is served."""
        source = self.source(tmp_path, name)
        assert input_files.kept_name(source) == f"inputs/{source.sha256}{ending}"

    def test_another_picture_under_the_name(self, tmp_path: Path) -> None:
        """What has changed since it was planned is not what was planned; what somebody put in its place neither."""
        folder, source = OutputFolder(tmp_path / "out"), self.source(tmp_path)
        input_files.keep(folder, source)
        (folder.path / input_files.kept_name(source)).write_bytes(b"no picture")
        assert input_files.keep(folder, source) == (tmp_path / "shop.png").read_bytes()
        (folder.path / input_files.kept_name(source)).unlink()
        (tmp_path / "shop.png").write_bytes(saved(photo(8, 8)))
        with pytest.raises(PictureError, match="has changed since"):
            input_files.keep(folder, source)


@pytest.mark.parametrize(("pixels", "together"), [(4, True), (6, False), (1000, False)])
def test_pictures_that_are_decoded_at_once_take_no_more_than_the_largest_one(pixels: int, *, together: bool) -> None:
    """Two that have room for both are decoded side by side; larger ones one after the other, whatever their size."""
    room, both, met = input_files._Room(10), threading.Barrier(2), list[bool]()

    def take() -> None:
        with room.taken(pixels):
            try:
                both.wait(5.0 if together else 0.05)
            except threading.BrokenBarrierError:
                both.reset()
            else:
                met.append(True)

    threads = [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert met == [True, True] * together
