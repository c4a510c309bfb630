"""The door to measuring: `renderer bench`."""

from __future__ import annotations

import argparse
import json

from renderer.cli import arguments
from renderer.errors import EXIT_DONE
from renderer.system.folders import expanded


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser what the command takes."""
    parser.add_argument("what", choices=["weights", "engine", "memory"], help="loading; rendering; forecasts")
    parser.add_argument("--folder", type=expanded, required=True, metavar="DIR", help="takes up to 90 GB")
    parser.add_argument(
        "--layers", type=arguments.natural, default=60, metavar="N", help="of the transformer (default: 60)"
    )
    parser.add_argument("--stores", type=expanded, metavar="DIR", help="another place for packed stores, up to 60 GB")
    own = "fp8, caps, batch, few, served, loras, edits, shares, slow-bus, int8, int4, bf16"
    parts = f"engine: {own}, a peer; memory: cells, native, verdicts, inputs, times"
    parser.add_argument("--part", action="append", metavar="NAME", help=parts)
    arguments.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Measure, and print what was found."""
    from renderer.benchmarks import engine, forecasts, loading  # noqa: PLC0415

    stores = options.stores or options.folder
    if options.what == "weights":
        found = loading.measure(options.folder, options.layers)
        told = loading.lines(found)
    elif options.what == "engine":
        found = engine.measure(options.folder, stores, options.part or engine.ENGINE_PARTS)
        told = engine.lines(found)
    else:
        found = forecasts.measure(options.folder, stores, options.part or forecasts.FORECAST_PARTS)
        told = forecasts.lines(found)
    print(json.dumps(found, indent=2) if options.json else "\n".join(told))
    return EXIT_DONE
