"""LoRAs in a model's own weights: added in float32 and rounded once, under an identity that names what went in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from renderer import catalog
from renderer.engine import resolve
from renderer.errors import ModelError
from renderer.job import ModelIdentity, Stored
from renderer.protocol import Setup
from renderer.system.files import sha256_of
from renderer.weights import originals, places, prepare
from renderer.weights.adapters.fusing import ToFuse, files_to_fuse
from renderer.weights.codecs.rows import ROW_CODERS
from renderer.weights.identity import identify
from renderer.weights.record import Record, Verified, write_record
from renderer.weights.store import Store, open_store
from renderer.weights.unpacked import unpacked
from tests.loras import SHAPES, TO_Q, factors, write_lora

FOUR = "lightx2v/Qwen-Image-Lightning/4steps-V2.0"
(PART,) = catalog.MODELS[FOUR].parts
NORM = "transformer_blocks.0.attn.norm_q"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A models folder of its own, and two LoRAs; a whole difference among them, which only fuses."""
    monkeypatch.setenv("RENDERER_MODELS", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    write_lora(Path("ink.safetensors"))
    write_lora(
        Path("whole.safetensors"),
        factors([TO_Q], seed=2)
        | {f"{NORM}.diff": np.full(32, 0.5, np.float32), "img_in.diff_b": np.full(160, 0.25, np.float32)},
    )


def packed(reference: str, precision: Stored = "bf16") -> Store:
    folder = prepare.prepare(catalog.find(reference), store=precision).store
    assert folder is not None
    return open_store(folder)


def tensor(store: Store, name: str) -> torch.Tensor:
    """A tensor of the DiT's, by its name in the hub's files, as the store keeps it."""
    network = store.family.network("transformer")
    for file in store.files:
        if file.network == "transformer":
            for place in file.tensors:
                if network.own_name(file.kind, file.number, place.name) == name:
                    return file.tensors_of([place.name])[place.name]
    raise AssertionError(name)


def base(demo_folder: Path) -> dict[str, torch.Tensor]:
    (path,) = (demo_folder / "transformer").glob("*.safetensors")
    return load_file(path)


class TestWeights:
    def test_added_in_float32_and_rounded_once(self, demo_folder: Path) -> None:
        """Each layer of both, at their weights; what neither touches keeps its bits."""
        store = packed("demo+lora=ink.safetensors:0.5+lora=whole.safetensors:-2")
        ink, whole = load_file("ink.safetensors"), load_file("whole.safetensors")
        before = base(demo_folder)
        for module in SHAPES:
            wanted = before[f"{module}.weight"].float()
            added = ink[f"{module}.lora_B.weight"] @ ink[f"{module}.lora_A.weight"] * 0.5
            if module == TO_Q:
                added = added + whole[f"{module}.lora_B.weight"] @ whole[f"{module}.lora_A.weight"] * -2
            assert torch.equal(tensor(store, f"{module}.weight"), (wanted + added).to(torch.bfloat16))
        norm = before[f"{NORM}.weight"].float() - 1.0
        assert torch.equal(tensor(store, f"{NORM}.weight"), norm.to(torch.bfloat16))
        assert torch.equal(tensor(store, "img_in.bias"), (before["img_in.bias"].float() - 0.5).to(torch.bfloat16))
        other = "transformer_blocks.3.attn.to_v.weight"
        assert torch.equal(tensor(store, other), before[other])

    def test_quantised_from_the_sum(self, demo_folder: Path) -> None:
        """At FP8, what is rounded is the sum in float32, not a bf16 of it."""
        store = packed("demo+lora=ink.safetensors", "fp8")
        ink, name = load_file("ink.safetensors"), f"{TO_Q}.weight"
        total = base(demo_folder)[name].float() + ink[f"{TO_Q}.lora_B.weight"] @ ink[f"{TO_Q}.lora_A.weight"]
        wanted = ROW_CODERS["fp8"].encode(total).parts["weight"]
        assert torch.equal(tensor(store, name).view(torch.uint8), wanted.view(torch.uint8))

    @pytest.mark.parametrize("precision", ["bf16", "fp8"])
    def test_a_checkpoint_reads_like_its_store(self, precision: Stored) -> None:
        """Opened without a store, it has the same bits; no file is taken as it was."""
        model = catalog.find("demo+lora=ink.safetensors:0.5")
        store = packed(model.id, precision)
        found = places.collect(places.look(model))
        live = unpacked(found.networks, found.tokenizer, precision, files_to_fuse(model))
        others = {(each.network, each.kind, each.number): each for each in live.files}
        for file in store.files:
            if file.network == "transformer" and file.number in (0, 1):
                other = others[file.network, file.kind, file.number]
                names = [place.name for place in file.tensors]
                one, two = file.tensors_of(names), other.tensors_of(names)
                assert all(torch.equal(one[name].view(torch.uint8), two[name].view(torch.uint8)) for name in names)
        assert not any(each.is_as_it_was for each in live.files if each.network == "transformer")

    def test_a_file_that_does_not_fit(self) -> None:
        """It is refused by its keys, and nothing is made."""
        write_lora(Path("flux.safetensors"), {f"double_blocks.{key}": each for key, each in factors().items()})
        with pytest.raises(ModelError, match="10 of its 10 keys fit none of the 76 layers"):
            packed("demo+lora=flux.safetensors")
        assert not list(Path("models").rglob("index.json"))


class TestIdentity:
    def test_it_names_what_went_in(self) -> None:
        """For people by names and weights; by content for all else: what was added, at which weight, to what."""
        store = packed("demo+lora=ink.safetensors:0.5")
        assert store.index.source.id == "demo+ink:0.5"
        Path("moved.safetensors").write_bytes(Path("ink.safetensors").read_bytes())
        same = identify(catalog.find("demo+lora=moved.safetensors:0.5"))
        assert same.is_of(store.index.source)
        others = [
            "demo+lora=ink.safetensors:0.6",
            "demo+lora=whole.safetensors:0.5",
            "demo+lora=ink.safetensors:0.5+lora=whole.safetensors",
        ]
        assert not any(identify(catalog.find(other)).is_of(store.index.source) for other in others)
        assert not identify(catalog.DEMO).is_of(store.index.source)

    def test_of_a_model_of_one_s_own(self, demo_folder: Path) -> None:
        model = catalog.find(f"{demo_folder}+lora=ink.safetensors:1")
        assert identify(model).content_sha256
        assert identify(model).id == f"{demo_folder.name}+ink:1"


class TestContent:
    """A store bears the identity of what is in it."""

    def test_it_says_what_went_in(self) -> None:
        """The LoRA's file is among its sources, by its hash."""
        sources = {source.name: source.sha256 for source in packed("demo+lora=ink.safetensors").index.sources}
        assert sources["lora/ink.safetensors"] == sha256_of(Path("ink.safetensors"))

    def test_one_that_changes_before_it_is_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """After it was asked what it is: no store is made; the next attempt makes that of the new file."""

        def identify_and_change(model: catalog.Model) -> ModelIdentity:
            found = identify(model)
            write_lora(Path("ink.safetensors"), factors(seed=7))
            return found

        with monkeypatch.context() as patch:
            patch.setattr(prepare, "identify", identify_and_change)
            with pytest.raises(ModelError, match=r"ink\.safetensors: has changed while it was read"):
                packed("demo+lora=ink.safetensors")
        assert not list(Path("models").rglob("index.json"))
        assert packed("demo+lora=ink.safetensors").index.source.is_of(
            identify(catalog.find("demo+lora=ink.safetensors"))
        )

    def test_a_catalogue_s_that_is_not_what_the_hub_said(self) -> None:
        """Its identity is its commit, so its content is held against the record of its fetch."""
        path = write_lora(Path("models") / str(PART.repository) / PART.files)
        known = Verified(path.stat().st_size, sha256_of(path), PART.revision)
        write_record(path.parent, Record("huggingface", PART.revision, {PART.files: known}))
        data = bytearray(path.read_bytes())
        data[-2] ^= 1
        path.write_bytes(data)
        with pytest.raises(ModelError, match=f"{PART.files}: damaged"):
            packed(f"demo+lora={FOUR}")
        assert not list(Path("models").rglob("index.json"))

    def test_an_interrupted_pack_is_of_one_content(self, demo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What was packed with another file is packed again, though the catalogue's id and commit are the same."""
        path = write_lora(Path("models") / str(PART.repository) / PART.files)
        with monkeypatch.context() as patch:
            patch.setattr(originals, "sources_of_fused", die)
            with pytest.raises(KeyboardInterrupt):
                packed(f"demo+lora={FOUR}")
        write_lora(path, factors(seed=7))
        added = load_file(path)
        wanted = base(demo_folder)[f"{TO_Q}.weight"].float()
        wanted += added[f"{TO_Q}.lora_B.weight"] @ added[f"{TO_Q}.lora_A.weight"]
        assert torch.equal(tensor(packed(f"demo+lora={FOUR}"), f"{TO_Q}.weight"), wanted.bfloat16())

    def test_one_that_changes_before_it_is_opened(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a store, too: what is opened is what was planned."""
        reference = "demo+lora=ink.safetensors"
        setup = Setup(
            model=reference, identity=identify(catalog.find(reference)), precision="bf16", profile="cpu", offline=True
        )
        assert resolve.weights_of(setup, catalog.find(reference), lambda _text: None)

        def change_and_find(model: catalog.Model) -> ToFuse:
            write_lora(Path("ink.safetensors"), factors(seed=7))
            return files_to_fuse(model)

        monkeypatch.setattr(resolve, "files_to_fuse", change_and_find)
        with pytest.raises(ModelError, match="are others than when this was planned"):
            resolve.weights_of(setup, catalog.find(reference), lambda _text: None)


def die(*_: object) -> None:
    raise KeyboardInterrupt


class TestReferences:
    def test_a_catalogue_s_model(self) -> None:
        """Its parts are the catalogue's; a LoRA of the catalogue is fetched with them, and brings its settings."""
        model = catalog.find(f"Qwen/Qwen-Image+lora={FOUR}:1+lora=ink.safetensors:0.5")
        assert (model.steps, model.cfg_scale, model.schedule) == (4, 1.0, "lightning")
        assert [(part.role, part.repository) for part in model.parts] == [
            ("transformer", "Qwen/Qwen-Image"),
            ("text_encoder", "Qwen/Qwen-Image"),
            ("vae", "Qwen/Qwen-Image"),
            ("tokenizer", "Qwen/Qwen-Image"),
            ("lora", "lightx2v/Qwen-Image-Lightning"),
        ]
        assert all(part.revision for part in model.parts)
        assert catalog.find(model.reference) == model

    def test_one_that_was_not_fetched(self, demo_folder: Path) -> None:
        """Of a folder of one's own, too, a catalogue's LoRA is a part: it is missed by name, and the way to it told."""
        model = catalog.find(f"{demo_folder}+lora={FOUR}")
        with pytest.raises(ModelError, match=f"lacks {PART.repository}/{PART.files}, and") as caught:
            prepare.prepare(model, offline=True)
        assert f"renderer models pull {demo_folder}+lora={FOUR}" in caught.value.hint
        write_lora(Path("models") / str(PART.repository) / PART.files)
        assert not places.look(model).lacking

    @pytest.mark.parametrize(
        ("reference", "said"),
        [
            ("demo+lora=", 'the LoRA "" is not there'),
            ("demo+lora=pen.safetensors:1", 'the LoRA "pen.safetensors" is not there'),
            ("demo+lora=ink.safetensors:0", "the weight 0 of"),
            ("demo+lora=ink.safetensors:5", "the weight 5 of"),
            ("demo+lora=Qwen/Qwen-Image:1", "is a model, and not a LoRA"),
            ("demmo+lora=ink.safetensors:1", 'there is no model "demmo"'),
            ("Qwen/Qwen-Image@abc+lora=ink.safetensors:1", "the catalogue's revision"),
        ],
    )
    def test_refused(self, reference: str, said: str) -> None:
        with pytest.raises(ModelError) as caught:
            catalog.find(reference)
        assert said in caught.value.message
