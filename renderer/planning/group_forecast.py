"""What the pictures of one model and precision take: a part of a forecast, as values. Knows no plans, no machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from renderer.estimate import Estimate, Stage
from renderer.estimate.duration import Limit
from renderer.job import Precision, Profile


@dataclass(frozen=True, slots=True)
class GroupTime:
    """Where a group's time goes."""

    start: float
    encode: float
    denoise: float
    decode: float

    @property
    def total(self) -> float:
        return self.start + self.encode + self.denoise + self.decode


@dataclass(frozen=True, slots=True)
class GroupForecast:
    """The pictures of one model and precision: how they are rendered, and what they take.

    `step_s` is a step's of the picture that takes most; `in_flight` how many pictures it has company of, itself
    included; `loras` and `controlnets` how many they have, and of how many bytes; `licences` what is known of the
    weights', by their names; `limit` what that step waits for, where the machine's rates are known; `measured` says
    that earlier pictures' times went into the seconds; `retakes` how many further takes are expected of pictures whose
    lettering is read.

    Where several `devices` render, it is that of the first on which most fit, but for the seconds, which are those of
    all such together. Each of them is there by itself, as `device`, with the seconds that it would take alone.
    """

    model: str
    precision: Precision
    profile: Profile
    pictures: int
    slots: int | None
    blocks: int
    in_flight: int
    estimate: Estimate
    available_bytes: int | None
    host: Stage
    from_disk: bool
    seconds: GroupTime | None
    step_s: float | None
    limit: Limit | None
    measured: bool
    loras: int = 0
    lora_bytes: int = 0
    controlnets: int = 0
    controlnet_bytes: int = 0
    licences: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    retakes: float = 0.0
    devices: tuple[GroupForecast, ...] = ()

    @property
    def host_bytes(self) -> int:
        """Of all its workers together."""
        return sum(each.host.bytes for each in self.devices) or self.host.bytes

    def as_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        devices = [{"device": each.device, **each.as_dict()} for each in self.devices]
        spent = self.seconds
        return {
            "model": self.model,
            "precision": self.precision,
            "profile": self.profile,
            "pictures": self.pictures,
            "slots": self.slots,
            "blocks": self.blocks,
            "in_flight": self.in_flight,
            "available_bytes": self.available_bytes,
            "memory": dict(self.estimate.as_dict()),
            "host_bytes": {term.name: term.bytes for term in self.host.terms},
            "from_disk": self.from_disk,
            "seconds": None
            if spent is None
            else {"start": spent.start, "encode": spent.encode, "denoise": spent.denoise, "decode": spent.decode},
            "step_s": self.step_s,
            "limit": self.limit,
            "measured": self.measured,
            "loras": self.loras,
            "lora_bytes": self.lora_bytes,
            "controlnets": self.controlnets,
            "controlnet_bytes": self.controlnet_bytes,
            "licences": dict(self.licences),
            **({"retakes": round(self.retakes, 1)} if self.retakes else {}),
            **({"devices": devices} if devices else {}),
        }


def together(groups: Sequence[GroupForecast]) -> GroupForecast:
    """What several devices take for a group, dealt so that all end together.

    One on which only some of its pictures fit makes it no shorter: the others may be all that takes long.
    """
    if len(groups) == 1 and not groups[0].device:
        return groups[0]
    most = max(group.pictures for group in groups)
    able = [group for group in groups if group.pictures == most]
    spent = [group.seconds for group in able if group.seconds is not None]
    shared = None
    if len(spent) == len(able):
        parts = {name: [getattr(each, name) for each in spent] for name in ("encode", "denoise", "decode")}
        speeds = {name: sum(1 / each for each in found if each) for name, found in parts.items()}
        shared = GroupTime(
            start=max(each.start for each in spent),
            **{name: 1 / speed if speed else 0.0 for name, speed in speeds.items()},
        )
    return replace(able[0], seconds=shared, device="", devices=tuple(groups))
