"""Where models lie on this machine, and what of them is missing. Looks at names in folders; asks no network.

Our own folder is `$RENDERER_MODELS`, or DiffSynth's (`$DIFFSYNTH_MODEL_BASE_PATH`, `./models`): both have one folder a
repository. What other tools have fetched is used where it is: the Hugging Face cache, the ModelScope cache, ComfyUI's
folders. Packed stores lie in `packed/` of our own folder, one a model and precision.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from renderer.catalog import (
    MODELS,
    NETWORK_FILES,
    PROCESSOR,
    PROCESSOR_NEEDS,
    SHARD,
    TOKENIZER,
    Model,
    Part,
    PartRole,
    Role,
)
from renderer.errors import ModelError
from renderer.job import ModelIdentity, Stored
from renderer.system.folders import expanded, models_folder
from renderer.weights import comfyui_has
from renderer.weights.record import read_record

FoundIn = Literal["models folder", "Hugging Face cache", "ModelScope cache", "ComfyUI", "given"]

_TOKENIZER_NEEDS = ("vocab.json", "merges.txt")
_WHOLE_TOKENIZER = "tokenizer.json"
_IDENTITY_LENGTH = 12


@dataclass(frozen=True, slots=True)
class FoundPart:
    """A part that is here: its files, or its folder where the part is one, and who put it there.

    `root` is the folder that has the repository's layout; null for single files.
    """

    part: Part
    files: tuple[Path, ...]
    kind: FoundIn
    root: Path | None = None

    @property
    def bytes(self) -> int:
        """What it takes on the disk."""
        return sum(file.stat().st_size for file in files_below(self))


@dataclass(frozen=True, slots=True)
class Lack:
    """A part that is not here, or not whole: the names of what is missing, as they are in the repository."""

    part: Part
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where the parts of a model are."""

    model: Model
    found: tuple[FoundPart, ...]
    lacking: tuple[Lack, ...]

    @property
    def missing(self) -> list[str]:
        """Names of what is missing; a part of another repository is named with it."""
        return [
            f"{lack.part.repository}/{name}" if lack.part.repository else name
            for lack in self.lacking
            for name in lack.names
        ]


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A whole model: the weight files of each network, in order, the tokenizer's folder, and an edit model's other.

    `processor` is the folder of what prepares pictures for the vision tower.
    """

    networks: Mapping[Role, tuple[Path, ...]]
    tokenizer: Path
    processor: Path | None = None

    @property
    def weights(self) -> list[Path]:
        """All weight files."""
        return [path for paths in self.networks.values() for path in paths]


# ---- looking ---------------------------------------------------------------------------------------------------------


def look(model: Model) -> Whereabouts:
    """Where each part of a model is, first come first served, and what is missing of it.

    The demo model has no parts here: it comes with the package.
    """
    found: list[FoundPart] = []
    lacking: list[Lack] = []
    for part in parts_of(model):
        here = _given(model, part) or _elsewhere(model, part)
        if here:
            found.append(here)
        else:
            lacking.append(Lack(part, tuple(_lacking(model, part))))
    return Whereabouts(model, tuple(found), tuple(lacking))


def _lacking(model: Model, part: Part) -> list[str]:
    """The names of what a part lacks in the folder it is fetched to: what is not there, and what was never verified."""
    root = fetch_folder(model, part)
    return missing(part, root) or _doubtful(model, part, root) or [part.files]


def _doubtful(model: Model, part: Part, root: Path) -> list[str]:
    """Files of a part that a fetch of ours has left there without verifying them, or for another revision."""
    record = read_record(root)
    if part.files.endswith("/"):
        names = record.below(part.files) or [part.files]
    else:
        names = sorted(path.relative_to(root).as_posix() for path in root.glob(part.files))
    return record.doubts(names, part.revision if part.repository else model.revision, root)


def parts_of(model: Model) -> tuple[Part, ...]:
    """All parts of a model, also of a folder's and of single files'; LoRAs of the catalogue that are fused into it."""
    if model.folder is not None:
        own = (Part(network.role, network.files) for network in NETWORK_FILES)
        looks = (Part("processor", PROCESSOR),) if model.editing else ()
        return (*own, Part("tokenizer", TOKENIZER), *looks, *(part for part in model.parts if part.role == "lora"))
    given = tuple(Part(role, path.name) for role, path in model.files.items())
    return (*given, *model.parts)


def collect(whereabouts: Whereabouts) -> ModelFiles:
    """The files of a model that is all here. Raises `ModelError`, naming what is missing, when it is not."""
    if whereabouts.lacking:
        raise lacks(whereabouts, "")
    by_role: dict[PartRole, tuple[Path, ...]] = {found.part.role: found.files for found in whereabouts.found}
    networks: dict[Role, tuple[Path, ...]] = {
        "transformer": by_role["transformer"],
        "text_encoder": by_role["text_encoder"],
        "vae": by_role["vae"],
    }
    return ModelFiles(networks, by_role["tokenizer"][0], next(iter(by_role.get("processor", ())), None))


def originals(model: Model) -> list[Path]:
    """A model's own files in the models folder, which its verified store can stand for.

    What other models share, what other tools have fetched and what a manifest names are not among them.
    """
    found = (each for each in look(model).found if each.kind == "models folder" and each.part.repository is None)
    ours = (each for each in found if each.root == fetch_folder(model, each.part))
    return [path for each in ours for path in each.files if path.is_file()]


def lacks(whereabouts: Whereabouts, why: str) -> ModelError:
    """The error that says what is missing of a model, and how to get it."""
    model = whereabouts.model
    names = ", ".join(_shortened(whereabouts.missing))
    if model.folder is not None and any(lack.part.repository is None for lack in whereabouts.lacking):
        return ModelError(f"{model.folder} lacks {names}", hint="give it Qwen-Image's layout")
    message = f"{model.id} is not complete: {models_folder()} lacks {names}{', ' if why else ''}{why}"
    pull = f"renderer models pull {model.reference}"
    hint = f"run, where there is a network: {pull}; or name another folder by RENDERER_MODELS"
    if others := _other_commits(model):
        hint += f"; the Hugging Face cache has another commit, which a manifest can ask for: {model.id}@{others[-1]}"
    if forms := comfyui_has.in_other_forms(lack.part for lack in whereabouts.lacking):
        hint += f"; or render with what {forms}"
    return ModelError(message, hint=hint)


def missing(part: Part, root: Path) -> list[str]:
    """What `root`, a repository's layout, lacks of a part: its pattern, names of shards, of a tokenizer's files."""
    if part.files.endswith("/"):
        return _missing_in_folder(part, root)
    names = {path.name for path in root.glob(part.files) if path.exists()}
    if not names:
        return [part.files]
    folder = part.files.rpartition("/")[0]
    return [f"{folder}/{name}" for name in _shards(names) if name not in names]


def _missing_in_folder(part: Part, root: Path) -> list[str]:
    folder = root / part.files
    if part.role == "tokenizer" and not (folder / _WHOLE_TOKENIZER).exists():
        return [f"{part.files}{name}" for name in _TOKENIZER_NEEDS if not (folder / name).exists()]
    if part.role == "processor" and not (folder / PROCESSOR_NEEDS).exists():
        return [part.files]
    return [] if folder.is_dir() else [part.files]


def _shards(names: set[str]) -> list[str]:
    """All shards that belong to those that are there: `…-00002-of-00009.safetensors` says that there are nine."""
    found = ((name, match) for name in names if (match := SHARD.search(name)))
    expected = {
        f"{name[: match.start()]}-{number:05d}-of-{match[2]}{name[match.end() :]}"
        for name, match in found
        for number in range(1, int(match[2]) + 1)
    }
    return sorted(expected)


# ---- places ----------------------------------------------------------------------------------------------------------


def fetch_folder(model: Model, part: Part) -> Path:
    """Where a part is fetched to: its repository's folder. A revision that a manifest pins has a folder of its own."""
    if part.repository is None and model.folder is not None:
        return model.folder
    if part.repository is None and model.pinned:
        return models_folder() / model.reference
    return models_folder() / (part.repository or model.id)


def packed_folder(model: Model, precision: Stored) -> Path:
    """Where a model's packed store of a precision lies, whether it is made or not."""
    from renderer.weights.identity import identify  # noqa: PLC0415

    return packed_root(identify(model)) / precision


def has_store(model: Model, precision: Stored) -> bool:
    """Whether a model's packed store of a precision is here; a part of one is not a store. The demo's is a cache's.

    One of another model or revision is none. One whose index cannot be read is: whoever opens it says what is wrong.
    One that a crash left beside its place is put there.
    """
    if model.is_embedded:
        return False
    from renderer.weights.index import INDEX  # noqa: PLC0415
    from renderer.weights.settle import recover  # noqa: PLC0415

    folder = packed_folder(model, precision)
    recover(folder)
    return (folder / INDEX).is_file() and not stranger(model, precision)


def stranger(model: Model, precision: Stored) -> ModelIdentity | None:
    """What the store in a model's place was made of, where that is another model or revision; None where it is not.

    A catalogue's revision that has gone up makes such a one; the next store takes its place.
    """
    from renderer.weights.identity import identify  # noqa: PLC0415
    from renderer.weights.index import INDEX  # noqa: PLC0415

    source = _source_of(packed_folder(model, precision) / INDEX)
    wanted = identify(model)
    return source if source is not None and not source.is_of(wanted) else None


def _source_of(index: Path) -> ModelIdentity | None:
    """What a store says it was made of; None where nothing can be read."""
    try:
        return ModelIdentity.model_validate(json.loads(index.read_bytes())["source"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def packed_root(identity: ModelIdentity) -> Path:
    """The folder of all stores of a model. One of somebody's own files has a part of their hash in its name."""
    name = identity.id.replace("/", "--")
    if identity.content_sha256:
        name += f"-{identity.content_sha256[:_IDENTITY_LENGTH]}"
    elif identity.id not in MODELS or MODELS[identity.id].revision != identity.revision:
        name += f"@{identity.revision}"
    return models_folder() / "packed" / name


def _given(model: Model, part: Part) -> FoundPart | None:
    """A part that the manifest itself points to."""
    if model.folder is not None and part.repository is None:
        return _in(part, model.folder, "given")
    path = model.files.get(part.role)
    return FoundPart(part, (path,), "given") if path else None


def _elsewhere(model: Model, part: Part) -> FoundPart | None:
    """A part that was fetched: by us, or by another tool."""
    repository = part.repository or model.id
    revision = part.revision if part.repository else model.revision
    exact = model.pinned and part.repository is None
    folders: list[tuple[Path, FoundIn]] = [(fetch_folder(model, part), "models folder")]
    if not exact:
        folders += [(base / repository, "models folder") for base in _other_bases()]
    folders += [(folder, "Hugging Face cache") for folder in _hugging_face(repository, revision)]
    folders += [(folder, "ModelScope cache") for folder in _modelscope(repository, revision, exact=exact)]
    for folder, kind in folders:
        found = _in(part, folder, kind)
        if found and not (kind == "models folder" and _doubtful(model, part, folder)):
            return found
    path = None if exact else comfyui_has.same(part)
    return FoundPart(part, (path,), "ComfyUI") if path else None


def _in(part: Part, root: Path, kind: FoundIn) -> FoundPart | None:
    if not root.is_dir() or missing(part, root):
        return None
    if part.files.endswith("/"):
        return FoundPart(part, (root / part.files,), kind, root)
    return FoundPart(part, tuple(sorted(root.glob(part.files))), kind, root)


def _other_bases() -> Iterator[Path]:
    """DiffSynth's folders, where ours is another."""
    if base := os.environ.get("DIFFSYNTH_MODEL_BASE_PATH"):
        yield expanded(base)
    yield Path("models")


def _hugging_face(repository: str, revision: str | None) -> Iterator[Path]:
    """Snapshots in the Hugging Face cache: the revision's, by its commit or by its tag; of no revision, `main`'s.

    Another commit is another model, as far as anybody knows: its pictures would bear a revision that they are not of.
    """
    root = _hugging_face_root(repository)
    for name in (revision, _reference(root, revision or "main")):
        if name:
            yield root / "snapshots" / name


def _hugging_face_root(repository: str) -> Path:
    from huggingface_hub import constants  # noqa: PLC0415  # it looks for the home while it is imported

    return Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"


def hugging_face_blob(repository: str, sha256: str) -> Path:
    """Where the Hugging Face cache keeps a large file of a repository, of whichever commits it is."""
    return _hugging_face_root(repository) / "blobs" / sha256


def _other_commits(model: Model) -> list[str]:
    """Commits in the Hugging Face cache that have all of a model's own parts, and are not the one that is wanted."""
    own = [part for part in model.parts if part.repository is None]
    snapshots = sorted((_hugging_face_root(model.id) / "snapshots").glob("*/"))
    whole = (path.name for path in snapshots if own and not any(missing(part, path) for part in own))
    return [name for name in whole if name != model.revision]


def _reference(root: Path, name: str) -> str:
    """The commit that a branch or tag stood at when it was fetched."""
    try:
        return (root / "refs" / name).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _modelscope(repository: str, revision: str | None, *, exact: bool) -> Iterator[Path]:
    """Folders of the ModelScope cache, in the layout of its client since 1.38 and in both before.

    The client's own look-up imports its HTTP library; this is the same from `modelscope_hub/_download.py`.
    """
    own = os.environ.get("MODELSCOPE_CACHE")
    base = expanded(own) if own else expanded("~/.cache/modelscope")
    snapshots = base / "models" / repository.replace("/", "--") / "snapshots"
    if exact:
        yield snapshots / (revision or "")
        return
    yield from (snapshots / "master", *sorted(snapshots.glob("*/")))
    owner, _, name = repository.partition("/")
    for segment in ("models", "hub/models", "hub"):
        yield base / segment / owner / name.replace(".", "___")


def files_below(found: FoundPart) -> list[Path]:
    """All files of a part, those in its folder too."""
    files: list[Path] = []
    for path in found.files:
        files += sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return files


def _shortened(names: list[str]) -> list[str]:
    shown = 6
    return [*names[:shown], f"and {len(names) - shown} more"] if len(names) > shown else names
