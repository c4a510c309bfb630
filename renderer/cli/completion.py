"""The door to completion: `renderer completion` prints the script with which a shell completes this command.

`shtab` makes it from the parser. This room knows what stands behind an argument that has no list of values: manifests,
folders, pictures, models.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator

import shtab

from renderer import catalog
from renderer.cli import command
from renderer.errors import EXIT_DONE
from renderer.system.folders import expanded

SHELLS = ("bash", "zsh", "fish")

_MANIFESTS = shtab.glob("*.yaml", "*.yml", "*.json")
_PICTURES = shtab.glob("*.png", "*.webp", "*.jpg", "*.jpeg", "*.json")
_MODELS = dict.fromkeys(SHELLS, "_renderer_models_or_dirs") | {"fish": "(_renderer_models_or_dirs)"}
"""Models are the catalogue's, or somebody's own folders."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser what the command takes."""
    parser.add_argument("shell", choices=SHELLS)
    parser.epilog = (
        'in ~/.bashrc: eval "$(renderer completion bash)"; in ~/.zshrc, below compinit: eval "$(renderer completion '
        'zsh)"; in ~/.config/fish/config.fish: renderer completion fish | source'
    )


def run(options: argparse.Namespace) -> int:
    """Print the script of a shell."""
    print(script(options.shell))
    return EXIT_DONE


def script(shell: str) -> str:
    """The script with which a shell completes every command, option and argument."""
    whole = command.parser(filled=True)
    for action in _actions(whole):
        if kind := _kind(action):
            action.complete = kind  # type: ignore[attr-defined]  # where shtab looks for it
    return shtab.complete(whole, shell, preamble=_preambles()[shell])


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:  # noqa: SLF001  (argparse has no other list of them)
        yield action
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for each in action.choices.values():
                yield from _actions(each)


def _kind(action: argparse.Action) -> shtab.CompleteType | None:
    """What a shell is to complete an argument to, where the parser has no list of its values."""
    if action.dest == "manifests":
        return _MANIFESTS
    if action.dest == "pictures":
        return _PICTURES
    if action.dest == "model":
        return dict(_MODELS)
    return shtab.DIRECTORY if action.type is expanded else None


def _preambles() -> dict[str, str]:
    """The function that lists models, in the words of each shell."""
    ids = shlex.join(catalog.MODELS)
    return {
        "bash": f'_renderer_models_or_dirs() {{ compgen -W {shlex.quote(ids)} -- "$1"; compgen -d -- "$1"; }}',
        "zsh": f"_renderer_models_or_dirs() {{ compadd -- {ids}; _files -/ }}",
        "fish": f"function _renderer_models_or_dirs\n  printf '%s\\n' {ids}\n  __fish_complete_directories\nend",
    }
