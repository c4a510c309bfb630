"""A model's parts among ComfyUI's files: the same weights, used where they are, and the same in other forms.

What is in FP8 or in blocks are other weights, and other pictures: a manifest names them, and nothing takes them by
itself. Imports no torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from renderer.catalog import Part, PartRole
from renderer.catalog.given import comfyui_folders, files_below
from renderer.errors import ModelError
from renderer.system.folders import expanded

_FORM = re.compile(r"(?:instruct)?(?:ud)?(?:bf16|f16|fp16|fp8\w*|int8\w*|i?q\d\w*)")
"""What follows a model's name in a file's, without what stands between words."""


def same(part: Part) -> Path | None:
    """A part under the name that ComfyUI's users have it by, if it holds what such a part must hold.

    ComfyUI's repackaged FP8 files, and files of other keys, do not; neither name nor size tell that, the header does.
    """
    base = os.environ.get("COMFYUI_PATH")
    if not base or not part.comfyui:
        return None
    for root in (expanded(base) / "models", expanded(base)):
        path = root / part.comfyui
        if path.is_file() and _is_network(part, path):
            return path
    return None


def in_other_forms(parts: Iterable[Part]) -> str:
    """What a manifest may ask for in the place of some parts, by files' names; an empty text where there is nothing."""
    told = ", ".join(f"{role}: {path.name}" for role, path in other_forms(parts).items())
    return f"ComfyUI has of it in other forms: model: {{{told}}}" if told else ""


def other_forms(parts: Iterable[Part]) -> dict[PartRole, Path]:
    """By their names: files of some parts that are in another form than the hub has them in, one a part."""
    found: dict[PartRole, Path] = {}
    for part in parts:
        if part.comfyui:
            name = _letters(Path(part.comfyui).stem.removesuffix("_bf16"))
            for path in files_below(list(comfyui_folders(part.role))):
                stem = _letters(path.stem)
                if stem.startswith(name) and _FORM.fullmatch(stem.removeprefix(name)):
                    found.setdefault(part.role, path)
    return found


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _is_network(part: Part, path: Path) -> bool:
    from renderer.weights.checkpoint import HUB_TYPES, open_checkpoint  # noqa: PLC0415

    match part.role:
        case "transformer" | "text_encoder" | "vae":
            with suppress(ModelError):
                found = open_checkpoint(part.role, [path])
                return not found.lacking and all(
                    each.is_plain and each.dtype in HUB_TYPES for each in found.tensors.values()
                )
    return False
