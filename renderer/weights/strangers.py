"""Files that were expected to be safetensors and are something else: which, by their first bytes, and what to do then.

Looks at no more than a few thousand bytes. Knows nothing of tensors; imports no torch.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from renderer.catalog import PICKLES
from renderer.errors import ModelError, shorten

LOOKED_AT_BYTES = 4096
"""How much of a file's beginning is wanted."""

_PICKLE_MAGIC = re.compile(rb"\x80[\x02-\x05]")
_WEB_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|head|body|\?xml|!--|script|meta)\b", re.IGNORECASE)
_TITLE = re.compile(rb"<title[^>]*>([^<]{1,200})", re.IGNORECASE)
_SHOWN_LETTERS = 80

_BY_MAGIC: Mapping[bytes, tuple[str, str]] = MappingProxyType(
    {
        b"GGUF": ("a GGUF file", "give it the ending .gguf"),
        b"\x1f\x8b": ("an archive (gzip)", "unpack it"),
        b"7z\xbc\xaf\x27\x1c": ("an archive (7z)", "unpack it"),
        b"Rar!": ("an archive (RAR)", "unpack it"),
        b"\xfd7zXZ": ("an archive (xz)", "unpack it"),
        b"\x28\xb5\x2f\xfd": ("an archive (zstd)", "unpack it"),
        b"\x89HDF": ("an HDF5 file", "take the model's safetensors files"),
        b"\x93NUMPY": ("an array of NumPy", "take the model's safetensors files"),
        b"\x89PNG": ("a picture", "give the model's file"),
        b"\xff\xd8\xff": ("a picture", "give the model's file"),
        b"%PDF": ("a PDF", "give the model's file"),
    }
)

_AGAIN = "fetch it again: the download did not come to its end"


def named_as_pickle(path: Path) -> bool:
    """Whether a file bears a pickle's name."""
    return path.suffix in PICKLES


def explain(path: Path, start: bytes, file_bytes: int) -> ModelError | None:
    """What a file is that has no header of safetensors, from its first `LOOKED_AT_BYTES`; None where nobody knows."""
    if not file_bytes:
        return ModelError(f"{path}: an empty file", hint=_AGAIN)
    if not start.strip(b"\0"):
        return ModelError(f"{path}: begins with nothing but zeros: room for a file that has not come", hint=_AGAIN)
    if start.startswith(b"PK\x03\x04") or _PICKLE_MAGIC.match(start):
        return pickled(path)
    if start.startswith((b"version https://git-lfs", b"version http://git-media")):
        return ModelError(f"{path}: a Git LFS pointer, not the file", hint="run git lfs pull, or download it again")
    for magic, (what, hint) in _BY_MAGIC.items():
        if start.startswith(magic):
            return _another(path, what, hint)
    if _WEB_PAGE.match(start):
        found = _TITLE.search(start)
        title = f' ("{_shown(found[1])}")' if found else ""
        hint = "fetch the file itself: whoever did was shown this instead, a login or a notice"
        return _another(path, f"a web page{title}", hint)
    if _is_text(start):
        return _another(path, f'a text: "{_shown(start)}"', "fetch it again: whoever did was told this instead")
    return None


def pickled(path: Path) -> ModelError:
    """The error of a file that runs code when it is opened."""
    return ModelError(
        f"{path}: a pickled checkpoint, which can run any code when it is opened; only safetensors files are read",
        hint="take the model's safetensors files; or convert this one where you trust it, in a sandbox: "
        'safetensors.torch.save_file(torch.load(path, weights_only=True), "model.safetensors")',
    )


def _another(path: Path, what: str, hint: str) -> ModelError:
    return ModelError(f"{path}: not a safetensors file, but {what}", hint=hint)


def _is_text(start: bytes) -> bool:
    """Whether this is the beginning of a text, which may be cut within a letter."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter.isspace() for letter in text)


def _shown(text: bytes) -> str:
    return shorten(text.decode(errors="replace").strip(), _SHOWN_LETTERS)
