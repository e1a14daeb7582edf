"""Whether all of a file is there: what its headers promise against the bytes it has.

libsndfile reads a cut WAV, AIFF or OGG file without a word and returns what is left, so the promise is
checked here first. Lengths that streaming writers leave open (0 or all ones) promise nothing.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
from functools import cache
from pathlib import Path
from typing import IO

from splitfire_batch.audio.chunks import audio_chunk, walk_chunks
from splitfire_batch.audio.flac import check_total
from splitfire_batch.audio.ogg import second_stream
from splitfire_batch.audio.sniff import Sniffed
from splitfire_batch.errors import TrackError

_TAIL_BYTES = 128 * 1024  # more than the largest OGG page, and than a FLAC frame usually has
_FOREIGN_CODECS = {0x50: "MPEG", 0x55: "MP3", 0x160: "WMA", 0x161: "WMA", 0x162: "WMA", 0xFF: "AAC"}

_AIFC_BYTES = {
    **dict.fromkeys((b"raw ", b"ulaw", b"ULAW", b"alaw", b"ALAW"), 1),
    **dict.fromkeys((b"fl32", b"FL32"), 4),
    **dict.fromkeys((b"fl64", b"FL64"), 8),
}
"""Of a sample, whatever the header calls its depth."""
_BY_DEPTH = (b"NONE", b"twos", b"sowt")


def check_complete(path: Path, sniffed: Sniffed) -> None:
    """Refuse a file whose end is missing, as far as its headers tell.

    Raises:
        TrackError: TRUNCATED, with the bytes promised and found; CORRUPT_HEADER when there is more than its
            header says, or can say; NO_SAMPLES for a FLAC file without frames.
    """
    with path.open("rb") as file:
        n_bytes = path.stat().st_size
        if sniffed.family == "FLAC":
            _check_flac(file, sniffed.offset, n_bytes)
        elif sniffed.family == "OGG":
            _check_ogg(file, sniffed.offset, n_bytes)
        elif sniffed.family != "MP3":
            _check_chunks(file, sniffed.offset, n_bytes)


def with_data_length(path: Path, sniffed: Sniffed, scratch_dir: Path | None) -> IO[bytes] | None:
    """A temporary copy, with its header finished, of a WAV file whose header was not; None for others.

    Such a header says 0 bytes of data, and an open whole or one that ends before them; libsndfile then
    reads 0 frames.
    """
    if sniffed.family != "WAV":
        return None
    n_bytes = path.stat().st_size
    with path.open("rb") as file:
        data = audio_chunk(file, sniffed.offset, n_bytes)
        file.seek(sniffed.offset)
        name, whole = struct.unpack("<4sI", file.read(8))
        if name != b"RIFF" or data is None or data.n_bytes:
            return None
        if sniffed.offset + whole >= data.start and not _is_open(whole):
            return None
        file.seek(0)
        copy = tempfile.NamedTemporaryFile(dir=scratch_dir)  # noqa: SIM115
        shutil.copyfileobj(file, copy, 2**20)
    copy.seek(data.start - 4)
    copy.write(struct.pack("<I", min(n_bytes - data.start, 2**32 - 1)))
    copy.flush()
    return copy


def foreign_codec(path: Path, sniffed: Sniffed) -> str | None:
    """The codec inside a WAV file that libsndfile cannot decode; None if it is another matter."""
    if sniffed.family not in ("WAV", "RF64"):
        return None
    with path.open("rb") as file:
        for chunk in walk_chunks(file, sniffed.offset, path.stat().st_size):
            if chunk.name == b"fmt ":
                file.seek(chunk.start)
                return _FOREIGN_CODECS.get(int.from_bytes(file.read(2), "little"))
    return None


def ends_in_flac_frame(path: Path) -> bool:
    """Whether the file's last bytes are a whole FLAC frame (RFC 9639 §9.1, §9.3: sync code, CRC-16)."""
    with path.open("rb") as file:
        tail = _tail(file, path.stat().st_size)
    position = len(tail)
    while (position := tail.rfind(b"\xff", 0, position)) >= 0:
        if tail[position + 1 : position + 2] in (b"\xf8", b"\xf9") and _crc16(tail[position:]) == 0:
            return True
    return False


def _check_chunks(file: IO[bytes], offset: int, n_bytes: int) -> None:
    file.seek(offset)
    first = file.read(4)
    if first in (b"RIFF", b"RIFX", b"FORM") and n_bytes - offset > 2**32 + 8:
        raise TrackError(
            "CORRUPT_HEADER",
            f"it has {n_bytes} bytes, and the lengths in its {first.decode()} header wrap at {2**32}: what "
            "they say cannot be true; convert it to RF64",
        )
    chunk = audio_chunk(file, offset, n_bytes)
    if chunk is None or _is_open(chunk.n_bytes):
        return
    if chunk.start + chunk.n_bytes > n_bytes:
        found = max(0, n_bytes - chunk.start)
        raise _truncated(f"its header promises {chunk.n_bytes} bytes of samples, {found} are there")
    if first == b"FORM":
        _check_aiff(file, offset, n_bytes, max(0, chunk.n_bytes - 8))


def _check_aiff(file: IO[bytes], offset: int, n_bytes: int, found: int) -> None:
    """COMM counts frames (Audio Interchange File Format 1.3), where WAV only has the bytes of its data."""
    common = next((chunk for chunk in walk_chunks(file, offset, n_bytes) if chunk.name == b"COMM"), None)
    if common is None or common.n_bytes < 18:
        return
    file.seek(offset + 8)
    form = file.read(4)
    file.seek(common.start)
    content = file.read(22).ljust(22)
    n_channels, n_frames, bits = struct.unpack(">HIH", content[:8])
    codec = content[18:] if form == b"AIFC" else b"NONE"
    sample_bytes = -(-bits // 8) if codec in _BY_DEPTH else _AIFC_BYTES.get(codec, 0)
    promised = n_frames * n_channels * sample_bytes
    if promised > found and n_frames != 2**32 - 1:
        raise _truncated(
            f"its header promises {n_frames} frames in {promised} bytes of samples, {found} are there"
        )


def _is_open(n_bytes: int) -> bool:
    """Whether a length is one that streaming writers leave: 0, or close to the greatest number."""
    is_near_top = any(top - 0xFFFF <= n_bytes <= top for top in (2**31 - 1, 2**32 - 1))
    return n_bytes == 0 or is_near_top or n_bytes >= 2**62


def _check_flac(file: IO[bytes], offset: int, n_bytes: int) -> None:
    """Walk the metadata blocks (RFC 9639 §8.1): the top bit marks the last one."""
    position, is_last = offset + 4, False
    while not is_last:
        file.seek(position)
        head = file.read(4)
        if len(head) < 4:
            raise _truncated(f"it has {n_bytes} bytes and ends inside its header")
        is_last = bool(head[0] & 0x80)
        position += 4 + int.from_bytes(head[1:4], "big")
    if position > n_bytes:
        raise _truncated(f"it has {n_bytes} bytes and ends inside its header of {position} bytes")
    if position == n_bytes:
        raise TrackError("NO_SAMPLES", "it is a FLAC file without frames; leave it out of the catalogue")
    check_total(file, offset, n_bytes)


def _check_ogg(file: IO[bytes], offset: int, n_bytes: int) -> None:
    """The last page must be whole and marked as the end of the one stream (RFC 3533 §6)."""
    tail = _tail(file, n_bytes)
    page = tail.rfind(b"OggS\0")
    if page < 0 or len(tail) < page + 27:
        raise _truncated(f"it has {n_bytes} bytes, and no whole page near its end")
    lacing = tail[page + 27 : page + 27 + tail[page + 26]]
    if len(lacing) < tail[page + 26] or page + 27 + len(lacing) + sum(lacing) > len(tail):
        raise _truncated(f"it has {n_bytes} bytes and ends inside a page")
    if not tail[page + 5] & 4:
        raise _truncated(f"it has {n_bytes} bytes, and its last page does not end the stream")
    if (second := second_stream(file, offset)) is not None:
        raise TrackError(
            "UNSUPPORTED",
            f"it is a chain of OGG streams, the second from byte {second} on, and only the first would be "
            "decoded; split it, or convert it to FLAC (FFmpeg can)",
        )


def _tail(file: IO[bytes], n_bytes: int) -> bytes:
    file.seek(max(0, n_bytes - _TAIL_BYTES))
    return file.read()


def _crc16(data: bytes) -> int:
    """CRC-16 with polynomial x^16 + x^15 + x^2 + 1, from 0: over data and their own CRC it is 0."""
    table, crc = _crc16_table(), 0
    for byte in data:
        crc = (crc << 8) & 0xFFFF ^ table[crc >> 8 ^ byte]
    return crc


@cache
def _crc16_table() -> tuple[int, ...]:
    """The remainders of all single bytes."""
    remainders = []
    for byte in range(256):
        crc = byte << 8
        for _ in range(8):
            crc = (crc << 1) & 0xFFFF ^ (0x8005 if crc & 0x8000 else 0)
        remainders.append(crc)
    return tuple(remainders)


def _truncated(found: str) -> TrackError:
    return TrackError("TRUNCATED", f"{found}; fetch the whole file again or leave it out of the catalogue")
