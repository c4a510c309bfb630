"""Templates, ids and output names: predictable for people, harmless for file systems."""

from __future__ import annotations

import hashlib
import time
import unicodedata
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from renderer.manifest import naming
from renderer.manifest.naming import TemplateError, collision_key, output_name, parse, refuse_id, refuse_layout, slug
from renderer.outputs.folder import is_reserved


def name_of(template: str, **values: str) -> str:
    return output_name(parse(template), values)


class TestTemplate:
    @pytest.mark.parametrize(
        ("text", "filled"),
        [
            ("", ""),
            ("plain", "plain"),
            ("{a}", "1"),
            ("x{a}y{b}z{a}", "x1y2z1"),
            ("{{a}}", "{a}"),
            ("{{{a}}}", "{1}"),
            ("{{{{a}}}}", "{{a}}"),
            ("你{城}好", "你3好"),
        ],
    )
    def test_fill(self, text: str, filled: str) -> None:
        """A name in braces stands for its value, a doubled brace for a brace."""
        template = parse(text)
        values = {"a": "1", "b": "2", "城": "3"}
        assert template.fill(values) == filled
        assert template.measure({name: len(value) for name, value in values.items()}) == len(filled)

    def test_values_are_not_templates(self) -> None:
        """Braces in a value stay what they are."""
        assert parse("{a}").fill({"a": "{b}"}) == "{b}"

    def test_fields(self) -> None:
        """A template knows each of its fields once, in order."""
        assert parse("{b}{a}{b}{{c}}").fields == ("b", "a")

    @pytest.mark.parametrize(
        "text",
        ["{", "}", "a}b", "{a", "{}", "{ a }", "{a b}", "{0}", "{a.b}", "{a[0]}", "{a!r}", "{a:>9}", "{a{b}}", "{{a}"],
    )
    def test_refused(self, text: str) -> None:
        """Single braces, format specifications, conversions and attributes are refused, with a hint."""
        with pytest.raises(TemplateError) as caught:
            parse(text)
        assert "is a brace" in caught.value.hint

    def test_literal(self) -> None:
        """A literal's braces are just braces."""
        assert naming.literal("{a} {{").fill({}) == "{a} {{"


class TestIds:
    @pytest.mark.parametrize("text", ["a", "001", "welcome-2_x.y", "你好", "é", "_a", "कि", "x" * naming.MAX_ID_LENGTH])
    def test_allowed(self, text: str) -> None:
        """Letters and digits of any script, _ - and . make an id."""
        assert refuse_id(text) == ("", "")

    @pytest.mark.parametrize(
        "text", ["", "a b", "a/b", "..", "-a", ".a", "a\\b", "a\n", "a:b", "*", "a\u202eb", "\u0301a", "{a}"]
    )
    def test_refused(self, text: str) -> None:
        """Spaces, slashes, shell characters and a beginning that is no letter are refused, with a proposal that is."""
        message, hint = refuse_id(text)
        assert message
        assert refuse_id(hint.removeprefix('like "').removesuffix('"')) == ("", "")

    def test_too_long(self) -> None:
        """An id has a length that a file's name can bear."""
        assert refuse_id("x" * (naming.MAX_ID_LENGTH + 1))[1] == "at most 150"

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("Paris", "Paris"),
            ("Hello 你好", "Hello-你好"),
            ("../../etc/passwd", "etc-passwd"),
            ("a  --  b", "a----b"),
            ("1.50", "1.50"),
            ("e\u0301", "\u00e9"),
            ("?!", "-"),
        ],
    )
    def test_slug(self, text: str, expected: str) -> None:
        """A value in an id keeps its letters; the rest becomes dashes; nothing left becomes a hash."""
        found = slug(text)
        if expected == "-":
            assert len(found) == 8
        else:
            assert found == expected

    def test_long_slug(self) -> None:
        """A long value is cut, and its hash tells it from others that begin alike."""
        assert len(slug("x" * 41)) == naming.MAX_VALUE_LENGTH
        assert slug("x" * 41) != slug("x" * 42)

    @given(st.text(max_size=80))
    def test_slugs_are_ids(self, text: str) -> None:
        """Whatever the value, its slug can stand in an id, and is short."""
        assert refuse_id("a" + slug(text)) == ("", "")
        assert 1 <= len(slug(text)) <= naming.MAX_VALUE_LENGTH


class TestLayout:
    @pytest.mark.parametrize("text", ["{id}", "a/b/{id}", "{a}/{b}", "{seed}..{id}", "a.b/c", "{{x}}"])
    def test_allowed(self, text: str) -> None:
        """A template's own slashes make folders."""
        assert refuse_layout(parse(text)) == ("", "")

    @pytest.mark.parametrize(
        "text",
        [
            "/{id}",
            "../{id}",
            "a/../{id}",
            "a/..",
            "./{id}",
            "a//{id}",
            "{id}/",
            "a\\{id}",
            "\\\\host\\{id}",
            "/",
            " ",
            ".. /x",
            "a/ /b",
        ],
    )
    def test_refused(self, text: str) -> None:
        """Absolute paths, parent folders, empty parts and backslashes are refused."""
        message, hint = refuse_layout(parse(text))
        assert message
        assert hint


class TestOutputName:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("welcome", "welcome"),
            ("你好 世界", "你好 世界"),
            ("Qwen/Qwen-Image", "Qwen-Qwen-Image"),
            ("../../../etc/passwd", "_etc-passwd"),
            ("..\\..\\x", "_x"),
            ("/etc/passwd", "_etc-passwd"),
            ("C:\\x", "C-x"),
            ("\\\\host\\share", "_host-share"),
            ("..", "_"),
            (".", "_"),
            ("", "_"),
            (" ", "_"),
            (".hidden", "_hidden"),
            ("--force", "_force"),
            ("~root", "~root"),
            ("a. ", "a-"),
            ("a...", "a-"),
            ('<>:"|?*', "_"),
            ('x<>:"|?*y', "x-y"),
            ("a\x00b", "a-b"),
            ("a\nb\tc", "a-b-c"),
            ("a\x1b[31mb", "a-[31mb"),
            ("gpj\u202egnp", "gpj-gnp"),
            ("a\u200bb", "a-b"),
            ("a\u2028b", "a-b"),
            ("a\ue000b", "a-b"),
            ("con", "con_"),
            ("NUL.txt", "NUL_.txt"),
            ("com1", "com1_"),
            ("LPT³", "LPT³_"),
            ("aux .x", "aux _.x"),
            ("console", "console"),
            ("summary", "summary_"),
            ("Journal", "Journal_"),
            ("index", "index_"),
            ("contact-sheet", "contact-sheet_"),
            ("THUMBS", "THUMBS_"),
            ("summary2", "summary2"),
            ("e\u0301", "\u00e9"),
            ("\uff0e\uff0e\uff0f", "\uff0e\uff0e\uff0f"),
        ],
    )
    def test_values(self, value: str, expected: str) -> None:
        """Whatever a value holds, the name is one harmless part, and always the same one."""
        assert name_of("{id}", id=value) == expected

    def test_folders(self) -> None:
        """The template's slashes make folders; a value's do not; each part is made safe by itself."""
        assert name_of("{a}/{b}", a="x/y", b="..") == "x-y/_"
        assert name_of("a/{b}", b="con") == "a/con_"

    def test_reserved_only_at_the_top(self) -> None:
        """The program's own names matter at the top of the folder, nowhere below."""
        assert name_of("x/{id}", id="summary") == "x/summary"
        assert name_of("thumbs/{id}", id="a") == "thumbs_/a"

    def test_parts_from_several_values(self) -> None:
        """Two values cannot make together what neither may alone."""
        assert name_of("{a}{b}", a=".", b=".") == "_"
        assert name_of("{a}{b}", a="co", b="n") == "con_"

    def test_length(self) -> None:
        """A long name is cut between characters, and its hash tells it from others that begin alike."""
        found = name_of("{id}", id="你" * 100)
        assert len(found.encode()) < 200
        assert found.startswith("你" * 60)
        assert found != name_of("{id}", id="你" * 101)
        assert name_of("{id}", id="x" * 199) == "x" * 199
        assert name_of("{id}", id="x" * 200) == "x" * 190 + "-" + hashlib.sha256(b"x" * 200).hexdigest()[:8]

    def test_gigantic(self) -> None:
        """A template cannot multiply a long value into something that takes long."""
        began = time.process_time()
        assert all(len(name_of("{a}" * 75, a="é" * 10_000).encode()) < 200 for _ in range(100))
        assert time.process_time() - began < 3

    def test_cut_at_a_folder(self) -> None:
        """A name that is cut just behind a folder has no part that is only the hash."""
        found = name_of("{a}/{b}", a="x" * 189, b="y" * 50)
        assert found.startswith("x" * 189 + "-")
        assert "/" not in found

    @given(st.text(max_size=250), st.text(max_size=250), st.sampled_from(["{a}", "{a}/{b}", "x{b}", "{a}{b}/{b}/z"]))
    def test_always_safe(self, one: str, other: str, template: str) -> None:
        """No value leaves the folder, hides a file, or makes a name that some file system refuses."""
        name = name_of(template, a=one, b=other)
        assert 0 < len(name.encode()) < 200
        parts = PurePosixPath(name).parts
        assert "/".join(parts) == name
        assert not PureWindowsPath(name).is_absolute()
        for part in parts:
            assert part[0] not in ".- "
            assert part[-1] not in ". "
            assert not set(part) & set('<>:"\\|?*')
            assert not {unicodedata.category(letter) for letter in part} & {"Cc", "Cf", "Cs", "Co"}
            assert unicodedata.is_normalized("NFC", part)
            assert part.split(".")[0].strip().casefold() not in {"con", "nul", "aux", "prn", "com1", "lpt9"}
        assert not is_reserved(parts[0], folder=len(parts) > 1)
        assert name == name_of(template, a=one, b=other)


class TestCollisionKey:
    @pytest.mark.parametrize(
        ("one", "other"), [("Welcome", "wELCOME"), ("é", "e\u0301"), ("É", "e\u0301"), ("ß", "SS"), ("ﬁ", "FI")]
    )
    def test_same_file(self, one: str, other: str) -> None:
        """Names that differ in case or composition are one file on some disks."""
        assert collision_key(one) == collision_key(other)

    def test_other_file(self) -> None:
        """Other names are other files."""
        assert collision_key("a") != collision_key("b")
