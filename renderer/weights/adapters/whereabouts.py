"""Where a LoRA lies, by a catalogue's id or a file, and which it is: its identity. Asks no network, imports no torch.

A file is the SHA-256 over its tensors, wherever it lies and whatever it is called; one of the catalogue is its id and
revision, as a model is, and so is known before it is fetched.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from renderer.catalog import MODELS, Model
from renderer.errors import ModelError, shorten
from renderer.job import Lora, canonical
from renderer.system import folders
from renderer.system.folders import expanded
from renderer.weights import places
from renderer.weights.adapters.alphas import told_alphas
from renderer.weights.hashes import data_hashes, tensor_hashes
from renderer.weights.headers import read_header

SUFFIX = ".safetensors"

_LIKE = 0.6
"""How near a name must be to another to be taken for a slip of the pen."""


@dataclass(frozen=True, slots=True)
class FoundLora:
    """A LoRA that a manifest names. `source` finds it again from where the command is called.

    `row` is the catalogue's, None for a file of one's own. `path` is None where it has not been fetched yet. `licence`
    is empty where neither says, `file_hash` (12 digits of the SHA-256 of its data) where it is not here.
    """

    source: str
    identity: str
    path: Path | None
    row: Model | None = None
    licence: str = ""
    file_hash: str = ""

    @property
    def name(self) -> str:
        """What it is called, for people."""
        return Lora(source=self.source, identity=self.identity).name


def find_lora(reference: str, folder: Path) -> FoundLora:
    """The LoRA of a catalogue id, or of a file whose path is from `folder`. Raises `ModelError` where there is none."""
    row = MODELS.get(reference)
    if row is not None:
        if row.ability != "lora":
            raise ModelError(f"{row.id} is a model, and not a LoRA", hint="write it under model")
        there = path_of_row(row)
        return FoundLora(row.id, identity_of_row(row), there, row, row.licence, file_hash_of(there) if there else "")
    path = _path(reference, folder)
    return FoundLora(_from_here(path), identity_of(path), path, None, _told_licence(path), file_hash_of(path))


def path_of_row(row: Model) -> Path | None:
    """Where the file of a catalogue's LoRA is; None where it has to be fetched."""
    whereabouts = places.look(row)
    return None if whereabouts.lacking else whereabouts.found[0].files[0]


def path_of(source: str) -> Path | None:
    """Where the LoRA of a source is, as `FoundLora` has it; None where it has to be fetched."""
    row = MODELS.get(source)
    return expanded(source) if row is None else path_of_row(row)


def licence_of(source: str) -> str:
    """What a LoRA is licensed under, by its source; empty where nobody says, or its file cannot be read any more."""
    if source in MODELS:
        return MODELS[source].licence
    try:
        return _told_licence(expanded(source))
    except ModelError:
        return ""


def _told_licence(path: Path) -> str:
    """What a file says of its own licence, in the words of ModelSpec."""
    return shorten(read_header(path).metadata.get("modelspec.license", ""), 100)


def packed_adapter(identity: str) -> Path:
    """Where a LoRA lies that was made ready, by what its file holds, whether it was or not."""
    return folders.models_folder() / "adapters" / identity[:32]


def named(name: str) -> Path | None:
    """The file of a LoRA that somebody else calls so, without its ending, in the folders where LoRAs lie; or None."""
    if not name or name in {".", ".."} or "/" in name or "\\" in name or "\0" in name:
        return None
    comfyui = os.environ.get("COMFYUI_PATH")
    folders_of_loras = [Path(), Path("loras"), *([expanded(comfyui) / "models/loras"] if comfyui else [])]
    paths = (folder / f"{name.removesuffix(SUFFIX)}{SUFFIX}" for folder in folders_of_loras)
    return next((path.absolute() for path in paths if path.is_file()), None)


def file_hash_of(path: Path) -> str:
    """What picture sites know a file by: the first 12 digits of the SHA-256 of its data. Raises `ModelError`."""
    try:
        (found,) = data_hashes([path])
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    return found[:12]


def identity_of_row(row: Model) -> str:
    """The identity of a catalogue's LoRA: its id and commit."""
    return f"{row.id}@{row.revision}"


def identity_of(path: Path) -> str:
    """A file's identity: its tensors, and alphas that stand elsewhere. Raises `ModelError` if it is not sound."""
    alphas = told_alphas(path, read_header(path).metadata)
    try:
        (hashes,) = tensor_hashes([path])
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    lines = sorted(f"{name} {value}\n" for name, value in hashes.items())
    lines += [f"alphas {canonical(alphas)}\n"] if alphas is not None else []
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def _path(reference: str, folder: Path) -> Path:
    try:
        path = folder / expanded(reference)
        if path.is_file():
            return path
        is_folder = path.is_dir()
    except (OSError, ValueError):  # a name that no file system takes
        is_folder = False
    said = f'"{shorten(reference)}"'
    if is_folder:
        raise ModelError(f"{said} is a folder, and not a LoRA", hint="name the safetensors file in it")
    known = [model.id for model in MODELS.values() if model.ability == "lora"]
    near = difflib.get_close_matches(reference, known, n=1, cutoff=_LIKE)
    if near and not reference.endswith(SUFFIX):
        raise ModelError(f"there is no LoRA {said}", hint=f'did you mean "{near[0]}"?')
    raise ModelError(f"there is no file {said}", hint=_neighbour(reference, folder))


def _neighbour(reference: str, folder: Path) -> str:
    """The file beside it whose name is nearest; where there is none, from where paths are."""
    wanted = Path(reference)
    try:
        beside = [path.name for path in (folder / expanded(reference)).parent.glob(f"*{SUFFIX}")]
    except (OSError, ValueError):
        beside = []
    near = difflib.get_close_matches(wanted.name, beside, n=1, cutoff=_LIKE)
    if near:
        return f'did you mean "{wanted.with_name(near[0]).as_posix()}"?'
    return "paths are from the manifest's folder; `renderer models list` has the catalogue's LoRAs"


def _from_here(path: Path) -> str:
    """The path from the working folder where it is inside it, else the whole of it."""
    whole = Path(os.path.abspath(path))  # noqa: PTH100 - absolute() leaves .. in place
    here = Path.cwd()
    return (whole.relative_to(here) if whole.is_relative_to(here) else whole).as_posix()
