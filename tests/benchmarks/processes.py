"""What the processes of this machine hold: proportional set sizes of a process and everything below it.

PSS counts a page that n processes share as 1/n in each (Linux, Documentation/filesystems/proc.rst), so
sums over processes count every page once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")


def tree(pid: int) -> list[int]:
    """The process and all its descendants that are alive now."""
    found = [pid]
    for parent in found:  # grows while it is read
        found += _children(parent)
    return found


def pss_mb(pid: int) -> float:
    """Megabytes (10^6 bytes) of one process; 0 when it has ended."""
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6


def pss_by_role(pid: int, role: Callable[[str], str]) -> dict[str, float]:
    """Megabytes of a process and its descendants, summed by what `role` says of their command lines."""
    sums: dict[str, float] = {}
    for each in tree(pid):
        name = role(_command_line(each))
        sums[name] = sums.get(name, 0.0) + pss_mb(each)
    return sums


def _children(pid: int) -> list[int]:
    """What its threads have started; one that ends meanwhile leaves its children to the first, read last."""
    found: dict[int, None] = {}
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in sorted((_PROC / str(pid) / "task").iterdir(), key=lambda task: -int(task.name)):
            with suppress(FileNotFoundError, ProcessLookupError):
                found |= dict.fromkeys(map(int, (task / "children").read_text().split()))
    return list(found)


def _command_line(pid: int) -> str:
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
