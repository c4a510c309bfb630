"""What a CPU computes in: read off what its processor has, and what its environment lets it use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from renderer.job import Engine, ModelIdentity, fingerprint
from renderer.machine import processor
from tests.making import make_job

VARIABLES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")

ZEN_3 = "processor\t: 0\nflags\t\t: fpu sse2 avx avx2 fma f16c\nbugs\t\t: spectre_v1\n"
ICE_LAKE = "flags\t\t: avx2 avx512f avx512bw avx512_vnni\n"
ZEN_4 = "flags\t\t: avx2 avx512f avx512_bf16 avx512_vnni\n"
SAPPHIRE_RAPIDS = "flags\t\t: avx512f avx512_bf16 amx_bf16 amx_tile amx_int8\n"
NEOVERSE_N1 = "processor\t: 0\nFeatures\t: fp asimd atomics fphp asimdhp\n"
NEOVERSE_V1 = "processor\t: 0\nFeatures\t: fp asimd sve i8mm bf16\n"


@pytest.fixture(autouse=True)
def _uncapped(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def of(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    monkeypatch.setattr(processor, "ABILITIES", path)
    return processor.arithmetic()


@pytest.mark.parametrize(
    ("abilities", "expected"),
    [
        (ZEN_3, "float32"),
        (ICE_LAKE, "float32"),
        (ZEN_4, "bf16"),
        (SAPPHIRE_RAPIDS, "bf16"),
        (NEOVERSE_N1, "float32"),
        (NEOVERSE_V1, "bf16"),
        ("", "float32"),
        ("flags\t\t: avx2\nmodel name\t: avx512_bf16\n", "float32"),
    ],
)
def test_read_off_the_processor(abilities: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 where there are units for it, float32 where there are none or the system does not say."""
    assert of(abilities, tmp_path, monkeypatch) == expected


def test_a_system_without_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no such file, float32: every processor multiplies it."""
    monkeypatch.setattr(processor, "ABILITIES", tmp_path / "nothing")
    assert processor.arithmetic() == "float32"


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("ATEN_CPU_CAPABILITY", "avx2", "float32"),
        ("ATEN_CPU_CAPABILITY", "default", "float32"),
        ("ATEN_CPU_CAPABILITY", "avx512", "bf16"),
        ("ATEN_CPU_CAPABILITY", "", "bf16"),
        ("ONEDNN_MAX_CPU_ISA", "AVX2", "float32"),
        ("ONEDNN_MAX_CPU_ISA", "avx512_core", "float32"),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16", "bf16"),
        ("ONEDNN_MAX_CPU_ISA", "ALL", "bf16"),
        ("DNNL_MAX_CPU_ISA", "AVX2", "float32"),
    ],
)
def test_what_torch_is_told_not_to_use_is_not_there(
    variable: str, value: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variables that make a new processor behave like an old one count like an old one."""
    monkeypatch.setenv(variable, value)
    assert of(ZEN_4, tmp_path, monkeypatch) == expected


def test_torch_sees_the_same_here() -> None:
    """On this machine the list says what torch's own question says."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the list is Linux's")
    question = "import torch; print(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())"
    answer = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True, check=True)
    if processor.ABILITIES.read_text().find("flags") < 0:
        pytest.skip("torch is asked of x86 alone")
    assert answer.stdout.strip() == str(processor.look().bf16_units)


@pytest.mark.parametrize(
    ("said", "spins"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "passive"}, "")]
)
def test_waiting_threads_leave_their_cores(said: dict[str, str], spins: str) -> None:
    """What torch's threads read when it is imported: a short wait, unless somebody has said another."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    code = "import os; from renderer.machine import processor; processor.let_waiting_threads_sleep(); import torch"
    child = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | said | {"OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
        check=True,
    )
    if "GOMP_SPINCOUNT" not in child.stderr:
        pytest.skip("this torch has another library for threads")
    assert ("GOMP_SPINCOUNT = '1000'" in child.stderr) == (spins == "1000")
    assert not spins or f"GOMP_SPINCOUNT = '{spins}'" in child.stderr


def test_an_engine_of_an_older_sidecar() -> None:
    """Sidecars that do not say what was computed in are of engines that knew bf16 alone."""
    assert Engine.model_validate({"name": "native", "profile": "cpu", "device": "cpu"}).arithmetic == "bf16"


def test_a_fingerprint_knows_no_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same job is the same picture on every machine: what one has rendered, another does not render again."""
    marks = set()
    for value in ("", "AVX2"):
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", value)
        marks.add(fingerprint(make_job(), ModelIdentity(id="demo", revision="2")))
    assert marks == {"db0eb9ef93bf59719b2490c22062a4c0328de2a952a41ccd8d06d3278fc1dfc0"}
