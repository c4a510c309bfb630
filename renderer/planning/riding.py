"""What LoRAs that ride with pictures take beside the model: memory, time, bytes of the disk. Imports no torch.

By arithmetic: two factors in bf16 for each layer, of as many numbers as rank x (in + out). Each GPU has them resident
where there is room, and otherwise two blocks of each at a time, in step with the model's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from renderer.catalog import Model
from renderer.errors import ModelError
from renderer.estimate import Estimate, Stage, Work
from renderer.estimate.memory import TURNING_SLOTS
from renderer.estimate.terms import Term
from renderer.job import Job
from renderer.machine.rates import Rates
from renderer.weights.adapters.weighing import LoraWeight, weigh
from renderer.weights.adapters.whereabouts import licence_of

_NAME = "LoRAs"
_BF16 = 2
_SHARE = 0.6
"""What products as narrow as a rank, and passes over what a product gave, get of a GPU's rates: on an H100."""


@dataclass(frozen=True, slots=True)
class Riding:
    """The LoRAs of some pictures of one model, by what they are; each counts once, however many ride with it.

    `troubles` says, likewise, why some of them cannot be had: their pictures fail, and no other's forecast.
    """

    weights: Mapping[str, LoraWeight]
    troubles: Mapping[str, ModelError] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """What all of them take, in host memory or on the GPU."""
        return sum(each.bytes for each in self.weights.values())

    @property
    def least_bytes(self) -> int:
        """What they take on the GPU at the least."""
        return sum(min(TURNING_SLOTS * each.block_bytes, each.bytes) for each in self.weights.values())

    def fails(self, job: Job) -> bool:
        """Whether a job has one of those that cannot be had."""
        return any(lora.identity in self.troubles for lora in job.riding)

    def on_gpu(self, room: int | None) -> int:
        """What they take on the GPU, of which so much is free beside all else; None where there is none."""
        return self.bytes if room is None or room >= self.bytes else self.least_bytes

    def beside(self, estimate: Estimate, available: int | None) -> Estimate:
        """An estimate with what they take on the GPU, which is there from the first picture to the last."""
        if not self.weights:
            return estimate
        taken = Term(_NAME, self.on_gpu(None if available is None else available - estimate.allocated))
        stages = tuple(replace(stage, terms=(*stage.terms, taken)) for stage in estimate.stages)
        return replace(estimate, stages=stages)

    def in_host(self, stage: Stage) -> Stage:
        """The host's memory with them, which wait there as the model's blocks do."""
        return replace(stage, terms=(*stage.terms, Term(_NAME, self.bytes))) if self.weights else stage

    def seconds(self, jobs: Iterable[Job], rates: Rates) -> float:
        """What they add to the time of jobs."""
        return sum(job.num_inference_steps * self.step_seconds(job, rates) for job in jobs if job.riding)

    def step_seconds(self, job: Job, rates: Rates) -> float:
        """What a job's own add to each of its steps: products in bf16, and results that are read and written again."""
        own = [self.weights[lora.identity] for lora in job.riding if lora.identity in self.weights]
        work = Work.of(job)
        multiplied = added = 0
        for each in own:
            for text in work.texts:
                multiplied += work.tokens * each.picture.multiplied + text * each.text.multiplied
                added += work.tokens * each.picture.added + text * each.text.added
        alone = 2 * multiplied / rates.flops("bf16") + 2 * _BF16 * added / rates.memory_bytes_per_s
        return alone / _SHARE


def licences(model: Model, jobs: Iterable[Job]) -> Mapping[str, str]:
    """What is known of the licences of a model and of what rides with it, by their names."""
    found = {model.id: model.licence}
    found |= {lora.name: licence_of(lora.source) for job in jobs for lora in job.riding}
    found |= {each.source: licence_of(each.source) for each in model.fused}
    return {name: licence for name, licence in found.items() if licence}


def riding(jobs: Iterable[Job], model: Model) -> Riding:
    """The LoRAs of jobs of one model."""
    weights: dict[str, LoraWeight] = {}
    troubles: dict[str, ModelError] = {}
    for identity, source in {lora.identity: lora.source for job in jobs for lora in job.riding}.items():
        try:
            weights[identity] = weigh(source, model)
        except ModelError as error:
            troubles[identity] = error
    return Riding(weights, troubles)
