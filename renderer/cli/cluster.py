"""The door to the machines of a Ray cluster: `renderer cluster doctor`.

Each machine is examined by itself, as `renderer doctor` does it; here it is said, and what differs among them. Whatever
takes time to import is imported by the command.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from renderer.cli import arguments, doctor
from renderer.errors import EXIT_DONE, EXIT_MACHINE, RendererError
from renderer.system import streams
from renderer.text import counted, wrap

if TYPE_CHECKING:
    from renderer.ray.arrival import Introduction
    from renderer.ray.connecting import ClusterNode

_REFUSED = {"protocol", "renderer", "rendering", "source", "python", "diffsynth", "torch", "transformers"}
"""What differs of these is refused: `ray.arrival` checks it."""

Examined = tuple["Introduction", dict[str, Any], list[str], bool]
"""What a machine tells of itself, its diagnosis as values and as lines, and whether nothing can be rendered on it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the commands within this one."""
    commands = parser.add_subparsers(required=True, metavar="WHAT")
    each = commands.add_parser("doctor", help="examine each machine of a cluster, and say what differs")
    each.add_argument("--cluster", default="auto", metavar="ADDRESS", help=f"{arguments.CLUSTER} (default: auto)")
    arguments.add_json(each)


def run(options: argparse.Namespace) -> int:
    """Examine the machines of a cluster, all at once, and say what was found."""
    from renderer.ray import connecting, head  # noqa: PLC0415

    with connecting.connected(options.cluster):
        nodes = head.within(connecting.nodes)
        streams.say(f"examining {counted(len(nodes), 'machine')} of the cluster: up to a minute each")
        answers = connecting.ask_each(nodes, examine)
    if options.json:
        print(json.dumps(_as_dict(nodes, answers), indent=2, ensure_ascii=False))
    else:
        print("\n".join(_lines(nodes, answers)))
    well = all(not isinstance(answer, RendererError) and not answer[3] for answer in answers)
    return EXIT_DONE if well and not _refused(answers) else EXIT_MACHINE


def examine() -> Examined:
    """Examine the machine that this runs on."""
    from renderer.doctor import diagnosis  # noqa: PLC0415
    from renderer.ray import arrival  # noqa: PLC0415

    found = diagnosis.examine(Path())
    told = {**arrival.tell(), **_of_bits(found.as_dict())}
    fatal = any(finding.fatal for finding in found.findings)
    return told, found.as_dict(), list(doctor.lines(found)), fatal


def _of_bits(found: Mapping[str, Any]) -> dict[str, str]:
    """What else of a machine may give a picture other bits."""
    gpus = found["gpus"]
    torch = found["torch"]
    return {
        "GPU": ", ".join(sorted({gpu["name"] for gpu in gpus})) or "none",
        "driver": next((gpu["driver"] for gpu in gpus if gpu["driver"]), "none"),
        "CUDA": str(torch.get("cuda") or "none"),
        "arithmetic": "a GPU's" if gpus else str(found["processor"]["arithmetic"]),
    }


def _differences(answers: Sequence[Examined | RendererError]) -> dict[str, dict[str, list[str]]]:
    """What is not the same on all machines; what workers are refused for, also on this one."""
    from renderer.ray import arrival  # noqa: PLC0415

    here = {**arrival.tell(), "node": "this machine"}
    return arrival.differences([here, *(answer[0] for answer in answers if not isinstance(answer, RendererError))])


def _refused(answers: Sequence[Examined | RendererError]) -> bool:
    return bool(_REFUSED & set(_differences(answers)))


def _as_dict(nodes: Sequence[ClusterNode], answers: Sequence[Examined | RendererError]) -> dict[str, Any]:
    machines = []
    for node, answer in zip(nodes, answers, strict=True):
        known = {"node": node.name, "address": node.address, "gpus": node.gpus, "cpus": node.cpus}
        found = {"error": answer.message} if isinstance(answer, RendererError) else {"diagnosis": answer[1]}
        machines.append({**known, **found})
    return {"machines": machines, "differs": _differences(answers)}


def _lines(nodes: Sequence[ClusterNode], answers: Sequence[Examined | RendererError]) -> Iterator[str]:
    for node, answer in zip(nodes, answers, strict=True):
        yield f"{node.name} ({node.address}), for Ray {node.gpus} GPUs and {node.cpus} CPU cores"
        if isinstance(answer, RendererError):
            yield from wrap(f"  PROBLEM  {answer.message}", " " * 11)
            if answer.hint:
                yield from wrap(f"           do: {answer.hint}", " " * 11)
        else:
            yield from (f"  {line}".rstrip() for line in answer[2])
        yield ""
    differs = _differences(answers)
    for name, those in differs.items():
        told = "; ".join(f"{value} on {', '.join(names)}" for value, names in those.items())
        means = "workers are refused where it is not as here" if name in _REFUSED else "pictures may have other bits"
        yield from wrap(f"differs    {name}: {told}: {means}", " " * 11)
    if not differs:
        yield "differs    nothing that pictures depend on"
