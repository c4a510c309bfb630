"""The prompts of the jobs at hand, encoded: from memory, from the disk's cache, or in one sweep over the encoder.

A prompt takes 265 kB a token while it is encoded, because transformers keeps what every layer gives. So prompts ride in
groups, and encoding takes no more memory for many than there is room for, and never more than for the longest.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence

import torch

from renderer.catalog import DROPPED_TOKENS, MOST_TOKENS
from renderer.engine import calling, facts
from renderer.engine.block_source import BlockSource
from renderer.engine.blocks import ModuleBlocks
from renderer.engine.device import Device, arithmetic_of, computation_dtype
from renderer.engine.encoding import AskedPrompt, EmbeddingCache, Encoded, encode
from renderer.engine.inputs import Inputs
from renderer.engine.riders import Rider
from renderer.engine.sections import LiveSection, Passage, ride
from renderer.engine.skeletons import FamilyNetworks, Skeleton
from renderer.engine.slots import ReadAhead, Slots
from renderer.estimate.looking import shown_tokens
from renderer.estimate.memory import TURNING_SLOTS
from renderer.job import Job, canonical
from renderer.system.folders import cache_folder
from renderer.weights.store import Store


class Prompts:
    """Embeddings by prompt. Those of prompts that nobody waits for any more are forgotten; the disk remembers.

    Where pictures are edited, a prompt goes past the encoder's own blocks for these first.
    """

    def __init__(self, skeleton: Skeleton, store: Store, family: FamilyNetworks, device: Device) -> None:
        self._family = family
        self._pipe = family.pipeline(skeleton, {}, device)
        self._tokenizer = skeleton.tokenizer
        self._device = device
        text = [self._live(name, skeleton, store) for name in skeleton.text_sections]
        looking = [self._live(name, skeleton, store) for name in skeleton.looking_sections]
        self._plain, self._looking = Passage(text), Passage([*looking, *text])
        self._known: dict[AskedPrompt, Encoded] = {}
        card = facts.gpu(device)
        self._cache = EmbeddingCache(
            cache_folder() / "embeddings",
            [
                store.index.text_sha256,
                canonical(facts.software(device)),
                card.name if card else "cpu",
                arithmetic_of(device),
            ],
            store.index.looks_sha256,
        )

    def has(self, job: Job) -> bool:
        """Whether all prompts of a job are at hand."""
        return all(prompt in self._known for prompt in calling.prompts(job).values())

    def prepare(self, jobs: Iterable[Job], most_tokens: int = MOST_TOKENS, inputs: Iterable[Inputs] = ()) -> int:
        """Have the prompts of `jobs` at hand; how many had to be encoded.

        Prompts of no more than `most_tokens` are encoded together, or one alone. `inputs` have the pictures that are
        edited, each by a name that is the same for all jobs.
        """
        wanted = dict.fromkeys(prompt for job in jobs for prompt in calling.prompts(job).values())
        for prompt in wanted:
            if prompt not in self._known and (found := self._cache.find(prompt)):
                self._known[prompt] = found
        missing = [prompt for prompt in wanted if prompt not in self._known]
        if missing:
            given = {name: image for each in inputs for name, image in each.items()}
            passage = self._looking if any(prompt.edit for prompt in missing) else self._plain
            sweep = functools.partial(self._sweep, passage, ReadAhead(passage.files, self._device))
            for group in self._together(missing, most_tokens):
                for prompt, encoded in encode(group, lambda each: self._encode(each, given), sweep).items():
                    self._known[prompt] = encoded
                    self._cache.keep(prompt, encoded)
            self._cache.trim()
        return len(missing)

    def _together(self, prompts: Sequence[AskedPrompt], most_tokens: int) -> Iterator[list[AskedPrompt]]:
        """The prompts in groups, each of no more tokens than that, or of one prompt."""
        group: list[AskedPrompt] = []
        left = most = min(most_tokens, MOST_TOKENS)
        for prompt in prompts:
            tokens = DROPPED_TOKENS + min(len(self._tokenizer(prompt.text).input_ids), MOST_TOKENS)
            tokens += shown_tokens(prompt.edit)
            if group and tokens > left:
                yield group
                group, left = [], most
            group.append(prompt)
            left -= tokens
        if group:
            yield group

    def of(self, job: Job) -> dict[str, Encoded]:
        """A job's prompts, encoded, by their texts."""
        return {prompt.text: self._known[prompt] for prompt in calling.prompts(job).values()}

    def forget(self, still_wanted: Iterable[Job]) -> None:
        """Keep only the prompts of these jobs in memory."""
        keep = {prompt for job in still_wanted for prompt in calling.prompts(job).values()}
        self._known = {prompt: encoded for prompt, encoded in self._known.items() if prompt in keep}

    def _live(self, name: str, skeleton: Skeleton, store: Store) -> LiveSection:
        files = skeleton.own_files.get(name) or store.section(name)
        template, dtype = skeleton.templates[name], computation_dtype(self._device)
        return LiveSection(name, files, ModuleBlocks(template, files[0].tensors, dtype, self._family.renumber(name)))

    def _encode(self, prompt: AskedPrompt, given: Inputs) -> Encoded:
        return self._family.encode(self._pipe, prompt, given)

    def _sweep(self, passage: Passage, source: BlockSource, riders: Sequence[Rider]) -> None:
        """Bring the encoder's blocks past, once. The device's memory is given back after it."""
        slots = Slots(source, TURNING_SLOTS, self._device, once=True)
        try:
            for passing in passage.bring_past(slots):
                ride(passing, riders)
        finally:
            slots.close()
            passage.forget()
            if self._device == "cuda":
                torch.cuda.empty_cache()
