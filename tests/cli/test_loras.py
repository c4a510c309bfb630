"""LoRAs of the catalogue: fetched by name or by a run, listed, verified and removed, as models are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from renderer import catalog
from renderer.errors import ModelError, RendererError
from renderer.job import Lora
from renderer.manifest.manifest import load
from renderer.supervisor import provision
from renderer.supervisor.local_worker import LocalWorker
from renderer.supervisor.night import Night
from renderer.supervisor.pool import WorkerPool
from renderer.supervisor.settings import Settings, StopRequests, Terms
from tests.hub import Hub, run
from tests.loras import factors, write_lora
from tests.making import make_job

FOUR = "lightx2v/Qwen-Image-Lightning/4steps-V2.0"
PART = catalog.MODELS[FOUR].parts[0]

FOR_THE_DEMO = f"""
import dataclasses, runpy, types
from renderer import catalog
rows = dict(catalog.MODELS)
rows[{FOUR!r}] = dataclasses.replace(rows[{FOUR!r}], base="demo")
catalog.MODELS = types.MappingProxyType(rows)
runpy.run_module("renderer", run_name="__main__")
"""
"""The command of a catalogue in which it was made for the demo: its file here is as small as that."""


@pytest.fixture
def stocked(hub: Hub, tmp_path: Path) -> Hub:
    """The hub, which has a small file in the place of Lightning's."""
    data = write_lora(tmp_path / "lightning.safetensors", factors()).read_bytes()
    hub.files[str(PART.repository)] = {PART.files: data}
    hub.revisions.add(str(PART.revision))
    return hub


def test_from_hub_to_nothing(machine: Mapping[str, str], stocked: Hub, tmp_path: Path) -> None:
    """Pull, list, verify and remove; `list` says what it is for and under which licence."""
    assert stocked

    def models_cli(*arguments: str) -> str:
        done = run(["-m", "renderer", "models", *arguments], machine)
        assert done.returncode == 0, done.stderr
        return done.stdout

    file = tmp_path / "models" / str(PART.repository) / PART.files
    models_cli("pull", FOUR)
    assert file.is_file()
    row = next(row for row in json.loads(models_cli("list", "--json")) if row["id"] == FOUR)
    assert (row["licence"], row["base"], row["steps"], row["schedule"]) == (
        "Apache-2.0",
        "Qwen/Qwen-Image",
        4,
        "lightning",
    )
    told = models_cli("list")
    assert (
        f"{FOUR}\n  LoRA for Qwen/Qwen-Image: pictures in 4 steps\n  4 steps, cfg_scale 1, schedule lightning\n" in told
    )
    assert told.count("licence: Apache-2.0") == len(catalog.MODELS)
    assert FOUR in models_cli("verify")
    models_cli("remove", FOUR, "--yes")
    assert not file.exists()


def test_a_run_fetches_it(machine: Mapping[str, str], stocked: Hub, tmp_path: Path) -> None:
    """Before anything is rendered."""
    manifest = tmp_path / "night.yaml"
    manifest.write_text(f"jobs:\n  - {{prompt: a, model: demo, size: 64x64, loras: [{FOUR}]}}\n")
    run(["-c", FOR_THE_DEMO, "render", str(manifest), "--outputs", str(tmp_path / "outputs")], machine)
    assert list(stocked.given) == [PART.files]
    assert (tmp_path / "models" / str(PART.repository) / PART.files).is_file()


def test_one_of_weight_0(machine: Mapping[str, str], stocked: Hub, tmp_path: Path) -> None:
    """It adds nothing: it is not fetched, and its picture is rendered without it."""
    manifest = tmp_path / "night.yaml"
    manifest.write_text(f"jobs:\n  - {{prompt: a, model: demo, size: 64x64, loras: [{{id: {FOUR}, weight: 0}}]}}\n")
    done = run(["-c", FOR_THE_DEMO, "render", str(manifest), "--outputs", str(tmp_path / "outputs")], machine)
    assert done.returncode == 0, done.stderr
    assert stocked.given == {}
    assert list((tmp_path / "outputs/night").glob("*.png"))


def test_one_that_cannot_be_had(machine: Mapping[str, str], tmp_path: Path) -> None:
    """It is a trouble of the pictures that want it, which says how to fetch it; the others are rendered."""
    assert machine
    terms = Terms(offline=True)
    with pytest.raises(ModelError) as caught:
        provision.obtain(provision.needs_of_extra(FOUR, terms), terms, lambda _need, _what: None, lambda: False)
    assert f"renderer models pull {FOUR}" in caught.value.hint
    plain = make_job()
    wanting = plain.model_copy(update={"loras": (Lora(source=FOUR, identity=FOUR),)})
    settings = Settings(outputs=tmp_path)
    troubles: dict[str, RendererError] = {FOUR: caught.value}
    with WorkerPool(LocalWorker, lambda _event: None) as pool:
        night = Night(settings, {}, {}, {}, None, pool, lambda _event: None, StopRequests(), troubles)
        assert night.refusal(wanting) is caught.value
        assert night.refusal(plain) is None
        without = wanting.loras[0].model_copy(update={"weight": 0.0})
        assert night.refusal(plain.model_copy(update={"loras": (without,)})) is None
    assert provision.needs_of_extra("mine.safetensors", terms) == []


def test_fused(machine: Mapping[str, str], tmp_path: Path) -> None:
    """`pack --lora` makes a store that a manifest names, and says how; weights must be as many as LoRAs."""
    lora = write_lora(tmp_path / "ink.safetensors", factors())
    command = ["-m", "renderer", "models", "pack", "demo", "--lora", str(lora)]
    refused = run([*command, "--weight", "1", "--weight", "2"], machine)
    assert (refused.returncode, "1 LoRAs, and 2 weights" in refused.stderr) == (2, True)
    done = run([*command, "--weight", "0.5"], machine)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f'a manifest names it so:\n  model: "demo+lora={lora}:0.5"\n')
    assert list((tmp_path / "models/packed").glob("demo+ink:0.5-*/fp8/index.json"))


def test_the_licence_of_what_was_fused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said at the model's line, as the model's own would be."""
    monkeypatch.chdir(tmp_path)
    write_lora(tmp_path / "nc.safetensors", factors(), {"modelspec.license": "CC-BY-NC-4.0"})
    path = tmp_path / "m.yaml"
    path.write_text('jobs:\n  - prompt: a\n    model: "demo+lora=nc.safetensors:1"\n')
    (warning,) = load(path).warnings
    assert (warning.line, warning.message) == (3, "nc.safetensors is not for commercial use (CC-BY-NC-4.0)")
