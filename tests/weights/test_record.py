"""What was not verified to its end is not there, and what was verified for another revision is another model's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from renderer import catalog
from renderer.errors import ModelError
from renderer.weights import needs, places, prepare, pull
from renderer.weights.needs import Need
from renderer.weights.record import RECORD, Record, read_record
from tests.hub import Hub, serve

QWEN = catalog.QWEN_IMAGE
VAE = "vae/diffusion_pytorch_model.safetensors"
MERGES = "tokenizer/merges.txt"


@pytest.fixture(scope="module")
def files(demo_folder: Path) -> dict[str, bytes]:
    """The demo model's, by their names in a repository."""
    paths = [path for path in demo_folder.rglob("*") if path.is_file()]
    return {path.relative_to(demo_folder).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture
def hub(files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that has the demo model as Qwen/Qwen-Image; nothing is on this machine yet."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hugging-face"))
    monkeypatch.setenv("RENDERER_MODELS", str(tmp_path / "models"))
    with serve(Hub({QWEN.id: dict(files)})) as shop:
        monkeypatch.setenv("HF_ENDPOINT", shop.endpoint)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", shop.endpoint)
        yield shop


@pytest.fixture
def dead(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fetch that died when all had come and nothing was verified. The folder it left."""
    assert hub
    with monkeypatch.context() as patch:
        patch.setattr(pull, "_verify", die)
        with pytest.raises(KeyboardInterrupt):
            prepare.prepare(QWEN)
    return tmp_path / "models" / QWEN.id


def die(*_: object) -> None:
    raise KeyboardInterrupt


class TestDeadFetches:
    def test_it_is_not_there(self, dead: Path) -> None:
        """All names are there in full size, and none counts; each is named as missing."""
        assert (dead / VAE).is_file()
        assert not needs.is_met(Need(model=QWEN.id))
        missing = places.look(QWEN).missing
        assert {VAE, MERGES} <= set(missing)
        with pytest.raises(ModelError, match=VAE):
            prepare.prepare(QWEN, offline=True)

    def test_the_next_one_verifies(self, dead: Path, hub: Hub) -> None:
        """What has come is not fetched again, and is there once it has been read."""
        hub.given.clear()
        prepare.prepare(QWEN)
        assert needs.is_met(Need(model=QWEN.id))
        assert hub.given == {}
        assert read_record(dead).coming == frozenset()

    def test_damage_of_that_night_is_found(self, dead: Path) -> None:
        """A file that came damaged is refused by name and removed, and comes with the next call."""
        data = bytearray((dead / VAE).read_bytes())
        data[-1] ^= 1
        (dead / VAE).write_bytes(data)
        with pytest.raises(ModelError, match=f"{VAE} is not what huggingface says it is"):
            prepare.prepare(QWEN)
        prepare.prepare(QWEN)
        assert needs.is_met(Need(model=QWEN.id))

    def test_a_tokenizer_by_halves(self, dead: Path) -> None:
        """Two of its files do not make a tokenizer where there were to be more."""
        prepare.prepare(QWEN)
        extra = next(path for path in (dead / "tokenizer").iterdir() if path.name not in ("vocab.json", "merges.txt"))
        extra.unlink()
        assert places.look(QWEN).missing == [f"tokenizer/{extra.name}"]

    def test_a_file_that_was_cut_later(self, dead: Path) -> None:
        """A file that has no longer the size that was verified is missing."""
        prepare.prepare(QWEN)
        (dead / VAE).write_bytes((dead / VAE).read_bytes()[:-1])
        assert places.look(QWEN).missing == [VAE]


class TestRevisions:
    def test_the_catalogue_s_goes_up(self, hub: Hub, tmp_path: Path, files: dict[str, bytes]) -> None:
        """What was fetched for another revision is not taken; what differs is fetched, though it has the same size."""
        prepare.prepare(QWEN)
        later = replace(QWEN, revision="f" * 40)
        assert VAE in places.look(later).missing
        changed = bytearray(files[VAE])
        changed[-1] ^= 1
        merges = files[MERGES][:-2] + b"x\n"
        hub.files[QWEN.id] |= {VAE: bytes(changed), MERGES: merges}
        hub.revisions.add("f" * 40)
        hub.given.clear()
        prepare.prepare(later)
        assert set(hub.given) == {VAE, MERGES}
        assert (tmp_path / "models" / QWEN.id / VAE).read_bytes() == changed
        assert not places.look(later).lacking
        assert places.look(QWEN).lacking

    @pytest.mark.parametrize("wanted", [QWEN.revision, "f" * 40])
    def test_modelscope_s_has_no_commit(self, hub: Hub, monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
        """Of its `master` the record says for which revision it was taken."""
        assert hub
        monkeypatch.setenv("RENDERER_SOURCE", "modelscope")
        prepare.prepare(QWEN)
        assert bool(places.look(replace(QWEN, revision=wanted)).lacking) is (wanted != QWEN.revision)

    def test_what_the_later_one_has_no_more(self, hub: Hub, files: dict[str, bytes]) -> None:
        """A file that only the earlier revision had is forgotten, and not missed."""
        hub.files[QWEN.id] = {**files, "tokenizer/notes.txt": b"draft"}
        prepare.prepare(QWEN)
        hub.files[QWEN.id] = dict(files)
        hub.revisions.add("f" * 40)
        later = replace(QWEN, revision="f" * 40)
        prepare.prepare(later)
        assert not places.look(later).lacking

    def test_several_in_one_folder(self, hub: Hub, tmp_path: Path) -> None:
        """LoRAs of one repository, each of its own commit, are here beside one another; the record tells them apart."""
        four, eight = (catalog.MODELS[f"lightx2v/Qwen-Image-2512-Lightning/{steps}steps-V1.0"] for steps in (4, 8))
        four, eight = (
            replace(row, revision=commit, parts=(replace(row.parts[0], revision=commit),))
            for row, commit in ((four, "4" * 40), (eight, "8" * 40))
        )
        repository = four.parts[0].repository or ""
        hub.files[repository] = {row.parts[0].files: row.id.encode() for row in (four, eight)}
        hub.revisions |= {"4" * 40, "8" * 40}
        for row in (four, eight, four):
            prepare.prepare(row)
        assert hub.given == {row.parts[0].files: len(row.id) for row in (four, eight)}
        for row in (four, eight):
            assert not places.look(row).lacking
            prepare.prepare(row, offline=True)
        wanted = {name: each.wanted for name, each in read_record(tmp_path / "models" / repository).files.items()}
        assert wanted == {row.parts[0].files: row.revision for row in (four, eight)}


class TestOthers:
    def test_a_folder_without_a_record(
        self, demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What DiffSynth, another tool or somebody's hand has put there is taken as it is."""
        monkeypatch.setenv("RENDERER_MODELS", str(tmp_path / "models"))
        shutil.copytree(demo_folder, tmp_path / "models" / QWEN.id)
        assert not places.look(QWEN).lacking

    @pytest.mark.parametrize("told", [{}, {"wanted": QWEN.revision}])
    def test_a_record_of_an_earlier_version(self, hub: Hub, tmp_path: Path, told: dict[str, str]) -> None:
        """One that says of all files together what was wanted, or nothing: of Hugging Face it is the commit."""
        assert hub
        prepare.prepare(QWEN)
        path = tmp_path / "models" / QWEN.id / RECORD
        document = json.loads(path.read_text())
        del document["coming"]
        for file in document["files"].values():
            assert file.pop("wanted") == QWEN.revision
        path.write_text(json.dumps(document | told))
        assert {each.wanted for each in read_record(path.parent).files.values()} == {QWEN.revision}
        assert not places.look(QWEN).lacking
        assert places.look(replace(QWEN, revision="f" * 40)).lacking

    def test_nothing_is_doubted_where_nothing_is_known(self, tmp_path: Path) -> None:
        assert Record().doubts(["a"], "1", tmp_path) == []
