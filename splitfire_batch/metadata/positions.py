"""Loop points and markers of a chunk at another sample rate.

Stems have their source's rate, so the ratio is 1 and a chunk stays as it is, byte for byte; a rate that
changes moves whatever counts in frames, and nothing else. Layouts as in `damage`.
"""

from __future__ import annotations

import struct
from fractions import Fraction

from splitfire_batch.audio import Insert
from splitfire_batch.metadata.damage import markers

_TIME_REFERENCE = 338
"""Place in `bext` of the 64-bit frame count since midnight."""


def scaled(chunk: Insert, ratio: Fraction) -> Insert:
    """The chunk with its frame positions times `ratio` (new rate / old rate), rounded to the nearest.

    Args:
        chunk: sound, of WAV or AIFF.
        ratio: greater than 0.
    """
    if ratio == 1:
        return chunk
    data = bytearray(chunk.data)
    if chunk.name == b"smpl":
        _scale_period(data, ratio)
        for loop in range(int.from_bytes(data[28:32], "little")):
            _scale(data, "<I", 36 + 24 * loop + 8, ratio)
            _scale_end(data, 36 + 24 * loop + 12, ratio)
    elif chunk.name == b"cue ":
        for point in range(int.from_bytes(data[:4], "little")):
            _scale(data, "<I", 4 + 24 * point + 4, ratio)
            _scale(data, "<I", 4 + 24 * point + 20, ratio)
    elif chunk.name == b"plst":
        for part in range(int.from_bytes(data[:4], "little")):
            _scale(data, "<I", 4 + 12 * part + 4, ratio)
    elif chunk.name == b"LIST" and data[:4] == b"adtl":
        _scale_regions(data, ratio)
    elif chunk.name == b"bext":
        _scale(data, "<Q", _TIME_REFERENCE, ratio)
    elif chunk.name == b"MARK":
        for _, _, place in markers(chunk.data) or ():
            _scale(data, ">I", place + 2, ratio)
    return Insert(chunk.name, bytes(data))


def _scale(data: bytearray, form: str, at: int, ratio: Fraction) -> None:
    (position,) = struct.unpack_from(form, data, at)
    struct.pack_into(form, data, at, min(round(position * ratio), 256 ** struct.calcsize(form) - 1))


def _scale_end(data: bytearray, at: int, ratio: Fraction) -> None:
    """The last frame of a loop: what is scaled is the first one behind it."""
    (last,) = struct.unpack_from("<I", data, at)
    struct.pack_into("<I", data, at, min(max(0, round((last + 1) * ratio) - 1), 0xFFFFFFFF))


def _scale_period(data: bytearray, ratio: Fraction) -> None:
    """Nanoseconds of one frame."""
    _scale(data, "<I", 8, 1 / ratio)


def _scale_regions(data: bytearray, ratio: Fraction) -> None:
    """The lengths of labelled regions (`ltxt`)."""
    place = 4
    while place + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, place)
        if name == b"ltxt" and size >= 8:
            _scale(data, "<I", place + 12, ratio)
        place += 8 + size + size % 2
