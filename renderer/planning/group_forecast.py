"""What the pictures of one model and precision take: a part of a forecast, as values. Knows no plans, no machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from renderer.dealing.played import GroupShare
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

    Where several `devices` render, it is that of the first on which most fit, but for the seconds, which are those from
    the group's opening to its last picture. Each of them is there by itself, as `device` of this `number` with this
    `card`: with the pictures that fit there, how many of them it is `dealt`, and the seconds that it would take for all
    of them alone.
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
    card: str = ""
    number: int = 0
    dealt: int | None = None
    retakes: float = 0.0
    devices: tuple[GroupForecast, ...] = ()

    @property
    def host_bytes(self) -> int:
        """Of all its workers together."""
        return sum(each.host.bytes for each in self.devices) or self.host.bytes

    def as_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        devices = [
            {"device": each.device, "card": each.card, "dealt": each.dealt, **each.as_dict()} for each in self.devices
        ]
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


def together(groups: Sequence[GroupForecast], share: GroupShare | None) -> GroupForecast:
    """One of what several devices have of a group; `share` is what it takes of the night, where that is known."""
    if len(groups) == 1 and not groups[0].device:
        return groups[0]
    most = max(group.pictures for group in groups)
    first = next(group for group in groups if group.pictures == most)
    if share is None:
        return replace(first, seconds=None, device="", devices=tuple(groups))
    each = tuple(replace(group, dealt=share.pictures.get(group.number)) for group in groups)
    return replace(first, seconds=_spent(each, share), device="", devices=each)


def _spent(groups: Sequence[GroupForecast], share: GroupShare) -> GroupTime:
    """The time from a group's opening to its last picture, by what its devices spend it on."""
    busy = [(group.seconds, (group.dealt or 0) / group.pictures) for group in groups if group.seconds is not None]
    start = min((spent.start for spent, part in busy if part), default=0.0)
    parts = [sum(getattr(spent, name) * part for spent, part in busy) for name in ("encode", "denoise", "decode")]
    left_s, whole = max(0.0, share.ended_s - share.began_s - start), sum(parts) or 1.0
    return GroupTime(start, *(left_s * part / whole for part in parts))
