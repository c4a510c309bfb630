"""The door to the JSON Schemas: `renderer schema`."""

from __future__ import annotations

import argparse
import json

from renderer.errors import EXIT_DONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser what the command takes."""
    parser.add_argument("of", nargs="?", default="manifest", choices=["manifest", "sidecar", "summary"])


def run(options: argparse.Namespace) -> int:
    """Print a schema."""
    from renderer import schemas  # noqa: PLC0415

    print(json.dumps(schemas.SCHEMAS[options.of](), indent=2, ensure_ascii=False))
    return EXIT_DONE
