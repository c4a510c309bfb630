from __future__ import annotations

import dataclasses
import html
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image, ImageFont

from renderer.errors import DiskError
from renderer.job import ControlNet, Input, InputFile, Keep
from renderer.manifest.manifest import Manifest
from renderer.outputs.summary import Ending, write_summary
from renderer.planning.plan import Plan, make_plan
from renderer.report import page, thumbnails
from renderer.report.gather import Page, gather, hide_paths
from renderer.supervisor import events
from renderer.supervisor.progress import never_begun
from tests.controlnets import write_controlnet
from tests.making import finished, make_manifest
from tests.nights import make_night
from tests.reading import DEMO, load_text


def gathered(text: str, folder: Path) -> Page:
    manifest = load_text(f"{DEMO}{text}")
    make_night(manifest, folder)
    return gather(make_plan(manifest, folder))


def planned(manifest: Manifest, folder: Path) -> Plan:
    make_night(manifest, folder)
    return make_plan(manifest, folder)


class TestGroups:
    def test_a_matrix_becomes_rows_and_columns(self, tmp_path: Path) -> None:
        """The last name that varies makes columns; the others, and sizes and given seeds, make rows."""
        (group,) = gathered(
            'jobs: [{id: "{a}", prompt: "{a} {b}", matrix: {a: [x, y], b: [1, 2]}, seeds: [1, 2], size: 64x64}]',
            tmp_path,
        ).groups
        assert group.columns == ("1", "2")
        assert group.rows == ("x, seed 1", "x, seed 2", "y, seed 1", "y, seed 2")
        assert group.cells[:3] == ((0, 0), (1, 0), (0, 1))

    def test_sizes_make_rows(self, tmp_path: Path) -> None:
        """Where there are several, beside a matrix."""
        (group,) = gathered(
            'jobs: [{prompt: "{a}", matrix: {a: [x, y]}, sizes: [64x64, 128x64], seed: 1}]', tmp_path
        ).groups
        assert (group.corner, group.rows, group.columns) == ("size / a", ("64x64", "128x64"), ("x", "y"))

    def test_derived_seeds_make_no_rows(self, tmp_path: Path) -> None:
        """A seed that differs only because the prompt does says nothing."""
        (group,) = gathered('jobs: [{prompt: "{a}", matrix: {a: [x, y]}, size: 64x64}]', tmp_path).groups
        assert (group.rows, group.columns) == (("",), ("x", "y"))

    def test_a_diagonal_is_a_list(self, tmp_path: Path) -> None:
        """Values that are all different, as a table's rows have them, would leave nearly all cells of a grid empty."""
        more = ", ".join(f"{{a: {number}, b: {number}}}" for number in range(1, 6))
        job = f'{{prompt: "{{a}} {{b}}", matrix: {{a: [0], b: [0]}}, include: [{more}], size: 64x64}}'
        (group,) = gathered(f"jobs: [{job}]", tmp_path).groups
        assert (len(group.positions), group.rows) == (6, ())

    def test_without_a_matrix_there_is_no_grid(self, tmp_path: Path) -> None:
        """Jobs stand on their own, in the manifest's order."""
        groups = gathered("jobs: [{prompt: a, size: 64x64}, {prompt: b, size: 64x64, count: 2}]", tmp_path).groups
        assert [(group.positions, group.columns) for group in groups] == [((0,), ()), ((1, 2), ())]


def test_what_holds_a_picture_is_shown(tmp_path: Path) -> None:
    """As a manifest has it, by the names of files; the first of its pictures stands before it."""
    path = write_controlnet(tmp_path / "nets/edges.safetensors")
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "lines.png")
    net = f"{{file: {path}, image: {tmp_path / 'lines.png'}, scale: 0.5}}"
    (shown,) = gathered(f"jobs: [{{prompt: a, size: 64x64, controlnets: [{net}]}}]", tmp_path / "out").pictures
    assert shown["controlnets"] == [
        {"file": "…/edges.safetensors", "image": "lines.png"} | {"scale": 0.5, "start": 0.0, "end": 1.0}
    ]
    assert shown["before"].startswith("inputs/")
    regions = f"[{{prompt: a, mask: {tmp_path / 'lines.png'}}}]"
    beside = f"context_image: {tmp_path / 'lines.png'}"
    (shown,) = gathered(
        f"jobs: [{{prompt: a, size: 64x64, regions: {regions}, {beside}}}]", tmp_path / "parts"
    ).pictures
    assert shown["context_image"] == "lines.png"
    assert shown["regions"] == [{"prompt": "a", "mask": "lines.png"}]


def test_what_a_picture_is_made_of_is_shown(tmp_path: Path) -> None:
    """What is taken apart as an edit's pictures are, with how many layers; a ControlNet's mask beside what it sees."""
    (picture,) = make_manifest(["a"]).pictures
    photo, mask = (Input(sha256=letter * 64, width=64, height=64) for letter in "ab")
    files = tuple(
        InputFile(sha256=each.sha256, path=f"/home/ann/{name}.png", file_sha256="c" * 64)
        for each, name in ((photo, "photo"), (mask, "mask"))
    )
    net = ControlNet(source="DiffSynth-Studio/x", identity="d" * 64, image=photo, mask=mask)
    found = []
    for update in ({"layer_input_image": photo, "layer_num": 3}, {"controlnets": (net,)}):
        job = picture.job.model_copy(update=update)
        made = picture.model_copy(update={"job": job, "inputs": files})
        (shown,) = gather(make_plan(Manifest("m.yaml", "m", (made,)), tmp_path)).pictures
        found.append(shown)
    apart, held = found
    assert (apart["image"], apart["images"], apart["layers"]) == ("photo.png", ["photo.png"], 3)
    assert not apart.keys() & {"strength"}
    ((told,),) = (held["controlnets"],)
    assert (told["image"], told["mask"]) == ("photo.png", "mask.png")


def test_a_file_s_name_is_an_address(tmp_path: Path) -> None:
    """From the page, its folder included, whatever signs an address has a meaning for."""
    manifest = make_manifest(["a"])
    (picture,) = manifest.pictures
    named = dataclasses.replace(manifest, pictures=(picture.model_copy(update={"output": "sub/50% #1? ü"}),))
    (shown,) = gather(planned(named, tmp_path)).pictures
    assert shown["file"] == "sub/50%25%20%231%3F%20%C3%BC.png"


def test_what_is_set_aside_is_told_with_its_reason(tmp_path: Path) -> None:
    """As what failed is: it is not there, and will not be tried again."""
    plan = make_plan(make_manifest(), tmp_path)
    items = [
        dataclasses.replace(plan.items[0], state="set aside", note="it took three workers with it"),
        *plan.items[1:],
    ]
    found = gather(dataclasses.replace(plan, items=tuple(items)))
    assert [item.picture.id for item in found.trouble] == ["p000"]
    assert "it took three workers with it" in page.write_happened(found)
    assert found.counts["set aside"] == 1


class TestThumbnails:
    def test_they_are_made_once_and_swept(self, tmp_path: Path) -> None:
        """A second page makes none; a picture that is gone takes its thumbnail along."""
        plan = planned(make_manifest(), tmp_path)
        assert thumbnails.make_thumbnails(plan) == 3
        assert thumbnails.make_thumbnails(plan) == 0
        fewer = make_plan(make_manifest(("a", "b")), tmp_path)
        assert thumbnails.make_thumbnails(fewer) == 0
        assert len(list((plan.folder.path / "thumbs").iterdir())) == 2

    def test_a_damaged_picture_has_none(self, tmp_path: Path) -> None:
        """A picture that cannot be read does not keep the page from being written."""
        plan = planned(make_manifest(), tmp_path)
        picture = plan.folder.picture("p001")
        picture.write_bytes(b"x" * picture.stat().st_size)
        page.write(make_plan(make_manifest(), tmp_path))
        assert len(list((plan.folder.path / "thumbs").iterdir())) == 2

    def test_every_format_has_one(self, tmp_path: Path) -> None:
        """WebP and JPEG pictures too."""
        manifest = make_manifest(("a", "b"))
        kept = (Keep(format="webp"), Keep(format="jpeg"))
        pictures = tuple(
            each.model_copy(update={"keep": keep}) for each, keep in zip(manifest.pictures, kept, strict=True)
        )
        assert thumbnails.make_thumbnails(planned(Manifest("m.yaml", "m", pictures), tmp_path)) == 2

    def test_the_contact_sheet_shows_at_most_so_many(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Rows of eight, and a line that says how many more there are; also where no font is installed."""
        monkeypatch.setattr(thumbnails, "_FONTS", ())
        monkeypatch.setattr(thumbnails, "_SHEET_MOST", 16)
        plan = planned(make_manifest([str(number) for number in range(20)]), tmp_path)
        thumbnails.make_thumbnails(plan)
        path = thumbnails.make_contact_sheet(plan)
        assert path is not None
        with Image.open(path) as image:
            assert image.size == (8 * 168 + 8, 2 * 186 + 8 + 18)

    def test_a_font_is_chosen_by_what_it_draws(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """One that lacks the letters of ids is passed over, whatever its name; at last there is Pillow's own."""
        own = ImageFont.load_default(12)
        assert isinstance(own, ImageFont.FreeTypeFont)
        (tmp_path / "NotoSansCJK-Regular.ttc").write_bytes(own.font_bytes)
        monkeypatch.setattr(thumbnails, "_FONT_FOLDERS", (str(tmp_path),))
        found = thumbnails.find_font(12)
        assert isinstance(found, ImageFont.FreeTypeFont)
        assert str(found.path) == str(tmp_path / "NotoSansCJK-Regular.ttc")  # no Chinese, but there is no better one
        monkeypatch.setattr(thumbnails, "_LATIN", "海报")
        found = thumbnails.find_font(12)
        assert str(getattr(found, "path", "")) != str(tmp_path / "NotoSansCJK-Regular.ttc")

    def test_a_long_name_is_cut_to_its_square(self) -> None:
        """Beside its neighbour's; a short one stays as it is."""
        font = thumbnails.find_font(12)
        cut = thumbnails._fit("a-name-without-end" * 20, font)
        assert cut.endswith("…")
        assert cut.startswith("a-name")
        assert font.getlength(cut) <= thumbnails._SHEET_SIDE
        assert thumbnails._fit("moon", font) == "moon"

    def test_many_thumbnails_are_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What takes long is told while it is done; what is there already takes no time."""
        monkeypatch.setattr("renderer.supervisor.busy.TELL_AFTER_S", 0.0)
        plan = planned(make_manifest([str(number) for number in range(6)]), tmp_path)
        told: list[events.Event] = []
        page.write(plan, told.append)
        assert told[0] == events.Busy("test", "making thumbnails", 1, 6)
        told.clear()
        page.write(plan, told.append)
        assert told == []

    @pytest.mark.parametrize("name", ["index.html", "contact-sheet.png", "report", "report/page.js", "thumbs"])
    @pytest.mark.parametrize("kind", ["file", "folder", "link"])
    def test_whatever_stands_in_the_way_is_a_disk_error(self, tmp_path: Path, name: str, kind: str) -> None:
        """A folder, a file or a link to nowhere in the place of what the page writes: written past it, or said so."""
        plan = planned(make_manifest(["a"]), tmp_path)
        path = plan.folder.path / name
        path.parent.mkdir(exist_ok=True)
        if kind == "file":
            path.write_text("mine")
        elif kind == "folder":
            (path / "full.webp").mkdir(parents=True)
        else:
            path.symlink_to(tmp_path / "nowhere")
        with suppress(DiskError):
            page.write(plan)
        assert finished(plan.folder, "p000", plan.items[0].fingerprint, thorough=True)

    def test_a_picture_that_is_none_has_no_thumbnail(self, tmp_path: Path) -> None:
        """Bytes that Pillow stumbles over in any way leave an empty square, and the page is written."""
        plan = planned(make_manifest(["a", "b"]), tmp_path)
        picture = plan.folder.picture("p000")
        whole = picture.read_bytes()
        for data in (
            b"",
            whole[:40],
            whole[:-20],
            whole.replace(b"IHDR", b"IHDX"),
            whole[:60] + b"\0" * 60 + whole[120:],
        ):
            picture.write_bytes(data)
            assert page.write(plan).is_file()

    def test_nothing_done_makes_no_sheet(self, tmp_path: Path) -> None:
        """An empty folder has a page, and no contact sheet."""
        plan = make_plan(make_manifest(), tmp_path)
        assert thumbnails.make_contact_sheet(plan) is None
        assert page.write(plan).is_file()


class TestMarkdown:
    def test_reasons_are_text_in_a_cell(self, tmp_path: Path) -> None:
        """Counts, and each failure with its reason; nothing of a reason is taken for Markdown or HTML."""
        plan = make_plan(make_manifest(), tmp_path)
        plan.journal.write("failed", "p000", plan.items[0].fingerprint, "a | <b>bad</b>\nline, @ann #1 ![x]")
        text = page.write_markdown(gather(make_plan(make_manifest(), tmp_path)))
        assert "| 0 | 1 | 0 | 2 |" in text
        assert "| p000 | failed | a &#124; &#60;b&#62;bad&#60;/b&#62; line, &#64;ann &#35;1 &#33;&#91;x&#93; |" in text


class TestLog:
    @pytest.mark.parametrize(
        ("line", "told"),
        [
            ('  File "/home/ann/venv/lib/python3.11/site-packages/torch/nn/modules.py", line 7, in forward',
             '  File "torch/nn/modules.py", line 7, in forward'),
            ("Loading models from: ['/mnt/big disk/ann/models/a.safetensors', '/srv/b.safetensors']",
             "Loading models from: ['…/a.safetensors', '…/b.safetensors']"),
            ("OSError: [Errno 2] No such file: /home/ann/secret.txt", "OSError: [Errno 2] No such file: …/secret.txt"),
            ("cache=~/.cache/hub/x path=/root/.cache/hub/", "cache=…/x path=…/hub"),
            ("see file:///home/ann/notes.txt", "see …/notes.txt"),
            ("https://huggingface.co/Qwen/Qwen-Image at 3/4 of 12 MB/s, step 3/40", None),
            ("outputs/night/p000.png and Qwen/Qwen-Image, a / b", None),
        ],
    )  # fmt: skip
    def test_paths_of_the_machine_are_cut(self, line: str, told: str | None) -> None:
        """Of a path only what it is in a library is left, or its name; ratios, models and addresses stay."""
        assert hide_paths(line) == (line if told is None else told)

    def test_paths_in_the_project_are_told_from_there(self) -> None:
        """Where the command was run from is nobody's business, what is below it may be."""
        assert hide_paths(f"cannot read {Path.cwd()}/jobs/a.yaml") == "cannot read jobs/a.yaml"

    def test_the_end_of_a_long_log_is_shown(self, tmp_path: Path) -> None:
        """Where what went wrong stands; of its beginning nothing."""
        plan = planned(make_manifest(), tmp_path)
        plan.journal.write("failed", "p000", plan.items[0].fingerprint, "no memory")
        (plan.folder.path / "p000.png").unlink()
        (plan.folder.path / "worker.log").write_text("it begins\n" + "steps\n" * 2000 + "it ends")
        found = gather(make_plan(make_manifest(), tmp_path)).log
        assert found.endswith("steps\nit ends")
        assert "it begins" not in found
        assert len(found) < 5000

    def test_the_page_s_excerpt_has_none(self, tmp_path: Path) -> None:
        """The end of the worker's log and a failure's reason, as the page shows them and as Markdown has it."""
        plan = planned(manifest := make_manifest(), tmp_path)
        plan.journal.write("failed", "p000", plan.items[0].fingerprint, f"damaged weights: {tmp_path}/b.safetensors")
        (plan.folder.path / "p000.png").unlink()
        (plan.folder.path / "worker.log").write_text(f"Traceback: {tmp_path}/a.py\n")
        found = gather(make_plan(manifest, tmp_path))
        assert found.log == "Traceback: …/a.py\n"
        for text in (page.write_html(found), page.write_markdown(found)):
            assert "/b.safetensors" in text
            assert str(tmp_path) not in html.unescape(text)


def test_a_run_that_ended_with_an_error_has_a_page(tmp_path: Path) -> None:
    """It says why, and nothing of this machine's paths: of all endings this one wants a page most."""
    plan = planned(manifest := make_manifest(), tmp_path)
    write_summary(plan.folder, never_begun(manifest, "error", f"cannot read {tmp_path}/a.safetensors: <b>"))
    found = gather(plan)
    assert "with an error: cannot read …/a.safetensors: &lt;b&gt;" in page.write_html(found)
    assert page.write_markdown(found)


ENDINGS: dict[Ending, str] = {
    "complete": "with nothing left to do",
    "deadline": "at its deadline",
    "signal": "on request",
    "failures": "after too many failures in a row",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_how_a_run_ended_is_said(tmp_path: Path, ending: Ending) -> None:
    """In words, whichever it was."""
    plan = planned(manifest := make_manifest(), tmp_path)
    write_summary(plan.folder, never_begun(manifest, ending))
    assert f"<dd>{ENDINGS[ending]}</dd>" in page.write_happened(gather(plan))
