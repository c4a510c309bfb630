"""A manifest cut for several machines, and brought together: each picture once, wherever and whenever it came."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from renderer.cli.command import main
from renderer.errors import EXIT_FAILED, UsageError
from renderer.job import ControlNet, Input, Lora
from renderer.outputs import picks
from renderer.outputs.folder import OutputFolder
from renderer.planning import sharding
from renderer.planning.plan import make_plan
from renderer.planning.sharding import Shard
from renderer.supervisor import merging, readings, run
from renderer.supervisor.settings import Settings, StopRequests
from renderer.supervisor.sharing import LEASES, leases_in
from renderer.system import files
from tests.fakes import InlineReader, InlineWorker, draw
from tests.making import make_manifest, pixels_of
from tests.supervisor.test_readings import lettered
from tests.supervisor.test_taken_over import taken_over

MANIFEST = make_manifest([f"picture {number}" for number in range(24)])
GOLDEN = [2, 2, 6, 2, 2, 4, 5, 1, 2, 3, 3, 1]
"""Of seven, which parts a dozen pictures were in when this was written."""


def render(shard: Shard, outputs: Path, prompts: object = MANIFEST) -> int:
    """Render a part, as one machine does; how many pictures that were."""
    part = sharding.cut(prompts, shard, outputs)  # type: ignore[arg-type]
    (summary,) = run.render([part], Settings(outputs, hire=InlineWorker), lambda _: None, StopRequests())
    return summary.rendered


def test_every_picture_is_in_one_part() -> None:
    """And none of the parts is much larger than the others."""
    sizes = Counter(number for job in jobs(240) for number in range(1, 5) if Shard(number, 4).has(job))
    assert sum(sizes.values()) == 240
    assert min(sizes.values()) > 40


def jobs(count: int) -> list:  # type: ignore[type-arg]
    return [picture.job for picture in make_manifest([f"{number}" for number in range(count)]).pictures]


def test_a_longer_manifest_moves_nothing() -> None:
    """Which part a picture is in depends on its job alone."""
    before = {job for job in jobs(20) if Shard(2, 5).has(job)}
    assert before <= {job for job in jobs(40) if Shard(2, 5).has(job)}


def test_a_part_has_the_same_pictures_on_every_machine() -> None:
    """Wherever a LoRA and the model lie there, from wherever the command is called, and whether they are there yet."""
    for job in jobs(12):
        here = job.model_copy(update={"loras": (Lora(source="loras/a.safetensors", identity="ab", file_hash="12"),)})
        there = job.model_copy(update={"loras": (Lora(source="/mnt/loras/a.safetensors", identity="ab"),)})
        assert [Shard(number, 7).has(here) for number in range(1, 8)] == [
            Shard(number, 7).has(there.model_copy(update={"model": f"/mnt/{job.model}"})) for number in range(1, 8)
        ]


def test_a_part_is_the_same_in_the_next_version() -> None:
    """Machines of one night may have different ones: which picture is whose is as it always was."""
    parts = [next(number for number in range(1, 8) if Shard(number, 7).has(job)) for job in jobs(12)]
    assert parts == GOLDEN


def test_where_a_controlnet_lies_makes_no_other_part() -> None:
    """Nor does one that adds nothing: it makes no other picture."""
    image = Input(sha256="a" * 64, width=64, height=64)
    net = ControlNet(source="canny.safetensors", identity="1" * 64, image=image)
    for job in jobs(6):
        held, elsewhere, idle = (
            sharding._place(job.model_copy(update={"controlnets": (each,)}))
            for each in (
                net, net.model_copy(update={"source": "/mnt/canny.safetensors"}), net.model_copy(update={"scale": 0.0}),
            )
        )  # fmt: skip
        assert held == elsewhere != sharding._place(job)
        assert idle == sharding._place(job)


@pytest.mark.parametrize("text", ["0/4", "5/4", "3", "3/", "a/b", "1/10001", "1/99999", "-1/4"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a part like 3/16"):
        Shard.read(text)


def test_parts_are_rendered_apart_and_brought_together(tmp_path: Path) -> None:
    """Three machines, each with its own folder, journal and lock; then all lies in one, and the parts are empty."""
    rendered = [render(Shard(number, 3), tmp_path) for number in (1, 2, 3)]
    assert sum(rendered) == 24
    found = merging.merge(MANIFEST, tmp_path)
    assert (found.moved, found.held, found.troubles) == (24, (), ())
    folder = OutputFolder(tmp_path / MANIFEST.name)
    assert make_plan(MANIFEST, tmp_path, thorough=True).count("done") == 24
    for picture in MANIFEST.pictures:
        assert pixels_of(folder.picture(picture.output)) == draw(picture.job)
    assert not [path for part in sharding.folders(MANIFEST, tmp_path) for path in part.path.glob("p*")]
    assert [render(Shard(number, 3), tmp_path) for number in (1, 2, 3)] == [0, 0, 0], "what is merged is nobody's"


def test_marks_come_along_with_their_pictures(tmp_path: Path) -> None:
    """Those that were given in the whole's folder stay as they are there."""
    manifest = make_manifest(["one", "two"])
    assert render(Shard(1, 1), tmp_path, manifest) == 2
    one, two = (item.fingerprint for item in make_plan(manifest, tmp_path).items)
    whole = OutputFolder(tmp_path / manifest.name)
    picks.mark(OutputFolder(tmp_path / Shard(1, 1).name(manifest.name)), {one: 5, two: "x"})
    picks.mark(whole, {one: 3})
    assert merging.merge(manifest, tmp_path).moved == 2
    assert picks.read(whole) == {one: 3, two: "x"}


def test_a_part_that_is_being_rendered_is_left_alone(tmp_path: Path) -> None:
    """It is named, and comes with the next merge; so do pictures that another cut of the manifest left."""
    for number in (1, 2):
        render(Shard(number, 2), tmp_path)
    with OutputFolder(tmp_path / Shard(2, 2).name(MANIFEST.name)).locked():
        first = merging.merge(MANIFEST, tmp_path)
    assert first.held == ("test-shard-2-of-2",)
    assert sum(render(Shard(number, 5), tmp_path) for number in range(1, 6)) == 24 - first.moved
    assert merging.merge(MANIFEST, tmp_path).plan.count("done") == 24


def test_takes_are_brought_together_when_they_are_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture's later take comes as its first would; what is not read yet is gone on with in its part."""
    reader = InlineReader("WORD", frozenset({12, 20}))
    monkeypatch.setattr(readings, "LetterReader", lambda: reader)
    manifest = lettered(3, 4, 1)
    render(Shard(1, 1), tmp_path, manifest)
    assert (merged := merging.merge(manifest, tmp_path)).moved == 3
    assert merged.plan.count("done") == 3
    assert render(Shard(1, 1), tmp_path, manifest) == 0, "what is merged is nobody's"
    asked_anew = lettered(3, 4, 1, texts=("OTHER",))
    shutil.move(tmp_path / manifest.name, tmp_path / Shard(1, 2).name(manifest.name))
    assert merging.merge(asked_anew, tmp_path).moved == 0


def test_what_is_damaged_in_the_whole_is_in_a_part_again(tmp_path: Path) -> None:
    """It is cut off: whoever has the part it is in renders it once more."""
    manifest = make_manifest(["one", "two"])
    assert render(Shard(1, 1), tmp_path, manifest) == 2
    assert merging.merge(manifest, tmp_path).moved == 2
    path = OutputFolder(tmp_path / manifest.name).picture(manifest.pictures[0].output)
    path.write_bytes(path.read_bytes()[:-1])
    assert render(Shard(1, 1), tmp_path, manifest) == 1


def test_a_manifest_that_is_called_like_a_part_keeps_its_folder(tmp_path: Path) -> None:
    """It is another's, whose file is still there: nothing of it is brought into this one's."""
    render(Shard(1, 2), tmp_path)
    folder = OutputFolder(tmp_path / Shard(2, 2).name(MANIFEST.name))
    (tmp_path / "mine.yaml").write_text("jobs: []")
    folder.path.mkdir()
    folder.owner.write_text('{"manifest": "../mine.yaml"}')
    assert [part.path.name for part in sharding.folders(MANIFEST, tmp_path)] == ["test-shard-1-of-2"]


def test_what_two_parts_have_comes_once(tmp_path: Path) -> None:
    """And what only seems to lie in the whole's folder, being damaged, comes from a part."""
    for shard in (Shard(1, 1), Shard(1, 2)):
        render(shard, tmp_path)
    assert merging.merge(MANIFEST, tmp_path).moved == 24
    render(Shard(1, 1), tmp_path / "again")
    shutil.move(tmp_path / "again" / Shard(1, 1).name(MANIFEST.name), tmp_path / Shard(3, 3).name(MANIFEST.name))
    first = OutputFolder(tmp_path / MANIFEST.name).picture(MANIFEST.pictures[0].output)
    first.write_bytes(bytes(first.stat().st_size))
    assert merging.merge(MANIFEST, tmp_path).moved == 1
    assert make_plan(MANIFEST, tmp_path, thorough=True).count("done") == 24


@pytest.mark.parametrize("point", ["linked", "renamed", "part-written", "removed"])
def test_a_merge_that_dies_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    """At every moment each picture is whole in one of the two folders."""
    for number in (1, 2):
        render(Shard(number, 2), tmp_path)

    class Dead(BaseException):
        pass

    passed = 0

    def reached(here: str, _path: Path) -> None:
        nonlocal passed
        passed += here == point
        if passed == 3:
            raise Dead

    with monkeypatch.context() as patch:
        patch.setattr(files, "reached", reached)
        with pytest.raises(Dead):
            merging.merge(MANIFEST, tmp_path)
    merging.merge(MANIFEST, tmp_path)
    assert make_plan(MANIFEST, tmp_path, thorough=True).count("done") == 24


def test_by_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`plan --shard` says a part's pictures, `merge` what is missing, and both refuse what cannot be."""
    monkeypatch.chdir(tmp_path)
    lines = [f"  - {{id: j{number}, prompt: number {number}}}" for number in range(8)]
    Path("few.yaml").write_text("\n".join(["defaults: {model: demo}", "jobs:", *lines]) + "\n", encoding="utf-8")
    shown = []
    for part in ("1/2", "2/2"):
        assert main(["plan", "few.yaml", "--shard", part]) == 0
        shown += [line.split()[-1] for line in capsys.readouterr().out.splitlines() if line.startswith("  to do")]
    assert sorted(shown) == [f"j{number}" for number in range(8)]
    there = []
    for part in ("1/2", "2/2"):  # a part that has no such picture has nothing to do
        assert main(["plan", "few.yaml", "--shard", part, "--only", "j3"]) == 0
        there += [line.split()[-1] for line in capsys.readouterr().out.splitlines() if line.startswith("  to do")]
        assert main(["plan", "few.yaml", "--shard", part, "--only", "j9"]) == 2
        assert "few.yaml has no picture or job j9" in capsys.readouterr().err
    assert there == ["j3"]
    Path("bad.yaml").write_text("jobs: [{id: a}]\n", encoding="utf-8")
    assert main(["render", "bad.yaml", "--shard", "1/2", "--only", "a"]) == 2
    assert "has no picture" not in capsys.readouterr().err, "what is wrong with the manifest is said"
    assert main(["merge", "few.yaml"]) == EXIT_FAILED
    assert "few: 0 pictures came, 0 are there, 8 missing" in capsys.readouterr().out
    assert main(["render", "few.yaml", "--shard", "9/2"]) == 2
    assert "is not a part like 3/16" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["share", "shard"])
def test_what_is_merged_while_a_run_has_other_parts_is_not_rendered_again(how: str, tmp_path: Path) -> None:
    """It was cut before, and has its turn at the part when that is in the whole's folder."""
    share = sharding.share(MANIFEST, 2, tmp_path)
    cut = [sharding.cut(MANIFEST, Shard(number, 2), tmp_path) for number in (1, 2)]
    parts = share if how == "share" else cut
    rendered = 0
    for those in (parts[:1], parts):
        found = run.render(those, Settings(tmp_path, hire=InlineWorker), lambda _: None, StopRequests())
        assert all(each.is_all_there for each in found)
        rendered += sum(each.rendered for each in found)
        merging.merge(MANIFEST, tmp_path)
    assert rendered == 24
    assert make_plan(MANIFEST, tmp_path).count("done") == 24


def test_a_part_whose_holder_died_is_merged(tmp_path: Path) -> None:
    """Nobody renews its lease: that is seen, and waited for once, however many parts it had."""
    run.render(
        sharding.share(MANIFEST, 2, tmp_path), Settings(tmp_path, hire=InlineWorker), lambda _: None, StopRequests()
    )
    child = os.fork()
    if child == 0:
        leases = leases_in(tmp_path)
        os._exit(sum(leases.claim(part.path.name) is None for part in sharding.folders(MANIFEST, tmp_path)))
    assert os.waitpid(child, 0)[1] == 0
    said: list[str] = []
    assert len(merging.merge(MANIFEST, tmp_path, said.append, 60.0).held) == 2
    assert not said
    for lease in (tmp_path / LEASES).glob("test-*"):
        os.utime(lease, (1.0, 1.0))
    found = merging.merge(MANIFEST, tmp_path, said.append, 0.3)
    assert (found.moved, found.held) == (24, ())
    assert len(said) == 1
    assert said[0].startswith("who had 2 parts seems to be gone")


def test_a_merge_that_is_stopped_leaves_a_part_to_whoever_took_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had not come to stays there, the part is named, and the others come."""
    parts = sharding.share(MANIFEST, 2, tmp_path)
    run.render(parts, Settings(tmp_path, hire=InlineWorker), lambda _: None, StopRequests())
    removed: list[Path] = []

    def reached(point: str, path: Path) -> None:
        removed.extend([path] if point == "removed" and path.name.startswith("p") else [])
        if point == "removed" and len(removed) == 3:
            taken_over(tmp_path, path.parent.name)

    with monkeypatch.context() as patch:
        patch.setattr(files, "reached", reached)
        found = merging.merge(MANIFEST, tmp_path)
    assert len(found.held) == 1
    assert list((tmp_path / found.held[0]).glob("p*.png"))
    assert merging.merge(MANIFEST, tmp_path).held == ()
    assert make_plan(MANIFEST, tmp_path, thorough=True).count("done") == 24
    assert not list(tmp_path.glob("test-share-*/p*"))
