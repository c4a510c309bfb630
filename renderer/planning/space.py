"""Bytes that a batch will write, against those that are free: pictures, downloads, packed stores.

A picture's file is reckoned from its model's density (`catalog`), times what the files that lie in the outputs already
have more or less than that. Knows which batch has no room. Reads sidecars and sizes, a bounded number; writes nothing,
imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from renderer import catalog
from renderer.catalog import Density
from renderer.errors import MachineError, ModelError
from renderer.estimate import shape_of, weight_bytes
from renderer.job import DeviceArithmetic, Embed, Format, Picture, Sidecar
from renderer.machine import hardware, processor
from renderer.outputs import picture_files
from renderer.outputs.done import Known
from renderer.outputs.folder import SIDECAR_SUFFIX, OutputFolder
from renderer.planning.plan import Plan, Planned
from renderer.protocol import Setup
from renderer.system import folders
from renderer.text import gb
from renderer.weights import needs, places
from renderer.weights.needs import Need

LABEL_BYTES: Mapping[Embed, int] = {"none": 0, "basic": 680, "full": 1700}
"""What a file says of itself; with `full`, twice the prompt is in it, and 40 to 290 letters make 1540 to 2250 bytes."""

BESIDE_BYTES = 25_000
"""Of each picture, beside its file: sidecar, thumbnail, its tile of the contact sheet, its part of page and journal (27
kB of each of the demo's twelve)."""

ENOUGH = 5
"""So many files of a model and format tell the others."""

_FOLDERS, _SIDECARS, _ENTRIES = 8, 8, 5000
"""Of the outputs' folders, the last ones written; sidecars read in each; names looked at to find them."""

SURE, ASSUMED = 0.8, 0.35
"""What pictures take at the least, of what is forecast: where it was measured, and where it is an assumption. Flat
graphics have half a byte a pixel, a third of what photographs have."""

FileKind = tuple[str, Format]
"""A model's identity, and the format that its pictures are kept in."""


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes that will be written, and bytes that are free where.

    `outputs_least_bytes` is what `pictures` of them take at the least, if the forecast is as wrong as is known of it;
    `replaced_bytes` lies there now and goes when they are written.
    """

    download_bytes: int
    store_bytes: int
    pictures: int
    outputs_bytes: int
    outputs_least_bytes: int
    replaced_bytes: int
    models_free_bytes: int
    outputs_free_bytes: int
    same_disk: bool

    @property
    def models_bytes(self) -> int:
        """What models take."""
        return self.download_bytes + self.store_bytes

    @property
    def more_bytes(self) -> int:
        """What the outputs grow by."""
        return max(0, self.outputs_bytes + BESIDE_BYTES * self.pictures - self.replaced_bytes)

    @property
    def short_bytes(self) -> int:
        """What is missing; 0 where there is room."""
        if self.same_disk:
            return max(0, self.models_bytes + self.more_bytes - self.models_free_bytes)
        return max(0, self.models_bytes - self.models_free_bytes) + max(0, self.more_bytes - self.outputs_free_bytes)

    def as_dict(self) -> dict[str, Any]:
        """The bytes as JSON-ready values."""
        return {
            "download_bytes": self.download_bytes,
            "store_bytes": self.store_bytes,
            "outputs_bytes": self.outputs_bytes,
            "outputs_least_bytes": self.outputs_least_bytes,
            "beside_bytes": BESIDE_BYTES * self.pictures,
            "replaced_bytes": self.replaced_bytes,
            "models_free_bytes": self.models_free_bytes,
            "outputs_free_bytes": self.outputs_free_bytes,
            "short_bytes": self.short_bytes,
        }


def look_at_each(
    plans: Sequence[Plan], left: Sequence[Planned], setups: Sequence[Setup], *, ready: bool = False
) -> list[tuple[list[Plan], Disk]]:
    """The disks on which the plans' folders lie, each with those that do: what rendering `left` writes there.

    What models take is the first one's, or is held against that on which models lie. `ready`: they are taken to be
    there.
    """
    by_disk: dict[int | Path, list[Plan]] = {}
    for plan in plans:
        by_disk.setdefault(folders.disk_of(plan.folder.path), []).append(plan)
    models = folders.disk_of(folders.models_folder().absolute())
    bearing = models if models in by_disk else next(iter(by_disk), None)
    chosen, found = set(map(id, left)), []
    for disk, those in by_disk.items():
        there = [item for plan in those for item in plan.items if id(item) in chosen]
        opens, riding = (setups, left) if disk == bearing else ((), ())
        found.append((those, look(those, there, opens, ready=ready, riding=riding)))
    return found or [([], look((), (), setups, ready=ready))]


def look(
    plans: Sequence[Plan],
    left: Sequence[Planned],
    setups: Iterable[Setup],
    *,
    ready: bool = False,
    riding: Sequence[Planned] | None = None,
) -> Disk:
    """What rendering `left`, which are of these plans, will write. `ready`: models are taken to be there.

    `riding` are those whose LoRAs and ControlNets are fetched, where they are not these.
    """
    models = folders.models_folder().absolute()
    outputs = plans[0].folder.path.absolute() if plans else models
    files = Files(left, plans)
    wanted = [_of_model(setup) for setup in setups if not ready]
    wanted += [] if ready else _of_extras(left if riding is None else riding)
    chosen = set(map(id, left))  # two manifests may have pictures of one name
    there = ((plan.folder, item.picture) for plan in plans for item in plan.items if id(item) in chosen)
    return Disk(
        download_bytes=sum(download for download, _ in wanted),
        store_bytes=sum(store for _, store in wanted),
        pictures=len(left),
        outputs_bytes=round(sum(map(files.expect, left))),
        outputs_least_bytes=round(sum(map(files.least, left))),
        replaced_bytes=sum(_size(path) for folder, each in there for path in _places(folder, each)),
        models_free_bytes=needs.free_bytes(),
        outputs_free_bytes=hardware.free_disk_bytes(outputs),
        same_disk=folders.disk_of(models) == folders.disk_of(outputs),
    )


def check_room(found: Disk, outputs: Path, *, partly: bool = False) -> str:
    """What to be warned of before pictures are rendered into `outputs`, or an empty string.

    Where they will hardly fit they may yet: what is written is kept, and a full disk ends what goes there in good
    order. Raises `MachineError` where they cannot fit, or not one of them if the run is to do only a part (`partly`).
    """
    more, free = found.more_bytes, found.outputs_free_bytes
    least = max(0, found.outputs_least_bytes - found.replaced_bytes)
    sure = found.outputs_least_bytes // max(1, found.pictures) if partly else least
    what = "1 picture takes" if found.pictures == 1 else f"{found.pictures} pictures take"
    if sure > free:
        likely = f"likely {gb(more)}, and {gb(free)} are free"
        message = f"{what} {gb(least)} in {outputs} at the least, {likely}"
        hint = f"free {gb(more - free)}, choose another disk with --outputs, or render a part with --only"
        raise MachineError(message, hint=hint)
    models = found.models_bytes if found.same_disk else 0
    if more + models <= free:
        return ""
    beside = f" beside {gb(models)} of models" if models else ""
    return (
        f"{what} about {gb(more)} in {outputs}{beside}, and {gb(free)} are free there:"
        " a full disk ends the run, and once there is room the same command goes on"
    )


def _of_model(setup: Setup) -> tuple[int, int]:
    """Bytes to download, and bytes of the packed store, of what is not here yet."""
    model = catalog.find(setup.model)
    wanted = Need(model=setup.model, store=setup.stored if setup.store else None)
    if needs.is_met(wanted):
        return 0, 0
    lacking = {lack.part.role for lack in places.look(model).lacking}
    download = sum(part.bytes or 0 for part in model.parts if part.role in lacking)
    weights = weight_bytes(shape_of(model), setup.stored)
    store = weights.store if model.ability == "edit" else weights.store_of_text
    return download, store if setup.store else 0


def _of_extras(left: Iterable[Planned]) -> list[tuple[int, int]]:
    """Bytes to download, and bytes that it takes to make ready, of each LoRA and ControlNet of some picture."""
    wanted = {each.identity: (each, item.model) for item in left for each in item.picture.job.extra_networks}
    if not wanted:
        return []
    from renderer.planning.riding import weigh  # noqa: PLC0415  # most pictures have none

    found = []
    for extra, model in wanted.values():
        with suppress(ModelError):  # whoever opens it says what is wrong
            each = weigh(extra, model)
            found.append((each.download_bytes, each.ready_bytes))
    return found


# ---- pictures' files -------------------------------------------------------------------------------------------------


class Files:
    """How large the files of pictures will be, learnt from those of the same models and formats in their outputs."""

    def __init__(self, wanted: Iterable[Planned], plans: Sequence[Plan]) -> None:
        self._arithmetic: DeviceArithmetic = "bf16" if hardware.look().gpus else processor.arithmetic()
        self._densities: dict[FileKind, Density] = {}
        self._own: dict[FileKind, list[float]] = {}
        self._others: dict[FileKind, list[float]] = {}
        for item in wanted:
            kind = _kind(item)
            if kind not in self._densities:
                form = item.picture.keep.format
                self._densities[kind] = item.model.densities.get(form, catalog.PHOTOGRAPHS[form])
                self._own[kind], self._others[kind] = [], []
        self._look(plans)
        self._factors = {kind: self._factor(kind) for kind in self._densities}

    def _look(self, plans: Sequence[Plan]) -> None:
        """From the plans' finished pictures; where those are few, from what else lies in their outputs' folders."""
        own = [item.sidecar for plan in plans for item in plan.items if item.sidecar is not None]
        self._learn(own, self._own)
        if any(len(ratios) < ENOUGH for ratios in self._own.values()):
            known = {sidecar.fingerprint for sidecar in own}
            roots = dict.fromkeys(plan.folder.path.parent for plan in plans)
            found = (sidecar for root in roots for sidecar in _sidecars(root))
            self._learn((sidecar for sidecar in found if sidecar.fingerprint not in known), self._others)

    def _learn(self, sidecars: Iterable[Known], ratios: Mapping[FileKind, list[float]]) -> None:
        for sidecar in sidecars:
            kind = (sidecar.model.id, sidecar.keep.format)
            if (density := self._densities.get(kind)) is not None:
                pixels = sidecar.file.width * sidecar.file.height
                expected = _file_bytes(density, pixels, sidecar.keep.embed, sidecar.engine.arithmetic)
                ratios[kind].append(sidecar.file.bytes / expected)

    def _factor(self, kind: FileKind) -> tuple[float, int]:
        """What files have more or less than their model's figure says, and by how many files that is known.

        The figure and other manifests' files count as much as a few of the manifest's own, and beside enough of
        those, others do not count.
        """
        own, others = self._own[kind], self._others[kind] if len(self._own[kind]) < ENOUGH else []
        worth = self._densities[kind].pictures
        before = (worth + sum(others)) / (worth + len(others)) if worth or others else 1.0
        worth = max(worth, min(len(others), ENOUGH))
        known = worth + len(own)
        return (worth * before + sum(own)) / known if known else before, known

    def expect(self, item: Planned) -> float:
        """Bytes of a picture's file, and of its layers, each of which is taken to be as large."""
        kind, job = _kind(item), item.picture.job
        each = self._factors[kind][0] * _file_bytes(
            self._densities[kind], job.width * job.height, item.picture.keep.embed, self._arithmetic
        )
        return each * (1 + job.layers)

    def least(self, item: Planned) -> float:
        """Bytes that it takes at the least."""
        return self.expect(item) * (SURE if self._factors[_kind(item)][1] >= ENOUGH else ASSUMED)


def _kind(item: Planned) -> FileKind:
    return item.identity.id, item.picture.keep.format


def _file_bytes(density: Density, pixels: int, embed: Embed, arithmetic: DeviceArithmetic) -> float:
    return density.bytes_of(pixels, arithmetic) + LABEL_BYTES[embed]


def _sidecars(root: Path) -> Iterator[Sidecar]:
    """Some sidecars of every folder in the outputs, the last written first: spread over it, and never many."""
    try:
        with os.scandir(root) as entries:
            folders = [(entry.stat().st_mtime, entry.path) for entry in islice(entries, _ENTRIES) if entry.is_dir()]
    except OSError:
        return
    for _, folder in sorted(folders, reverse=True)[:_FOLDERS]:
        names = sorted(islice(_files(Path(folder)), _ENTRIES))
        for name in names[:: max(1, len(names) // _SIDECARS)][:_SIDECARS]:
            if (sidecar := picture_files.read_sidecar(name)) is not None:
                yield sidecar


def _files(folder: Path) -> Iterator[Path]:
    """Files that may be sidecars, in a folder and those in it."""
    for at, _, names in os.walk(folder):
        yield from (Path(at, name) for name in names if name.endswith(SIDECAR_SUFFIX))


def _places(folder: OutputFolder, picture: Picture) -> list[Path]:
    """Where a picture's files lie: itself, and its layers."""
    layers = [folder.layer(picture.output, 1 + number) for number in range(picture.job.layers)]
    return [folder.picture(picture.output, picture.keep.format), *layers]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
