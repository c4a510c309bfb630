"""The transformer's sections on this device: their blocks' files, and the best way here to compute each kind."""

from __future__ import annotations

import functools
from collections.abc import Callable

from renderer.engine import arithmetic
from renderer.engine.adapters import Order
from renderer.engine.device import Device
from renderer.engine.sections import LiveSection, Passage
from renderer.engine.skeletons import FamilyNetworks, Skeleton
from renderer.protocol import Setup
from renderer.weights.store import Store


def passage(
    skeleton: Skeleton,
    family: FamilyNetworks,
    store: Store,
    setup: Setup,
    device: Device,
    records: Callable[[], bool],
) -> Passage:
    """All sections that a step goes through. `records` tells whether there is room to record launches."""

    def live(name: str) -> LiveSection:
        files, template = store.section(name), skeleton.templates[name]
        blocks = arithmetic.choose(
            template,
            files[0].tensors,
            device,
            stored=setup.multiplies_stored,
            records=records,
            fast=functools.partial(family.fast_blocks, name, template),
        )
        return LiveSection(name, files, blocks)

    return Passage([live(name) for name in skeleton.sections])


def order(skeleton: Skeleton, store: Store) -> Order:
    """The blocks as they come past in a passage."""
    found = [store.family.section(name)[1] for name in skeleton.sections]
    return [(section, number) for section in found for number in range(len(store.section(section.name)))]
