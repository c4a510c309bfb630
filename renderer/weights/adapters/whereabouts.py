"""Where a LoRA lies, by a catalogue's id or a file, and which it is: its identity. Asks no network, imports no torch.

ControlNets are found likewise (`weights.control_files`).

A file is the SHA-256 over its tensors, wherever it lies and whatever it is called; one of the catalogue is its id and
revision, as a model is, and so is known before it is fetched.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from renderer.catalog import MODELS, Ability, Model
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
class Sort:
    """A sort of networks that are used beside models: what one is called, and the field of a job that names it.

    `folders` are where they lie here, and in ComfyUI's folder.
    """

    ability: Ability
    called: str
    field: str
    folders: tuple[str, str]


LORA = Sort("lora", "LoRA", "loras", ("loras", "models/loras"))
CONTROLNET = Sort("controlnet", "ControlNet", "controlnets", ("controlnets", "models/model_patches"))


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
    row, path = find_extra(reference, folder, LORA)
    if row is not None:
        return FoundLora(row.id, identity_of_row(row), path, row, row.licence, file_hash_of(path) if path else "")
    assert path is not None
    return FoundLora(from_here(path), identity_of(path), path, None, told_licence(path), file_hash_of(path))


def find_extra(reference: str, folder: Path, sort: Sort) -> tuple[Model | None, Path | None]:
    """The catalogue's row of an id, and its file where it is here; or a file whose path is from `folder`.

    Raises `ModelError` where there is no such of this sort.
    """
    row = MODELS.get(reference)
    if row is None:
        return None, _path(reference, folder, sort)
    if row.ability != sort.ability:
        others = {each.ability: each for each in (LORA, CONTROLNET)}
        other = others.get(row.ability)
        what = f"a {other.called}" if other else "a model"
        hint = f"write it under {other.field if other else 'model'}"
        raise ModelError(f"{row.id} is {what}, and not a {sort.called}", hint=hint)
    return row, path_of_row(row)


def path_of_row(row: Model) -> Path | None:
    """Where the file of a catalogue's LoRA or ControlNet is; None where it has to be fetched."""
    whereabouts = places.look(row)
    return None if whereabouts.lacking else whereabouts.found[0].files[0]


def path_of(source: str) -> Path | None:
    """Where the LoRA or ControlNet of a source is; None where it has to be fetched."""
    row = MODELS.get(source)
    return expanded(source) if row is None else path_of_row(row)


def licence_of(source: str) -> str:
    """What a LoRA or ControlNet is licensed under, by its source; empty where nobody says, or nothing can be read."""
    if source in MODELS:
        return MODELS[source].licence
    try:
        return told_licence(expanded(source))
    except ModelError:
        return ""


def told_licence(path: Path) -> str:
    """What a file says of its own licence, in the words of ModelSpec."""
    return shorten(read_header(path).metadata.get("modelspec.license", ""), 100)


def packed_adapter(identity: str) -> Path:
    """Where a LoRA lies that was made ready, by what its file holds, whether it was or not."""
    return folders.models_folder() / "adapters" / identity[:32]


def named(name: str, sort: Sort = LORA) -> Path | None:
    """The file of a LoRA that somebody else calls so, without its ending, in the folders where such lie; or None."""
    if not name or name in {".", ".."} or "/" in name or "\\" in name or "\0" in name:
        return None
    comfyui = os.environ.get("COMFYUI_PATH")
    here, theirs = sort.folders
    places = [Path(), Path(here), *([expanded(comfyui) / theirs] if comfyui else [])]
    paths = (folder / f"{name.removesuffix(SUFFIX)}{SUFFIX}" for folder in places)
    return next((path.absolute() for path in paths if path.is_file()), None)


def file_hash_of(path: Path) -> str:
    """What picture sites know a file by: the first 12 digits of the SHA-256 of its data. Raises `ModelError`."""
    try:
        (found,) = data_hashes([path])
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    return found[:12]


def identity_of_row(row: Model) -> str:
    """The identity of a catalogue's LoRA or ControlNet: its id and commit."""
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


def _path(reference: str, folder: Path, sort: Sort) -> Path:
    try:
        path = folder / expanded(reference)
        if path.is_file():
            return path
        is_folder = path.is_dir()
    except (OSError, ValueError):  # a name that no file system takes
        is_folder = False
    said = f'"{shorten(reference)}"'
    if is_folder:
        raise ModelError(f"{said} is a folder, and not a {sort.called}", hint="name the safetensors file in it")
    known = [model.id for model in MODELS.values() if model.ability == sort.ability]
    near = difflib.get_close_matches(reference, known, n=1, cutoff=_LIKE)
    if near and not reference.endswith(SUFFIX):
        raise ModelError(f"there is no {sort.called} {said}", hint=f'did you mean "{near[0]}"?')
    raise ModelError(f"there is no file {said}", hint=_neighbour(reference, folder, sort))


def _neighbour(reference: str, folder: Path, sort: Sort) -> str:
    """The file beside it whose name is nearest; where there is none, from where paths are."""
    wanted = Path(reference)
    try:
        beside = [path.name for path in (folder / expanded(reference)).parent.glob(f"*{SUFFIX}")]
    except (OSError, ValueError):
        beside = []
    near = difflib.get_close_matches(wanted.name, beside, n=1, cutoff=_LIKE)
    if near:
        return f'did you mean "{wanted.with_name(near[0]).as_posix()}"?'
    return f"paths are from the manifest's folder; `renderer models list` has the catalogue's {sort.called}s"


def from_here(path: Path) -> str:
    """The path from the working folder where it is inside it, else the whole of it."""
    whole = Path(os.path.abspath(path))  # noqa: PTH100 - absolute() leaves .. in place
    here = Path.cwd()
    return (whole.relative_to(here) if whole.is_relative_to(here) else whole).as_posix()
