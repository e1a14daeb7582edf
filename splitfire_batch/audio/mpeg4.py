"""What an MP4 says about the length of its audio, in boxes of size, name and content (ISO/IEC 14496-12)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO

_MAX_BOXES = 10_000
_MAX_PADDING = 16_384
"""Frames, more than any codec's."""
_Box = tuple[bytes, int, int]
"""Name, first byte and end of its content."""


@dataclass(frozen=True, slots=True)
class Edit:
    """The part of its audio that a track plays; `duration_s` is exact to a tick of the movie's clock."""

    duration_s: Fraction
    tick_s: Fraction
    is_whole: bool
    """Whether that is all but an encoder's delay and padding, and not a cut somebody made."""


def single_edit(path: Path) -> Edit | None:
    """The edit of the first audio track; None if it has none, or several, or silence in front."""
    with path.open("rb") as file:
        whole: _Box = (b"", 0, path.stat().st_size)
        header = _find(file, whole, b"moov", b"mvhd")
        track = next(_audio_tracks(file, whole), None)
        media = _find(file, track, b"mdia", b"mdhd") if track else None
        edits = _find(file, track, b"edts", b"elst") if track else None
        if not header or not media or not edits:
            return None
        timescale, _ = _clock(file, header)
        media_timescale, n_ticks = _clock(file, media)
        version, content = _content(file, edits)
        n_entries, duration, start = struct.unpack_from(">IQq" if version else ">IIi", content)
    if n_entries != 1 or start < 0 or not timescale or not media_timescale:
        return None
    duration_s = Fraction(duration, timescale)
    n_unplayed = n_ticks - start - duration_s * media_timescale
    return Edit(duration_s, Fraction(1, timescale), start <= _MAX_PADDING and n_unplayed <= _MAX_PADDING)


def sound_length(file: IO[bytes], n_bytes: int) -> tuple[int, int] | None:
    """Ticks in a second, which are most often the sample rate, and in all of the first audio track."""
    track = next(_audio_tracks(file, (b"", 0, n_bytes)), None)
    media = _find(file, track, b"mdia", b"mdhd") if track else None
    clock = _clock(file, media) if media else (0, 0)
    return clock if clock[0] else None


def _clock(file: IO[bytes], header: _Box) -> tuple[int, int]:
    """Ticks per second and duration in ticks, behind two times of creation and change."""
    version, content = _content(file, header)
    timescale, duration = struct.unpack_from(">16xIQ" if version else ">8xII", content)
    return timescale, duration


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
        if start + 8 > stop:
            return
        file.seek(start)
        head = file.read(16)
        if len(head) < 8:
            return
        size, n_head = int.from_bytes(head[:4], "big"), 8
        if size == 1:
            size, n_head = int.from_bytes(head[8:], "big"), 16
        end = stop if size == 0 else start + size
        if end < start + n_head:
            return
        yield head[4:8], start + n_head, min(end, stop)
        start = end
