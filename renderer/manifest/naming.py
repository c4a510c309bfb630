"""Templates, and what becomes of the names they make: ids that can be typed, and file names that are safe everywhere.

An output name is a path below the manifest's folder, without extension. Whatever a value holds, it cannot leave that
folder, hide a file, cheat the eye or exceed a file system's limits: unsafe characters become `-`, predictably, so that
the same value always gives the same name. What the program keeps in
the folder itself gets out of no picture's way: `folder` knows its names. Links are the writer's business.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from renderer.errors import RendererError, shorten
from renderer.outputs.folder import is_file_name, is_layer_name, is_reserved

MAX_NAME_BYTES = 199
"""Of a whole output name in UTF-8: room for an extension and a temporary name within a file system's 255."""

MAX_ID_LENGTH = 150
MAX_VALUE_LENGTH = 40
"""Characters of a matrix's value within an id."""

MAX_FIELD_LENGTH = 250
"""Characters of one value within an output name, before the whole is cut."""


class TemplateError(RendererError):
    """A template's braces do not pair, or hold something that is not a name."""


# ---- templates -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Template:
    """A text with gaps: pairs of a literal and the name of the field that follows it, or None at the end."""

    parts: tuple[tuple[str, str | None], ...]

    @property
    def fields(self) -> tuple[str, ...]:
        """The names it mentions, each once, in the order of their first use."""
        return tuple(dict.fromkeys(name for _, name in self.parts if name is not None))

    def fill(self, values: Mapping[str, str]) -> str:
        """The text with each field's value in its gap."""
        return "".join([literal if name is None else literal + values[name] for literal, name in self.parts])

    def measure(self, lengths: Mapping[str, int]) -> int:
        """How many characters `fill` would give, from the values' lengths: cheap even where the text is not."""
        return sum(len(literal) + (0 if name is None else lengths[name]) for literal, name in self.parts)


def literal(text: str) -> Template:
    """A template that is nothing but its text; braces are just braces."""
    return Template(((text, None),))


_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def parse(text: str) -> Template:
    """A template of `{name}` fields, where `{{` and `}}` are braces.

    Raises `TemplateError` at a brace alone, and at anything in braces that is not a name.
    """
    parts: list[tuple[str, str | None]] = []
    written, end = "", 0
    for token in _TOKEN.finditer(text):
        written += text[end : token.start()]
        end = token.end()
        name = token[1]
        if token[0] in {"{{", "}}"}:
            written += token[0][0]
        elif name is None:
            raise TemplateError(f"a single {token[0]}", hint=f"{token[0] * 2} is a brace")
        elif not name.isidentifier():
            raise TemplateError(
                f"{{{shorten(name)}}} is not a name in braces", hint="just a name, like {id}; {{ is a brace"
            )
        else:
            parts.append((written, name))
            written = ""
    return Template((*parts, (written + text[end:], None)))


_IN_BRACES = re.compile(r"\{(\w+)\}")


def in_braces(text: str) -> list[str]:
    """What looks like names in braces, in a text that need not be a template."""
    return _IN_BRACES.findall(text)


# ---- ids -------------------------------------------------------------------------------------------------------------


def refuse_id(text: str) -> tuple[str, str]:
    """Why a text is no id, with a hint; or two empty strings.

    An id is letters and digits of any script, `_`, `-` and `.`, and begins with a letter, a digit or `_`: it is typed
    at `--only`, and is a file's name by default.
    """
    if len(text) > MAX_ID_LENGTH:
        return f"the id has {len(text)} characters", f"at most {MAX_ID_LENGTH}"
    if _PLAIN_ID.fullmatch(text):
        return "", ""
    if not text or not all(map(_fits_ids, text)) or _cannot_begin(text[0]):
        return "an id has only letters, digits, _ - and ., and begins with a letter or digit", f'like "{slug(text)}"'
    return "", ""


_PLAIN_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""What most ids are; found at once, where there are a hundred thousand."""


@lru_cache(maxsize=4096)
def slug(text: str) -> str:
    """A matrix's value within an id: what does not fit becomes `-`; one cut or emptied gets 8 digits of its hash."""
    letters = (letter if _fits_ids(letter) else " " for letter in unicodedata.normalize("NFC", text))
    fitting = "".join(itertools.dropwhile(_cannot_begin, "-".join("".join(letters).split()))).rstrip("-.")
    if fitting and len(fitting) <= MAX_VALUE_LENGTH:
        return fitting
    return f"{fitting[: MAX_VALUE_LENGTH - 9]}-{_hash(text)}".lstrip("-")


def _cannot_begin(letter: str) -> bool:
    return not (letter.isalnum() or letter == "_")


def _fits_ids(letter: str) -> bool:
    # Marks are accents and vowel signs, which belong to the letter before them.
    return letter.isalnum() or letter in "_-." or unicodedata.category(letter)[0] == "M"


# ---- output names ----------------------------------------------------------------------------------------------------


def refuse_layout(template: Template) -> tuple[str, str]:
    """Why a template for output names makes no path below a folder, with a hint; or two empty strings."""
    layout = template.fill(dict.fromkeys(template.fields, "x"))
    folders = layout.split("/")
    if "\\" in layout:
        return "a backslash is not allowed", "folders are separated by /"
    if layout.startswith("/"):
        return "must not begin with /", "names are below the manifest's own output folder"
    if {".", ".."} & {folder.strip() for folder in folders}:
        return "must not contain . or .. as a folder", "names are below the manifest's own output folder"
    if not all(folder.strip() for folder in folders):
        return "has a part without a name", "between two / stands at least one character"
    return "", ""


def output_name(template: Template, values: Mapping[str, str]) -> str:
    """A picture's name below its manifest's folder: `/` from the template makes folders, `/` from values does not."""
    filled = template.fill({name: _flat(values[name]) for name in template.fields})
    *folders, last = (safe_component(component) for component in filled.split("/"))
    parts = [f"{each}_" if is_file_name(each) else each for each in folders] + [last]
    if is_reserved(parts[0], folder=bool(folders)):
        parts[0] += "_"
    if is_layer_name(parts[-1]):
        parts[-1] += "_"
    name = "/".join(parts)
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    cut = name.encode()[: MAX_NAME_BYTES - 9].decode(errors="ignore").rstrip("/. -")
    return f"{cut}-{_hash(name)}"


def collision_key(name: str) -> str:
    """Equal for two names that are one file somewhere: on a disk that ignores case, or how letters are composed."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


_UNSAFE_RUN = re.compile(r'[\0<>:"/\\|?*]+')
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})
"""Controls, marks that turn the direction of writing or have no width, private characters, halves of characters."""

_WINDOWS_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(?=\.|$)", re.IGNORECASE)


def safe_component(text: str) -> str:
    """One folder's or file's name that every file system takes and no shell or eye misreads."""
    if not _PLAIN_COMPONENT.fullmatch(text):
        text = _UNSAFE_RUN.sub("-", _blank(unicodedata.normalize("NFC", text)))
        text = re.sub(r"^[-. ]+", "_", text)
        text = re.sub(r"[. ]+$", "-", text) or "_"
    device = _WINDOWS_DEVICE.match(text)
    return f"{device[0]}_{text[device.end() :]}" if device else text


_PLAIN_COMPONENT = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_ .-]*[A-Za-z0-9_-])?")
"""What is safe as it is, but for the names of Windows' devices."""


def _blank(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join("\0" if unicodedata.category(letter) in _UNSAFE_CATEGORIES else letter for letter in text)


@lru_cache(maxsize=512)
def _flat(value: str) -> str:
    """A value without separators, and short enough that no template can multiply it into something large."""
    # A backslash makes no folder either, and is replaced with what else is unsafe around it.
    flat = value.replace("/", "\\")
    if len(flat) <= MAX_FIELD_LENGTH:
        return flat
    return f"{flat[:MAX_FIELD_LENGTH]}-{_hash(flat)}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
