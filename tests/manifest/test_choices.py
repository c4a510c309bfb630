"""Choices and samples: what is drawn, by what, and what is wrong with those that are none."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from renderer.errors import ManifestError
from renderer.job import Picture
from renderer.manifest import choices, draws, manifest, naming
from renderer.manifest.choices import ChoiceError
from tests.reading import DEMO, load_text, problem_of, problems_of

PIECES = st.lists(st.sampled_from(["{{", "}}", "|", "\\", "{", "}", "{a}", "red", " ", "猫"]), max_size=14)


def pictures(text: str) -> tuple[Picture, ...]:
    return load_text(DEMO + text).pictures


def prompts(text: str) -> list[str]:
    return [picture.job.prompt for picture in pictures(text)]


class TestTexts:
    def test_one_is_drawn_for_each_picture(self) -> None:
        """By its seed, and the same in all sizes; an id tells what was drawn."""
        found = pictures(
            "jobs: [{id: fox, prompt: 'a {{red|blue|}} fox', sizes: [64x64, 80x64], seeds: [1, 2, 3, 4, 5]}]"
        )
        by_seed = {seed: {each.job.prompt for each in found if each.job.seed == seed} for seed in range(1, 6)}
        assert all(len(each) == 1 for each in by_seed.values())
        assert {each.job.prompt for each in found} <= {"a red fox", "a blue fox", "a  fox"}
        assert len({each.job.prompt for each in found}) > 1
        assert all(each.id.startswith("-".join(["fox", *each.job.prompt.split()[1:-1]])) for each in found)

    def test_an_id_tells_what_differs_and_fits(self) -> None:
        """What is drawn for all alike tells nothing; without room for size and seed beside it, it is left out."""
        alike, *_ = pictures("jobs: [{id: fox, prompt: 'a {{red|red}} fox', seeds: [1, 2]}]")
        assert alike.id == "fox-s1"
        long = f"jobs: [{{prompt: 'a {{{{b|c}}}} fox', sizes: [64x64, 80x64], seeds: {[*range(10**9, 10**9 + 8)]}, id: "
        for letters, told in ((80, True), (95, False)):
            ids = [each.id for each in pictures(f"{long}{'x' * letters}}}]")]
            assert [each[letters : letters + 3] in ("-b-", "-c-") for each in ids] == [told] * 16

    def test_a_seed_draws_the_same_however_it_is_written(self) -> None:
        """One of a count is the seed that it comes to."""
        text = "prompt: 'a {{1|2|3|4|5|6|7|8|9}} {{1|2|3|4|5|6|7|8|9}}'"
        counted, listed = (
            prompts(f"jobs: [{{{text}, {seeds}}}]") for seeds in ("seed: 7, count: 4", "seeds: [7, 8, 9, 10]")
        )
        assert counted == listed

    def test_the_longest_that_may_be_drawn_counts(self) -> None:
        """Whatever is drawn: a prompt that might be too long is refused."""
        text = "prompt: '{{a|{x}{x}{x}}}', matrix: {x: [%s]}" % ("b" * 4000)
        assert "jobs[0].prompt: would be 12,000 characters" in problem_of(f"{DEMO}jobs: [{{{text}}}]")

    def test_the_same_everywhere(self) -> None:
        """What is drawn is written down here: no Python, machine or release of ours may draw something else."""
        text = "{id: fox, prompt: 'a {{red|blue|green}} {{fox|owl {{at night|at noon}}}}', seeds: [1, 2, 3, 4]}"
        assert prompts(f"jobs: [{text}]") == GOLDEN
        assert draws.rank("a") == 0x40F89E395B66422F

    def test_sample_seed_and_id_draw_otherwise(self) -> None:
        told = {
            tuple(prompts(f"jobs: [{{prompt: 'a {{{{1|2|3|4|5|6|7|8|9}}}}', seeds: [1, 2, 3, 4], {more}}}]"))
            for more in ("sample_seed: 0", "sample_seed: 1", "id: a", "id: b")
        }
        assert len(told) == 4

    def test_a_further_option_moves_little(self) -> None:
        """It takes its share, and all other pictures are what they were; so does a job before this one."""
        many = "prompt: 'a {{%s}} fox', seeds: [" + ", ".join(map(str, range(300))) + "]"
        before = prompts(f"jobs: [{{{many % 'red|blue|green'}}}]")
        after = prompts(f"jobs: [another, {{{many % 'red|black|blue|green'}}}]")[1:]
        moved = [new for old, new in zip(before, after, strict=True) if new != old]
        assert set(moved) == {"a black fox"}
        assert 50 < len(moved) < 100
        assert all(count > 70 for count in Counter(before).values())

    def test_without_a_seed_each_has_its_own(self) -> None:
        """Seeds that are derived from prompts are derived from what was drawn, and stay apart."""
        found = pictures("jobs: [{prompt: 'a {{red|blue}} fox', count: 6, size: 64x64}]")
        assert len({each.job.prompt for each in found}) == 2
        assert len({each.job.seed for each in found}) == len({each.id for each in found}) == 6

    def test_in_values(self) -> None:
        """One of vars' or the matrix's is drawn once a picture, wherever its name stands."""
        text = """
            defaults: {model: demo}
            vars: {animal: "{{fox|owl|hare}}"}
            output: "{animal}/{id}"
            jobs:
              - id: "{animal}-{light}"
                prompt: 'a {animal}, and the {animal} in {light} {{a|b}}'
                negative_prompt: "{animal}"
                lettering: ["{animal}"]
                cfg_scale: 2
                seeds: [1, 2, 3, 4, 5, 6]
                matrix: {light: [sun, "{{moon|lamp}}"]}
        """
        found = load_text(text).pictures
        for each in found:
            animal = each.job.negative_prompt
            assert each.job.prompt.startswith(f"a {animal}, and the {animal} in ")
            assert each.lettering is not None
            assert each.lettering.texts == (animal,)
            assert each.output.startswith(f"{animal}/{animal}-{each.place.matrix['light']}-")
        assert {each.place.matrix["light"] for each in found} == {"sun", "moon", "lamp"}
        assert len({each.place.matrix["animal"] for each in found}) == 3

    @pytest.mark.parametrize(
        ("written", "read"),
        [
            ("a {{b}} | {c}", "a {{b}} | {c}"),
            (r"a \{{b|c}}", "a {{b|c}}"),
            (r"a \\{{b|b}}", r"a \b"),
            (r"a \\\{{b|c}}", r"a \{{b|c}}"),
            (r"a \{{b|{{c|c}}}}", "a {{b|c}}"),
            (r"a \{{b|c", "a {{b|c"),
            (r"\{{b}} \| {{", r"\{{b}} \| {{"),
            ("{{{{b|b}}}}", "{{b}}"),
        ],
    )
    def test_literal_braces(self, written: str, read: str) -> None:
        """Braces without a bar are text, and a backslash makes text of what would be a choice."""
        assert choices.parse(written, naming.literal).fill({}) == read

    def test_beside_names(self) -> None:
        """Options have names in them; what is escaped is as without choices."""
        text = r"jobs: [{prompt: '{{{n}|{n}}} {{x}} \{{y|z}} {n}', matrix: {n: [1]}}]"
        assert prompts(text) == ["1 {x} {y|z} 1"]

    @given(PIECES)
    @settings(max_examples=300, deadline=None)
    def test_what_is_escaped_is_text_again(self, pieces: list[str]) -> None:
        """Whatever stands in it."""
        text = "".join(pieces)
        assert choices.parse(choices.escape(text), naming.literal).fill({}) == text
        doubled = text.replace("{", "{{").replace("}", "}}")
        assert choices.parse(choices.escape(doubled), naming.parse).fill({}) == text

    @pytest.mark.parametrize(
        ("jobs", "words"),
        [
            ("[{prompt: 'a {{red|blue fox'}]", "2:17 jobs[0].prompt: the choice {{red|blue fox does not end"),
            ("['a {{|  |}} fox']", "2:8 jobs[0]: {{| |}} has nothing to choose from"),
            ("['{{a|{{b|{{c|{{d|{{e|{{f|g}}}}}}}}}}}}']", "2:8 jobs[0]: choices are nested more than 5 deep"),
            ("[{prompt: '{n}', matrix: {n: [a, '{{b|c']}}]", "2:40 jobs[0].matrix.n[1]: the choice {{b|c does not end"),
            ("[{prompt: 'a {{{m}|x}}', matrix: {n: [a]}}]", "2:17 jobs[0].prompt: {m} is not a name of the matrix"),
            ("[{prompt: x, image: '{n}.png', matrix: {n: ['{{b|c}}']}}]", "image: {n} is drawn for each picture"),
            ("[{prompt: x, sample: 3}]", "2:20 jobs[0].sample: needs a matrix or rows"),
            ("[{prompt: x, sample: 0, matrix: {n: [1]}}]", "jobs[0].sample: 0 is out of range"),
            (f"['{'{{a|b}}' * 501}']", "2:8 jobs[0]: there are 501 choices"),
        ],
    )
    def test_problems(self, jobs: str, words: str) -> None:
        assert words in problem_of(f"{DEMO}jobs: {jobs}")

    def test_a_bad_cell_is_its_own_tables(self, tmp_path: Path) -> None:
        (tmp_path / "p.csv").write_text("prompt\na {{b|c}}\nd {{e|f\n")
        with pytest.raises(ManifestError) as caught:
            manifest.load(tmp_path / "p.csv")
        (problem,) = caught.value.problems
        assert (problem.file, problem.line, problem.path) == ("p.csv", 3, "prompt")

    def test_a_cells_prompt(self, tmp_path: Path) -> None:
        """A line of prompts is a prompt; names in it are text."""
        (tmp_path / "p.txt").write_text("a {{b|b}} {c}\n")
        assert manifest.load(tmp_path / "p.txt").pictures[0].job.prompt == "a b {c}"

    def test_strange_texts_take_no_time(self) -> None:
        """The longest prompts of nothing but braces, bars or backslashes."""
        began = time.process_time()
        nested = ("{{" * 2500 + "}}" * 2500, "{{a|" * 1600 + "}}" * 1600)
        for text in ("{{" * 5000, "{{|" * 3300, "\\" * 9996 + "{{|", *nested):
            with contextlib.suppress(ChoiceError):
                choices.parse(text, naming.literal)
            choices.escape(text)
        assert time.process_time() - began < 2


class TestSamples:
    def drawn(self, matrix: str, more: str = "sample: 20") -> list[str]:
        return prompts(f"jobs: [{{id: '{{a}}-{{b}}', prompt: '{{a}} {{b}}', matrix: {matrix}, {more}}}]")

    def test_so_many_in_written_order(self) -> None:
        """The same every time, others by another seed, and all where there are no more."""
        matrix = f"{{a: {list(range(30))}, b: {list(range(30))}}}"
        found = self.drawn(matrix)
        assert len(set(found)) == 20
        assert found == sorted(found, key=lambda each: [int(part) for part in each.split()])
        assert found == self.drawn(matrix)
        assert len(set(found) & set(self.drawn(matrix, "sample: 20, sample_seed: 1"))) < 5
        assert len(self.drawn("{a: [1, 2], b: [3]}")) == 2

    def test_a_longer_axis_moves_little(self) -> None:
        before = self.drawn(f"{{a: {list(range(30))}, b: {list(range(30))}}}")
        after = self.drawn(f"{{a: {[99, *range(30)]}, b: {list(range(30))}}}")
        assert len(set(before) - set(after)) <= 4

    def test_of_more_than_anybody_could_count(self) -> None:
        """A million millions, with values left out; a longer axis moves little."""
        axes = {name: list(range(20)) for name in "abcdefghij"}

        def drawn(**axes: list[int]) -> set[str]:
            text = "-".join(f"{{{name}}}" for name in axes)
            fields = f"prompt: '{text}', sample: 200, exclude: [{{a: 3}}, {{b: 4, c: 5}}]"
            found = prompts(f"jobs: [{{{fields}, matrix: {axes}, include: [{dict.fromkeys(axes, 3)}]}}]")
            assert len(found) == len(set(found)) == 201
            assert found.pop() == "-".join("3" * 10)
            assert not any(each.startswith("3-") for each in found)
            assert found == sorted(found, key=lambda each: [int(part) for part in each.split("-")])
            return set(found)

        before = drawn(**axes)
        assert len(before - drawn(**{**axes, "j": list(range(21))})) < 40

    def test_an_exclusion_of_everything(self) -> None:
        fields = "prompt: x, sample: 2, matrix: {a: [1, 2], b: [1]}, exclude: [{a: 1}, {a: 2}]"
        assert "all are excluded" in problem_of(f"{DEMO}jobs: [{{{fields}}}]")
        assert problems_of(f"{DEMO}jobs: [{{prompt: x, matrix: {{a: [1]}}, exclude: [{{a: 5}}]}}]")

    @pytest.mark.parametrize("fields", ["prompt: '{city} {{red|green|blue|pink}}'", "id: 'a-{city}'"])
    def test_a_row_that_is_put_in_moves_no_other(self, tmp_path: Path, fields: str) -> None:
        """What is drawn is drawn by what a row says, and not by its number; rows that say the same draw for each."""

        def drawn(*cities: str) -> list[str]:
            lines = ["city,prompt", *(f"{city},{city} {{{{red|green|blue|pink}}}}" for city in cities)]
            (tmp_path / "t.csv").write_text("\n".join(lines))
            (tmp_path / "m.yaml").write_text(f"{DEMO}jobs: [{{rows: t.csv, {fields}}}]")
            return [each.job.prompt for each in manifest.load(tmp_path / "m.yaml").pictures]

        cities = [f"c{number}" for number in range(20)]
        assert drawn("new", *cities)[1:] == drawn(*cities)
        if "id" not in fields:
            assert len(set(drawn(*["Rome"] * 20))) == 4

    def test_of_rows_and_a_matrix(self, tmp_path: Path) -> None:
        """So many combinations of both; rows that are put in move little, and a column that nobody uses nothing."""

        def drawn(rows: list[int], note: str = "") -> list[tuple[str, str]]:
            lines = [f"city,note{note}", *(f"c{number},x{note}{number}" for number in rows)]
            (tmp_path / "t.csv").write_text("\n".join(lines))
            fields = "rows: t.csv, prompt: '{city} {x}', id: '{city}', matrix: {x: [1, 2, 3]}, sample: 40"
            (tmp_path / "m.yaml").write_text(f"{DEMO}jobs: [{{{fields}}}]")
            return [(each.id, each.job.prompt) for each in manifest.load(tmp_path / "m.yaml").pictures]

        before = drawn(list(range(200)))
        assert len(before) == len({each for each, _ in before}) == 40
        assert set(before) == set(drawn(list(range(200)), note="s"))
        assert len(set(before) - set(drawn([500, *range(200)]))) <= 4

    def test_nothing_is_left_of_rows_and_a_matrix(self, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_text("prompt\na\nb\n")
        (tmp_path / "m.yaml").write_text(
            f"{DEMO}jobs: [{{rows: t.csv, matrix: {{x: [1]}}, exclude: [{{x: 1}}], sample: 2}}]"
        )
        with pytest.raises(ManifestError, match=r"jobs\[0\]\.matrix: makes no combination: all are excluded"):
            manifest.load(tmp_path / "m.yaml")

    def test_ten_thousand_rows_are_drawn_and_planned_fast(self, tmp_path: Path) -> None:
        rows = "".join(f"city{number},a {{{{red|blue|green}}}} sign\n" for number in range(10_000))
        (tmp_path / "t.csv").write_text(f"city,prompt\n{rows}")
        text = (
            f"{DEMO}jobs: [{{rows: t.csv, id: '{{city}}-{{x}}', matrix: {{x: ['{{{{1|2}}}}', 3, 4]}}, sample: 10000}}]"
        )
        (tmp_path / "m.yaml").write_text(text)
        began = time.process_time()
        assert len(manifest.load(tmp_path / "m.yaml").pictures) == 10_000
        assert time.process_time() - began < 5


GOLDEN = ["a red fox", "a blue owl at noon", "a green owl at night", "a blue owl at night"]
