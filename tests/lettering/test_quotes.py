"""What stands between quotation marks, and what only looks so."""

from __future__ import annotations

import pytest

from renderer.lettering.quotes import quoted


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ('a sign that says "OPEN"', ("OPEN",)),
        ("a sign that says “Hello 你好”, neon", ("Hello 你好",)),
        ("海报上写着「营业中」和『欢迎』", ("营业中", "欢迎")),
        ("a mug with ‘Don’t panic’ on it", ("Don’t panic",)),
        ("„Guten Tag“ und «Bonjour»", ("Guten Tag", "Bonjour")),
        ('"OPEN" above "24/7", and "OPEN" below', ("OPEN", "24/7")),
        ('two lines: "GRAND\n  OPENING"', ("GRAND OPENING",)),
        ("it's the dog's bowl, don't", ()),
        ("the dogs’ bowls and Jess’s", ()),
        ('a 24" monitor and a 12" disc', ()),
        ('a 24" monitor that says "HI"', ("HI",)),
        ('a mark that nothing closes: "OPEN', ()),
        ('empty: "" and "  "', ()),
    ],
)
def test_quoted(prompt: str, texts: tuple[str, ...]) -> None:
    assert quoted(prompt) == texts
