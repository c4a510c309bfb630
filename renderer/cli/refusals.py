"""Manifests that a run does not render, and why, as long as that is so: one that is mended is taken by the same run.

Watches `events`. Knows no words and no exit codes.
"""

from __future__ import annotations

from renderer.errors import Problem
from renderer.supervisor import events


class Refusals:
    """What is wrong with manifests that were named, or found in a watched folder."""

    def __init__(self) -> None:
        self._by_file: dict[str, list[Problem]] = {}

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong now, the manifest first that was refused first."""
        return tuple(problem for those in self._by_file.values() for problem in those)

    def watch(self, what: events.Event) -> None:
        """Hear what happens."""
        match what:
            case events.ManifestProblem(problem=problem) if not problem.warning:
                those = self._by_file.setdefault(problem.file, [])
                if problem not in those:
                    those.append(problem)
            case events.BatchBegan(plan=plan):
                self._by_file.pop(plan.manifest.file, None)
