"""Public cards as data: what their makers say they have and do, by name, with the source of each row.

Rates are those of the tensor cores without sparsity, bf16 or FP8 in, float32 out, at the boost clock; int8 in, int32
out, follows from them. What a program makes of them is `renderer.machine.rates`' business.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from renderer.errors import UsageError
from renderer.text import GIB

G = 10**9
T = 10**12


@dataclass(frozen=True, slots=True)
class Card:
    """One kind of GPU. Bytes, bytes a second, operations a second.

    `accumulates` says how fast products are that are summed up in float32, as ours are: `full`; `half` on GeForce,
    whose makers print the rate of float16 sums as well; `emulated`, where bf16 is no type of the tensor cores and
    products run as float32 ones, whose rate then stands here.
    """

    name: str
    memory_bytes: int
    memory_bytes_per_s: float
    bf16_flops: float
    fp8_flops: float | None
    pcie_generation: int
    pcie_width: int
    compute_capability: tuple[int, int]
    accumulates: Literal["full", "half", "emulated"]
    source: str

    @property
    def int8_flops(self) -> float | None:
        """Products of int8: a fixed number for each of bf16 in the makers' tables, and of float32 in Turing's.

        Sums of whole numbers are at full rate on every card. Before compute capability 7.5 no tensor core has them.
        """
        return self.bf16_flops * _INT8_FOR_BF16[self.accumulates] if self.compute_capability >= (7, 5) else None


_INT8_FOR_BF16: Mapping[str, int] = MappingProxyType({"full": 2, "half": 4, "emulated": 16})
"""Operations in int8 for one in bf16: RTX 3090 284 for 71, 4090 661 for 165, A100 624 for 312, H100 1979 for 989; of
T4 130 for 8.1 in float32."""


@dataclass(frozen=True, slots=True)
class Match:
    """The card that a name means, and the others that it could have meant."""

    card: Card
    others: tuple[Card, ...] = ()

    @property
    def note(self) -> str:
        """What should be said where the name was short; otherwise empty."""
        if not self.others:
            return ""
        return f"taken as {self.card.name}; there is also {' and '.join(other.name for other in self.others)}"


_AMPERE = "NVIDIA Ampere GA102 GPU Architecture whitepaper, 2021"
_GA102_RULE = "NVIDIA's product page, 2022; rates by the rule of the Ampere GA102 whitepaper, 2021"
_GA106_RULE = "NVIDIA's product page, 2021; rates by the rule of the Ampere GA102 whitepaper, 2021"
_ADA = "NVIDIA Ada GPU Architecture whitepaper, 2022"
_ADA_RULE = "NVIDIA's product page, {year}; rates by the rule of the Ada whitepaper, 2022"
_BLACKWELL = "NVIDIA RTX Blackwell GPU Architecture whitepaper, 2025"

CARDS: tuple[Card, ...] = (
    Card("GeForce RTX 3060 12GB", 12 * GIB, 360 * G, 25.5 * T, None, 4, 16, (8, 6), "half", _GA106_RULE),
    Card("GeForce RTX 3080 10GB", 10 * GIB, 760.3 * G, 59.5 * T, None, 4, 16, (8, 6), "half", _AMPERE),
    Card("GeForce RTX 3080 12GB", 12 * GIB, 912.4 * G, 61.3 * T, None, 4, 16, (8, 6), "half", _GA102_RULE),
    Card("GeForce RTX 3090", 24 * GIB, 936.2 * G, 71 * T, None, 4, 16, (8, 6), "half", _AMPERE),
    Card(
        "GeForce RTX 4060 Ti 16GB",
        16 * GIB,
        288 * G,
        44.1 * T,
        88.3 * T,
        4,
        8,
        (8, 9),
        "half",
        _ADA_RULE.format(year=2023),
    ),
    Card(
        "GeForce RTX 4070 Ti Super",
        16 * GIB,
        672.3 * G,
        88.2 * T,
        176.4 * T,
        4,
        16,
        (8, 9),
        "half",
        _ADA_RULE.format(year=2024),
    ),
    Card("GeForce RTX 4080", 16 * GIB, 716.8 * G, 97.5 * T, 194.9 * T, 4, 16, (8, 9), "half", _ADA),
    Card("GeForce RTX 4090", 24 * GIB, 1008 * G, 165.2 * T, 330.3 * T, 4, 16, (8, 9), "half", _ADA),
    Card("GeForce RTX 5070 Ti", 16 * GIB, 896 * G, 87.9 * T, 175.8 * T, 5, 16, (12, 0), "half", _BLACKWELL),
    Card("GeForce RTX 5080", 16 * GIB, 960 * G, 112.6 * T, 225.1 * T, 5, 16, (12, 0), "half", _BLACKWELL),
    Card("GeForce RTX 5090", 32 * GIB, 1792 * G, 209.5 * T, 419 * T, 5, 16, (12, 0), "half", _BLACKWELL),
    Card(
        "RTX A4000",
        16 * GIB,
        448 * G,
        76.7 * T,
        None,
        4,
        16,
        (8, 6),
        "full",
        "NVIDIA RTX A4000 datasheet, 2021",
    ),
    Card(
        "RTX A5000",
        24 * GIB,
        768 * G,
        111.1 * T,
        None,
        4,
        16,
        (8, 6),
        "full",
        "NVIDIA RTX A5000 datasheet, 2021",
    ),
    Card("RTX A6000", 48 * GIB, 768 * G, 154.8 * T, None, 4, 16, (8, 6), "full", _AMPERE),
    Card(
        "RTX 6000 Ada",
        48 * GIB,
        960 * G,
        364.2 * T,
        728.5 * T,
        4,
        16,
        (8, 9),
        "full",
        "NVIDIA RTX 6000 Ada Generation datasheet, 2023",
    ),
    Card(
        "RTX PRO 6000 Blackwell",
        96 * GIB,
        1792 * G,
        503.8 * T,
        1007.6 * T,
        5,
        16,
        (12, 0),
        "full",
        "NVIDIA RTX Blackwell PRO GPU Architecture whitepaper, 2025",
    ),
    Card("L4", 24 * GIB, 300 * G, 121 * T, 242.5 * T, 4, 16, (8, 9), "full", "NVIDIA L4 datasheet, 2023"),
    Card("L40S", 48 * GIB, 864 * G, 362 * T, 733 * T, 4, 16, (8, 9), "full", "NVIDIA L40S datasheet, 2023"),
    Card("T4", 16 * GIB, 320 * G, 8.1 * T, None, 3, 16, (7, 5), "emulated", "NVIDIA T4 datasheet, 2019"),
    Card(
        "V100 16GB",
        16 * GIB,
        900 * G,
        15.7 * T,
        None,
        3,
        16,
        (7, 0),
        "emulated",
        "NVIDIA V100 (SXM2) datasheet, 2018",
    ),
    Card(
        "V100 32GB",
        32 * GIB,
        900 * G,
        15.7 * T,
        None,
        3,
        16,
        (7, 0),
        "emulated",
        "NVIDIA V100 (SXM2) datasheet, 2018",
    ),
    Card("A100 40GB", 40 * GIB, 1555 * G, 312 * T, None, 4, 16, (8, 0), "full", "NVIDIA A100 datasheet, 2021"),
    Card(
        "A100 80GB",
        80 * GIB,
        2039 * G,
        312 * T,
        None,
        4,
        16,
        (8, 0),
        "full",
        "NVIDIA A100 (SXM) datasheet, 2021",
    ),
    Card(
        "A100 PCIe 80GB",
        80 * GIB,
        1935 * G,
        312 * T,
        None,
        4,
        16,
        (8, 0),
        "full",
        "NVIDIA A100 (PCIe) datasheet, 2021",
    ),
    Card(
        "H100 80GB",
        80 * GIB,
        3350 * G,
        989 * T,
        1979 * T,
        5,
        16,
        (9, 0),
        "full",
        "NVIDIA H100 (SXM) datasheet, 2023",
    ),
    Card(
        "H100 PCIe",
        80 * GIB,
        2000 * G,
        756 * T,
        1513 * T,
        5,
        16,
        (9, 0),
        "full",
        "NVIDIA H100 (PCIe) datasheet, 2022",
    ),
    Card("H200", 141 * GIB, 4800 * G, 989 * T, 1979 * T, 5, 16, (9, 0), "full", "NVIDIA H200 datasheet, 2024"),
    Card("B200", 180 * GIB, 8000 * G, 2250 * T, 4500 * T, 5, 16, (10, 0), "full", "NVIDIA HGX B200 datasheet, 2025"),
)
"""In each family from small to large. Where a name means several, the first is taken."""

_SILENT = frozenset(
    [
        "nvidia",
        "geforce",
        "rtx",
        "tesla",
        "quadro",
        "gpu",
        "graphics",
        "card",
        "generation",
        "workstation",
        "server",
        "edition",
        "founders",
        "fe",
        "tm",
        "r",
        "hbm2",
        "hbm2e",
        "hbm3",
        "hbm3e",
        "sxm",
        "sxm2",
        "sxm4",
        "sxm5",
        "tensor",
        "core",
        "desktop",
    ]
)
"""Words that tell none of these cards from another."""

_OTHER_CARDS = frozenset({"laptop", "mobile", "max", "q"})
"""Words that name a slower card of the same number."""


def find(name: str) -> Match:
    """The card that a loose name means: "rtx 3080", "NVIDIA GeForce RTX 3080", "4090", "A6000", "H100 PCIe".

    Raises `UsageError` with names that come near for one that is not in the table, as laptops' are not.
    """
    words = _words(name)
    matches = [card for card in CARDS if _means(words, card)]
    matches = matches or [card for card in CARDS if _means(words - {"pcie"}, card)]
    if matches:
        return Match(matches[0], tuple(matches[1:]))
    if words & _OTHER_CARDS:
        message = f"{name!r} is not in the table: laptop and Max-Q cards are slower than others of their number"
        raise UsageError(message, hint=f"give its memory instead, or take a card that is there: {_listed(CARDS)}")
    near = [card for card in CARDS if card.name in _near(name)]
    hint = f"did you mean {_listed(near, ' or ')}?" if near else f"there are {_listed(CARDS)}"
    raise UsageError(f"no card {name!r} in the table", hint=hint)


def of_gpu(name: str, total_bytes: int) -> Card | None:
    """The card that a driver's name and memory mean, or None: nothing is guessed for those not in the table."""
    try:
        match = find(name)
    except UsageError:
        return None
    card = min((match.card, *match.others), key=lambda each: abs(each.memory_bytes - total_bytes))
    return card if abs(card.memory_bytes - total_bytes) <= 0.1 * card.memory_bytes else None


def _words(name: str) -> frozenset[str]:
    """The words of a name that tell cards apart: "GeForce RTX3080Ti 12 GB" is 3080, ti, 12gb."""
    text = re.sub(r"(\d+)\s*gi?b\b", r" \1gb ", name.lower())
    text = re.sub(r"rtx\s*(?=[\da-z])", " ", text)
    text = re.sub(r"(\d{4})(ti|super)", r"\1 \2", text)
    text = re.sub(r"\b(ti)(super)\b", r"\1 \2", text)
    return frozenset(re.findall(r"[a-z0-9]+", text)) - _SILENT


def _means(words: frozenset[str], card: Card) -> bool:
    """Whether these words name the card: all that it must have, and nothing that it has not."""
    own = _words(card.name)
    sizes = {word for word in own if word.endswith("gb")}
    asked = {word for word in words if word.endswith("gb")}
    memory = sizes or {f"{card.memory_bytes // GIB}gb"}
    return bool(own) and own - sizes == words - asked and asked <= memory


def _near(name: str) -> list[str]:
    """Names of the same number; else those that look alike, whatever stands before it."""
    words = _words(name)
    numbers = {word for word in words if word.isdecimal()}
    if same := [card.name for card in CARDS if numbers & _words(card.name)]:
        return same
    plain = {" ".join(sorted(_words(card.name))): card.name for card in CARDS}
    found = difflib.get_close_matches(" ".join(sorted(words)), plain, n=3, cutoff=0.5)
    return [plain[each] for each in found]


def _listed(cards: Iterable[Card], between: str = ", ") -> str:
    return between.join(card.name.removeprefix("GeForce ") for card in cards)
