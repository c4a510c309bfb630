"""What a packed store says of itself: `index.json`, with a hash of every file and of itself.

Reads no weights and imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from renderer import catalog, families
from renderer.catalog import Role
from renderer.errors import ModelError, shorten
from renderer.job import ModelIdentity, Stored, Value, canonical
from renderer.weights.codecs import CODECS

FORMAT_VERSION: Literal[1] = 1
"""Goes up when a store's files change their meaning; older stores are then packed again."""

INDEX = "index.json"
TOKENIZER_FOLDER = catalog.TOKENIZER.removesuffix("/")
PROCESSOR_FOLDER = catalog.PROCESSOR.removesuffix("/")
STORE_HINT = "delete it (renderer models remove --precision), and pack the model again"

_MAX_INDEX_BYTES = 2**25

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Kind = Annotated[str, Field(pattern=r"^[a-z_]{1,40}$")]
Name = Annotated[str, Field(pattern=r"^(\w[\w.-]*/)?\w[\w.-]*$")]


class StoredFile(Value):
    """One safetensors file of a store. `header_sha256` is over everything before its data.

    `crc32` is over its data, which is held against it whenever it is loaded: several times as fast as `sha256`, and
    enough to know damage by. Stores that were packed before there was one have null.
    """

    name: Name
    bytes: int
    sha256: Digest
    header_sha256: Digest
    crc32: int | None = None
    network: Role
    kind: Kind
    number: int | None = None


class CopiedFile(Value):
    """One file of the tokenizer or the processor, as the hub has it."""

    name: Name
    bytes: int
    sha256: Digest


class SourceFile(Value):
    """One file that a store was made of: its name under the model's folder, or alone, and its content."""

    name: str
    bytes: int
    sha256: Digest


class Index(Value):
    """What a store is: `index.json`.

    `errors` is each weight's relative Frobenius error against its original, where its codec loses more than bf16 does.
    `sources` are the files it was made of; stores that were packed before they were hashed have none.
    `formats` are the forms that networks' files were in, where that is not the hub's own. `turned` tells, by their
    width, how many columns of a matrix were turned together before they were kept, by a codec that does so.
    `family` is not told where it is Qwen-Image, as in stores that are older than the others. `checksum` is the SHA-256
    over all the rest, so that a flipped bit in here is noticed as well.
    """

    format_version: Literal[1] = FORMAT_VERSION
    source: ModelIdentity
    precision: Stored
    created_at: datetime
    renderer: str
    files: tuple[StoredFile, ...]
    copies: tuple[CopiedFile, ...]
    errors: dict[str, float] = Field(default_factory=dict)
    sources: tuple[SourceFile, ...] = ()
    formats: dict[Role, str] = Field(default_factory=dict)
    turned: dict[int, int] = Field(default_factory=dict)
    family: str = families.QWEN_IMAGE_FAMILY.name
    checksum: str = ""

    @property
    def bytes(self) -> int:
        """Bytes of all files but this one."""
        return sum(file.bytes for file in self.files) + sum(file.bytes for file in self.copies)

    @property
    def worst_error(self) -> tuple[str, float] | None:
        """The tensor with the largest error, and that error; None in a store that lost nothing."""
        return max(self.errors.items(), key=lambda item: item[1], default=None)

    @property
    def median_error(self) -> float | None:
        return statistics.median(self.errors.values()) if self.errors else None

    @property
    def text_sha256(self) -> str:
        """What a prompt's embedding depends on in here: the content of the text encoder and of the tokenizer."""
        parts = [(file.name, file.sha256) for file in self.files if file.network == "text_encoder"]
        parts += [(file.name, file.sha256) for file in self.copies if file.name.startswith(f"{TOKENIZER_FOLDER}/")]
        return hashlib.sha256(json.dumps(sorted(parts)).encode()).hexdigest()

    @property
    def looks_sha256(self) -> str:
        """What it depends on besides where it is about pictures: what prepares these; empty where nothing does."""
        parts = [(file.name, file.sha256) for file in self.copies if file.name.startswith(f"{PROCESSOR_FOLDER}/")]
        return hashlib.sha256(json.dumps(sorted(parts)).encode()).hexdigest() if parts else ""

    def text(self) -> str:
        """What stands in `index.json`."""
        return self.model_dump_json(indent=1, exclude=self._untold) + "\n"

    @property
    def _untold(self) -> set[str]:
        usual = {"family"} if self.family == families.QWEN_IMAGE_FAMILY.name else set()
        return usual | {name for name in ("formats", "turned") if not getattr(self, name)}

    def sealed(self) -> Index:
        """The same with its checksum."""
        return self.model_copy(update={"checksum": self._sum()})

    @property
    def is_intact(self) -> bool:
        return self.checksum == self._sum()

    def _sum(self) -> str:
        """What is younger than the format is in it where it is there at all: an older store's sum stays what it was."""
        told = self.model_copy(update={"checksum": ""}).model_dump(mode="json", exclude=self._untold)
        if not self.sources:
            del told["sources"]
        for file in told["files"]:
            if file["crc32"] is None:
                del file["crc32"]
        return hashlib.sha256(canonical(told).encode()).hexdigest()


def read_index(folder: Path) -> Index:
    """A store's `index.json`, intact. Raises `ModelError`."""
    path = folder / INDEX
    try:
        if path.stat().st_size > _MAX_INDEX_BYTES:
            raise ModelError(f"{path}: too large for an index", hint=STORE_HINT)
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}", hint=STORE_HINT) from error
    try:
        version = json.loads(data).get("format_version")
        if version != FORMAT_VERSION:
            raise ModelError(f"{path}: a store of format {version}, and this is {FORMAT_VERSION}", hint=STORE_HINT)
        index = Index.model_validate_json(data)
    except (ValidationError, ValueError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path}: damaged, it is not a store's index", hint=STORE_HINT) from error
    if index.family not in families.FAMILIES:
        raise ModelError(f"{path}: a store of {shorten(index.family)}, which is not known here", hint=STORE_HINT)
    if not index.is_intact:
        raise ModelError(f"{path}: damaged, its checksum is another", hint=STORE_HINT)
    for columns, together in index.turned.items():
        if (here := CODECS[index.precision].turned(columns)) != together:
            message = f"{path}: of {columns} columns {together} were turned together, and here it is {here}"
            raise ModelError(message, hint=STORE_HINT)
    return index
