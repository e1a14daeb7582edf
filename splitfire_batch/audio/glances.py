"""How much audio a file holds, by a glance at its headers: nothing is decoded, and little of it is read.

For plans, which may look at objects far away: what is found is what the headers claim, true or not. Formats
are those of the specifications that `chunks`, `flac`, `mpeg`, `ogg` and `mpeg4` name.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import IO

from splitfire_batch.audio.chunks import Chunk, walk_chunks
from splitfire_batch.audio.decode import MAX_CHANNELS, MAX_RATE, MIN_RATE
from splitfire_batch.audio.flac import STREAMINFO_BYTES, streaminfo
from splitfire_batch.audio.mpeg import length_of as mpeg_length
from splitfire_batch.audio.mpeg4 import sound_length
from splitfire_batch.audio.sniff import Family, sniff_file
from splitfire_batch.records import AudioFormat

_OGG_TAIL = 128 * 1024  # more than two of the largest pages
_EXTENSIBLE, _FLOAT = 0xFFFE, 3
_AIFC_INTEGERS = (b"NONE", b"twos", b"sowt")


def glance(file: IO[bytes], n_bytes: int) -> AudioFormat | None:
    """What the headers of an audio file say; None where only a decoder could tell.

    Args:
        file: seekable; parts of it are read.
        n_bytes: its length.

    Returns:
        With the frames that the headers claim, or that the file's length allows if they claim none.

    Raises:
        TrackError: EMPTY, NOT_AUDIO or UNSUPPORTED: it will fail.
    """
    found = sniff_file(file, n_bytes)
    read = _READERS.get(found.family)
    try:
        seen = read(file, found.offset, n_bytes) if read else None
    except (struct.error, ValueError, ZeroDivisionError, OverflowError):  # headers that make no sense
        return None
    if seen and not (1 <= seen.n_channels <= MAX_CHANNELS and MIN_RATE <= seen.sample_rate <= MAX_RATE):
        return None  # nor do these, or no stems can be made of them
    return seen


def _wav(file: IO[bytes], offset: int, n_bytes: int) -> AudioFormat | None:
    file.seek(offset)
    order = ">" if file.read(4) == b"RIFX" else "<"
    chunks = _until(file, offset, n_bytes, b"data")
    if b"fmt " not in chunks or b"data" not in chunks:
        return None
    file.seek(chunks[b"fmt "].start)
    content = file.read(min(40, chunks[b"fmt "].n_bytes))
    codec, n_channels, rate, byte_rate, align, bits = struct.unpack_from(f"{order}HHIIHH", content)
    if codec == _EXTENSIBLE and len(content) >= 26:
        (codec,) = struct.unpack_from(f"{order}H", content, 24)
    data = _held(chunks[b"data"], n_bytes)
    if codec in (1, _FLOAT):
        return AudioFormat("WAV", _pcm(bits, codec == _FLOAT), rate, n_channels, data // align)
    return AudioFormat("WAV", "MS_ADPCM", rate, n_channels, data * rate // byte_rate)


def _aiff(file: IO[bytes], offset: int, n_bytes: int) -> AudioFormat | None:
    chunk = next((item for item in walk_chunks(file, offset, n_bytes) if item.name == b"COMM"), None)
    if chunk is None:
        return None
    file.seek(chunk.start)
    content = file.read(min(22, chunk.n_bytes))
    n_channels, n_frames, bits, exponent, mantissa = struct.unpack_from(">hIhHQ", content)
    rate = round(mantissa * 2.0 ** ((exponent & 0x7FFF) - 16_383 - 63))
    is_float = content[18:22].lower() in (b"fl32", b"fl64")
    is_pcm = is_float or content[18:22] in (b"", *_AIFC_INTEGERS)
    return AudioFormat("AIFF", _pcm(bits, is_float) if is_pcm else "ULAW", rate, n_channels, n_frames)


def _caf(file: IO[bytes], offset: int, n_bytes: int) -> AudioFormat | None:
    chunks = {item.name: item for item in walk_chunks(file, offset, n_bytes)}
    if b"desc" not in chunks:
        return None
    file.seek(chunks[b"desc"].start)
    fields = struct.unpack(">d4sIIIII", file.read(32))
    rate, codec, flags, packet_bytes, packet_frames, n_channels, bits = fields
    if b"pakt" in chunks:
        file.seek(chunks[b"pakt"].start + 8)
        (n_frames,) = struct.unpack(">q", file.read(8))
    elif packet_bytes and b"data" in chunks:
        n_frames = (_held(chunks[b"data"], n_bytes) - 4) // packet_bytes * packet_frames
    else:
        return None
    subtype = _pcm(bits, bool(flags & 1)) if codec == b"lpcm" else f"ALAC_{bits or 16}"
    return AudioFormat("CAF", subtype, round(rate), n_channels, max(0, n_frames))


def _flac(file: IO[bytes], offset: int, n_bytes: int) -> AudioFormat | None:  # noqa: ARG001
    file.seek(offset + 8)
    return _streaminfo(file.read(STREAMINFO_BYTES))


def _streaminfo(info: bytes) -> AudioFormat | None:
    if len(info) < 18:
        return None
    rate, n_channels, bits, n_frames = streaminfo(info)
    return AudioFormat("FLAC", _pcm(bits, is_float=False), rate, n_channels, n_frames) if n_frames else None


def _ogg(file: IO[bytes], offset: int, n_bytes: int) -> AudioFormat | None:
    """Vorbis I §4.2.2, RFC 7845 §5.1, and the FLAC-to-Ogg mapping; the last page counts the frames."""
    file.seek(offset)
    page = file.read(512)
    packet = page[27 + page[26] :] if len(page) > 27 else b""
    file.seek(max(offset, n_bytes - _OGG_TAIL))
    tail = file.read(_OGG_TAIL)
    last = tail.rfind(b"OggS\0")
    if last < 0 or len(tail) < last + 14:
        return None
    (n_frames,) = struct.unpack_from("<q", tail, last + 6)
    if n_frames < 0:
        return None
    if packet.startswith(b"\x01vorbis"):
        n_channels, rate = struct.unpack_from("<BI", packet, 11)
        return AudioFormat("OGG", "VORBIS", rate, n_channels, n_frames)
    if packet.startswith(b"OpusHead"):
        n_channels, skipped = struct.unpack_from("<BH", packet, 9)
        return AudioFormat("OGG", "OPUS", 48_000, n_channels, max(0, n_frames - skipped))
    return _streaminfo(packet[17:51]) if packet.startswith(b"\x7fFLAC") else None


def _mp3(file: IO[bytes], offset: int, n_bytes: int) -> AudioFormat | None:
    found = mpeg_length(file, offset, n_bytes)
    return AudioFormat("MP3", "MPEG_LAYER_III", *found) if found else None


def _mp4(file: IO[bytes], offset: int, n_bytes: int) -> AudioFormat | None:  # noqa: ARG001
    found = sound_length(file, n_bytes)
    return AudioFormat("MP4", "AAC", found[0], 2, found[1]) if found else None


def _until(file: IO[bytes], offset: int, n_bytes: int, name: bytes) -> dict[bytes, Chunk]:
    """The chunks up to the first of that name: what is behind the samples may be far away."""
    chunks: dict[bytes, Chunk] = {}
    for chunk in walk_chunks(file, offset, n_bytes):
        chunks.setdefault(chunk.name, chunk)
        if chunk.name == name:
            break
    return chunks


def _held(chunk: Chunk, n_bytes: int) -> int:
    """Bytes of a chunk that are there, all to the end where its length is left open."""
    there = max(0, n_bytes - chunk.start)
    return min(chunk.n_bytes, there) if chunk.n_bytes else there


def _pcm(bits: int, is_float: bool) -> str:
    """libsndfile's name of samples with so many bits."""
    if is_float:
        return "DOUBLE" if bits > 32 else "FLOAT"
    return f"PCM_{8 * math.ceil(bits / 8)}" if bits > 8 else "PCM_U8"


_READERS: dict[Family, Callable[[IO[bytes], int, int], AudioFormat | None]] = {
    "WAV": _wav,
    "RF64": _wav,
    "W64": _wav,
    "AIFF": _aiff,
    "CAF": _caf,
    "FLAC": _flac,
    "OGG": _ogg,
    "MP3": _mp3,
    "MP4": _mp4,
}
