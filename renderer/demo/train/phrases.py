"""A scene in words: English and Chinese, in several phrasings, drawn by lot.

What a prompt leaves out has a meaning: no place is the centre, no size is medium, no background is white, no colour of
letters is black or white, whichever contrasts. Single words ("heart", "red") leave everything else open; they teach
negative prompts what to avoid. Knows nothing of pixels.
"""

# ruff: noqa: RUF001  # Chinese has commas of its own

from __future__ import annotations

import random

from renderer.demo.train.scenes import Background, Scene, Thing, Word

CHINESE_COLOURS = {
    "red": "红色", "orange": "橙色", "yellow": "黄色", "green": "绿色", "blue": "蓝色", "purple": "紫色",
    "pink": "粉色", "brown": "棕色", "black": "黑色", "white": "白色", "grey": "灰色", "cyan": "青色",
}  # fmt: skip
CHINESE_SHAPES = {
    "circle": ("圆形", "圆"), "square": ("正方形", "方块"), "triangle": ("三角形",), "star": ("星形", "星星"),
    "ring": ("圆环",), "cross": ("十字", "十字形"), "heart": ("心形", "爱心"), "crescent": ("月牙", "月牙形"),
}  # fmt: skip
CHINESE_SIZES = {"small": "小", "medium": "", "large": "大"}
CHINESE_PLACES = {
    "centre": ("中间", "中央"), "left": ("左边", "左侧"), "right": ("右边", "右侧"), "top": ("上方", "顶部"),
    "bottom": ("下方", "底部"), "top left": ("左上角",), "top right": ("右上角",), "bottom left": ("左下角",),
    "bottom right": ("右下角",),
}  # fmt: skip
CHINESE_RELATIONS = {"left": "左边", "right": "右边", "above": "上面", "below": "下面"}

_SIZES = {"small": ("small", "small", "tiny", "little"), "medium": ("",), "large": ("large", "large", "big", "huge")}
_PLACES = {
    "centre": ("in the centre", "in the center", "in the middle", "", "", ""),
    "left": ("on the left", "on the left side", "at the left"),
    "right": ("on the right", "on the right side", "at the right"),
    "top": ("at the top", "on top"),
    "bottom": ("at the bottom",),
}
_RELATIONS = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
_ROWS = {"top": "at the top", "centre": "in the centre", "bottom": "at the bottom"}
_OPENINGS = ("a picture of ", "an image of ", "a poster with ", "draw ")


def phrase(scene: Scene, rng: random.Random, *, whole: bool = False) -> str:
    """One prompt for a scene: all of it if `whole`, else a single word of it now and then."""
    lot = rng.random()
    if not whole and lot < 0.04 and (tags := _tags(scene)):
        return rng.choice(tags)
    if lot < 0.22:
        return _chinese(scene, rng)
    prompt = _english(scene, rng)
    if rng.random() < 0.1:
        prompt = rng.choice(_OPENINGS) + prompt
    if rng.random() < 0.25:
        prompt = prompt[0].upper() + prompt[1:]
    return prompt + "." * (rng.random() < 0.1)


def _tags(scene: Scene) -> list[str]:
    kind, colours = scene.background.kind, scene.background.colours
    tags = [tag for thing in scene.things for tag in (thing.shape, thing.colour)]
    if kind != "plain":
        tags.append(kind)
    elif not scene.things:
        tags.append(colours[0])
    return [*tags, "text", "letters"] if scene.word else tags


def _article(words: str) -> str:
    return ("an " if words[0] in "aeio" else "a ") + words


def _thing(thing: Thing, rng: random.Random) -> str:
    shape = thing.shape
    if shape == "crescent" and rng.random() < 0.3:
        shape = rng.choice(("crescent moon", "moon"))
    size = rng.choice(_SIZES[thing.size])
    colour = "gray" if thing.colour == "grey" and rng.random() < 0.3 else thing.colour
    words = f"{size} {colour} {shape}".strip()
    return words if rng.random() < 0.06 else _article(words)


def _ground(background: Background, rng: random.Random) -> str:
    one, two = background.colours[0], background.colours[-1]
    match background.kind:
        case "plain":
            return rng.choice((_article(f"{one} background"),) * 4 + (f"a plain {one} background", f"plain {one}", one))
        case "gradient":
            return rng.choice(
                (f"a gradient from {one} to {two}", _article(f"{one} to {two} gradient"),
                 f"a background that fades from {one} to {two}", f"a background with a gradient from {one} to {two}")
            )  # fmt: skip
        case "horizontal gradient":
            return rng.choice(
                (f"a horizontal gradient from {one} to {two}", f"a horizontal {one} to {two} gradient",
                 f"a gradient from {one} on the left to {two} on the right")
            )  # fmt: skip
        case "dots":
            return rng.choice((_article(f"{one} background with {two} dots"),) * 2 + (f"{two} dots on {one}",))
        case kind:  # stripes, horizontal stripes, checks
            way, _, pattern = kind.rpartition(" ")
            if not way and pattern == "stripes":
                way = rng.choice(("", "", "vertical"))
            colours = f"{one} and {two}"
            phrasings = (f"{way} {colours} {pattern}", f"a background of {way} {colours} {pattern}",
                         f"{colours} {way} {pattern}")  # fmt: skip
            return " ".join(rng.choice(phrasings).split())


def _english(scene: Scene, rng: random.Random) -> str:
    subject = _subject(scene, rng)
    background = scene.background
    ground = _ground(background, rng)
    if not subject:
        return ground
    if background.kind == "plain" and background.colours == ("white",) and rng.random() < 0.4:
        return subject
    word = scene.word
    if word and scene.things and rng.random() < 0.4:  # the word comes last
        things = _things(scene, rng)
        side = rng.choice((_ROWS[word.row], "below" if word.row == "bottom" else "above"))
        return f"{things} on {ground} with {_word(word, rng)} {side}"
    if word and word.sign and rng.random() < 0.3:
        return f"{_article(word.sign)} sign on {ground} with {_word(word, rng)}" + _row(word, rng)
    joint = rng.random()
    if joint < 0.75:
        return f"{subject} on {ground}"
    return f"{ground} with {subject}" if joint < 0.87 and background.kind == "plain" else f"{subject}, {ground}"


def _subject(scene: Scene, rng: random.Random) -> str:
    word = scene.word
    if not scene.things:
        return _word_alone(word, rng) if word else ""
    things = _things(scene, rng)
    if word is None:
        return things
    text = _word(word, rng)
    below = word.row == "bottom"
    side = "below" if below else "above"
    choices = (
        f"{things} {'above' if below else 'below'} {text}",
        f"{text} {side} {things}",
        f"{things} with {text} {_ROWS[word.row]}",
        f"{things} with {text} {side}",
    )
    return rng.choice(choices)


def _things(scene: Scene, rng: random.Random) -> str:
    if scene.relation is not None:
        first, second = (_thing(thing, rng) for thing in scene.things)
        lot = rng.random()
        if lot < 0.15 and scene.relation in {"left", "right"}:
            other = "right" if scene.relation == "left" else "left"
            return f"{first} on the {scene.relation} and {second} on the {other}"
        if lot < 0.15:
            ends = ("at the top", "at the bottom")
            one, two = ends if scene.relation == "above" else ends[::-1]
            return f"{first} {one} and {second} {two}"
        return f"{first} {rng.choice(_RELATIONS[scene.relation])} {second}"
    (thing,) = scene.things
    words = _thing(thing, rng)
    if scene.word is not None:
        return words
    if " " in thing.place:
        place = rng.choice((f"in the {thing.place} corner", f"in the {thing.place}", f"at the {thing.place}"))
    else:
        place = rng.choice(_PLACES[thing.place])
    return f"{words} {place}".strip()


def _word(word: Word, rng: random.Random) -> str:
    quoted = f'"{word.letters}"'
    if word.colour is None:
        return rng.choice(("the text ", "the text ", "the word ", "")) + quoted
    return rng.choice(
        (f"the text {quoted} in {word.colour}", f"the {word.colour} text {quoted}",
         f"the word {quoted} in {word.colour} letters", f"{quoted} in {word.colour}")
    )  # fmt: skip


def _row(word: Word, rng: random.Random) -> str:
    return "" if word.row == "centre" and rng.random() < 0.6 else f" {_ROWS[word.row]}"


def _word_alone(word: Word, rng: random.Random) -> str:
    text = _word(word, rng)
    if word.sign is not None:
        text = f"{_article(word.sign)} sign {rng.choice(('with', 'that says', 'saying', 'with'))} {text}"
    return text + _row(word, rng)


def _chinese_ground(background: Background) -> str:
    one, two = CHINESE_COLOURS[background.colours[0]], CHINESE_COLOURS[background.colours[-1]]
    return {
        "plain": f"{one}背景",
        "gradient": f"从{one}到{two}的渐变背景",
        "horizontal gradient": f"从{one}到{two}的水平渐变背景",
        "stripes": f"{one}和{two}的条纹背景",
        "horizontal stripes": f"{one}和{two}的水平条纹背景",
        "dots": f"{one}背景加{two}圆点",
        "checks": f"{one}和{two}的格子背景",
    }[background.kind]


def _chinese_thing(thing: Thing, rng: random.Random) -> str:
    words = CHINESE_COLOURS[thing.colour]
    size, shape = CHINESE_SIZES[thing.size], rng.choice(CHINESE_SHAPES[thing.shape])
    words = rng.choice((f"{words}{size}{shape}", f"{words}的{size}{shape}", f"{size}{words}{shape}"))
    return rng.choice(("", "一个")) + words


def _chinese_word(word: Word, rng: random.Random) -> str:
    quoted = rng.choice((f"“{word.letters}”", f'"{word.letters}"'))
    colour = "" if word.colour is None else CHINESE_COLOURS[word.colour]
    return rng.choice((f"写着{colour}{quoted}", f"{colour}文字{quoted}", f"写着{colour}文字{quoted}"))


def _chinese(scene: Scene, rng: random.Random) -> str:
    ground, word = _chinese_ground(scene.background), scene.word
    rows = {"top": "上面", "centre": "中间", "bottom": "下面"}
    if scene.relation is not None:
        first, second = (_chinese_thing(thing, rng) for thing in scene.things)
        subject = f"{first}在{second}的{CHINESE_RELATIONS[scene.relation]}"
    elif scene.things:
        (thing,) = scene.things
        subject = _chinese_thing(thing, rng)
        if word is None and (thing.place != "centre" or rng.random() < 0.4):
            place = rng.choice(CHINESE_PLACES[thing.place])
            subject = rng.choice((f"{subject}在{place}", f"{place}有{subject}", f"{subject}，在{place}"))
    else:
        subject = ""
    if word is not None:
        text = _chinese_word(word, rng)
        if subject or word.row != "centre" or rng.random() < 0.3:
            text = rows[word.row] + text
        if word.sign is not None:
            text = f"{CHINESE_COLOURS[word.sign]}牌子{text}"
        subject = f"{subject}，{text}" if subject else text
    if not subject:
        return ground
    return rng.choice((f"{ground}上的{subject}", f"{ground}，{subject}", f"{subject}，{ground}"))
