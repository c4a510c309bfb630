"""What several commands take on the command line, and how single arguments are read. Imports next to nothing."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import get_args

from renderer.job import AskedPrecision, Profile
from renderer.system.folders import expanded
from renderer.text import bytes_in, counted

MOST_OF_CLUSTER = 1024
"""Of a cluster."""

CLUSTER = "auto, ray://head:10001, head:6379, or local:4 for four workers here"
"""What is said of a cluster's address."""

_LEAST_BYTES = 2**20


def add_manifests(parser: argparse.ArgumentParser, *, may_be_none: bool = False) -> None:
    """Give a parser what every command takes that reads manifests."""
    told = "a YAML file, a table (.csv, .tsv, .jsonl, .txt), or a pattern in quotes"
    parser.add_argument("manifests", nargs="*" if may_be_none else "+", metavar="MANIFEST", help=told)
    add_outputs(parser)
    parser.add_argument("--model", metavar="ID", help="render every job with this model")
    parser.add_argument(
        "--precision", choices=get_args(AskedPrecision), help="render every job at this; auto: as suits the machine"
    )
    add_for_tables(parser)
    parser.add_argument("--strict", action="store_true", help="refuse warnings; one problem keeps all back")
    parser.add_argument("--proof", action="store_true", help="a rehearsal: the demo model, small, in <name>-proof")


def add_for_tables(parser: argparse.ArgumentParser) -> None:
    """Give a parser what stands for a manifest around a table."""
    parser.add_argument("--defaults", type=expanded, metavar="FILE", help="a manifest that tables extend")
    told = "a field of the jobs of tables, like --set steps=8; repeated"
    parser.add_argument("--set", type=_field, action="append", default=[], metavar="FIELD=VALUE", help=told)


def _field(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name.strip() and sign):
        raise argparse.ArgumentTypeError(f"{text} is no field and its value (write --set steps=8)")
    return name.strip(), value.strip()


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """Give a parser the folder of outputs."""
    parser.add_argument("--outputs", type=expanded, default=Path("outputs"), metavar="DIR", help="default: outputs")


def add_only(parser: argparse.ArgumentParser) -> None:
    """Give a parser the option that chooses among a manifest's pictures."""
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="ID",
        help="pictures or jobs, patterns like 'moon*', states like @failed or @picked; with commas, or repeated",
    )


def add_shard(parser: argparse.ArgumentParser) -> None:
    """Give a parser the option of one of several machines' parts."""
    told = "the third of 16 parts, for as many machines; renderer merge brings them together"
    parser.add_argument("--shard", metavar="3/16", help=told)


def add_share(parser: argparse.ArgumentParser) -> None:
    """Give a parser the option of parts that machines take as they come to them."""
    told = "cut into 16 parts a model, of which each machine takes one after the other that nobody is at"
    parser.add_argument("--share", type=whole(1, 10_000), metavar="16", help=told)


def add_profile(parser: argparse.ArgumentParser, told: str) -> None:
    """Give a parser the choice of a profile; `told` is what help says of it."""
    parser.add_argument("--profile", choices=["auto", *get_args(Profile)], default="auto", help=told)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Give a parser the option of an answer in JSON."""
    parser.add_argument("--json", action="store_true", help="for machines")


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """Options that plan for another machine than this one."""
    add_vram(parser)
    parser.add_argument("--ram", type=amount_of_bytes, metavar="BYTES", help="as if this much host memory were free")
    parser.add_argument("--gpu", metavar="NAME", help='as if this were the card, like "RTX 3080"')


def add_vram(parser: argparse.ArgumentParser) -> None:
    """Give a parser the limit of GPU memory."""
    parser.add_argument("--vram", type=amount_of_bytes, metavar="BYTES", help="GPU memory to use at most, like 10GiB")


def add_gpus(parser: argparse.ArgumentParser) -> None:
    """Give a parser the choice of the devices that render."""
    parser.add_argument(
        "--gpus",
        metavar="LIST",
        help="which render, a worker on each: all, numbers or UUIDs like 0,2, or cpu,cpu (default: $RENDERER_GPUS, the"
        " best one)",
    )


def gpus_of(options: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> str | None:
    """Which devices render: as --gpus says, or RENDERER_GPUS; None where neither does."""
    told = vars(options).get("gpus")
    return told if told is not None else environment.get("RENDERER_GPUS", "").strip() or None


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options of a night on a Ray cluster."""
    parser.add_argument("--cluster", metavar="ADDRESS", help=f"render on the machines of a Ray cluster: {CLUSTER}")
    parser.add_argument(
        "--workers", type=counts, metavar="N", help="of a cluster at most so many; or 2-8: two are kept ready"
    )


def add_fetch_options(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options of commands that may fetch something."""
    parser.add_argument("--offline", action="store_true", help="never reach for a network")
    sources = ["huggingface", "modelscope"]
    parser.add_argument(
        "--source", choices=sources, help="the hub to ask first (default: $RENDERER_SOURCE, huggingface)"
    )


# ---- single arguments ------------------------------------------------------------------------------------------------


def amount_of_bytes(text: str) -> int:
    """An argument like 10GiB."""
    amount = bytes_in(f"{text}B" if text.isdecimal() else text)
    if amount is None:
        raise argparse.ArgumentTypeError(f'{text!r} is not an amount of bytes like "10GiB"')
    if amount < _LEAST_BYTES:
        hint = f'; did you mean "{text}GiB"?' if text.isdecimal() else ""
        raise argparse.ArgumentTypeError(f"{text!r} is {counted(amount, 'byte')}, too few for anything{hint}")
    return amount


def whole(least: int, most: int) -> Callable[[str], int]:
    """Reads a whole number between two, for argparse."""

    def read(text: str) -> int:
        if text.isdecimal() and least <= int(text) <= most:
            return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")

    return read


def counts(text: str) -> tuple[int, int]:
    """A number of workers like 8, or a least and a most like 2-8, for argparse."""
    least, dash, most = text.partition("-")
    if least.isdecimal() and (most.isdecimal() or not dash):
        found = (int(least), int(most)) if dash else (0, int(least))
        if found[0] <= found[1] and 1 <= found[1] <= MOST_OF_CLUSTER:
            return found
    raise argparse.ArgumentTypeError(
        f'{text!r} is not a number of workers like "8" or "2-8", up to {MOST_OF_CLUSTER:,}'
    )


def port(text: str) -> int:
    """A TCP port, for argparse; 0 lets the system choose."""
    if text.isdecimal() and int(text) < 2**16:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port, a whole number from 0 to 65535")


def clock(text: str) -> datetime:
    """A time of day, for argparse."""
    try:
        return datetime.strptime(text, "%H:%M")  # noqa: DTZ007  (an hour of the day, on this machine's clock)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time of day like 07:00") from None


def positive(text: str) -> float:
    """A number above 0, for argparse."""
    with contextlib.suppress(ValueError):
        if 0 < (number := float(text)) < float("inf"):
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")


def natural(text: str) -> int:
    """A whole number from 0, for argparse."""
    if text.isdecimal():
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
