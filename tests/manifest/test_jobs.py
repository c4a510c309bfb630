"""Whole manifests: the file, the head, output names, overrides, caps, and all problems at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from renderer.errors import ManifestError, Problem
from renderer.manifest.manifest import load
from tests.reading import load_text, problem_of, problems_of


class TestHead:
    def test_name_from_a_mac(self) -> None:
        """A file's name with its accents as letters of their own makes the folder that looks like it."""
        assert load_text("jobs: [a]", stem="e\u0301te\u0301").name == "\xe9t\xe9"

    def test_a_file_from_a_mac(self, tmp_path: Path) -> None:
        """A name that a Mac takes apart (e and its accent) is the name that it looks like, in the file or in `name`."""
        text = "version: 1\ndefaults: {model: demo, precision: bf16}\njobs: [a]\n"
        path = tmp_path / "e\u0301te\u0301.yaml"
        path.write_text(text)
        assert load(path).name == "\u00e9t\u00e9"
        assert load_text(f'name: "e\u0301te\u0301"\n{text}').name == "\u00e9t\u00e9"

    def test_name_is_the_stem(self) -> None:
        """A manifest without a name is called like its file."""
        assert load_text("jobs: [a]", stem="spring sale").name == "spring sale"

    @pytest.mark.parametrize("name", ["..", ".", "a/b", "/a", "a\\b", ".hidden", "-x", "con", "a.", "a:b", "x" * 100])
    def test_bad_name(self, name: str) -> None:
        """A name is one folder's name, on every system; a proposal that is comes with the problem."""
        problem = problem_of(f"jobs: [a]\nname: '{name}'")
        assert problem.startswith("2:7 name: ")
        assert "cannot be a folder's name" in problem

    def test_bad_stem(self) -> None:
        """A file whose name makes no folder needs a name."""
        assert "give it a name" in problems_of("jobs: [a]", stem="con")[0]
        assert problems_of("name: x\njobs: [a]", stem="con") == []

    @pytest.mark.parametrize("text", ["[a, b]", "just text", "3", "~", "# nothing"])
    def test_not_a_mapping(self, text: str) -> None:
        """A manifest is a mapping."""
        assert "a manifest is a mapping" in problem_of(text)

    @pytest.mark.parametrize("jobs", ["[]", "{}", "a cat", "3", "", "null"])
    def test_no_jobs(self, jobs: str) -> None:
        """Jobs are a list that is not empty."""
        assert "jobs: must be a list" in problem_of(f"jobs: {jobs}")
        assert problem_of("version: 1").startswith("1:1 jobs: is missing")

    @pytest.mark.parametrize("job", ["3", "true", "~", "1.5", "[a]", '""', "' '"])
    def test_bad_job(self, job: str) -> None:
        """A job is a prompt or a mapping; the others' problems are still found."""
        problems = problems_of(f"jobs:\n  - a\n  - {job}\n  - {{prompt: b, size: 1x1}}")
        assert problems[0].startswith("3:5 jobs[1]: ")
        assert problems[1].startswith("4:23 jobs[2].size: ")
        assert len(problems) == 2

    def test_missing_prompt(self) -> None:
        """Every job needs a prompt, its own or the defaults'."""
        assert problem_of("jobs:\n  - a\n  - id: x\n").startswith("3:5 jobs[1].prompt: is missing")

    def test_unknown_keys(self) -> None:
        """Unknown keys at the top are pointed at, with the nearest of the top's own."""
        assert problems_of("nam: x\njob: [a]\n")[0] == '1:1 nam: unknown key (did you mean "name"?)'
        assert '2:1 job: unknown key (did you mean "jobs"?)' in problems_of("nam: x\njob: [a]\n")


class TestAllProblemsAtOnce:
    def test_every_stage(self) -> None:
        """YAML's, the head's, the fields' and the models' problems come together, in the order of their lines."""
        problems = problems_of("""\
            version: 2
            output: "{idd}"
            defaults: {steps: 4, steps: 5, size: "7:7"}
            jobs:
              - stpes: 3
                prompt: a
              - {prompt: &x b, seed: *x}
              - {prompt: c, size: 100x100}
              - {prompt: d, model: nothing}
              - {prompt: "{f}", matrix: {e: [1]}}
              - 7
              - g
        """)
        starts = [problem.split(": ")[0] for problem in problems]
        assert starts == [
            "1:10 version",
            "2:9 output",
            "3:22 defaults.steps",
            "3:38 defaults.size",
            "5:5 jobs[0].stpes",
            "7:14 jobs[1].prompt",
            "7:26 jobs[1].seed",
            "8:23 jobs[2].size",
            "9:24 jobs[3].model",
            "10:14 jobs[4].prompt",
            "11:5 jobs[5]",
        ]

    def test_message(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A problem reads like a compiler's: file, line, column, path, what, and what helps."""
        monkeypatch.chdir(tmp_path)
        Path("posters.yaml").write_text("version: 1\nname: x\n\njobs:\n  - prompt: a\n    stpes: 4\n")
        with pytest.raises(ManifestError) as caught:
            load(Path("posters.yaml"))
        assert str(caught.value) == 'posters.yaml:6:5 jobs[0].stpes: unknown key (did you mean "steps"?)'
        assert caught.value.exit_code == 2
        assert isinstance(caught.value.problems[0], Problem)

    def test_refused_values_are_not_refused_twice(self) -> None:
        """What stands where an alias stood is not said to be of the wrong kind as well."""
        for text in ("jobs: *x", "jobs: [*x]", "jobs: [{prompt: *x}]", "*x", "defaults: *x\njobs: [a]"):
            assert "is not allowed" in problem_of(text)

    def test_many(self) -> None:
        """After two hundred problems reading stops, and says so."""
        problems = problems_of("jobs:\n" + "  - {size: x}\n" * 5000)
        assert len(problems) == 201
        assert "reading stopped here" in problems[-1]

    def test_bad_defaults_do_not_hide_bad_jobs(self) -> None:
        """A field of defaults that is wrong and one of a job that is wrong are told together."""
        assert len(problems_of("defaults: {steps: x}\njobs: [{prompt: 3}, {prompt: a, seeds: 1}]")) == 3
