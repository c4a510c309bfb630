"""The doors: what is typed, and what is said of it.

`command` is the one door; each command has a room of its own beside it (`render`, `replay`, `plan`, `estimate`,
`models`, `doctor`, `report`, `status`, `prune`, `validate`). `manifests` finds the manifests that a command line
names. `attended` is a run with everybody who watches it: `console` (with its `footer`) and `notify`; `describe` has
their words. Knows nothing of how anything is done.
"""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (`errors.py` lists them). `None`: those of this process."""
    from renderer.cli import command  # noqa: PLC0415  (the rooms of this wing are imported when they are needed)

    return command.main(arguments)
