"""What a job's `loras` mean: each found and weighed for every combination of the matrix, and what goes with them.

A LoRA of the catalogue brings steps, guidance and a schedule along, for jobs that do not say theirs; two that want
different ones are refused. Each file is read once a manifest. Knows nothing of YAML and lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations as pairs
from pathlib import Path
from typing import TYPE_CHECKING, Any

from renderer import catalog
from renderer.catalog import Model
from renderer.errors import ModelError, shorten
from renderer.job import Lora, ScheduleKind, Shift
from renderer.manifest.additions import AUTO, LoraFields, refuse_weight
from renderer.manifest.naming import Template
from renderer.manifest.reading import Combination, Reading

if TYPE_CHECKING:
    from renderer.weights.adapters.whereabouts import FoundLora


@dataclass(frozen=True, slots=True)
class LoraSet:
    """The LoRAs of a picture, as they were found: `found` and `loras` are of one order."""

    loras: tuple[Lora, ...] = ()
    found: tuple[FoundLora, ...] = ()

    @property
    def rows(self) -> list[Model]:
        """The catalogue's rows of those that have one."""
        return [each.row for each in self.found if each.row is not None]

    def settings(self, fields: Mapping[str, Any], model: Model) -> dict[str, Any]:
        """Steps, guidance and schedule: the job's own, else those of its LoRAs, else the model's."""
        guide = next((row for row in self.rows if row.is_distilled), model)
        given: str | Shift = fields.get("schedule", AUTO)
        schedule: ScheduleKind | Shift | str = guide.schedule if given == AUTO else given
        return {
            "cfg_scale": fields.get("cfg_scale", guide.cfg_scale),
            "num_inference_steps": fields.get("num_inference_steps", fields.get("steps", guide.steps)),
            "loras": self.loras,
            "schedule": schedule,
        }


NO_LORAS = LoraSet()


class LoraFinder:
    """Finds LoRAs, each once. `catalogue_only` looks at no path."""

    def __init__(self, *, catalogue_only: bool = False) -> None:
        self._catalogue_only = catalogue_only
        self._found: dict[tuple[str, str, Path], FoundLora | ModelError] = {}

    def sets(self, reading: Reading, model: Model, combinations: Sequence[Combination]) -> list[LoraSet]:
        """The LoRAs of each combination; what is wrong with them is complained of in `reading`."""
        items = reading.fields.get("loras", [])
        if not items:
            return [NO_LORAS] * len(combinations)
        templates = [
            (_template(reading, item, position, "id" if "id" in item else "file"), _weight(reading, item, position))
            for position, item in enumerate(items)
        ]
        if reading.complaints:
            return []
        made: dict[tuple[tuple[str, str | float], ...], LoraSet] = {}
        sets = []
        for combination in combinations:
            filled = tuple(
                (named.fill(combination), weight.fill(combination) if isinstance(weight, Template) else weight)
                for named, weight in templates
            )
            if filled not in made:
                made[filled] = self._set(reading, model, filled)
            sets.append(made[filled])
        return sets

    def _set(self, reading: Reading, model: Model, filled: Sequence[tuple[str, str | float]]) -> LoraSet:
        found: dict[int, tuple[FoundLora, Lora]] = {}
        for position, (reference, written) in enumerate(filled):
            lora = self._find(reading, model, reference, position)
            weight = _number(reading, written, position)
            if lora is None or weight is None:
                continue
            twin = next((where for where, (other, _) in found.items() if other.identity == lora.identity), None)
            if twin is not None:
                hint = "keep one, and add their weights"
                reading.complain("loras", f"{shorten(reference)} is there twice", hint, position)
            found[position] = (
                lora,
                Lora(source=lora.source, identity=lora.identity, weight=weight, file_hash=lora.file_hash),
            )
        rows = {where: lora.row for where, (lora, _) in found.items() if lora.row and lora.row.is_distilled}
        _refuse_contradictions(reading, rows)
        return LoraSet(tuple(lora for _, lora in found.values()), tuple(each for each, _ in found.values()))

    def _find(self, reading: Reading, model: Model, reference: str, position: int) -> FoundLora | None:
        folder = reading.recipe.folder_of("loras")
        key = reference, model.id, folder
        if self._catalogue_only and reference not in catalog.MODELS:
            reading.complain("loras", f"{shorten(reference)} is no LoRA of the catalogue", "no file is read", position)
            return None
        if key not in self._found:
            from renderer.weights.adapters.landing import find_fitting  # noqa: PLC0415  # most manifests have none

            try:
                self._found[key] = find_fitting(reference, folder, model)
            except ModelError as error:
                self._found[key] = error
        found = self._found[key]
        if isinstance(found, ModelError):
            reading.complain("loras", found.message, found.hint, position)
            return None
        return found


def _template(reading: Reading, item: LoraFields, position: int, key: str) -> Template:
    return reading.template("loras", str(item.get(key, "")), position, key)


def _weight(reading: Reading, item: LoraFields, position: int) -> Template | float:
    weight = item.get("weight", 1.0)
    return reading.template("loras", weight, position, "weight") if isinstance(weight, str) else weight


def _number(reading: Reading, written: str | float, position: int) -> float | None:
    """A weight, also one that a matrix gives as text."""
    try:
        weight = float(written)
    except ValueError:
        reading.complain("loras", f"the weight {shorten(str(written))} is not a number", "", position, "weight")
        return None
    if refusal := refuse_weight(weight):
        reading.complain("loras", f"the weight {refusal[0]}", refusal[1], position, "weight")
        return None
    return weight


def _refuse_contradictions(reading: Reading, rows: Mapping[int, Model]) -> None:
    """Complain, at both, of LoRAs that want different steps, guidance or schedules where the job says none."""
    fields = reading.fields
    open_ones = {
        "steps": "steps" not in fields and "num_inference_steps" not in fields,
        "cfg_scale": "cfg_scale" not in fields,
        "schedule": fields.get("schedule", AUTO) == AUTO,
    }
    for (here, one), (there, other) in pairs(rows.items(), 2):
        apart = [name for name, wanted in open_ones.items() if wanted and getattr(one, name) != getattr(other, name)]
        for name in apart[:1]:
            ours, theirs = (shorten(str(getattr(row, name))) for row in (one, other))
            hint = f"keep one of them, or write {name}"
            reading.complain("loras", f"is for {name} {ours}, and {other.id} for {theirs}", hint, here)
            reading.complain("loras", f"is for {name} {theirs}, and {one.id} for {ours}", hint, there)
