"""Frames of MPEG audio (MP3): where the first one is, and how many there are.

libsndfile guesses the length of an MP3 without a Xing, Info or VBRI header from the bitrate of its first
frame, and stops there: of a variable-bitrate file it may silently drop half. `with_length` counts the
frames and puts such a header in front of a copy. Layer I is left out: nobody has such files, and UTF-16
texts begin like one. Tables: ISO/IEC 11172-3 §2.4.2.3 and 13818-3 §2.4.2.3.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_KBITS = {  # (is MPEG-1, layer): by bitrate index - 1
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = (44_100, 48_000, 32_000)
_RESYNC_BYTES = 1024  # how far libmpg123 looks for the next frame after junk
_WINDOW_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class MpegFrame:
    """One frame header. `kind` is what all frames of a stream share: version, layer and rate."""

    kind: tuple[int, int, int]
    n_bytes: int
    side_bytes: int
    """Layer III side information, after which a Xing header lies."""


def parse_header(data: bytes) -> MpegFrame | None:
    """The frame whose header is the first four of `data`; None if they are no such header."""
    if len(data) < 4 or data[0] != 0xFF or data[1] & 0xE0 != 0xE0:
        return None
    version, layer = (data[1] >> 3) & 3, 4 - ((data[1] >> 1) & 3)
    bitrate_index, rate_index = data[2] >> 4, (data[2] >> 2) & 3
    if version == 1 or layer not in (2, 3) or bitrate_index in (0, 15) or rate_index == 3:
        return None
    is_mpeg1, is_mono = version == 3, data[3] >> 6 == 3
    rate = _RATES[rate_index] // {3: 1, 2: 2, 0: 4}[version]
    bits = _KBITS[is_mpeg1, layer][bitrate_index - 1] * 1000
    padding = (data[2] >> 1) & 1
    n_bytes = (72 if layer == 3 and not is_mpeg1 else 144) * bits // rate + padding
    side_bytes = (17 if is_mono else 32) if is_mpeg1 else (9 if is_mono else 17)
    return MpegFrame((version, layer, rate), n_bytes, side_bytes)


def find_frame(data: bytes | _Windowed, start: int, stop: int) -> int | None:
    """Position in [start, stop) of a frame that another one, or the end of `data`, follows; else None."""
    position = data.find(b"\xff", start, stop)
    while position >= 0:
        frame = parse_header(data[position : position + 4])
        if frame is not None:
            after = position + frame.n_bytes
            follower = parse_header(data[after : after + 4])
            if after == len(data) or (follower is not None and follower.kind == frame.kind):
                return position
        position = data.find(b"\xff", position + 1, stop)
    return None


def length_of(file: IO[bytes], start: int, n_bytes: int) -> tuple[int, int, int] | None:
    """Rate in Hz, channels and frames of audio by the first frame, and the header in it if there is one.

    Without such a header the length is what the file would have if all its frames were like the first.

    Args:
        file: of so many bytes.
        start: where to look for the first frame.
        n_bytes: of the file.
    """
    file.seek(start)
    data = file.read(_WINDOW_BYTES // 16)
    first = find_frame(data, 0, len(data))
    frame = parse_header(data[first : first + 4]) if first is not None else None
    if first is None or frame is None:
        return None
    version, layer, rate = frame.kind
    n_frames = _told_frames(data[first : first + frame.n_bytes], frame)
    if n_frames is None:
        n_frames = (n_bytes - start - first) // frame.n_bytes
    per_frame = 1152 if layer == 2 or version == 3 else 576
    return rate, 1 if data[first + 3] >> 6 == 3 else 2, n_frames * per_frame


def with_length(path: Path, start: int, scratch_dir: Path | None) -> IO[bytes] | None:
    """A temporary copy, with its length, of an MP3 that does not say it; None for others.

    Args:
        path: file whose bytes from `start` on (after ID3 tags) are MPEG frames.
        start: where to look for the first frame.
        scratch_dir: folder of the copy; it disappears when closed.
    """
    with path.open("rb") as file:
        data = _Windowed(file)
        first = find_frame(data, start, len(data))
        if first is None:
            return None
        frame = parse_header(data[first : first + 4])
        if frame is None or frame.kind[1] != 3 or _says_length(data[first : first + frame.n_bytes], frame):
            return None
        copy = tempfile.NamedTemporaryFile(dir=scratch_dir)  # noqa: SIM115
        copy.write(_xing_frame(data[first : first + 4], sum(1 for _ in _positions(data, first))))
        file.seek(first)
        shutil.copyfileobj(file, copy, 2**20)
        copy.flush()
    return copy


class _Windowed:
    """A file as bytes, a little of which is in memory at a time: whoever reads it may have to do with less
    than its length, which even a map of it takes of the address space.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._n_bytes = os.fstat(file.fileno()).st_size
        self._start, self._held = 0, b""

    def __len__(self) -> int:
        return self._n_bytes

    def __getitem__(self, part: slice) -> bytes:
        start, stop = part.start, min(part.stop, self._n_bytes)
        if start < self._start or stop > self._start + len(self._held):
            self._load(start, stop - start)
        return self._held[start - self._start : stop - self._start]

    def find(self, wanted: bytes, start: int, stop: int) -> int:
        """As `bytes.find`, for a single byte."""
        stop = min(stop, self._n_bytes)
        while start < stop:
            if not self._start <= start < self._start + len(self._held):
                self._load(start, 1)
            found = self._held.find(wanted, start - self._start, stop - self._start)
            if found >= 0:
                return self._start + found
            if not self._held:  # it has become shorter
                break
            start = self._start + len(self._held)
        return -1

    def _load(self, start: int, n_bytes: int) -> None:
        self._file.seek(start)
        self._start, self._held = start, self._file.read(max(n_bytes, _WINDOW_BYTES))


def _says_length(first_frame: bytes, frame: MpegFrame) -> bool:
    tag = 4 + frame.side_bytes
    places = (tag, tag + 2, 36)  # Xing's, two bytes later in files with a checksum, and VBRI's
    return any(first_frame[at : at + 4] in (b"Xing", b"Info", b"VBRI") for at in places)


def _told_frames(first_frame: bytes, frame: MpegFrame) -> int | None:
    """The frames that a Xing, Info or VBRI header counts; None if it is not there, or does not count them."""
    for at in (4 + frame.side_bytes, 6 + frame.side_bytes):
        if first_frame[at : at + 4] in (b"Xing", b"Info") and first_frame[at + 7] & 1:
            return int.from_bytes(first_frame[at + 8 : at + 12], "big")
    if first_frame[36:40] == b"VBRI":
        return int.from_bytes(first_frame[50:54], "big")
    return None


def _positions(data: _Windowed, position: int) -> Iterator[int]:
    """Where each whole frame begins; junk between frames is skipped as libmpg123 does."""
    while True:
        frame = parse_header(data[position : position + 4])
        if frame is None:
            found = find_frame(data, position, position + _RESYNC_BYTES)
            if found is None:
                return
            position = found
        elif position + frame.n_bytes > len(data):
            return
        else:
            yield position
            position += frame.n_bytes


def _xing_frame(header: bytes, n_frames: int) -> bytes:
    """A silent frame of the same kind whose Xing header says `n_frames` (flag 1: frame count)."""
    like = bytes([0xFF, header[1] | 1, 0x90 | (header[2] & 0x0C), header[3]])  # no checksum, bitrate index 9
    frame = parse_header(like)
    assert frame is not None  # noqa: S101 - made from a header that parsed
    body = bytes(frame.side_bytes) + b"Xing" + (1).to_bytes(4, "big") + n_frames.to_bytes(4, "big")
    return (like + body).ljust(frame.n_bytes, b"\0")
