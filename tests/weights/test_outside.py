"""What a hub lists, and what links lead to: nothing outside the folder is written, read into a model or removed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from renderer.errors import ModelError
from renderer.weights import pull
from renderer.weights.pull import Errand, HubName
from tests.hub import COMMIT, Hub, serve
from tests.weights import tiny

REPOSITORY = "Qwen/Qwen-Image"
VOCABULARY = "tokenizer/vocab.json"
VICTIM = "tokenizer/../../../victim.txt"
BOTH: list[HubName] = ["huggingface", "modelscope"]

Bring = Callable[..., None]


@pytest.fixture
def bring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bring:
    """Fetch the tokenizer into `models/model` of a hub that lists these files, and lies about the hash of some."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hugging-face"))

    def run(files: dict[str, bytes], source: HubName = "huggingface", lie: str = "") -> None:
        with serve(Hub({REPOSITORY: files}, false_hashes={lie})) as hub:
            monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
            monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.endpoint)
            errand = Errand(REPOSITORY, COMMIT, ("tokenizer/*",), tmp_path / "models/model")
            pull.fetch(errand, pull.ask(errand, [source]), lambda _count: None)

    return run


class TestNames:
    @pytest.mark.parametrize("source", BOTH)
    def test_nothing_is_written_outside(self, bring: Bring, tmp_path: Path, source: HubName) -> None:
        """A name that climbs out of the folder is refused, with what the hub called it, before anything is fetched."""
        with pytest.raises(ModelError, match=r'lists "tokenizer/\.\./\.\./\.\./victim\.txt" in Qwen/Qwen-Image'):
            bring({VOCABULARY: b"{}", VICTIM: b"evil"}, source)
        assert not (tmp_path / "victim.txt").exists()
        assert not (tmp_path / "models/model" / VOCABULARY).exists()

    @pytest.mark.parametrize("source", BOTH)
    def test_nothing_is_removed_outside(self, bring: Bring, tmp_path: Path, source: HubName) -> None:
        """Nor is a file there, of the size that is listed and of another hash, taken for a damaged one of ours."""
        (tmp_path / "models/model/tokenizer").mkdir(parents=True)
        (tmp_path / "models/model" / VOCABULARY).write_bytes(b"{}")
        (tmp_path / "victim.txt").write_bytes(b"precious")
        with pytest.raises(ModelError, match="not a name of a file in its folder"):
            bring({VOCABULARY: b"{}", VICTIM: b"01234567"}, source, VICTIM)
        assert (tmp_path / "victim.txt").read_bytes() == b"precious"

    @pytest.mark.parametrize(
        "name",
        [
            *("tokenizer/../vocab.json", "tokenizer//vocab.json", "tokenizer/./vocab.json", "tokenizer/a/.."),
            *("tokenizer/~root/x", "tokenizer/..\\..\\x", "tokenizer/C:x", "tokenizer/a\nb", "tokenizer/\x00"),
        ],
    )
    def test_names_that_are_none(self, name: str) -> None:
        """What another system would take for a way out, or a terminal for a command, is no name either."""
        with pytest.raises(ModelError, match="not a name of a file"):
            pull._check_name(name, "huggingface", REPOSITORY)

    def test_names_that_are_some(self) -> None:
        for name in ("README.md", "tokenizer/vocab.json", "a/b..c/..d", ".gitattributes", "vae/mod\u00e8le 1.bin"):
            pull._check_name(name, "huggingface", REPOSITORY)


class TestLinks:
    @pytest.fixture
    def elsewhere(self, tmp_path: Path) -> Path:
        """A folder of somebody's, which the model's tokenizer is a link to."""
        folder = tmp_path / "elsewhere"
        folder.mkdir()
        (tmp_path / "models/model").mkdir(parents=True)
        (tmp_path / "models/model/tokenizer").symlink_to(folder)
        return folder

    @pytest.mark.parametrize("source", BOTH)
    def test_nothing_is_fetched_through_one(self, bring: Bring, elsewhere: Path, source: HubName) -> None:
        """A link that leads out of the folder is named, with where it leads."""
        with pytest.raises(ModelError, match=r"vocab\.json leads to .*elsewhere/vocab\.json") as caught:
            bring({VOCABULARY: b"{}"}, source)
        assert "remove the link" in caught.value.hint
        assert list(elsewhere.iterdir()) == []

    def test_nothing_is_removed_through_one(self, bring: Bring, elsewhere: Path) -> None:
        """A file of the wrong hash that lies elsewhere is refused, and stays."""
        (elsewhere / "vocab.json").write_bytes(b"01")
        with pytest.raises(ModelError, match="is not what huggingface says it is") as caught:
            bring({VOCABULARY: b"{}"}, lie=VOCABULARY)
        assert "it was left" in caught.value.hint
        assert (elsewhere / "vocab.json").read_bytes() == b"01"

    def test_a_model_that_lies_elsewhere_is_good(self, bring: Bring, elsewhere: Path) -> None:
        """Whole files behind a link are verified and taken as they are."""
        (elsewhere / "vocab.json").write_bytes(b"{}")
        bring({VOCABULARY: b"{}"})


class TestParts:
    def test_a_link_in_the_place_of_a_part(self, tmp_path: Path) -> None:
        """Where a store is to be made, a link is not emptied, filled or taken for the store."""
        home = tmp_path / "home"
        (home / "photos").mkdir(parents=True)
        (home / "thesis.txt").write_text("x")
        (home / "photos/a.jpg").write_text("y")
        source = tiny.make(tmp_path / "source")
        (tmp_path / "packed.part").symlink_to(home)
        with pytest.raises(ModelError, match=r"packed\.part is a link to .*home"):
            source.pack(tmp_path / "packed")
        assert sorted(path.name for path in home.rglob("*")) == ["a.jpg", "photos", "thesis.txt"]
        assert not (tmp_path / "packed").exists()

    def test_a_file_in_the_place_of_a_part(self, tmp_path: Path) -> None:
        """A file of that name stays too."""
        (tmp_path / "packed.part").write_text("mine")
        with pytest.raises(ModelError, match="is not a folder"):
            tiny.make(tmp_path / "source").pack(tmp_path / "packed")
        assert (tmp_path / "packed.part").read_text() == "mine"

    def test_links_within_a_part(self, tmp_path: Path) -> None:
        """Links in a part are removed, and what they lead to stays as it was."""
        home = tmp_path / "home"
        home.mkdir()
        (home / "vocab.json").write_text("mine")
        part = tmp_path / "packed.part"
        part.mkdir()
        (part / "tokenizer").symlink_to(home)
        (part / "transformer").symlink_to(home)
        tiny.make(tmp_path / "source").pack(tmp_path / "packed")
        assert [(path.name, path.read_text()) for path in home.iterdir()] == [("vocab.json", "mine")]
        assert not (tmp_path / "packed/tokenizer").is_symlink()
