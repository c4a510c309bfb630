"""Where a picture lies already that is not in its place: under another name in its folder, or kept another way.

A picture is its fingerprint, whatever it was called when it was rendered. Pure choices over what was found in a folder;
reads the files that it chooses, writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from renderer.job import Keep
from renderer.outputs.done import FoundSidecar
from renderer.outputs.folder import OutputFolder
from renderer.outputs.picture_files import read_sidecar


@dataclass(frozen=True, slots=True)
class Wanted:
    """A picture that is not in its place: what it is called there, and how it is to be kept."""

    fingerprint: str
    output: str
    keep: Keep


@dataclass(frozen=True, slots=True)
class Location:
    """Where a finished picture lies, as an output name, and how it is kept there."""

    output: str
    keep: Keep


def can_become(kept: Keep, wanted: Keep) -> bool:
    """Whether a picture that is kept one way can be kept another from its own file: JPEG has lost pixels' values."""
    return kept == wanted or kept.format != "jpeg"


def choose(
    folder: OutputFolder,
    wanted: Sequence[Wanted],
    found: Iterable[FoundSidecar],
    in_place: Mapping[str, Location],
    *,
    thorough: bool,
) -> dict[str, Location]:
    """For the output names of pictures that are wanted, where each lies already, if it does.

    `found` are sidecars in the folder that are in no picture's place, or in another's; `in_place` are pictures that are
    where they belong, by fingerprint. Its own place comes first, then a file that is kept as it is to be.
    """
    marks = {each.fingerprint for each in wanted}
    options: dict[str, list[FoundSidecar]] = {}
    for one in found:
        if one.fingerprint in marks:
            options.setdefault(one.fingerprint, []).append(one)
    whole: dict[str, bool] = {}

    def is_good(option: FoundSidecar) -> bool:
        if option.output not in whole:
            there = option.is_whole(folder, thorough=thorough)
            whole[option.output] = there and read_sidecar(folder.sidecar(option.output)) is not None
        return whole[option.output]

    chosen: dict[str, Location] = {}
    for each in wanted:
        able = [one for one in options.get(each.fingerprint, ()) if can_become(one.keep, each.keep)]
        able.sort(key=lambda one, each=each: (one.output != each.output, one.keep != each.keep))  # type: ignore[misc]
        good = next((one for one in able if is_good(one)), None)
        other = in_place.get(each.fingerprint)
        if good is not None:
            chosen[each.output] = Location(good.output, good.keep)
        elif other is not None and can_become(other.keep, each.keep):
            chosen[each.output] = other
    return chosen
