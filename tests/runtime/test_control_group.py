"""Memory that control groups leave, in made-up file systems as Linux shows them (cgroups(7), proc_pid_mountinfo(5))."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from modeldoctor.runtime import memory
from modeldoctor.runtime.control_group import memory_left, memory_limit

GIB = 2**30
V2_MOUNT = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNTS = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    "35 31 0:32 {top} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)


def made(root: Path, groups: str, mounts: str, files: dict[str, int | str]) -> Path:
    """A file system with a process's two files and those of its groups."""
    for name, text in {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return root


def v2(group: str, limit: int | str, used: int, stat: str = "anon 1") -> dict[str, int | str]:
    folder = f"sys/fs/cgroup{group}"
    return {f"{folder}/memory.max": limit, f"{folder}/memory.current": used, f"{folder}/memory.stat": stat}


def v1(group: str, limit: int, used: int, stat: str = "cache 1") -> dict[str, int | str]:
    folder = f"sys/fs/cgroup/memory{group}"
    return {
        f"{folder}/memory.limit_in_bytes": limit,
        f"{folder}/memory.usage_in_bytes": used,
        f"{folder}/memory.stat": stat,
    }


def test_page_cache_does_not_count_as_used(tmp_path: Path) -> None:
    stat = f"anon {GIB}\nfile {3 * GIB}\ninactive_anon 5\nactive_file {GIB}\ninactive_file {GIB}\nshmem {GIB}"
    root = made(tmp_path, "0::/job", V2_MOUNT, v2("/job", 8 * GIB, 4 * GIB, stat))
    assert (memory_limit(root), memory_left(root)) == (8 * GIB, 6 * GIB)  # shared memory (file - both) stays used


def test_the_tightest_of_nested_groups_holds(tmp_path: Path) -> None:
    files = v2("/slice", 6 * GIB, 5 * GIB) | v2("/slice/job", "max", GIB) | v2("/slice/job/step", 4 * GIB, GIB)
    root = made(tmp_path, "0::/slice/job/step", V2_MOUNT, files | v2("/other", 1, 1))
    assert (memory_limit(root), memory_left(root)) == (4 * GIB, GIB)


def test_a_container_sees_its_group_as_the_top(tmp_path: Path) -> None:
    root = made(tmp_path, "0::/", V2_MOUNT, v2("", 2 * GIB, GIB))
    assert (memory_limit(root), memory_left(root)) == (2 * GIB, GIB)
    made(root, "0::/../../elsewhere", V2_MOUNT, {})
    assert memory_limit(root) == 2 * GIB


@pytest.mark.parametrize("top", ["/", "/docker/ab12"])
def test_version_1_mounted_whole_or_from_the_group_on(tmp_path: Path, top: str) -> None:
    stat = f"cache 9\nactive_file 7\ninactive_file 7\ntotal_active_file {GIB // 4}\ntotal_inactive_file {GIB // 4}"
    files = v1("/docker/ab12" if top == "/" else "", 3 * GIB, 2 * GIB, stat)
    if top == "/":
        files |= v1("", 9223372036854771712, 60 * GIB)
    groups = "5:devices:/\n4:cpu,memory:/docker/ab12\n0::/init"
    root = made(tmp_path, groups, V1_MOUNTS.format(top=top), files)
    assert (memory_limit(root), memory_left(root)) == (3 * GIB, GIB + GIB // 2)


def test_a_hybrid_machine_has_the_limit_in_version_1(tmp_path: Path) -> None:
    mounts = V1_MOUNTS.format(top="/") + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    root = made(tmp_path, "4:memory:/a/b\n0::/a/b", mounts, v1("/a", GIB, 0) | v1("/a/b", 5 * GIB, 0))
    assert memory_limit(root) == GIB


def test_no_limit_and_no_control_groups(tmp_path: Path) -> None:
    assert (memory_limit(tmp_path), memory_left(tmp_path)) == (None, None)  # such as macOS
    root = made(tmp_path, "0::/job", V2_MOUNT, v2("/job", "max", GIB))
    assert (memory_limit(root), memory_left(root)) == (None, None)


def test_more_used_than_allowed_leaves_nothing(tmp_path: Path) -> None:
    assert memory_left(made(tmp_path, "0::/job", V2_MOUNT, v2("/job", GIB, 2 * GIB))) == 0


@pytest.mark.parametrize("group", [None, 2**20])
def test_budgets_are_a_quarter_of_the_group_s_memory_or_of_the_machine_s(
    monkeypatch: pytest.MonkeyPatch, group: int | None
) -> None:
    machine = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    monkeypatch.setattr(memory, "memory_limit", lambda: group)
    monkeypatch.setattr(memory, "memory_left", lambda: group)
    assert memory.steady_budget(torch.device("cpu"), 2) == (group or machine.total) // 8
    assert memory.default_budget(torch.device("cpu"), 2) == (group or machine.available) // 8
