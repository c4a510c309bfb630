from __future__ import annotations

import random

from renderer.estimate.companies import MOST_RECORDED_ROWS, MOST_RECORDED_TOGETHER, companies, is_small


def test_alike_are_side_by_side_and_nobody_is_left_out() -> None:
    """Whatever sizes there are: each goes once, and no company has too many rows, but for two."""
    dice = random.Random(1)  # noqa: S311
    for _ in range(200):
        sizes = [
            None if dice.random() < 0.1 else (dice.choice((64, 256, 1024)), dice.choice((6, 36)))
            for _ in range(dice.randrange(12))
        ]
        found = companies(sizes, 1200)
        assert sorted(number for company in found for number in company) == list(range(len(sizes)))
        shared = [[sizes[number] for number in company] for company in found if len(company) > 1]
        assert all(None not in company for company in shared)
        assert all(sum(sum(each or ()) for each in company) <= 1200 for company in shared if len(company) > 2)
        flat = [sizes[number] or () for company in found for number in company if sizes[number] is not None]
        assert flat == sorted(flat)


def test_nobody_goes_with_others_where_no_rows_may() -> None:
    assert companies([(4, 1), (4, 1), None], 0) == [[0], [1], [2]]


def test_two_may_have_twice_as_many() -> None:
    """Guidance's passes of a picture that is large, but not too large: three of them are a pair and one alone."""
    assert companies([(900, 6)] * 3, 1000) == [[0, 1], [2]]
    assert companies([(1000, 6)] * 2, 1000) == [[0], [1]]


def test_eight_small_pictures_and_their_other_passes() -> None:
    """Guidance's passes have texts of their own lengths: eight go with eight alike."""
    sizes = [(1024, text) for _ in range(8) for text in (36, 11)]
    assert companies(sizes, 9216) == [list(range(1, 16, 2)), list(range(0, 16, 2))]


def test_one_alone_keeps_the_host_waiting_with_fewer_rows_than_several() -> None:
    """Each of several is more work for the host: together they may have more rows, and are small still."""
    assert MOST_RECORDED_ROWS < MOST_RECORDED_TOGETHER
    rows, more = MOST_RECORDED_ROWS - 6, MOST_RECORDED_TOGETHER // 2 - 6
    assert is_small([(rows, 6)])
    assert not is_small([(rows + 1, 6)])
    assert is_small([(more, 6)] * 2)
    assert not is_small([(more, 6), (more + 1, 6)])
