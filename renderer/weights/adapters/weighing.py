"""What a LoRA takes once it is made ready, from its header alone; of one that is not here yet, from the catalogue.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from renderer.catalog import MODELS, Model
from renderer.errors import ModelError
from renderer.families import Network
from renderer.families.family import Shape
from renderer.weights.adapters.landing import Adapter, land
from renderer.weights.adapters.targets import targets_of
from renderer.weights.adapters.whereabouts import identity_of, packed_adapter, path_of
from renderer.weights.codecs import PLAIN

_BF16 = 2
_MATRIX = 2


@dataclass(frozen=True, slots=True)
class Passed:
    """What one token meets: so many numbers of factors that it is multiplied with, and so many that are added to it."""

    multiplied: int = 0
    added: int = 0


@dataclass(frozen=True, slots=True)
class LoraWeight:
    """Bytes of all factors, and of those of the block that has most; what a picture's and a prompt's tokens meet.

    `download_bytes` and `ready_bytes` are what has to be fetched, and written, where it is not here.
    """

    bytes: int
    block_bytes: int
    picture: Passed
    text: Passed
    download_bytes: int
    ready_bytes: int


def weigh(source: str, model: Model) -> LoraWeight:
    """What a LoRA takes for a model. Raises `ModelError` for a file that does not fit it."""
    targets, path = targets_of(model), path_of(source)
    if path is None:
        return _of_row(MODELS[source], targets.weights, targets.network)
    adapter = land(path, targets)
    ranks = {module: layer.rank or 0 for module, layer in adapter.layers.items()}
    return _weighed(ranks, targets.weights, targets.network, download=0, is_ready=_is_ready(adapter))


def _of_row(row: Model, weights: Mapping[str, Shape], network: Network) -> LoraWeight:
    """Of one that has not been fetched: of every layer that tokens pass in a step, at the rank that makes its size.

    Those are the layers that Lightning's files have: at rank 64, they are as large as these are.
    """
    matrices = (module for module, shape in weights.items() if len(shape) == _MATRIX and network.section_of(module))
    layers = [module for module in matrices if _place(module, network)[1] != "nobody"]
    wanted = row.gpu_bytes.get(PLAIN.name, 0) // _BF16
    rank = max(1, round(wanted / sum(sum(weights[module]) for module in layers)))
    download = row.parts[0].bytes or wanted * _BF16
    return _weighed(dict.fromkeys(layers, rank), weights, network, download=download, is_ready=False)


def _weighed(
    ranks: Mapping[str, int], weights: Mapping[str, Shape], network: Network, *, download: int, is_ready: bool
) -> LoraWeight:
    by_block: dict[str, int] = {}
    passed = {"picture": Passed(), "text": Passed(), "nobody": Passed()}
    for module, rank in ranks.items():
        rows, columns, *_ = (*weights[module], 1)
        numbers = rank * (rows + columns)
        block, who = _place(module, network)
        by_block[block] = by_block.get(block, 0) + numbers * _BF16
        before = passed[who]
        passed[who] = Passed(before.multiplied + numbers, before.added + rows)
    total = sum(by_block.values())
    largest = max((count for block, count in by_block.items() if block), default=0)
    return LoraWeight(total, largest, passed["picture"], passed["text"], download, 0 if is_ready else total)


def _place(module: str, network: Network) -> tuple[str, str]:
    """The block that a module is in, empty outside of blocks; and whose tokens pass it in every step, if anybody's."""
    section = network.section_of(module)
    if section is None:
        return "", "picture"
    block, _, within = module.removeprefix(section.prefix).partition(".")
    if section.beforehand is not None and within in section.beforehand.layers:
        return block, "nobody"
    return block, "text" if within in section.streamed.of_text else "picture"


def _is_ready(adapter: Adapter) -> bool:
    try:
        return packed_adapter(identity_of(adapter.path)).is_dir()
    except ModelError:
        return False
