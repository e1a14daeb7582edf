"""What an MP4 says about its clock (ISO/IEC 14496-12): boxes of a size, a name and a content."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

_MAX_BOXES = 10_000


def movie_timescale(path: Path) -> int | None:
    """Ticks per second of the movie's clock, in which edit lists count; None if the file does not say."""
    with path.open("rb") as file:
        movie = next((box for box in _boxes(file, 0, path.stat().st_size) if box[0] == b"moov"), None)
        if movie is None:
            return None
        header = next((box for box in _boxes(file, *movie[1:]) if box[0] == b"mvhd"), None)
        if header is None:
            return None
        file.seek(header[1])
        content = file.read(24)
        at = 20 if content[:1] == b"\1" else 12  # behind version, flags and two times of 8 or 4 bytes
        return int.from_bytes(content[at : at + 4], "big") or None


def _boxes(file: IO[bytes], start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, first byte and end of the contents of the boxes in [start, stop)."""
    for _ in range(_MAX_BOXES):
        file.seek(start)
        head = file.read(16)
        if start + 8 > stop or len(head) < 8:
            return
        size, n_head = int.from_bytes(head[:4], "big"), 8
        if size == 1:
            size, n_head = int.from_bytes(head[8:], "big"), 16
        end = stop if size == 0 else start + size
        if end < start + n_head:
            return
        yield head[4:8], start + n_head, min(end, stop)
        start = end
