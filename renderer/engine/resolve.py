"""Which files a model is opened from, wherever on this machine they lie; what is missing is fetched.

Present files are taken as they are and no hub is asked, so that a night does not depend on the network. As a rule the
supervisor has seen to it that all are here. Knows nothing of what is in the files.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from renderer.catalog import Model
from renderer.demo import cache as demo
from renderer.engine import stores
from renderer.engine.tensor_map import OpenWeights
from renderer.errors import ModelError
from renderer.protocol import Setup
from renderer.text import gb
from renderer.weights import places, prepare, pull, vouched
from renderer.weights.adapters.fusing import files_to_fuse
from renderer.weights.identity import identify
from renderer.weights.places import ModelFiles
from renderer.weights.unpacked import unpacked

LOG = logging.getLogger(__name__)


def weights_of(setup: Setup, model: Model, report: Callable[[str], None]) -> OpenWeights:
    """A setup's weights: the packed store that it names, or one that is here, or else the model's own files.

    Raises `ModelError` when there is none of them, or what there is is not whole; `DiskError` where files are fetched.
    """
    if setup.store is None and places.has_store(model, setup.stored):
        setup = setup.model_copy(update={"store": str(places.packed_folder(model, setup.stored))})
    if setup.store is not None:
        LOG.info("%s at %s, from the packed store %s", model.id, setup.stored, setup.store)
        return stores.find(setup, report)
    LOG.info("%s at %s, from its original files", model.id, setup.stored)
    found = find(model, offline=setup.offline, report=report)
    fused = files_to_fuse(model)
    opened = unpacked(found.networks, found.tokenizer, setup.stored, fused, found.processor)
    if setup.identity is not None and not identify(model).is_of(setup.identity):  # of what is open, and not before
        raise ModelError(f"the files of {model.id} are others than when this was planned", hint="run it again")
    return opened


def find(model: Model, *, offline: bool, report: Callable[[str], None]) -> ModelFiles:
    """All files of a model; those of a hub are fetched first, unless `offline`.

    Raises `ModelError` when any lacks, and `DiskError` when the disk does not take them.
    """
    here = demo.located(model)
    whereabouts = places.look(here)
    if not whereabouts.lacking:
        vouched.check(whereabouts, lambda done, total: report(f"reading {model.id}: {gb(done)} of {gb(total)}"))
        return places.collect(whereabouts)
    if offline:
        raise places.lacks(whereabouts, "and this run is offline")

    def tell(what: str, done: int, total: int) -> None:
        report(f"{what} {model.id}: {gb(done)} of {gb(total)}")

    prepare.prepare(here, order=pull.sources(), report=tell)
    return places.collect(places.look(here))
