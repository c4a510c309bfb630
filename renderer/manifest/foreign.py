"""What stands in a prompt for another tool: there it is a command, here it is drawn as text.

One table of signs, each a pattern that ordinary text does not match, of any language. What stands in quotation marks is
meant to be drawn and is not looked at. Every pattern takes time in proportion to the text. Knows nothing of manifests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from renderer.errors import shorten


@dataclass(frozen=True, slots=True)
class ForeignWord:
    """Something in a text that was hardly meant, and what helps."""

    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class _Sign:
    """A pattern and what is said of its first match, which takes the place of `{0}`. `plain`: not beside a matrix.

    Patterns are compiled when the first text that may hold one is looked at: most manifests have none.
    """

    pattern: str
    message: str
    hint: str
    plain: bool = False


def _sign(pattern: str, message: str, hint: str, *, plain: bool = False) -> _Sign:
    return _Sign(pattern, message, hint, plain)


_MATRIX = "write a name in braces, like {animal}, and the alternatives into a matrix"
_TEXT = "{0} is read as text: "
_NO_WEIGHTS = _TEXT + "there are no weights here"
_NO_OPTIONS = _TEXT + "options are not read in prompts"
_SAY_IT = "say it in words"

_SIGNS = (
    _sign(
        r"<(?:lora|lyco|hypernet|ti|embed|embedding)\s*:[^<>\n]{1,120}>",
        _TEXT + "no LoRA is loaded by it", "remove it; a LoRA stands under loras"),
    _sign(
        r"<(?:random|wildcard|segment|preset|alternate|object|region|video|break|trigger|param|setvar|var|fromto|weight"
        r"|repeat|clear|comment)\b[^<>\n]{0,120}>", _TEXT + "such tags are SwarmUI's", "remove it"),
    _sign(r"(?<![^\W_])__[A-Za-z0-9][\w/*.-]{0,60}?__(?![^\W_])", _TEXT + "there are no wildcards here", _MATRIX),
    _sign(
        r"(?<!\{)\{[^{}|\n]{0,200}\|[^{}\n]{0,200}\}(?!\})", _TEXT + "nothing is chosen from it",
        "write two braces, like {{red|blue}}"),
    _sign(r"(?<!\{)\{{2,20}[^{}|\n]{1,200}\}\}+", _TEXT + "braces give no weight", _SAY_IT, plain=True),
    _sign(
        r"(?<!\{)\{[^\W\d]\w{0,60}\}(?!\})", "{0} stands for nothing: the job has no matrix",
        "write a matrix with its values, or remove the braces", plain=True),
    _sign(r"\([^()\n]{0,200}[^()\d\s:]\s*:\s*-?\d?\.\d{1,3}\s*\)", _NO_WEIGHTS, _SAY_IT),
    _sign(
        r"\[[^\[\]\n:]{0,100}:(?:[^\[\]\n:]{0,100}:)?\s*-?\d?\.\d{1,3}\s*\]",
        _TEXT + "a prompt does not change by steps", _SAY_IT),
    _sign(r"(?<![\w)])\(\([^()\n]{1,100}\)\)", _NO_WEIGHTS, _SAY_IT),
    _sign(r"(?<![\w\]])\[\[[^\[\]\n]{1,100}\]\]", _NO_WEIGHTS, _SAY_IT),
    _sign(r"(?<![\w.])-?\d?\.\d{1,2}::[^:\n]{1,200}::", _NO_WEIGHTS, _SAY_IT),
    _sign(r"\w::-?\d(?:\.\d)?(?!\w)", _NO_WEIGHTS, _SAY_IT),
    _sign(r"(?<!\S)(?<![A-Z]\s)BREAK(?=[\s,]+[^A-Z\s,]|\s*$)", _TEXT + "it parts nothing here", "remove it"),
    _sign(r"(?<=[a-z0-9,.)\]] )AND(?=\s+[^A-Z\s])", _TEXT + "it combines no prompts here", "write and"),
    _sign(r"(?<!\w)embedding:[\w./-]{1,80}", _TEXT + "no embedding is loaded by it", "remove it"),
    _sign(
        r"(?i)(?<!\w)(?:easynegative(?:v2)?|badhandv4|bad-hands-5|bad_prompt_version2|ng_deepnegative_v1_75t"
        r"|verybadimagenegative_v1\.3|baddream|fastnegativev2|unrealisticdream|score_\d(?:_up)?)(?!\w)",
        _TEXT + "it is an embedding or a tag of other models", "remove it"),
    _sign(r"(?<!\S)(?:--|\u2014)(?:ar|aspect)\b(?:\s+\d+:\d+)?", _NO_OPTIONS, 'write size: "16:9"'),
    _sign(r"(?<!\S)(?:--|\u2014)no\s+\S+", _NO_OPTIONS, "write negative_prompt"),
    _sign(r"(?<!\S)(?:--|\u2014)seed\s+\d+", _NO_OPTIONS, "write seed"),
    _sign(
        r"(?<!\S)(?:--|\u2014)(?:v|version|style|stylize|s|chaos|c|q|quality|niji|tile|iw|weird|w|sref|cref|cw|sw|stop|raw|p)"
        r"(?:\s+[\w.:/-]{1,80})?(?!\S)", _NO_OPTIONS, "remove it"),
)  # fmt: skip

_ANY_SIGN = re.compile(r"[<{\[(\u2014]|__|--|::|_\d|BREAK|AND|embedding:|(?i:negative|bad|dream)")
"""One of these is in every match: most prompts hold none, and are done."""

_QUOTED = re.compile(
    '"[^"\n]*"|\u201c[^\u201c\u201d\n]*\u201d|\u300c[^\u300c\u300d\n]*\u300d|\u300e[^\u300e\u300f\n]*\u300f'
)
_KEY = re.compile(
    r"\s*(prompt|negative_prompt|id|model|size|sizes|steps|seed|seeds|cfg_scale|count)\s*(?:\uff1a|:(?=\S))"
)


def findings(text: str, *, matrix: bool = False) -> Iterator[ForeignWord]:
    """What a text holds for other tools, once each kind. `matrix`: braces mean something in it."""
    if found := _KEY.match(text):
        yield ForeignWord(
            f"{shorten(found[0].strip())} is read as text: it is no key", f'write "{found[1]}: " with a space behind it'
        )
    if not _ANY_SIGN.search(text):
        return
    looked_at = _QUOTED.sub(lambda quoted: " " * len(quoted[0]), text)
    for sign in _SIGNS:
        found = None if sign.plain and matrix else re.search(sign.pattern, looked_at)
        if found:
            yield ForeignWord(sign.message.replace("{0}", shorten(found[0].strip())), sign.hint)
