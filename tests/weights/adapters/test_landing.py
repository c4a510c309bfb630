"""What is refused: keys that fit no layer, other models' LoRAs, other shapes, halves, and what is damaged."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from renderer import catalog
from renderer.errors import ModelError
from renderer.weights.adapters import packed
from renderer.weights.adapters.landing import land
from renderer.weights.adapters.targets import Targets, targets_of
from renderer.weights.adapters.whereabouts import identity_of
from tests.loras import TO_Q, WIDTH, Tensors, factors, write_lora
from tests.weights.tiny import edit

QWEN = catalog.QWEN_IMAGE.id


@pytest.fixture(scope="module")
def demo() -> Targets:
    return targets_of(catalog.DEMO)


def refusal(folder: Path, targets: Targets, tensors: Tensors) -> tuple[str, str]:
    """The message, without the path, and the hint."""
    path = write_lora(folder / "a.safetensors", tensors)
    with pytest.raises(ModelError) as caught:
        land(path, targets)
    assert caught.value.message.startswith(f"{path}: ")
    return caught.value.message.removeprefix(f"{path}: "), caught.value.hint


def pair(stem: str, rows: int = WIDTH, columns: int = WIDTH, rank: int = 2) -> Tensors:
    return {
        f"{stem}.lora_down.weight": np.ones((rank, columns), np.float32),
        f"{stem}.lora_up.weight": np.ones((rows, rank), np.float32),
    }


class TestStrangers:
    def test_are_counted_and_named(self, tmp_path: Path, demo: Targets) -> None:
        """The keys, how many there are, and how many layers they could have been for."""
        message, hint = refusal(tmp_path, demo, factors() | pair("transformer_blocks.0.attn.to_qq"))
        assert message == (
            "2 of its 12 keys fit none of the 76 layers of demo: "
            '"transformer_blocks.0.attn.to_qq.lora_down.weight", "transformer_blocks.0.attn.to_qq.lora_up.weight"'
        )
        assert hint == 'the nearest layer is "transformer_blocks.0.attn.to_q"'

    def test_one_among_many(self, tmp_path: Path, demo: Targets) -> None:
        """A single key that nobody reads is not passed over."""
        message, _ = refusal(tmp_path, demo, factors() | {"rank": np.array(4.0, np.float32)})
        assert message.startswith('1 of its 11 keys fit none of the 76 layers of demo: "rank"')

    @pytest.mark.parametrize(
        ("stem", "whose"),
        [
            ("transformer.transformer_blocks.0.img_mlp.gate_layer", "Qwen-Image-2.1"),
            ("diffusion_model.transformer_blocks.3.img_mlp.gate_up", "Qwen-Image-2.1"),
            ("transformer.txt_in.in_layer", "Qwen-Image-2.1"),
            ("transformer.single_transformer_blocks.0.attn.to_q", "FLUX or HunyuanVideo"),
            ("diffusion_model.double_blocks.0.img_attn.qkv", "FLUX or HunyuanVideo"),
            ("lora_unet_single_blocks_12_linear1", "FLUX or HunyuanVideo"),
            ("lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q", "SDXL"),
            ("unet.down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q", "SDXL"),
            ("lora_te2_text_model_encoder_layers_0_mlp_fc1", "SDXL"),
            ("lora_unet_down_blocks_0_attentions_0_proj_in", "Stable Diffusion"),
            ("diffusion_model.joint_blocks.0.x_block.attn.qkv", "Stable Diffusion 3"),
            ("diffusion_model.blocks.0.self_attn.q", "Wan"),
            ("diffusion_model.layers.0.attention.qkv", "Z-Image or Lumina"),
            ("lora_te_text_model_encoder_layers_0_mlp_fc1", "a text encoder"),
            ("model.layers.0.self_attn.q_proj", "a language model"),
        ],
    )
    def test_of_other_models(self, tmp_path: Path, demo: Targets, stem: str, whose: str) -> None:
        """The model whose layers they are is named."""
        _, hint = refusal(tmp_path, demo, pair(stem))
        assert hint == f"its layers are called as those of {whose}: take a LoRA for demo"

    def test_of_a_deeper_model(self, tmp_path: Path, demo: Targets) -> None:
        _, hint = refusal(tmp_path, demo, factors() | pair("transformer_blocks.5.attn.to_q"))
        assert hint.startswith("demo has 5 blocks, and these are beyond them")


class TestShapes:
    def test_of_a_wider_model(self, tmp_path: Path, demo: Targets) -> None:
        """A name alone is not enough: the demo model's LoRA is none of Qwen-Image's."""
        message, hint = refusal(tmp_path, targets_of(catalog.QWEN_IMAGE), factors([TO_Q]))
        assert message == f"{TO_Q} is [3072, 3072] in {QWEN}, and here it has down [4, 160], up [160, 4]"
        assert hint == "take a LoRA that was made for this model"
        assert land(write_lora(tmp_path / "a.safetensors", factors([TO_Q])), demo).layers

    @pytest.mark.parametrize(
        "changes",
        [
            {"down": (3, WIDTH)},
            {"down": (4, WIDTH, 1)},
            {"up": (WIDTH,)},
            {"up": (4, WIDTH), "down": (WIDTH, 4)},
            {"up": (WIDTH, 0), "down": (0, WIDTH)},
        ],
    )
    def test_that_make_no_layer(self, tmp_path: Path, demo: Targets, changes: dict[str, tuple[int, ...]]) -> None:
        shapes = {"down": (4, WIDTH), "up": (WIDTH, 4)} | changes
        tensors = {f"{TO_Q}.lora_{name}.weight": np.ones(shape, np.float32) for name, shape in shapes.items()}
        message, _ = refusal(tmp_path, demo, tensors)
        assert message.startswith(f"{TO_Q} is [160, 160] in demo, and here it has down [")

    def test_too_high_a_rank(self, tmp_path: Path, demo: Targets) -> None:
        message, _ = refusal(tmp_path, demo, pair(TO_Q, rank=1025))
        assert message == f"{TO_Q} is of rank 1025, and at most 1024 are read"

    @pytest.mark.parametrize(
        ("kind", "shapes"),
        [
            ("lokr", {"w1_a": (8, 1025), "w1_b": (1025, 8), "w2": (20, 20)}),
            ("lokr", {"w1_a": (8, 2), "w1_b": (2, 8), "w2_a": (20, 1025), "w2_b": (1025, 20)}),
            ("hada", {"w1_a": (WIDTH, 1025), "w1_b": (1025, WIDTH), "w2_a": (WIDTH, 2), "w2_b": (2, WIDTH)}),
            ("hada", {"w1_a": (WIDTH, 2), "w1_b": (2, WIDTH), "w2_a": (WIDTH, 1025), "w2_b": (1025, WIDTH)}),
        ],
    )
    def test_too_high_a_rank_of_one_of_two_pairs(
        self, tmp_path: Path, demo: Targets, kind: str, shapes: dict[str, tuple[int, ...]]
    ) -> None:
        """LoKr's and LoHa's: a small file of such is no small matter to multiply, fused or not."""
        tensors = {f"{TO_Q}.{kind}_{part}": np.ones(shape, np.float32) for part, shape in shapes.items()}
        message, _ = refusal(tmp_path, demo, tensors)
        assert message == f"{TO_Q} is of rank 1025, and at most 1024 are read"

    def test_a_norm_s_factors(self, tmp_path: Path, demo: Targets) -> None:
        message, _ = refusal(tmp_path, demo, pair("transformer_blocks.0.attn.norm_q", 32, 32))
        assert "norm_q is [32] in demo" in message


class TestHalves:
    @pytest.mark.parametrize(
        ("tensors", "said"),
        [
            ({f"{TO_Q}.lora_A.weight": (4, WIDTH)}, f"{TO_Q} is a LoRA, and lacks up"),
            ({f"{TO_Q}.alpha": ()}, f"{TO_Q} has an alpha, and nothing that it scales"),
            ({f"{TO_Q}.lokr_w1": (8, 8), f"{TO_Q}.lokr_w2_a": (20, 2)}, f"{TO_Q} is a LoKr, and lacks w2_b"),
            (
                {f"{TO_Q}.lokr_w1": (8, 8), f"{TO_Q}.lokr_w1_a": (8, 2), f"{TO_Q}.lokr_w1_b": (2, 8)}
                | {f"{TO_Q}.lokr_w2": (20, 20)},
                f"{TO_Q} is a LoKr, and has parts that exclude each other",
            ),
            (
                {f"{TO_Q}.lora_A.weight": (4, WIDTH), f"{TO_Q}.lora_B.weight": (WIDTH, 4)}
                | {f"{TO_Q}.diff": (WIDTH, WIDTH)},
                f"{TO_Q} has LoRA and difference at once",
            ),
            (
                {f"{TO_Q}.lora_A.weight": (4, WIDTH), f"transformer.{TO_Q}.lora_A.weight": (4, WIDTH)},
                f'"{TO_Q}.lora_A.weight" is the second down of {TO_Q}',
            ),
            (
                {f"{TO_Q}.lora_A.weight": (4, WIDTH), f"{TO_Q}.lora_B.weight": (WIDTH, 4), f"{TO_Q}.alpha": (4,)},
                f"alpha of {TO_Q} is [4], and must be one number",
            ),
        ],
    )  # fmt: skip
    def test_are_named(self, tmp_path: Path, demo: Targets, tensors: dict[str, tuple[int, ...]], said: str) -> None:
        message, _ = refusal(tmp_path, demo, {name: np.ones(shape, np.float32) for name, shape in tensors.items()})
        assert message == said

    def test_a_type_that_is_not_read(self, tmp_path: Path, demo: Targets) -> None:
        message, _ = refusal(tmp_path, demo, {name: tensor.astype(np.int32) for name, tensor in factors().items()})
        assert "which is not read" in message
        assert "I32" in message


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("dora_scale", "DoRA"),
        ("lora_magnitude_vector", "DoRA"),
        ("lora_magnitude_vector.default.weight", "DoRA"),
        ("oft_blocks", "OFT"),
        ("lokr_t2", "a factor of convolutions (Tucker)"),
        ("hada_t1", "a factor of convolutions (Tucker)"),
        ("lora_mid.weight", "a factor of convolutions (Tucker)"),
        ("set_weight", "a whole weight"),
        ("lora_B.bias", "a bias of a factor"),
        ("a1.weight", "GLoRA"),
    ],
)
def test_what_is_known_and_not_read(tmp_path: Path, demo: Targets, key: str, said: str) -> None:
    """It is refused by what it is called, not as something strange."""
    message, _ = refusal(tmp_path, demo, factors() | {f"{TO_Q}.{key}": np.ones(WIDTH, np.float32)})
    assert message.startswith(f'"{TO_Q}.{key}" is {said}')


# ---- files that were changed -----------------------------------------------------------------------------------------

Damage = Callable[[Path, random.Random], None]


def a_key(header: dict[str, object], draw: random.Random) -> str:
    return draw.choice(sorted(key for key in header if key != "__metadata__"))


def cut(path: Path, draw: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: draw.randrange(len(data))])


def lengthened(path: Path, draw: random.Random) -> None:
    path.write_bytes(path.read_bytes() + bytes(draw.randrange(1, 50)))


def a_key_lost(path: Path, draw: random.Random) -> None:
    edit(path, lambda header: header.pop(a_key(header, draw)))


def a_key_renamed(path: Path, draw: random.Random) -> None:
    def change(header: dict[str, object]) -> None:
        key = a_key(header, draw)
        place = draw.randrange(len(key) + 1)
        header[key[:place] + draw.choice(["x", ".", "_", "é", "lora_te_", "9"]) + key[place:]] = header.pop(key)

    edit(path, change)


def a_shape_changed(path: Path, draw: random.Random) -> None:
    def change(header: dict[str, dict[str, list[int]]]) -> None:
        entry = header[a_key(dict(header), draw)]
        entry["shape"] = draw.choice([[*entry["shape"][::-1], 1], [*entry["shape"], 1], [1, *entry["shape"]], []])

    edit(path, change)


def a_type_changed(path: Path, draw: random.Random) -> None:
    def change(header: dict[str, dict[str, object]]) -> None:
        header[a_key(dict(header), draw)]["dtype"] = draw.choice(["F64", "I32", "F16", "Q4_K", "BOOL", "f32", 3])

    edit(path, change)


def a_place_moved(path: Path, draw: random.Random) -> None:
    def change(header: dict[str, dict[str, list[int]]]) -> None:
        entry = header[a_key(dict(header), draw)]
        step = draw.choice([-4, 4, 10**6, -(10**6), 2**63])
        entry["data_offsets"] = [place + step for place in entry["data_offsets"]]

    edit(path, change)


def not_a_number(path: Path, draw: random.Random) -> None:
    """Some value of some tensor is NaN or infinite."""
    data = bytearray(path.read_bytes())
    begin = 8 + int.from_bytes(data[:8], "little")
    place = begin + 4 * draw.randrange((len(data) - begin) // 4)
    data[place : place + 4] = np.float32(draw.choice([np.nan, np.inf, -np.inf])).tobytes()
    path.write_bytes(data)


def a_header_of_noise(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    for _ in range(20):
        data[8 + draw.randrange(length)] = draw.randrange(128, 256)
    path.write_bytes(data)


def another_length(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[:8] = draw.choice([0, 1, 2**31, 2**63, 99_999_999]).to_bytes(8, "little")
    path.write_bytes(data)


def strange_alphas(path: Path, draw: random.Random) -> None:
    told = draw.choice(["{", "[1]", '{"lora_alpha": {}}', '{"lora_alpha": NaN}', '{"lora_alpha": 1, "r": -3}'])
    edit(path, lambda header: header.update({"__metadata__": {"lora_adapter_metadata": told}}))


DAMAGES: tuple[Damage, ...] = (
    cut, lengthened, a_key_lost, a_key_renamed, a_shape_changed, a_type_changed, a_place_moved, not_a_number,
    a_header_of_noise, another_length, strange_alphas,
)  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_each_of_three_hundred_damaged_files_is_refused(tmp_path: Path, demo: Targets, damage: Damage) -> None:
    """By its name, with nothing left behind: 28 files of each of eleven kinds of damage."""
    sound = write_lora(tmp_path / "sound.safetensors", factors([TO_Q, "transformer_blocks.4.img_mod.1"], rank=1))
    for seed in range(28):
        path = tmp_path / f"damaged-{seed}.safetensors"
        path.write_bytes(sound.read_bytes())
        damage(path, random.Random(seed))  # noqa: S311  # a lottery, no secret
        with pytest.raises(ModelError) as caught:
            packed.pack_adapter(path, demo, identity_of(path), tmp_path / "packed")
        assert str(path) in caught.value.message
        path.unlink()
    assert [each.name for each in tmp_path.iterdir()] == ["sound.safetensors"]


def test_the_sound_one_is_not(tmp_path: Path, demo: Targets) -> None:
    """What the three hundred are made of is well."""
    path = write_lora(tmp_path / "sound.safetensors", factors([TO_Q], rank=1))
    packed.pack_adapter(path, demo, identity_of(path), tmp_path / "packed")
    assert packed.open_adapter(tmp_path / "packed").rank("transformer", 0) == 1
    assert json.loads((tmp_path / "packed/index.json").read_text())["layers"] == 1
