"""A request's fields ▶ pictures, by the manifest's own rules: what a manifest may say of a job, a request may say.

No path that a client names is looked at: models are those of the server's shelf, LoRAs the catalogue's. Knows no HTTP,
no queue and no disk but that of model files, which are identified once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from renderer import catalog
from renderer.catalog import Model
from renderer.errors import ManifestError, ModelError, Problem, RendererError
from renderer.job import Keep, ModelIdentity, Picture, Weights, fingerprint
from renderer.manifest import choices, expand
from renderer.manifest.manifest import Manifest, Overrides, parse
from renderer.manifest.recipe import takes_in
from renderer.manifest.shelf import FILE_REFUSED, Shelf
from renderer.manifest.source import ManifestSource
from renderer.planning import takes
from renderer.planning.plan import Planned
from renderer.service.configuration import Limits
from renderer.weights.identity import identify

ID_LETTERS = 32
"""Of 64 hex digits, what names a picture in the server's folder."""

_FIELD = "jobs[0]."

_SEND_IT = "send the picture itself, as data:image/png;base64,…"

_EXCLUDED = 10
"""Times as many pictures as a request may ask for that it may exclude some of: all of them are made before."""


class FieldError(RendererError):
    """A request says what cannot be. `problems` are all of it: the field, the message and a hint each."""

    def __init__(self, problems: Sequence[tuple[str, str, str]]) -> None:
        self.problems = tuple(problems)
        field, message, hint = self.problems[0]
        super().__init__(f"{field}: {message}" if field else message, hint=hint)


@dataclass(frozen=True, slots=True)
class Requested:
    """A picture that a request asks for: what is rendered, by its fingerprint, and how it is to be sent."""

    item: Planned
    keep: Keep

    @property
    def key(self) -> str:
        return self.item.picture.id

    def shown(self, previews: int) -> Requested:
        """The same, of which somebody wants so many previews."""
        return replace(self, item=replace(self.item, previews=previews))


class Intake:
    """Makes pictures of requests and manifests. For several threads."""

    def __init__(self, shelf: Shelf, limits: Limits) -> None:
        self._shelf = shelf
        self._limits = limits
        self._lock = threading.Lock()
        self._models: dict[str, tuple[Model, ModelIdentity]] = {}

    @property
    def models(self) -> Sequence[str]:
        """The names of the models that there are, the usual one first."""
        return list(self._shelf.models)

    def takes_apart(self, name: object) -> bool:
        """Whether the model that a request names, or else the usual one, takes pictures apart: transparency counts."""
        known = self._shelf.models
        reference = known[name] if isinstance(name, str) and name in known else known[self._shelf.first]
        with contextlib.suppress(ModelError):  # what is wrong with it is said where it is wanted
            return expand.find_model(reference).layering is not None
        return False

    def prepare(self) -> None:
        """Identify the models, which for files of one's own may take a while. Raises `ModelError`."""
        for reference in self._shelf.models.values():
            self._identified(reference)

    def usual_weights(self) -> Weights:
        """What a request is rendered with that says nothing of it."""
        return expand.usual_weights(self._shelf)

    def read(self, fields: Mapping[str, Any], request: str, files: frozenset[str] = frozenset()) -> list[Requested]:
        """The pictures that the fields of one job make. Raises `FieldError` and `ModelError`.

        `files` are those that the server wrote for it, and that it may name.
        """
        try:
            manifest = self._parse(fields, files)
        except ManifestError as error:
            raise FieldError([_told(problem) for problem in error.problems]) from error
        self._check(manifest)
        return [self.requested(picture, request, index) for index, picture in enumerate(manifest.pictures)]

    def read_manifest(self, data: bytes, file: str) -> Manifest:
        """The manifest that somebody sent. Raises `ManifestError` with all of its problems."""
        return parse(ManifestSource(data, file, "manifest"), Overrides(shelf=self._shelf))

    def requested(self, picture: Picture, request: str, index: int, line: int = 0) -> Requested:
        """A picture as it is in the server's folder: named by its fingerprint, kept as PNG, with its request's id.

        One that is to be read has a name of its own, for which of its takes lies there in the end depends on that.
        `line` is its manifest's; its number in the queue takes its place when it is accepted.
        """
        model, identity = self._identified(picture.job.model)
        mark = fingerprint(picture.job, identity)
        name = (_mark_of_lettering(picture, mark) if picture.lettering else mark)[:ID_LETTERS]
        place = picture.place.model_copy(
            update={"manifest": "request", "line": line, "job_id": request, "index": index}
        )
        named = picture.model_copy(update={"id": name, "output": name, "place": place, "keep": Keep()})
        return Requested(Planned(named, model, identity, mark, "to do"), picture.keep)

    def again(self, picture: Picture) -> Planned:
        """A picture that was accepted before this server began. Raises `ModelError` where its model is gone."""
        model, identity = self._identified(picture.job.model)
        return Planned(picture, model, identity, fingerprint(picture.job, identity), "to do")

    def reference_of(self, identity: ModelIdentity) -> str | None:
        """What the server calls the weights of a picture; None where it has them not."""
        return next((name for name, (_, known) in self._models.items() if known.is_of(identity)), None)

    def _parse(self, fields: Mapping[str, Any], files: frozenset[str] = frozenset()) -> Manifest:
        text, shelf = json.dumps({"jobs": [fields]}), replace(self._shelf, files=files)
        overrides = Overrides(shelf=shelf, most=_EXCLUDED * self._limits.pictures)
        return parse(ManifestSource(text.encode(), "request", "request"), overrides)

    def _check(self, manifest: Manifest) -> None:
        limits = self._limits
        if (count := len(manifest.pictures)) > limits.pictures:
            said = f"the request makes {count} pictures, and {limits.pictures} are allowed"
            raise FieldError([("count", said, "send a manifest to /api/v1/batches")])
        for picture in manifest.pictures:
            job = picture.job
            if (pixels := job.width * job.height) > limits.pixels:
                said = f"{job.width}x{job.height} are {pixels:,} pixels, and {limits.pixels:,} are allowed"
                raise FieldError([("width", said, "ask for a smaller picture")])

    def _identified(self, reference: str) -> tuple[Model, ModelIdentity]:
        with self._lock:
            if reference not in self._models:
                model = catalog.find(reference)
                self._models[reference] = model, identify(model)
            return self._models[reference]


def with_plain_prompts(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A job's fields of a client that knows no manifests: its prompts are text, whatever stands in them."""
    prompts = {name: each for name in ("prompt", "negative_prompt") if isinstance(each := fields.get(name), str)}
    filled = takes_in(fields)
    return {**fields, **{name: choices.as_text(each, filled=filled) for name, each in prompts.items()}}


def _mark_of_lettering(picture: Picture, mark: str) -> str:
    """What tells a picture that is to be read from others: its first take, the texts, and how often they are tried."""
    assert picture.lettering is not None
    wanted = takes.expected_of(picture)
    return hashlib.sha256(f"{mark} {picture.lettering.model_dump_json()} {wanted}".encode()).hexdigest()


def _told(problem: Problem) -> tuple[str, str, str]:
    """A problem as whoever sent fields and no file understands it."""
    field = problem.path.removeprefix(_FIELD)
    names_a_picture = problem.message == FILE_REFUSED and field != "rows"
    return field, problem.message, _SEND_IT if names_a_picture else problem.hint
