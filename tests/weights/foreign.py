"""Networks as other tools keep them: each form by its documented layout, and the bf16 network that it stands for."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import gguf
import numpy as np
import torch

Tensors = dict[str, torch.Tensor]


class Foreign(NamedTuple):
    """What lies in the tool's file, what the file says of itself, and the network in bf16 under the hub's names."""

    tensors: Tensors
    metadata: dict[str, str]
    plain: Tensors


def matrices(tensors: Mapping[str, torch.Tensor]) -> Iterator[str]:
    """The layers that tools quantise: linear ones, and no tables of embeddings."""
    for name, tensor in tensors.items():
        if tensor.dim() == 2 and "embed_tokens" not in name and "lm_head" not in name:
            yield name.removesuffix(".weight")


def mark(text: Mapping[str, object]) -> torch.Tensor:
    return torch.tensor(list(json.dumps(text).encode()), dtype=torch.uint8)


Scaler = Callable[[torch.Tensor, float], torch.Tensor]


def one(weight: torch.Tensor, largest: float) -> torch.Tensor:
    return weight.abs().max() / largest


def each_row(weight: torch.Tensor, largest: float) -> torch.Tensor:
    return weight.abs().amax(dim=1) / largest


def scaled(
    tensors: Mapping[str, torch.Tensor], dtype: torch.dtype, suffix: str, scaler: Scaler, shape: tuple[int, ...]
) -> Foreign:
    """FP8 or int8 with a scale beside each matrix, of one of its shapes."""
    largest = 127.0 if dtype == torch.int8 else torch.finfo(dtype).max
    found, plain = dict(tensors), dict(tensors)
    for layer in matrices(tensors):
        weight = tensors[f"{layer}.weight"].float()
        scale = scaler(weight, largest)
        rows = scale if scale.dim() == 0 else scale[:, None]
        values = (weight / rows).round() if dtype == torch.int8 else weight / rows
        found[f"{layer}.weight"] = values.to(dtype)
        found[f"{layer}.{suffix}"] = scale.reshape(shape)
        plain[f"{layer}.weight"] = (values.to(dtype).float() * rows).to(torch.bfloat16)
    return Foreign(found, {}, plain)


def comfyui_2025(tensors: Mapping[str, torch.Tensor], prefix: str = "") -> Foreign:
    """`scaled_fp8`, `.scale_weight` and `.scale_input`."""
    found, _, plain = scaled(tensors, torch.float8_e4m3fn, "scale_weight", one, ())
    found["scaled_fp8"] = torch.empty(0, dtype=torch.float8_e4m3fn)
    for layer in matrices(tensors):
        found[f"{layer}.scale_input"] = torch.ones(())
    return Foreign({prefix + name: tensor for name, tensor in found.items()}, {}, plain)


def comfyui_2026(tensors: Mapping[str, torch.Tensor], form: str = "float8_e4m3fn", prefix: str = "") -> Foreign:
    """`.comfy_quant` beside each matrix, and the same in the file's metadata without the prefix."""
    dtype = {"float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2, "int8_tensorwise": torch.int8}
    found, _, plain = scaled(tensors, dtype[form], "weight_scale", one, (1,))
    layers = {layer: {"format": form, "full_precision_matrix_mult": True} for layer in matrices(tensors)}
    for layer, told in layers.items():
        found[f"{layer}.comfy_quant"] = mark(told)
    table = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}
    return Foreign({prefix + name: tensor for name, tensor in found.items()}, table, plain)


def hadamard(group: int) -> torch.Tensor:
    step = torch.tensor([[1.0, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]]) / 2
    found = torch.ones(1, 1)
    while len(found) < group:
        found = torch.kron(found, step)
    return found


def convrot(tensors: Mapping[str, torch.Tensor], group: int = 4) -> Foreign:
    """int8 a row, of a matrix whose columns were turned in groups; told in the metadata alone."""
    turn = hadamard(group)
    turned = dict(tensors)
    for layer in matrices(tensors):
        weight = tensors[f"{layer}.weight"]
        turned[f"{layer}.weight"] = (weight.float().view(-1, group) @ turn).view(weight.shape)
    found, _, plain = scaled(turned, torch.int8, "weight_scale", each_row, (-1, 1))
    told = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": group, "per_row": True}
    table = {"_quantization_metadata": json.dumps({"layers": dict.fromkeys(matrices(tensors), told)})}
    for layer in matrices(tensors):
        values = found[f"{layer}.weight"].float()
        exact = (values.view(-1, group) @ turn).view(values.shape) * found[f"{layer}.weight_scale"]
        plain[f"{layer}.weight"] = exact.to(torch.bfloat16)
    return Foreign(found, table, plain)


def unmarked(tensors: Mapping[str, torch.Tensor], shape: tuple[int, ...] = (-1, 1)) -> Foreign:
    """Scales a row, and not a word about them."""
    return scaled(tensors, torch.float8_e4m3fn, "weight_scale", each_row, shape)


# ---- bitsandbytes ----------------------------------------------------------------------------------------------------

NF4 = torch.tensor(
    [
        *(-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0),
        *(0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0),
    ]
)
FP4 = torch.tensor([0.0, 0.0052, 0.6667, 1.0, 0.3333, 0.5, 0.1667, 0.25])
TABLES = {"nf4": NF4, "fp4": torch.cat([FP4, -FP4])}


def nf4(tensors: Mapping[str, torch.Tensor], kind: str = "nf4", block: int = 64, *, nested: bool = False) -> Foreign:
    """Four bits, the first of two numbers in the upper half; with `nested`, the blocks' scales in eight."""
    found, plain, table = dict(tensors), dict(tensors), TABLES[kind]
    for layer in matrices(tensors):
        name, weight = f"{layer}.weight", tensors[f"{layer}.weight"].float()
        flat = torch.nn.functional.pad(weight.view(-1), (0, -weight.numel() % block)).view(-1, block)
        state: dict[str, object] = {"quant_type": kind, "blocksize": block, "shape": list(weight.shape)}
        largest = flat.abs().amax(dim=1)
        found[f"{name}.absmax"] = largest
        if nested:
            steps, offset, outer = torch.linspace(-1, 1, 256), largest.mean(), 256
            groups = torch.nn.functional.pad(largest - offset, (0, -len(largest) % outer)).view(-1, outer)
            scale = groups.abs().amax(dim=1).clamp(min=1e-6)
            near = ((groups / scale[:, None])[..., None] - steps).abs().argmin(dim=-1).view(-1)[: len(largest)]
            found |= {f"{name}.absmax": near.to(torch.uint8), f"{name}.nested_absmax": scale}
            found[f"{name}.nested_quant_map"] = steps
            state |= {"nested_blocksize": outer, "nested_offset": float(offset)}
            largest = steps[near] * scale[torch.arange(len(near)) // outer] + float(offset)
        codes = ((flat / largest[:, None])[..., None] - table).abs().argmin(dim=-1)
        numbers = (table[codes] * largest[:, None]).view(-1)[: weight.numel()]
        codes = codes.view(-1)[: weight.numel()].to(torch.uint8)
        found[name] = (codes[::2] << 4 | codes[1::2]).view(-1, 1)
        found[f"{name}.quant_map"] = table.clone()
        found[f"{name}.quant_state.bitsandbytes__{kind}"] = mark(state)
        plain[name] = numbers.view(weight.shape).to(torch.bfloat16)
    return Foreign(found, {}, plain)


def llm_int8(tensors: Mapping[str, torch.Tensor]) -> Foreign:
    """Eight bits, a scale a row, and a tensor that says in which order the numbers lie."""
    found, plain = dict(tensors), dict(tensors)
    for layer in matrices(tensors):
        weight = tensors[f"{layer}.weight"].float()
        largest = weight.abs().amax(dim=1)
        values = (weight / largest[:, None] * 127).round().to(torch.int8)
        found |= {f"{layer}.weight": values, f"{layer}.SCB": largest}
        found[f"{layer}.weight_format"] = torch.zeros((), dtype=torch.uint8)
        plain[f"{layer}.weight"] = (values.float() * largest[:, None] * 7.874015718698502e-3).to(torch.bfloat16)
    return Foreign(found, {}, plain)


# ---- damage ----------------------------------------------------------------------------------------------------------


def spoiled(made: Foreign, numbers: random.Random, number: int) -> str:
    """Spoil one tensor of a file, so that it cannot be read as it was: lost, renamed, of another type or shape, twice.

    What is ignored anyway, as scales of activations, is left alone.
    """
    ignored = (".scale_input", ".input_scale", "scaled_fp8", ".comfy_quant", "lm_head.weight", ".weight_format")
    names = sorted(name for name in made.tensors if not name.endswith(ignored))
    name = numbers.choice(names)
    tensor = made.tensors.pop(name)
    match number % 5:
        case 1:
            made.tensors[f"{name}x"] = tensor
        case 2:
            made.tensors[name] = tensor.to(torch.int32)
        case 3:
            made.tensors[name] = torch.cat([tensor.reshape(-1), tensor.reshape(-1)[:1]])
        case 4:
            made.tensors[name] = tensor
            made.tensors[f"model.diffusion_model.{name}"] = tensor.clone()
    return name


def blocked(scales: torch.Tensor) -> torch.Tensor:
    """Scales, [rows, scales a row], as cuBLAS wants them: the documented steps, one after the other."""
    rows, columns = -(-scales.shape[0] // 128) * 128, -(-scales.shape[1] // 4) * 4
    padded = torch.zeros(rows, columns, dtype=torch.uint8)
    padded[: scales.shape[0], : scales.shape[1]] = scales.view(torch.uint8)
    tiles = padded.view(rows // 128, 128, columns // 4, 4).permute(0, 2, 1, 3)
    return tiles.reshape(-1, 4, 32, 4).transpose(1, 2).reshape(rows, columns)


E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])


def in_blocks(tensors: Mapping[str, torch.Tensor], form: str) -> Foreign:
    """MXFP8 and NVFP4, where a matrix has whole blocks; the others stay as they are."""
    found, plain = dict(tensors), dict(tensors)
    block = {"mxfp8": 32, "nvfp4": 16}[form]
    for layer in matrices(tensors):
        weight = tensors[f"{layer}.weight"].float()
        if weight.shape[1] % block:
            continue
        parts = weight.view(len(weight), -1, block)
        largest = parts.abs().amax(dim=-1)
        if form == "mxfp8":
            exponents = ((largest / 448).log2().ceil() + 127).clamp(0, 254).to(torch.uint8)
            scale = torch.exp2(exponents.float() - 127)
            values = (parts / scale[..., None]).to(torch.float8_e4m3fn)
            numbers = values.float() * scale[..., None]
            found[f"{layer}.weight"] = values.view(weight.shape)
            found[f"{layer}.weight_scale"] = blocked(exponents).view(torch.float8_e8m0fnu)
        else:
            second = largest.max() / (448 * 6)
            scales = (largest / 6 / second).to(torch.float8_e4m3fn)
            total = scales.float() * second
            codes = ((parts / total[..., None])[..., None] - E2M1).abs().argmin(dim=-1).to(torch.uint8)
            numbers = E2M1[codes.int()] * total[..., None]
            flat = codes.view(len(weight), -1)
            found[f"{layer}.weight"] = flat[:, ::2] << 4 | flat[:, 1::2]
            found[f"{layer}.weight_scale"] = blocked(scales).view(torch.float8_e4m3fn)
            found[f"{layer}.weight_scale_2"] = second
        found[f"{layer}.comfy_quant"] = mark({"format": form})
        plain[f"{layer}.weight"] = numbers.view(weight.shape).to(torch.bfloat16)
    return Foreign(found, {}, plain)


# ---- GGUF ------------------------------------------------------------------------------------------------------------


def gguf_blocks(name: str, rows: int, columns: int) -> Any:
    """Rows of blocks of a type that the library reads and does not write: bytes of which no scale is infinite."""
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    return np.random.default_rng(9).integers(0, 60, (rows, columns // block * size), dtype=np.uint8)


def write_gguf(
    path: Path,
    tensors: Mapping[str, tuple[Any, str]],
    arch: str = "qwen_image",
    more: Mapping[str, Sequence[int]] = MappingProxyType({}),
) -> Path:
    """A GGUF file of the library's making: each tensor an array of its type, or its rows of blocks.

    `more` are arrays of whole numbers by their keys.
    """
    writer = gguf.GGUFWriter(path, arch)
    writer.add_file_type(7)
    for key, numbers in more.items():
        writer.add_array(key, numbers)
    for name, (array, kind) in tensors.items():
        writer.add_tensor(name, array, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def city96(tensors: Mapping[str, torch.Tensor], kind: str = "Q8_0") -> tuple[dict[str, tuple[Any, str]], Tensors]:
    """A network as city96's tool converts it, and in bf16: vectors in float32, matrices in blocks where their rows go.

    Others in float16.
    """
    made, plain = {}, {}
    quantised = gguf.GGMLQuantizationType[kind]
    for name, tensor in tensors.items():
        array = tensor.float().numpy()
        if tensor.dim() == 1:
            made[name], plain[name] = (array, "F32"), tensor.to(torch.bfloat16)
        elif tensor.shape[-1] % gguf.GGML_QUANT_SIZES[quantised][0]:
            made[name] = (array.astype(np.float16), "F16")
            plain[name] = torch.from_numpy(array.astype(np.float16)).to(torch.bfloat16)
        else:
            blocks = gguf.quants.quantize(array, quantised)
            made[name] = (blocks, kind)
            plain[name] = torch.from_numpy(gguf.quants.dequantize(blocks, quantised)).to(torch.bfloat16)
    return made, plain


def llama_cpp(tensors: Mapping[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """A text encoder under llama.cpp's names, without its vision tower."""
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2VL, layers)
    found = {}
    for name, tensor in tensors.items():
        if not name.startswith("visual."):
            written = table.get_name(name, try_suffixes=(".weight", ".bias"))
            assert written is not None
            found[written] = tensor
    return found
