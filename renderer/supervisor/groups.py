"""What is dealt to seats (`renderer.dealing`): pictures of one model and precision, and what each seat opens for them.

Knows no events.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from renderer.dealing.deal import Deal
from renderer.job import Profile, Weights
from renderer.outputs.summary import Ending
from renderer.planning.deployment import Deployment
from renderer.planning.pace import weight
from renderer.planning.plan import Planned
from renderer.protocol import Setup
from renderer.supervisor.picture_source import PictureSource
from renderer.supervisor.pool import Seat
from renderer.supervisor.progress import Flight


@dataclass(slots=True, eq=False)
class Group:
    """Pictures of one model and precision: where they come from, and what each seat opens for them.

    `ending` is why nothing more of it is to begin, if so. `barred` are the seats that cannot open it after all;
    `crashed_on` says at which seats a picture has brought down a worker, by its fingerprint. `comes_later` says whether
    more may come of what is done with its pictures elsewhere. Those of a higher `priority` come first, whatever has to
    be opened for them.
    """

    source: PictureSource
    deployment: Deployment
    ending: Ending | None = None
    barred: set[int] = field(default_factory=set)
    crashed_on: dict[str, set[int]] = field(default_factory=dict)
    comes_later: Callable[[], bool] = lambda: False
    priority: float = 0.0

    @property
    def profile(self) -> Profile:
        """By which profile its pictures are rendered."""
        return self.deployment.setup.profile

    @property
    def weights(self) -> Weights:
        """What is opened for it."""
        return self.deployment.setup.weights

    @property
    def has_pictures(self) -> bool:
        """Whether more is to be begun."""
        return self.ending is None and bool(self.source)

    def __bool__(self) -> bool:
        """Whether more is to come, or may come."""
        return self.has_pictures or (self.ending is None and self.comes_later())

    def take_in(self, more: Group) -> bool:
        """Whether another is alike, and its pictures wait here from now on."""
        alike = (self.weights, self.priority) == (more.weights, more.priority)
        if not alike or self.ending is not None or self.barred:
            return False
        self.deployment = more.deployment
        self.source.join(more.source.give_up())
        return True

    # -- what seats may have of it --

    @property
    def is_plain(self) -> bool:
        """Whether any seat may have any of its pictures."""
        return not self.crashed_on and not any(self.deployment.refused.values())

    def setup_at(self, number: int) -> Setup | None:
        """What a seat opens for it; None where it cannot."""
        return None if number in self.barred else self.deployment.setups.get(number)

    def is_choosy(self, number: int) -> bool:
        """Whether something of it may not be for a seat."""
        return bool(self.crashed_on) or self.deployment.is_choosy(number)

    def takes(self, number: int, item: Planned) -> bool:
        """Whether one fits on a seat's device."""
        return self.deployment.takes(number, item.picture.job)

    def crashed_at(self, item: Planned) -> Collection[int]:
        """The seats at which it brought down a worker."""
        return self.crashed_on.get(item.fingerprint, ())

    def work_of(self, item: Planned) -> float:
        """What one takes beside others."""
        return weight(item)

    def has_crashed(self, flight: Flight) -> bool:
        """Whether a picture has brought down a worker before."""
        return flight.item.fingerprint in self.crashed_on

    def crashed(self, held: Sequence[Flight], seat: Seat) -> None:
        """They brought down a worker at a seat, or one of them did."""
        for flight in held:
            self.crashed_on.setdefault(flight.item.fingerprint, set()).add(seat.number)


class SeatDeal(Deal[Group, Seat]):
    """Which seat of a night is at which group."""

    def add(self, group: Group) -> None:
        """One more, or more of one that is on its way."""
        if not any(each.take_in(group) for each in self.groups):
            super().add(group)
