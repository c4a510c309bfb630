"""The door to what this machine is: `renderer doctor`.

Words, tables of at most 80 columns and exit codes for what `doctor` finds. Whatever takes time to import is imported
by the command.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from renderer.cli import arguments
from renderer.errors import EXIT_DONE, EXIT_MACHINE
from renderer.system.folders import expanded
from renderer.text import gib, wrap

if TYPE_CHECKING:
    from renderer.catalog.cards import Card
    from renderer.doctor import diagnosis
    from renderer.machine.gpus import LocalGpu
    from renderer.machine.rates import Rates

TERA = 1e12
LABEL = 11


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser what the command takes."""
    parser.add_argument("--outputs", type=expanded, default=Path("outputs"), help=argparse.SUPPRESS)
    arguments.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Examine this machine, and say what was found."""
    from renderer.doctor import diagnosis  # noqa: PLC0415

    found = diagnosis.examine(options.outputs)
    if options.json:
        print(json.dumps(found.as_dict(), indent=2, ensure_ascii=False))
    else:
        print("\n".join(lines(found)))
    return EXIT_MACHINE if any(finding.fatal for finding in found.findings) else EXIT_DONE


def lines(found: diagnosis.Diagnosis) -> Iterator[str]:
    """The diagnosis as a person reads it: the machine, how fast it is, what it renders, what is wrong."""
    yield from _machine_lines(found)
    if found.rates is not None:
        yield ""
        yield from _rate_lines(found.rates, found.card)
    yield from _titled("picture", found.forecasts)
    for other in found.others:
        yield ""
        yield from _row(f"GPU {other.index}", f"{other.name}, examined as the first one:")
        for seen in other.torch.get("gpus") or ():
            yield from _row("tried", _tried(seen, other.torch))
        if other.rates is not None:
            yield from _rate_lines(other.rates, other.card)
        yield from _titled("picture", other.forecasts)
    yield from _titled("model", found.models)
    yield from _titled("profile", found.profiles)
    yield ""
    if not found.findings:
        yield from _row("findings", "none: nothing is wrong here")
    for finding in found.findings:
        yield from _row("PROBLEM" if finding.fatal else "note", finding.message)
        yield from _row("", f"means: {finding.meaning}" if finding.meaning else "")
        yield from _row("", f"do: {finding.hint}" if finding.hint else "")


def _titled(title: str, rows: Mapping[str, str]) -> Iterator[str]:
    """A part with a title: each text once, with all that it is said of."""
    if rows:
        yield ""
        for text, names in _grouped(rows):
            yield from _row(title, f"{', '.join(names)}: {text}")


def _machine_lines(found: diagnosis.Diagnosis) -> Iterator[str]:

    here, torch = found.machine, found.torch
    cores = f"{here.cpus} core" if here.cpus == 1 else f"{here.cpus} cores"
    swap = f"swap {gib(here.swap_bytes)}, {gib(here.swap_free_bytes)} free" if here.swap_bytes else "no swap"
    yield from _row("memory", f"{gib(here.ram_bytes)}, {gib(here.ram_free_bytes)} free; {swap}; {cores}")
    lockable = "without limit" if here.lockable_bytes is None else f"up to {here.lockable_bytes / 2**20:.0f} MiB"
    yield from _row("", f"may be locked {lockable}; /dev/shm {gib(here.shm_bytes)}")
    yield from _row("processor", found.processor.words)
    yield from _row("disk", f"{gib(found.free_disk_bytes)} free for outputs")
    yield from _row("system", f"Linux {here.kernel}" + (", WSL2" if here.wsl else ""))
    for gpu in here.gpus:
        renders = gpu is here.gpu and len(here.gpus) > 1
        for number, text in enumerate(_gpu_texts(gpu, renders=renders)):
            yield from _row("" if number else f"GPU {gpu.index}", text)
    if len(here.gpus) > 1:
        yield from _row("", f"--gpus all renders on all {len(here.gpus)}, a worker on each")
    if here.gpus:
        newest = "" if here.cuda is None else f", runs CUDA up to {'.'.join(map(str, here.cuda))}"
        yield from _row("driver", f"{here.gpus[0].driver or 'unknown'}{newest}")
    versions = (f"{name} {torch.get(name) or '?'}" for name in ("python", "torch", "cuda", "diffsynth", "transformers"))
    yield from _row("software", ", ".join(versions))
    for seen in torch.get("gpus") or ():
        yield from _row("tried", f"{seen.get('name')}: {_tried(seen, torch)}")


def _tried(seen: Mapping[str, Any], torch: Mapping[str, Any]) -> str:
    """What was tried on a GPU, and whether it went well."""
    compiled = (torch.get("compiler") or {}).get("kernel")
    tried = {"a kernel": seen.get("kernel"), "FP8": seen.get("fp8"), "Triton": compiled}
    outcomes = ", ".join(f"{what} {outcome or 'none'}" for what, outcome in tried.items())
    return f"{outcomes}; pinning {torch.get('pinning') or 'not tried'}"


def _gpu_texts(gpu: LocalGpu, *, renders: bool) -> Iterator[str]:

    capability = ".".join(map(str, gpu.compute_capability)) if gpu.compute_capability > (0, 0) else "unknown"
    yield f"{gpu.described}, compute capability {capability}" + (": this one renders" if renders else "")
    whose = {"own": "", "host": " of the host's, for it", "assumed": ", as is assumed"}[gpu.memory]
    yield f"{gib(gpu.total_bytes)}, {gib(gpu.free_bytes)} free{whose}"
    if link := gpu.link:
        now = f"PCIe {link.generation} x{link.width} now, {link.most_generation} x{link.most_width} at most"
        yield now + ("" if link.generation == link.most_generation else " (an idle link falls back)")


def _rate_lines(rates: Rates, card: Card | None) -> Iterator[str]:
    """Measured and, where the card is known, expected."""
    from renderer.machine import rates as rates_of  # noqa: PLC0415

    expected = rates_of.of_card(card) if card and rates.source == "measured" else None
    title = f"{'measured' if rates.source == 'measured' else 'expected of'}: {rates.device}"
    yield f"{'rates':{LABEL}}{title:47}{'such a card':>15}" if expected else f"{'rates':{LABEL}}{title}"
    mine, theirs = _figures(rates), _figures(expected) if expected else {}
    for what, figure in mine.items():
        yield f"{'':{LABEL}}{what:32}{figure:>15}" + (f"{theirs.get(what, ''):>15}" if expected else "")


def _figures(rates: Rates) -> dict[str, str]:
    def flops(rate: float | None) -> str:
        if rate is None:
            return "none"
        return f"{rate / TERA:.4g} TFLOP/s" if rate >= TERA / 10 else f"{rate / 1e9:.4g} GFLOP/s"

    def data(rate: float | None) -> str:
        return "unknown" if rate is None else f"{rate / 1e9:.4g} GB/s"

    return {
        f"{rates.arithmetic} products": flops(rates.product_flops),
        "FP8 products": flops(rates.fp8_flops),
        "int8 products": flops(rates.int8_flops),
        "attention": flops(rates.attention_flops),
        "convolutions": flops(rates.convolution_flops),
        "memory": data(rates.memory_bytes_per_s),
        "host to GPU, pinned": data(rates.pinned_bytes_per_s),
        "host to GPU, pageable": data(rates.pageable_bytes_per_s),
        "host to host": data(rates.host_copy_bytes_per_s),
        "disk of the models": data(rates.disk_bytes_per_s),
        "launching a kernel": f"{rates.launch_s * 1e6:.3g} us",
    }


def _grouped(rows: Mapping[str, str]) -> Iterable[tuple[str, list[str]]]:
    """Each text once, with all that it is said of."""
    found: dict[str, list[str]] = {}
    for name, text in rows.items():
        found.setdefault(text, []).append(name)
    return found.items()


def _row(label: str, text: str) -> Iterator[str]:
    """A label and its text, within the width; nothing where there is no text. Names are not broken."""
    if text:
        yield from wrap(f"{label:{LABEL}}{text}", " " * LABEL)
