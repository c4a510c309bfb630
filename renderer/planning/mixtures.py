"""Whether a batch would be computed in more than one arithmetic: what its pictures say, and what this machine does.

The precision is the job's, and means products of what is stored where a card has them; a card without, the native
engine and a CPU multiply the same weights in bf16 or float32, which gives pictures that differ slightly. A fingerprint
does not know that, so that a batch can move to another card without all of it being rendered anew; but it is said.
Imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from renderer.job import BlockArithmetic, Weights
from renderer.job.precisions import in_words, restored
from renderer.machine.hardware import Machine
from renderer.machine.processor import arithmetic
from renderer.outputs.done import Known
from renderer.planning import fitting
from renderer.planning.plan import Plan
from renderer.protocol import Setup


def told_by(sidecar: Known) -> BlockArithmetic:
    """What a finished picture's blocks were computed in."""
    return sidecar.sharing.arithmetic if sidecar.sharing is not None else sidecar.engine.arithmetic


def expected(setup: Setup, machine: Machine) -> BlockArithmetic:
    """What pictures of a setup will be computed in on this machine."""
    plain = arithmetic() if machine.gpu is None or setup.profile == "cpu" else "bf16"
    own = fitting.streaming_of(setup, machine).arithmetic if setup.profile == "stream" else "bf16"
    return plain if own == "bf16" else own


def remarks(plans: Sequence[Plan], setups: Iterable[Setup], machine: Machine) -> Iterator[str]:
    """A sentence for each model and precision of which some pictures are there in another arithmetic than is to come.

    `setups` are those of what is to be rendered; where nothing is, nothing is said.
    """
    for setup in setups:
        here = expected(setup, machine)
        others = Counter(
            told
            for plan in plans
            for item in plan.items
            if Weights.of(item.picture.job) == setup.weights
            and item.sidecar is not None
            and (told := told_by(item.sidecar)) != here
        )
        if others:
            counts = " and ".join(f"{count} in {in_words(told)}" for told, count in sorted(others.items()))
            way = "--force renders them anew"
            if alike := restored(setup.stored):
                way += f"; precision {alike} multiplies alike on every card"
            yield (
                f"{setup.weights}: pictures that are there were computed {counts}, and this machine "
                f"computes in {in_words(here)}: those to come will differ slightly from them; {way}"
            )
