"""Fingerprints for good: the same job is the same picture in every version that renders it alike, field by field."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from renderer import catalog
from renderer.job import ControlNet, Input, Job, Lora, ModelIdentity, Region, Shift, fingerprint
from renderer.weights.hashes import file_hashes
from renderer.weights.identity import identify
from tests.making import make_job

QWEN = ModelIdentity(id="Qwen/Qwen-Image", revision="75e0b4be04f60ec59a75f475837eced720f823b6")
DEMO = ModelIdentity(id="demo", revision="2")
OWN = ModelIdentity(id="mine", content_sha256="ab" * 32)
INK = Lora(source="a", identity="cd" * 32)
EDGES = ControlNet(source="a", identity="cd" * 32, image=Input(sha256="ab" * 32, width=8, height=8))
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


def a_job(**changes: Any) -> Job:
    """The job that the golden ones differ from."""
    return make_job().model_copy(update={"cfg_scale": 4.0, **changes})


JOBS: Mapping[str, tuple[Job, ModelIdentity]] = {
    "the demo model's": (a_job(), DEMO),
    "another seed": (a_job(seed=2**63 - 1), DEMO),
    "FP8": (a_job(precision="fp8"), QWEN),
    "FP8 weights": (a_job(precision="fp8-weights"), QWEN),
    "another revision": (a_job(), ModelIdentity(id="Qwen/Qwen-Image", revision="main")),
    "a negative prompt": (a_job(negative_prompt="blurred"), QWEN),
    "no guidance": (a_job(cfg_scale=1.0), QWEN),
    "another alphabet": (a_job(prompt='\u732b \u2603 \u00e9\n"quoted"'), QWEN),
    "large": (a_job(width=1664, height=928, num_inference_steps=40, cfg_scale=2.5), QWEN),
    "one's own": (a_job(), OWN),
}

GOLDEN: Mapping[str, str] = {
    "the demo model's": "ad7120bc978193a0720954b85f35df2c187a78ddfdb1d45be9a53f23606aa691",
    "another seed": "17eea09d33f756382885c860511193b127b7bfc5365650613029bfb4eab10931",
    "FP8": "fc216fb21b5788c4076d0bb04402c81714ffc17a1158271900f3d6ee9c14ec77",
    "FP8 weights": "712affd574bcb8a9bf8ca903fc2d045bbc82e5000111784d5308f855ac40827c",
    "another revision": "8eebb24df5cf71cfdbe5c1d13f898c096f431bedb54e8644f058be1a014d15cf",
    "a negative prompt": "358a5eedf1242edac87149fc443523c197000c1094fda5f1de33a02763f296b3",
    "no guidance": "8dcfd9cbd7d74a193f532775a18eba9cc23fb32f9a4a9ea1dba7c511ab63838a",
    "another alphabet": "57436d2bd637e493fd8f774017e6ea7dd03ff2e227ffd32aa1df7625ffc4b792",
    "large": "8bd6ddf43e7f2d0424e858224c097847f1150c2b0732ad7caa8024af42bccc40",
    "one's own": "282dbdc3b24e58159259afb59f6a068c950266fa5bcfe6e197812e4730231eb8",
}
"""Of rendering version 2. Never change one: add a field with a default to a job, and these stay what they are."""


def mark(job: Job, model: ModelIdentity) -> str:
    return fingerprint(job, model)


class TestGolden:
    @pytest.mark.parametrize("name", JOBS)
    def test_for_good(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """What was a picture's fingerprint once is it for ever, until the rendering version goes up."""
        monkeypatch.setattr("renderer.job.request.RENDERING_VERSION", 2)
        assert mark(*JOBS[name]) == GOLDEN[name]

    def test_all_differ(self) -> None:
        assert len({mark(*each) for each in JOBS.values()}) == len(JOBS) == 10


class LaterJob(Job):
    """A job as it may be once, with more fields."""

    strength: float = 1.0
    masks: tuple[str, ...] = ()


class TestFields:
    def test_one_that_is_added(self) -> None:
        """At its default a younger field is not told, whether it was said or not; at anything else it is."""
        before = a_job()
        later = LaterJob.model_validate(before.model_dump())
        said = LaterJob.model_validate({**before.model_dump(), "strength": 1.0, "masks": []})
        other = LaterJob.model_validate({**before.model_dump(), "masks": ["ink"]})
        assert mark(later, QWEN) == mark(said, QWEN) == mark(before, QWEN) != mark(other, QWEN)

    @pytest.mark.parametrize("name", [name for name in Job.model_fields if name != "model"])
    def test_each_counts(self, name: str) -> None:
        """No field that there is now is left out, also at a value that may become a default."""
        found: dict[str, Any] = {
            "precision": "fp8",
            "prompt": "b",
            "negative_prompt": "b",
            "cfg_scale": 1.0,
            "loras": (INK,),
            "controlnets": (EDGES,),
            "schedule": "lightning",
        }
        changed = a_job(**{name: found.get(name, 128)})
        assert mark(changed, QWEN) != mark(a_job(), QWEN)

    def test_loras(self) -> None:
        """One counts by what it holds and how it is weighed, in its place; not by where it lies, nor at weight 0."""
        moved, weaker, off = (INK.model_copy(update=each) for each in ({"source": "b"}, {"weight": 0.5}, {"weight": 0}))
        other = INK.model_copy(update={"identity": "ef" * 32})
        assert mark(a_job(loras=(INK,)), QWEN) == mark(a_job(loras=(moved, off)), QWEN)
        assert mark(a_job(loras=(off,)), QWEN) == mark(a_job(), QWEN)
        sets = ((INK,), (weaker,), (other,), (INK, other), (other, INK))
        assert len({mark(a_job(loras=each), QWEN) for each in sets}) == 5

    def test_controlnets(self) -> None:
        """One counts by what it holds, what it looks at and how; not by where it lies, nor at scale 0."""
        changes: list[dict[str, Any]] = [
            *({"identity": "ef" * 32}, {"scale": 0.5}, {"start": 0.2}, {"end": 0.5}, {"mask": EDGES.image}),
            {"image": EDGES.image.model_copy(update={"sha256": "ef" * 32})},
        ]
        marks = [mark(a_job(controlnets=(EDGES.model_copy(update=each),)), QWEN) for each in [{}, *changes]]
        assert len(set(marks)) == 1 + len(changes)
        moved, off = (EDGES.model_copy(update=each) for each in ({"source": "b"}, {"scale": 0.0}))
        assert mark(a_job(controlnets=(off, moved)), QWEN) == marks[0]
        assert mark(a_job(controlnets=(off,)), QWEN) == mark(a_job(), QWEN)

    def test_regions(self) -> None:
        """Each counts by its prompt and its mask, in its place."""
        one, other = (Region(prompt=prompt, mask=EDGES.image) for prompt in ("a ball", "the sky"))
        moved = one.model_copy(update={"mask": EDGES.image.model_copy(update={"sha256": "ef" * 32})})
        sets = ((), (one,), (moved,), (one, other), (other, one))
        assert len({mark(a_job(regions=each), QWEN) for each in sets}) == len(sets)

    def test_schedules(self) -> None:
        """A shift counts by its value; the model's own schedule was every job's before there were others."""
        schedules = ("qwen-image", "lightning", Shift(shift=3.0), Shift(shift=2.0))
        marks = [mark(a_job(schedule=each), QWEN) for each in schedules]
        assert len(set(marks)) == 4
        assert marks[0] == mark(a_job(), QWEN)

    def test_a_negative_prompt_without_guidance(self) -> None:
        """What is never encoded is nothing of the picture."""
        plain, negative = (a_job(cfg_scale=1.0, negative_prompt=text) for text in ("", "blurred"))
        assert mark(plain, QWEN) == mark(negative, QWEN)

    def test_a_name_of_weights_that_are_known_by_content(self) -> None:
        """It counts where it is all that tells weights apart."""
        moved = ModelIdentity(id="moved", content_sha256=OWN.content_sha256)
        assert mark(a_job(model="here/mine"), OWN) == mark(a_job(model="there/moved"), moved)
        assert mark(a_job(), DEMO) != mark(a_job(), ModelIdentity(id="other", revision="2"))


# ---- weights of one's own --------------------------------------------------------------------------------------------


@pytest.fixture
def own(demo_folder: Path, tmp_path: Path) -> Path:
    """A folder in Qwen-Image's layout."""
    return shutil.copytree(demo_folder, tmp_path / "mymodel")


def content(reference: Path | str) -> str | None:
    return identify(catalog.find(str(reference))).content_sha256


def move(own: Path) -> Path:
    return own.rename(own.with_name("renamed"))


def stray(own: Path) -> Path:
    """Files that no tokenizer reads."""
    (own / "tokenizer/.DS_Store").write_bytes(b"x")
    (own / "tokenizer/README.md").write_text("a tokenizer")
    return own


def shard(own: Path) -> Path:
    """The transformer in two files, of other names."""
    path = own / TRANSFORMER
    tensors = load_file(path)
    names = sorted(tensors)
    path.unlink()
    for number, part in enumerate((names[:40], names[40:]), start=1):
        shard = path.with_name(f"diffusion_pytorch_model-0000{number}-of-00002.safetensors")
        save_file({name: tensors[name] for name in part}, shard)
    return own


def prefix(own: Path) -> Path:
    """The text encoder under the names that transformers gives it, with an output layer that no picture needs."""
    path = own / "text_encoder/model.safetensors"
    tensors = load_file(path)
    tensors.pop("lm_head.weight", None)

    def renamed(name: str) -> str:
        return name if name.startswith("visual.") else name.replace("model.", "model.language_model.", 1)

    save_file({renamed(name): tensor for name, tensor in tensors.items()}, path)
    return own


def describe(own: Path) -> Path:
    """Metadata of another tool."""
    save_file(load_file(own / TRANSFORMER), own / TRANSFORMER, {"trained_by": "somebody"})
    return own


def one_value(own: Path) -> Path:
    tensors = load_file(own / TRANSFORMER)
    tensors["proj_out.weight"][0, 0] += 1
    save_file(tensors, own / TRANSFORMER)
    return own


def one_type(own: Path) -> Path:
    save_file(
        {name: tensor.to(torch.float32) for name, tensor in load_file(own / TRANSFORMER).items()}, own / TRANSFORMER
    )
    return own


def one_merge(own: Path) -> Path:
    path = own / "tokenizer/merges.txt"
    path.write_bytes(path.read_bytes()[:-3] + b"\n")
    return own


class TestWeights:
    @pytest.mark.parametrize("change", [move, stray, shard, prefix, describe])
    def test_what_does_not_matter(self, own: Path, change: Callable[[Path], Path]) -> None:
        """The same tensors are the same model, however they are called, cut up and surrounded."""
        before = content(own)
        assert content(change(own)) == before

    @pytest.mark.parametrize("change", [one_value, one_type, one_merge])
    def test_what_does(self, own: Path, change: Callable[[Path], Path]) -> None:
        before = content(own)
        assert content(change(own)) != before

    def test_a_single_file_s_name(self, own: Path) -> None:
        """A single file may be renamed; another part's place it cannot take."""
        path = own / TRANSFORMER
        before = content(f"transformer={path}")
        other = shutil.copy(path, own / "other.safetensors")
        assert content(f"transformer={other}") == before


class TestMemory:
    def test_another_file_of_the_same_size_and_time(self, own: Path) -> None:
        """Another fine-tune moved into its place with size and time kept, as rsync and cp -p do, is another model."""
        path = own / TRANSFORMER
        before, stat = content(f"transformer={path}"), path.stat()
        other = own / "other.safetensors"
        tensors = load_file(path)
        save_file({**tensors, "proj_out.weight": tensors["proj_out.weight"] * 3}, other)
        os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert other.stat().st_size == stat.st_size
        other.replace(path)
        assert content(f"transformer={path}") != before

    def test_written_over_in_place_and_dated_back(self, own: Path) -> None:
        """The same inode with the same size and time of change is read again as well."""
        path = own / TRANSFORMER
        before, stat = content(f"transformer={path}"), path.stat()
        with path.open("r+b") as stream:
            stream.seek(-1, os.SEEK_END)
            last = stream.read(1)
            stream.seek(-1, os.SEEK_END)
            stream.write(bytes([last[0] ^ 1]))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)
        assert content(f"transformer={path}") != before

    def test_what_has_not_changed_is_not_read_again(self, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = content(own)
        (whole,) = file_hashes([own / TRANSFORMER])
        monkeypatch.setattr("os.pread", None)
        assert content(own) == before
        assert file_hashes([own / TRANSFORMER]) == [whole]

    def test_a_memory_that_is_none(self, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Damaged, of an earlier version or of somebody's hand: files are read."""
        monkeypatch.setenv("RENDERER_CACHE", str(tmp_path / "cache"))
        (tmp_path / "cache").mkdir()
        before = content(own)
        key = str((own / TRANSFORMER).resolve())
        for memory in ("", "[]", "{", json.dumps({key: [1, 2, "x"]}), json.dumps({key: {"stand": 3}})):
            (tmp_path / "cache/file-hashes.json").write_text(memory)
            assert content(own) == before
