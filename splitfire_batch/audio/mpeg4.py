"""What an MP4 says about the length of its audio, in boxes of size, name and content (ISO/IEC 14496-12)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO

_MAX_BOXES = 10_000
_Box = tuple[bytes, int, int]
"""Name, first byte and end of its content."""


@dataclass(frozen=True, slots=True)
class Edit:
    """The part of its only edit that a track plays, seconds; it is exact to a tick of the movie's clock."""

    duration_s: Fraction
    tick_s: Fraction


def single_edit(path: Path) -> Edit | None:
    """The edit of the first audio track; None if it has none, or several, or one that begins with silence."""
    with path.open("rb") as file:
        whole: _Box = (b"", 0, path.stat().st_size)
        header = _find(file, whole, b"moov", b"mvhd")
        if header is None:
            return None
        version, content = _content(file, header)
        (timescale,) = struct.unpack_from(">I", content, 16 if version else 8)  # behind two times
        track = next(_audio_tracks(file, whole), None)
        edits = None if track is None else _find(file, track, b"edts", b"elst")
        if edits is None or not timescale:
            return None
        version, content = _content(file, edits)
        n_entries, duration, start = struct.unpack_from(">IQq" if version else ">IIi", content)
    if n_entries != 1 or start < 0:
        return None
    return Edit(Fraction(duration, timescale), Fraction(1, timescale))


def _audio_tracks(file: IO[bytes], whole: _Box) -> Iterator[_Box]:
    movie = _find(file, whole, b"moov")
    for box in _boxes(file, movie) if movie else ():
        handler = _find(file, box, b"mdia", b"hdlr") if box[0] == b"trak" else None
        if handler and _content(file, handler)[1][4:8] == b"soun":
            yield box


def _find(file: IO[bytes], box: _Box, *names: bytes) -> _Box | None:
    """The first box at that path."""
    for name in names:
        found = next((inner for inner in _boxes(file, box) if inner[0] == name), None)
        if found is None:
            return None
        box = found
    return box


def _content(file: IO[bytes], box: _Box) -> tuple[int, bytes]:
    """The version, and what follows it and the flags, with zeros where the file ends."""
    file.seek(box[1])
    content = file.read(min(64, box[2] - box[1])).ljust(64, b"\0")
    return content[0], content[4:]


def _boxes(file: IO[bytes], box: _Box) -> Iterator[_Box]:
    """The boxes inside a box, up to the first whose size makes no sense."""
    _, start, stop = box
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
