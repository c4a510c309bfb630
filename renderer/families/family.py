"""What a family of models is, in frozen values: its networks, their sections of alike blocks, and what stands outside.

Names and shapes. Imports no torch; how networks are built and computed is no business of these.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from renderer.catalog import Architecture, Role

Shape = tuple[int, ...]
"""A tensor's."""

Shapes = dict[str, Shape]
"""Of a network's tensors, by the hub's names."""


@dataclass(frozen=True, slots=True)
class BlockPart:
    """What of a block one file of a store holds: the kind of that file, and what is in it.

    `layers` are the linear layers in the order of a slot: those that are multiplied as one stand side by side. `norms`
    are whole names within the block. `of_text` are those layers that a prompt's tokens pass, and no picture's.
    """

    kind: str
    layers: tuple[str, ...]
    norms: tuple[str, ...] = ()
    of_text: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """Alike blocks of a network, one after the other: what is swept. `name` is unique in the family.

    `prefix` is what the hub's names have before a block's number. `streamed` is what moves in a sweep. `beforehand` is
    what is computed for all blocks before one, if there is such.
    """

    name: str
    prefix: str
    streamed: BlockPart
    beforehand: BlockPart | None = None

    @property
    def parts(self) -> tuple[BlockPart, ...]:
        """Every part of a block, that of sweeps first."""
        return (self.streamed,) if self.beforehand is None else (self.streamed, self.beforehand)

    def numbers(self, names: Mapping[str, object]) -> list[int]:
        """Which blocks there are among a network's tensors, in order."""
        own = (name.removeprefix(self.prefix).partition(".")[0] for name in names if name.startswith(self.prefix))
        return sorted({int(number) for number in own})


@dataclass(frozen=True, slots=True)
class Outside:
    """What of a network lies in one file of a store besides blocks: the kind of that file, and its name there.

    It is what begins with `prefix`, the longest that fits. `optional` says why some models lack it.
    """

    kind: str
    file: str
    prefix: str = ""
    optional: str = ""


@dataclass(frozen=True, slots=True)
class Staying:
    """Weights that stay bf16 in every store, by a pattern over the hub's names, and why."""

    pattern: str
    reason: str


@dataclass(frozen=True, slots=True)
class Network:
    """One network of a family.

    `renamed` are prefixes that other tools write before a tensor's name, and the hub's own; `respelled` are patterns of
    names that other tools have altogether, and the hub's, of which the first that fits counts; `modules` are the hub's
    prefixes, and those of DiffSynth's modules. `depths` are keys of the hub's `config.json` that tell how many blocks a
    section has. `own` are tensors that the family's other networks have not, under the names they may have; `anchor` is
    the one that its width is read from: where it is wrong, all the others seem to be. `expected` gives the shapes that
    tensors of such a width have, and raises `LookupError` with the name of one that is needed for it and not there.
    """

    role: Role
    words: str
    expected: Callable[[Mapping[str, Shape]], Shapes]
    anchor: str
    own: tuple[str, ...]
    sections: tuple[Section, ...] = ()
    outside: tuple[Outside, ...] = ()
    stays: tuple[Staying, ...] = ()
    left_out: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    respelled: tuple[tuple[str, str], ...] = ()
    modules: tuple[tuple[str, str], ...] = ()
    depths: tuple[tuple[str, str], ...] = ()

    def hub_name(self, name: str) -> str:
        """A tensor's name as the hub's files have it, whichever tool has written it."""
        plain = _renamed(name, self.renamed)
        for pattern, new in self.respelled:
            if found := re.fullmatch(pattern, plain):
                return found.expand(new)
        return plain

    def module_name(self, name: str) -> str:
        """What DiffSynth's module calls a tensor that has this name in the hub's files."""
        return _renamed(name, self.modules)

    def reason_to_stay(self, name: str) -> str:
        """Why a weight stays bf16 in every store, or an empty string."""
        return next((row.reason for row in self.stays if re.search(row.pattern, name)), "")

    def section_of(self, name: str) -> Section | None:
        """The section that a tensor belongs to, by the hub's name; None where it stands outside."""
        return next((section for section in self.sections if name.startswith(section.prefix)), None)

    def outside_of(self, name: str) -> Outside:
        """The file of what stands outside that a tensor belongs to, by the hub's name."""
        fitting = [each for each in self.outside if name.startswith(each.prefix)]
        return max(fitting, key=lambda each: len(each.prefix))

    def lacking(self, names: Mapping[str, object]) -> tuple[Outside, ...]:
        """What of the optional is not there."""
        return tuple(
            each for each in self.outside if each.optional and not any(name.startswith(each.prefix) for name in names)
        )

    def own_name(self, kind: str, number: int | None, name: str) -> str:
        """The hub's name of a tensor, by the file of a store that it is in and its name there."""
        for section in self.sections:
            if kind in {part.kind for part in section.parts}:
                return f"{section.prefix}{number}.{name}"
        return name


@dataclass(frozen=True, slots=True)
class ControlNets:
    """What ControlNets of a family's models are: a block beside each of the transformer's, and what stands outside.

    `prefix` is what their tensors' names have before a block's number, and `outside` the weight that stands before all
    blocks. `expected` are the shapes of one of so many
    blocks of such a width, for networks that look at pictures alone, or at a mask as well.
    """

    prefix: str
    outside: str
    expected: Callable[[int, int, bool], Shapes]


@dataclass(frozen=True, slots=True)
class Family:
    """Models that are built alike. `title` is what people call it, `name` what the catalogue does.

    `unfit` says what of a network does not go with what of another, by all their shapes; an empty text where all does.
    `shapes` gives those of a member with one block in each section. `torch_half` is the module that builds the networks
    and calls them, `costs` the one that says what they take and compute: engine and estimate find them by these names.
    `architecture` is the member whose shape is reckoned with for weights that no row of the catalogue knows.
    `controlnets` is None where nobody makes any. `marks` are what its tokenizer takes for no text, wherever it stands
    in a prompt: where a message ends, where a picture is.
    """

    name: str
    title: str
    networks: tuple[Network, ...]
    unfit: Callable[[Mapping[Role, Mapping[str, Shape]]], str]
    shapes: Callable[[Architecture], Mapping[Role, Shapes]]
    torch_half: str
    costs: str
    architecture: Architecture
    controlnets: ControlNets | None = None
    marks: tuple[str, ...] = ()

    def network(self, role: Role) -> Network:
        return next(network for network in self.networks if network.role == role)

    def section(self, name: str) -> tuple[Network, Section]:
        """A section by its name, and the network it is in."""
        return next(
            (network, section) for network in self.networks for section in network.sections if section.name == name
        )


def _renamed(name: str, table: Sequence[tuple[str, str]]) -> str:
    return next((new + name.removeprefix(old) for old, new in table if name.startswith(old)), name)
