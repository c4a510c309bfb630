"""Chosen pictures, copied out of their folder: with a table, whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from renderer.errors import DiskError, UsageError
from renderer.outputs import picks
from renderer.planning.plan import Plan, make_plan
from renderer.report import exporting
from renderer.report.exporting import export
from tests.making import make_manifest
from tests.nights import make_night

MANIFEST = make_manifest(["=1+1", "一张海报", "c"])


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Two of three pictures are there, and one of those is picked."""
    make_night(MANIFEST, tmp_path / "outputs", without=["p002"])
    made = make_plan(MANIFEST, tmp_path / "outputs")
    picks.mark(made.folder, {made.items[1].fingerprint: 5})
    return made


def test_a_folder(plan: Plan, tmp_path: Path) -> None:
    assert export([plan], tmp_path / "all") == 2
    names = {path.name for path in (tmp_path / "all").iterdir()}
    assert names == {"p000.png", "p001.png", "pictures.csv", "pictures.json", "contact-sheet.png"}
    assert (tmp_path / "all/p001.png").read_bytes() == plan.folder.picture("p001").read_bytes()
    table = csv.DictReader(io.StringIO((tmp_path / "all/pictures.csv").read_bytes().decode("utf-8-sig")))
    assert [(row["id"], row["prompt"], row["mark"]) for row in table] == [
        ("p000", "'=1+1", ""),
        ("p001", "一张海报", "5"),
    ]
    rows = json.loads((tmp_path / "all/pictures.json").read_bytes())
    assert [(row["prompt"], row["mark"]) for row in rows] == [("=1+1", None), ("一张海报", 5)]


def test_a_zip_of_what_was_chosen(plan: Plan, tmp_path: Path) -> None:
    chosen = make_plan(MANIFEST, plan.folder.path.parent, only=["@picked"])
    assert export([chosen], tmp_path / "best.zip") == 1
    with zipfile.ZipFile(tmp_path / "best.zip") as made:
        assert made.testzip() is None
        assert set(made.namelist()) == {"p001.png", "pictures.csv", "pictures.json", "contact-sheet.png"}
        assert Image.open(made.open("contact-sheet.png")).width > 100


def test_names_are_those_of_files_and_no_addresses(tmp_path: Path) -> None:
    """A page calls for "50%25%20%231.png"; here it is what lies there, and what the table says."""
    manifest = make_manifest(["a"])
    named = replace(
        manifest, pictures=tuple(each.model_copy(update={"output": "sub/50% #1"}) for each in manifest.pictures)
    )
    make_night(named, tmp_path / "outputs")
    exporting.export([make_plan(named, tmp_path / "outputs")], tmp_path / "out")
    assert (tmp_path / "out/sub/50% #1.png").is_file()
    (row,) = json.loads((tmp_path / "out/pictures.json").read_text())
    assert row["file"] == "sub/50% #1.png"


def test_a_picture_from_before_zips_have_dates(plan: Plan, tmp_path: Path) -> None:
    """Copies without their times begin in 1970, and a zip's in 1980."""
    os.utime(plan.folder.picture("p000"), (0, 0))
    assert export([plan], tmp_path / "old.zip") == 2


@pytest.mark.parametrize("name", ["absent/best.zip", "absent/best", "file/best", f"{'n' * 300}.zip"])
def test_a_place_that_cannot_be_is_named_as_it_was_given(plan: Plan, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskError) as caught:
        export([plan], tmp_path / name)
    assert str(tmp_path / name) in caught.value.message


def test_several_manifests_have_a_folder_each(plan: Plan, tmp_path: Path) -> None:
    other = make_manifest(["d"], name="other")
    make_night(other, plan.folder.path.parent)
    assert export([plan, make_plan(other, plan.folder.path.parent)], tmp_path / "both") == 3
    assert (tmp_path / "both/test/p001.png").is_file()
    assert (tmp_path / "both/other/pictures.csv").is_file()


def test_what_is_there_stays_and_nothing_half_is_left(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="is there already"):
        export([plan], tmp_path / "there")
    with pytest.raises(UsageError, match="no picture that is there was chosen"):
        export([make_plan(MANIFEST, plan.folder.path.parent, only=["p002"])], tmp_path / "none")
    plan.folder.picture("p001").unlink()
    for name in ("gone", "gone.zip"):
        with pytest.raises(DiskError, match="is gone"):
            export([plan], tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"there", "outputs"}


@pytest.mark.parametrize("begins", list("=+-@\t\r"))
def test_what_a_spreadsheet_would_compute_is_a_text(begins: str) -> None:
    """A prompt that somebody sent opens no program of whoever looks at the table."""
    assert exporting._harmless(f"{begins}cmd|' /C calc'!A0") == f"'{begins}cmd|' /C calc'!A0"
    assert exporting._harmless(f"a{begins}1") == f"a{begins}1"
    assert exporting._harmless(-1) == -1
