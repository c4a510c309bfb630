"""What is wrong, in lines on standard error: errors, and the problems of manifests. Light: every command may end so."""

from __future__ import annotations

from collections.abc import Sequence

from renderer.errors import EXIT_DONE, EXIT_USAGE, Problem, RendererError
from renderer.system import streams
from renderer.text import counted

MOST_WARNINGS = 20
"""Of manifests, where they stand beside what a command is asked for."""


def print_error(error: RendererError) -> None:
    """An error and what helps, for people."""
    streams.say(f"error: {error.message}" if str(error) else "error")
    if error.hint:
        streams.say(f"  hint: {error.hint}")


def print_problems(problems: Sequence[Problem], most_warnings: int | None = None) -> int:
    """What is wrong with manifests, and what was hardly meant, a line each and how many; nothing where nothing is.

    Of warnings no more than `most_warnings` are shown. Gives the exit code of a command that only reads.
    """
    wrong = [problem for problem in problems if not problem.warning]
    warnings = [problem for problem in problems if problem.warning]
    shown = warnings[:most_warnings]
    for problem in [*shown, *wrong]:
        streams.say(str(problem))
    if left := len(warnings) - len(shown):
        streams.say(more_warnings(left))
    counts = [counted(len(some), noun) for some, noun in ((wrong, "problem"), (warnings, "warning")) if some]
    if counts:
        streams.say(", ".join(counts))
    return EXIT_USAGE if wrong else EXIT_DONE


def more_warnings(count: int) -> str:
    """That there are warnings which are not shown."""
    return f"… and {counted(count, 'more warning')}; renderer validate lists them"
