"""From a job's fields to its pictures: defaults, sizes, seeds, the matrix and ids."""

from __future__ import annotations

import time

import pytest

from renderer.job import MAX_SEED, Size, derive_seed
from tests.reading import DEMO, load_job, load_text, problem_of, problem_with, problems_of


def sizes_of(fields: str, head: str = "") -> list[str]:
    return [f"{job.width}x{job.height}" for job in load_job(fields, head)]


def ids_of(text: str) -> list[str]:
    return [picture.id for picture in load_text(text).pictures]


class TestSizes:
    @pytest.mark.parametrize(
        ("ratio", "size"),
        [
            ("1:1", "1328x1328"),
            ("16:9", "1664x928"),
            ("9:16", "928x1664"),
            ("4:3", "1472x1104"),
            ("3:4", "1104x1472"),
            ("3:2", "1584x1056"),
            ("2:3", "1056x1584"),
        ],
    )
    def test_ratios(self, ratio: str, size: str) -> None:
        """A ratio is the model's own size of that name, quoted or not."""
        assert sizes_of(f"size: {ratio}") == sizes_of(f'size: "{ratio}"') == [size]

    def test_ratios_of_the_demo_model(self) -> None:
        """Another model has other sizes of the same names."""
        assert sizes_of("sizes: [1:1, 16:9]", DEMO) == ["256x256", "336x192"]

    def test_unknown_ratio(self) -> None:
        """A ratio that the model does not have is answered with those it has."""
        assert problem_with("size: 5:4").endswith(
            "jobs[0].size: 5:4 is not a ratio of Qwen/Qwen-Image (known: 1:1, 16:9, 9:16, 4:3, 3:4, 3:2, 2:3)"
        )

    @pytest.mark.parametrize(
        ("fields", "path", "near"),
        [
            ("size: 1000x1024", "size", "992x1024 and 1008x1024"),
            ("width: 1024, height: 1000", "width", "1024x992 and 1024x1008"),
            ("sizes: [1:1, 1000x1024]", "sizes[1]", "992x1024 and 1008x1024"),
            ("size: 16x1024", "size", "256x1024"),
            ("size: 4096x1024", "size", "2560x1024"),
            ("size: 2560x2560", "size", "2032x2064 and 2048x2048"),
            ("size: 999999x999999", "size", "2032x2064 and 2048x2048"),
            ('size: "0x0"', "size", "256x256"),
        ],
    )
    def test_refused(self, fields: str, path: str, near: str) -> None:
        """A size that the model does not render is refused where it stands, with the nearest that fit."""
        problem = problem_with(fields)
        assert f" jobs[0].{path}: " in problem
        assert f"(nearest: {near}" in problem

    def test_nearest_sizes_fit(self) -> None:
        """Both sizes of a hint are accepted."""
        near = problem_with("size: 1001x999").split("nearest: ")[1].removesuffix(")").split(" and ")
        assert len(near) == 2
        assert sizes_of(f"sizes: [{', '.join(near)}]") == near

    def test_twice(self) -> None:
        """One size under two names is there twice."""
        assert "jobs[0].sizes[1]: 1328x1328 is there twice" in problem_with("sizes: [1:1, 1328x1328]")

    def test_unknown_model(self) -> None:
        """A model that does not exist is a problem where it is named, with the nearest there is."""
        assert problem_with("model: Qwen/Qwen-Imag").endswith(
            'jobs[0].model: there is no model "Qwen/Qwen-Imag" (did you mean "Qwen/Qwen-Image"?)'
        )

    @pytest.mark.parametrize("model", ["x" * 900, "~nobody-of-this-name/x", "a/" * 400])
    def test_impossible_model(self, model: str) -> None:
        """A name that no file system takes is a model that does not exist."""
        assert "there is no model" in problem_with(f"model: {model}")


class TestSeeds:
    def test_count(self) -> None:
        """Count makes that many seeds, one after the other."""
        assert [job.seed for job in load_job("seed: 5, count: 3")] == [5, 6, 7]

    def test_derived(self) -> None:
        """A missing seed comes from prompt, negative prompt and size, so that a rerun repeats it."""
        first, second = load_job("negative_prompt: dog, sizes: [1:1, 16:9]")
        assert first.seed == derive_seed("a cat", "dog", Size(width=1328, height=1328))
        assert second.seed == derive_seed("a cat", "dog", Size(width=1664, height=928))
        assert load_job("steps: 3")[0].seed == load_job("steps: 9, model: Qwen/Qwen-Image")[0].seed

    def test_twice(self) -> None:
        """A seed that is there twice would make one picture twice."""
        assert "jobs[0].seeds[2]: 1 is there twice" in problem_with("seeds: [1, 2, 1]")

    def test_last_seed(self) -> None:
        """The last of counted seeds is within the range too."""
        assert load_job(f"seed: {MAX_SEED - 1}, count: 2")[1].seed == MAX_SEED
        assert "jobs[0].count: the last seed" in problem_with(f"seed: {MAX_SEED}, count: 2")


class TestMatrix:
    def test_written_order(self) -> None:
        """Combinations come in the order in which names and values were written, the last name fastest."""
        manifest = load_text('jobs:\n  - {prompt: "{b} {a}", matrix: {b: [x, y], a: [p, q]}}')
        assert [picture.job.prompt for picture in manifest.pictures] == ["x p", "x q", "y p", "y q"]
        assert [dict(picture.place.matrix) for picture in manifest.pictures][1] == {"b": "x", "a": "q"}

    def test_values_as_written(self) -> None:
        """A value stands in the prompt as it was written, not as a number would be printed."""
        text = 'jobs:\n  - {prompt: "{v}", matrix: {v: [1.50, 007, 0x1F, yes, true, 1e3, "x"]}, exclude: [{v: 007}]}'
        assert [picture.job.prompt for picture in load_text(text).pictures] == [
            "1.50",
            "0x1F",
            "yes",
            "true",
            "1e3",
            "x",
        ]

    def test_braces_without_a_matrix(self) -> None:
        """In a job without a matrix, braces in a prompt are just braces."""
        (picture,) = load_text('jobs: ["a {city} {{x}} {"]').pictures
        assert picture.job.prompt == "a {city} {{x}} {"

    def test_braces_with_a_matrix(self) -> None:
        """In a job with one, doubled braces are braces, in the negative prompt too."""
        (job,) = load_job('negative_prompt: "{{{a}}}", matrix: {a: ["{b}"]}')
        assert job.negative_prompt == "{{b}}"

    @pytest.mark.parametrize("field", ["prompt", "negative_prompt", "id"])
    def test_unknown_name(self, field: str) -> None:
        """A name that the matrix does not have is a problem, with the nearest it has."""
        given = {"prompt": "x", field: "a {ctiy}"}
        fields = ", ".join(f'{key}: "{value}"' for key, value in given.items())
        problem = problem_of(f"jobs:\n  - {{{fields}, matrix: {{city: [Paris]}}}}")
        assert (
            f'jobs[0].{field}: {{ctiy}} is not a name of the matrix (did you mean "city"?; {{{{ is a brace)' in problem
        )

    @pytest.mark.parametrize("prompt", ["{", "a } b", "{a!r}", "{a.b}", "{a:>3}", "{}"])
    def test_bad_braces(self, prompt: str) -> None:
        """A brace that names nothing is a problem where there is a matrix."""
        assert "is a brace" in problem_of(f'jobs:\n  - {{prompt: "{prompt}", matrix: {{a: [x]}}}}')

    def test_exclude(self) -> None:
        """An exclusion leaves out all combinations that it matches in part."""
        text = 'jobs:\n  - {prompt: "{a}{b}", matrix: {a: [1, 2], b: [x, y, z]}, exclude: [{a: 1}, {a: 2, b: z}]}'
        assert [picture.job.prompt for picture in load_text(text).pictures] == ["2x", "2y"]

    def test_exclude_nothing(self) -> None:
        """An exclusion that matches nothing is a mistake."""
        problems = problems_of("jobs:\n  - {prompt: x, matrix: {a: [1, 2.0]}, exclude: [{a: 1}, {a: 2}, {a: 3}]}")
        assert ["exclude[1]: excludes nothing" in problems[0], "exclude[2]: excludes nothing" in problems[1]] == [
            True
        ] * 2

    def test_exclude_all(self) -> None:
        """A matrix of which nothing is left is a mistake."""
        assert "jobs[0].matrix: makes no combination" in problem_with("matrix: {a: [1]}, exclude: [{a: 1}]")

    def test_include(self) -> None:
        """An inclusion adds a combination after the others, also one of new values or one that was excluded."""
        fields = 'id: "{a}-{b}", matrix: {a: [1], b: [x, y]}, exclude: [{b: y}], include: [{b: q, a: 9}, {a: 1, b: y}]'
        assert ids_of(f"jobs:\n  - {{prompt: p, {fields}}}") == ["1-x", "9-q", "1-y"]

    @pytest.mark.parametrize(
        ("include", "words"),
        [
            ("{a: 1}", "include[0]: lacks b (give every name of the matrix)"),
            ("{}", "include[0]: lacks a, b"),
            ("{b: x, a: 1}", "include[0]: this combination is there already"),
            ("{a: 1, b: x, cc: 2}", "include[0].cc: cc is not a name of the matrix"),
        ],
    )
    def test_bad_include(self, include: str, words: str) -> None:
        """An inclusion gives exactly the matrix's names, and something new."""
        assert words in problem_with(f"matrix: {{a: [1], b: [x]}}, include: [{include}]")

    def test_include_twice(self) -> None:
        """The same inclusion twice is a mistake."""
        assert "include[1]: this combination" in problem_with("matrix: {a: [1]}, include: [{a: 2}, {a: 2}]")

    def test_unknown_name_in_exclude(self) -> None:
        """An exclusion speaks of the matrix's names; the problem is at the key."""
        problem = problem_of("jobs:\n  - prompt: x\n    matrix: {city: [a, b]}\n    exclude: [{ctiy: a}]")
        assert problem == ('4:16 jobs[0].exclude[0].ctiy: ctiy is not a name of the matrix (did you mean "city"?)')

    @pytest.mark.parametrize("field", ["include", "exclude"])
    def test_without_a_matrix(self, field: str) -> None:
        """Inclusions and exclusions need a matrix."""
        assert f"jobs[0].{field}: needs a matrix" in problem_with(f"{field}: [{{a: 1}}]")

    def test_value_twice(self) -> None:
        """A value that is there twice would make each picture twice."""
        assert "matrix.a[2]: x is there twice" in problem_with("matrix: {a: [x, y, x]}")

    def test_empty_prompt(self) -> None:
        """A prompt that a value leaves empty is a problem; an empty value is not."""
        assert "jobs[0].prompt: is empty for one" in problem_of('jobs:\n  - {prompt: "{a}", matrix: {a: [x, ""]}}')
        assert load_text('jobs:\n  - {prompt: "a{a}", matrix: {a: [x, ""]}}')

    def test_long_prompt(self) -> None:
        """Values cannot multiply a prompt into gigabytes; it is refused before it is made."""
        began = time.process_time()
        value = "x" * 9_999
        problem = problem_of(f'jobs:\n  - {{prompt: "{"{a}" * 3_000}", matrix: {{a: [{value}, y]}}}}')
        assert "jobs[0].prompt: would be 29,997,000 characters" in problem
        assert time.process_time() - began < 2

    def test_many_exclusions(self) -> None:
        """A thousand exclusions of ten thousand combinations take no thousand times as long."""
        values = ", ".join(str(number) for number in range(100))
        exclusions = ", ".join(f"{{a: {number // 100}, b: {number % 100}}}" for number in range(1000))
        began = time.process_time()
        assert len(load_job(f"matrix: {{a: [{values}], b: [{values}]}}, exclude: [{exclusions}]")) == 9000
        assert time.process_time() - began < 5
