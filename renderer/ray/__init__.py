"""Workers on the machines of a Ray cluster. Needs the extra `cluster`; torch is imported by the workers alone.

`connecting` finds or starts a cluster and asks its machines; `reaching` says whether there is one at an address, `head`
whether it answers still. `arrival` is what one tells of itself, and what must be as it is here. `cluster_fleet` is a
run's: the devices that there are, and how a worker is had. It hires a `cluster_worker`, the supervisor's end of one,
whose other end is an actor: `node_worker`, which holds a process on its machine, and sees to the model there.
`node_memory` is what a machine's workers share, `carried` what goes along with an order. Knows no manifests and no
folders of outputs, but for `data_rows`, which renders those of a Ray data set: `processor` is its face, `kept_worker`
stays open from batch to batch, and `row_pictures` makes files of pictures in cells.
"""

from __future__ import annotations

from typing import Any

__all__ = ["processor"]


def __getattr__(name: str) -> Any:
    """`processor`, when it is asked for: what it needs is more than the rest of this wing does."""
    if name == "processor":
        from renderer.ray.data_rows import processor  # noqa: PLC0415

        return processor
    raise AttributeError(f"module {__name__} has no attribute {name}")
