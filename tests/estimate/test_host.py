"""Host memory by arithmetic, held against the buffers that the engine really makes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from renderer import catalog
from renderer.engine import modulation
from renderer.estimate import host, weight_bytes
from renderer.job import Edit, Input, Job
from renderer.text import MIB
from tests.making import make_job


def table_bytes(timesteps: int, *, split: bool = False) -> int:
    terms = host.estimate_host(catalog.QWEN_IMAGE_ARCHITECTURE, "fp8", timesteps=timesteps, split=split).terms
    return next(term.bytes for term in terms if term.name == "modulation tables")


def test_a_modulation_table_is_as_large_as_it_is() -> None:
    """4.4 MB a timestep for Qwen-Image, to a page: not the 8 MiB that torch's own pinned memory would take."""
    shape = catalog.QWEN_IMAGE_ARCHITECTURE
    table = modulation._table(shape.layers, torch.empty((2, 6 * shape.width), dtype=torch.bfloat16), "cpu")
    assert table_bytes(1) == table.nbytes == 4_423_680
    assert table_bytes(512) < 2.2 * 1024 * MIB
    apart = modulation._table(shape.layers, torch.empty((3, 6 * shape.width), dtype=torch.bfloat16), "cpu")
    assert table_bytes(1, split=True) == apart.nbytes


def test_blocks_wait_where_something_is_left_beside_them() -> None:
    """The page cache and everybody else keep a margin; of one copy between two, each has half."""
    shape = catalog.QWEN_IMAGE_ARCHITECTURE
    whole = shape.layers * weight_bytes(shape, "fp8").block
    for sharers in (1, 2):
        enough = -(-whole // sharers) + host.MARGIN_BYTES
        assert host.blocks_in_memory(shape, "fp8", enough, sharers)
        assert not host.blocks_in_memory(shape, "fp8", enough - 1, sharers)


SIDE = 3000
OPENS = """
import sys
from pathlib import Path
from PIL import ImageCms, ImageOps
from renderer.outputs import input_files

def told(name: str) -> int:
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

data = Path(sys.argv[1]).read_bytes()
input_files.decode(Path(sys.argv[2]).read_bytes(), "a small one")
before = told("VmRSS")
input_files.decode(data, "it")
print("opened:", told("VmHWM") - before)
"""


def over(width: int, height: int) -> Job:
    picture = Input(sha256="a" * 64, width=width, height=height)
    return make_job(side=512).model_copy(update={"input_image": picture})


class TestInputs:
    @pytest.mark.skipif(sys.platform != "linux", reason="its peak is told by /proc")
    @pytest.mark.parametrize(("mode", "copies"), [("RGB", 2), ("RGBA", host.OPENING_COPIES)])
    def test_what_opening_one_takes(self, tmp_path: Path, mode: str, copies: int) -> None:
        """A process's peak, as it is reckoned: of the forecast, what is transparent takes all."""
        paths = [tmp_path / "it.png", tmp_path / "small.png"]
        for path, side in zip(paths, (SIDE, 64), strict=True):
            Image.linear_gradient("L").resize((side, side)).convert(mode).save(path)
        ran = subprocess.run([sys.executable, "-c", OPENS, *paths], capture_output=True, text=True, check=True)
        found = re.search("opened: ([0-9]+)", ran.stdout)
        assert found
        assert int(found[1]) * 1024 == pytest.approx(copies * host.PIXEL_BYTES * SIDE * SIDE, rel=0.1)

    def test_the_largest_is_opened_and_some_wait(self) -> None:
        """However many are queued: one of 100 megapixels is never there twice."""
        one, many = ([over(10_000, 10_000)] * count for count in (1, 1000))
        waiting = 4 * 512 * 512
        assert host.of_inputs(one, "stream") == 12 * 10**8 + waiting
        assert host.of_inputs(many, "stream") == 12 * 10**8 + 32 * waiting
        assert host.of_inputs(many, "cpu") == host.of_inputs(one, "cpu")
        assert host.of_inputs([make_job()], "stream") == 0

    def test_what_is_edited_waits_in_its_own_size(self) -> None:
        """Each of them, beside what is drawn over."""
        images = tuple(Input(sha256=letter * 64, width=900, height=900) for letter in "bc")
        two = make_job(side=512).model_copy(update={"edit": Edit(images=images, pixels=1024 * 1024)})
        opened = 12 * 900 * 900
        assert host.of_inputs([two], "stream") == opened + 4 * 2 * 1024 * 1024
        both = two.model_copy(update={"input_image": images[0]})
        assert host.of_inputs([both], "stream") == opened + 4 * (2 * 1024 * 1024 + 512 * 512)

    def test_they_stand_among_the_others(self) -> None:
        shape = catalog.QWEN_IMAGE_ARCHITECTURE
        without, beside = (host.estimate_host(shape, "fp8", inputs_bytes=count) for count in (0, 5 * MIB))
        assert beside.bytes == without.bytes + 5 * MIB
        assert len(beside.terms) == len(without.terms) + 1
