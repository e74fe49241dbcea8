"""What the control groups of this process (containers, batch jobs, systemd units) leave it of the machine's memory.

`/proc/self/cgroup` names the group, `/proc/self/mountinfo` where its hierarchy is mounted (cgroups(7)): version 2 has
one hierarchy, version 1 has one for memory, and hybrid machines have both. A limit of any group holds for all below it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class _Files(NamedTuple):
    """The names of one version's files, and the lines in `memory.stat` of page cache that the kernel can take back."""

    limit: str
    usage: str
    cache: tuple[str, str]


_V1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file"))
_V2 = _Files("memory.max", "memory.current", ("active_file", "inactive_file"))


def memory_limit(root: Path = Path("/")) -> int | None:
    """Bytes that this process may take in all by the tightest of its groups; None without a limit.

    Args:
        root: of the file system.
    """
    return min((limit for _, _, limit in _limits(root)), default=None)


def memory_left(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take by the tightest of its groups; None without a limit, never below 0.

    Page cache counts as free, since the kernel takes it back before a group runs out of memory.

    Args:
        root: of the file system.
    """
    return min((max(0, limit - _in_use(folder, files)) for folder, files, limit in _limits(root)), default=None)


def _limits(root: Path) -> Iterator[tuple[Path, _Files, int]]:
    """The groups of this process that have a limit, and the limit in bytes."""
    for folder, files in _groups(root):
        limit = _lines(folder / files.limit)
        if limit and limit[0].isdigit():  # version 2 says "max" where there is none
            yield folder, files, int(limit[0])


def _groups(root: Path) -> Iterator[tuple[Path, _Files]]:
    """The folder of each group that this process is in, the innermost first; none where there are no control groups."""
    groups = {}
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        if number == "0":
            groups["cgroup2"] = Path(path)
        elif "memory" in controllers.split(","):
            groups["cgroup"] = Path(path)
    for line in _lines(root / "proc/self/mountinfo"):
        mount, _, kind = line.partition(" - ")
        system, _, options = kind.split(maxsplit=2)
        if system not in groups or (system == "cgroup" and "memory" not in options.split(",")):
            continue
        top, point = (Path(part) for part in mount.split()[3:5])
        group = groups[system]
        # A container sees its own group mounted as the top, whose path it may know by another name.
        inner = group.relative_to(top) if group.is_relative_to(top) and ".." not in group.parts else Path()
        for part in (inner, *inner.parents):
            yield root / point.relative_to("/") / part, _V2 if system == "cgroup2" else _V1


def _in_use(folder: Path, files: _Files) -> int:
    """Bytes of a group that cannot be taken back."""
    stat = dict(line.split(maxsplit=1) for line in _lines(folder / "memory.stat"))
    usage = _lines(folder / files.usage)
    return sum(int(line) for line in usage) - sum(int(stat.get(name, 0)) for name in files.cache)


def _lines(path: Path) -> list[str]:
    """Of a file of the kernel; none where there is no such file, as on macOS."""
    try:
        return [line for line in path.read_text().splitlines() if line.strip()]
    except OSError:
        return []
