"""Single files that a manifest names by the part they are: where they lie, and what they are for.

A path is as seen from where the command is called. What is not there is looked for in ComfyUI's folders, where
`COMFYUI_PATH` names them: by its path in the folders of its part, or by its name alone.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from renderer.catalog.data import (
    DEMO,
    EDITING,
    EDITING_2509,
    EDITING_2511,
    LAYERED_RATIOS,
    LAYERED_VAE,
    LAYERING,
    LAYERING_ALONE,
    PROCESSOR,
    PROCESSOR_PART,
    QWEN_IMAGE,
)
from renderer.catalog.model import Ability, Editing, Model, Part, PartRole
from renderer.errors import ModelError, shorten
from renderer.system.folders import expanded

BY_ROLE: tuple[PartRole, ...] = ("transformer", "text_encoder", "vae", "tokenizer")
"""The parts that single files, or a tokenizer's folder, can be given for."""

KIND = "kind"
"""Beside the parts: what a model is for, where its name does not tell."""

KINDS: Mapping[str, Ability] = MappingProxyType(
    {
        "picture": "picture",
        "edit": "edit",
        "edit-2509": "edit",
        "edit-2511": "edit",
        "layered": "layers",
        "layered-control": "layers",
    }
)
"""Text to picture; edits, of the generation that a file's name tells, or of this one; pictures taken apart into
layers, or, with `control`, the one that the prompt tells of taken out."""

TENSORS = (".safetensors", ".gguf")
"""How files of tensors are called that are read."""

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""How pickled checkpoints are called, which are never opened."""

COMFYUI_FOLDERS: Mapping[PartRole, tuple[str, ...]] = MappingProxyType(
    {
        "transformer": ("diffusion_models", "unet"),
        "text_encoder": ("text_encoders", "clip"),
        "vae": ("vae",),
    }
)
"""Where ComfyUI and its GGUF nodes look for each part, below `models`."""

_DEPTH = 3
_MOST_JSON = 2**20
_ASSIGNMENT = re.compile(rf"({'|'.join((*BY_ROLE, KIND))})=(.*)", re.DOTALL)
_LIGHTNING = re.compile(r"lightning.*?(?<!\d)([48])-?_?steps?|(?<!\d)([48])-?_?steps?.*lightning", re.IGNORECASE)
_EDITS = re.compile(r"(?<![a-z])edit(?:ing)?(?![a-z])", re.IGNORECASE)
_LAYERS = re.compile(r"(?<![a-z])layered(?![a-z])", re.IGNORECASE)
_CONTROL = re.compile(r"layered[-_. ]?control", re.IGNORECASE)


def by_role(files: Mapping[str, str]) -> str:
    """Single files by the part they are, as the one text that `find` takes. Raises `ModelError` for what is none."""
    known = f"known: {', '.join(BY_ROLE)}; and {KIND}"
    if unknown := [role for role in files if role not in (*BY_ROLE, KIND)]:
        raise ModelError(f'a model has no part "{shorten(unknown[0])}"', hint=known)
    if not files.keys() - {KIND}:
        raise ModelError("a model's files must not be empty", hint=known)
    if broken := [path for path in files.values() if "," in path or not path.strip()]:
        raise ModelError(f'"{shorten(broken[0])}" cannot be a file of a model', hint="give a path without commas")
    return ",".join(f"{role}={files[role]}" for role in (*BY_ROLE, KIND) if role in files)


def by_parts(reference: str) -> bool:
    """Whether a model is named by single files and the parts they are."""
    return _ASSIGNMENT.match(reference) is not None


def from_files(reference: str) -> Model:
    """Single files by their parts; what is not given is Qwen/Qwen-Image's, at the catalogue's revision.

    Text-to-picture and edit models have the same tensors: what a transformer is for is told by `kind`, else by its
    name. So is whether Lightning is in its weights, which wants its own steps, guidance and schedule.

    Raises `ModelError`, which names the part.
    """
    files: dict[PartRole, Path] = {}
    told = ""
    for item in reference.split(","):
        match = _ASSIGNMENT.fullmatch(item)
        if not match:
            raise ModelError(f'"{shorten(item)}" names no part of a model', hint=f"known: {', '.join(BY_ROLE)}")
        if match[1] == KIND:
            told = _kind(match[2])
            continue
        role = next(role for role in BY_ROLE if role == match[1])
        if role in files:
            raise ModelError(f"the {role} is given twice", hint="keep one")
        files[role] = _file(role, match[2])
    others = tuple(
        replace(part, repository=QWEN_IMAGE.id, revision=QWEN_IMAGE.revision)
        for part in QWEN_IMAGE.parts
        if part.role not in files
    )
    like = like_qwen_image(reference, about="single files", folder=None)
    stem = files["transformer"].stem if "transformer" in files else ""
    ability = KINDS[told or _kind_of(stem)]
    if ability == "edit":
        like, others = _edits(like, _editing(told, stem)), (*others, PROCESSOR_PART)
    if ability == "layers":
        like, others = _layers(like, told or stem), tuple(map(_with_transparency, others))
    return _distilled(stem, replace(like, files=files, parts=others, revision=None))


def like_its_files(model: Model, folder: Path) -> Model:
    """A folder's model, as it takes pictures that go in: by what the hub's own files beside its weights tell.

    One that takes pictures apart says so of its transformer. An edit model has a folder of what prepares pictures for
    its text encoder, and text to picture has none.
    """
    config = _said(folder / "transformer" / "config.json")
    if config.get("use_layer3d_rope") is True:
        return _layers(model, folder.name)
    if not (folder / PROCESSOR).is_dir():
        return model
    pipeline = _said(folder / "model_index.json").get("_class_name")
    if pipeline == "QwenImageEditPipeline":
        return _edits(model, EDITING)
    timeless = config.get("zero_cond_t") is True
    return _edits(model, EDITING_2511 if timeless else EDITING_2509)


def _said(path: Path) -> Mapping[str, object]:
    """What a small JSON file says; nothing where it is not there, or is none."""
    try:
        with path.open("rb") as stream:
            found = json.loads(stream.read(_MOST_JSON))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _edits(model: Model, editing: Editing) -> Model:
    return replace(model, ability="edit", editing=editing)


def _layers(model: Model, told: str) -> Model:
    """A model that takes pictures apart, as a kind or a name tells."""
    alone = _CONTROL.search(told) is not None
    return replace(
        model,
        ability="layers",
        layering=LAYERING_ALONE if alone else LAYERING,
        ratios=QWEN_IMAGE.ratios if alone else LAYERED_RATIOS,
    )


def _with_transparency(part: Part) -> Part:
    return LAYERED_VAE if part.role == "vae" else part


def _kind_of(stem: str) -> str:
    """What a transformer is for, by its file's name."""
    if _LAYERS.search(stem):
        return "layered"
    return "edit" if _EDITS.search(stem) else "picture"


def _editing(told: str, stem: str) -> Editing:
    """Of which generation a transformer is: as it is told, else by its file's name, where that says so at all."""
    text = told if "-" in told else stem
    if "2511" in text:
        return EDITING_2511
    return EDITING_2509 if "2509" in text or not _EDITS.search(stem) else EDITING


def like_qwen_image(reference: str, *, about: str, folder: Path | None) -> Model:
    """A model of one's own: Qwen-Image's sizes and defaults, and the demo model's smallest side."""
    return replace(
        QWEN_IMAGE,
        id=reference,
        about=about,
        folder=folder,
        parts=(),
        revision=None,
        shape=None,
        licence="",
        min_side=DEMO.min_side,
    )


def _kind(name: str) -> str:
    if name not in KINDS:
        raise ModelError(f'there is no {KIND} of models "{shorten(name)}"', hint=f"known: {', '.join(KINDS)}")
    return name


def _distilled(stem: str, model: Model) -> Model:
    """The model with Lightning's steps, guidance and schedule, where that is in its weights by a file's name."""
    steps = _LIGHTNING.search(stem)
    if not steps:
        return model
    return replace(model, steps=int(steps[1] or steps[2]), cfg_scale=1.0, schedule="lightning")


# ---- where a file lies -----------------------------------------------------------------------------------------------


def _file(role: PartRole, name: str) -> Path:
    path = expanded(name)
    if path.suffix in PICKLES:
        raise ModelError(
            f'"{shorten(name)}" is a pickled checkpoint, which can run any code when it is opened',
            hint="take a safetensors file, or convert this one where you trust it",
        )
    if role == "tokenizer":
        if not path.is_dir():
            raise ModelError(f'the {role} "{shorten(name)}" is not a folder', hint="give the one with vocab.json in it")
        return path
    if path.is_dir():
        message = f'the {role} "{shorten(name)}" is a folder, and not a file'
        raise ModelError(message, hint="give a path from where the command is called")
    if not path.is_file():
        path = _in_comfyui(role, name)
    if path.suffix not in TENSORS:
        message = f'the {role} "{shorten(name)}" is neither a safetensors nor a GGUF file'
        raise ModelError(message, hint="rename it, if it is one")
    return path


def _in_comfyui(role: PartRole, name: str) -> Path:
    """A file in ComfyUI's folders of a part. Raises `ModelError` where there is none, and where there are several."""
    wanted = Path(name)
    folders = list(comfyui_folders(role))
    found = [path for folder in folders if (path := folder / wanted).is_file()] if not wanted.is_absolute() else []
    if not found and wanted.name == name:
        found = [path for path in files_below(folders) if path.name == name]
    different = {path.resolve(): path for path in found}
    if len(different) > 1:
        places = " and ".join(str(path) for path in different.values())
        raise ModelError(f'the {role} "{shorten(name)}" is in {places}', hint="give the path of one")
    if found:
        return found[0]
    names = [path.name for path in files_below(folders)]
    near = difflib.get_close_matches(wanted.name, names, n=1, cutoff=0.6)
    hint = "give a path from where the command is called"
    if near:
        hint = f'did you mean "{near[0]}", which ComfyUI has?'
    elif not folders:
        hint += ", or let COMFYUI_PATH name the folder of ComfyUI, where it is looked for as well"
    raise ModelError(f'the {role} "{shorten(name)}" is not there', hint=hint)


def comfyui_folders(role: PartRole) -> Iterator[Path]:
    """ComfyUI's folders for a part that are here."""
    if base := os.environ.get("COMFYUI_PATH"):
        for root in (expanded(base) / "models", expanded(base)):
            for name in COMFYUI_FOLDERS.get(role, ()):
                if (root / name).is_dir():
                    yield root / name


def files_below(folders: list[Path]) -> Iterator[Path]:
    """Files of tensors in some folders, and a few below."""
    for folder in folders:
        for depth in range(_DEPTH):
            for path in sorted(folder.glob("*/" * depth + "*")):
                if path.suffix in TENSORS and path.is_file():
                    yield path
