from __future__ import annotations

import json
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from renderer.errors import UsageError
from renderer.job import Keep
from renderer.manifest import labels
from renderer.manifest.labels import containers
from renderer.outputs.encode import XMP_KEY
from tests.making import make_job
from tests.manifest.labels.making import (
    HEAD,
    PIXELS,
    chunk,
    exif,
    international,
    jpeg,
    packed_text,
    png,
    text,
    webp,
    write,
)
from tests.outputs.test_metadata import FORMATS
from tests.outputs.test_metadata import write as write_ours

SHORT = "a red fox 狐\nSteps: 20, Sampler: Euler, CFG scale: 4, Seed: 17, Size: 1024x1024"


class TestPng:
    @pytest.mark.parametrize(
        "written",
        [text("parameters", SHORT), packed_text("parameters", SHORT.encode()), international("parameters", SHORT),
         international("parameters", SHORT, packed=True)],
        ids=["tEXt", "zTXt", "iTXt", "iTXt packed"],
    )  # fmt: skip
    def test_every_kind_of_text_before_and_after_the_pixels(self, tmp_path: Path, written: bytes) -> None:
        """A text is read in each of PNG's three forms, packed or not, on either side of the pixels."""
        for data in (png(written), png(after=written)):
            told = labels.read(write(tmp_path, data))
            assert (told.prompt, told.seed) == ("a red fox 狐", 17)

    def test_latin_1_where_it_is_no_utf_8(self, tmp_path: Path) -> None:
        """What the standard says is tried where UTF-8 makes no sense."""
        written = chunk(b"tEXt", b"parameters\0caf\xe9\nSteps: 2, Seed: 1")
        assert labels.read(write(tmp_path, png(written))).prompt == "café"

    def test_a_file_cut_off_in_its_pixels_still_tells(self, tmp_path: Path) -> None:
        """An interrupted download has its head."""
        whole = png(text("parameters", SHORT), pixels=PIXELS * 9)
        assert labels.read(write(tmp_path, whole[: len(whole) - len(PIXELS)])).seed == 17

    def test_a_damaged_text_is_said_and_the_next_label_asked(self, tmp_path: Path) -> None:
        """A text whose checksum is wrong is not believed."""
        damaged = bytearray(text("parameters", SHORT))
        damaged[30] ^= 1
        path = write(tmp_path, png(bytes(damaged)))
        with pytest.raises(UsageError, match='its label "parameters" is damaged'):
            labels.read(path)
        comment = chunk(b"eXIf", exif(b"ASCII\0\0\0" + SHORT.encode()))
        assert labels.read(write(tmp_path, png(bytes(damaged), comment))).seed == 17

    def test_exif_as_a_chunk_and_as_imagemagick_keeps_it(self, tmp_path: Path) -> None:
        """EXIF in a PNG is read, in its own chunk or in hexadecimal digits."""
        data = exif(b"UNICODE\0" + SHORT.encode("utf-16-be"))
        raw = f"\nexif\n{len(data) + 6:8}\n" + "\n".join(
            (b"Exif\0\0" + data).hex()[at : at + 72] for at in range(0, 2 * len(data) + 12, 72)
        )
        for written in (chunk(b"eXIf", data), packed_text("Raw profile type exif", raw.encode())):
            assert labels.read(write(tmp_path, png(written))).seed == 17

    def test_the_file_s_own_size_where_none_is_told(self, tmp_path: Path) -> None:
        """A picture that does not say how large it is to be is as large as it is."""
        told = labels.read(write(tmp_path, png(text("parameters", "a\nSteps: 3, Seed: 1"))))
        assert (told.width, told.height) == (64, 48)


class TestExif:
    @pytest.mark.parametrize("order", [">", "<"])
    @pytest.mark.parametrize("prompt", ["a red fox", "一\u3000一\u3000一张海报", "naïve 🦊"])
    @pytest.mark.parametrize(
        ("code", "encoding"),
        [(b"UNICODE\0", "utf-16-be"), (b"UNICODE\0", "utf-16-le"), (b"UNICODE\0", "utf-16"), (b"UNICODE\0", "utf-8"),
         (b"UNICODE\0\xfe\xff", "utf-16-be"), (b"ASCII\0\0\0", "utf-8"), (bytes(8), "utf-8"), (bytes(8), "utf-16-le"),
         (b"", "utf-8")],
    )  # fmt: skip
    def test_a_comment_in_every_way_of_writing_it(
        self, tmp_path: Path, code: bytes, encoding: str, prompt: str, order: str
    ) -> None:
        """Which bytes are meant is tried: UTF-16 in either order, with its mark or without, and UTF-8."""
        comment = code + f"{prompt}\nSteps: 20, Seed: 17, Size: 1024x1024".encode(encoding)
        told = labels.read(write(tmp_path, jpeg(exif(comment, order=order)), "a.jpg"))
        assert (told.prompt, told.seed) == (prompt, 17)

    @pytest.mark.parametrize("encoding", ["iso2022_jp", "shift_jis", "euc_jp"])
    def test_a_japanese_comment(self, tmp_path: Path, encoding: str) -> None:
        """The standard's fourth code, in the three encodings that are found under it."""
        comment = b"JIS\0\0\0\0\0" + "赤い狐\nSteps: 20, Seed: 17".encode(encoding)
        assert labels.read(write(tmp_path, jpeg(exif(comment)), "a.jpg")).prompt == "赤い狐"

    @pytest.mark.parametrize("kind", [1, 2, 7, 129])
    def test_whatever_type_it_is_given(self, tmp_path: Path, kind: int) -> None:
        """Bytes, ASCII, undefined, and Exif 3.0's UTF-8."""
        data = exif(b"UNICODE\0" + SHORT.encode(), kind=kind)
        assert labels.read(write(tmp_path, webp(b"Exif\0\0" + data), "a.webp")).seed == 17

    def test_descriptions_and_jpeg_s_own_comment(self, tmp_path: Path) -> None:
        """The other places where tools put the same text."""
        for data in (jpeg(exif(SHORT.encode(), tag=0x010E, kind=2)), jpeg(comment=SHORT.encode())):
            assert labels.read(write(tmp_path, data, "a.jpg")).seed == 17

    @pytest.mark.parametrize("at", [4, 8, 10, 18, 26, 28, 36])
    def test_numbers_that_lead_nowhere(self, tmp_path: Path, at: int) -> None:
        """A count, a place or a length that is not true reads less, or nothing."""
        data = bytearray(exif(b"UNICODE\0" + SHORT.encode()))
        data[at : at + 4] = b"\xff\xff\xff\xff"
        with pytest.raises(UsageError, match="does not say how it was made"):
            labels.read(write(tmp_path, jpeg(bytes(data)), "a.jpg"))


class TestNoPicture:
    @pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"not a picture" * 1000])
    def test_what_is_no_picture_is_said_so(self, tmp_path: Path, content: bytes) -> None:
        """A damaged or foreign file is an error in a sentence."""
        with pytest.raises(UsageError, match="cannot be read as a picture"):
            labels.read(write(tmp_path, content))

    def test_a_folder_and_nothing_at_all(self, tmp_path: Path) -> None:
        """Both are said, with what helps."""
        with pytest.raises(UsageError, match="is no file") as error:
            labels.read(tmp_path)
        assert "*.png" in error.value.hint
        with pytest.raises(UsageError, match="there is no picture"):
            labels.read(tmp_path / "none.png")

    def test_a_sidecar_that_is_none(self, tmp_path: Path) -> None:
        """A sidecar is read as such, and what is none is refused."""
        with pytest.raises(UsageError, match="no sidecar"):
            labels.read(write(tmp_path, b"{}", "p.json"))

    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data(), form=st.sampled_from(FORMATS))
    def test_damaged_files_end_in_a_sentence(self, tmp_path: Path, data: st.DataObject, form: str) -> None:
        """A file with some bytes changed is read, or refused; never a traceback."""
        path = write_ours(tmp_path, make_job(), Keep.model_validate({"format": form}))
        content = bytearray(path.read_bytes())
        for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=20)):
            content[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        try:
            labels.read(path)
        except UsageError as error:
            assert error.message.isprintable()  # noqa: PT017


MIB = 2**20


def _exif_bomb() -> bytes:
    """EXIF of a mebibyte whose comment can be meant in every way, and makes no sense in any."""
    return exif(bytes(8) + b'{"a":' * (MIB // 6))


def _packed(count: int) -> bytes:
    """So many megabytes of one letter, packed."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(b"a" * 1_000_000) for _ in range(count)) + packer.flush()


def _every_label(value: str) -> bytes:
    """The same text under every key that a reader asks for."""
    return png(*(text(key, value) for key in sorted(containers.KEYS)))


def _objects(count: int) -> str:
    """A graph of so many objects that are no nodes, but for one."""
    node = '"1":{"class_type":"KSampler","inputs":{"i":1}},'
    return f'{{{node}"a":[' + '{"":0},' * count + "0]}"


def _nodes(count: int) -> str:
    """So many samplers, each fed by all its neighbours."""
    return json.dumps({
        str(number): {
            "class_type": "KSampler",
            "inputs": {"seed": [str(number + 1), 0], "positive": [str(number + 1), 0], "model": [str(number // 2), 0]},
        }
        for number in range(count)
    })  # fmt: skip


def _one_node(count: int) -> str:
    """A sampler that is fed by itself, in as many ways."""
    links = {f"i{number}": ["1", 0] for number in range(count)}
    inputs = {**links, "seed": 1, "steps": 2, "cfg": 3, "model": ["1", 0], "conditioning": ["2", 0]}
    other = {**{f"i{number}": {"lora": "x"} for number in range(9000)}, "model": ["2", 0]}
    return json.dumps({
        "1": {"class_type": "KSampler", "inputs": {**inputs, "model": ["2", 0], "positive": ["3", 0]}},
        "2": {"class_type": "Stack", "inputs": other},
        "3": {"class_type": "Combine", "inputs": links},
    })  # fmt: skip


HOSTILE: dict[str, Callable[[], bytes]] = {
    "a bomb of pixels": lambda: png(
        text("parameters", SHORT), head=b"\0\0\x80\0\0\0\x80\0" + HEAD[8:], pixels=_packed(200)
    ),
    "text that unpacks to 300 MB": lambda: png(chunk(b"zTXt", b"parameters\0\0" + _packed(300))),
    "as many of them as fit": lambda: png(*[packed_text("parameters", b"a" * (MIB + 9))] * 4000),
    "a text of 100 MB": lambda: png(chunk(b"tEXt", b"parameters\0" + b"a" * 100_000_000)),
    "100 texts of 900 kB": lambda: png(*[text("k", "a" * 900_000)] * 100),
    "lists by the hundred thousand": lambda: _every_label('{"a":[' + "[]," * 340_000 + "0]}"),
    "as many objects as are read": lambda: _every_label('{"a":[' + '{"":0},' * 49_900 + '"abcdefgh",' * 60_000 + "0]}"),
    "two graphs of as many objects as fit": lambda: png(
        text("prompt", _objects(140_000)), text("workflow", _objects(140_000).replace('"a"', '"nodes"'))
    ),
    "as many texts as fit": lambda: _every_label('{"a":[' + '"ab",' * 200_000 + "0]}"),
    "wide letters": lambda: _every_label('{"a":"' + "\U0001f98a" * 250_000 + '"}'),
    "a graph as large as is read": lambda: png(
        text("prompt", _nodes(9_000)), text("workflow", '{"nodes":[' + '{"id":1},' * 49_000 + '0],"links":[]}')
    ),
    "a million chunks": lambda: png(*[chunk(b"tEXt", b"")] * 1_000_000),
    "EXIF of a mebibyte": lambda: png(chunk(b"eXIf", _exif_bomb())),
    "EXIF with 65,535 entries": lambda: png(
        chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + b"\x92\x86\0\7\0\x0f\xff\xff\0\0\0\0" * 65_535)
    ),
    "lists that do not end": lambda: png(text("parameters", "x\nSteps: 1, " + "a:[1," * 200_000)),
    "objects that do not end": lambda: png(text("parameters", "x\nSteps: 1, " + 'a:{"a":' * 120_000)),
    "quotes that do not end": lambda: png(text("parameters", "x\nSteps: 1, " + 'a:"b,' * 200_000)),
    "keys without end": lambda: png(text("parameters", "x\nSteps: 1, " + "a:1," * 240_000)),
    "brackets without end": lambda: png(text("parameters", "x\nSteps: 1, a:" + "[" * 900_000)),
    "spaces": lambda: png(text("parameters", "x\nSteps: 1," + (" " * 1000 + ",") * 900)),
    "lines": lambda: png(text("parameters", "Steps:\n" * 140_000)),
    "tags": lambda: png(text("parameters", "<lora:" * 150_000 + "\nSteps: 1, Seed: 2")),
    "brackets of InvokeAI's": lambda: png(text("Dream", '"' + "[" * 900_000 + '" -s 1')),
    "a dream": lambda: png(text("Dream", '"' + '" ' * 400_000)),
    "XMP": lambda: png(international(XMP_KEY, "<exif:UserComment><rdf:Alt>" * 38_000)),
    "references": lambda: png(
        international(XMP_KEY, "<exif:UserComment>{" + "&#999999999;" * 80_000 + "</exif:UserComment>")
    ),
    "a comment in XMP that does not end": lambda: png(international(XMP_KEY, "<exif:UserComment>" + " " * (MIB - 100))),
    "spaces between tags": lambda: png(text("parameters", f"<lora:x:1>a{' ' * 19_900}a<lora:y:1>\nSteps: 1, Seed: 2")),
    "commas between tags": lambda: png(text("parameters", "<lora:x:1>,, " * 1500 + ", " * 300 + "\nSteps: 1, Seed: 2")),
    "spaces in an old prompt": lambda: png(text("Dream", f'"{" " * 19_990}" -s 1')),
    "fields by the ten thousand": lambda: png(
        text("parameters", json.dumps({"sui_image_params": {f"k{number}": "v" for number in range(60_000)}}))
    ),
    "one node of many inputs": lambda: png(text("prompt", _one_node(12_000))),
    "our own label": lambda: png(text("renderer", "[" * 900_000)),
}


SCRIPT = """
import sys, time
from pathlib import Path
from renderer.manifest import labels
from renderer.errors import UsageError
for name in sys.argv[1:]:
    began = time.process_time()
    try:
        labels.read(Path(name))
    except UsageError:
        pass
    peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
    print(time.process_time() - began, peak, flush=True)
"""


@pytest.fixture(scope="module")
def spent(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, float]]:
    """Seconds of the processor that each hostile file took, and the reader's peak in bytes until then.

    In a process of its own, for a peak of its own: `ru_maxrss` would begin with the parent's.
    """
    folder = tmp_path_factory.mktemp("hostile")
    paths = [write(folder, made(), f"{number}.png") for number, made in enumerate(HOSTILE.values())]
    paths.append(write(folder, b'{"a":[' + b'{"":0},' * 140_000 + b"0]}", "a.json"))
    command = [sys.executable, "-c", SCRIPT, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [tuple(map(float, line.split())) for line in done.stdout.splitlines()]
    return {name: (took, peak * 1024) for name, (took, peak) in zip([*HOSTILE, "a sidecar"], lines, strict=True)}


class TestBounds:
    @pytest.mark.parametrize("name", [*HOSTILE, "a sidecar"])
    def test_whatever_a_file_holds(self, spent: dict[str, tuple[float, float]], name: str) -> None:
        """A second of the processor and 100 MB are enough for every file, whatever it was made to do."""
        seconds, peak_bytes = spent[name]
        assert seconds < 1.0
        assert peak_bytes < 100_000_000

    def test_a_large_picture_s_pixels_are_not_read(self, tmp_path: Path) -> None:
        """The time for a label behind 50 MB of pixels is that for one without any."""
        pixels = b"".join(chunk(b"IDAT", bytes(2**20)) for _ in range(50))
        path = write(tmp_path, png(pixels, after=text("parameters", SHORT)))
        began = time.process_time()
        assert labels.read(path).seed == 17
        assert time.process_time() - began < 0.05
