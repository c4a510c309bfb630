"""The manifests that a command line names: those that are well, and what is wrong with the others.

One manifest that is not well costs itself and no other; `--strict` is for people who want all or none. Patterns and
names of files become manifests here. Knows nothing of what the commands do with them, and prints nothing.
"""

from __future__ import annotations

import argparse
import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from renderer.cli.first_look import FirstLook
from renderer.errors import ManifestError, Problem, UnreadableError, UsageError
from renderer.manifest.manifest import Manifest, Overrides, is_without_jobs, load
from renderer.manifest.tables import is_table
from renderer.system import patterns


@dataclass(frozen=True, slots=True)
class Loaded:
    """Manifests that are well, in the order of the command line, and every problem of those that are not."""

    manifests: tuple[Manifest, ...]
    problems: tuple[Problem, ...] = ()

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What in the manifests that are well was hardly meant."""
        return tuple(warning for manifest in self.manifests for warning in manifest.warnings)


def load_named(options: argparse.Namespace) -> Loaded:
    """The manifests that the options name. A file that cannot be read is a problem, as one that is not well is.

    Raises `UsageError` where no file matches a pattern or `--model` names no model, and with `--strict` a
    `ManifestError` where one of them has a problem or a warning.
    """
    paths = _expand(options.manifests)
    if (options.defaults or options.set) and not any(map(is_table, paths)):
        option = "--defaults" if options.defaults else "--set"
        raise UsageError(f"{option} is for tables, and none is named", hint="a manifest has extends: and defaults:")
    overrides = overrides_of(options)
    manifests: list[Manifest] = []
    problems: dict[Path, Sequence[Problem]] = {}
    by_name: dict[str, Manifest] = {}
    for path in paths:
        try:
            with FirstLook(path.stem, options) as heard:
                manifest = load(path, overrides, heard)
        except ManifestError as error:
            problems[path] = error.problems
            continue
        except UnreadableError as error:
            problems[path] = [Problem(error.file, 1, 1, "", error.message, error.hint)]
            continue
        if other := by_name.get(manifest.name.casefold()):
            problems[path] = [_refuse_twin(manifest, other)]
            continue
        by_name[manifest.name.casefold()] = manifest
        manifests.append(manifest)
    loaded = Loaded(tuple(manifests), tuple(_of_manifests(problems, manifests)))
    if options.strict and (loaded.problems or loaded.warnings):
        raise ManifestError([*loaded.problems, *loaded.warnings])
    return loaded


def overrides_of(options: argparse.Namespace) -> Overrides:
    """What the options put in the place of every job's own."""
    return Overrides(
        options.model,
        options.precision,
        proof=options.proof,
        defaults=options.defaults,
        fields=tuple(options.set),
        outputs=options.outputs,
    )


def load_part(options: argparse.Namespace) -> Loaded:
    """The same, and of each manifest the part that `--shard` says, or all parts of `--share`.

    Raises `UsageError`, and `ModelError`.
    """
    count: int | None = vars(options).get("share")
    if options.shard is None and count is None:
        return load_named(options)
    if options.shard is not None and count is not None:
        raise UsageError("--shard says which part is this machine's, and --share that it takes what comes: give one")
    if count is not None and vars(options).get("force"):
        raise UsageError("--force with --share would render pictures once a machine", hint="leave one of them out")
    from renderer.planning import sharding  # noqa: PLC0415  (most commands are for one machine)
    from renderer.planning.selection import Selection  # noqa: PLC0415

    shard = sharding.Shard.read(options.shard) if count is None else None
    loaded = load_named(options)
    Selection.of(vars(options).get("only", ())).check(loaded.manifests)
    for manifest in loaded.manifests if count is not None else ():
        if manifest.auto:
            message = f"{manifest.file}: with --share, each machine would choose its own precision for precision: auto"
            raise UsageError(message, hint="give a precision, or --precision")
    parts: list[Manifest] = []
    for manifest in loaded.manifests:
        if shard is not None:
            parts.append(sharding.cut(manifest, shard, options.outputs))
        elif count is not None:
            parts += sharding.share(manifest, count, options.outputs)
    return Loaded(tuple(parts), loaded.problems)


def _of_manifests(problems: Mapping[Path, Sequence[Problem]], well: Sequence[Manifest]) -> Iterator[Problem]:
    """All problems but those of files that only lack jobs, and that others of these files extend."""
    bases = {os.path.realpath(base) for manifest in well for base in manifest.bases}
    for path, found in problems.items():
        if not (is_without_jobs(found) and os.path.realpath(path) in bases):
            yield from found


def _refuse_twin(manifest: Manifest, other: Manifest) -> Problem:
    message = f"{other.file} and {manifest.file} are both named {manifest.name}, and would share a folder"
    return Problem(manifest.file, 1, 1, "", message, "give one of them another name:")


def _expand(named: Sequence[str]) -> list[Path]:
    """The files that names and patterns stand for, each once, in order."""
    paths: dict[Path, None] = {}
    for pattern in named:
        if not glob.has_magic(pattern) or os.path.exists(pattern):  # noqa: PTH110 - it never raises
            paths[Path(pattern)] = None
            continue
        found = patterns.fitting(pattern)
        if not found:
            raise UsageError(f"no manifest matches {pattern}")
        paths.update((Path(name), None) for name in found)
    return list(paths)
