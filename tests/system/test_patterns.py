"""Patterns of paths: as shells have them, and with an end."""

from __future__ import annotations

import glob
from pathlib import Path

import pytest

from renderer.system import patterns

FILES = ("a.png", "b.jpg", ".hidden.png", "x/a.png", "x/y/b.png", "x/y/z/c.jpg", ".h/a.png", "w[1].png", "v/x/q.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    "pattern",
    [
        "*.png",
        "?.png",
        "[!a].*",
        "x/*",
        "**/*.png",
        "x/**/*.png",
        "**/y/*",
        "**/x/**/*.png",
        "*/**/*",
        "none/*",
        "a.png",
    ],
)
def test_it_fits_what_pythons_own_does(folder: Path, pattern: str) -> None:
    """From a folder, and with a whole path, which it keeps."""
    wanted = sorted(glob.glob(pattern, root_dir=folder, recursive=True))  # noqa: PTH207  # what it is held against
    assert patterns.fitting(pattern, folder) == wanted
    assert patterns.fitting(f"{folder}/{pattern}") == [f"{folder}/{each}" for each in wanted]


def test_two_stars_at_the_end_are_everything_below(folder: Path) -> None:
    found = [each for each in patterns.fitting("x/**", folder) if (folder / each).is_file()]
    assert found == ["x/a.png", "x/y/b.png", "x/y/z/c.jpg"]


def test_links_that_lead_in_circles_come_to_an_end(folder: Path) -> None:
    """And a folder that is there twice is gone through once, under its own name."""
    for name in ("a1", "a2", "a3", "x/up", "x/y/up"):
        (folder / name).symlink_to(folder)
    (folder / "zz").symlink_to(folder / "x")
    (folder / "loop").symlink_to("loop")
    assert patterns.fitting("**/*.png", folder) == ["a.png", "v/x/q.png", "w[1].png", "x/a.png", "x/y/b.png"]


def test_a_folder_elsewhere_is_gone_into_through_its_link(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    there = tmp_path_factory.mktemp("there")
    (there / "q").mkdir()
    (there / "q/e.png").touch()
    (folder / "link").symlink_to(there)
    assert patterns.fitting("**/e.png", folder) == ["link/q/e.png"]
