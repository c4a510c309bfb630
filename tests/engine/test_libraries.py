"""What is imported to render, in a process of its own: no compiler, no data sets; and the picture's bits."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from PIL import Image

from renderer import catalog
from renderer.engine import libraries
from renderer.engine.inputs import name_edited
from renderer.engine.streaming import StreamingEngine
from renderer.job import Input
from renderer.manifest.pictures_in import edit_of
from renderer.protocol import Setup
from tests.engine.conftest import no_report
from tests.engine.making import make_job
from tests.engine.test_damage import render
from tests.engine.test_streaming import Heard

NOT_NEEDED = (
    "torch._dynamo",
    "torch._inductor",
    "sympy",
    "networkx",
    "pandas",
    "torchvision",
    "sklearn",
    "scipy",
    "modelscope",
)

RENDER = """
import hashlib, json, sys
from renderer.engine import libraries
libraries.load()
from renderer.engine.streaming import StreamingEngine
from renderer.job import Job
from renderer.protocol import Setup
class Heard:
    def __getattr__(self, name):
        return lambda *told: told_of.append((name, *told))
told_of = []
def rendered(text, given):
    job = Job.model_validate_json(text)
    engine = StreamingEngine.open(Setup(model=job.model, precision="bf16", profile="stream"), lambda _: None)
    engine.take("it", job, given)
    while engine.busy:
        engine.advance(Heard())
    name, _, rendering = told_of[-1]
    assert name == "rendered", rendering
    return hashlib.sha256(rendering.rgb).hexdigest()
print(json.dumps([rendered(sys.argv[1], {}), sorted(sys.modules)]))

# an edit asks for torchvision, also in a worker that has rendered without
from PIL import Image
from renderer.engine.inputs import name_edited
edit = Job.model_validate_json(sys.argv[2]).edit
print(json.dumps(rendered(sys.argv[2], {name_edited(edit.images[0], edit): Image.linear_gradient("L").convert("RGB")})))

assert not [name for name, each in sys.modules.items() if vars(each).get("is_torchvision_available") is libraries._no]

# whoever asks later has the real thing
import importlib.metadata, torch
from torch.nn.attention import flex_attention
from diffsynth.core.data import UnifiedDataset
from diffsynth.models.siglip2_image_encoder import Siglip2ImageEncoder
from diffsynth.core.loader import config
from transformers.loss.loss_utils import LOSS_MAPPING
assert LOSS_MAPPING and torch._dynamo.config and flex_attention.flex_attention
assert config.snapshot_download is not None and issubclass(Siglip2ImageEncoder, torch.nn.Module)
assert isinstance(importlib.metadata.packages_distributions(), dict)
"""


KNOWN = Input(sha256="0", width=256, height=256)
EDIT = make_job(
    model="demo-edit", edit=edit_of([KNOWN], catalog.DEMO_EDIT.editing or catalog.Editing(1)), cfg_scale=1.0
)


@pytest.fixture
def expected(demo_folder: Path) -> list[str]:
    """The hashes of the same picture and the same edit in this process, where everything is imported plainly."""
    assert demo_folder
    assert "torchvision" in sys.modules
    heard = render(Setup(model="demo", precision="bf16", profile="stream"), make_job())
    assert EDIT.edit is not None
    shown = {name_edited(KNOWN, EDIT.edit): Image.linear_gradient("L").convert("RGB")}
    engine, edited = (
        StreamingEngine.open(Setup(model="demo-edit", precision="bf16", profile="stream"), no_report),
        Heard(),
    )
    engine.take("it", EDIT, shown)
    while engine.busy:
        engine.advance(edited)
    return [hashlib.sha256(each.pictures["it"].rgb).hexdigest() for each in (heard, edited)]


def test_a_picture_is_rendered_without_what_none_needs(expected: list[str]) -> None:
    """Also when it is done, nobody has asked for it; its bits are the same; and nothing stays in the others' places."""
    command = [sys.executable, "-c", RENDER, make_job().model_dump_json(), EDIT.model_dump_json()]
    done = subprocess.run(command, capture_output=True, check=False, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    (found, modules), edited = map(json.loads, done.stdout.splitlines())
    assert [name for name in NOT_NEEDED if name in modules] == []
    assert [found, edited] == expected


def test_libraries_that_need_it_all_are_imported_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What another version misses costs seconds, and no picture."""
    (tmp_path / "fussy.py").write_text("from torch.nn.attention.flex_attention import flex_attention\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(libraries, "_THEIRS", ("fussy",))
    monkeypatch.setattr(libraries, "_WANTED", ("fussy",))
    libraries.load()
    assert sys.modules.pop("fussy").flex_attention is not None
    assert "with all that it asks for" in caplog.text


@pytest.mark.parametrize("standing_in", [False, True])
def test_a_distribution_is_found_as_transformers_finds_it(monkeypatch: pytest.MonkeyPatch, standing_in: bool) -> None:  # noqa: FBT001
    """By its package's name where it has that; otherwise by what is installed. Also while it stands in `metadata`."""
    if standing_in:
        monkeypatch.setattr(metadata, "packages_distributions", libraries._Distributions)
    found = libraries._Distributions()
    assert found["torch"] == ["torch"]
    assert found["PIL"] == ["pillow"]
    with pytest.raises(KeyError):
        found["no such package"]
    assert "torch" in found
    assert len(found) == len(list(found))
