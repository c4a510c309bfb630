"""Families are data: every tensor has its place, and a second family needs nothing but its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from renderer import catalog, families
from renderer.catalog import Role
from renderer.errors import ModelError
from renderer.families import FAMILIES, Family
from renderer.families.qwen_image import shapes
from renderer.job import ModelIdentity, Stored
from renderer.weights import codecs, pack
from renderer.weights.index import read_index
from renderer.weights.layout import plan_files
from renderer.weights.store import Store, load, open_store
from renderer.weights.unpacked import unpacked
from tests.families import toy
from tests.weights import tiny

EVERY = pytest.mark.parametrize("family", [*FAMILIES.values(), toy.TOY], ids=lambda family: family.name)


class TestEvery:
    @EVERY
    def test_names_are_unique(self, family: Family) -> None:
        """Of sections in the family; of kinds of files in a network."""
        sections = [section.name for network in family.networks for section in network.sections]
        assert len(set(sections)) == len(sections)
        for network in family.networks:
            kinds = [part.kind for section in network.sections for part in section.parts]
            kinds += [outside.kind for outside in network.outside]
            assert len(set(kinds)) == len(kinds)
            assert {name for _, name in network.depths} <= {section.name for section in network.sections}

    @EVERY
    def test_names_there_and_back(self, family: Family) -> None:
        """A module's name of a tensor is read as the hub's again, and so is its name in a store."""
        known = family.shapes(catalog.DEMO_ARCHITECTURE)
        for file in plan_files(family, known, "bf16"):
            network = family.network(file.network)
            for tensor in file.tensors:
                assert network.own_name(file.kind, file.number, tensor.name) == tensor.source
                assert network.hub_name(network.module_name(tensor.source)) == tensor.source

    def test_the_catalogue(self) -> None:
        """Every model of it is of a family that is known."""
        assert {model.family for model in catalog.MODELS.values()} <= FAMILIES.keys()

    def test_found_by_tensors(self) -> None:
        """By the hub's names and by other tools'."""
        for role, own in tiny.SHAPES.items():
            assert families.of_tensors(role, own) is families.QWEN_IMAGE_FAMILY
        names = [f"model.diffusion_model.{name}" for name in tiny.SHAPES["transformer"]]
        assert families.of_tensors("transformer", names) is families.QWEN_IMAGE_FAMILY

    @pytest.mark.parametrize(
        ("layered", "colours", "why"),
        [(True, 4, ""), (False, 3, ""), (True, 3, "wants a VAE that knows"), (False, 4, "makes no layers")],
    )
    def test_layers_go_with_transparency(self, layered: bool, colours: int, why: str) -> None:  # noqa: FBT001
        """A transformer that takes pictures apart wants a VAE of four channels, and no other does."""
        found: dict[Role, families.Shapes] = {
            "transformer": shapes.transformer(shapes.TransformerWidths(layers=1, layered=layered)),
            "text_encoder": shapes.text_encoder(shapes.TextEncoderWidths(layers=1)),
            "vae": shapes.vae(shapes.VaeWidths(colours=colours)),
        }
        said = families.QWEN_IMAGE_FAMILY.unfit(found)
        assert why in said
        assert bool(why) is bool(said)

    def test_widths_of_a_member(self) -> None:
        """A member's shapes are those of its architecture, a block a section."""
        found = families.QWEN_IMAGE_FAMILY.shapes(catalog.QWEN_IMAGE_ARCHITECTURE)
        assert found["transformer"] == shapes.transformer(shapes.TransformerWidths(layers=1))
        assert found["text_encoder"] == shapes.text_encoder(shapes.TextEncoderWidths(layers=1))
        assert found["vae"] == shapes.vae(shapes.VaeWidths())


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy among the families, as a new one would stand there."""
    monkeypatch.setattr(families, "FAMILIES", {**FAMILIES, "toy": toy.TOY})


def packed(folder: Path, precision: Stored) -> Store:
    folder.mkdir()
    source, identity = toy.make(folder), ModelIdentity(id="toy", revision="1")
    pack.pack(source, folder / "tokenizer", folder / "packed", precision, identity, device="cpu")
    return open_store(folder / "packed")


@pytest.mark.usefixtures("known")
class TestASecond:
    """Its folder and its line among the families are all that it takes to pack it, and to open what was packed."""

    @pytest.mark.parametrize("precision", ["bf16", "fp8"])
    def test_two_kinds_of_blocks(self, tmp_path: Path, precision: Stored) -> None:
        """Each section has its files, each file what its section says, and no tensor is lost."""
        store = packed(tmp_path / "toy", precision)
        assert store.family is toy.TOY
        assert [file.number for file in store.all("transformer", "double")] == [0, 1]
        assert [file.number for file in store.all("transformer", "single")] == [0, 1, 2]
        names = [place.name for place in store.all("transformer", "double")[0].tensors]
        scales = ["img.qkv.scale", "txt.qkv.scale"] if precision == "fp8" else []
        assert names == ["img.qkv.weight", "txt.qkv.weight", *scales, "img.qkv.bias", "img.norm.scale"]
        assert store.all("transformer", "gate")[2].tensors[0].name == "gate.lin.weight"
        found = {
            (file.network, store.family.network(file.network).own_name(file.kind, file.number, name))
            for file in store.files
            for name in codecs.kept({place.name: place.dtype for place in file.tensors})
        }
        assert found == {(role, name) for role, names in toy.SHAPES.items() for name in names}

    @pytest.mark.parametrize("precision", ["bf16", "fp8"])
    def test_it_reads_like_its_store(self, tmp_path: Path, precision: Stored) -> None:
        """Unpacked, it has the store's files and bytes."""
        store = packed(tmp_path / "toy", precision)
        made = unpacked(toy.make(_new(tmp_path)), tmp_path / "toy/tokenizer", precision)
        ours = {(file.network, file.kind, file.number): file for file in made.files}
        for file in store.files:
            flat = torch.empty(file.bytes, dtype=torch.uint8)
            ours[file.network, file.kind, file.number].read_into(flat)
            whole = torch.cat([tensor.flatten().view(torch.uint8) for tensor in load(file).values()])
            assert torch.equal(flat, whole)

    def test_a_store_of_a_family_that_is_not_known(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Refused by the family's name: another version made it."""
        folder = packed(tmp_path / "toy", "bf16").folder
        assert read_index(folder).family == "toy"
        monkeypatch.setattr(families, "FAMILIES", FAMILIES)
        with pytest.raises(ModelError, match="a store of toy"):
            read_index(folder)

    def test_parts_of_two_families(self, tmp_path: Path) -> None:
        """A DiT of one family and a text encoder of another are no model."""
        mine = tiny.make(tmp_path / "tiny")
        folder = _new(tmp_path)
        source = {**mine.networks, "vae": toy.make(folder)["vae"]}
        with pytest.raises(ModelError, match="of Qwen-Image, and the vae is of Toy"):
            unpacked(source, mine.tokenizer, "bf16")

    @pytest.mark.parametrize("kind", ["single", "gate", "outside"])
    def test_what_lacks(self, tmp_path: Path, kind: str) -> None:
        """A store without a kind of file that its family has is not whole."""
        folder = packed(tmp_path / "toy", "bf16").folder
        index = read_index(folder)
        files = tuple(file for file in index.files if file.kind != kind)
        (folder / "index.json").write_text(index.model_copy(update={"files": files}).sealed().text())
        with pytest.raises(ModelError, match="does not list all parts"):
            open_store(folder)

    def test_a_file_of_a_kind_that_is_none(self, tmp_path: Path) -> None:
        """Nothing lies in a store that nobody asks for."""
        folder = packed(tmp_path / "toy", "bf16").folder
        index = read_index(folder)
        strange = index.files[0].model_copy(update={"kind": "strange"})
        files = (*index.files, strange)
        (folder / "index.json").write_text(index.model_copy(update={"files": files}).sealed().text())
        with pytest.raises(ModelError, match="does not list all parts"):
            open_store(folder)


def test_a_store_of_the_first_family_does_not_tell_it(tmp_path: Path) -> None:
    """Its index stays what versions read that knew of no other."""
    tiny.make(tmp_path / "source").pack(tmp_path / "packed", "bf16")
    assert '"family"' not in (tmp_path / "packed/index.json").read_text()
    assert read_index(tmp_path / "packed").family == "qwen-image"


def _new(folder: Path) -> Path:
    again = folder / "again"
    again.mkdir()
    return again
