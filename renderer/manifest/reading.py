"""What one job's fields mean, for a model: its sizes, its seeds, its matrix's combinations, its templates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Literal

from renderer.catalog import Model
from renderer.errors import shorten
from renderer.job import MAX_SEED, Size
from renderer.manifest import choices, naming
from renderer.manifest.choices import ChoiceError, Wording
from renderer.manifest.complaints import Complaint, nearest
from renderer.manifest.document import Route
from renderer.manifest.kinds import MAX_PROMPT_LENGTH
from renderer.manifest.matrices import JobMatrix
from renderer.manifest.naming import Template, TemplateError
from renderer.manifest.recipe import DEFAULT_SIZE, STEM, Recipe, takes_in

Combination = Mapping[str, str]
"""A value for each name that may stand in braces: of `vars`, of the row, of the matrix; and of `STEM`."""


_OF_FILES = frozenset({"image", "images", "mask", "loras", "controlnets", "regions", "context_image"})


class Reading:
    """What one job's fields mean, with the complaints that come up on the way."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.fields = recipe.fields
        self.complaints: list[Complaint] = []
        self.named: set[str] = set()

    def complain(self, field: str, message: str, hint: str = "", *rest: str | int, at_key: bool = False) -> None:
        self.complaints.append(Complaint((*self.recipe.origin(field), *rest), message, hint, at_key))

    # -- sizes

    def sizes(self, model: Model) -> Sequence[Size]:
        """The job's sizes as `model` understands them."""
        if "width" in self.fields:
            wanted: list[tuple[str | Size, tuple[str | int, ...]]] = [
                (Size(width=self.fields["width"], height=self.fields["height"]), ("width",))
            ]
        elif "sizes" in self.fields:
            wanted = [(text, ("sizes", position)) for position, text in enumerate(self.fields["sizes"])]
        else:
            wanted = [(self.fields.get("size", DEFAULT_SIZE), ("size",))]
        sizes: list[Size] = []
        for text, (field, *rest) in wanted:
            size = text if isinstance(text, Size) else self._read_size(text, model, str(field), *rest)
            if size is None or self._refuse_size(size, model, str(field), *rest):
                continue
            if size in sizes:
                self.complain(str(field), f"{size} is there twice", "keep one", *rest)
            sizes.append(size)
        return sizes

    def _read_size(self, text: str, model: Model, field: str, *rest: str | int) -> Size | None:
        if ":" in text:
            if text not in model.ratios:
                self.complain(field, f"{text} is not a ratio of {model.id}", f"known: {', '.join(model.ratios)}", *rest)
            return model.ratios.get(text)
        width, height = text.split("x")
        return Size(width=int(width), height=int(height))

    def _refuse_size(self, size: Size, model: Model, field: str, *rest: str | int) -> bool:
        refusal = model.refusal(size)
        if refusal:
            near = " and ".join(str(fitting) for fitting in model.nearest(size))
            self.complain(field, refusal, f"nearest: {near}", *rest)
        return bool(refusal)

    # -- seeds

    def check_seeds(self) -> None:
        seen: set[int] = set()
        for position, seed in enumerate(self.fields.get("seeds", ())):
            if seed in seen:
                self.complain("seeds", f"{seed} is there twice", "keep one", position)
            seen.add(seed)
        if self.fields.get("seed", 0) + self.fields.get("count", 1) - 1 > MAX_SEED:
            self.complain("count", "the last seed would be too large", f"allowed: 0 to {MAX_SEED:,}")

    # -- the matrix

    def combinations(self) -> Sequence[Combination]:
        """The matrix's combinations in written order, with what each job is given; only that without a matrix."""
        given = self.recipe.given
        return [{**given, **each} for each in self._combinations()]

    def _combinations(self) -> Sequence[Combination]:
        matrix = self.fields.get("matrix")
        if matrix is None:
            for field in ("include", "exclude"):
                if field in self.fields:
                    self.complain(field, "needs a matrix", at_key=True)
            if self.recipe.chosen is None and self.recipe.origin("sample")[:1] == ("jobs",) and "sample" in self.fields:
                self.complain("sample", "needs a matrix or rows", "choices are drawn for each picture", at_key=True)
            return [{}]
        for name, values in matrix.items():
            seen: set[str] = set()
            for position, value in enumerate(values):
                if value in seen:
                    self.complain("matrix", f"{shorten(value)} is there twice", "keep one", name, position)
                seen.add(value)
        kept = self._not_excluded()
        combinations = self._include(kept)
        if not combinations and not self.complaints:
            self.complain("matrix", "makes no combination: all are excluded")
        return combinations

    def _not_excluded(self) -> list[dict[str, str]]:
        """The matrix's combinations, or those that were drawn. An exclusion that excludes nothing is complained of."""
        matrix = JobMatrix(self.fields)
        for position, pattern in enumerate(self.fields.get("exclude", ())):
            if not self._refuse_names("exclude", pattern, position) and not matrix.excludes_any(pattern):
                self.complain("exclude", "excludes nothing", "values are compared as written", position)
        return matrix.combinations(self.recipe.chosen)

    def _include(self, kept: list[dict[str, str]]) -> list[dict[str, str]]:
        matrix = self.fields.get("matrix", {})
        seen = {tuple(combination.values()) for combination in kept}
        combinations = list(kept)
        for position, given in enumerate(self.fields.get("include", ())):
            if self._refuse_names("include", given, position):
                continue
            missing = [name for name in matrix if name not in given]
            if missing:
                self.complain("include", f"lacks {', '.join(missing)}", "give every name of the matrix", position)
                continue
            combination = {name: given[name] for name in matrix}
            if tuple(combination.values()) in seen:
                self.complain("include", "this combination is there already", "remove it", position)
            seen.add(tuple(combination.values()))
            combinations.append(combination)
        return combinations

    def _refuse_names(self, field: str, given: Mapping[str, str], position: int) -> bool:
        matrix = self.fields.get("matrix", {})
        unknown = [name for name in given if name not in matrix]
        for name in unknown:
            self.complain(
                field, f"{name} is not a name of the matrix", nearest(name, matrix), position, name, at_key=True
            )
        return bool(unknown)

    # -- templates

    def id(self) -> Template:
        """The id with names in braces."""
        return self.template("id", self.fields.get("id", self.recipe.number))

    def prompts(self) -> tuple[Wording, Wording]:
        """Prompt and negative prompt, with names in braces and with choices; without names, braces are just braces."""
        if "prompt" not in self.fields:
            self.complaints.append(Complaint((*self.recipe.route, "prompt"), "is missing", "every job needs one"))
        return self._wording("prompt"), self._wording("negative_prompt")

    def _wording(self, field: Literal["prompt", "negative_prompt"]) -> Wording:
        text = self.fields.get(field, "")
        try:
            return choices.parse(text, lambda plain: self.template(field, plain))
        except ChoiceError as error:
            self.complain(field, error.message, error.hint)
            return Wording((naming.literal(text),))

    @cached_property
    def drawn(self) -> frozenset[str]:
        """The names with a choice in one of their values. What looks like one and is none is complained of."""
        found = set()
        for route, name, value in self._values():
            try:
                if choices.of_value(value).is_drawn:
                    found.add(name)
            except ChoiceError as error:
                self.complaints.append(Complaint(route, error.message, error.hint))
        return frozenset(found)

    def _values(self) -> Iterator[tuple[Route, str, str]]:
        """All values that may hold a choice, with their names, and where they were written."""
        recipe, fields = self.recipe, self.fields
        given: list[tuple[Route, str, str]] = [
            (("vars", name), name, value) for name, value in recipe.around.variables.items()
        ]
        given += [(recipe.origin("rows"), name, value) for name, value in recipe.cells.items()]
        for name, values in fields.get("matrix", {}).items():
            given += [((*recipe.origin("matrix"), name, place), name, value) for place, value in enumerate(values)]
        for place, added in enumerate(fields.get("include", ())):
            given += [((*recipe.origin("include"), place, name), name, value) for name, value in added.items()]
        return (each for each in given if choices.may_have(each[2]))

    def template(self, field: str, text: str, *rest: str | int) -> Template:
        """A text of a field with the matrix's names in it; what is wrong with it is complained of."""
        names = self.recipe.names
        if not names or field in self.recipe.plain:
            return naming.literal(text)
        try:
            template = naming.parse(text)
        except TemplateError as error:
            self.complain(field, error.message, error.hint, *rest)
            return naming.literal(text)
        unknown = [name for name in template.fields if name not in names]
        for name in unknown:
            hint = f"{nearest(name, names)}; {{{{ is a brace"
            what = "not a name of the matrix" + (" or of vars" if self.recipe.around.variables else "")
            self.complain(field, f"{{{shorten(name)}}} is {what}", hint, *rest)
        if field in _OF_FILES and (drawn := [name for name in template.fields if name in self.drawn]):
            kind = "region" if field == "regions" else "file"
            message = f"{{{shorten(drawn[0])}}} is drawn for each picture, and no {kind} is"
            self.complain(field, message, "choices stand in prompts, ids and output", *rest)
        self.named.update(template.fields)
        if unknown or (field in _OF_FILES and self._is_too_long(template, self._longest, field, *rest)):
            return naming.literal(text)
        return template

    def check_lengths(self, prompts: tuple[Wording, Wording], combinations: Sequence[Combination]) -> None:
        """Refuse prompts that would be too long before they are made: two short templates can make gigabytes.

        Those of files and regions are refused by `template`.
        """
        longest = dict(self._longest) | {
            name: max((len(each[name]) for each in combinations), default=0) for name in self.fields.get("matrix", ())
        }
        for field, wording in zip(("prompt", "negative_prompt"), prompts, strict=True):
            self._is_too_long(wording, longest, field)

    def _is_too_long(self, text: Template | Wording, longest: Mapping[str, int], field: str, *rest: str | int) -> bool:
        """Whether a text would be too long with its names' longest values, which is complained of."""
        length = text.measure(longest)
        if length > MAX_PROMPT_LENGTH:
            hint = f"at most {MAX_PROMPT_LENGTH:,} characters"
            self.complain(field, f"would be {length:,} characters with the matrix's longest values", hint, *rest)
        return length > MAX_PROMPT_LENGTH

    @cached_property
    def _longest(self) -> Mapping[str, int]:
        """How long the values are, at most, that may stand in braces."""
        longest = {name: len(value) for name, value in self.recipe.given.items()}
        for name, values in self.fields.get("matrix", {}).items():
            added = (each.get(name, "") for each in self.fields.get("include", ()))
            longest[name] = max(map(len, (*values, *added)), default=0)
        return longest | ({STEM: 255} if takes_in(self.fields) else {})
