"""The door to manifests themselves: `renderer validate` says what is wrong with them, and what was hardly meant.

Reads manifests and the headers of the model files that are here; renders nothing, fetches nothing, imports no torch.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict

from renderer import catalog
from renderer.cli import arguments
from renderer.cli.manifests import load_named
from renderer.cli.problems import print_problems
from renderer.errors import EXIT_DONE, EXIT_USAGE, Problem
from renderer.manifest.manifest import Manifest
from renderer.text import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser what the command takes."""
    arguments.add_manifests(parser)
    arguments.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Say what is wrong.

    Everything on standard error is a problem or a warning; the exit code is 0 where there are only warnings.
    """
    loaded = load_named(options)
    models = [problem for manifest in loaded.manifests for problem in _problems_of_models(manifest)]
    problems = [*loaded.problems, *models]
    if options.json:
        found = {
            "manifests": [_as_dict(manifest) for manifest in loaded.manifests],
            "problems": [asdict(problem) for problem in (*problems, *loaded.warnings)],
        }
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return EXIT_USAGE if problems else EXIT_DONE
    for manifest in loaded.manifests:
        wrong = sum(problem.file == manifest.file for problem in models)
        told = counted(wrong, "problem") if wrong else "no problems"
        warnings = f", {counted(len(manifest.warnings), 'warning')}" if manifest.warnings else ""
        print(f"{manifest.file}: {counted(len(manifest.pictures), 'picture')}, {told}{warnings}")
    return print_problems([*problems, *loaded.warnings])


def _problems_of_models(manifest: Manifest) -> Iterator[Problem]:
    """What is wrong with the files of models that are on this machine, at the line of the first job that names each."""
    from renderer.weights import soundness  # noqa: PLC0415

    first = {picture.job.model: picture for picture in reversed(manifest.pictures)}
    for reference, picture in first.items():
        for error in soundness.problems(catalog.find(reference)):
            yield Problem(manifest.file, picture.place.line, 1, "model", error.message, error.hint)


def _as_dict(manifest: Manifest) -> dict[str, object]:
    return {
        "manifest": manifest.file,
        "name": manifest.name,
        "pictures": len(manifest.pictures),
        "warnings": len(manifest.warnings),
    }
