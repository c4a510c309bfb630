"""Rows in: a table's rows become pictures, and what is wrong with one has its file, row and column."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from renderer.errors import ManifestError
from renderer.job import Picture
from renderer.manifest import manifest
from renderer.manifest.fields import JobFields
from renderer.manifest.manifest import Overrides
from renderer.manifest.rows import COLUMNS_OF_FIELDS, OF_THE_WHOLE_JOB

CITIES = 'city,greeting,seed,note\nParis,Bonjour,1,x\n"Tokyo",こんにちは,2,"a, {b}"\n\nBerlin,Hallo,,\n'
SIGNS = """
defaults: {model: demo, steps: 4, size: 64x64}
jobs:
  - id: "sign-{city}"
    rows: cities.csv
    prompt: A sign in {city} that says "{greeting}"
"""


def put(folder: Path, **files: str | bytes) -> None:
    for name, text in files.items():
        data = text if isinstance(text, bytes) else text.encode()
        (folder / name.replace("__", ".")).write_bytes(data)


def pictures(folder: Path, text: str, **files: str | bytes) -> tuple[Picture, ...]:
    put(folder, m__yaml=text, **files)
    return manifest.load(folder / "m.yaml").pictures


def problems(path: Path, overrides: Overrides = manifest.NO_OVERRIDES) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        manifest.load(path, overrides)
    return [str(each) for each in caught.value.problems]


class TestTables:
    def test_a_comma_that_was_not_quoted_is_one_problem(self, tmp_path: Path) -> None:
        """What has moved into other columns behind it is not complained of besides."""
        put(tmp_path, t__csv="prompt,seed\na cat, grey,7\n")
        (said,) = problems(tmp_path / "t.csv")
        assert "t.csv:2:1: the row has 3 cells, and the table 2 columns" in said

    def test_a_bad_row_of_a_sample_is_its_own_problem(self, tmp_path: Path) -> None:
        """Nothing is drawn of a table that is not well."""
        text = "defaults: {model: demo}\njobs: [{rows: t.csv, prompt: '{x}', matrix: {x: [1, 2]}, sample: 3}]"
        put(tmp_path, m__yaml=text, t__csv="id,seed\na,1\nb,many\n")
        (said,) = problems(tmp_path / "m.yaml")
        assert "t.csv:3:1 seed: " in said

    def test_bad_choices_of_all_rows_are_said(self, tmp_path: Path) -> None:
        """Each with its line, whether the column is the prompt itself or stands in it."""
        put(tmp_path, t__csv="prompt\na {{b|c\nd\ne {{f|g\n")
        assert [each[:14] for each in problems(tmp_path / "t.csv")] == ["t.csv:2:1 prom", "t.csv:4:1 prom"]

    def test_output_names_columns(self, tmp_path: Path) -> None:
        """As it names a matrix's values, also where the job's own text does not; one called like a field sets that."""
        text = "output: '{seed}/{city}'\ndefaults: {model: demo}\njobs: [{rows: t.csv, prompt: x}]"
        (found,) = pictures(tmp_path, text, t__csv="city,seed\nNew York,7\n")
        assert (found.job.seed, found.output) == (7, "7/New York")

    def test_what_output_names_and_a_table_has_not(self, tmp_path: Path) -> None:
        """It is said of `output`; of a table that cannot be read, that alone."""
        text = "output: '{id}-{city}'\ndefaults: {model: demo}\njobs: [{rows: t.csv, prompt: x}%s]"
        put(tmp_path, m__yaml=text % "", t__csv="town\nRome\n")
        assert ["output: unknown field {city}" in each for each in problems(tmp_path / "m.yaml")] == [True]
        put(tmp_path, m__yaml=text % ", y", t__csv="city\nRome\n")
        (said,) = problems(tmp_path / "m.yaml")
        assert "line 3 has no {city} in a matrix or a table" in said
        put(tmp_path, m__yaml=text % "")
        (tmp_path / "t.csv").unlink()
        (said,) = problems(tmp_path / "m.yaml")
        assert "jobs[0].rows: there is no" in said

    def test_a_row_is_a_combination(self, tmp_path: Path) -> None:
        """Columns stand in braces; one that is called like a field sets it, and an empty cell sets nothing."""
        found = pictures(tmp_path, SIGNS, cities__csv=CITIES)
        assert [each.id for each in found] == ["sign-Paris", "sign-Tokyo", "sign-Berlin"]
        assert found[1].job.prompt == 'A sign in Tokyo that says "こんにちは"'
        assert [each.job.seed for each in found][:2] == [1, 2]
        assert found[2].job.seed > 2
        assert found[1].place.matrix == {"row": "002", "city": "Tokyo", "greeting": "こんにちは"}

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("a.csv", "prompt,seed\na cat,7\nb,8\n"),
            ("a.csv", "prompt;seed\r\na cat;7\r\nb;8\r\n"),
            ("a.csv", "\ufeffprompt\tseed\na cat\t7\nb\t8"),
            ("a.tsv", "prompt\tseed\na cat\t7\nb\t8\n"),
            ("a.jsonl", '{"prompt": "a cat", "seed": 7}\n\n{"seed": 8, "prompt": "b", "note": null}\n'),
        ],
    )
    def test_formats(self, tmp_path: Path, name: str, text: str) -> None:
        """Delimiters are found; a table is a manifest by itself, with what `--defaults` says."""
        put(tmp_path, base__yaml="defaults: {model: demo, size: 64x64, steps: 3}\n", **{name.replace(".", "__"): text})
        found = manifest.load(tmp_path / name, Overrides(defaults=tmp_path / "base.yaml"))
        assert found.name == "a"
        assert [(each.id, each.job.prompt, each.job.seed, each.job.num_inference_steps) for each in found.pictures] == [
            ("001", "a cat", 7, 3),
            ("002", "b", 8, 3),
        ]

    def test_a_text_of_prompts(self, tmp_path: Path) -> None:
        """A prompt a line; braces in it are braces."""
        put(tmp_path, prompts__txt="a red {circle}\n\n  a sign: {{x}}\n")
        assert [each.job.prompt for each in manifest.load(tmp_path / "prompts.txt").pictures] == [
            "a red {circle}",
            "a sign: {{x}}",
        ]

    def test_cells_stay_as_they_are_written(self, tmp_path: Path) -> None:
        jobs = "{rows: p.jsonl, prompt: 'costs {price} {ok}'}, {rows: p.csv, prompt: '{price}'}"
        text = f"defaults: {{model: demo}}\njobs: [{jobs}]"
        files = {"p__jsonl": '{"price": 1.50, "ok": true}', "p__csv": "price\n007\n"}
        assert [each.job.prompt for each in pictures(tmp_path, text, **files)] == ["costs 1.50 true", "007"]

    def test_beside_a_matrix(self, tmp_path: Path) -> None:
        """Rows and a matrix multiply; a prompt that names its column is filled from it."""
        text = """
defaults: {model: demo}
jobs: [{rows: p.csv, prompt: "{prompt}, {style}", matrix: {style: [ink, oil]}, seed: 1}]
"""
        found = pictures(tmp_path, text, p__csv="prompt,seed\na {cat},4\nb,\n")
        assert [(each.job.prompt, each.job.seed) for each in found] == [
            ("a {cat}, ink", 4), ("a {cat}, oil", 4), ("b, ink", 1), ("b, oil", 1),
        ]  # fmt: skip
        assert len({each.id for each in found}) == 4

    def test_every_field_is_a_column_or_is_known_to_be_none(self) -> None:
        """Whoever adds a field to jobs says here whether a table, and so a replayed one, can hold it."""
        assert set(JobFields.__annotations__) == COLUMNS_OF_FIELDS | OF_THE_WHOLE_JOB

    def test_a_field_of_the_whole_job_as_a_column(self, tmp_path: Path) -> None:
        """It is warned of once, and may be named in braces as any other."""
        put(tmp_path, p__csv="prompt,seeds\na,1\nb,2\n", m__yaml="jobs: [{rows: p.csv, model: demo, id: 'x-{seeds}'}]")
        (warning,) = manifest.load(tmp_path / "p.csv", Overrides(model="demo")).warnings
        assert "p.csv:1:1: warning: seeds: is a field of the whole job" in str(warning)
        assert not manifest.load(tmp_path / "m.yaml").warnings

    def test_lettering(self, tmp_path: Path) -> None:
        """What a row is to show, how often it is begun again, and its limits; braces in a cell are braces."""
        rows = [
            "prompt,lettering,retake,expect",
            '"says ""HI""",auto,2,',
            'b,HI {you},,"{""lettering"": 0.5}"',
            'c,"[""X"", ""Y""]",1,',
            '"""d""",none,,',
        ]  # fmt: skip
        put(tmp_path, p__csv="\n".join(rows))
        found = manifest.load(tmp_path / "p.csv", Overrides(model="demo")).pictures
        texts = [each.lettering and (each.lettering.texts, len(each.lettering.seeds)) for each in found]
        assert texts == [(("HI",), 3), (("HI {you}",), 0), (("X", "Y"), 2), None]
        assert found[1].expect is not None
        assert found[1].expect.lettering == 0.5

    def test_the_rows_number(self, tmp_path: Path) -> None:
        """{row} is its number, unless a column or an axis of the matrix is called so."""
        table = {"p__csv": "city\nParis\nRome\n"}
        for matrix, told in (("", ["001", "002"]), (", matrix: {row: [top, low]}", ["top", "low", "top", "low"])):
            text = f'defaults: {{model: demo}}\njobs: [{{rows: p.csv, prompt: "{{city}} {{row}}"{matrix}}}]\n'
            assert [each.job.prompt.split()[1] for each in pictures(tmp_path, text, **table)] == told

    def test_many_rows_are_planned_fast(self, tmp_path: Path) -> None:
        """10,000 rows in less than 5 s of the processor."""
        rows = "".join(f"city{number},{number}\n" for number in range(10_000))
        began = time.process_time()
        found = pictures(tmp_path, SIGNS.replace("{greeting}", "{city}"), cities__csv=f"city,seed\n{rows}")
        assert len(found) == 10_000
        assert time.process_time() - began < 5


class TestProblems:
    @pytest.mark.parametrize(
        ("table", "words"),
        [
            ("city,greeting,city\nParis,a,b\n", "t.csv:1:1 city: 2 columns have this name"),
            ("city,greeting\nParis,a\nRome,\n", "t.csv:3:1 greeting: the cell is empty"),
            ("city,greeting\nParis,a,b\n", "t.csv:2:1: the row has 3 cells, and the table 2 columns"),
            ("city,greeting,steps\nParis,a,many\n", "t.csv:2:1 steps: must be a whole number"),
            ("city,greeting,steps\nParis,a,1\n", "t.csv:2:1 steps: 1 is out of range"),
            ("city,greeting,size,width\nParis,a,1:1,64\n", "t.csv:2:1 width"),
            ("city,greeting,size\nParis,a,\nRome,a,63x63\n", "t.csv:3:1 size: 63x63 is not a multiple"),
            ("city,greeting,image\nParis,a,\nRome,a,no.png\n", "t.csv:3:1 image: there is no file no.png"),
            ("city,greeting,retake\nParis,a,\nRome,a,2\n", "t.csv:3:1 retake: retake needs lettering"),
            ("city,greeting,lettering\nParis,a,[3]\n", "t.csv:2:1 lettering: has a number in its list"),
            ("city,greeting,expect\nParis,a,much\n", "t.csv:2:1 expect: must be a mapping"),
            ('city,greeting\n"Paris,a\n', "t.csv:2:1: the row cannot be read"),
            ("city,other\nParis,a\n", "{greeting} is not a name"),
            ("city,greeting\n", "t.csv:1:1: the table has no rows"),
            (",\na,b\n", "t.csv:1:1: the first line names no columns"),
            ("", "t.csv:1:1: the file is empty"),
            ("city,greeting\nParis,\x07\n", "t.csv:2:7: the character U+0007 is not allowed"),
            (b"city,greeting\nParis,\xff\n", "t.csv:2:7: the byte 0xFF is not UTF-8"),
            ("city,greeting\nParis,a\n".encode("utf-16"), "save it as UTF-8"),
            (None, "there is no table t.csv"),
        ],
    )
    def test_each_has_its_place(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str | bytes | None, words: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        put(tmp_path, m__yaml=SIGNS.replace("cities", "t"), **({} if table is None else {"t__csv": table}))
        assert any(words in each for each in problems(Path("m.yaml"))), problems(Path("m.yaml"))

    def test_what_is_no_table(self, tmp_path: Path) -> None:
        put(tmp_path, m__yaml=SIGNS.replace("cities.csv", "cities.xlsx"), cities__xlsx=b"PK\x03\x04")
        assert "is no table" in problems(tmp_path / "m.yaml")[0]

    def test_a_column_that_is_an_axis_too(self, tmp_path: Path) -> None:
        text = SIGNS + "    matrix: {city: [Rome]}\n"
        put(tmp_path, m__yaml=text, cities__csv=CITIES)
        assert "is a column of" in problems(tmp_path / "m.yaml")[0]

    @pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.txt", "t.tsv"])
    def test_broken_tables(self, tmp_path: Path, name: str) -> None:
        """50 of each: pictures, or problems with the table's own rows; never anything else."""
        whole: Mapping[str, str] = {
            "t.csv": CITIES, "t.tsv": CITIES.replace(",", "\t"), "t.txt": "a cat\nb\n",
            "t.jsonl": '{"city": "Paris", "greeting": "x", "seed": 1}\n{"city": "Rome", "greeting": "y"}\n',
        }  # fmt: skip
        dice = random.Random(name)  # noqa: S311  # the same damage every time
        for _ in range(50):
            data = bytearray(whole[name].encode())
            for _ in range(dice.randrange(1, 6)):
                data[dice.randrange(len(data))] = dice.choice(b'",;\t\n\r\x00{}[]:\xff\xc3aA0\\')
            if dice.random() < 0.3:
                del data[dice.randrange(len(data)) :]
            (tmp_path / name).write_bytes(data)
            (tmp_path / "m.yaml").write_text(SIGNS.replace("cities.csv", name))
            for path in (tmp_path / "m.yaml", tmp_path / name):
                with contextlib.suppress(ManifestError):
                    manifest.load(path)
