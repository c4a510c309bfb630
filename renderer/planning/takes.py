"""A picture that may be taken several times, with another seed each time, until its lettering is right.

Each take is a job with a fingerprint of its own, so that it is rendered once, whatever happens in between. In the
picture's place lies the best so far, whose sidecar tells all that have been read. Pure choices; reads nothing.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from renderer.job import Lettering, LetteringRead, ModelIdentity, Picture, fingerprint
from renderer.lettering.installed import check_installed
from renderer.outputs.done import DoneLettering, FoundSidecar

LetteringTold = LetteringRead | DoneLettering
"""What a sidecar says of a picture's lettering, all of it or a part."""

KEPT_HINT = "the picture is kept, and not rendered again; another prompt or seed may do"
"""What is told beside a complaint."""

_ROUNDING = 1e-9


def check_reader(pictures: Iterable[Picture]) -> None:
    """Raise `MachineError` where one of these is to be read, and there is nothing here that reads."""
    if any(picture.lettering for picture in pictures):
        check_installed()


def with_seed(picture: Picture, seed: int) -> Picture:
    """The same picture, of another take."""
    if seed == picture.job.seed:
        return picture
    return picture.model_copy(update={"job": picture.job.model_copy(update={"seed": seed})})


def asked_for(picture: Picture) -> Picture:
    """The take that comes first, whichever this is."""
    seeds = picture.lettering.seeds if picture.lettering else ()
    return with_seed(picture, seeds[0]) if seeds else picture


def take_of(picture: Picture, identity: ModelIdentity, mark: str) -> Picture | None:
    """The picture's take that has this fingerprint; None where none has."""
    return next((take for take in _takes(picture) if fingerprint(take.job, identity) == mark), None)


def is_among(picture: Picture, identity: ModelIdentity, marks: Container[str]) -> bool:
    """Whether one of a picture's takes has one of these fingerprints."""
    return any(fingerprint(take.job, identity) in marks for take in _takes(picture))


def find(picture: Picture, identity: ModelIdentity, found: dict[str, FoundSidecar]) -> Picture | None:
    """Of a picture that is not in its place, the take that is the furthest of those that lie elsewhere.

    `found` is by fingerprint.
    """
    if picture.lettering is None or not picture.lettering.seeds:
        return None
    lying = [(take, found[mark]) for take in _takes(picture) if (mark := fingerprint(take.job, identity)) in found]
    return max(lying, key=lambda pair: _progress(pair[1].told.lettering, picture.lettering), default=(None,))[0]


def is_read(told: LetteringTold | None, lettering: Lettering) -> bool:
    """Whether a picture was read for these texts."""
    texts = tuple(each.text for each in told.texts) if told else ()
    return told is not None and told.forgives == lettering.forgives and texts == lettering.texts


def next_seed(picture: Picture, told: LetteringTold) -> int | None:
    """The seed of a picture's next take; None where the best is right, or all were taken."""
    assert picture.lettering is not None
    if not is_wrong(picture, told.score):
        return None
    tried = {take.seed for take in told.takes}
    return next((seed for seed in picture.lettering.seeds if seed not in tried), None)


def scores(told: LetteringTold) -> tuple[float, ...]:
    """Of all takes that were read."""
    return tuple(take.score for take in told.takes) or (told.score,)


def is_wrong(picture: Picture, score: float) -> bool:
    """Whether a take of this score is less than what is wanted."""
    wanted = expected_of(picture)
    return score + _ROUNDING < (1.0 if wanted is None else wanted)


def count_left(picture: Picture) -> int:
    """How many takes a picture has at most from this one on."""
    seeds = picture.lettering.seeds if picture.lettering else ()
    return len(seeds) - seeds.index(picture.job.seed) if picture.job.seed in seeds else 1


def is_through(picture: Picture, identity: ModelIdentity, found: FoundSidecar) -> bool:
    """Whether what was found is a take of a picture, and no other will come after it: it is read, if that was asked."""
    take, told = take_of(picture, identity, found.fingerprint), found.told.lettering
    if take is None or take.lettering is None:
        return take is not None
    return told is not None and is_read(told, take.lettering) and next_seed(take, told) is None


def expected_of(picture: Picture) -> float | None:
    """The least score that a picture's job is content with; None where any will do."""
    return picture.expect.lettering if picture.expect else None


def complaint(wanted: float | None, told: LetteringTold) -> str:
    """Why a picture's lettering is not as good as is `wanted`; empty where it is."""
    if wanted is None or told.score + _ROUNDING >= wanted:
        return ""
    worst = min(told.texts, key=lambda each: each.score)
    read = f'"{worst.read}" was read' if worst.read else "nothing was read"
    after = f", the best of {len(told.takes)}" if len(told.takes) > 1 else ""
    return f'{read} where "{worst.text}" was to stand: {worst.score:.2f} of {wanted:g}{after}'


def _takes(picture: Picture) -> Iterable[Picture]:
    seeds: Sequence[int] = picture.lettering.seeds if picture.lettering else ()
    return (with_seed(picture, seed) for seed in seeds or (picture.job.seed,))


def _progress(told: LetteringTold | None, lettering: Lettering | None) -> tuple[int, float]:
    """How far a picture has come, for comparing: how many takes its sidecar knows of, and how good it is."""
    if told is None or lettering is None or not is_read(told, lettering):
        return 0, 0.0
    return len(told.takes), told.score
