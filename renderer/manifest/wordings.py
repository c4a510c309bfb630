"""What each picture of a job is asked for: its prompts, the values of its names, and the words of its id.

A choice in a text is drawn for every picture, by what the job is called (or says around its choices), the picture's
combination and its seed; one in a value is drawn once a picture, wherever the name stands. Knows nothing of sizes,
models or files.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from renderer.manifest import choices, draws, naming
from renderer.manifest.choices import Wording
from renderer.manifest.naming import MAX_ID_LENGTH
from renderer.manifest.reading import Combination, Reading
from renderer.manifest.recipe import ROW, STEM, takes_in

_ROOM = 60
"""Characters of an id that are left for size and seed."""


@dataclass(frozen=True, slots=True)
class AskedFor:
    """What a picture is asked for, without its size. `words` were drawn, and its id does not name them yet."""

    job_id: str
    stem: str
    prompt: str
    negative_prompt: str
    values: Combination
    words: tuple[str, ...] = ()


class Wordings:
    """Makes what the pictures of one job are asked for. `shown` are names that `output` has in braces."""

    def __init__(self, reading: Reading, shown: Collection[str]) -> None:
        fields = reading.fields
        self._reading = reading
        self._drawn = reading.drawn
        self._shown = frozenset(shown)
        self.id = reading.id()
        self.prompts: tuple[Wording, Wording] = reading.prompts()
        seeds: Sequence[int] = fields.get("seeds") or range(fields.get("count", 1))
        first = fields.get("seed", 0)
        told = "seeds" in fields or "seed" in fields
        self._lanes = [str(first + seed) if told else f"#{seed}" for seed in seeds]
        self._seed = str(fields.get("sample_seed", 0))

    @property
    def is_drawn(self) -> bool:
        """Whether anything is drawn for each picture."""
        return bool(self._drawn & self._named) or any(each.is_drawn for each in self.prompts)

    @property
    def _named(self) -> set[str]:
        return self._reading.named | self._shown

    def ask(self, combinations: Sequence[Combination]) -> list[list[AskedFor]]:
        """For each combination what its pictures are asked for, one a seed."""
        fields, recipe = self._reading.fields, self._reading.recipe
        names = [*fields.get("matrix", ()), *([STEM] if takes_in(fields) else [])]
        varying = [name for name in names if len({each[name] for each in combinations}) > 1]
        unnamed = [name for name in varying if name not in self.id.fields]
        unused = recipe.around.variables.keys() - self._named - recipe.cells.keys()
        used = [{name: value for name, value in each.items() if name not in unused} for each in combinations]
        if not self.is_drawn:
            return [[self._fill(each, unnamed)] * len(self._lanes) for each in used]
        made = [[self._draw(each, lane, unnamed) for lane in self._lanes] for each in used]
        return list(_with_words(made)) if len({asked.words for each in made for asked in each}) > 1 else made

    def _fill(self, values: Combination, unnamed: Iterable[str], key: str = "") -> AskedFor:
        drawn: list[str] = []
        slugs = {name: naming.slug(value) for name, value in values.items()}
        job_id = unicodedata.normalize("NFC", self.id.fill(slugs))
        prompt, negative_prompt = self.prompts
        return AskedFor(
            job_id,
            "-".join((job_id, *(slugs[name] for name in unnamed))),
            prompt.fill(values, draws.key_of(key, "prompt"), drawn),
            negative_prompt.fill(values, draws.key_of(key, "negative_prompt")),
            values,
            tuple(drawn),
        )

    def _draw(self, values: Combination, lane: str, unnamed: Sequence[str]) -> AskedFor:
        recipe, drawn = self._reading.recipe, self._drawn
        row, matrix = recipe.row, recipe.fields.get("matrix", {})
        same = {ROW} - matrix.keys() if row is not None and row.is_counted else set()  # a place in a list draws nothing
        same |= recipe.around.variables.keys() - recipe.cells.keys() - matrix.keys()
        varied = sorted(f"{name}={value}" for name, value in values.items() if name not in same)
        called = recipe.fields.get("id") or self.prompts[0].skeleton(values)
        twin = [f"#{row.twin}"] if row is not None and row.twin > 1 else []
        key = draws.key_of(self._seed, called, *varied, *twin, lane)
        taken = {
            name: choices.of_value(value).fill({}, draws.key_of(key, "name", name)) if name in drawn else value
            for name, value in values.items()
        }
        asked = self._fill(taken, unnamed, key)
        in_id = {*self.id.fields, *unnamed}
        told = [taken[name] for name in taken if name in drawn and name not in in_id]
        return replace(asked, words=tuple(dict.fromkeys([*told, *asked.words])))


def _with_words(made: Iterable[Iterable[AskedFor]]) -> Iterable[list[AskedFor]]:
    """With the drawn words in their ids, where these have room for them."""
    for each in made:
        found = []
        for asked in each:
            stem = "-".join((asked.stem, *(naming.slug(word) for word in asked.words if word.strip())))
            found.append(replace(asked, stem=stem) if len(stem) <= MAX_ID_LENGTH - _ROOM else asked)
        yield found
