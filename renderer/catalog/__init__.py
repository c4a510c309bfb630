"""Models as data: which files, which sizes, which defaults. Reads nothing but names in folders, imports no torch.

A manifest names a model by a catalogue id (`Qwen/Qwen-Image`, `demo`), by an id and a revision of its repository
(`Qwen/Qwen-Image@75e0b4b…`), by a local folder in Qwen-Image's layout, or by single files and the parts they are
(`transformer=mine.safetensors,vae=…`), whose missing parts are Qwen/Qwen-Image's. `given` looks for these.
Each may have LoRAs fused into it (`Qwen/Qwen-Image+lora=ink.safetensors:0.8`), as `derived` reads it.

`data` has the models, `embedded` where those of the package lie, `distilled` LoRAs that need few steps, `control`
ControlNets and their like; `model` says what is known of one, `cards` has public GPUs.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from renderer.catalog.control import CONTROLNETS, IN_CONTEXT
from renderer.catalog.data import (
    DEMO,
    DEMO_ARCHITECTURE,
    DEMO_EDIT,
    PHOTOGRAPHS,
    PROCESSOR,
    PROCESSOR_NEEDS,
    QWEN_IMAGE,
    QWEN_IMAGE_2512,
    QWEN_IMAGE_ARCHITECTURE,
    QWEN_IMAGE_EDIT,
    QWEN_IMAGE_EDIT_2509,
    QWEN_IMAGE_EDIT_2511,
    QWEN_IMAGE_LAYERED,
    SHARD,
    STABLE_DIFFUSION_15,
    TEXT_ENCODER_FILES,
    TOKENIZER,
    TRANSFORMER_FILES,
    VAE_FILES,
)
from renderer.catalog.derived import FUSED, derive, name_derived
from renderer.catalog.distilled import DEMO_FEW_STEPS, LIGHTNING
from renderer.catalog.embedded import located
from renderer.catalog.given import (
    BY_ROLE,
    KIND,
    KINDS,
    PICKLES,
    TENSORS,
    by_parts,
    by_role,
    from_files,
    like_its_files,
    like_qwen_image,
)
from renderer.catalog.model import (
    DROPPED_TOKENS,
    EDIT_DROPPED_TOKENS,
    MOST_REGION_TOKENS,
    MOST_TOKENS,
    SIZE_STEP,
    TRAINED_TOKENS,
    Ability,
    Architecture,
    Density,
    Editing,
    Fused,
    Layering,
    Model,
    NetworkFiles,
    Part,
    PartRole,
    Role,
    UNetShape,
    forbids_commerce,
)
from renderer.errors import ModelError, shorten
from renderer.system.folders import expanded

__all__ = [
    "BY_ROLE",
    "DEMO",
    "DEMO_ARCHITECTURE",
    "DEMO_EDIT",
    "DROPPED_TOKENS",
    "EDIT_DROPPED_TOKENS",
    "IN_CONTEXT",
    "KIND",
    "KINDS",
    "MODELS",
    "MOST_REGION_TOKENS",
    "MOST_TOKENS",
    "PARTS",
    "PHOTOGRAPHS",
    "PICKLES",
    "PROCESSOR",
    "PROCESSOR_NEEDS",
    "QWEN_IMAGE",
    "QWEN_IMAGE_ARCHITECTURE",
    "SHARD",
    "SIZE_STEP",
    "STABLE_DIFFUSION_15",
    "TENSORS",
    "TOKENIZER",
    "TRAINED_TOKENS",
    "Ability",
    "Architecture",
    "Density",
    "Editing",
    "Fused",
    "Layering",
    "Model",
    "NetworkFiles",
    "Part",
    "PartRole",
    "Role",
    "UNetShape",
    "by_role",
    "find",
    "forbids_commerce",
    "located",
    "name_derived",
]

MODELS: Mapping[str, Model] = MappingProxyType(
    {
        model.id: model
        for model in (
            QWEN_IMAGE,
            QWEN_IMAGE_2512,
            QWEN_IMAGE_EDIT,
            QWEN_IMAGE_EDIT_2509,
            QWEN_IMAGE_EDIT_2511,
            QWEN_IMAGE_LAYERED,
            *LIGHTNING,
            *CONTROLNETS,
            IN_CONTEXT,
            DEMO,
            DEMO_EDIT,
            DEMO_FEW_STEPS,
        )
    }
)
"""Every model by its id."""

NETWORK_FILES: tuple[NetworkFiles, ...] = (
    NetworkFiles("transformer", TRANSFORMER_FILES),
    NetworkFiles("text_encoder", TEXT_ENCODER_FILES),
    NetworkFiles("vae", VAE_FILES),
)
"""The networks in Qwen-Image's layout; every model of the family has it."""

_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def find(reference: str) -> Model:
    """The model a manifest names, in any of the four ways above.

    Raises `ModelError`, with the nearest id as its hint, when there is none such.
    """
    if reference in MODELS:
        return MODELS[reference]
    if any("\ud800" <= letter <= "\udfff" for letter in reference):
        hint = "rename it, or give it a link with another name"
        raise ModelError(f'the name "{shorten(reference)}" of a model is not UTF-8', hint=hint)
    origin, mark, additions = reference.partition(FUSED)
    if mark:
        return derive(reference, find(origin), additions, MODELS)
    if by_parts(reference):
        return from_files(reference)
    if folder := _folder(reference):
        return _local(reference, folder)
    name, mark, revision = reference.partition("@")
    if mark and name in MODELS:
        return _pinned(MODELS[name], revision)
    near = difflib.get_close_matches(name, MODELS, n=1, cutoff=0.4)
    known = ", ".join(model.id for model in MODELS.values() if not model.unfit)
    hint = f'did you mean "{near[0]}"?' if near else f"known: {known}; or a folder in Qwen-Image's layout"
    raise ModelError(f'there is no model "{shorten(reference)}"', hint=hint)


def _pinned(model: Model, revision: str) -> Model:
    """The catalogue's model at a revision of its own repository; parts of other repositories stay as they are."""
    if not model.parts:
        raise ModelError(f"{model.id} has no revisions to choose from")
    if not _REVISION.fullmatch(revision):
        raise ModelError(f'"{shorten(revision)}" is not a revision', hint="give a commit of the repository, or a tag")
    return model if revision == model.revision else replace(model, revision=revision, pinned=True)


def _folder(reference: str) -> Path | None:
    try:
        folder = expanded(reference)
        return folder if folder.is_dir() else None
    except (OSError, ValueError):  # a name that no file system takes
        return None


def _local(reference: str, folder: Path) -> Model:
    missing = [part.files for part in NETWORK_FILES if not any(folder.glob(part.files))]
    if not (folder / TOKENIZER).is_dir():
        missing.append(TOKENIZER)
    if missing:
        pickles = any(path.suffix in PICKLES for part in NETWORK_FILES for path in folder.glob(f"{part.role}/*"))
        hint = "take the safetensors files: pickled checkpoints are not read" if pickles else ""
        raise ModelError(
            f'the folder "{shorten(reference)}" lacks {", ".join(missing)}',
            hint=hint or "give it Qwen-Image's layout",
        )
    return like_its_files(like_qwen_image(reference, about="a local folder", folder=folder), folder)
