"""bitsandbytes as diffusers saves it: four bits by a table of sixteen numbers, or eight with a scale a row.

Four bits: `X.weight` is two numbers a byte, and beside it are the table (`quant_map`), the largest magnitude of each
block (`absmax`), which may be eight bits by another table itself, and a state in JSON. Eight: `X.weight` and `X.SCB`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeGuard

from renderer.errors import shorten
from renderer.weights.readers.reader import Contents, TensorAt, damaged, read_mark

_STATE = re.compile(r"(.+)\.quant_state\.bitsandbytes__(nf4|fp4)")
_PARTS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
_SCALE, _FORMAT, _WEIGHT = "SCB", "weight_format", "weight"
_BESIDE = re.compile(rf"(.+)\.(?:{'|'.join(_PARTS)}|quant_state\.bitsandbytes__\w+)|(.+)\.(?:{_SCALE}|{_FORMAT})")
_NUMBERS, _NESTED_NUMBERS = 16, 256
_LARGEST_BLOCK = 2**16


class _Bitsandbytes:
    name: ClassVar[str] = "bitsandbytes"
    dtypes: ClassVar[tuple[str, ...]] = ("nf4", "fp4", "I8")

    def take(
        self, tensors: Mapping[str, TensorAt], files: Sequence[Contents], hub_name: Callable[[str], str]
    ) -> dict[str, TensorAt]:
        del files, hub_name
        besides = {name: each[1] or f"{each[2]}.{_WEIGHT}" for name in tensors if (each := _BESIDE.fullmatch(name))}
        found = {name: place for name, place in tensors.items() if name not in besides}
        for name, weight in besides.items():
            where = f'{tensors[name].path}: tensor "{shorten(name)}"'
            if weight not in found:
                raise damaged(where, f'is of "{shorten(weight)}", which is not there')
            if state := _STATE.fullmatch(name):
                if found[weight].reader == self.name:
                    raise damaged(where, "is a second state")
                found[weight] = self._four_bits(weight, tensors, read_mark(name, tensors[name]), state[2])
            elif name.endswith(f".{_SCALE}"):
                found[weight] = self._eight_bits(weight, tensors[weight], tensors[name])
        for name, weight in besides.items():
            if found[weight].reader != self.name:
                raise damaged(f'{tensors[name].path}: tensor "{shorten(weight)}"', "has neither a state nor scales")
        return found

    def _four_bits(self, name: str, tensors: Mapping[str, TensorAt], state: Mapping[str, Any], kind: str) -> TensorAt:
        weight = tensors[name]
        where = f'{weight.path}: tensor "{shorten(name)}"'
        besides = {part: tensors[key] for part in _PARTS if (key := f"{name}.{part}") in tensors}
        nested = "nested_absmax" in besides
        shape, block = state.get("shape"), state.get("blocksize")
        if state.get("quant_type") != kind or not _are_sizes(shape) or not _is_block(block):
            raise damaged(where, f"has a state that is none of {kind}")
        numbers, blocks = math.prod(shape), -(-math.prod(shape) // block)
        if weight.dtype != "U8" or 2 * weight.bytes != numbers or math.prod(shape[1:]) % 2:
            raise damaged(where, f"of {weight.dtype} {list(weight.shape)} is said to be {shape} in four bits")
        expected = {"absmax": ("U8" if nested else "F32", blocks), "quant_map": ("F32", _NUMBERS)}
        settings: dict[str, float] = {"blocksize": block}
        if nested:
            outer, offset = state.get("nested_blocksize"), state.get("nested_offset")
            if not _is_block(outer) or not isinstance(offset, float | int):
                raise damaged(where, "has a state that tells no blocks of its scales")
            settings |= {"nested_blocksize": outer, "nested_offset": offset}
            expected |= {"nested_absmax": ("F32", -(-blocks // outer)), "nested_quant_map": ("F32", _NESTED_NUMBERS)}
        for part, (dtype, count) in expected.items():
            place = besides.get(part)
            if place is None or place.dtype != dtype or math.prod(place.shape) != count:
                told = f"{place.dtype} {list(place.shape)}" if place is not None else "not there"
                raise damaged(where, f"wants a {part} of {count} {dtype}, and it is {told}")
        if besides.keys() != expected.keys():
            raise damaged(where, "has parts of scales that are not kept in eight bits")
        return replace(weight, reader=self.name, dtype=kind, shape=tuple(shape), besides=besides, settings=settings)

    def _eight_bits(self, name: str, weight: TensorAt, scale: TensorAt) -> TensorAt:
        where = f'{weight.path}: tensor "{shorten(name)}"'
        if weight.dtype != "I8" or len(weight.shape) < 2:  # noqa: PLR2004  # a matrix
            raise damaged(where, f"is {weight.dtype} {list(weight.shape)}, and has the scales of a matrix in int8")
        if scale.dtype != "F32" or math.prod(scale.shape) != weight.shape[0]:
            told = f"{scale.dtype} {list(scale.shape)}"
            raise damaged(where, f"wants a scale for each of its {weight.shape[0]} rows, and has {told}")
        return replace(weight, reader=self.name, besides={"scale": scale})


def _are_sizes(found: object) -> TypeGuard[list[int]]:
    return isinstance(found, list) and len(found) > 1 and all(type(side) is int and side > 0 for side in found)


def _is_block(found: object) -> TypeGuard[int]:
    return type(found) is int and 0 < found <= _LARGEST_BLOCK


SCHEME = _Bitsandbytes()
