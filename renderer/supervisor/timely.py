"""Which picture a seat begins next, so that it would be done before the deadline."""

from __future__ import annotations

from renderer.dealing.parties import Fits
from renderer.planning.pace import Pace
from renderer.planning.plan import Planned
from renderer.supervisor.groups import Group, SeatDeal
from renderer.supervisor.night import Night
from renderer.supervisor.pool import Seat
from renderer.supervisor.together import Together


class Timely:
    """The first that waits and would be done in time. That none is, is not asked again before anything has changed."""

    def __init__(self, deal: SeatDeal, night: Night, pace: Pace, outcomes: Together) -> None:
        self._deal, self._night, self._pace, self._outcomes = deal, night, pace, outcomes
        self._nothing_fits: dict[tuple[Group, int, bool], tuple[int, int, int, int]] = {}

    def forget(self) -> None:
        """Seats may have other pictures than before."""
        self._nothing_fits.clear()

    def first(self, group: Group, seat: Seat, wanted: Fits[Planned] | None = None) -> Planned | None:
        """The first waiting picture that a seat may have, is `wanted`, and would be done before the deadline."""
        if (left_s := self._night.settings.left_s) is None:
            return self._deal.first(group, seat, wanted)
        company, writing, slowness = len(seat.flights), self._outcomes.writing, self._deal.slowness(group, seat)
        now = group.source.waiting, len(self._night.pool.flights), len(writing), self._outcomes.rendered
        asked = group, seat.number, wanted is None
        if self._nothing_fits.get(asked) == now:  # and since then there is only less time
            return None

        def fits(item: Planned) -> bool:
            if wanted is not None and not wanted(item):
                return False
            expected_s = self._pace.expect_s(item, group.profile)
            if expected_s is None and (company or writing):
                return False  # nothing like it was measured: one tells how long the others will take
            return left_s > (expected_s or 0.0) * slowness * (company + 1)  # it may have to wait for those before it

        item = self._deal.first(group, seat, fits)
        if item is None:
            self._nothing_fits[asked] = now
        return item
