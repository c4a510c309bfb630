"""What goes along to machines that have not got it, and which open worker serves what is wanted next."""

from __future__ import annotations

from pathlib import Path

import pytest

from renderer import catalog
from renderer.errors import PictureError
from renderer.job import ControlNet, Input, Job, Lora
from renderer.protocol import Demand, Setup
from renderer.ray import carried, kept_worker
from renderer.weights.adapters.whereabouts import identity_of
from renderer.weights.control_files import identity_of_file
from tests.controlnets import write_controlnet
from tests.loras import factors, write_lora
from tests.making import make_job

IMAGE = Input(sha256="a" * 64, width=64, height=64)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """With a LoRA, as peft keeps it, and a ControlNet of somebody's own, and one of each that a hub has."""
    ink = write_lora(tmp_path / "here/adapter_model.safetensors")
    ink.with_name("adapter_config.json").write_text('{"lora_alpha": 8, "r": 4}')
    net = write_controlnet(tmp_path / "here/edges.safetensors")
    few, canny = "demo/4steps", next(each for each in catalog.MODELS if each.endswith("Canny"))
    update = {
        "loras": (Lora(source=str(ink), identity=identity_of(ink)), Lora(source=few, identity=few)),
        "controlnets": (
            ControlNet(source=str(net), identity=identity_of_file(net), image=IMAGE),
            ControlNet(source=canny, identity=canny, image=IMAGE),
        ),
    }
    return make_job().model_copy(update=update)


def test_what_no_hub_has_goes_along(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LoRAs and ControlNets, with what lies beside a file and counts; what the catalogue has, a machine fetches."""
    own = carried.own_networks(job)
    assert own == [job.loras[0], job.controlnets[0]]
    sent = [carried.read(each) for each in own]
    assert [sorted(each.contents) for each in sent] == [
        ["adapter_config.json", "adapter_model.safetensors"],
        ["edges.safetensors"],
    ]
    monkeypatch.setenv("RENDERER_CACHE", str(tmp_path / "there"))
    with pytest.raises(PictureError, match="the LoRA adapter_model has not come"):
        carried.as_kept(job)
    carried.keep(sent[0])
    with pytest.raises(PictureError, match="the ControlNet edges has not come"):
        carried.as_kept(job)
    carried.keep(sent[1])
    kept = carried.as_kept(job)
    assert (kept.loras[1], kept.controlnets[1]) == (job.loras[1], job.controlnets[1])
    lora, net = Path(kept.loras[0].source), Path(kept.controlnets[0].source)
    assert all(path.is_relative_to(tmp_path / "there") for path in (lora, net))
    assert (identity_of(lora), identity_of_file(net)) == (job.loras[0].identity, job.controlnets[0].identity)


def test_what_counts_beside_it_is_there_before_it(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is turned off on the way has no half of it: by the file itself it is known as kept."""
    monkeypatch.setenv("RENDERER_CACHE", str(tmp_path / "there"))
    written: list[str] = []
    monkeypatch.setattr("renderer.ray.carried.files.write_whole", lambda path, _: written.append(path.name))
    carried.keep(carried.read(job.loras[0]))
    assert written == ["adapter_config.json", "adapter_model.safetensors"]


def test_a_controlnet_that_has_become_another_goes_nowhere(job: Job, tmp_path: Path) -> None:
    """As a LoRA: it would be kept there as what it was."""
    write_lora(tmp_path / "here/edges.safetensors", factors(seed=7))
    with pytest.raises(PictureError):
        carried.read(job.controlnets[0])


SMALL, LARGE = (
    Demand(width=side, height=side, prompt_tokens=20, negative_tokens=20, guided=True) for side in (64, 128)
)
OPEN = Setup(model="demo", precision="bf16", profile="stream", extra_bytes=10, demands=(SMALL, LARGE))


@pytest.mark.parametrize(
    ("wanted", "serves"),
    [
        ({}, True),
        ({"demands": (SMALL.model_copy(update={"pictures": 5, "steps": 80}),)}, True),
        ({"ram_bytes": 5, "extra_bytes": 9}, True),
        ({"extra_bytes": 11}, False),
        ({"precision": "int8"}, False),
        ({"demands": (SMALL, LARGE.model_copy(update={"width": 256}))}, False),
        ({"demands": (SMALL, LARGE.model_copy(update={"prompt_tokens": 21}))}, False),
        ({"demands": (SMALL, LARGE.model_copy(update={"negative_tokens": 21}))}, False),
    ],
    ids=str,
)
def test_which_open_worker_serves(wanted: dict[str, object], serves: bool) -> None:  # noqa: FBT001
    """One that was opened for as much at the least, of each kind of picture."""
    assert kept_worker._serves(OPEN, OPEN.model_copy(update=wanted)) is serves
