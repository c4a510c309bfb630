"""Fetching from a hub over real HTTP: whole, cut, stalled, lied to, refused, onto a full disk, without a network."""

from __future__ import annotations

import json
import resource
import socket
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from renderer.errors import DiskError, ModelError, UsageError
from renderer.weights import pull
from renderer.weights.hubs import known
from renderer.weights.patience import Patience, pause
from renderer.weights.pull import Errand, HubName, Offer
from renderer.weights.record import RECORD, read_record
from tests import hub as hubs
from tests.hub import COMMIT, Hub, serve

REPOSITORY = "Qwen/Qwen-Image"
VAE = "vae/diffusion_pytorch_model.safetensors"
VOCABULARY = "tokenizer/vocab.json"
BOTH: list[HubName] = ["huggingface", "modelscope"]
MEGABYTES_24 = 24 * 2**20  # Hugging Face's client writes 10 MiB at a time


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that our own patience would have made, in seconds; nobody waits."""
    made: list[float] = []
    monkeypatch.setattr("renderer.weights.hubs.HUBS", known(Patience(sleep=made.append)))
    return made


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with a small model, which both clients in this process ask."""
    shop = Hub({REPOSITORY: {VOCABULARY: b'{"a": 1}', VAE: bytes(range(256)) * 1000, "README.md": b"not wanted"}})
    with serve(shop):
        monkeypatch.setenv("HF_ENDPOINT", shop.endpoint)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", shop.endpoint)
        yield shop


def errand(folder: Path, revision: str = COMMIT, *, pinned: bool = False) -> Errand:
    """The VAE and the tokenizer of the hub's model, into a folder."""
    return Errand(REPOSITORY, revision, ("tokenizer/*", VAE), folder / "model", pinned)


def bring(folder: Path, source: HubName, revision: str = COMMIT) -> Offer:
    """Ask one hub and fetch what it offers."""
    wanted = errand(folder, revision)
    offer = pull.ask(wanted, [source])
    pull.fetch(wanted, offer, lambda _count: None)
    return offer


class TestFetch:
    @pytest.mark.parametrize("source", BOTH)
    def test_a_whole_download(self, hub: Hub, tmp_path: Path, source: HubName) -> None:
        """What matches the patterns comes, byte for byte, and a record of it stays; nothing else comes."""
        offer = bring(tmp_path, source)
        for name in (VAE, VOCABULARY):
            assert (tmp_path / "model" / name).read_bytes() == hub.files[REPOSITORY][name]
        assert not (tmp_path / "model/README.md").exists()
        assert offer.bytes == sum(len(hub.files[REPOSITORY][name]) for name in (VAE, VOCABULARY))
        record = read_record(tmp_path / "model")
        assert (record.source, record.revision) == (source, COMMIT if source == "huggingface" else "master")
        assert record.files[VAE].sha256 == hub.sha256(VAE, hub.files[REPOSITORY][VAE])
        assert record.files[VOCABULARY].sha256

    @pytest.mark.parametrize("source", BOTH)
    def test_what_is_here_is_not_fetched(self, hub: Hub, tmp_path: Path, source: HubName) -> None:
        """A file that is there in its full size is not asked for again, and is not counted; it is still verified."""
        bring(tmp_path, source)
        (tmp_path / "model" / VAE).unlink()
        hub.given.clear()
        assert bring(tmp_path, source).bytes == len(hub.files[REPOSITORY][VAE])
        assert set(hub.given) == {VAE}
        hub.given.clear()
        assert bring(tmp_path, source).bytes == 0
        assert not hub.given

    def test_what_the_hugging_face_cache_has(self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A large file that the cache has of any commit is linked and not counted; a damaged one is fetched."""
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        data = hub.files[REPOSITORY][VAE]
        blob = tmp_path / "hub" / f"models--{REPOSITORY.replace('/', '--')}" / "blobs" / hub.sha256(VAE, data)
        blob.parent.mkdir(parents=True)
        blob.write_bytes(data)
        assert bring(tmp_path, "huggingface").bytes == len(hub.files[REPOSITORY][VOCABULARY])
        assert set(hub.given) == {VOCABULARY}
        assert (tmp_path / "model" / VAE).samefile(blob)
        (tmp_path / "model" / VAE).unlink()
        blob.write_bytes(data[:-1] + b"?")
        bring(tmp_path, "huggingface")
        assert set(hub.given) == {VOCABULARY, VAE}
        assert (tmp_path / "model" / VAE).read_bytes() == data

    @pytest.mark.parametrize("source", BOTH)
    def test_a_cut_connection(self, hub: Hub, tmp_path: Path, source: HubName) -> None:
        """A connection that is cut in the middle is taken up where it was, within the same call."""
        hub.files[REPOSITORY][VAE] = bytes(MEGABYTES_24)
        hub.cut_after[VAE] = 22 * 2**20
        bring(tmp_path, source)
        assert (tmp_path / "model" / VAE).stat().st_size == MEGABYTES_24
        assert [begin >= 20 * 2**20 for name, begin in hub.ranges if name == VAE] == [True]
        assert hub.given[VAE] < 1.2 * MEGABYTES_24

    @pytest.mark.parametrize("name", [VAE, VOCABULARY])
    def test_a_wrong_hash(self, hub: Hub, tmp_path: Path, name: str) -> None:
        """A file that is not what the hub says, large or small, is refused by name and removed; the next try can do."""
        hub.false_hashes.add(name)
        with pytest.raises(ModelError, match=f"{name} is not what huggingface says it is") as caught:
            bring(tmp_path, "huggingface")
        assert "--source" in caught.value.hint
        assert not (tmp_path / "model" / name).exists()
        hub.false_hashes.clear()
        bring(tmp_path, "huggingface")

    def test_a_wrong_hash_of_modelscope(self, hub: Hub, tmp_path: Path) -> None:
        """ModelScope's client looks at hashes by itself; what it finds wrong is an error of ours too."""
        hub.false_hashes.add(VAE)
        with pytest.raises(ModelError, match=r"ModelScope's Qwen/Qwen-Image gave a damaged file: .*Hash mismatch"):
            bring(tmp_path, "modelscope")

    def test_a_full_disk(self, hub: Hub, tmp_path: Path) -> None:
        """A disk that takes no more is a `DiskError` that says what to do; here a limit on files stands for it."""
        script = (
            "import sys; from pathlib import Path; from tests.weights import test_pull; "
            f"test_pull.fetch_with_small_files(Path({str(tmp_path)!r}))"
        )
        done = hubs.run(["-c", script], hub.environment(tmp_path))
        assert done.stdout.startswith("DiskError: cannot write "), done.stderr
        assert "File too large" in done.stdout
        assert not (tmp_path / "model" / VAE).exists()

    def test_a_file_that_is_not_there_afterwards(
        self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is of another size after the download is said by name, with both sizes."""
        wanted = errand(tmp_path)
        offer = pull.ask(wanted, ["huggingface"])
        bring(tmp_path, "huggingface")
        short = tmp_path / "model" / VAE
        monkeypatch.setattr(pull, "_download", lambda *_: short.write_bytes(b"short"))
        with pytest.raises(
            ModelError, match=rf"{VAE} has 5 bytes, and huggingface says {len(hub.files[REPOSITORY][VAE])}"
        ):
            pull.fetch(wanted, Offer(offer.source, offer.revision, offer.files, ()), lambda _count: None)

    def test_the_scale(self, tmp_path: Path) -> None:
        """Bytes are counted as they reach the disk, those of unfinished files too; what was there before is not."""
        (tmp_path / "old").write_bytes(bytes(10_000))
        heard: list[int] = []
        with pull._Scale(tmp_path, heard.append):
            (tmp_path / "deep").mkdir()
            (tmp_path / "deep/new.incomplete").write_bytes(bytes(50_000))
            while not heard or heard[-1] < 50_000:
                pass
        assert 50_000 <= heard[-1] < 60_000


class TestAsk:
    @pytest.mark.parametrize("source", BOTH)
    @pytest.mark.parametrize(
        ("status", "message"),
        [(401, "is not open to this user"), (403, "is not open to this user"), (404, "not there")],
    )
    def test_refused(self, hub: Hub, tmp_path: Path, source: HubName, status: int, message: str) -> None:
        """A hub that refuses is quoted, with what helps against that."""
        hub.status = status
        with pytest.raises(ModelError, match=message) as caught:
            pull.ask(errand(tmp_path), [source])
        assert caught.value.hint

    def test_a_server_in_trouble(self, hub: Hub, tmp_path: Path) -> None:
        """A hub that answers 500 is an error with its number."""
        hub.status = 500
        with pytest.raises(ModelError, match="the server answered 500"):
            pull.ask(errand(tmp_path), ["huggingface"])

    def test_an_unknown_revision(self, hub: Hub, tmp_path: Path) -> None:
        """A revision that the repository does not have is named."""
        assert hub
        with pytest.raises(ModelError, match="has no revision 0123"):
            pull.ask(errand(tmp_path, "0123"), ["huggingface"])

    def test_patterns_that_match_nothing(self, hub: Hub, tmp_path: Path) -> None:
        """A repository that lacks what is wanted of it is not half a model: it is refused, and the pattern named."""
        del hub.files[REPOSITORY][VAE]
        with pytest.raises(ModelError, match=f"has no {VAE} in {REPOSITORY}"):
            pull.ask(errand(tmp_path), ["huggingface"])

    def test_the_other_hub(self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where the first hub cannot be reached, the other is asked; the catalogue's commit is not asked of it."""
        monkeypatch.setenv("HF_ENDPOINT", nowhere())
        hub.revisions = {"master"}
        assert pull.ask(errand(tmp_path), BOTH).source == "modelscope"

    def test_a_manifest_s_revision_holds_for_both(
        self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A revision that a manifest pins is asked of the other hub too."""
        monkeypatch.setenv("HF_ENDPOINT", nowhere())
        hub.revisions = {"v9"}
        assert pull.ask(errand(tmp_path, "v9", pinned=True), BOTH).revision == "v9"
        with pytest.raises(ModelError, match="has no revision v8"):
            pull.ask(errand(tmp_path, "v8", pinned=True), BOTH)

    def test_no_network(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a network the error says so, and names mirrors."""
        monkeypatch.setenv("HF_ENDPOINT", nowhere())
        with pytest.raises(ModelError, match=r"cannot be fetched: Hugging Face's .* cannot be reached") as caught:
            pull.ask(errand(tmp_path), ["huggingface"])
        assert "HF_ENDPOINT" in caught.value.hint

    def test_offline_by_the_client_s_own_setting(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where HF_HUB_OFFLINE forbids asking, that is what is said."""
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
            pull.ask(errand(tmp_path), ["huggingface"])


class TestBusy:
    """A hub that is busy is asked again, within bounds; its words are passed on."""

    @pytest.mark.parametrize("status", [429, 503])
    def test_a_listing(self, hub: Hub, tmp_path: Path, pauses: list[float], status: int) -> None:
        """Twice too busy, then not: the pauses are as long as it asks for, and longer each time."""
        hub.busy = [("GET /api/models", status)] * 2
        hub.pause = "2"
        assert pull.ask(errand(tmp_path), ["huggingface"]).source == "huggingface"
        assert pauses == [2.0, 2.0]

    def test_a_file(self, hub: Hub, tmp_path: Path, pauses: list[float]) -> None:
        """The same for files; what is whole is not fetched again."""
        hub.busy = [(f"GET /{REPOSITORY}/resolve/{COMMIT}/{VAE}", 503)] * 2
        bring(tmp_path, "huggingface")
        assert (tmp_path / "model" / VAE).read_bytes() == hub.files[REPOSITORY][VAE]
        assert pauses

    def test_for_ever(self, hub: Hub, tmp_path: Path, pauses: list[float]) -> None:
        """It is asked five times, and then quoted."""
        hub.busy, hub.words = [("GET /api/models", 503)] * 9, "Down for maintenance"
        with pytest.raises(ModelError, match='the server answered 503: "Down for maintenance"'):
            pull.ask(errand(tmp_path), ["huggingface"])
        assert pauses == [1.0, 2.0, 4.0, 8.0]

    def test_a_long_pause(self, hub: Hub, tmp_path: Path, pauses: list[float]) -> None:
        """One that asks for an hour is not waited for, and the hint says how long."""
        hub.busy, hub.pause = [("GET /api/models", 429)], "3600"
        with pytest.raises(ModelError, match="429") as caught:
            pull.ask(errand(tmp_path), ["huggingface"])
        assert "wait 3600 s" in caught.value.hint
        assert pauses == []

    def test_what_does_not_pass_is_not_asked_again(self, hub: Hub, tmp_path: Path, pauses: list[float]) -> None:
        """A repository that is not there is not there a second later."""
        hub.status = 404
        with pytest.raises(ModelError, match="not there"):
            pull.ask(errand(tmp_path), ["huggingface"])
        assert pauses == []

    @pytest.mark.parametrize(
        ("said", "wanted"),
        [
            ("7", 7.0),
            (" 0 ", 0.0),
            ("Wed, 21 Oct 2026 07:28:30 GMT", 30.0),
            ("Wed, 21 Oct 2026 07:27:00 GMT", 0.0),
            ("soon", None),
            (None, None),
        ],
    )
    def test_retry_after(self, said: str | None, wanted: float | None) -> None:
        """Seconds or a date, as HTTP has both."""
        assert pause(said, datetime(2026, 10, 21, 7, 28, tzinfo=UTC)) == wanted


class TestTokens:
    def test_one_that_is_not_taken(self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """An expired token does not close what is open to everybody; that it is one is said."""
        monkeypatch.setenv("HF_TOKEN", "hf_expired")
        hub.knows_tokens = False
        offer = bring(tmp_path, "huggingface")
        assert offer.note == (
            "Hugging Face does not take the token in HF_TOKEN: Invalid credentials in Authorization header; "
            "asked without it"
        )

    def test_where_one_is_needed(self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is not open without one: the token is what to renew, not conditions what to accept."""
        monkeypatch.setenv("HF_TOKEN", "hf_expired")
        hub.knows_tokens, hub.closed = False, True
        with pytest.raises(ModelError, match="does not take the token in HF_TOKEN") as caught:
            pull.ask(errand(tmp_path), ["huggingface"])
        assert "renew it" in caught.value.hint

    def test_modelscope_s(self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its token is named too."""
        monkeypatch.setenv("MODELSCOPE_API_TOKEN", "ms-expired")
        hub.status = 401
        with pytest.raises(ModelError, match="does not take the token in MODELSCOPE_API_TOKEN") as caught:
            pull.ask(errand(tmp_path), ["modelscope"])
        assert "modelscope login" in caught.value.hint

    def test_the_hub_s_own_words(self, hub: Hub, tmp_path: Path) -> None:
        """Why somebody may not have a model, the hub knows better than we do."""
        hub.status, hub.words = 403, "Your request is under review"
        with pytest.raises(
            ModelError, match='is not open to this user, or is not there: "Your request is under review"'
        ):
            pull.ask(errand(tmp_path), ["huggingface"])


class TestProxies:
    @pytest.mark.parametrize("source", BOTH)
    def test_a_login_page_for_a_listing(self, hub: Hub, tmp_path: Path, source: HubName) -> None:
        """A hotel's or a firm's page, with status 200, is no listing, and is called what it is."""
        hub.page = b"<!DOCTYPE html><title>Welcome to our network</title>"
        with pytest.raises(ModelError, match="something else than a hub's data") as caught:
            pull.ask(errand(tmp_path), [source])
        assert "browser" in caught.value.hint

    @pytest.mark.parametrize("source", BOTH)
    def test_a_login_page_for_a_file(self, hub: Hub, tmp_path: Path, source: HubName) -> None:
        """In a file's place it is an error too, and nothing of it is taken for the file."""
        offer = pull.ask(errand(tmp_path), [source])
        hub.page = b"<!DOCTYPE html><title>Welcome to our network</title>"
        with pytest.raises(ModelError):
            pull.fetch(errand(tmp_path), offer, lambda _count: None)
        assert not (tmp_path / "model" / VAE).exists()

    def test_a_server_that_ignores_ranges(self, hub: Hub, tmp_path: Path) -> None:
        """After a cut it gives the whole file again, which is not put behind what had come."""
        hub.files[REPOSITORY][VAE] = bytes(MEGABYTES_24)
        hub.cut_after[VAE] = 22 * 2**20
        hub.takes_ranges = False
        bring(tmp_path, "huggingface")
        assert (tmp_path / "model" / VAE).stat().st_size == MEGABYTES_24


class TestSources:
    def test_order(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The option decides, then our variable, then DiffSynth's; the other hub comes second."""
        assert pull.sources() == ("huggingface", "modelscope")
        monkeypatch.setenv("DIFFSYNTH_DOWNLOAD_SOURCE", "ModelScope")
        assert pull.sources() == ("modelscope", "huggingface")
        monkeypatch.setenv("RENDERER_SOURCE", "huggingface")
        assert pull.sources() == ("huggingface", "modelscope")
        assert pull.sources("modelscope") == ("modelscope", "huggingface")

    def test_unknown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A source that does not exist is refused, with those that do."""
        monkeypatch.setenv("RENDERER_SOURCE", "ftp")
        with pytest.raises(UsageError) as caught:
            pull.sources()
        assert caught.value.hint == "known: huggingface, modelscope"


class TestRecord:
    @pytest.mark.parametrize(
        "text", ["", "[]", "{}", '{"files": 3}', '{"source": "x", "revision": "y", "files": {"a": 1}}']
    )
    def test_not_a_record(self, tmp_path: Path, text: str) -> None:
        """A folder without a sensible record has none."""
        (tmp_path / RECORD).write_text(text)
        assert read_record(tmp_path).files == {}

    def test_earlier_files_stay_in_it(self, hub: Hub, tmp_path: Path) -> None:
        """A second errand to the same folder adds to its record."""
        assert hub
        wanted = Errand(REPOSITORY, COMMIT, (VAE,), tmp_path / "model")
        pull.fetch(wanted, pull.ask(wanted, ["huggingface"]), lambda _count: None)
        bring(tmp_path, "huggingface")
        assert set(read_record(tmp_path / "model").files) == {VAE, VOCABULARY}
        assert json.loads((tmp_path / "model" / RECORD).read_text())["revision"] == COMMIT


def nowhere() -> str:
    """An address on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def fetch_with_small_files(folder: Path) -> None:
    """In a process of its own: fetch where no file may become larger than 100 kB, and print what that gives."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        bring(folder, "huggingface")
    except DiskError as error:
        sys.stdout.write(f"DiskError: {error.message}\n{error.hint}\n")
