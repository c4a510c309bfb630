"""Chosen pictures once more, another way, and beside the first."""

from __future__ import annotations

import pytest

from renderer.errors import UsageError
from renderer.job import Lettering
from renderer.manifest.naming import MAX_NAME_BYTES
from renderer.planning.once_more import Changes, once_more
from tests.making import make_manifest

MANIFEST = make_manifest(["a", "b"])


def test_what_is_different_is_in_the_name() -> None:
    made = once_more(MANIFEST, MANIFEST.pictures[1:], Changes(steps=9, size="4:3", seeds=2))
    assert made.name == "test-again"
    assert [(each.id, each.output) for each in made.pictures] == [
        ("p001-9steps-304x224",) * 2,
        ("p001-9steps-304x224-s2",) * 2,
        ("p001-9steps-304x224-s3",) * 2,
    ]
    assert {(each.job.num_inference_steps, each.job.width, each.job.height) for each in made.pictures} == {
        (9, 304, 224)
    }
    assert [(each.job.seed, each.place.index) for each in made.pictures] == [(1, 0), (2, 1), (3, 2)]


def test_further_seeds_alone_leave_the_first_where_it_is() -> None:
    made = once_more(MANIFEST, MANIFEST.pictures[:1], Changes(seeds=2))
    assert [each.job.seed for each in made.pictures] == [1, 2]


def test_takes_begin_with_the_seed_that_was_kept() -> None:
    lettering = Lettering(texts=("A",), seeds=(5, 6, 7))
    job = MANIFEST.pictures[0].job.model_copy(update={"seed": 6})
    picture = MANIFEST.pictures[0].model_copy(update={"lettering": lettering, "job": job})
    (made,) = once_more(MANIFEST, [picture], Changes(steps=9)).pictures
    assert made.lettering is not None
    assert made.lettering.seeds == (6, 7, 8)
    further = once_more(MANIFEST, [picture], Changes(seeds=2)).pictures
    assert [each.lettering and each.lettering.seeds for each in further] == [(), ()]
    both = once_more(MANIFEST, [picture], Changes(steps=9, seeds=1)).pictures
    assert [each.lettering and each.lettering.seeds for each in both] == [(), ()]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (Changes(), "nothing is to be different"),
        (Changes(size="5:1"), "5:1 is not a ratio of demo"),
        (Changes(size="big"), "big is not a size"),
        (Changes(size="9" * 5000 + "x16"), "is not a size"),
        (Changes(size="100x100"), "multiple"),
    ],
)
def test_what_cannot_be_is_refused(changes: Changes, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        once_more(MANIFEST, MANIFEST.pictures, changes)


def test_a_name_that_no_folder_takes_is_refused() -> None:
    """The id may be short, and the file's name long."""
    picture = MANIFEST.pictures[0].model_copy(update={"output": "n" * (MAX_NAME_BYTES - 5)})
    assert once_more(MANIFEST, MANIFEST.pictures[:1], Changes(steps=9)).pictures
    with pytest.raises(UsageError, match="too long a name"):
        once_more(MANIFEST, [picture], Changes(steps=9))
