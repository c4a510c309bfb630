"""Requests whose lettering is read: by a run's own readers, taken again as in a run, and nothing rendered twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.service.running import Server, serving
from tests.waiting import until

SAYS: dict[str, Any] = {"lettering": ["WORD"], "seed": 10, "retake": 3}


def attempts(server: Server) -> list[str]:
    """The fingerprints of what has been given to workers, by the journal."""
    entries = map(json.loads, (server.folder / "journal.jsonl").read_text().splitlines())
    return [entry["fingerprint"] for entry in entries if entry["what"] == "attempt"]


def test_a_request_is_read_and_taken_again(tmp_path: Path) -> None:
    """The third take is right and is the answer; asked again, it is there. What expects more than it has fails."""
    with serving(tmp_path, fake="", environment={"READER": "WORD 12"}) as server:
        plain = server.generate("a sign", seed=10).json()
        told = server.generate("a sign", **SAYS).json()
        assert (told["seed"], told["found"], told["lettering"]["score"]) == (12, False, 1.0)
        assert [take["seed"] for take in told["lettering"]["takes"]] == [10, 11, 12]
        assert (plain["seed"], "lettering" in plain, plain["id"] != told["id"]) == (10, False, True)
        assert len(attempts(server)) == 4
        again = server.generate("a sign", **SAYS).json()
        assert (again["found"], again["seed"], again["id"]) == (True, 12, told["id"])
        for _ in range(2):
            failed = server.generate("a sign", **{**SAYS, "seed": 90, "retake": 1}, expect={"lettering": 0.9})
            assert (failed.status_code // 100, "the best of 2" in failed.json()["error"]["message"]) == (5, True)
        assert len(attempts(server)) == 6
        assert list((server.folder / ".takes").iterdir()) == []
        assert server.metric("renderer_in_flight") == 0


def test_what_was_rendered_and_not_read_is_read_by_the_next_server(tmp_path: Path) -> None:
    """It was killed while the first take was being read: that one is not rendered again, and those after it are."""
    with serving(tmp_path, fake="", environment={"READER": "hangs"}) as server:
        (told,) = server.accept("a sign", **SAYS).json()["images"]
        until((server.folder / f"{told['id']}.json").exists)
        server.process.kill()
    with serving(tmp_path, fake="", environment={"READER": "WORD 11"}) as server:
        done = server.until_done(told["id"])
        assert (done["state"], done["seed"]) == ("done", 11)
        assert len(attempts(server)) == len(set(attempts(server))) == 2
