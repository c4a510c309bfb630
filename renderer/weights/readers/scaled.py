"""ComfyUI's FP8, int8, MXFP8 and NVFP4: matrices with scales beside them, and marks that say how they are meant.

Of 2025: a tensor `scaled_fp8` in the file, and `X.scale_weight` beside `X.weight`. Of 2026: `X.weight_scale`, and a
mark a layer, as a tensor `X.comfy_quant` or in the file's own `_quantization_metadata`. Files of musubi-tuner and
lightx2v have the scales and no mark. What activations are scaled with (`input_scale`) is none of a matrix's values.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from renderer.errors import ModelError, shorten
from renderer.weights.readers.reader import Contents, TensorAt, damaged, read_mark

_OLD_MARK = "scaled_fp8"
_MARK = ".comfy_quant"
TABLE = "_quantization_metadata"
"""In a file's metadata: what is said of its layers."""

_WEIGHT = ".weight"
_SCALES = (".weight_scale", ".scale_weight")
_SECOND_SCALE = ".weight_scale_2"
_AT_RUN_TIME = (".input_scale", ".scale_input", ".comfy_attention.config")
_BESIDE = (_MARK, *_SCALES, _SECOND_SCALE, *_AT_RUN_TIME)
_LOOKED_UP = re.compile(r"(?:^|\.)(?:embed_tokens|lm_head|\w*embeddings?)\.weight$")
_SCALE_TYPES = ("F32", "BF16", "F16")

_TYPES: Mapping[str, str] = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "int8_tensorwise": "I8"}
"""The forms that are read, and the type of their matrices."""

_BLOCKS: Mapping[str, tuple[str, int]] = {"mxfp8": ("F8_E4M3", 32), "nvfp4": ("U8", 16)}
"""The forms with a scale for so many columns of a row, and the type of their matrices."""

_BLOCK_SCALES = {"mxfp8": ("F8_E8M0", "U8"), "nvfp4": ("F8_E4M3", "U8")}
_TILE_ROWS, _TILE_COLUMNS = 128, 4  # of scales, as cuBLAS has them

_FP8 = {_TYPES[form]: form for form in ("float8_e4m3fn", "float8_e5m2")}
"""What means the same in every tool, and may go without a mark: the types, and their forms."""

_KNOWN = frozenset(
    {"format", "convrot", "convrot_groupsize", "per_row", "group_size", "orig_dtype", "orig_shape"}
    | {"full_precision_matrix_mult"}
)
"""What marks say, those of ComfyUI and of convert_to_quant: any other word may mean that a matrix is another."""

_TURNED = "int8_tensorwise"
"""The form of which turned columns are turned back."""

GROUP = "convrot_groupsize"
"""In a mark, and of a tensor's settings: how many columns were turned together."""

BLOCK_COLUMNS = "block"
"""Of a tensor's settings: for how many columns of a row there is a scale."""

_USUAL_GROUP = 256


@dataclass(frozen=True, slots=True)
class _Mark:
    """What is said of a layer: its form, and the groups of columns that were turned, 0 for none."""

    form: str
    turned: int


class _Scaled:
    name: ClassVar[str] = "scaled"
    dtypes: ClassVar[tuple[str, ...]] = (*_TYPES.values(), *_BLOCKS)

    def take(
        self, tensors: Mapping[str, TensorAt], files: Sequence[Contents], hub_name: Callable[[str], str]
    ) -> dict[str, TensorAt]:
        marks = _marks(tensors, files, hub_name)
        scales = dict(_scales(tensors))
        old = {name for name in tensors if name.rpartition(".")[2] == _OLD_MARK}
        if not marks and not scales and not old:
            return dict(tensors)
        for layer, mark in marks.items():
            if (mark.form not in _TYPES and mark.form not in _BLOCKS) or (mark.turned and mark.form != _TURNED):
                form = f"{shorten(mark.form, 30)}{', turned' if mark.turned else ''}"
                what = f'the layer "{shorten(layer)}" is quantised by ComfyUI ({form})'
                raise ModelError(f"{files[0].path}: {what}, in a form that is not read")
        besides = {name for name in tensors if name.endswith(_BESIDE)} - old
        found = {name: place for name, place in tensors.items() if name not in besides | old}
        for name in sorted(besides):
            layer = _layer(name)
            if layer + _WEIGHT not in tensors:
                raise damaged(f'{tensors[name].path}: tensor "{shorten(name)}"', "is of a weight that is not there")
        for layer in sorted(marks.keys() | scales.keys()):
            name = layer + _WEIGHT
            if name not in tensors:
                raise damaged(f"{files[0].path}:", f'tells of the layer "{shorten(layer)}", which is not there')
            found[name] = self._put_together(name, tensors, marks.get(layer), scales.get(layer))
        for name, place in found.items():
            if place.reader != self.name and place.dtype in _FP8 and _is_layer(name, place):
                raise damaged(f'{place.path}: tensor "{shorten(name)}"', "has no scale, and others here have one")
        return found

    def _put_together(
        self, name: str, tensors: Mapping[str, TensorAt], mark: _Mark | None, scale: TensorAt | None
    ) -> TensorAt:
        weight, second = tensors[name], tensors.get(name.removesuffix(_WEIGHT) + _SECOND_SCALE)
        where = f'{weight.path}: tensor "{shorten(name)}"'
        if mark is None and weight.dtype not in _FP8:  # int8 may be turned, for all that anybody knows
            raise ModelError(f"{where} is {weight.dtype} with a scale beside it, and nothing says how it is meant")
        form = mark.form if mark is not None else _FP8[weight.dtype]
        if weight.dtype != (_TYPES.get(form) or _BLOCKS[form][0]):
            raise damaged(where, f"is {weight.dtype}, and said to be {form}")
        if scale is None or (second is None) != (form != "nvfp4"):
            raise damaged(
                where, f"is {form}, and its scale is not there" if scale is None else "does not have the scales of it"
            )
        if form in _BLOCKS:
            return self._in_blocks(where, form, weight, scale, second)
        rows = weight.shape[0] if weight.shape else 0
        if scale.dtype not in _SCALE_TYPES or scale.shape not in {(), (1,), (1, 1), (rows,), (rows, 1)}:
            told = f"{scale.dtype} {list(scale.shape)}"
            raise damaged(where, f"has a scale of {told}: neither one for all its rows, nor one for each of {rows}")
        turned = mark.turned if mark is not None else 0
        columns = math.prod(weight.shape[1:])
        if turned and (not _is_power_of_four(turned) or columns % turned):
            raise damaged(where, f"of {columns} columns is said to be turned in groups of {turned}")
        return replace(weight, reader=self.name, besides={"scale": scale}, settings={GROUP: turned} if turned else {})

    def _in_blocks(self, where: str, form: str, weight: TensorAt, scale: TensorAt, second: TensorAt | None) -> TensorAt:
        """A matrix with a scale for some columns of a row each, and in NVFP4 one for them all besides."""
        block = _BLOCKS[form][1]
        if len(weight.shape) != 2:  # noqa: PLR2004  # a matrix
            raise damaged(where, f"of {list(weight.shape)} is no matrix, and said to be {form}")
        rows, columns = weight.shape[0], weight.shape[1] * (2 if form == "nvfp4" else 1)
        tiles = -(-rows // _TILE_ROWS) * -(-columns // (block * _TILE_COLUMNS))
        if (
            scale.dtype not in _BLOCK_SCALES[form]
            or scale.bytes != tiles * _TILE_ROWS * _TILE_COLUMNS
            or columns % block
        ):
            told = f"{scale.dtype} {list(scale.shape)}"
            raise damaged(where, f"of {rows} rows and {columns} columns has scales of {told}, and said to be {form}")
        besides = {"scale": scale}
        if second is not None:
            if second.dtype != "F32" or math.prod(second.shape) != 1:
                raise damaged(where, f"has a second scale of {second.dtype} {list(second.shape)}")
            besides["second"] = second
        return replace(
            weight,
            reader=self.name,
            dtype=form,
            shape=(rows, columns),
            besides=besides,
            settings={BLOCK_COLUMNS: block},
        )


def _is_layer(name: str, place: TensorAt) -> bool:
    """Whether a tensor is a linear layer's matrix, which tools scale all of; tables and convolutions they do not."""
    return len(place.shape) == 2 and not _LOOKED_UP.search(name)  # noqa: PLR2004  # a matrix


def _scales(tensors: Mapping[str, TensorAt]) -> Iterator[tuple[str, TensorAt]]:
    """Layers, and the scales that their matrices are multiplied by."""
    for name, place in tensors.items():
        if name.endswith(_SCALES):
            layer = _layer(name)
            if all(layer + suffix in tensors for suffix in _SCALES):
                raise damaged(f'{place.path}: the layer "{shorten(layer)}"', "has two scales")
            yield layer, place


def _layer(name: str) -> str:
    """The layer that something beside its weight is of."""
    return name.removesuffix(next(suffix for suffix in _BESIDE if name.endswith(suffix)))


# ---- marks -----------------------------------------------------------------------------------------------------------


def _marks(
    tensors: Mapping[str, TensorAt], files: Sequence[Contents], hub_name: Callable[[str], str]
) -> dict[str, _Mark]:
    """What is said of layers, by the hub's names of them: in files' tables and in tensors, which must agree."""
    found: dict[str, _Mark] = {}
    for file in files:
        for layer, told in _table(file).items():
            name = hub_name(layer + _WEIGHT).removesuffix(_WEIGHT)
            mark = _mark(f'{file.path}: the layer "{shorten(layer)}"', told)
            if found.setdefault(name, mark) != mark:
                raise damaged(f'{file.path}: the layer "{shorten(layer)}"', "is said to be of two forms")
    for name, place in tensors.items():
        if name.endswith(_MARK):
            where = f'{place.path}: the layer "{shorten(_layer(name))}"'
            mark = _mark(where, read_mark(name, place))
            if found.setdefault(_layer(name), mark) != mark:
                raise damaged(where, "is said to be of two forms")
    return found


def _table(file: Contents) -> dict[str, Any]:
    if TABLE not in file.metadata:
        return {}
    try:
        layers = json.loads(file.metadata[TABLE])["layers"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise damaged(f"{file.path}: its {TABLE}", "cannot be read as JSON") from error
    if not isinstance(layers, dict):
        raise damaged(f"{file.path}: its {TABLE}", "has no table of layers")
    return layers


def _mark(where: str, told: Any) -> _Mark:
    match told:
        case {"format": str(form)}:
            if (form in _TYPES or form in _BLOCKS) and (strange := sorted(told.keys() - _KNOWN)):
                raise ModelError(f'{where} is marked with "{shorten(strange[0], 30)}", of which nothing is known here')
            group = told.get(GROUP, _USUAL_GROUP) if told.get("convrot") else 0
            if type(group) is int and group >= 0 and bool(group) == bool(told.get("convrot")):
                return _Mark(form, group)
    raise damaged(where, "has a mark that tells no form")


def _is_power_of_four(number: int) -> bool:
    return number & (number - 1) == 0 and number.bit_length() % 2 == 1


SCHEME = _Scaled()
