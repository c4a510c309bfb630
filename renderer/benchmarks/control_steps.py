"""Steps of controlled pictures: `python -m renderer.benchmarks.control_steps STORE CASE…`, a line of JSON each.

ControlNets of random weights are written beside the store, once. A case is rendered twice, and the second time counts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from PIL import Image
from safetensors.torch import save_file

from renderer import catalog
from renderer.benchmarks import bare
from renderer.benchmarks.running import Figures
from renderer.benchmarks.streamed import BenchListener, job_of, latents_of, setup_of, told
from renderer.engine.calling import Rendering
from renderer.engine.inputs import Inputs
from renderer.engine.streaming import StreamingEngine
from renderer.job import ControlNet, Input, Job, Region
from renderer.protocol import Setup
from renderer.weights import control_files


@dataclass(frozen=True, slots=True)
class ControlCase:
    """A picture through so many slots, held by so many `nets`, with so many `regions`, and one beside it or not."""

    slots: int
    nets: int = 0
    regions: int = 0
    context: bool = False
    side: int = 1024
    steps: int = 8
    guidance: float = 4.0


CONTROL_CASES: Mapping[str, ControlCase] = MappingProxyType(
    {
        "plain-3-slots": ControlCase(3),
        "plain-resident": ControlCase(60),
        "one-net-3-slots": ControlCase(3, nets=1),
        "one-net-resident": ControlCase(60, nets=1),
        "two-nets-3-slots": ControlCase(3, nets=2),
        "one-net-1328": ControlCase(3, nets=1, side=1328),
        "two-regions-3-slots": ControlCase(3, regions=2),
        "two-regions-resident": ControlCase(60, regions=2),
        "two-regions-1328": ControlCase(3, regions=2, side=1328),
        "context-3-slots": ControlCase(3, context=True),
        "context-resident": ControlCase(60, context=True),
    }
)
"""At full size: what each adds to a picture from text, and that slots change no bit."""


def main() -> None:
    """Measure the cases that are named; all, where none is."""
    store, *names = sys.argv[1:]
    for name in names or CONTROL_CASES:
        (found,) = measured(Path(store), [CONTROL_CASES[name]])
        print(json.dumps({"case": name, **found}), flush=True)  # noqa: T201
        bare.reset()


def measured(store: Path, cases: Sequence[ControlCase]) -> list[Figures]:
    """The rows of cases."""
    setup = setup_of(store)
    nets = [network(store, setup, number) for number in range(max(case.nets for case in cases))]
    engine = bare.forgetful(StreamingEngine.open(setup.model_copy(update={"slots": 2, "in_flight": 1}), lambda _: None))
    return [_measure(engine, case, nets) for case in cases]


def network(store: Path, setup: Setup, number: int) -> Path:
    """A ControlNet of random weights, small enough that it does not drown the picture."""
    path = store.absolute().with_name(f"control-{number}.safetensors")
    if not path.is_file():
        shape = control_files.shape_beside(catalog.find(setup.model), masked=False)
        dice, tensors = torch.Generator().manual_seed(number), {}
        for name, size in shape.tensors.items():
            drawn = torch.randn(size, generator=dice, dtype=torch.float32) * size[-1] ** -0.5 / 10
            tensors[name] = (drawn + 1 if name.endswith("_rms.weight") else drawn).bfloat16()
        save_file(tensors, path)
    return path


def _measure(engine: StreamingEngine, case: ControlCase, nets: Sequence[Path]) -> Figures:
    bare.unequip(engine)
    bare.equip(engine, engine.setup.model_copy(update={"slots": case.slots, "in_flight": 1}))
    job, given = _job(engine.setup, case, nets)
    _render(engine, job.model_copy(update={"num_inference_steps": 2}), given)
    with latents_of(bare.vae(engine)) as latents:
        picture = _render(engine, job, given)
    weights = [control_files.weigh(net.source, catalog.find(job.model)) for net in job.controlnets]
    found = {
        "side": case.side,
        "nets": case.nets,
        "regions": case.regions,
        "context": case.context,
        "steps": case.steps,
        "guidance": case.guidance,
        "precision": job.precision,
        "forecast_bytes": bare.forecast(engine, job),
        "control_bytes": sum(weight.bytes for weight in weights),
        "latents": latents,
        **told(picture),
    }
    bare.empty(engine)
    return found


def _job(setup: Setup, case: ControlCase, nets: Sequence[Path]) -> tuple[Job, Inputs]:
    """A picture, and what goes into it: noise, and halves."""
    job = job_of(setup, case.side, case.side, case.guidance, case.steps, 1)
    size, dice = (case.side, case.side), torch.Generator().manual_seed(2)
    noise = torch.randint(0, 256, (case.side, case.side, 3), generator=dice, dtype=torch.uint8)
    image, mask = Image.frombytes("RGB", size, noise.numpy().tobytes()), Image.new("L", size)
    mask.paste(255, (0, 0, case.side // 2, case.side))
    known, half = (Input(sha256=digit * 64, width=case.side, height=case.side) for digit in "01")
    controls = [
        ControlNet(source=str(path), identity=control_files.identity_of_file(path), image=known)
        for path in nets[: case.nets]
    ]
    changes = {
        "controlnets": tuple(controls),
        "regions": tuple(Region(prompt=f"a red ball {number}", mask=half) for number in range(case.regions)),
        "context_image": known if case.context else None,
    }
    return job.model_copy(update=changes), {known.sha256: image, half.sha256: mask}


def _render(engine: StreamingEngine, job: Job, given: Inputs) -> Rendering:
    tell = BenchListener()
    engine.take("0", job, given)
    while engine.busy:
        engine.advance(tell)
    return tell.pictures["0"]


if __name__ == "__main__":
    main()
