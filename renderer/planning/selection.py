"""Which of a manifest's pictures are meant: by their ids, by patterns, or by how they stand.

`moon*,@failed` are those that fit any of the words. Ids and patterns are known by the manifest alone; states are asked
of pictures that have been looked at, and of what somebody thinks of them.
"""

from __future__ import annotations

import fnmatch
import glob
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from renderer.errors import UsageError
from renderer.job import Picture
from renderer.manifest.manifest import Manifest
from renderer.outputs.picks import Pick, PickMap

if TYPE_CHECKING:
    from renderer.planning.plan import Planned

STATE_SIGN = "@"


@dataclass(frozen=True, slots=True)
class Selection:
    """What was asked for, taken apart. `names` are ids and patterns, `states` are names in `STATES`."""

    names: tuple[str, ...] = ()
    states: tuple[str, ...] = ()

    @classmethod
    def of(cls, words: Iterable[str]) -> Selection:
        """Words as they were typed, each of which may be several with commas.

        Raises `UsageError` for no such state, and for a word that says nothing: it was hardly meant to choose all.
        """
        typed = [[part.strip() for part in word.split(",") if part.strip()] for word in words]
        if not all(typed):
            raise UsageError("--only names no picture", hint="leave it out for all")
        parts = [part for word in typed for part in word]
        states = tuple(part.removeprefix(STATE_SIGN) for part in parts if part.startswith(STATE_SIGN))
        if unknown := [state for state in states if state not in STATES]:
            known = ", ".join(f"{STATE_SIGN}{state}" for state in STATES)
            raise UsageError(f"there is no state {STATE_SIGN}{unknown[0]}", hint=f"known: {known}")
        return cls(tuple(part for part in parts if not part.startswith(STATE_SIGN)), states)

    def __bool__(self) -> bool:
        return bool(self.names or self.states)

    def is_named(self, picture: Picture) -> bool:
        """Whether one of the ids or patterns is a picture's, or its job's."""
        return any(_fits(name, picture) for name in self.names)

    def may_mean(self, picture: Picture) -> bool:
        """Whether it may be chosen: where states are asked for, nobody knows before it has been looked at."""
        return not self.names or bool(self.states) or self.is_named(picture)

    def is_in_state(self, item: Planned, marks: PickMap) -> bool:
        """Whether one of the states is a picture's."""
        return any(STATES[state](item, marks.get(item.seen[1])) for state in self.states)

    def check(self, manifests: Sequence[Manifest]) -> None:
        """Raise `UsageError` for an id or a pattern that no picture of any of these has. Of parts nobody knows."""
        if not manifests or any(manifest.is_part for manifest in manifests):
            return  # where none is well, that is what has to be said
        unknown = [
            name for name in self.names
            if not any(_fits(name, picture) for manifest in manifests for picture in manifest.pictures)
        ]  # fmt: skip
        if unknown:
            files = ", ".join(manifest.file for manifest in manifests)
            hint = f"renderer plan lists them; states begin with {STATE_SIGN}"
            raise UsageError(f"{files} has no picture or job {', '.join(unknown)}", hint=hint)


def _fits(name: str, picture: Picture) -> bool:
    own = (picture.id, picture.place.job_id)
    if name in own:
        return True
    return glob.has_magic(name) and any(re.match(fnmatch.translate(name), each) for each in own)


def _is_misread(item: Planned, _mark: Pick | None) -> bool:
    read = item.sidecar.lettering if item.sidecar is not None else None
    return read is not None and read.score < 1


STATES: Mapping[str, Callable[[Planned, Pick | None], bool]] = {
    "done": lambda item, _: item.state == "done",
    "todo": lambda item, _: item.state == "to do",
    "failed": lambda item, _: item.state in ("failed", "set aside"),
    "picked": lambda _, mark: isinstance(mark, int),
    "rejected": lambda _, mark: mark == "x",
    "unread": lambda item, mark: item.sidecar is not None and mark is None,
    "misread": _is_misread,
}
"""What may stand behind the sign. `unread` are pictures that are there, and that nobody has marked."""
