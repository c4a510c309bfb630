"""Jobs and the devices of a machine ▶ what each device opens for them, and which of them fit where.

Asks `placement` and `fitting` once a device: cards side by side may differ. Starts nothing, imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from renderer import catalog
from renderer.errors import MachineError
from renderer.estimate import host, shape_of
from renderer.job import Job, Profile
from renderer.machine.devices import WorkerDevice
from renderer.machine.hardware import Machine
from renderer.planning import fitting, placement
from renderer.planning.fitting import SizeRefusal
from renderer.protocol import Demand, Setup
from renderer.text import GIB


@dataclass(frozen=True, slots=True)
class Deployment:
    """What devices open for some weights, by the device's number; one that cannot is left out.

    `refused` are the jobs that do not fit on a device in any way.
    """

    setups: Mapping[int, Setup]
    refused: Mapping[int, Mapping[Job, SizeRefusal]] = field(default_factory=dict)

    @property
    def setup(self) -> Setup:
        """What the first device opens: model, identity, store and profile are those of all."""
        return next(iter(self.setups.values()))

    def told(self, **changes: object) -> Deployment:
        """The same with other values in all setups."""
        setups = {number: setup.model_copy(update=changes) for number, setup in self.setups.items()}
        return Deployment(setups, self.refused)

    def of(self, jobs: Sequence[Job], devices: Sequence[WorkerDevice]) -> Deployment:
        """The same, with what of these jobs fits where."""
        those = (device for device in devices if device.number in self.setups)
        return Deployment(
            self.setups,
            {each.number: fitting.refusals(jobs, self.setups[each.number], each.machine) for each in those},
        )

    def joined_by(self, jobs: Sequence[Job], devices: Sequence[WorkerDevice]) -> Deployment:
        """The same for more jobs than were known when it was made: what is opened stays what it is."""
        more = self.of(jobs, devices).refused
        return Deployment(self.setups, {number: {**self.refused.get(number, {}), **more[number]} for number in more})

    def is_choosy(self, number: int) -> bool:
        """Whether something may not fit on a device."""
        return bool(self.refused.get(number))

    def takes(self, number: int, job: Job) -> bool:
        """Whether a job fits on a device."""
        return job not in self.refused.get(number, {})

    def nowhere(self) -> dict[Job, SizeRefusal]:
        """The jobs that fit on no device, and what the one says that has most memory."""
        each = [self.refused.get(number, {}) for number in self.setups]
        everywhere = [job for job in (each[0] if each else {}) if all(job in refused for refused in each)]
        return {job: max((refused[job] for refused in each), key=_room) for job in everywhere}


def deploy(
    jobs: Sequence[Job], devices: Sequence[WorkerDevice], wanted: Profile | None = None, vram_bytes: int | None = None
) -> Deployment:
    """What each device opens for `jobs`, which are of one model and precision.

    Several workers share host memory and pictures evenly. Raises `ModelError`, and `MachineError` where no device can
    open it, or where the host has no room for all of them.
    """
    setups: dict[int, Setup] = {}
    refused: dict[int, Mapping[Job, SizeRefusal]] = {}
    errors: list[MachineError] = []
    alike: dict[Machine, int] = {}
    for device in devices:
        if (twin := alike.get(kind_of(device.machine))) is not None:
            setups[device.number] = setups[twin].model_copy(update={"gpu": device.machine.visible})
            refused[device.number] = refused[twin]
            continue
        try:
            setup = placement.setup_for(jobs, device.machine, wanted, vram_bytes)
            if len(devices) > 1:
                setup = _shared(setup, device, len(devices))
        except MachineError as error:
            errors.append(error)
            continue
        setups[device.number] = setup
        refused[device.number] = fitting.refusals(jobs, setup, device.machine)
        alike[kind_of(device.machine)] = device.number
    if not setups:
        raise errors[0]
    return Deployment(setups, refused)


def kind_of(machine: Machine) -> Machine:
    """A machine but for what tells its GPU from others that are alike: a thousand are not each reckoned anew."""
    return replace(machine, gpus=tuple(replace(gpu, index=0, uuid="", processes=()) for gpu in machine.gpus))


def _shared(setup: Setup, device: WorkerDevice, workers: int) -> Setup:
    """One of several workers' part of the pictures and of the host's memory.

    Raises `MachineError` where that is too little: blocks that do not fit are read from the disk, but by other profiles
    than `stream` all weights are there.
    """
    there = device.machine.ram_free_bytes
    shape = shape_of(catalog.find(setup.model))
    needed = host.estimate_host(shape, setup.stored, setup.profile, free_bytes=there).bytes
    if setup.profile != "stream":
        check_host(str(setup.weights), needed, there, workers)
    return setup.model_copy(update={"ram_bytes": there, "demands": tuple(_parts(setup.demands, workers))})


def check_host(what: str, needed: int, there: int, workers: int) -> None:
    """Whether one of several workers, which needs so many bytes, has them in its part of the host's memory.

    Raises `MachineError`.
    """
    if needed <= there:
        return
    message = (
        f"{what}: {workers} workers need {needed * workers / GIB:.1f} GiB of host memory together, and "
        f"{there * workers / GIB:.1f} GiB are free"
    )
    raise MachineError(message, hint="name fewer devices with --gpus, or leave --profile out")


def _parts(demands: Sequence[Demand], workers: int) -> Iterator[Demand]:
    for demand in demands:
        pictures = None if demand.pictures is None else -(-demand.pictures // workers)
        yield demand.model_copy(update={"pictures": pictures, "steps": -(-demand.steps // workers)})


def _room(refusal: SizeRefusal) -> int:
    return refusal.available_bytes
