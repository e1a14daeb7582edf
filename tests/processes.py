"""Processes of this machine, as /proc shows them."""

from __future__ import annotations

from pathlib import Path


def descendants(*pids: int) -> set[int]:
    """These processes and those below them."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended
            continue
    below = set(pids)
    while more := {child for child, parent in parents.items() if parent in below} - below:
        below |= more
    return below
