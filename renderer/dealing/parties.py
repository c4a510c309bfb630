"""Whose pictures are dealt, and to whom: what the policy asks of a group, a seat, and what either holds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, Protocol, TypeVar

ItemT = TypeVar("ItemT")
"""A picture, or several that are alike: the policy passes it on."""

ItemT_co = TypeVar("ItemT_co", covariant=True)
GroupT_contra = TypeVar("GroupT_contra", contravariant=True)

Fits = Callable[[ItemT], bool]
"""Whether a picture may begin now."""


class Source(Protocol[ItemT]):
    """Pictures to be rendered with one setup: a plan's, or what comes in while others are rendered."""

    def __bool__(self) -> bool:
        """Whether more is to come."""

    @property
    def waiting(self) -> int:
        """How many have a turn now; counted no further than helps to share them out."""

    @property
    def waiting_work(self) -> float:
        """What these take beside one another (`GroupLike.work_of`)."""

    def first(self, fits: Fits[ItemT] | None = None) -> ItemT | None:
        """The next picture whose turn may come, or the next that `fits`; it stays until it is taken. None: not now."""

    def take(self, item: ItemT) -> bool:
        """It has a worker; False where it waits no more since its turn came."""

    def put_back(self, item: ItemT) -> None:
        """Nothing has happened to it, or it takes another's part: it is the next one."""

    def try_again(self, items: Iterable[ItemT]) -> None:
        """They failed, and are tried again when all others are through."""

    def join(self, items: Iterable[ItemT]) -> None:
        """More is to be rendered, behind what waits: other takes of pictures that had one."""

    def next_round(self) -> bool:
        """All others are through: whether those have their turn now that are tried again."""

    def give_up(self) -> list[ItemT]:
        """None of what is left will be rendered: what that is, in its order."""


class Holding(Protocol[ItemT_co]):
    """A picture that a seat has been given."""

    @property
    def item(self) -> ItemT_co:
        """The picture."""

    @property
    def since(self) -> object | None:
        """When its turn came; None where it has not, and it can be given back."""


class Hands(Protocol[ItemT_co]):
    """All that a seat holds."""

    @property
    def work(self) -> float:
        """What that takes beside others."""

    def __len__(self) -> int: ...

    def values(self) -> Iterable[Holding[ItemT_co]]:
        """Each of them."""


class OpenedLike(Protocol):
    """A worker that takes orders."""

    @property
    def load_s(self) -> float:
        """Seconds that it took to open."""


class SeatLike(Protocol):
    """A device's place: what it has open, and what it holds. `number` counts them, from 0."""

    @property
    def number(self) -> int: ...

    @property
    def flights(self) -> Hands[Any]: ...

    @property
    def is_out(self) -> bool:
        """Whether nothing is tried with its device at this moment."""

    @property
    def is_placed(self) -> bool:
        """Whether its worker does not wait for a device."""

    @property
    def has_room(self) -> bool:
        """Whether it takes one more."""

    @property
    def setup(self) -> object | None:
        """What its worker has open, or opens."""

    @property
    def opened(self) -> OpenedLike | None:
        """What is known of its worker since it takes orders; None until then."""


class GroupLike(Protocol[ItemT]):
    """Pictures for which the same is opened. Those of a higher `priority` come first, whatever has to be opened."""

    @property
    def source(self) -> Source[ItemT]: ...

    @property
    def priority(self) -> float: ...

    @property
    def ending(self) -> object | None:
        """Why nothing more of it is to begin, if so."""

    @property
    def has_pictures(self) -> bool:
        """Whether more is to be begun."""

    @property
    def is_plain(self) -> bool:
        """Whether any seat may have any of its pictures."""

    def __bool__(self) -> bool:
        """Whether more is to come, or may come."""

    def setup_at(self, number: int) -> object | None:
        """What a seat opens for it; None where it cannot."""

    def is_choosy(self, number: int) -> bool:
        """Whether something of it may not be for a seat."""

    def takes(self, number: int, item: ItemT) -> bool:
        """Whether one fits on a seat's device."""

    def crashed_at(self, item: ItemT) -> Collection[int]:
        """The seats at which it brought down a worker: it goes elsewhere if it may."""

    def work_of(self, item: ItemT) -> float:
        """What one takes beside others."""
