"""Which texts a job's pictures are to show, and how often one that does not is begun again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast, get_args

from renderer.job import MAX_SEED, Forgiven, Lettering
from renderer.lettering.quotes import quoted
from renderer.manifest.lettering_kinds import WantedTexts
from renderer.manifest.naming import Template
from renderer.manifest.reading import Combination, Reading


class JobLettering:
    """What the pictures of one job are to show. What is wrong is complained of.

    A take's seed is the next one; where a job has several seeds, it is so far on that it is none of theirs.
    """

    def __init__(self, reading: Reading) -> None:
        fields = reading.fields
        given = fields.get("lettering", "none")
        self._wanted = None if given == "none" else cast("WantedTexts", given)
        self._retake = fields.get("retake", 0)
        seeds: Sequence[int] = fields.get("seeds") or range(fields.get("count", 1))
        self._stride = max(seeds) - min(seeds) + 1
        self._templates: Sequence[Template] = ()
        if self._wanted is None:
            for field, value in (("retake", self._retake), ("expect", fields.get("expect", {}).get("lettering"))):
                if value:
                    message = "retake needs lettering" if field == "retake" else "lettering needs the job's lettering"
                    reading.complain(field, message, "write lettering: auto, or a list of texts")
        elif self._wanted["texts"] != "auto":
            written = enumerate(self._wanted["texts"])
            self._templates = [reading.template("lettering", text, position) for position, text in written]

    def of(self, prompt: str, combination: Combination, seed: int) -> Lettering | None:
        """What a picture is to show; None where nothing is read in it."""
        if self._wanted is None:
            return None
        written = (template.fill(combination) for template in self._templates)
        texts = quoted(prompt) if self._wanted["texts"] == "auto" else tuple(dict.fromkeys(written))
        if not texts:
            return None
        forgives = tuple(each for each in get_args(Forgiven) if each in self._wanted["forgive"])
        takes = range(self._retake + 1) if self._retake else ()
        seeds = tuple((seed + number * self._stride) % (MAX_SEED + 1) for number in takes)
        return Lettering(texts=texts, forgives=forgives, seeds=seeds)
