"""The vision tower, of which only models that edit have one in their stores: packs that go on where others were."""

from __future__ import annotations

from pathlib import Path

import pytest

from renderer.errors import ModelError
from renderer.weights import pack as packing
from tests.weights import tiny


def _fail(*_arguments: object) -> None:
    raise ModelError("no")


def test_an_attempt_at_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that took the tower along, of a model that edits or as it once was for all: that is not kept."""
    source = tiny.make(tmp_path / "source")
    source.pack(tmp_path / "whole")
    (tmp_path / "processor").mkdir()
    (tmp_path / "processor/preprocessor_config.json").write_text("{}", encoding="utf-8")
    arguments = (source.networks, source.tokenizer, tmp_path / "packed", "fp8", tiny.IDENTITY)
    with monkeypatch.context() as patch:
        patch.setattr(packing, "verify", _fail)
        with pytest.raises(ModelError, match="no"):
            packing.pack(*arguments, device="cpu", processor=tmp_path / "processor")  # type: ignore[arg-type]
    assert list((tmp_path / "packed.part").rglob("vision*"))
    told: list[tuple[int, int]] = []
    source.pack(tmp_path / "packed", report=lambda done, total, _: told.append((done, total)))
    assert _names(tmp_path / "packed") == _names(tmp_path / "whole")
    assert all(done <= total for done, total in told)


def _names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
