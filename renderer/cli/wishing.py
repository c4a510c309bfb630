"""Asking something of a night that is on: which one is meant, the wish, and what it says to that.

Knows nothing of what a night does with it.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

from renderer.errors import ManifestError, RendererError, UnreadableError, UsageError
from renderer.outputs import nights
from renderer.outputs.nights import NightAnswer, NightFile, NightFolder, Wish
from renderer.system import streams

_PATIENCE_S = 10.0
"""A night hears a wish within a second, unless its process is stopped or its machine is busy."""

_LOOK_S = 0.05

FoundNight = tuple[NightFolder, NightFile]


def add_night(parser: argparse.ArgumentParser) -> None:
    """Give a parser the night that is meant."""
    from renderer.cli import arguments  # noqa: PLC0415

    told = "a manifest of the run that is meant, its name, or the run's process; needed where several are on"
    parser.add_argument("manifest", nargs="?", metavar="MANIFEST", help=told)
    arguments.add_outputs(parser)


def ask(options: argparse.Namespace, wish: Wish) -> int:
    """Ask it of the night that the options name, and say what it answers."""
    folder, night = find(options.outputs, options.manifest)
    answer = heard(folder, night, wish)
    print(streams.harmless(f"{', '.join(night.names) or 'the run'}: {answer.text}"))
    return 0


NO_NIGHT = "renderer status says how the last one ended; --outputs names another folder"


def find(outputs: Path, manifest: str | None, hint: str = NO_NIGHT) -> FoundNight:
    """The night that renders a manifest; the only one where none is named. Raises `UsageError` where there is none.

    `hint` says what to do where no night is on.
    """
    on = nights.find(outputs)
    if not on:
        raise UsageError(f"no run is on in {outputs}", hint=hint)
    if manifest is None:
        if len(on) > 1:
            hint = f"name a manifest of the one that is meant: {'; '.join(_names(night) for _, night in on)}"
            raise UsageError(f"{len(on)} runs are on in {outputs}", hint=hint)
        return on[0]
    wanted = _names_of(manifest)
    found = next((each for name in wanted for each in on if name in (*each[1].names, str(each[1].pid))), None)
    if found is None:
        found = _of_parts(on, wanted)
    if found is None:
        message = f"no run that is on renders {wanted[0]}"
        raise UsageError(message, hint=f"those that are render {'; '.join(_names(night) for _, night in on)}")
    return found


def _of_parts(
    on: Sequence[tuple[NightFolder, NightFile]], wanted: Sequence[str]
) -> tuple[NightFolder, NightFile] | None:
    """The run that renders parts of a manifest, on this machine if there is one. Raises `UsageError` for several."""
    from renderer.planning.part_folders import whole_name  # noqa: PLC0415

    those = [each for each in on if set(wanted) & set(map(whole_name, each[1].names))]
    those = [each for each in those if each[1].machine == nights.this_machine()] or those
    if len(those) > 1:
        hint = f"name the process: {', '.join(str(night.pid) for _, night in those)}; or a part"
        raise UsageError(f"{len(those)} runs render parts of {wanted[0]}", hint=hint)
    return those[0] if those else None


def heard(folder: NightFolder, night: NightFile, wish: Wish) -> NightAnswer:
    """What a night answers. Raises `UsageError` where it is another machine's, `RendererError` where it does not."""
    if night.machine != nights.this_machine():
        raise UsageError(f"that run is on another machine, {night.machine}", hint="ask it there")
    mark = folder.ask(wish)
    until = time.monotonic() + _PATIENCE_S
    while (answer := folder.take_answer(mark)) is None:  # what it has heard, it may take its time to do
        if not folder.is_on:
            raise RendererError("the run has ended meanwhile")
        if time.monotonic() > until and folder.withdraw(mark):
            hint = "its process may be stopped (Ctrl-Z), or belong to another user; nothing was asked of it"
            raise RendererError(f"the run, process {night.pid}, does not answer", hint=hint)
        time.sleep(_LOOK_S)
    if answer.error:
        raise RendererError(answer.text, hint=answer.hint)
    return answer


def _names(night: NightFile) -> str:
    return ", ".join(night.names) or f"process {night.pid}"


def _names_of(manifest: str) -> Sequence[str]:
    """The names that a manifest may have in a run: its own, its rehearsal's; of a folder its last part."""
    from renderer.manifest.manifest import PROOF_SUFFIX, name_of  # noqa: PLC0415

    path = Path(manifest)
    if not path.is_file():
        name = os.path.basename(manifest.rstrip("/"))  # noqa: PTH119  # it need not be a path
        return (name,) if not path.suffix else (name, path.stem)
    try:
        name = name_of(path)
    except (ManifestError, UnreadableError):  # it may have been changed since; it is to be stopped all the same
        name = path.stem
    return name, f"{name}{PROOF_SUFFIX}"
