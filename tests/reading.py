"""Manifests for tests: written as text, loaded from a file, with their problems as plain lines."""

from __future__ import annotations

import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path

from renderer.errors import ManifestError
from renderer.job import Job
from renderer.manifest.manifest import NO_OVERRIDES, Manifest, Overrides, load

DEMO = "defaults: {model: demo, precision: bf16}\n"
"""A head whose jobs may have the demo model's small sizes."""


def load_text(text: str | bytes, overrides: Overrides = NO_OVERRIDES, *, stem: str = "test") -> Manifest:
    """The manifest that this text is."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{stem}.yaml"
        path.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).encode())
        return load(path, overrides)


def load_job(fields: str, head: str = "") -> list[Job]:
    """The jobs of the pictures that one job in flow style makes."""
    return [picture.job for picture in load_text(f"{head}jobs:\n  - {{prompt: a cat, {fields}}}\n").pictures]


def problems_of(text: str | bytes, overrides: Overrides = NO_OVERRIDES, *, stem: str = "test") -> Sequence[str]:
    """The problems of a manifest, each `line:column path: message (hint)`; empty when it has none."""
    try:
        load_text(text, overrides, stem=stem)
    except ManifestError as error:
        for problem in error.problems:
            assert problem.line >= 1
            assert problem.column >= 1
            assert problem.message
        return [str(problem).removeprefix(f"{problem.file}:") for problem in error.problems]
    return []


def problem_of(text: str | bytes, overrides: Overrides = NO_OVERRIDES) -> str:
    """The only problem of a manifest."""
    (problem,) = problems_of(text, overrides)
    return problem


def problem_with(fields: str, head: str = "") -> str:
    """The only problem of a manifest whose only job has a prompt and these fields, in flow style."""
    return problem_of(f"{head}jobs:\n  - {{prompt: a cat, {fields}}}\n")
