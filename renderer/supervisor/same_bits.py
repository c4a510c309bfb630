"""`--same-bits`: all pictures of a run are of one kind of card, arithmetic and torch, and of that of pictures there.

What a picture's bits hang on beside its job is told by its sidecar. Two kinds of cards may give other bits, and so may
two versions of torch: nobody has shown that any two agree, so every difference counts. Knows no workers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from renderer.errors import MachineError
from renderer.job import BlockArithmetic, Weights
from renderer.job.precisions import in_words
from renderer.machine.devices import WorkerDevice
from renderer.outputs.done import Known
from renderer.planning.mixtures import told_by
from renderer.planning.plan import Plan
from renderer.protocol import Opened, Rendered

_CPU = "the CPU"

Agree = Callable[[str, str], str]
"""What all that render parts of a manifest keep to in `card` or `torch`: this, where none of them has said it yet."""


@dataclass(frozen=True, slots=True)
class RenderingKind:
    """What renders, as far as bits hang on it: the card's name, or the CPU; torch's version."""

    card: str
    torch: str

    def __str__(self) -> str:
        return f"{self.card} with torch {self.torch}" if self.torch else self.card


class SameBits:
    """What one run keeps to: what is there already, or what most of its devices are."""

    def __init__(
        self, plans: Sequence[Plan], agree: Agree = lambda _, told: told, beside: Collection[RenderingKind] = ()
    ) -> None:
        """`beside` are the kinds of what others have rendered of the same manifests.

        Raises `MachineError` where the pictures that are there are of several kinds themselves.
        """
        there = [item.sidecar for plan in plans for item in plan.items if item.sidecar is not None]
        kinds = {*map(kind_of, there), *beside}
        if len(kinds) > 1:
            message = f"--same-bits: the pictures that are there are of {' and of '.join(sorted(map(str, kinds)))}"
            raise MachineError(message, hint="--force renders all anew; or leave --same-bits out")
        self._kind = next(iter(kinds), None)
        self._card = self._kind.card if self._kind else ""
        self._agree = agree
        self._has_agreed = False
        self._arithmetics: dict[Weights, BlockArithmetic] = {}
        for plan in plans:
            for item in plan.items:
                if item.sidecar is not None:
                    self._keeps(Weights.of(item.picture.job), told_by(item.sidecar))

    def keep(self, devices: Sequence[WorkerDevice]) -> Sequence[WorkerDevice]:
        """The devices that are of the kind that is kept to. Raises `MachineError` where none is."""
        cards = Counter(map(_card, devices))
        wanted = self._agree("card", self._kind.card if self._kind else max(cards, key=lambda card: cards[card]))
        if self._kind is not None and self._kind.card != wanted:
            message = f"--same-bits: the others keep to {wanted}, and pictures that are there are of {self._kind.card}"
            raise MachineError(message, hint="leave --same-bits out, or remove those pictures")
        if wanted not in cards:
            message = f"--same-bits: the others are of {wanted}, and this machine renders on {', '.join(sorted(cards))}"
            raise MachineError(message, hint="render on that kind; or leave --same-bits out")
        self._card = wanted
        those = [device for device in devices if _card(device) == wanted]
        return [replace(device, number=number) for number, device in enumerate(those)]

    def check(self, plan: Plan) -> None:
        """One more manifest is to be kept to. Raises `MachineError` where its pictures that are there are of others."""
        there = [(Weights.of(item.picture.job), item.sidecar) for item in plan.items if item.sidecar is not None]
        kept = self._kind
        for _, sidecar in there:
            kind = kind_of(sidecar)
            kept = kept or (kind if kind.card == self._card else None)
            if kind != kept:
                message = (
                    f"--same-bits: its pictures that are there are of {kind}, and this run's of {kept or self._card}"
                )
                raise MachineError(message, hint="render it in a run of its own")
        for weights, sidecar in there:
            self._keeps(weights, told_by(sidecar))
        self._kind = self._kind or kept

    def differs(self, event: Opened | Rendered, weights: Weights | None = None) -> MachineError | None:
        """Why a worker that is ready, or a picture of these `weights`, is of another kind than is kept to, if so."""
        try:
            if isinstance(event, Opened):
                self._opened(event)
            elif event.sharing is not None and weights is not None:
                self._keeps(weights, event.sharing.arithmetic)
        except MachineError as error:
            return error
        return None

    def _opened(self, opened: Opened) -> None:
        kind = RenderingKind(opened.gpu.name if opened.gpu else _CPU, opened.software.torch)
        if not self._has_agreed:
            told = self._kind or kind
            self._kind = RenderingKind(self._agree("card", told.card), self._agree("torch", told.torch))
            self._has_agreed = True
        if kind != self._kind:
            raise MachineError(f"--same-bits: it renders on {kind}, and the others are of {self._kind}")

    def _keeps(self, weights: Weights, found: BlockArithmetic) -> None:
        kept = self._arithmetics.setdefault(weights, found)
        if found != kept:
            message = f"--same-bits: {weights}: blocks were computed in {in_words(found)}, and those of others in"
            raise MachineError(f"{message} {in_words(kept)}", hint="leave --same-bits out, or that device")


def kind_of(sidecar: Known) -> RenderingKind:
    """What a finished picture was rendered on."""
    card = sidecar.gpu.name if sidecar.gpu is not None else _CPU
    return RenderingKind(card, sidecar.software.torch if sidecar.software is not None else "")


def _card(device: WorkerDevice) -> str:
    gpu = device.machine.gpu
    return gpu.name if gpu is not None else _CPU
