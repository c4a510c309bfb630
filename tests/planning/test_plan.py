from __future__ import annotations

from pathlib import Path

import pytest

from renderer.errors import UsageError
from renderer.planning.plan import make_plan
from renderer.planning.selection import Selection
from tests.making import make_manifest, make_picture


class TestPlan:
    def test_a_new_manifest_is_all_to_do(self, tmp_path: Path) -> None:
        """Nothing on the disk: everything is to be rendered, in the manifest's order."""
        plan = make_plan(make_manifest(), tmp_path)
        assert [item.picture.id for item in plan.to_render()] == ["p000", "p001", "p002"]

    def test_models_are_opened_once_each(self, tmp_path: Path) -> None:
        """Jobs of one model and precision stand together, whatever their order in the manifest."""
        pictures = [make_picture(index) for index in range(4)]
        mixed = [
            picture.model_copy(update={"job": picture.job.model_copy(update={"precision": precision})})
            for picture, precision in zip(pictures, ["fp8", "bf16", "fp8", "bf16"], strict=True)
        ]
        manifest = make_manifest()
        plan = make_plan(type(manifest)(file=manifest.file, name=manifest.name, pictures=tuple(mixed)), tmp_path)
        assert [item.picture.id for item in plan.to_render()] == ["p000", "p002", "p001", "p003"]

    def test_only_takes_ids_of_pictures_and_of_jobs(self, tmp_path: Path) -> None:
        """`--only` names a picture, or a pattern does; an id that nobody has is refused."""
        manifest = make_manifest()
        assert [item.picture.id for item in make_plan(manifest, tmp_path, only=["p001"]).chosen] == ["p001"]
        assert len(make_plan(manifest, tmp_path, only=["p00*"]).chosen) == 3
        assert len(make_plan(manifest, tmp_path, only=["*[12]"]).to_render()) == 2
        with pytest.raises(UsageError, match="nobody"):
            Selection.of(["p001", "nobody"]).check([manifest])
