"""From a job's fields to its pictures: defaults, sizes, seeds, the matrix and ids."""

from __future__ import annotations

import time

import pytest

from renderer.job import MAX_SEED, Job, Size, derive_seed
from renderer.manifest import expand
from tests.reading import DEMO, load_job, load_text, problem_of, problem_with, problems_of


def sizes_of(fields: str, head: str = "") -> list[str]:
    return [f"{job.width}x{job.height}" for job in load_job(fields, head)]


def ids_of(text: str) -> list[str]:
    return [picture.id for picture in load_text(text).pictures]


class TestDefaults:
    def test_nothing_said(self) -> None:
        """A job that is only a prompt takes everything from the catalogue's model."""
        (picture,) = load_text("jobs: [a cat]").pictures
        assert picture.job == Job(
            model="Qwen/Qwen-Image",
            precision="fp8",
            prompt="a cat",
            negative_prompt="",
            cfg_scale=4.0,
            num_inference_steps=40,
            width=1328,
            height=1328,
            seed=derive_seed("a cat", "", Size(width=1328, height=1328)),
        )
        assert picture.expect is None

    def test_models_own_defaults(self) -> None:
        """Steps and sizes that are not said are those of the job's model."""
        (job,) = load_job("model: demo")
        assert (job.num_inference_steps, job.width, job.height) == (8, 256, 256)

    def test_everything_said(self) -> None:
        """Every field reaches the job."""
        (job,) = load_job(
            "negative_prompt: dog, model: demo, precision: bf16, cfg_scale: 2, num_inference_steps: 3, size: 64x80,"
            " seed: 9"
        )
        assert job == Job(
            model="demo",
            precision="bf16",
            prompt="a cat",
            negative_prompt="dog",
            cfg_scale=2.0,
            num_inference_steps=3,
            width=64,
            height=80,
            seed=9,
        )

    def test_any_field_in_defaults(self) -> None:
        """Any of a job's fields can stand in defaults, the prompt and the matrix too."""
        manifest = load_text("""
            defaults: {prompt: "a {animal}", id: "{animal}", model: demo, matrix: {animal: [cat, dog]}, seeds: [1, 2],
                       sizes: [64x64, 80x64], expect: {seconds: 3}}
            jobs:
              - {}
        """)
        assert len(manifest.pictures) == 8
        assert manifest.pictures[0].id == "cat-64x64-s1"
        assert manifest.pictures[-1].job.prompt == "a dog"
        assert all(picture.expect and picture.expect.seconds == 3 for picture in manifest.pictures)

    @pytest.mark.parametrize(
        ("defaults", "fields", "expected"),
        [
            ("sizes: [64x64, 80x80]", "size: 96x96", ["96x96"]),
            ("size: 64x64", "sizes: [96x96]", ["96x96"]),
            ("width: 64, height: 80", "size: 96x96", ["96x96"]),
            ("size: 64x64", "width: 96, height: 112", ["96x112"]),
            ("size: 64x64", "seed: 1", ["64x64"]),
        ],
    )
    def test_size_group(self, defaults: str, fields: str, expected: list[str]) -> None:
        """A job that gives any form of a size takes none of the defaults' forms."""
        assert sizes_of(fields, f"defaults: {{model: demo, {defaults}}}\n") == expected

    @pytest.mark.parametrize(
        ("defaults", "fields", "expected"),
        [
            ("seeds: [1, 2]", "seed: 5", [5]),
            ("seed: 1, count: 3", "seed: 5", [5]),
            ("seed: 1", "seeds: [5, 6]", [5, 6]),
            ("seed: 1, count: 2", "size: 64x64", [1, 2]),
        ],
    )
    def test_seed_group(self, defaults: str, fields: str, expected: list[int]) -> None:
        """A job that gives any form of a seed takes none of the defaults' forms."""
        assert [job.seed for job in load_job(fields, f"defaults: {{model: demo, {defaults}}}\n")] == expected

    def test_count_drops_the_defaults_seed(self) -> None:
        """A job's own count counts from the derived seed, not from the defaults' one."""
        jobs = load_job("count: 2", "defaults: {seed: 1}\n")
        first = derive_seed("a cat", "", Size(width=1328, height=1328))
        assert [job.seed for job in jobs] == [first, first + 1]

    @pytest.mark.parametrize(
        ("in_defaults", "in_job"), [("steps", "num_inference_steps"), ("num_inference_steps", "steps")]
    )
    def test_steps_group(self, in_defaults: str, in_job: str) -> None:
        """Both names of the steps are one field."""
        (job,) = load_job(f"{in_job}: 7", f"defaults: {{{in_defaults}: 3}}\n")
        assert job.num_inference_steps == 7

    def test_own_matrix_drops_the_defaults_exclusions(self) -> None:
        """The defaults' include and exclude speak of the defaults' matrix, and go with it."""
        head = "defaults: {matrix: {a: [x, y]}, exclude: [{a: x}], include: [{a: z}]}\n"
        assert len(load_job("matrix: {b: [p, q]}", head)) == 2
        assert len(load_job("exclude: [{a: y}]", head)) == 2

    def test_problem_in_defaults_is_told_once(self) -> None:
        """What is wrong in defaults is said there, once, however many jobs take it."""
        assert problem_of("defaults: {size: 17x17}\njobs: [a, b, c]").startswith("1:18 defaults.size: 17x17 is not a")


class TestExcludingFields:
    @pytest.mark.parametrize(
        ("fields", "path", "other"),
        [
            ("size: 1:1, sizes: [1:1]", "sizes", "size"),
            ("sizes: [1:1], size: 1:1", "size", "sizes"),
            ("size: 1:1, width: 1328, height: 1328", "width", "size"),
            ("seed: 1, seeds: [1]", "seeds", "seed"),
            ("seeds: [1], count: 2", "count", "seeds"),
            ("steps: 3, num_inference_steps: 3", "num_inference_steps", "steps"),
        ],
    )
    def test_pairs(self, fields: str, path: str, other: str) -> None:
        """Two fields that say the same thing in one mapping are a problem at the second one."""
        for text, where in (
            (f"jobs:\n  - {{prompt: a, {fields}}}\n", "jobs[0]"),
            (f"defaults: {{{fields}}}\njobs: [a]\n", "defaults"),
        ):
            assert f" {where}.{path}: cannot stand beside {other}, which says the same" in problems_of(text)[0]

    @pytest.mark.parametrize(("one", "other"), [("width", "height"), ("height", "width")])
    def test_half_a_size(self, one: str, other: str) -> None:
        """A width needs a height in the same mapping, whatever the defaults say."""
        assert f"jobs[0].{one}: needs {other} beside it" in problem_with(f"{one}: 64", "defaults: {size: 1:1}\n")

    def test_one_problem_a_field(self) -> None:
        """A width beside a size is refused for that, not for the missing height."""
        assert "jobs[0].width: cannot stand beside size" in problem_with("size: 1:1, width: 64")


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
        began = time.monotonic()
        value = "x" * 9_999
        problem = problem_of(f'jobs:\n  - {{prompt: "{"{a}" * 3_000}", matrix: {{a: [{value}, y]}}}}')
        assert "jobs[0].prompt: would be 29,997,000 characters" in problem
        assert time.monotonic() - began < 2

    def test_many_exclusions(self) -> None:
        """A thousand exclusions of ten thousand combinations take no thousand times as long."""
        values = ", ".join(str(number) for number in range(100))
        exclusions = ", ".join(f"{{a: {number // 100}, b: {number % 100}}}" for number in range(1000))
        began = time.monotonic()
        assert len(load_job(f"matrix: {{a: [{values}], b: [{values}]}}, exclude: [{exclusions}]")) == 9000
        assert time.monotonic() - began < 5


class TestIds:
    def test_numbered(self) -> None:
        """Jobs without an id are numbered from 001, by their place in the list."""
        assert ids_of("jobs: [a, {prompt: b, id: own}, c]") == ["001", "own", "003"]

    def test_numbered_wide(self) -> None:
        """A thousand jobs need four digits."""
        text = "jobs: [" + ", ".join("a" * (number % 50 + 1) for number in range(1000)) + "]"
        assert ids_of(text)[::999] == ["0001", "1000"]

    def test_what_varies(self) -> None:
        """A picture's id says what varies within its job: matrix, size, seed, in this order."""
        fields = "id: job, matrix: {a: [x, y], only: [z]}, sizes: [1:1, 16:9], seeds: [1, 2]"
        ids = ids_of(f"jobs:\n  - {{prompt: p, {fields}}}")
        assert ids[0] == "job-x-1328x1328-s1"
        assert ids[-1] == "job-y-1664x928-s2"
        assert len(set(ids)) == 8

    def test_named_in_the_id(self) -> None:
        """What the id names already is not said twice."""
        text = 'jobs:\n  - {id: "{b}-job", prompt: p, matrix: {a: [x, y], b: [p, q]}}'
        assert ids_of(text) == ["p-job-x", "q-job-x", "p-job-y", "q-job-y"]

    def test_job_id(self) -> None:
        """A picture remembers its job's id, filled in."""
        text = 'jobs:\n  - {id: "sign-{city}", prompt: p, matrix: {city: [Paris, Tokyo]}, seeds: [1, 2]}'
        assert [picture.place.job_id for picture in load_text(text).pictures] == [
            "sign-Paris",
            "sign-Paris",
            "sign-Tokyo",
            "sign-Tokyo",
        ]

    def test_values_made_fit(self) -> None:
        """Values become fit for ids; literal ids must be."""
        assert ids_of('jobs:\n  - {id: "x-{a}", prompt: p, matrix: {a: ["Hello 你好", ../../etc]}}') == [
            "x-Hello-你好",
            "x-etc",
        ]
        assert 'like "a-b"' in problem_with("id: a b")
        assert "jobs[0].id: an id has only letters" in problem_with('id: "../x"')
        assert "jobs[0].id: an id has only letters" in problem_with('id: "{x}"')

    def test_composed(self) -> None:
        """Ids are composed Unicode, however they were written."""
        (identifier,) = ids_of("jobs:\n  - {id: e\u0301, prompt: p}")
        assert identifier == "\u00e9"

    def test_too_long(self) -> None:
        """An id that grows too long is refused."""
        axes = ", ".join(f"a{number}: [{'x' * 40}, {'y' * 40}]" for number in range(4))
        assert "jobs[0]: the id has" in problem_with(f"matrix: {{{axes}}}")

    def test_unique_within_a_job(self) -> None:
        """Two values that differ only in what an id cannot hold are told apart by nobody."""
        problem = problem_with('id: j, matrix: {a: ["a b", "a/b"]}')
        assert 'two pictures of the job in line 2 have the id "j-a-b"' in problem

    def test_unique_in_the_manifest(self) -> None:
        """Two jobs whose pictures have one id are a problem that names both lines, once."""
        text = (
            "jobs:\n  - {id: Same, prompt: a, count: 3, seed: 1}\n  - b\n  - {id: same, prompt: c, count: 3, seed: 1}\n"
        )
        assert problem_of(text).startswith('4:5 jobs[2]: two pictures have the id "same-s1": of line 2 and of line 4')


class TestRehearse:
    @pytest.mark.parametrize(
        ("width", "height", "expected"),
        [
            (1328, 1328, (256, 256)),
            (1664, 928, (336, 192)),
            (928, 1664, (192, 336)),
            (2560, 256, (816, 80)),
            (256, 2560, (80, 816)),
            (64, 64, (256, 256)),
        ],
    )
    def test_size(self, width: int, height: int, expected: tuple[int, int]) -> None:
        """A rehearsal keeps the aspect at about the area of 256x256, within the demo model's range."""
        (job,) = load_job("seed: 3")
        proof = expand.rehearse(job.model_copy(update={"width": width, "height": height}))
        assert (proof.width, proof.height) == expected

    def test_the_rest_stays(self) -> None:
        """A rehearsal takes the demo model, bf16 and at most eight steps; the rest is the job's."""
        (job,) = load_job("seed: 3, negative_prompt: dog, cfg_scale: 7")
        proof = expand.rehearse(job)
        assert (proof.model, proof.precision, proof.num_inference_steps) == ("demo", "bf16", 8)
        assert (proof.seed, proof.prompt, proof.negative_prompt, proof.cfg_scale) == (3, "a cat", "dog", 7)
        assert expand.rehearse(job.model_copy(update={"num_inference_steps": 2})).num_inference_steps == 2
