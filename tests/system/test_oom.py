from __future__ import annotations

from pathlib import Path

import pytest

from renderer.system import oom


@pytest.mark.parametrize(
    ("groups", "counter", "count"),
    [
        ("0::/user.slice/night.service\n", "user.slice/night.service/memory.events", 3),
        ("0::/\n", "memory.events", 3),
        ("4:memory:/docker/abc\n0::/\n", "memory/docker/abc/memory.oom_control", 3),
        ("4:cpuset,memory:/docker/abc\n", "memory/memory.oom_control", 3),
        ("0::/\n", "elsewhere/memory.events", 7),
    ],
)
def test_the_kernel_s_own_count_is_read(tmp_path: Path, groups: str, counter: str, count: int) -> None:
    """Of the own control group, version 2 or 1, as a container sees it; else of the whole machine."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups)
    (tmp_path / "proc/vmstat").write_text("nr_free_pages 12\noom_kill 7\n")
    path = tmp_path / "cgroup" / counter
    path.parent.mkdir(parents=True)
    path.write_text("oom 9\noom_kill 3\noom_group_kill 0\n")
    assert oom.kills(tmp_path / "proc", tmp_path / "cgroup") == count


def test_where_nothing_is_counted_nothing_is_known(tmp_path: Path) -> None:
    """No such files, or none that says it: not zero, but unknown."""
    assert oom.kills(tmp_path, tmp_path) is None
    (tmp_path / "vmstat").write_text("oom_kill lots\n")
    assert oom.kills(tmp_path, tmp_path) is None
