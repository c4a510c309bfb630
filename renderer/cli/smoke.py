"""The door to a look whether a server draws: `renderer smoke`.

Sends requests as any client would, writes the pictures, and says what came back. Standard library only.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

from renderer.cli import arguments
from renderer.errors import EXIT_DONE, EXIT_FAILED, DiskError, UsageError, shorten
from renderer.system.files import write_whole
from renderer.system.folders import expanded
from renderer.text import duration

QUICK = {"quick": ("a red circle on a white table", 0, 4)}
FULL = {
    "portrait": ("portrait of an old fisherman, soft window light, 85mm, film grain", 1, 0),
    "chinese": ("一家书店的木招牌,上面写着“山水书店”,清晨的阳光", 2, 0),
    "scene": ('a rainy market street at night, many people, a neon sign that says "OPEN ALL NIGHT"', 3, 0),
}
"""By name: a prompt, its seed, and its steps (0: the model's own)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser what the command takes."""
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the server (default: http://127.0.0.1:8000)")
    parser.add_argument(
        "--full", action="store_true", help="a portrait, Chinese lettering, a scene with English lettering"
    )
    parser.add_argument("--size", metavar="WxH", help="of the pictures (default: the model's own)")
    parser.add_argument(
        "--out", type=expanded, default=Path("outputs/smoke"), metavar="DIR", help="default: outputs/smoke"
    )
    parser.add_argument(
        "--wait", type=arguments.positive, default=900.0, metavar="S", help="for a picture (default: 900 s)"
    )


def run(options: argparse.Namespace) -> int:
    """Ask for each picture, write it, and say how it went; 1 where one did not come."""
    if not options.url.startswith(("http://", "https://")):
        raise UsageError(f"{shorten(options.url)} is not an address", hint="like http://127.0.0.1:8000")
    failed = 0
    for name, (prompt, seed, steps) in (FULL if options.full else QUICK).items():
        fields: dict[str, Any] = {"prompt": prompt, "seed": seed}
        fields |= {"num_inference_steps": steps} if steps else {}
        fields |= {"size": options.size} if options.size else {}
        began = time.monotonic()
        try:
            told = _ask(options.url, fields, options.wait)
            data = base64.b64decode(told["image_url"].partition(",")[2], validate=True)
            path = options.out / f"{name}.png"
            write_whole(path, data)
            size, made_in = f"{told['width']}x{told['height']}", f"{told['num_inference_steps']} steps"
            made = f"{size}, {made_in}, seed {told['seed']}, {told['model']}"
        except DiskError:
            raise
        except (OSError, ValueError, HTTPException) as error:
            failed += 1
            print(f"{name}: {_reason(error)}")
            continue
        except (LookupError, TypeError, AttributeError):
            failed += 1
            print(f"{name}: no picture: the answer is no renderer's: is this its address?")
            continue
        took = duration(time.monotonic() - began)
        print(f"{name}: {made}, {took}, {len(data):,} bytes: {path}")
    return EXIT_FAILED if failed else EXIT_DONE


def _ask(url: str, fields: dict[str, Any], wait_s: float) -> dict[str, Any]:
    key = os.environ.get("RENDERER_API_KEY", "").split(",")[0].strip()
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    address = f"{url.rstrip('/')}/api/v1/images/generate"
    request = urllib.request.Request(address, json.dumps(fields).encode(), headers)  # noqa: S310  (checked above)
    with urllib.request.urlopen(request, timeout=wait_s) as answer:  # noqa: S310
        told: dict[str, Any] = json.load(answer)
        return told


def _reason(error: Exception) -> str:
    """Why a picture did not come: what the server says of it, or that there is none."""
    if isinstance(error, urllib.error.HTTPError):
        try:
            told = json.load(error)["error"]
            return f"{error.code}, {told['message']}" + (f" ({told['hint']})" if told.get("hint") else "")
        except (ValueError, KeyError, TypeError):
            return f"the server answered {error.code}"
    reason = getattr(error, "reason", error)
    return f"no picture: {shorten(str(reason))}"
