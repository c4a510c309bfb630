"""`renderer models …` and what `renderer render` fetches by itself: whole processes against a hub of our own.

The hub's Qwen/Qwen-Image is the demo model, which is of the same layout and small.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from renderer import catalog
from renderer.engine import supplier
from renderer.errors import MachineError, ModelError
from renderer.job import Stored
from renderer.protocol import Setup
from renderer.supervisor import provision
from renderer.supervisor.settings import Terms
from renderer.system import folders
from renderer.text import gb
from renderer.weights import needs, places, prepare, pull
from renderer.weights.needs import Bill, Need, Progress, Supplied
from tests.hub import Hub, run
from tests.nvml import Card, Nvml
from tests.waiting import until

QWEN = "Qwen/Qwen-Image"
VAE = "vae/diffusion_pytorch_model.safetensors"


def put(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Files under their names."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def width(text: str, tmp_path: Path) -> int:
    """The longest line, without the test's own paths."""
    return max(len(line.replace(str(tmp_path), "")) for line in text.splitlines())


class TestCommands:
    def test_from_hub_to_nothing(self, machine: Mapping[str, str], hub: Hub, tmp_path: Path) -> None:
        """Pull, pack, verify, list and remove, one after the other: what each says, and what it leaves."""
        models = tmp_path / "models"

        def models_cli(*arguments: str) -> str:
            done = run(["-m", "renderer", "models", *arguments], machine)
            assert done.returncode == 0, done.stderr
            assert "--json" in arguments or width(done.stdout, tmp_path) <= 80
            return done.stdout

        assert "to download from huggingface" in models_cli("pull", QWEN)
        assert "all here already" in models_cli("pull", QWEN)
        assert "is packed: " in models_cli("pack", QWEN, "--discard-source")
        assert not (models / QWEN / VAE).exists()
        assert (models / "packed/Qwen--Qwen-Image/fp8/index.json").exists()
        assert "packed store in fp8" in models_cli("verify", QWEN)
        rows = {row["id"]: row for row in json.loads(models_cli("list", "--json"))}
        assert list(rows[QWEN]["packed"]) == ["fp8"]
        assert rows["demo"]["renders"]
        assert rows["Qwen/Qwen-Image-Edit"]["ability"] == "edit"
        assert not rows["lightx2v/Qwen-Image-Lightning/4steps-V2.0"]["renders"]
        assert "packed: fp8" in models_cli("list")
        hub.given.clear()
        assert "packed in fp8 here already" in models_cli("pack", QWEN)
        assert not hub.given
        store, old = (models / "packed/Qwen--Qwen-Image" / name for name in ("fp8", "fp8.old"))
        shutil.copytree(store, old)  # what a crash leaves of a store that was replaced
        models_cli("pack", QWEN)
        assert not old.exists()
        store.rename(old)  # and what one leaves where names are not exchanged in one step
        assert "packed in fp8 here already" in models_cli("pack", QWEN)
        shutil.copytree(store, old)
        assert "deleted" in models_cli("remove", QWEN, "--yes")
        assert [path for path in models.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
        assert "nothing in" in models_cli("remove", QWEN, "--yes")

    def test_refusals(self, machine: Mapping[str, str], hub: Hub) -> None:
        """What cannot be done is said in two lines, with an exit code, and never a traceback."""
        hub.files.clear()
        for arguments, code, said in (
            (["pull", QWEN], 3, "is not there (404)"),
            (["pull", QWEN, "--offline"], 3, "lacks transformer/"),
            (["pull", "Qwen/Qwen-Imag"], 3, 'did you mean "Qwen/Qwen-Image"?'),
            (["pack", "lightx2v/Qwen-Image-Lightning/4steps-V2.0"], 2, "is a LoRA"),
            (["verify", QWEN], 1, "is not here"),
        ):
            done = run(["-m", "renderer", "models", *arguments], machine)
            assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
            assert said in done.stderr

    def test_interrupted(self, machine: Mapping[str, str], hub: Hub) -> None:
        """Ctrl-C ends a download at once, with the exit code of what can go on, and without a traceback."""
        hub.stall_after[VAE] = 1000
        command = [sys.executable, "-m", "renderer", "models", "pull", QWEN]
        process = subprocess.Popen(
            command, env=dict(machine), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert hub.stalled.wait(30)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
        assert (process.returncode, told) == (4, "stopped; the same command goes on from here\n")

    def test_a_damaged_file(self, machine: Mapping[str, str], tmp_path: Path) -> None:
        """A bit that flipped after the download is found, and its file named; `list` says where everything is."""
        run(["-m", "renderer", "models", "pull", QWEN], machine)
        path = tmp_path / "models" / QWEN / VAE
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        done = run(["-m", "renderer", "models", "verify"], machine)
        assert done.returncode == 1
        assert f"{VAE}: damaged, its SHA-256 is" in done.stderr

    def test_a_cache_s_hashes(self, machine: Mapping[str, str], tmp_path: Path, model_files: dict[str, bytes]) -> None:
        """In the Hugging Face cache a large file's name is its hash; where there is none, the header has to do."""
        root = tmp_path / "hugging-face/hub/models--Qwen--Qwen-Image"
        snapshot = put(root / "snapshots" / str(catalog.QWEN_IMAGE.revision), model_files)
        (root / "blobs").mkdir()
        blob = root / "blobs" / hashlib.sha256(model_files[VAE]).hexdigest()
        (snapshot / VAE).rename(blob)
        (snapshot / VAE).symlink_to(blob)
        assert "1 by their hash" in run(["-m", "renderer", "models", "verify", QWEN], machine).stdout
        blob.write_bytes(model_files[VAE][:-1] + b"!")
        assert f"{VAE}: damaged" in run(["-m", "renderer", "models", "verify", QWEN], machine).stderr


class TestRemove:
    def test_without_a_terminal(self, machine: Mapping[str, str], tmp_path: Path) -> None:
        """Nothing is deleted unasked."""
        path = put(tmp_path / "models" / QWEN, {VAE: b"x"}) / VAE
        done = run(["-m", "renderer", "models", "remove", QWEN], machine)
        assert (done.returncode, path.exists()) == (2, True)
        assert "--yes" in done.stderr

    def test_a_link_out_of_the_folder(self, machine: Mapping[str, str], tmp_path: Path) -> None:
        """Of a folder that is a link, the link goes; what it leads to stays."""
        elsewhere = put(tmp_path / "elsewhere", {VAE: b"x"})
        (tmp_path / "models/Qwen").mkdir(parents=True)
        (tmp_path / "models" / QWEN).symlink_to(elsewhere)
        run(["-m", "renderer", "models", "remove", QWEN, "--yes"], machine)
        assert (elsewhere / VAE).exists()
        assert not (tmp_path / "models" / QWEN).exists()

    def test_a_folder_that_is_elsewhere(self, machine: Mapping[str, str], tmp_path: Path) -> None:
        """Where the way to a model leads out of the models folder, nothing is deleted."""
        elsewhere = put(tmp_path / "elsewhere/Qwen-Image", {VAE: b"x"})
        (tmp_path / "models").mkdir()
        (tmp_path / "models/Qwen").symlink_to(elsewhere.parent)
        done = run(["-m", "renderer", "models", "remove", QWEN, "--yes"], machine)
        assert "lies outside" in done.stderr
        assert (elsewhere / VAE).exists()

    def test_one_precision(self, machine: Mapping[str, str], tmp_path: Path) -> None:
        """With `--precision` only that store goes."""
        packed = put(tmp_path / "models/packed/Qwen--Qwen-Image", {"fp8/index.json": b"x", "bf16/index.json": b"x"})
        run(["-m", "renderer", "models", "remove", QWEN, "--precision", "fp8", "--yes"], machine)
        assert [path.name for path in packed.iterdir()] == ["bf16"]


class TestObtain:
    @staticmethod
    def obtain(
        need: Need,
        terms: Terms = Terms(),  # noqa: B008  # frozen
        *,
        stopped: bool = False,
    ) -> tuple[bool, list[provision.SupplyEvent | None]]:
        """Meet a need; whether it was, and all that was told."""
        told: list[provision.SupplyEvent | None] = []
        return provision.obtain([need], terms, lambda _need, what: told.append(what), lambda: stopped), told

    def test_it_is_priced_first(self, machine: Mapping[str, str], model_files: dict[str, bytes]) -> None:
        """The bill comes before the first byte, then progress up to it, then the word that it is here."""
        assert machine
        met, told = self.obtain(Need(model=QWEN))
        size = sum(map(len, model_files.values()))
        assert met
        assert told[0] is None
        assert isinstance(bill := told[1], Bill)
        assert (bill.download_bytes, bill.store_bytes, bill.source) == (size, 0, "huggingface")
        progress = [each for each in told if isinstance(each, Progress)]
        assert (progress[-1].what, progress[-1].done_bytes) == ("downloading", size)
        assert isinstance(told[-1], Supplied)
        assert self.obtain(Need(model=QWEN)) == (True, [])

    def test_a_wrong_file_is_told_first(self, machine: Mapping[str, str], tmp_path: Path) -> None:
        """A page in the place of a file that is named is refused before any hub is asked for the other parts."""
        assert machine
        page = tmp_path / "mine.safetensors"
        page.write_text("<html><title>Log in</title>", encoding="utf-8")
        with pytest.raises(ModelError, match=r'mine\.safetensors: not a safetensors file, but a web page \("Log in"\)'):
            provision.obtain(
                [Need(model=f"transformer={page}")], Terms(), lambda *_: pytest.fail("a hub was asked"), lambda: False
            )

    def test_which_gpu_quantises(self, machine: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        """The supplier is told the card that was looked at, as the worker is."""
        assert machine
        told = "import json, sys; gpu = json.loads(sys.stdin.readline())['gpu']"
        answer = "print(json.dumps({'kind': 'refused', 'error': 'ModelError', 'message': str(gpu)}), flush=True)"
        monkeypatch.setattr(provision, "SUPPLIER_COMMAND", (sys.executable, "-c", f"{told}; {answer}"))
        monkeypatch.setattr("renderer.machine.gpus.pynvml", Nvml(Card("GPU-1", cores=1), Card("GPU-2", cores=2)))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        with pytest.raises(ModelError, match="GPU-2"):
            self.obtain(Need(model=QWEN))

    def test_what_the_supplier_makes_of_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """CUDA shows it that card alone, before torch asks."""
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        monkeypatch.setattr(supplier, "verify", lambda *_: os.environ["CUDA_VISIBLE_DEVICES"])
        answers = io.StringIO()
        supplier._Supplier(answers).supply(Need(model=QWEN, verify=True, gpu="GPU-2"))
        assert json.loads(answers.getvalue())["note"] == "GPU-2"

    @pytest.mark.parametrize("precision", ["bf16", "fp8"])
    def test_a_store(
        self, machine: Mapping[str, str], tmp_path: Path, model_files: dict[str, bytes], precision: Stored
    ) -> None:
        """A store is made from what is here, and its size is known beforehand."""
        assert machine
        put(tmp_path / "models" / QWEN, model_files)
        met, told = self.obtain(Need(model=QWEN, store=precision, offline=True), Terms(offline=True))
        folder = places.packed_folder(catalog.QWEN_IMAGE, precision)
        bill = next(each for each in told if isinstance(each, Bill))
        taken = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        assert met
        assert bill.download_bytes == 0
        assert taken == pytest.approx(bill.store_bytes, rel=0.05)

    @pytest.mark.parametrize(("precision", "store"), [("fp8", "fp8"), ("bf16", None)])
    def test_a_store_stands_for_the_originals(
        self,
        machine: Mapping[str, str],
        tmp_path: Path,
        model_files: dict[str, bytes],
        precision: Stored,
        store: Stored | None,
    ) -> None:
        """Where nothing is streamed, a store of the job's precision is enough; with another's, originals are wanted."""
        assert machine
        put(tmp_path / "models" / QWEN, model_files)
        self.obtain(Need(model=QWEN, store="fp8", offline=True, discard_source=True), Terms(offline=True))
        assert places.look(catalog.QWEN_IMAGE).lacking
        setup = Setup(model=QWEN, precision=precision, profile="resident")
        (need,) = provision.needs_of([setup], Terms())
        assert need.store == store
        assert needs.is_met(need) is (store is not None)

    def test_nobody_consents(self, machine: Mapping[str, str], hub: Hub) -> None:
        """Without consent to a download of that size nothing is fetched, and it is said what to type."""
        assert machine
        with pytest.raises(MachineError, match="nobody is here to agree") as caught:
            self.obtain(Need(model=QWEN), Terms(most_bytes=1000))
        assert "--yes" in caught.value.hint
        assert not hub.given

    def test_offline(self, machine: Mapping[str, str], hub: Hub) -> None:
        """Offline, no hub is asked, and what is missing is named."""
        assert machine
        with pytest.raises(ModelError, match=rf"lacks transformer/.*{VAE}.*offline"):
            self.obtain(Need(model=QWEN, store="fp8", offline=True), Terms(offline=True))
        assert not hub.given

    def test_no_room(self) -> None:
        """A bill that the disk cannot pay is refused before anything is fetched."""
        bill = Bill(model=QWEN, download_bytes=58 * 10**9, free_bytes=10**9, folder="models")
        with pytest.raises(MachineError, match=r"takes 58\.0 GB in models, and the disk has 1\.0 GB free") as caught:
            bill.check_room()
        assert "free 58.0 GB" in caught.value.hint

    @pytest.mark.parametrize("source", ["huggingface", "modelscope"])
    def test_stopped_and_taken_up(
        self, machine: Mapping[str, str], hub: Hub, model_files: dict[str, bytes], source: str
    ) -> None:
        """Stopped in the middle of a file, the supplier is gone at once; what was whole is not fetched again.

        ModelScope's client goes on within the file; Hugging Face's begins it anew, and no half of it is left.
        """
        assert machine
        name = "text_encoder/model.safetensors"
        large = hub.files[QWEN][name] = model_files[name] + bytes(24 * 2**20)
        hub.stall_after[name] = 22 * 2**20
        folder = folders.models_folder() / QWEN

        def is_half_there() -> bool:
            halves = [path.stat().st_size for path in folder.rglob("*.incomplete")]
            return hub.stalled.is_set() and max(halves, default=0) >= 20 * 2**20 and (folder / VAE).exists()

        need = Need(model=QWEN, source=source)
        assert not provision.obtain([need], Terms(), lambda _need, _what: None, is_half_there)
        with pytest.raises(ModelError, match=rf"{name}: .*bytes too many stand after its data"):  # as we made it
            self.obtain(need)
        assert (folder / name).stat().st_size == len(large)
        assert hub.given[VAE] == len(model_files[VAE])
        assert list(folder.rglob("*.incomplete")) == []
        if source == "modelscope":
            assert [begin >= 20 * 2**20 for part, begin in hub.ranges if part == name] == [True]

    def test_a_supplier_that_dies(self, machine: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        """A supplier that ends without a last word is an error with what it printed."""
        assert machine
        command = (provision.SUPPLIER_COMMAND[0], "-c", "import sys; sys.exit('no more')")
        monkeypatch.setattr(provision, "SUPPLIER_COMMAND", command)
        with pytest.raises(ModelError, match="supplier died: no more"):
            self.obtain(Need(model=QWEN))

    def stalled(
        self, machine: Mapping[str, str], hub: Hub, model_files: dict[str, bytes]
    ) -> tuple[subprocess.Popen[str], psutil.Process]:
        """A command that waits in the middle of a large file, and its supplier."""
        name = "text_encoder/model.safetensors"
        hub.files[QWEN][name] = model_files[name] + bytes(24 * 2**20)
        hub.stall_after[name] = 22 * 2**20
        command = [sys.executable, "-m", "renderer", "models", "pull", QWEN]
        pull = subprocess.Popen(command, env=dict(machine), stderr=subprocess.PIPE, text=True, process_group=0)
        assert hub.stalled.wait(60)
        (supplier,) = psutil.Process(pull.pid).children()
        return pull, supplier

    def test_ctrl_c_in_the_middle_of_a_file(
        self, machine: Mapping[str, str], hub: Hub, model_files: dict[str, bytes]
    ) -> None:
        """To the whole group, as a terminal sends it: a line and 4, the supplier is gone, what has come stays."""
        pull, supplier = self.stalled(machine, hub, model_files)
        until((folders.models_folder() / QWEN / VAE).exists)  # a small file that comes beside it
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            supplier.send_signal(number)  # not for it
        assert supplier.is_running()
        os.killpg(pull.pid, signal.SIGINT)
        _, said = pull.communicate(timeout=60)
        assert (pull.returncode, said) == (4, "stopped; the same command goes on from here\n")
        assert not supplier.is_running()
        assert (folders.models_folder() / QWEN / VAE).exists()

    def test_a_supplier_dies_with_who_asked(
        self, machine: Mapping[str, str], hub: Hub, model_files: dict[str, bytes]
    ) -> None:
        """Killed in the middle of a file: nothing downloads on in the background."""
        pull, supplier = self.stalled(machine, hub, model_files)
        pull.kill()
        pull.communicate(timeout=60)
        supplier.wait(10)

    def test_other_forms(self, machine: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Before much is fetched, what ComfyUI has of it in other forms is named, with what a manifest has to say."""
        assert machine
        monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
        (tmp_path / "unet").mkdir()
        (tmp_path / "unet/qwen-image-Q4_K_M.gguf").touch()
        bill, _ = prepare.price(catalog.QWEN_IMAGE, None, pull.sources())
        assert bill.note == "ComfyUI has of it in other forms: model: {transformer: qwen-image-Q4_K_M.gguf}"

    def test_rates_are_remembered(self, machine: Mapping[str, str]) -> None:
        """Once a download has been timed, the next bill says how long it will take."""
        assert machine
        prepare._remember_rate("download", 2 * 10**9, 10.0)
        bill, _ = prepare.price(catalog.QWEN_IMAGE, None, pull.sources())
        assert bill.seconds == pytest.approx(bill.download_bytes / 2e8)
        assert gb(bill.download_bytes).endswith(" MB")
