"""A model's networks without their blocks, and what the engine asks of a family to build and call them.

The torch half of a family, `renderer.families.<name>.networks`, is found by its name and nothing else: the engine knows
no family. Knows nothing of slots or pictures.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch

from renderer import families
from renderer.engine.adapters import AdapterShelf
from renderer.engine.blocks import FastBlocks, ModuleBlocks
from renderer.engine.controls import ControlNetNetworks
from renderer.engine.device import Device
from renderer.engine.encoding import AskedPrompt, Encoded
from renderer.engine.inputs import Inputs
from renderer.engine.riders import Halt
from renderer.job import Job
from renderer.weights.store import Store, TensorPlace
from renderer.weights.within import BlockWithin


class Beforehand(Protocol):
    """What is computed for all blocks before sweeps, and handed to them step by step: modulation, with Qwen-Image."""

    def has(self, job: Job) -> bool:
        """Whether all that a job needs is at hand."""

    def prepare(self, jobs: Iterable[Job]) -> int:
        """Compute what these jobs need and is not there yet; how much that was."""

    def at(self, job: Job, step: int) -> torch.Tensor | None:
        """What a job's step, from 0, is given, on the device."""

    def forget(self, still_wanted: Iterable[Job]) -> None:
        """Let go of what these jobs do not need, where it takes too much room."""


@dataclass(frozen=True, slots=True)
class Skeleton:
    """The networks with stops for blocks, and one block of each section on the meta device.

    `parts` are what a pipeline of DiffSynth's has under these names. `sections` are those that a step goes through, in
    its order, `text_sections` those that a prompt does, and `looking_sections` those before them where it is about
    pictures: `own_files` are of sections whose blocks lie in no files of their own. What is loaded is in the type that
    the device computes in; blocks come in what they are stored in. `checking` ends when all that stays in its
    file has been read and held against the index.
    """

    parts: Mapping[str, Any]
    templates: Mapping[str, torch.nn.Module]
    sections: tuple[str, ...]
    text_sections: tuple[str, ...]
    tokenizer: Any
    width: int
    checking: Future[None]
    tidy: Callable[[], None]
    """Lets go of what DiffSynth keeps for every size there ever was."""
    looking_sections: tuple[str, ...] = ()
    own_files: Mapping[str, Sequence[BlockWithin]] = field(default_factory=dict)


class FamilyNetworks(ControlNetNetworks, Protocol):
    """The torch half of a family."""

    def build(self, store: Store, device: Device) -> Skeleton:
        """Build the networks of a store. Raises `ModelError` for widths that no known model has."""

    def pipeline(
        self,
        skeleton: Skeleton,
        encoded: Mapping[str, Encoded],
        device: Device,
        job: Job | None = None,
        controls: Sequence[Any] = (),
    ) -> Any:
        """A pipeline of DiffSynth's for one picture: a scheduler of its own, everybody's networks, prompts encoded.

        `controls` are what `controlnet` gave, in the order of the job's that count. Without a `job` it is one that only
        encodes prompts.
        """

    def encode(self, pipe: Any, prompt: AskedPrompt, given: Inputs) -> Encoded:
        """Encode a prompt, inside a rider that waits wherever one of the encoder's blocks would run.

        `given` has the pictures that are edited.
        """

    def arguments(self, job: Job, given: Inputs) -> dict[str, Any]:
        """What the pipeline is called with, `progress_bar_cmd` aside."""

    def beforehand(self, skeleton: Skeleton, store: Store, device: Device, shelf: AdapterShelf) -> Beforehand:
        """What is computed for all blocks before sweeps."""

    def given(self, halt: Halt, ready: torch.Tensor | None) -> Mapping[str, Any]:
        """What a block is called with by name, `ready` being what was computed beforehand for this step."""

    def fast_blocks(
        self,
        section: str,
        template: torch.nn.Module,
        places: Sequence[TensorPlace],
        plain: ModuleBlocks,
        operations: Any,
    ) -> FastBlocks | None:
        """A section's blocks by products of what is stored, in place of `plain`; None where it has no such."""

    def renumber(self, section: str) -> Callable[[torch.nn.Module, int], None] | None:
        """How a section's block is told which one it is, where blocks want to know."""


def networks_of(family: families.Family) -> FamilyNetworks:
    """A family's torch half."""
    return cast("FamilyNetworks", importlib.import_module(family.torch_half))
