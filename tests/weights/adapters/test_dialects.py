"""Every dialect that tools write LoRAs in: its keys land, and its factors are what its own library adds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffsynth.utils.lora import GeneralLoRALoader
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from renderer import catalog
from renderer.errors import ModelError
from renderer.weights.adapters import packed
from renderer.weights.adapters.alphas import Alphas, told_alphas
from renderer.weights.adapters.factors import difference_of, factors_of
from renderer.weights.adapters.landing import LoraLayer, land
from renderer.weights.adapters.targets import Targets, targets_of
from tests.loras import MLP, SHAPES, TO_Q, WIDTH, Tensors, factors, write_lora

OUTSIDE = "time_text_embed.timestep_embedder.linear_1"


@pytest.fixture(scope="module")
def demo() -> Targets:
    return targets_of(catalog.DEMO)


def with_alphas(tensors: Tensors, alpha: float, down: str) -> Tensors:
    """The tensors, and an alpha beside each pair of factors."""
    stems = [name.removesuffix(down) for name in tensors if name.endswith(down)]
    return tensors | {f"{stem}.alpha": np.array(alpha, np.float32) for stem in stems}


def renamed(tensors: Tensors, name: Callable[[str], str]) -> Tensors:
    return {name(key): tensor for key, tensor in tensors.items()}


def flattened(key: str) -> str:
    """A module's name as kohya has it, and the ending as it was."""
    module = next(each for each in SHAPES if key.startswith(f"{each}."))
    return module.replace(".", "_") + key.removeprefix(module)


def kohya(prefix: str) -> Tensors:
    plain = with_alphas(factors(down=".lora_down.weight", up=".lora_up.weight"), 2.0, ".lora_down.weight")
    return renamed(plain, lambda key: prefix + flattened(key))


def lightning() -> Tensors:
    return with_alphas(factors(down=".lora_down.weight", up=".lora_up.weight"), 8.0, ".lora_down.weight")


DIALECTS: Mapping[str, tuple[str, Callable[[], Tensors]]] = {
    "peft": ("peft", lambda: renamed(factors(), lambda key: f"base_model.model.{key}")),
    "diffusers": ("peft", lambda: renamed(factors(), lambda key: f"transformer.{key}")),
    "diffusers of old": (
        "peft",
        lambda: renamed(factors(down=".lora.down.weight", up=".lora.up.weight"), lambda key: f"transformer.{key}"),
    ),
    "DiffSynth": ("DiffSynth", lambda: factors(down=".lora_A.default.weight", up=".lora_B.default.weight")),
    "DiffSynth of old": (
        "DiffSynth",
        lambda: renamed(
            factors(down=".lora_A.default.weight", up=".lora_B.default.weight"), lambda key: f"pipe.dit.{key}"
        ),
    ),
    "ComfyUI": ("ComfyUI", lambda: renamed(lightning(), lambda key: f"diffusion_model.{key}")),
    "kohya, musubi": ("kohya", lambda: kohya("lora_unet_")),
    "OneTrainer": ("kohya", lambda: kohya("lora_transformer_")),
    "LyCORIS's LoRA": ("LyCORIS", lambda: kohya("lycoris_")),
    "Lightning": ("Lightning", lightning),
}
"""Ways of writing the same five layers: what each is called, and its file."""


class TestTwoFactors:
    @pytest.mark.parametrize("name", DIALECTS)
    def test_every_key_lands(self, tmp_path: Path, demo: Targets, name: str) -> None:
        dialect, make = DIALECTS[name]
        adapter = land(write_lora(tmp_path / "a.safetensors", make()), demo)
        assert adapter.layers.keys() == SHAPES.keys()
        assert {layer.rank for layer in adapter.layers.values()} == {4}
        assert (adapter.dialect, adapter.why_not_riding) == (dialect, "")

    @pytest.mark.parametrize("name", ["diffusers", "DiffSynth", "ComfyUI", "Lightning"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_as_diffsynth_has_them(self, tmp_path: Path, demo: Targets, name: str, dtype: torch.dtype) -> None:
        """Both factors are those of DiffSynth's own loader, to the bit, whatever the file's type and its alpha."""
        tensors = {key.removeprefix("transformer."): each for key, each in DIALECTS[name][1]().items()}
        alphas = {key: np.array(3.0, np.float32) for key in tensors if key.endswith(".alpha")}
        path = write_lora(tmp_path / "a.safetensors", tensors | alphas)
        save_file({key: tensor.to(dtype) for key, tensor in load_file(path).items()}, path)
        own = {key: tensor.to(torch.bfloat16) for key, tensor in load_file(path).items()}
        theirs = GeneralLoRALoader(torch_dtype=torch.bfloat16).convert_state_dict(own)
        for module, layer in land(path, demo).layers.items():
            down, up = factors_of(layer, None)
            assert torch.equal(down, theirs[f"{module}.lora_A.weight"])
            assert torch.equal(up, theirs[f"{module}.lora_B.weight"])

    def test_outside_of_blocks(self, tmp_path: Path, demo: Targets) -> None:
        """What stands before and after the blocks is looked up in the same dictionary, flattened too."""
        shape = demo.weights[OUTSIDE]
        tensors = {
            f"lora_unet_{OUTSIDE.replace('.', '_')}.lora_down.weight": np.ones((2, shape[1]), np.float32),
            f"lora_unet_{OUTSIDE.replace('.', '_')}.lora_up.weight": np.ones((shape[0], 2), np.float32),
        }
        assert land(write_lora(tmp_path / "a.safetensors", tensors), demo).layers.keys() == {OUTSIDE}

    def test_no_two_layers_are_flattened_alike(self) -> None:
        """Of every model that renders; so a flattened name means one layer or none."""
        for model in catalog.MODELS.values():
            if not model.unfit:
                found = targets_of(model)
                assert len(found.flat) == len(found.weights)


class TestAlphas:
    def test_in_the_metadata(self, tmp_path: Path) -> None:
        """Diffusers says of the whole file what kohya says of each layer."""
        told = {"transformer.lora_alpha": 8, "transformer.r": 4, "transformer.alpha_pattern": {"attn.to_q": 2}}
        path = write_lora(tmp_path / "a.safetensors", metadata={"lora_adapter_metadata": json.dumps(told)})
        alphas = told_alphas(path, {"lora_adapter_metadata": json.dumps(told)})
        assert alphas is not None
        assert (alphas.scale("transformer_blocks.1.attn.to_k", 4), alphas.scale(TO_Q, 4)) == (2.0, 0.5)

    def test_the_root_of_the_rank(self, tmp_path: Path) -> None:
        text = json.dumps({"lora_alpha": 8, "r": 4, "use_rslora": True})
        alphas = told_alphas(tmp_path / "a.safetensors", {"lora_adapter_metadata": text})
        assert alphas is not None
        assert alphas.scale(TO_Q, 4) == 4.0

    @pytest.mark.parametrize(
        "text", ["", "[]", "3", "{", '{"lora_alpha": "much"}', '{"lora_alpha": 1, "r": 0}', "[" * 9999]
    )
    def test_what_cannot_be_understood(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(ModelError, match="alphas cannot be understood"):
            told_alphas(tmp_path / "a.safetensors", {"lora_adapter_metadata": text})

    def test_it_is_part_of_which_it_is(self, tmp_path: Path) -> None:
        """The same tensors at another strength are another LoRA."""
        from renderer.weights.adapters.whereabouts import identity_of  # noqa: PLC0415

        plain = identity_of(write_lora(tmp_path / "a.safetensors"))
        strong = {"lora_adapter_metadata": json.dumps({"lora_alpha": 8})}
        assert identity_of(write_lora(tmp_path / "b.safetensors", metadata=strong)) != plain
        assert identity_of(write_lora(tmp_path / "c.safetensors", metadata={"format": "pt"})) == plain


# ---- products of products --------------------------------------------------------------------------------------------


def draws(**shapes: tuple[int, ...]) -> Tensors:
    draw = np.random.default_rng(5)
    return {name: draw.standard_normal(shape, np.float32) / 4 for name, shape in shapes.items()}


def lycoris(tensors: Tensors, alpha: float | None = None, module: str = TO_Q) -> Tensors:
    stem = f"lycoris_{module.replace('.', '_')}"
    own = {f"{stem}.{name}": tensor for name, tensor in tensors.items()}
    return own if alpha is None else own | {f"{stem}.alpha": np.array(alpha, np.float32)}


LOKR: Mapping[str, tuple[Tensors, float | None, int]] = {
    "both whole": (draws(lokr_w1=(8, 8), lokr_w2=(20, 20)), 99.0, 160),
    "a pair": (draws(lokr_w1=(8, 4), lokr_w2_a=(20, 3), lokr_w2_b=(3, 40)), 6.0, 12),
    "a pair, wide": (draws(lokr_w1=(4, 8), lokr_w2_a=(40, 3), lokr_w2_b=(3, 20)), 6.0, 12),
    "two pairs": (draws(lokr_w1_a=(8, 2), lokr_w1_b=(2, 8), lokr_w2_a=(20, 3), lokr_w2_b=(3, 20)), 1.5, 6),
    "the first a pair": (draws(lokr_w1_a=(40, 2), lokr_w1_b=(2, 40), lokr_w2=(4, 4)), None, 8),
}

HADA_B = dict.fromkeys(("hada_w1_b", "hada_w2_b"), (2, WIDTH))


class TestLyCORIS:
    @pytest.mark.parametrize("name", LOKR)
    def test_lokr(self, tmp_path: Path, demo: Targets, name: str) -> None:
        """A Kronecker product, and two factors that give the same; alpha counts by the rank that LyCORIS takes."""
        tensors, alpha, rank = LOKR[name]
        (layer,) = land(write_lora(tmp_path / "a.safetensors", lycoris(tensors, alpha)), demo).layers.values()
        parts = {key: torch.from_numpy(tensor) for key, tensor in tensors.items()}
        one, other = (
            parts[f"lokr_w{n}"] if f"lokr_w{n}" in parts else parts[f"lokr_w{n}_a"] @ parts[f"lokr_w{n}_b"]
            for n in (1, 2)
        )
        dim = next((parts[key].shape[0] for key in ("lokr_w2_b", "lokr_w1_b") if key in parts), None)
        wanted = torch.kron(one, other) * (alpha / dim if alpha is not None and dim else 1.0)
        check(layer_of(layer), wanted, rank)

    def test_loha(self, tmp_path: Path, demo: Targets) -> None:
        """The product, value by value, of two products."""
        tensors = draws(hada_w1_a=(WIDTH, 3), hada_w1_b=(3, WIDTH), hada_w2_a=(WIDTH, 4), hada_w2_b=(4, WIDTH))
        (layer,) = land(write_lora(tmp_path / "a.safetensors", lycoris(tensors, 1.5)), demo).layers.values()
        one, two, three, four = map(torch.from_numpy, tensors.values())
        check(layer_of(layer), (one @ two) * (three @ four) * (1.5 / 3), 12)

    def test_too_much_to_ride(self, tmp_path: Path, demo: Targets) -> None:
        """A product whose two factors would be nearly as large as the layer is for fusing alone."""
        module = "transformer_blocks.2.img_mlp.net.0.proj"
        tensors = lycoris(draws(lokr_w1=(8, 8), lokr_w2=(80, 20)), module=module)
        adapter = land(write_lora(tmp_path / "a.safetensors", tensors), demo)
        assert adapter.why_not_riding == ""
        tensors = lycoris(draws(lokr_w1_a=(MLP // 4, 65), lokr_w1_b=(65, 40), lokr_w2=(4, 4)), module=module)
        adapter = land(write_lora(tmp_path / "a.safetensors", tensors), demo)
        assert adapter.why_not_riding == (
            "1 of its 1 layers cannot be added as a picture is rendered: a LoKr of rank 260"
        )

    @pytest.mark.parametrize("name", ["LoKr", "LoHa"])
    def test_fusing_forms_nothing_larger_than_the_layer(self, tmp_path: Path, demo: Targets, name: str) -> None:
        """Of joint rank 576, two factors would be over three times as large each as the layer is."""
        tensors = {
            "LoKr": draws(lokr_w1_a=(8, 24), lokr_w1_b=(24, 8), lokr_w2_a=(20, 24), lokr_w2_b=(24, 20)),
            "LoHa": draws(hada_w1_a=(WIDTH, 24), hada_w1_b=(24, WIDTH), hada_w2_a=(WIDTH, 24), hada_w2_b=(24, WIDTH)),
        }[name]
        (layer,) = land(write_lora(tmp_path / "a.safetensors", lycoris(tensors)), demo).layers.values()
        assert layer.rank == 576
        with Sizes() as formed:
            difference_of(layer, None)
        assert formed.largest == WIDTH * WIDTH


class Sizes(TorchDispatchMode):  # type: ignore[misc]  # torch has no types of it
    """How many numbers the largest tensor has that is formed meanwhile."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and found.dtype == torch.float32:
            self.largest = max(self.largest, found.numel())
        return found


def layer_of(layer: LoraLayer) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A layer's whole difference, and its two factors."""
    return difference_of(layer, None)["weight"], *factors_of(layer, None)


def check(found: tuple[torch.Tensor, torch.Tensor, torch.Tensor], wanted: torch.Tensor, rank: int) -> None:
    difference, down, up = found
    assert torch.allclose(difference, wanted, atol=1e-5)
    assert down.shape == (rank, wanted.shape[1])
    assert up.shape == (wanted.shape[0], rank)
    assert (down.dtype, up.dtype) == (torch.bfloat16, torch.bfloat16)
    assert (up.float() @ down.float() - wanted).norm() <= 0.01 * wanted.norm()


class TestScaled:
    @pytest.mark.parametrize("kind", ["LoRA", "LoKr", "LoHa", "peft's own alpha"])
    def test_out_of_all_bounds(self, tmp_path: Path, demo: Targets, kind: str) -> None:
        """Factors and an alpha are finite, each for itself: what they make together is looked at, however added."""
        tensors = {
            "LoRA": factors([TO_Q]) | {f"{TO_Q}.alpha": np.array(1e38, np.float32)},
            "LoKr": lycoris(LOKR["a pair"][0], 1e38),
            "LoHa": lycoris(draws(**dict.fromkeys(("hada_w1_a", "hada_w2_a"), (WIDTH, 2)), **HADA_B), 1e38),
            "peft's own alpha": factors([TO_Q]),
        }[kind]
        tensors = {key: tensor if key.endswith("alpha") else tensor * 1000 for key, tensor in tensors.items()}
        (layer,) = land(write_lora(tmp_path / "a.safetensors", tensors), demo).layers.values()
        alphas = Alphas(alpha=1e38) if kind == "peft's own alpha" else None
        for made in (factors_of, difference_of):
            with pytest.raises(ModelError, match=f"by its scale, of {TO_Q} has values that are not finite"):
                made(layer, alphas)


class TestDifferences:
    def test_an_alpha_beside_one_counts_for_nothing(self, tmp_path: Path, demo: Targets) -> None:
        """As in ComfyUI, which reads it and adds the difference as it is; LyCORIS writes none."""
        tensors = {f"{TO_Q}.diff": np.ones((WIDTH, WIDTH), np.float32), f"{TO_Q}.alpha": np.array(0.5, np.float32)}
        (layer,) = land(write_lora(tmp_path / "a.safetensors", tensors), demo).layers.values()
        assert torch.equal(difference_of(layer, Alphas(alpha=3.0))["weight"], torch.ones(WIDTH, WIDTH))

    def test_of_weights_and_biases(self, tmp_path: Path, demo: Targets) -> None:
        """`.diff` and `.diff_b` land, norms' too; they are for fusing, and say so."""
        norm = "transformer_blocks.0.attn.norm_q"
        tensors = {
            f"diffusion_model.{TO_Q}.diff": np.ones((WIDTH, WIDTH), np.float32),
            f"diffusion_model.{TO_Q}.diff_b": np.ones(WIDTH, np.float32),
            f"diffusion_model.{norm}.diff": np.ones(32, np.float32),
        }
        adapter = land(write_lora(tmp_path / "a.safetensors", tensors), demo)
        assert adapter.layers.keys() == {TO_Q, norm}
        said = "2 of its 2 layers cannot be added as a picture is rendered: a whole difference"
        assert adapter.why_not_riding == said
        added = difference_of(adapter.layers[TO_Q], None)
        assert {name: tuple(tensor.shape) for name, tensor in added.items()} == {
            "weight": (WIDTH, WIDTH),
            "bias": (WIDTH,),
        }
        with pytest.raises(ModelError, match="a whole difference"):
            packed.pack_adapter(adapter.path, demo, "0" * 64, tmp_path / "packed")
        assert not (tmp_path / "packed").exists()


# ---- peft's own library ----------------------------------------------------------------------------------------------


def network() -> torch.nn.Module:
    """One layer under the model's own names."""
    attention, block, whole = torch.nn.Module(), torch.nn.Module(), torch.nn.Module()
    attention.to_q = torch.nn.Linear(WIDTH, WIDTH)
    block.attn = attention
    whole.transformer_blocks = torch.nn.ModuleList([block])
    return whole


@pytest.mark.parametrize("kind", ["LoRA", "rsLoRA", "LoKr", "LoKr of whole factors", "LoHa"])
def test_as_peft_writes_and_adds_them(tmp_path: Path, demo: Targets, kind: str) -> None:
    """A file that peft itself has written adds what peft does, its configuration included."""
    peft: Any = pytest.importorskip("peft")  # seconds, for this alone
    wide = {"r": 4, "target_modules": ["to_q"], "init_weights": False}
    config = {
        "LoRA": lambda: peft.LoraConfig(r=4, lora_alpha=8, target_modules=["to_q"], init_lora_weights=False),
        "rsLoRA": lambda: peft.LoraConfig(
            r=4, lora_alpha=8, target_modules=["to_q"], init_lora_weights=False, use_rslora=True
        ),
        "LoKr": lambda: peft.LoKrConfig(alpha=8, **wide),
        "LoKr of whole factors": lambda: peft.LoKrConfig(alpha=8, **{**wide, "r": 64}),
        "LoHa": lambda: peft.LoHaConfig(alpha=8, **wide),
    }[kind]()
    torch.manual_seed(3)
    model = peft.get_peft_model(network(), config)
    model.save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    adapter = land(path, demo)
    alphas = told_alphas(path, adapter.metadata)
    wanted = model.base_model.model.transformer_blocks[0].attn.to_q.get_delta_weight("default").detach()
    assert torch.allclose(difference_of(adapter.layers[TO_Q], alphas)["weight"], wanted, atol=1e-5)
    down, up = factors_of(adapter.layers[TO_Q], alphas)
    assert (up.float() @ down.float() - wanted).norm() <= 0.01 * wanted.norm()
