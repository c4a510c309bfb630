"""Whether the files of a model that are on this machine can be what they are taken for, found out before anything else.

Reads headers, so it takes a blink for 58 GB: a wrong file is told by `validate` and `plan`, and by `render` before the
other parts are fetched. That the bytes are right, `models verify` says. Imports no torch, and what reads headers only
where there is one to read: a manifest is validated in a blink.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from renderer.catalog import Model, Role
from renderer.errors import ModelError
from renderer.families.qwen_image.shapes import LAYERED
from renderer.families.qwen_image.transformer import EDIT_2511_MARK
from renderer.weights import places

if TYPE_CHECKING:
    from renderer.weights.checkpoint import Checkpoint


def problems(model: Model) -> tuple[ModelError, ...]:
    """What is wrong with a model's files, an error each, which names the file and says what to do; empty if nothing is.

    Files that a manifest names are always looked at. Those that were fetched only where all are here and no packed
    store is: what lacks is fetched, and what is damaged with it. Asks no network, and does not mind what is missing.
    """
    if model.is_embedded:
        return ()
    whereabouts = places.look(model)
    if not whereabouts.found:
        return ()
    from renderer.weights.checkpoint import check_together, open_checkpoint  # noqa: PLC0415

    fetched = not whereabouts.lacking and not _is_packed(model)
    wrong: list[ModelError] = []
    opened: dict[Role, Checkpoint] = {}
    for found in whereabouts.found:
        if found.kind != "given" and not fetched:
            continue
        match found.part.role:
            case "transformer" | "text_encoder" | "vae" as network:
                try:
                    opened[network] = open_checkpoint(network, found.files)
                    _check_generation(model, opened[network])
                except ModelError as error:
                    wrong.append(error)
    if len(opened) == 3:  # noqa: PLR2004  # transformer, text encoder, VAE
        try:
            check_together(opened, edits=model.editing is not None)
        except ModelError as error:
            wrong.append(error)
    return tuple(wrong)


def _check_generation(model: Model, checkpoint: Checkpoint) -> None:
    """Raise `ModelError` for a transformer that is made for something else than its name or its manifest says."""
    if EDIT_2511_MARK in checkpoint.left_out and not (model.editing and model.editing.zero_cond_t):
        path = next(iter(checkpoint.tensors.values())).path
        raise ModelError(f"{path} is of Qwen-Image-Edit-2511, by a mark in it", hint="give it kind: edit-2511")
    layered = LAYERED in checkpoint.tensors
    if checkpoint.network.role == "transformer" and layered is not (model.layering is not None):
        path = next(iter(checkpoint.tensors.values())).path
        told = f'say "use_layer3d_rope": {str(layered).lower()} in its transformer/config.json'
        if layered:
            message = f"{path} takes pictures apart into layers, by its tensors"
            raise ModelError(message, hint=told if model.folder else "give it kind: layered")
        message = f"{path} makes no layers: it lacks {LAYERED}"
        raise ModelError(message, hint=told if model.folder else "give it kind: picture, or edit")


def check(model: Model) -> None:
    """Raise `ModelError` with all that is wrong with a model's files; nothing where nothing is."""
    wrong = problems(model)
    if wrong:
        raise ModelError("\n".join(error.message for error in wrong), hint=wrong[0].hint)


def _is_packed(model: Model) -> bool:
    """Whether a catalogue model's store is here; one's own files would have to be read whole to know."""
    from renderer.weights.codecs import CODECS  # noqa: PLC0415

    return bool(model.parts and not model.files) and any(places.has_store(model, each) for each in CODECS)
