"""The door: arguments in, one call, words and an exit code out.

Commands that only read (`validate`, `plan`, `status`, `schema`) never import torch. Exit codes stand in `errors.py`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from renderer import __version__
from renderer.cli import doctor, models, plan, prune, render, replay, report, status, validate
from renderer.cli.manifests import load_named
from renderer.errors import EXIT_CRASHED, EXIT_DONE, EXIT_INTERRUPTED, ManifestError, RendererError
from renderer.job import Precision
from renderer.system import crashes, folders, streams, utf8
from renderer.system.folders import expanded


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Whatever happens in it ends here, as a line for people."""
    if arguments is None:
        utf8.restart()
    streams.settle()
    try:
        folders.settle()
        options = _parser().parse_args(arguments)
        command: Callable[[argparse.Namespace], int] = options.command
        code = command(options)
    except ManifestError as error:
        from renderer.cli import console  # noqa: PLC0415  (tqdm is not needed to say what is wrong with an argument)

        console.print_problems(error.problems)
        code = error.exit_code
    except RendererError as error:
        from renderer.cli import console  # noqa: PLC0415

        console.print_error(error)
        code = error.exit_code
    except KeyboardInterrupt:
        streams.say("interrupted")
        code = EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001  # a fault of our own
        crashes.tell(error)
        code = EXIT_CRASHED
    return streams.finish(code)


# ---- commands --------------------------------------------------------------------------------------------------------


def _schema(options: argparse.Namespace) -> int:
    from renderer import schemas  # noqa: PLC0415

    print(json.dumps(schemas.SCHEMAS[options.of](), indent=2, ensure_ascii=False))
    return EXIT_DONE


def _bench(options: argparse.Namespace) -> int:
    from renderer.benchmarks import engine, forecasts, loading  # noqa: PLC0415

    if options.what == "weights":
        found = loading.measure(options.folder, options.layers)
        told = loading.lines(found)
    else:
        bench = engine if options.what == "engine" else forecasts
        found = bench.measure(options.folder, options.stores or options.folder, options.part or bench.PARTS)
        told = bench.lines(found)
    print(json.dumps(found, indent=2) if options.json else "\n".join(told))
    return EXIT_DONE


# ---- arguments -------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="renderer",
        description="Render YAML manifests of prompts into pictures with sidecars, in batches, unattended.",
        epilog="exit codes: 0 done; 1 some pictures failed; 2 manifest or arguments; 3 this machine cannot; "
        "4 stopped early, resumable; 70 a fault of the renderer's own; 75 locked by another run; 130 Ctrl-C",
    )
    parser.add_argument("--version", action="version", version=f"renderer {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    manifests = _manifest_options()

    validate.add_commands(commands, manifests, load_named)
    plan.add_commands(commands, manifests, load_named)

    status.add_commands(commands, manifests, load_named)
    render.add_commands(commands, manifests, load_named)

    schema = commands.add_parser("schema", help="print the JSON Schema of manifests, or of what a run writes")
    schema.add_argument("of", nargs="?", default="manifest", choices=["manifest", "sidecar", "summary"])
    schema.set_defaults(command=_schema)

    prune.add_commands(commands, manifests, load_named)
    report.add_commands(commands, manifests, load_named)
    replay.add_command(commands)
    models.add_commands(commands.add_parser("models", help="list, pull, pack, verify and remove models"))

    bench = commands.add_parser("bench", help="measure this machine on full-size random weights")
    bench.add_argument("what", choices=["weights", "engine", "memory"], help="loading; rendering; forecasts")
    bench.add_argument("--folder", type=expanded, required=True, metavar="DIR", help="takes up to 90 GB")
    bench.add_argument(
        "--layers", type=render.natural, default=60, metavar="N", help="of the transformer (default: 60)"
    )
    bench.add_argument("--stores", type=expanded, metavar="DIR", help="another place for packed stores, up to 60 GB")
    parts = "engine: fp8, caps, batch, bf16, or a peer; memory: cells, native, verdicts, times"
    bench.add_argument("--part", action="append", metavar="NAME", help=parts)
    bench.add_argument("--json", action="store_true", help="for machines")
    bench.set_defaults(command=_bench)

    doctor.add_commands(commands)
    return parser


def _manifest_options() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("manifests", nargs="+", metavar="MANIFEST", help="a YAML file, or a pattern in quotes")
    shared.add_argument("--outputs", type=expanded, default=Path("outputs"), metavar="DIR", help="default: outputs")
    shared.add_argument("--model", metavar="ID", help="render every job with this model")
    shared.add_argument("--precision", choices=get_args(Precision), help="render every job at this precision")
    shared.add_argument("--strict", action="store_true", help="refuse warnings; one problem keeps all back")
    shared.add_argument("--proof", action="store_true", help="a rehearsal: the demo model, small, in <name>-proof")
    return shared
