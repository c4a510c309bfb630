"""What NVML and the system say: put together from the files that kernels write."""

from __future__ import annotations

from pathlib import Path

from renderer.machine import hardware


def group(folder: Path, limit: str, used: int, cache: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cache}\nactive_file 7\n")


class TestContainer:
    def test_a_container_has_what_its_limit_leaves(self, tmp_path: Path) -> None:
        """What is used counts against the limit; cache that the kernel would drop does not."""
        group(tmp_path, "1000", 700, cache=200)
        assert hardware._container(tmp_path, "0::/\n") == (1000, 500)

    def test_the_tightest_group_above_counts(self, tmp_path: Path) -> None:
        """A service without a limit of its own lives within its slice's."""
        group(tmp_path / "user.slice", "800", 600)
        group(tmp_path / "user.slice" / "renderer.service", "max", 300)
        assert hardware._container(tmp_path, "0::/user.slice/renderer.service\n") == (800, 600)

    def test_the_older_hierarchy(self, tmp_path: Path) -> None:
        """Cgroup v1 has a folder a controller, and other names."""
        folder = tmp_path / "memory" / "docker" / "abc"
        folder.mkdir(parents=True)
        (folder / "memory.limit_in_bytes").write_text("900")
        (folder / "memory.usage_in_bytes").write_text("500")
        (folder / "memory.stat").write_text("total_inactive_file 100\n")
        assert hardware._container(tmp_path, "9:name=systemd:/x\n4:memory:/docker/abc\n") == (900, 400)

    def test_no_limit_is_no_bound(self, tmp_path: Path) -> None:
        """Without cgroups the machine has what it has."""
        limit, used = hardware._container(tmp_path, "")
        assert (limit > 2**60, used) == (True, 0)


def test_memory_that_may_be_locked_is_told() -> None:
    """This machine's limits are those of this process."""
    here = hardware.look()
    assert here.lockable_bytes is None or here.lockable_bytes >= 0
    assert here.kernel
    assert here.swap_free_bytes <= here.swap_bytes
