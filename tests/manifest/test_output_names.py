"""Whole manifests: the file, the head, output names, overrides, caps, and all problems at once."""

from __future__ import annotations

import pytest

from tests.reading import DEMO, load_text, problem_of


def outputs_of(text: str) -> list[str]:
    return [picture.output for picture in load_text(text).pictures]


class TestOutput:
    def test_fields(self) -> None:
        """Every fixed field and the matrix's names stand for the picture's own values."""
        text = f"""
output: "{{index}}/{{id}} {{seed}} {{width}}x{{height}} {{model}} {{city}} {{{{x}}}}"
{DEMO}
jobs:
  - {{id: a, prompt: p, size: 64x80, seed: 7, matrix: {{city: [A/B, c]}}}}
"""
        assert outputs_of(text) == ["0/a-A-B 7 64x80 demo A-B {x}", "1/a-c 7 64x80 demo c {x}"]

    def test_model(self) -> None:
        """A slash in a value makes no folder."""
        assert outputs_of('output: "{model}/{id}"\njobs: [a]') == ["Qwen-Qwen-Image/001"]

    def test_index(self) -> None:
        """The index is the picture's place, with as many digits as the number of pictures."""
        text = "output: x{index}\njobs: [{prompt: a, seed: 1, count: 100}]"
        assert outputs_of(text)[::99] == ["x000", "x099"]

    def test_hash(self) -> None:
        """The hash follows the job's content, and nothing else."""
        (one,) = outputs_of("output: '{hash}'\njobs: [{prompt: a, id: x}]")
        (same,) = outputs_of("output: '{hash}'\njobs: [{prompt: a, id: y}]")
        (other,) = outputs_of("output: '{hash}'\njobs: [{prompt: b, id: x}]")
        assert one == same != other
        assert len(one) == 8
        assert int(one, 16) >= 0

    @pytest.mark.parametrize(
        ("output", "words"),
        [
            ("{idd}", 'unknown field {idd} (did you mean "id"?)'),
            ("{ctiy}", 'unknown field {ctiy} (did you mean "city"?)'),
            ("{id:>9}", "{id:>9} is not a name in braces"),
            ("{id!r}", "is not a name in braces"),
            ("{id.__class__}", "is not a name in braces"),
            ("{0}", "is not a name in braces"),
            ("{id", "a single {"),
            ("../{id}", "must not contain . or .."),
            ("a/../../{id}", "must not contain . or .."),
            ("/{id}", "must not begin with /"),
            ("a//{id}", "has a part without a name"),
            ("a\\{id}", "a backslash is not allowed"),
        ],
    )
    def test_refused(self, output: str, words: str) -> None:
        """Unknown fields, specifications, attributes and ways out of the folder are problems at output."""
        problem = problem_of(f"output: '{output}'\njobs:\n  - {{prompt: a, matrix: {{city: [x]}}}}")
        assert problem.startswith("1:9 output: ")
        assert words in problem

    def test_name_of_another_job(self) -> None:
        """A matrix's name in output must be known to every job."""
        problem = problem_of("output: '{id}{city}'\njobs:\n  - {prompt: a, matrix: {city: [x]}}\n  - b")
        assert problem.startswith("1:9 output: the job in line 4 has no {city} in a matrix")

    def test_attacks_by_value(self) -> None:
        """Whatever a matrix's value holds, the name stays below the folder."""
        text = """
            output: "{x}"
            jobs:
              - {prompt: a, matrix: {x: [../../etc/passwd, /etc/shadow, .., "C:\\\\x", "con", summary, ".git/config"]}}
        """
        assert outputs_of(text) == ["_etc-passwd", "_etc-shadow", "_", "C-x", "con_", "summary_", "_git-config"]

    @pytest.mark.parametrize(
        ("one", "other"),
        [("a", "A"), ("\u00e9", "e\u0301"), ("a/b", "'a:b'"), ("a.", "a-"), ("summary", "summary_"), ("ß", "SS")],
    )
    def test_collisions(self, one: str, other: str) -> None:
        """Names that differ in case, composition or what was replaced collide on some disk, and are refused."""
        text = f"output: '{{x}}'\njobs:\n  - {{id: '{{x}}', prompt: a, matrix: {{x: [{one}]}}}}\n"
        text += f"  - {{id: other, prompt: a, matrix: {{x: [{other}]}}}}"
        assert "two pictures have the output name" in problem_of(text)
        assert ": of line 3 and of line 4" in problem_of(text)

    def test_collision_within_a_job(self) -> None:
        """A template that does not tell a job's pictures apart is refused."""
        assert "two pictures of the job in line 3 have the output name" in problem_of(
            "output: fixed\njobs:\n  - {prompt: a, count: 2}"
        )

    def test_long_names(self) -> None:
        """Long names are cut, and stay apart."""
        values = ", ".join("x" * length for length in (190, 250, 251, 300))
        names = outputs_of(f"output: 'p/{{x}}'\njobs:\n  - {{prompt: a, matrix: {{x: [{values}]}}}}")
        assert len(set(names)) == 4
        assert all(len(name.encode()) < 200 for name in names)
