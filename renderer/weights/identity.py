"""Which weights are these? A catalogue model is its id and revision; other files are the SHA-256 of what they hold.

That is their tensors, by name, type, shape and bytes, and what a tokenizer reads: files may be moved, renamed and
sharded otherwise, and what else lies beside them does not matter. Imports no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from renderer import families
from renderer.catalog import NETWORK_FILES, PROCESSOR, PROCESSOR_NEEDS, TOKENIZER, Model, Part, Role
from renderer.families import Family
from renderer.job import ModelIdentity, canonical
from renderer.text import decimal
from renderer.weights.adapters.whereabouts import find_lora
from renderer.weights.hashes import Tell, file_hashes, tensor_hashes

TOKENIZER_FILES = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)
"""What a tokenizer reads of its folder."""


def identify(model: Model, tell: Tell | None = None) -> ModelIdentity:
    """The identity that enters a picture's fingerprint. `tell` hears of files that have to be read for it.

    `id` is what a model of one's own is called, for people; its content is what it is.
    """
    if model.origin is not None:
        return _derived(model, identify(model.origin, tell))
    family = families.find(model.family)
    if model.folder is not None:
        folder = model.folder
        networks: dict[Role, list[Path]] = {part.role: sorted(folder.glob(part.files)) for part in NETWORK_FILES}
        looks = folder / PROCESSOR / PROCESSOR_NEEDS if model.editing else None
        content = _content(family, networks, folder / TOKENIZER, (), tell, looks)
        return ModelIdentity(id=folder.name, content_sha256=content)
    if model.files:
        name = "+".join(path.stem for path in model.files.values())
        given: dict[Role, list[Path]] = {
            part.role: [model.files[part.role]] for part in NETWORK_FILES if part.role in model.files
        }
        content = _content(family, given, model.files.get("tokenizer"), model.parts, tell)
        return ModelIdentity(id=name, content_sha256=content)
    return ModelIdentity(id=model.id, revision=model.revision)


def _derived(model: Model, origin: ModelIdentity) -> ModelIdentity:
    """The identity of a model with LoRAs in it: that of what it is made of, and theirs with their weights.

    Known without looking at what came out: the same goes in, the same comes out.
    """
    found = [(find_lora(each.source, Path()), each.weight) for each in model.fused]
    known = origin.model_copy(update={"id": ""}) if origin.content_sha256 else origin
    lines = [canonical(known), *(f"{lora.identity} {weight!r}" for lora, weight in found)]
    names = "".join(f"+{lora.name}:{decimal(weight)}" for lora, weight in found)
    return ModelIdentity(id=origin.id + names, content_sha256=hashlib.sha256("\n".join(lines).encode()).hexdigest())


def _content(
    family: Family,
    networks: Mapping[Role, Sequence[Path]],
    tokenizer: Path | None,
    others: Sequence[Part],
    tell: Tell | None,
    looks: Path | None = None,
) -> str:
    """SHA-256 over the tensors of networks, a tokenizer's files, and where the other parts come from.

    `looks` is the file that says how an edit model is shown pictures, which counts as well.

    Tensors go by the hub's names, whichever tool has written them; what no picture needs does not count.
    """
    lines = [f"{part.role} {part.repository}@{part.revision}" for part in others]
    roles = [(role, path) for role, paths in networks.items() for path in paths]
    for (role, _), hashes in zip(roles, tensor_hashes([path for _, path in roles], tell), strict=True):
        network = family.network(role)
        names = {own: network.hub_name(own) for own in hashes}
        wanted = {own: value for own, value in hashes.items() if names[own] not in network.left_out}
        lines += [f"{role} {names[own]} {value}" for own, value in wanted.items()]
    if tokenizer is not None:
        files = [path for name in TOKENIZER_FILES if (path := tokenizer / name).is_file()]
        lines += [f"tokenizer {path.name} {found}" for path, found in zip(files, file_hashes(files, tell), strict=True)]
    if looks is not None:
        lines += [f"processor {looks.name} {found}" for found in file_hashes([looks], tell)]
    text = "".join(f"{line}\n" for line in sorted(lines))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
