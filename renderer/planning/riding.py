"""What LoRAs and ControlNets of pictures take beside the model: memory, time, bytes of the disk. Imports no torch.

By arithmetic: a LoRA is two factors in bf16 for each layer, of as many numbers as rank x (in + out); a ControlNet two
layers of D x D beside each block. Each GPU has them resident where there is room, and otherwise two blocks of each at a
time, in step with the model's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from renderer.catalog import Model
from renderer.errors import ModelError
from renderer.estimate import Estimate, Stage, Work
from renderer.estimate.memory import TURNING_SLOTS
from renderer.estimate.terms import Term
from renderer.job import ControlNet, ExtraNetwork, Job
from renderer.machine.rates import Rates
from renderer.weights import control_files
from renderer.weights.adapters import weighing
from renderer.weights.adapters.weighing import LoraWeight
from renderer.weights.adapters.whereabouts import licence_of
from renderer.weights.control_files import ControlNetWeight

_BF16 = 2
_CONTROL_BYTES = 180
"""Read and written for each number of a picture's rows in a ControlNet's block, by what it took on an H200: two norms
in float32, what lies between two products, and what is added at last."""
_SHARE = 0.6
"""What products as narrow as a rank, and passes over what a product gave, get of a GPU's rates: on an H100."""


@dataclass(frozen=True, slots=True)
class Riding:
    """The LoRAs and ControlNets of some pictures of one model, by what they are; each counts once, whoever has it.

    `troubles` says, likewise, why some of them cannot be had: their pictures fail, and no other's forecast.
    """

    weights: Mapping[str, LoraWeight]
    troubles: Mapping[str, ModelError] = field(default_factory=dict)
    controls: Mapping[str, ControlNetWeight] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """What all of them take, in host memory or on the GPU."""
        return sum(each.bytes for each in self._each)

    @property
    def least_bytes(self) -> int:
        """What they take on the GPU at the least."""
        return sum(min(TURNING_SLOTS * each.block_bytes, each.bytes) for each in self._each)

    @property
    def _name(self) -> str:
        return " and ".join(name for name, has in (("LoRAs", self.weights), ("ControlNets", self.controls)) if has)

    @property
    def _each(self) -> tuple[LoraWeight | ControlNetWeight, ...]:
        return (*self.weights.values(), *self.controls.values())

    def fails(self, job: Job) -> bool:
        """Whether a job has one of those that cannot be had."""
        return any(each.identity in self.troubles for each in job.extra_networks)

    def on_gpu(self, room: int | None) -> int:
        """What they take on the GPU, of which so much is free beside all else; None where there is none."""
        return self.bytes if room is None or room >= self.bytes else self.least_bytes

    def beside(self, estimate: Estimate, available: int | None) -> Estimate:
        """An estimate with what they take on the GPU, which is there from the first picture to the last."""
        if not self._each:
            return estimate
        taken = Term(self._name, self.on_gpu(None if available is None else available - estimate.allocated))
        stages = tuple(replace(stage, terms=(*stage.terms, taken)) for stage in estimate.stages)
        return replace(estimate, stages=stages)

    def in_host(self, stage: Stage) -> Stage:
        """The host's memory with them, which wait there as the model's blocks do."""
        return replace(stage, terms=(*stage.terms, Term(self._name, self.bytes))) if self._each else stage

    def seconds(self, jobs: Iterable[Job], rates: Rates) -> float:
        """What they add to the time of jobs."""
        return sum(job.num_inference_steps * self.step_seconds(job, rates) for job in jobs if job.extra_networks)

    def step_seconds(self, job: Job, rates: Rates) -> float:
        """What a job's own add to each of its steps: products in bf16, and results that are read and written again.

        A ControlNet adds to its share of them.
        """
        own = [self.weights[lora.identity] for lora in job.riding if lora.identity in self.weights]
        work = Work.of(job)
        multiplied = added = 0
        for each in own:
            for text in work.texts:
                multiplied += work.tokens * each.picture.multiplied + text * each.text.multiplied
                added += work.tokens * each.picture.added + text * each.text.added
        alone = 2 * multiplied / rates.flops("bf16") + 2 * _BF16 * added / rates.memory_bytes_per_s
        return alone / _SHARE + self._controls_seconds(job, work, rates)

    def _controls_seconds(self, job: Job, work: Work, rates: Rates) -> float:
        """What ControlNets add to a step, on the average: their products, and their passes over a picture's rows."""
        found = 0.0
        for net in job.controlling:
            if weight := self.controls.get(net.identity):
                steps = range(job.num_inference_steps)
                share = sum(net.acts_at(step, len(steps)) for step in steps) / len(steps)
                numbers = weight.layers * len(work.texts) * work.own_tokens * weight.width
                products = 4 * numbers * weight.width / rates.flops("bf16")
                found += share * (products + numbers * _CONTROL_BYTES / rates.memory_bytes_per_s)
        return found


def weigh(extra: ExtraNetwork, model: Model) -> LoraWeight | ControlNetWeight:
    """What one takes for a model. Raises `ModelError` for a file that does not fit it."""
    if isinstance(extra, ControlNet):
        return control_files.weigh(extra.source, model)
    return weighing.weigh(extra.source, model)


def licences(model: Model, jobs: Iterable[Job]) -> Mapping[str, str]:
    """What is known of the licences of a model and of what rides with it, by their names."""
    found = {model.id: model.licence}
    found |= {each.name: licence_of(each.source) for job in jobs for each in job.extra_networks}
    found |= {each.source: licence_of(each.source) for each in model.fused}
    return {name: licence for name, licence in found.items() if licence}


def riding(jobs: Iterable[Job], model: Model) -> Riding:
    """The LoRAs and ControlNets of jobs of one model."""
    loras: dict[str, LoraWeight] = {}
    controls: dict[str, ControlNetWeight] = {}
    troubles: dict[str, ModelError] = {}
    for identity, extra in {each.identity: each for job in jobs for each in job.extra_networks}.items():
        try:
            weight = weigh(extra, model)
        except ModelError as error:
            troubles[identity] = error
        else:
            if isinstance(weight, LoraWeight):
                loras[identity] = weight
            else:
                controls[identity] = weight
    return Riding(loras, troubles, controls)
