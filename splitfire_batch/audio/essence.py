"""What of a file is its audio: a hash of that alone, and the shape that its first bytes tell.

Copies of a recording differ in tags, pictures and sampler chunks, and are the same audio. `audio_id` hashes
the samples or frames as they lie in the file, together with what says how to read them, and leaves the rest
out. No decoder has a part in it, so no file can harm whoever asks. Other compression of the same samples is
other audio here: its stems would have another format.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from splitfire_batch.audio.chunks import Chunk, walk_chunks, walk_flac_blocks
from splitfire_batch.audio.flac import STREAMINFO_BYTES, streaminfo
from splitfire_batch.audio.sniff import Sniffed, sniff
from splitfire_batch.errors import TrackError

HEAD_BYTES = 64 * 1024
"""Of a file, what `shape_of` wants to see: headers that are longer tell nothing."""
Shape = tuple[int, int, int]
"""Sample rate in Hz, channels, frames."""

_FORMAT = {b"RIFF": b"fmt ", b"RIFX": b"fmt ", b"RF64": b"fmt ", b"FORM": b"COMM"}
_SAMPLES = {b"RIFF": b"data", b"RIFX": b"data", b"RF64": b"data", b"FORM": b"SSND"}
_ID3V1_BYTES = 128
_BLOCK = 1 << 20


def audio_id(path: Path) -> str:
    """SHA-256, as 64 hex digits, of the audio of a local file; of all its bytes where that cannot be told.

    Equal for two files only if they have the same samples at the same rate in the same format. The audio is
    told apart from what is around it in WAV, RF64, AIFF, FLAC of up to two channels, and MP3.

    Raises:
        OSError: the file cannot be read.
    """
    n_bytes = path.stat().st_size
    try:
        sniffed = sniff(path)
    except TrackError:
        sniffed = None
    with path.open("rb") as file:
        pieces = _essence(file, sniffed, n_bytes) if sniffed else None
        digest = hashlib.sha256()
        for head, chunk in pieces or [(b"whole", Chunk(b"", 0, n_bytes))]:
            digest.update(struct.pack("<Q", chunk.n_bytes) + head)
            for block in _blocks(file, chunk):
                digest.update(block)
    return digest.hexdigest()


def shape_of(head: bytes, n_bytes: int) -> Shape | None:
    """The shape of a file, of which only the first bytes are there; None where they do not tell it.

    Args:
        head: its first HEAD_BYTES, or all of it.
        n_bytes: length of the whole file.
    """
    file = io.BytesIO(head)
    if head.startswith(b"fLaC"):
        return _flac_shape(head[8 : 8 + STREAMINFO_BYTES])
    if head[:4] in _FORMAT and head[8:12] in (b"WAVE", b"AIFF", b"AIFC"):
        chunks = {chunk.name: chunk for chunk in walk_chunks(file, 0, n_bytes)}
        layout, samples = chunks.get(_FORMAT[head[:4]]), chunks.get(_SAMPLES[head[:4]])
        if layout is None or layout.start + layout.n_bytes > len(head):
            return None
        content = head[layout.start : layout.start + layout.n_bytes]
        return _aiff_shape(content) if head.startswith(b"FORM") else _wav_shape(content, samples, head[:4])
    return None


def _flac_shape(info: bytes) -> Shape | None:
    if len(info) < STREAMINFO_BYTES:
        return None
    sample_rate, n_channels, _, n_frames = streaminfo(info)
    return (sample_rate, n_channels, n_frames) if n_frames else None


def _wav_shape(content: bytes, samples: Chunk | None, form: bytes) -> Shape | None:
    """Of plain formats, in which a frame has a fixed number of bytes."""
    if samples is None or len(content) < 16 or not samples.n_bytes:
        return None
    order = ">" if form == b"RIFX" else "<"
    _, n_channels, sample_rate, _, frame_bytes, bits = struct.unpack(f"{order}HHIIHH", content[:16])
    if frame_bytes == 0 or frame_bytes != n_channels * -(-bits // 8):
        return None
    return sample_rate, n_channels, samples.n_bytes // frame_bytes


def _aiff_shape(content: bytes) -> Shape | None:
    """The rate is an 80-bit float (Audio Interchange File Format 1.3)."""
    if len(content) < 18:
        return None
    n_channels, n_frames, _, exponent, mantissa = struct.unpack(">HIHHQ", content[:18])
    shift = 16_383 + 63 - exponent
    if not n_frames or not 0 <= shift < 64:
        return None
    return mantissa >> shift, n_channels, n_frames


def _essence(file: IO[bytes], sniffed: Sniffed, n_bytes: int) -> list[tuple[bytes, Chunk]] | None:
    """What to hash: parts of the file, and a name for each that says what it is; None for the whole file."""
    if sniffed.family == "FLAC":
        return _flac_essence(file, sniffed.offset, n_bytes)
    if sniffed.family == "MP3":
        file.seek(max(0, n_bytes - _ID3V1_BYTES))
        tail = _ID3V1_BYTES if file.read(3) == b"TAG" else 0
        return [(b"MP3", Chunk(b"", sniffed.offset, max(0, n_bytes - tail - sniffed.offset)))]
    if sniffed.family in ("WAV", "RF64", "AIFF"):
        return _chunk_essence(file, sniffed.offset, n_bytes)
    return None


def _chunk_essence(file: IO[bytes], offset: int, n_bytes: int) -> list[tuple[bytes, Chunk]] | None:
    """Format and samples, if there is one of each, and whole."""
    file.seek(offset)
    form, _, kind = file.read(4), file.read(4), file.read(4)
    names = (_FORMAT[form], _SAMPLES[form])
    found = [chunk for chunk in walk_chunks(file, offset, n_bytes) if chunk.name in names]
    by_name = {chunk.name: chunk for chunk in found}
    if len(found) != 2 or len(by_name) != 2:
        return None
    if any(chunk.start + chunk.n_bytes > n_bytes or not chunk.n_bytes for chunk in found):
        return None
    return [(form + kind + name, by_name[name]) for name in names]


def _flac_essence(file: IO[bytes], offset: int, n_bytes: int) -> list[tuple[bytes, Chunk]] | None:
    """STREAMINFO and the frames; a comment may name the speakers of more than two channels."""
    blocks = list(walk_flac_blocks(file, offset))
    if not blocks or blocks[0].name != b"STREAMINFO" or blocks[0].n_bytes != STREAMINFO_BYTES:
        return None
    file.seek(blocks[0].start)
    shape = _flac_shape(file.read(STREAMINFO_BYTES))
    start = blocks[-1].start + blocks[-1].n_bytes
    if shape is None or shape[1] > 2 or start >= n_bytes:
        return None
    return [(b"FLAC", blocks[0]), (b"frames", Chunk(b"", start, n_bytes - start))]


def _blocks(file: IO[bytes], chunk: Chunk) -> Iterator[bytes]:
    file.seek(chunk.start)
    left = chunk.n_bytes
    while left > 0 and (block := file.read(min(left, _BLOCK))):
        left -= len(block)
        yield block
