"""Pictures with LoRAs, and back: what a picture tells is found again here, or left out with a word on why."""

from __future__ import annotations

from pathlib import Path

import pytest

from renderer.job import Keep, Lora, Shift
from renderer.manifest import replay
from renderer.manifest.labels import told
from renderer.manifest.labels.told import ToldLora
from renderer.manifest.refound import refind, refind_derived
from renderer.manifest.replay import ReplayEntry
from renderer.weights.adapters.whereabouts import file_hash_of, find_lora, named
from tests.loras import factors, write_lora
from tests.making import make_job
from tests.manifest.labels import making
from tests.outputs.test_metadata import write

LIGHTNING = "lightx2v/Qwen-Image-Lightning/4steps-V2.0"


@pytest.fixture(autouse=True)
def ink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A LoRA in the folder where they lie, from where the command is called."""
    monkeypatch.chdir(tmp_path)
    return write_lora(tmp_path / "loras/ink.safetensors", factors(seed=4))


def lora_of(path: Path, weight: float = 1.0) -> Lora:
    found = find_lora(str(path), Path())
    return Lora(source=path.name, identity=found.identity, weight=weight, file_hash=found.file_hash)


def entry_of(path: Path) -> ReplayEntry:
    (entry,) = replay.collect([path])
    assert isinstance(entry, ReplayEntry)
    return entry


@pytest.mark.parametrize("form", ["png", "webp", "jpeg"])
@pytest.mark.parametrize("schedule", ["qwen-image", "lightning", Shift(shift=2.5)])
def test_our_own(tmp_path: Path, ink: Path, form: str, schedule: object) -> None:
    """The same LoRA at the same weight, and the same schedule, from every format."""
    job = make_job().model_copy(update={"loras": (lora_of(ink, -0.5),), "schedule": schedule})
    entry = entry_of(write(tmp_path, job, Keep.model_validate({"format": form})))
    assert entry.notes == ()
    (lora,) = entry.made.job.loras
    assert (lora.identity, lora.weight, lora.file_hash) == (job.loras[0].identity, -0.5, job.loras[0].file_hash)
    assert entry.made.job.schedule == schedule


def test_a_schedule_without_loras(tmp_path: Path) -> None:
    job = make_job().model_copy(update={"schedule": Shift(shift=3.0)})
    assert entry_of(write(tmp_path, job)).made.job == job


def test_another_tool_s(tmp_path: Path, ink: Path) -> None:
    """A tag of AUTOMATIC1111's and its hash: the file of that name, if it is the one."""
    known = file_hash_of(ink)
    text = f'a cat <lora:ink:0.8>\nSteps: 8, Seed: 2, Size: 64x64, Model: demo, Lora hashes: "ink: {known}"'
    entry = entry_of(making.write(tmp_path, making.png(making.text("parameters", text)), "foreign.png"))
    assert (entry.made.job.prompt, entry.made.job.loras[0].weight) == ("a cat", 0.8)
    other = text.replace(known, "0" * 12)
    entry = entry_of(making.write(tmp_path, making.png(making.text("parameters", other)), "other.png"))
    assert entry.made.job.loras == ()
    assert "left out: LoRA ink at 0.8 (another file here)" in entry.notes


class TestRefind:
    def test_of_the_catalogue(self) -> None:
        """By its id, and by its file's name, which is what other tools have."""
        wanted = ({"id": LIGHTNING, "weight": 0.9}, "")
        assert refind(ToldLora(LIGHTNING, 0.9)) == wanted
        assert refind(ToldLora("Qwen-Image-Lightning-4steps-V2.0-bf16", 0.9)) == wanted

    def test_what_is_not_here(self) -> None:
        assert refind(ToldLora("pen", 0.5)) == (None, "LoRA pen at 0.5")

    def test_of_another_content(self, ink: Path) -> None:
        identity = lora_of(ink).identity
        assert refind(ToldLora("ink.safetensors", 1.0, identity=identity))[1] == ""
        assert (
            refind(ToldLora("ink.safetensors", 1.0, identity="0" * 64))[1]
            == "LoRA ink.safetensors at 1 (another file here)"
        )

    def test_a_weight_out_of_range(self) -> None:
        assert refind(ToldLora("ink", 40.0)) == (None, "LoRA ink at 40 (40.0 is out of range)")

    @pytest.mark.parametrize("name", ["", ".", "..", "../ink", "loras/ink", "/etc/passwd", "a\\b", "a\0b"])
    def test_a_name_is_a_name(self, name: str) -> None:
        """A stranger's picture chooses no folder."""
        assert named(name) is None

    def test_damaged(self, ink: Path) -> None:
        ink.write_bytes(b"x")
        assert "not a safetensors file" in refind(ToldLora("ink"))[1]


def test_strengths_of_either_sign(ink: Path) -> None:
    """A strength that is not told is 1; one that cannot be read leaves its LoRA out in words."""
    assert ink.is_file()
    given = [("sub\\ink.safetensors", -0.5), ("a/b/ink", "-0.25"), ("ink", None), ("ink", ["7", 0]), (3, 1.0)]
    found, unclear = told.loras(given)
    assert found == [ToldLora("ink", -0.5), ToldLora("ink", -0.25), ToldLora("ink", 1.0)]
    assert unclear == ["LoRA ink", "LoRA 3"]


def test_a_model_with_loras_in_it(tmp_path: Path) -> None:
    """By what its identity calls it; where a LoRA of it is not here, another model stands in, and a note says so."""
    entry = entry_of(write(tmp_path, make_job().model_copy(update={"model": "demo+ink:0.5"})))
    assert entry.made.job.model == f"demo+lora={tmp_path}/loras/ink.safetensors:0.5"
    assert entry.notes == (f"demo+ink:0.5 is taken for {entry.made.job.model}",)
    other = entry_of(write(tmp_path, make_job(side=512).model_copy(update={"model": "demo+pen:0.5"})))
    assert other.made.job.model == "Qwen/Qwen-Image"
    assert [refind_derived(name) for name in ("demo", "demo+", "demo+ink", "x+ink:1", "demo+ink:9")] == [""] * 5
