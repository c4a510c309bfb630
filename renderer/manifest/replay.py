"""From a picture back to a manifest's entry: what it tells of its making, as a job that can be rendered again.

A picture is a stranger's: its model is taken only when the catalogue has it, its values only where a manifest may have
them, and each entry goes through the manifest's own checks by itself, so that one that is not well costs no other.
What was left out is said. Knows nothing of running.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from PIL import Image, ImageChops

from renderer import catalog
from renderer.errors import ManifestError, RendererError, UsageError, shorten
from renderer.job import MAX_SEED, ControlNet, Input, Picture, Precision, Shift, Size, Software
from renderer.manifest import choices, labels, naming
from renderer.manifest.labels import Told
from renderer.manifest.manifest import Manifest, parse
from renderer.manifest.recipe import takes_in
from renderer.manifest.refound import refind, refind_controlnet, refind_derived
from renderer.manifest.source import ManifestSource
from renderer.outputs.folder import SIDECAR_SUFFIX, Own, is_layer_name, without_layer
from renderer.outputs.picture_files import read_sidecar

NAME = "replay"
_STEPS = range(2, 201)
_CFG_SCALES = (1.0, 30.0)
_OWN = frozenset(own.value for own in Own)


@dataclass(frozen=True, slots=True)
class ReplayEntry:
    """One picture as a manifest's entry. `notes` say what was left out; `picture` is where its pixels are.

    `fields` are the entry's, as texts that are nothing but text; `made` is what the manifest makes of it.
    """

    id: str
    text: str
    notes: tuple[str, ...]
    picture: Path
    software: Software | None
    fields: Mapping[str, Any]
    made: Picture


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A file that gave no entry, and why. `ours` is true where it is the program's own and never could have."""

    path: Path
    message: str
    hint: str = ""
    ours: bool = False


def collect(paths: Iterable[Path]) -> Iterator[ReplayEntry | PassedOver]:
    """An entry for each picture or sidecar that tells of its making, and a word on each that does not.

    Entries have ids of their own. A picture whose sidecar was named too gives one entry, and so do its layers with it.
    """
    given, seen = _Names(), set[Path]()
    for path in map(_whole_of, paths):
        try:
            if (picture := _picture_of(path)) in seen:
                continue
            entry = _entry(given.next(path.stem), picture, labels.read(path))
            seen.add(picture)
            yield entry
        except RendererError as error:
            ours = path.name in _OWN or path.parent.name == Own.THUMBS
            message = f"{path} is this program's own, and no picture of a manifest" if ours else error.message
            yield PassedOver(path, message, "" if ours else error.hint, ours)


def as_manifest(entries: Sequence[ReplayEntry]) -> Manifest:
    """The entries as a manifest."""
    pictures = []
    line = 2
    for index, entry in enumerate(entries):
        place = entry.made.place.model_copy(update={"index": index, "line": line})
        pictures.append(entry.made.model_copy(update={"place": place}))
        line += entry.text.count("\n")
    return Manifest(f"{NAME}.yaml", NAME, tuple(pictures))


@dataclass(slots=True)
class _Names:
    """Ids that are given out once each, also where a disk ignores case."""

    taken: set[str] = field(default_factory=set)
    numbers: dict[str, int] = field(default_factory=dict)

    def next(self, stem: str) -> str:
        """The stem as an id, with the next number that is free where it is taken."""
        wanted = naming.slug(stem)
        name, key = wanted, naming.collision_key(wanted)
        while naming.collision_key(name) in self.taken:
            self.numbers[key] = self.numbers.get(key, 1) + 1
            name = f"{wanted}-{self.numbers[key]}"
        self.taken.add(naming.collision_key(name))
        return name


def compare(entry: ReplayEntry, rendered: Path) -> str:
    """How a picture that was rendered again differs from what it was replayed from; empty when every bit is the same.

    Raises `UsageError` when there is nothing to compare with.
    """
    try:
        with Image.open(entry.picture, formats=("PNG", "WEBP", "JPEG")) as before, Image.open(rendered) as again:
            if before.format == "JPEG":
                return "its bits are not known: JPEG does not keep them"
            if before.size != again.size:
                return f"{before.width}x{before.height} before, {again.width}x{again.height} now"
            counts = ImageChops.difference(before.convert("RGB"), again.convert("RGB")).histogram()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(f"{entry.picture} cannot be compared with: {shorten(str(error))}") from error
    values = range(256)  # the histogram is that of three colours, one after the other
    by_distance = [sum(counts[colour * 256 + value] for colour in range(3)) for value in values]
    if not any(by_distance[1:]):
        return ""
    apart, most = sum(by_distance[1:]), max(value for value in values if by_distance[value])
    return f"{apart / sum(by_distance):.1%} of the values differ, by {most} of 255 at most"


def _entry(picture_id: str, picture: Path, told: Told) -> ReplayEntry:
    """The entry, checked as a manifest of its own. Raises `UsageError` when it makes no job."""
    notes: list[str] = []
    model = _known_model(told, notes)
    if told.images and model is None:
        lost = (*told.left_out, "the picture that it takes apart" if told.layers else "the pictures that it edits")
        told = replace(told, images=(), layers=None, mask=None, strength=None, mask_blur=None, left_out=lost)
    loras = [refind(lora) for lora in told.loras]
    nets = [(net, refind_controlnet(net)) for net in told.controlnets]
    fields: dict[str, Any] = {
        "id": picture_id,
        "prompt": told.prompt,
        "negative_prompt": told.negative_prompt or None,
        "model": model,
        "precision": told.precision if told.precision in get_args(Precision) else None,
        "size": _size(told, catalog.find(model or catalog.QWEN_IMAGE.id), notes),
        "steps": _within(told.steps, _STEPS, "steps", notes),
        "cfg_scale": told.cfg_scale,
        "seed": _within(told.seed, range(MAX_SEED + 1), "seed", notes),
        "loras": [entry for entry, _ in loras if entry] or None,
        "schedule": _schedule(told),
        "image": _kept(told.image, picture),
        "images": [_kept(each, picture) for each in told.images] or None,
        "layers": told.layers,
        "strength": told.strength,
        "mask": _kept(told.mask, picture),
        "mask_blur": told.mask_blur,
        "context_image": _kept(told.context, picture),
        "regions": [{"prompt": each.prompt, "mask": _kept(each.mask, picture)} for each in told.regions] or None,
        "controlnets": [_held_by(net, entry, picture) for net, (entry, _) in nets if entry] or None,
    }
    if told.cfg_scale is not None and not _CFG_SCALES[0] <= told.cfg_scale <= _CFG_SCALES[1]:
        notes.append(f"a CFG scale of {told.cfg_scale:g} is out of range")
        fields["cfg_scale"] = None
    silent = [name for name in ("size", "steps", "cfg_scale", "seed") if fields[name] is None]
    if silent:
        notes.append(f"not told, or not to be had here, and so the manifest's default: {', '.join(silent)}")
    if left_out := [*(why for _, why in (*loras, *(found for _, found in nets)) if why), *told.left_out]:
        notes.append(f"left out: {'; '.join(left_out)}")
    fields = {name: value for name, value in fields.items() if value is not None}
    lines = [f"{name}: {_write(_in_manifest(name, value, fields))}" for name, value in fields.items()]
    text = "- " + "\n  ".join(lines) + "\n"
    return ReplayEntry(picture_id, text, tuple(notes), picture, told.software, fields, _make(text, picture))


def _in_manifest(name: str, value: Any, fields: Mapping[str, Any]) -> Any:
    """A value in whose texts nothing is drawn or filled in. Where a picture goes in, braces stand for names."""
    if name in ("prompt", "negative_prompt"):
        return choices.as_text(value, filled=takes_in(fields))
    if name in ("image", "mask", "context_image"):
        return _doubled(value)
    if name == "controlnets" or (name == "regions" and takes_in(fields)):
        return [{key: _doubled(each) if isinstance(each, str) else each for key, each in net.items()} for net in value]
    return [_doubled(each) for each in value] if name == "images" else value


def _doubled(path: str) -> str:
    return path.replace("{", "{{").replace("}", "}}")


def _schedule(told: Told) -> Any:
    """How noise fell, where it was not as the model's own; with LoRAs it is always said."""
    if isinstance(told.schedule, Shift):
        return {"shift": told.schedule.shift}
    return told.schedule if told.loras or told.schedule != "qwen-image" else None


def _make(text: str, picture: Path) -> Picture:
    """What the manifest makes of an entry. Raises `UsageError`."""
    try:
        (made,) = parse(ManifestSource(f"jobs:\n{text}".encode(), f"{NAME}.yaml", NAME)).pictures
    except ManifestError as error:
        first = error.problems[0]
        what = first.path.removeprefix("jobs[0]").removeprefix(".") or "all of it"
        raise UsageError(f"what {picture} tells makes no job: {what}: {first.message}") from error
    return made


def _known_model(told: Told, notes: list[str]) -> str | None:
    """The catalogue's id of the model that rendered it; None where there is none such, or none was told."""
    if told.model is None:
        return None
    if told.model in catalog.MODELS and _goes_with(catalog.MODELS[told.model], told):
        return told.model
    if derived := refind_derived(told.model):
        notes.append(f"{shorten(told.model)} is taken for {derived}")
        return derived
    plain = told.model.replace("\\", "/").rpartition("/")[2].casefold()
    for model in catalog.MODELS.values():
        if model.id.rpartition("/")[2].casefold() == plain and _goes_with(model, told):
            notes.append(f'the model "{shorten(told.model)}" is taken for {model.id}')
            return model.id
    notes.append(f'the model "{shorten(told.model)}" is not in the catalogue; {catalog.QWEN_IMAGE.id} stands in')
    return None


def _goes_with(model: catalog.Model, told: Told) -> bool:
    """Whether a model renders, and edits pictures or takes one apart where that is told of, and only there.

    Of what other tools have edited they do not tell; our own edit models draw from text as well.
    """
    takes_apart, takes_in = model.layering is not None, bool(model.editing or model.layering)
    from_text = model.editing is not None and told.by in _OUR_OWN and not told.image
    fits = takes_in is bool(told.images) or from_text
    return not model.unfit and fits and takes_apart is bool(told.layers)


_OUR_OWN = ("sidecar", "renderer")
"""Who writes labels in which all is told."""


def _kept(wanted: Input | None, picture: Path) -> str | None:
    """Where what went into a picture lies: beside it. Raises `UsageError` where it is not there."""
    if wanted is None:
        return None
    folder = next(
        (each for each in picture.absolute().parents if (each / Own.INPUTS).is_dir()), picture.absolute().parent
    )
    found = next((folder / Own.INPUTS).glob(f"{wanted.sha256}*"), None)
    if found is None:
        message = f"{picture} was made of a picture that is not in {folder / Own.INPUTS}"
        raise UsageError(message, hint=f"its pixels have the SHA-256 {wanted.sha256}")
    return str(found)


def _held_by(net: ControlNet, entry: Mapping[str, Any], picture: Path) -> dict[str, Any]:
    """A ControlNet of a job with its pictures. Raises `UsageError` where they are not there."""
    pictures = {"image": _kept(net.image, picture), "mask": _kept(net.mask, picture)}
    return {**entry, **{name: path for name, path in pictures.items() if path is not None}}


def _within(value: int | None, allowed: range, what: str, notes: list[str]) -> int | None:
    if value is None or value in allowed:
        return value
    notes.append(f"{what} {value} is out of range ({allowed[0]} to {allowed[-1]})")
    return None


def _write(value: Any) -> str:
    """A value in YAML: JSON's, with what YAML does not print escaped in its own way."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(each if each.isprintable() or each == "\u3000" else f"\\U{ord(each):08x}" for each in text)


def _size(told: Told, model: catalog.Model, notes: list[str]) -> str | None:
    if told.width is None or told.height is None:
        return None
    size = Size(width=told.width, height=told.height)
    if not model.refusal(size):
        return str(size)
    nearest = model.nearest(size, 1)[0]
    notes.append(f"{size} is no size of {model.id}; {nearest} is the nearest")
    return str(nearest)


def _picture_of(path: Path) -> Path:
    """The picture itself, or the one beside a sidecar; a name in a sidecar is only ever a name."""
    sidecar = labels.read_sidecar(path) if path.suffix == SIDECAR_SUFFIX else None
    return path if sidecar is None else path.parent / Path(sidecar.file.name).name


def _whole_of(path: Path) -> Path:
    """The sidecar of the picture that a file is a layer of; any other file as it is."""
    if not is_layer_name(path.stem):
        return path
    beside = path.with_name(f"{without_layer(path.stem)}{SIDECAR_SUFFIX}")
    told = read_sidecar(beside)
    return beside if told is not None and path.name in {layer.name for layer in told.layers} else path
