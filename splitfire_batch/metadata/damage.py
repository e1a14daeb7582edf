"""Whether a chunk keeps its own promises: counts that fit its length, texts in their places.

What does not is left out of the stems: no sampler could use it, and a decoder might stumble over it.
Layouts: Microsoft and IBM, Multimedia Programming Interface (1991) and New Multimedia Data Types (1994);
EBU Tech 3285 (bext); AES46 (cart); Apple, AIFF (1989); RFC 9639 (FLAC).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from splitfire_batch.audio import VORBIS_COMMENT, Insert

MARKER_HEAD = 6
"""Bytes of an AIFF marker before its name: id, position."""


def is_sound(chunk: Insert) -> bool:
    """Whether the chunk (of WAV, AIFF or FLAC, by its name) holds together."""
    check = _CHECKS.get(chunk.name)
    return check is None or check(chunk.data)


def subchunks(data: bytes) -> Iterator[tuple[bytes, bytes]] | None:
    """Names and data inside a LIST chunk, behind its type; None if their lengths do not add up."""
    position = 4
    found: list[tuple[bytes, bytes]] = []
    while position < len(data):
        if position + 8 > len(data):
            return None if data[position:].strip(b"\0") else iter(found)
        name, size = struct.unpack_from("<4sI", data, position)
        position += 8 + size
        if position > len(data):
            return None
        found.append((name, data[position - size : position]))
        position += size % 2
    return iter(found)


def markers(data: bytes) -> list[tuple[int, int, int]] | None:
    """Id, position in frames and place in `data` of each AIFF marker; None if they do not fit."""
    found, place = [], 2
    for _ in range(int.from_bytes(data[:2], "big")):
        if place + MARKER_HEAD >= len(data):
            return None
        number, position = struct.unpack_from(">HI", data, place)
        found.append((number, position, place))
        place += MARKER_HEAD + 1 + data[place + MARKER_HEAD]
        if place > len(data):
            return None
        place += place % 2
    return found if len(data) >= 2 else None


def comment_entries(data: bytes) -> list[bytes] | None:
    """The entries of a Vorbis comment behind its vendor (RFC 9639 §8.6); None if their lengths do not fit."""
    entries, place = [], 4
    for _ in range(int.from_bytes(data[:4], "little")):
        start = place + 4
        place = start + int.from_bytes(data[place:start], "little")
        if place > len(data) or start > len(data):
            return None
        entries.append(data[start:place])
    return entries if len(data) >= 4 else None


def _of_length(least: int) -> Callable[[bytes], bool]:
    return lambda data: len(data) >= least


def _counted(at: int, head: int, each: int) -> Callable[[bytes], bool]:
    """For a chunk whose 32-bit number at `at` counts records of `each` bytes behind `head`."""
    return lambda data: (
        len(data) >= head and head + each * int.from_bytes(data[at : at + 4], "little") <= len(data)
    )


def _is_list(data: bytes) -> bool:
    return data[:4] in (b"INFO", b"adtl") and subchunks(data) is not None


def _is_comments(data: bytes) -> bool:
    """AIFF comments: time, marker, text."""
    place = 2
    for _ in range(int.from_bytes(data[:2], "big")):
        place += 8 + int.from_bytes(data[place + 6 : place + 8], "big")
        if place > len(data):
            return False
        place += place % 2
    return len(data) >= 2


def _is_cue_sheet(data: bytes) -> bool:
    """FLAC's: 396 bytes, then tracks of 36 bytes, each with points of 12."""
    place = 396
    for _ in range(data[395] if len(data) >= 396 else 0):
        if place + 36 > len(data):
            return False
        place += 36 + 12 * data[place + 35]
    return 396 < place == len(data)


def _is_picture(data: bytes) -> bool:
    place = 4
    for fixed in (0, 0, 16):
        place += fixed
        place += 4 + int.from_bytes(data[place : place + 4], "big")
    return 32 <= len(data) == place


def _is_id3(data: bytes) -> bool:
    return data.startswith(b"ID3") and len(data) > 10


_CHECKS: dict[bytes, Callable[[bytes], bool]] = {
    b"smpl": _counted(28, 36, 24),
    b"cue ": _counted(0, 4, 24),
    b"plst": _counted(0, 4, 12),
    b"acid": _of_length(24),
    b"inst": _of_length(7),
    b"LIST": _is_list,
    b"bext": _of_length(602),
    b"cart": _of_length(2048),
    b"chna": _of_length(4),
    b"id3 ": _is_id3,
    b"ID3 ": _is_id3,
    b"MARK": lambda data: markers(data) is not None,
    b"INST": _of_length(20),
    b"COMT": _is_comments,
    b"APPL": _of_length(4),
    b"basc": _of_length(20),
    VORBIS_COMMENT: lambda data: comment_entries(data) is not None,
    b"APPLICATION": _of_length(4),
    b"CUESHEET": _is_cue_sheet,
    b"PICTURE": _is_picture,
}
