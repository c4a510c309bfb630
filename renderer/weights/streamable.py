"""Whether a model's weights can be streamed at all: a packed store of them is here, or can be made.

Reads headers, never a weight, and only of files that a manifest names itself: what the catalogue has is known. Imports
no torch.
"""

from __future__ import annotations

from contextlib import suppress

from renderer.catalog import Model
from renderer.errors import ModelError
from renderer.job import Stored
from renderer.weights import places
from renderer.weights.checkpoint import open_checkpoint


def obstacle(model: Model, precision: Stored) -> str:
    """Why no packed store of a model can be made, though its files can be rendered from; empty where one can.

    Files that are damaged or another model's are nothing to fall back for: whoever opens them says what is wrong.
    """
    given = [found for found in places.look(model).found if found.kind == "given"]
    if not given or places.has_store(model, precision):
        return ""
    for found in given:
        match found.part.role:
            case "transformer" | "text_encoder" | "vae" as network:
                with suppress(ModelError):
                    if reason := open_checkpoint(network, found.files).obstacle:
                        return reason
    return ""
