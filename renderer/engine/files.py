"""Which files a model consists of, where they lie, and what is missing; fetched by DiffSynth's own download.

Present files are taken as they are and no hub is asked, so that a night does not depend on the network. Knows nothing
of what is in the files.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from diffsynth.core import ModelConfig

from renderer.catalog import DEMO, PARTS, TOKENIZER, Model, Role
from renderer.demo import cache as demo
from renderer.engine.chatter import into_log
from renderer.errors import ModelError

LOG = logging.getLogger(__name__)

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?=\.safetensors$)")
_TOKENIZER_FILES = ("vocab.json", "merges.txt")
_SHOWN_CHARACTERS = 200  # of what a hub's client says


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A whole model: the weight files of each network, in order, and the tokenizer's folder."""

    networks: Mapping[Role, tuple[Path, ...]]
    tokenizer: Path

    @property
    def weights(self) -> list[Path]:
        """All weight files."""
        return [path for paths in self.networks.values() for path in paths]


def find(model: Model, *, offline: bool, report: Callable[[str], None]) -> ModelFiles:
    """All files of a model; those of a hub are fetched first, unless `offline`. Raises `ModelError` when any lacks."""
    if model.id == DEMO.id:
        return _collect(demo.folder())
    if model.folder is not None:
        if lacking := missing(model.folder):
            raise ModelError(f"{model.folder} lacks {_listed(lacking)}", hint="it must have Qwen-Image's layout")
        return _collect(model.folder)
    root = Path(os.environ.get("DIFFSYNTH_MODEL_BASE_PATH") or "models") / model.id
    if missing(root) and not offline:
        _fetch(model, root, report)
    if lacking := missing(root):
        why = "and this run is offline" if offline else "and the hub did not give them"
        raise ModelError(f"{model.id} is not complete: {root} lacks {_listed(lacking)}, {why}", hint=_how(model, root))
    return _collect(root)


def missing(root: Path) -> list[str]:
    """What a folder lacks of a model: patterns of networks, names of shards, names of the tokenizer's files."""
    lacking: list[str] = []
    for part in PARTS:
        names = {path.name for path in root.glob(part.files)}
        if not names:
            lacking.append(part.files)
        folder = part.files.rpartition("/")[0]
        lacking += [f"{folder}/{name}" for name in _shards(names) if name not in names]
    if not (root / TOKENIZER / "tokenizer.json").exists():
        lacking += [f"{TOKENIZER}{name}" for name in _TOKENIZER_FILES if not (root / TOKENIZER / name).exists()]
    return lacking


def _shards(names: set[str]) -> list[str]:
    """All shards that belong to those that are there: `…-00002-of-00009.safetensors` says that there are nine."""
    found = ((name, match) for name in names if (match := _SHARD.search(name)))
    expected = {
        f"{name[: match.start()]}-{number:05d}-of-{match[2]}{name[match.end() :]}"
        for name, match in found
        for number in range(1, int(match[2]) + 1)
    }
    return sorted(expected)


def _collect(root: Path) -> ModelFiles:
    networks = {part.role: tuple(sorted(root.glob(part.files))) for part in PARTS}
    return ModelFiles(networks=networks, tokenizer=root / TOKENIZER)


def _fetch(model: Model, root: Path, report: Callable[[str], None]) -> None:
    """Let DiffSynth download what it lacks, part by part."""
    for pattern in (*(part.files for part in PARTS), TOKENIZER):
        report(f"downloading {model.id} {pattern}")
        failure = ""
        try:
            with into_log(LOG):
                ModelConfig(model_id=model.id, origin_file_pattern=pattern).download_if_necessary()
        except Exception as error:  # noqa: BLE001  # two hubs' clients, each with its own exceptions and its HTTP library's
            failure = (str(error).strip().partition("\n")[0] or type(error).__name__)[:_SHOWN_CHARACTERS]
        if failure:
            message = f"{model.id} cannot be downloaded: {failure}; {root} lacks {_listed(missing(root))}"
            raise ModelError(message, hint=_how(model, root))


def _listed(names: list[str]) -> str:
    shown = 6
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _how(model: Model, root: Path) -> str:
    return (
        f"fetch them where there is a network: modelscope download --model {model.id} --local_dir {root}; "
        "DIFFSYNTH_DOWNLOAD_SOURCE=huggingface takes the other hub, DIFFSYNTH_MODEL_BASE_PATH another folder"
    )
