"""How many takes are expected: by what a folder tells, or by a guess; and in a forecast."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from renderer.job import Expect, Lettering, LetteringRead, Take, TextRead, fingerprint
from renderer.manifest.manifest import Manifest
from renderer.outputs import done, picks, picture_files
from renderer.outputs.folder import OutputFolder
from renderer.planning import forecast, retakes, takes
from renderer.planning.forecast import Assumptions
from renderer.planning.once_more import Changes, once_more
from renderer.planning.plan import make_plan
from renderer.planning.retakes import RetakeRate
from tests.making import make_manifest
from tests.nights import make_night
from tests.planning.test_forecast import HERE, NOW, RATES, real
from tests.planning.test_riding import RIDES, with_loras


def lettered(count: int, *, takes: int = 4, expect: float | None = None) -> Manifest:
    """So many pictures that may have so many takes."""
    manifest = make_manifest([f'says "WORD" {number}' for number in range(count)])
    pictures = tuple(
        picture.model_copy(
            update={
                "lettering": Lettering(texts=("WORD",), seeds=tuple(range(100 * index, 100 * index + takes))),
                "job": picture.job.model_copy(update={"seed": 100 * index}),
                "expect": Expect(lettering=expect) if expect else None,
            }
        )
        for index, picture in enumerate(manifest.pictures)
    )
    return replace(manifest, pictures=pictures)


class TestRate:
    def test_without_a_history(self) -> None:
        """The guess; a picture that is taken once is taken once."""
        rate = RetakeRate()
        assert rate.share == retakes.GUESS
        assert rate.takes(1) == 1
        assert rate.takes(3) == pytest.approx(1 + retakes.GUESS + retakes.GUESS**2)

    def test_what_was_read_tells(self) -> None:
        """More and more, the more was read."""
        rate = RetakeRate()
        for number in range(100):
            rate.learn(wrong=number % 2 == 0)
        assert rate.share == pytest.approx(0.5, abs=0.02)
        assert rate.takes(20) == pytest.approx(2, abs=0.1)

    def test_a_picture_on_its_way(self) -> None:
        """It has as many takes as it has seeds from this one on."""
        (picture,) = lettered(1).pictures
        assert [takes.count_left(takes.with_seed(picture, seed)) for seed in range(4)] == [4, 3, 2, 1]
        assert takes.count_left(picture.model_copy(update={"lettering": None})) == 1


def test_what_was_read_more_leniently_is_read_again() -> None:
    """A right answer to one question is none to another: other texts, or other signs that are forgiven."""
    asked = Lettering(texts=("WORD",))
    told = LetteringRead(texts=(TextRead(text="WORD", read="word", score=1.0),), score=1.0, reader="a test")
    assert takes.is_read(told, asked)
    assert not takes.is_read(told, asked.model_copy(update={"texts": ("WORDS",)}))
    assert not takes.is_read(told, asked.model_copy(update={"forgives": ()}))
    assert not takes.is_read(None, asked)


def test_the_text_that_is_least_there_is_complained_of() -> None:
    """Wherever it stands among them."""
    well, badly = TextRead(text="WORD", read="WORD", score=1.0), TextRead(text="OTHER", read="0THE", score=0.6)
    for texts in ((well, badly), (badly, well)):
        told = LetteringRead(texts=texts, score=0.6, reader="a test")
        assert takes.complaint(0.9, told) == '"0THE" was read where "OTHER" was to stand: 0.60 of 0.9'


def test_of_takes_that_lie_elsewhere_the_furthest_is_gone_on_with(tmp_path: Path) -> None:
    """The one whose sidecar knows of most takes; of as many, the better one."""
    manifest = lettered(1)
    (picture,) = manifest.pictures
    read(tmp_path, manifest, [[0.5]])
    folder = OutputFolder(tmp_path / manifest.name)
    sidecar = picture_files.read_sidecar(folder.sidecar(picture.output))
    assert sidecar is not None
    assert sidecar.lettering is not None
    identity, found = sidecar.model, {}
    for seed, scores in ((0, [0.5]), (1, [0.5, 0.2]), (2, [0.5, 0.2, 0.7]), (3, [0.5])):
        mark = fingerprint(takes.with_seed(picture, seed).job, identity)
        taken = tuple(Take(seed=number, score=score) for number, score in enumerate(scores))
        told = sidecar.lettering.model_copy(update={"takes": taken, "score": max(scores)})
        other = sidecar.model_copy(update={"fingerprint": mark, "lettering": told})
        picture_files.write_sidecar(folder, f"n{seed}", other)
        found[mark] = next(each for each in done.find_all(folder) if each.fingerprint == mark)
    take = takes.find(picture, identity, found)
    assert take is not None
    assert take.job.seed == 2


def read(folder: Path, manifest: Manifest, scores: list[list[float]]) -> None:
    """The pictures were rendered and read, each with a take a score."""
    make_night(manifest, folder)
    plan = make_plan(manifest, folder)
    for item, each in zip(plan.items, scores, strict=True):
        sidecar = picture_files.read_sidecar(plan.folder.sidecar(item.picture.output))
        assert sidecar is not None
        told = LetteringRead(
            texts=(TextRead(text="WORD", read="WORD", score=max(each)),),
            score=max(each),
            reader="a test",
            takes=tuple(Take(seed=number, score=score) for number, score in enumerate(each)),
        )
        picture_files.write_sidecar(plan.folder, item.picture.output, sidecar.model_copy(update={"lettering": told}))


class TestForecasts:
    def test_takes_are_part_of_the_time(self, tmp_path: Path) -> None:
        """A hundred pictures that may be taken again take longer, by as much as is expected, and say so."""
        terms = Assumptions(HERE, rates=RATES, ready=True)
        once, often = (
            forecast.forecast([make_plan(lettered(100, takes=count), tmp_path)], terms, NOW).groups[0]
            for count in (1, 4)
        )
        assert once.retakes == 0
        assert often.retakes == pytest.approx(100 * (RetakeRate().takes(4) - 1))
        assert once.seconds is not None
        assert often.seconds is not None
        assert often.seconds.denoise / once.seconds.denoise == pytest.approx(1 + often.retakes / 100)
        assert (often.as_dict()["retakes"], "retakes" in once.as_dict()) == (round(often.retakes, 1), False)

    def test_what_rides_along_is_taken_again_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A LoRA adds to each take's steps, the further ones' included."""
        monkeypatch.setenv("RENDERER_MODELS", str(tmp_path))
        terms = Assumptions(HERE, rates=RATES, ready=True)
        found = []
        for count in (1, 4):
            manifest = with_loras(real(lettered(10, takes=count), *[512] * 10), *[(RIDES,)] * 10)
            (group,) = forecast.forecast([make_plan(manifest, tmp_path)], terms, NOW).groups
            assert group.seconds is not None
            found.append((group.seconds.denoise, 1 + group.retakes / 10))
        assert found[1][0] / found[0][0] == pytest.approx(found[1][1])

    def test_the_folder_tells_the_rate(self, tmp_path: Path) -> None:
        """Ten pictures of which each was wrong twice: what is to come is expected to be wrong as often."""
        manifest = lettered(20)
        first = replace(manifest, pictures=manifest.pictures[:10])
        read(tmp_path, first, [[0.5, 0.5, 1.0]] * 10)
        terms = Assumptions(HERE, rates=RATES)
        (group,) = forecast.forecast([make_plan(manifest, tmp_path)], terms, NOW).groups
        rate = RetakeRate(30, 20)
        assert group.retakes == pytest.approx(10 * (rate.takes(4) - 1))
        lenient = replace(
            manifest,
            pictures=tuple(each.model_copy(update={"expect": Expect(lettering=0.4)}) for each in manifest.pictures),
        )
        (group,) = forecast.forecast([make_plan(lenient, tmp_path)], terms, NOW).groups
        assert group.retakes == pytest.approx(10 * (RetakeRate(30, 0).takes(4) - 1))


def test_a_picture_with_a_take_to_come_tells_too(tmp_path: Path) -> None:
    """A night that was broken off: those that were wrong, and have takes left, count as those that were right."""
    manifest = lettered(3)
    read(tmp_path, manifest, [[0.5], [0.5, 0.6], [1.0]])
    rate = RetakeRate.of(make_plan(manifest, tmp_path).items)
    assert (rate.read, rate.wrong) == (4, 3)
    plain = tuple(each.model_copy(update={"lettering": None}) for each in manifest.pictures)
    rate = RetakeRate.of(make_plan(replace(manifest, pictures=plain), tmp_path).items)
    assert (rate.read, rate.wrong) == (0, 0)  # of pictures that nobody wants read, nothing counts


def test_what_people_see_is_the_best_so_far(tmp_path: Path) -> None:
    """Where a further take is to come, marks are of the one that lies there, and `again` begins with its seed."""
    manifest = lettered(1)
    read(tmp_path, manifest, [[0.5]])
    plan = make_plan(manifest, tmp_path)
    (item,) = plan.items
    assert (item.retake, item.picture.job.seed, item.seen[0].job.seed) == (True, 1, 0)
    picks.mark(plan.folder, {item.seen[1]: 5})
    (chosen,) = make_plan(manifest, tmp_path, only=["@picked"]).chosen
    (again,) = once_more(manifest, [chosen.seen[0]], Changes(steps=9)).pictures
    assert again.job.seed == 0
    assert again.lettering is not None
    assert again.lettering.seeds == (0, 1, 2, 3)
