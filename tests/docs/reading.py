"""What stands in the documents: their fenced blocks, their code in lines of text, their links and headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "outputs/README.md",
    *sorted((ROOT / "docs").glob("*.md")),
)

_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)|<img src=\"([^\"]+)\"", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: what stands behind its first fence, its text, and where it is."""

    kind: str
    text: str
    place: str

    def __str__(self) -> str:
        return self.place


def name(document: Path) -> str:
    """A document's name, from the checkout's root."""
    return str(document.relative_to(ROOT))


def blocks(*kinds: str, documents: tuple[Path, ...] = DOCUMENTS) -> list[Block]:
    """Fenced blocks of these kinds, or all of them."""
    found = []
    for document in documents:
        text = document.read_text(encoding="utf-8")
        for fence in _FENCE.finditer(text):
            line = text.count("\n", 0, fence.start()) + 1
            found.append(Block(fence[1].strip(), fence[2], f"{name(document)}:{line}"))
    return [block for block in found if not kinds or block.kind in kinds]


def prose(document: Path) -> str:
    """A document without its fenced blocks."""
    return _FENCE.sub("", document.read_text(encoding="utf-8"))


def spans(document: Path) -> Iterator[str]:
    """Code within the document's lines of text, each on one line."""
    for span in _SPAN.finditer(prose(document)):
        yield " ".join(span[1].split())


def links(document: Path) -> Iterator[str]:
    """What a document's links and pictures lead to."""
    for link in _LINK.finditer(prose(document)):
        yield next(filter(None, link.groups()))


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives to a document's headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE):
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        again = sum(each == anchor or re.fullmatch(rf"{re.escape(anchor)}-\d+", each) is not None for each in found)
        found.add(f"{anchor}-{again}" if again else anchor)
    return found


def section(document: Path, heading: str) -> str:
    """What stands below a heading, up to the next one of its kind."""
    return f"\n{document.read_text(encoding='utf-8')}".split(f"\n## {heading}\n")[1].split("\n## ")[0]
