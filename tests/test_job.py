"""Frozen values of jobs and sidecars, as older versions wrote them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from renderer.job import Sharing


class TestSharing:
    OLD = (
        '{"share_s": 1.0, "mean_in_flight": 1.0, "slots": 2, "blocks": 60, "arithmetic": "fp8", "streamed_bytes": 0, '
        '"bus_bytes_per_s": 1.0, "flops_per_s": 1.0, "tiled_decode": true, "adjustments": ["tiled decode"]}'
    )

    def test_sidecars_that_tell_of_tiles_are_read(self) -> None:
        """What earlier versions said of tiles is dropped; what memory changed then is kept in its words."""
        found = Sharing.model_validate_json(self.OLD)
        assert (found.slots, found.adjustments) == (2, ("tiled decode",))
        assert "tiled_decode" not in found.model_dump()

    def test_other_fields_are_not_let_through(self) -> None:
        """A field that nobody knows is refused as before."""
        with pytest.raises(ValidationError, match="untold"):
            Sharing.model_validate_json(self.OLD.replace("tiled_decode", "untold"))
