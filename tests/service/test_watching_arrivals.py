"""Pages of manifests that join a run while its server is on."""

from __future__ import annotations

import dataclasses
import urllib.request
from pathlib import Path

import pytest

from renderer.service import watching
from renderer.service.watching import WatchServer
from tests.making import make_manifest
from tests.report.live import ask
from tests.waiting import until


def test_a_page_comes_with_its_manifest(tmp_path: Path) -> None:
    """At first there is none, and that is said; then there are two, and each address is told once."""
    with WatchServer([]) as server:
        assert ask(server, "/")[::2] == (200, b"no manifest has come yet")
        assert ask(server, "/one/")[0] == 404
        for name in ("one", "two", "one"):
            server.follow(make_manifest(name=name), tmp_path)
        until(lambda: ask(server, "/two/")[0] == 200)
        assert ask(server, "/")[1]["location"] == "/one/"
        assert [url.rsplit("/", 2)[1] for url in server.take_new_urls()] == ["one", "two"]
        assert server.take_new_urls() == []


def test_a_manifest_that_has_grown_has_another_page(tmp_path: Path) -> None:
    """Whoever looks at the old one hears that it is of another time, and loads it anew."""
    manifest = make_manifest("ab", name="one")
    with WatchServer([]) as server:
        server.follow(manifest, tmp_path)
        until(lambda: ask(server, "/one/")[0] == 200)
        mark = ask(server, "/one/")[2].decode().split('data-mark="')[1].split('"')[0]
        with urllib.request.urlopen(f"{server.urls[0]}one/events?since={mark}", timeout=10) as looks:  # noqa: S310
            server.follow(dataclasses.replace(manifest), tmp_path)
            server.follow(make_manifest("abc", name="one"), tmp_path)
            until(lambda: b"p002" in ask(server, "/one/")[2])
            assert any(b"stale" in line for line in iter(looks.readline, b""))


def test_the_oldest_pages_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is watched for a year has not all of its pages in memory."""
    monkeypatch.setattr(watching, "_MOST_PAGES", 2)
    with WatchServer([]) as server:
        for name in ("one", "two", "three"):
            server.follow(make_manifest(name=name), tmp_path)
        until(lambda: ask(server, "/three/")[0] == 200)
        assert [ask(server, f"/{name}/")[0] for name in ("one", "two")] == [404, 200]
