"""What is printed cannot end what is done: readers that go away, full disks, closed streams and terminals, for real."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest

from renderer.cli import command as cli
from renderer.manifest.manifest import load
from renderer.outputs.summary import Summary
from renderer.planning.plan import make_plan
from renderer.supervisor import events
from renderer.system import streams
from tests import driving

ALL = ["001.png", "002.png", "003.png", "004.png"]


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    return driving.write_manifest(tmp_path, "a", "b", "c", "d")


def shell(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A line of bash, in which $R is the command."""
    environment = {**os.environ, "PYTHONPATH": str(driving.ROOT), "R": " ".join(driving.COMMAND)}
    environment.pop("PYTHONUNBUFFERED", None)
    return subprocess.run(["bash", "-c", line], cwd=cwd, env=environment, capture_output=True, text=True, check=False)


class TestTheLog:
    @pytest.mark.parametrize(
        "line",
        [
            "( $R render m.yaml 2>&1; echo $? >rc ) | head -1",
            "( $R render m.yaml --log-format json 2>&1; echo $? >rc ) | head -1",
            "( $R render m.yaml 2>&1; echo $? >rc ) | true",
            "$R render m.yaml 2>/dev/full; echo $? >rc",
            "$R render m.yaml >/dev/full 2>/dev/full; echo $? >rc",
            "PYTHONUNBUFFERED=1 $R render m.yaml 2>/dev/full; echo $? >rc",
            "$R render m.yaml 2>&-; echo $? >rc",
            "$R render m.yaml <&- >&- 2>&-; echo $? >rc",
        ],
    )
    def test_may_be_lost_and_all_is_rendered(self, tmp_path: Path, manifest: str, line: str) -> None:
        """A reader that had enough, a full disk, streams that are closed: four pictures, the summary, the page, 0."""
        assert manifest
        shell(line, tmp_path)
        folder = tmp_path / "outputs/m"
        assert driving.pictures(tmp_path) == ALL
        assert Summary.model_validate_json((folder / "summary.json").read_text()).rendered == 4
        assert (folder / "index.html").is_file()
        assert (tmp_path / "rc").read_text() == "0\n"

    def test_does_not_hide_that_a_picture_failed(self, tmp_path: Path) -> None:
        """The code tells of the pictures, whatever became of the log."""
        driving.write_manifest(tmp_path, "a", "fail")
        shell("( $R render m.yaml --retries 0 2>&1; echo $? >rc ) | head -1", tmp_path)
        assert (tmp_path / "rc").read_text() == "1\n"

    def test_of_a_terminal_that_has_gone(self, tmp_path: Path) -> None:
        """Its window is closed while pictures are rendered, and nobody sends a signal: what was begun is finished."""
        driving.write_manifest(tmp_path, *["slow"] * 3)
        ours, theirs = os.openpty()
        run = driving.start("render", "m.yaml", cwd=tmp_path, stderr=theirs, stdin=theirs, stdout=theirs)
        os.close(theirs)
        seen = b""
        while b"model open" not in seen:
            seen += os.read(ours, 4096)
        os.close(ours)
        assert run.wait(60) == 0
        assert len(driving.pictures(tmp_path)) == 3

    def test_that_nobody_reads_any_more_holds_nobody_up(self, tmp_path: Path) -> None:
        """A pager that nobody turns: far more is said than a pipe holds, and all is rendered."""
        driving.write_manifest(tmp_path, *["a"] * 60)
        run = driving.start("render", "m.yaml", "--log-format", "json", cwd=tmp_path, stderr=subprocess.PIPE)
        assert run.wait(60) == 0
        assert len(driving.pictures(tmp_path)) == 60
        assert run.stderr is not None
        assert len(run.stderr.read()) >= 2**15

    def test_in_another_encoding_costs_letters_alone(self, tmp_path: Path) -> None:
        """ASCII, as in cron: names are escaped, and all is planned and rendered."""
        (tmp_path / "m.yaml").write_text(
            driving.HEAD + '  - {id: "\u4f60\u597d", prompt: "\U0001f600", seed: 1}\n', encoding="utf-8"
        )
        done = shell("PYTHONIOENCODING=ascii $R plan m.yaml && PYTHONIOENCODING=ascii $R render m.yaml", tmp_path)
        assert done.returncode == 0, done.stderr
        assert "\\u4f60\\u597d" in done.stdout
        assert "\\u4f60\\u597d" in done.stderr

    def test_lines_of_two_threads_are_whole(self, tmp_path: Path) -> None:
        """A server's requests and its pictures are told by different threads: each line is an object by itself."""
        script = (
            "import json, sys, threading\n"
            "from renderer.system import streams\n"
            "sys.setswitchinterval(1e-6)\n"
            "streams.settle()\n"
            "def tell(number):\n"
            "    for line in range(1000): streams.say(json.dumps([number, line]))\n"
            "threads = [threading.Thread(target=tell, args=(number,)) for number in range(3)]\n"
            "[each.start() for each in threads]\n"
            "[each.join() for each in threads]\n"
        )
        environment = {**os.environ, "PYTHONPATH": str(driving.ROOT)}
        ran = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, check=True
        )
        told = [json.loads(line) for line in ran.stderr.splitlines()]
        assert sorted(told) == [[number, line] for number in range(3) for line in range(1000)]


class TestResults:
    def test_a_reader_that_had_enough_is_no_failure(self, tmp_path: Path) -> None:
        """`plan | head` ends with 0, without a word, also where more is printed than a pipe holds."""
        driving.write_manifest(tmp_path, *[f"picture {number}" for number in range(3000)])
        done = shell("( $R plan m.yaml; echo $? >rc ) | head -1", tmp_path)
        assert (done.stderr, (tmp_path / "rc").read_text()) == ("", "0\n")

    @pytest.mark.parametrize(("pictures", "how"), [(1, ""), (3000, ""), (1, "PYTHONUNBUFFERED=1")])
    def test_results_that_are_lost_are_a_failure(self, tmp_path: Path, pictures: int, how: str) -> None:
        """On a full disk a plan is worth nothing, and says so; however little it is."""
        driving.write_manifest(tmp_path, *[f"picture {number}" for number in range(pictures)])
        done = shell(f"{how} $R plan m.yaml >/dev/full", tmp_path)
        assert done.returncode == 1
        assert done.stderr == "error: cannot write to standard output: No space left on device\n"

    @pytest.mark.parametrize("command", ["plan", "status"])
    def test_no_line_of_a_worker_is_a_command(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
    ) -> None:
        """What a failure said stands in plans and in `status`: none of its lines begins as a CI job's commands do."""
        monkeypatch.chdir(tmp_path)
        plan = make_plan(load(Path(driving.write_manifest(tmp_path, "a"))), tmp_path / "outputs")
        forged = [f"{'x' * length} ::error::y\n::error::z\r::error::z ##[error]z" for length in range(40, 78)]
        (item,) = plan.items
        plan.folder.path.mkdir(parents=True)
        plan.journal.write("failed", item.picture.id, item.fingerprint, " ".join(forged))
        assert cli.main([command, "m.yaml"]) == 0
        said = capsys.readouterr().out
        assert "xxxx" in said
        lines = re.split(r"\r\n|\r|\n", said)
        assert [line for line in lines if line.lstrip().startswith("::") or "##[" in line] == []


class TestStreams:
    def test_a_reader_that_is_slow_is_waited_for(self) -> None:
        """A stream that somebody else made non-blocking: nothing is lost while its reader comes back in time."""
        ours, theirs = os.pipe()
        os.set_blocking(theirs, False)
        data = b"x" * 300_000
        script = "import sys, time; sys.exit(len(sys.stdin.buffer.read()) != 300000)"
        reader = subprocess.Popen([sys.executable, "-c", script], stdin=ours)
        os.close(ours)
        raw = streams._Unbreakable(theirs, "w")
        with io.BufferedWriter(raw) as stream:
            stream.write(data)
        assert reader.wait(30) == 0
        assert raw.error is None

    def test_a_reader_that_reads_again_hears_the_rest(self) -> None:
        """What came while it did not read is lost, and nobody waited for it twice."""
        ours, theirs = os.pipe()
        raw = streams._Unbreakable(theirs, "w")
        raw.patience_s = 0.05
        for _ in range(2**16 // select.PIPE_BUF):
            raw.write(b"x" * select.PIPE_BUF)
        for _ in range(1000):
            raw.write(b"lost")
        assert raw._stalled
        assert os.read(ours, 2**17) == b"x" * 2**16
        raw.write(b"heard")
        assert os.read(ours, 100) == b"heard"
        raw.close()
        os.close(ours)

    def test_a_broken_stream_takes_everything(self) -> None:
        """After the first failure nothing is tried any more, and the reason is known."""
        ours, theirs = os.pipe()
        os.close(ours)
        raw = streams._Unbreakable(theirs, "w")
        with io.TextIOWrapper(io.BufferedWriter(raw), line_buffering=True) as stream:
            for _ in range(3):
                stream.write("a line\n")
        assert isinstance(raw.error, BrokenPipeError)

    def test_nothing_in_a_text_moves_a_terminal(self) -> None:
        """Control characters are shown, lines and tabs stay, and letters of any script."""
        assert streams.harmless("a\x1b[2J\r\n\tb\u3000\u4f60\x85\u2028c") == "a\\x1b[2J\n\tb\u3000\u4f60\\x85\\u2028c"


class TestWatchers:
    def test_one_that_fails_is_left_out(self) -> None:
        """It hears nothing more, the others hear that and everything else, and nothing is raised."""
        heard: list[events.Event] = []
        failed: list[events.Event] = []

        def fail(what: events.Event) -> None:
            failed.append(what)
            raise IndexError("out of range")

        watchers = events.Watchers()
        watchers.add("the first", fail)
        watchers.add("the second", heard.append)
        first, second = events.Remark("one"), events.Remark("two")
        watchers(first)
        watchers(second)
        text = "the first failed, and is left out from here on: IndexError: out of range"
        assert failed == [first]
        assert heard == [events.Remark(text), first, second]

    def test_all_are_closed_the_last_first(self) -> None:
        """However the others' closing goes, and however the run ended."""
        closed: list[str] = []

        def fail() -> None:
            closed.append("failing")
            raise OSError

        with contextlib.suppress(KeyError), events.Watchers() as watchers:
            watchers.add("a", close=lambda: closed.append("first"))
            watchers.add("b", close=fail)
            watchers.add("c", close=lambda: closed.append("last"))
            raise KeyError
        assert closed == ["last", "failing", "first"]
