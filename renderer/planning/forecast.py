"""What a batch will take before it begins: memory, seconds, bytes of the disk; what limits it, and what is refused.

From `estimate`'s arithmetic, a machine (this one or another), its rates, and what earlier sidecars measured. Imports no
torch, starts nothing, asks no network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from renderer.dealing import played
from renderer.dealing.played import DealtGroup, GroupShare
from renderer.errors import RendererError
from renderer.estimate.fitted import CONTEXT_BYTES
from renderer.job import Job, Profile, Weights
from renderer.machine.devices import WorkerDevice
from renderer.machine.hardware import Machine
from renderer.machine.rates import Rates
from renderer.planning import deployment, mixtures, precision_choice, space
from renderer.planning.deployment import kind_of
from renderer.planning.fitting import SizeRefusal, refusals
from renderer.planning.group_forecast import GroupForecast, together
from renderer.planning.on_device import AlikeWork, OnDevice, ToRender
from renderer.planning.pace import Paces, weight
from renderer.planning.placement import setup_for
from renderer.planning.plan import Plan, Planned
from renderer.planning.retakes import RetakeRate
from renderer.planning.space import Disk
from renderer.protocol import Setup


@dataclass(frozen=True, slots=True)
class Assumptions:
    """How a batch is to be rendered: as `render` is told, or as if on another machine.

    `ready` says that it is another machine: models are taken to be there, and this one's pictures tell nothing.
    `devices` are those that render, with their rates, where there are several.
    """

    machine: Machine
    profile: Profile | None = None
    vram_bytes: int | None = None
    rates: Rates | None = None
    ready: bool = False
    devices: tuple[tuple[WorkerDevice, Rates | None], ...] = ()


@dataclass(frozen=True, slots=True)
class Urgency:
    """Manifests of one priority, where there are several: their names, and when the last of their pictures is there."""

    priority: float
    manifests: tuple[str, ...]
    ends_at: datetime


@dataclass(frozen=True, slots=True)
class Forecast:
    """All of it.

    `refused` are jobs, for two manifests may have pictures of one id; `troubles` are models and precisions that cannot
    be opened here, and LoRAs and ControlNets that cannot be had. `disks` are those that the manifests' folders lie on,
    with the manifests' names; `urgencies` say when those of each priority are through, the highest first. `mixtures`
    say where pictures that are there were computed otherwise than those to come will be; `advice` where another
    precision is much faster.
    """

    groups: tuple[GroupForecast, ...]
    refused: Mapping[Job, SizeRefusal]
    troubles: tuple[str, ...]
    disks: tuple[tuple[tuple[str, ...], Disk], ...]
    begins_at: datetime
    ends_at: datetime | None
    urgencies: tuple[Urgency, ...] = ()
    mixtures: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()

    @property
    def disk(self) -> Disk:
        """The first manifest's."""
        return self.disks[0][1]

    @property
    def vram_bytes(self) -> int | None:
        """Peak GPU memory, of the largest group: they come one after another. None without a GPU.

        What the allocator holds in vain it gives back where there is no room for it.
        """
        there = [
            min(group.estimate.device, group.available_bytes + CONTEXT_BYTES)
            for each in self.groups
            for group in each.devices or (each,)
            if group.available_bytes is not None
        ]
        return max(there, default=None)

    @property
    def ram_bytes(self) -> int | None:
        """Peak host memory of the workers, of the largest group."""
        return max((group.host_bytes for group in self.groups), default=None)

    @property
    def seconds(self) -> float | None:
        """From the command to the last picture; None where nothing tells."""
        return (self.ends_at - self.begins_at).total_seconds() if self.ends_at else None

    def as_dict(self) -> dict[str, Any]:
        """The forecast as JSON-ready values; where all is on one disk, and of one priority, that is not said."""
        several = len(self.disks) > 1
        return {
            "vram_bytes": self.vram_bytes,
            "ram_bytes": self.ram_bytes,
            "seconds": self.seconds,
            "begins_at": self.begins_at.isoformat(timespec="seconds"),
            "ends_at": self.ends_at.isoformat(timespec="seconds") if self.ends_at else None,
            "disk": self.disk.as_dict(),
            **(
                {"disks": [{"manifests": list(names), **disk.as_dict()} for names, disk in self.disks]}
                if several
                else {}
            ),
            **({"priorities": [_urgency_as_dict(each) for each in self.urgencies]} if self.urgencies else {}),
            "groups": [group.as_dict() for group in self.groups],
            "troubles": list(self.troubles),
            "mixtures": list(self.mixtures),
            "advice": list(self.advice),
        }


def forecast(plans: Sequence[Plan], terms: Assumptions, now: datetime) -> Forecast:
    """What rendering all that is to do of several manifests will take."""
    priorities = {id(item): plan.manifest.priority for plan in plans for item in plan.items}
    todo = [item for plan in plans for item in plan.to_render()]
    sidecars = [item.sidecar for plan in plans for item in plan.items if item.sidecar is not None]
    paces = Paces(sidecars if not terms.ready else ())
    rate = RetakeRate.of(item for plan in plans for item in plan.items)
    found: list[_Group] = []
    refused: dict[Job, SizeRefusal] = {}
    troubles: list[str] = []
    setups: list[Setup] = []
    for items in _by_weights(todo):
        try:
            group = _Group(ToRender(items, rate, items[0].model), terms, paces)
        except RendererError as error:
            troubles.append(_told(error))
            continue
        troubles += map(_told, group.first.riding.troubles.values())
        refused |= group.refused_everywhere()
        setups.append(group.first.setup)
        if group.seats:
            found.append(group)
    groups, ends_s = _played(found, priorities)
    left = [item for plan in plans for item in plan.to_write() if item.picture.job not in refused]
    disks = space.look_at_each(plans, left, setups, ready=terms.ready)
    return Forecast(
        groups=tuple(groups),
        refused=refused,
        troubles=tuple(troubles),
        disks=tuple((tuple(plan.manifest.name for plan in those), disk) for those, disk in disks),
        begins_at=now,
        ends_at=None if ends_s is None else _later(now, max(ends_s.values(), default=0.0)),
        urgencies=tuple(_urgencies(plans, ends_s or {}, now)),
        mixtures=tuple(mixtures.remarks(plans, setups, terms.machine)),
        advice=tuple(filter(None, (precision_choice.told(setup, terms.machine) for setup in setups))),
    )


def _later(now: datetime, seconds: float) -> datetime:
    return (now + timedelta(seconds=seconds)).astimezone()  # clocks may change before it


def _urgencies(plans: Sequence[Plan], ends_s: Mapping[float, float], now: datetime) -> Iterator[Urgency]:
    """When those of each priority are through, where there are several."""
    for priority in sorted(ends_s, reverse=True) if len(ends_s) > 1 else ():
        names = tuple(plan.manifest.name for plan in plans if plan.manifest.priority == priority)
        yield Urgency(priority, names, _later(now, ends_s[priority]))


def _urgency_as_dict(each: Urgency) -> dict[str, Any]:
    ends_at = each.ends_at.isoformat(timespec="seconds")
    return {"priority": each.priority, "manifests": list(each.manifests), "ends_at": ends_at}


class _Group:
    """Pictures of one model and precision, on all devices that can open it. Raises `MachineError` where none can.

    `seats` are those on which some fit, with what is found of each; `first` is the first that can open it.
    """

    def __init__(self, pictures: ToRender, terms: Assumptions, paces: Paces) -> None:
        self._each: list[OnDevice] = []
        self.seats: list[tuple[OnDevice, GroupForecast]] = []
        alike: dict[tuple[Machine, Rates | None], tuple[OnDevice, GroupForecast | None]] = {}
        for device, rates, setup, refused in _deployed(pictures.jobs, terms):
            key = kind_of(device.machine), rates
            if key not in alike:
                there = OnDevice(pictures, setup, refused, device.machine, paces.on(device.machine, rates))
                alike[key] = there, there.group(rates) if there.left.items else None
            there, found = alike[key]
            self._each.append(there)
            if found is not None:
                card = gpu.described if device.label and (gpu := device.machine.gpu) else ""
                self.seats.append((there, replace(found, device=device.label, card=card, number=device.number)))
        self.first = self._each[0]

    def refused_everywhere(self) -> Mapping[Job, SizeRefusal]:
        """Those that fit on none, by what the first says."""
        return {job: why for job, why in self.first.refused.items() if all(job in each.refused for each in self._each)}

    @property
    def is_known(self) -> bool:
        """Whether it is known what all that take most of it take for it."""
        most = max(found.pictures for _, found in self.seats)
        return all(found.seconds is not None for _, found in self.seats if found.pictures == most)

    def dealt(self, priorities: Mapping[int, float]) -> dict[float, DealtGroup]:
        """As it is dealt, by the priorities of its pictures."""
        kinds: dict[AlikeWork, Sequence[Planned]] = {}
        for there, _ in self.seats:
            kinds |= {kind: items for kind, items in there.left.kinds.items() if kind not in kinds}
        each = ((found.number, there.rate(list(kinds), found)) for there, found in self.seats)
        rates = {number: rate for number, rate in each if rate is not None}
        weights = tuple(weight(items[0]) for items in kinds.values())
        counts = [Counter(priorities[id(item)] for item in items) for items in kinds.values()]
        return {
            priority: DealtGroup(
                tuple(of_kind[priority] for of_kind in counts), weights, rates, priority, self.first.setup.weights
            )
            for priority in sorted({each for of_kind in counts for each in of_kind}, reverse=True)
        }


def _deployed(
    jobs: Sequence[Job], terms: Assumptions
) -> Iterator[tuple[WorkerDevice, Rates | None, Setup, Mapping[Job, SizeRefusal]]]:
    """The devices that can open it, what they open, and what does not fit there. Raises `MachineError` where none."""
    if not terms.devices:
        setup = setup_for(jobs, terms.machine, terms.profile, terms.vram_bytes)
        yield WorkerDevice(terms.machine), terms.rates, setup, refusals(jobs, setup, terms.machine)
        return
    found = deployment.deploy(jobs, [device for device, _ in terms.devices], terms.profile, terms.vram_bytes)
    for device, rates in terms.devices:
        if device.number in found.setups:
            yield device, rates, found.setups[device.number], found.refused[device.number]


def _played(
    found: Sequence[_Group], priorities: Mapping[int, float]
) -> tuple[list[GroupForecast], dict[float, float] | None]:
    """The groups, each by the devices that can open it, and after how long those of a priority are through.

    None where nobody knows. A device of which nobody knows how fast it is, and which takes some of a group only, is not
    counted on.
    """
    each = [[forecast for _, forecast in group.seats] for group in found]
    if not found or not all(group.is_known for group in found):
        return [together(groups, None) for groups in each], None
    parts = [(place, *part) for place, group in enumerate(found) for part in group.dealt(priorities).items()]
    shares = played.deal([dealt for _, _, dealt in parts])
    ends_s: dict[float, float] = {}
    of_group: dict[int, list[GroupShare]] = {}
    for (place, priority, _), share in zip(parts, shares, strict=True):
        ends_s[priority] = max(ends_s.get(priority, 0.0), share.ended_s)
        of_group.setdefault(place, []).append(share)
    return [together(groups, _merged(of_group[place])) for place, groups in enumerate(each)], ends_s


def _merged(shares: Sequence[GroupShare]) -> GroupShare:
    """What a group takes of a night whose pictures are of several priorities."""
    pictures: Counter[int] = Counter()
    for share in shares:
        pictures.update(share.pictures)
    began_s, ended_s = min(share.began_s for share in shares), max(share.ended_s for share in shares)
    return GroupShare(began_s, ended_s, {number: pictures[number] for number in shares[0].pictures})


def _told(error: RendererError) -> str:
    return f"{error.message} ({error.hint})" if error.hint else error.message


def _by_weights(items: Iterable[Planned]) -> Iterable[list[Planned]]:
    groups: dict[Weights, list[Planned]] = {}
    for item in items:
        groups.setdefault(Weights.of(item.picture.job), []).append(item)
    return groups.values()
