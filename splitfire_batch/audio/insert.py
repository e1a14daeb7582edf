"""Puts chunks before the samples of a finished file, where samplers and streaming readers look for them.

libsndfile writes no such chunks (it keeps at most 100 kB of header), so the finished file is copied once,
with the chunks in between and its header's lengths corrected. What the chunks mean is not known here.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from splitfire_batch.audio.chunks import FLAC_BLOCKS, audio_chunk, walk_flac_blocks
from splitfire_batch.audio.ogg import commented

VORBIS_COMMENT = b"VORBIS_COMMENT"
_COPY_BYTES = 1 << 20
_FILLING = {b"iXML": b" ", b"axml": b" ", b"_PMX": b" "}
"""What makes a chunk's length even in RF64, where libsndfile 1.2 overlooks padding and finds no samples."""


@dataclass(frozen=True, slots=True)
class Insert:
    """A chunk of WAV or AIFF, a metadata block of FLAC, the comments of OGG, or the ID3 tag of an MP3.

    The data of a VORBIS_COMMENT begin behind the vendor: that is whoever encoded the file.
    """

    name: bytes
    data: bytes


def insert_before_samples(source: Path, target: Path, inserts: Sequence[Insert]) -> None:
    """Write `target`: the audio file `source` with `inserts`, in their order, right before its samples.

    Args:
        source: a whole WAV, RF64, AIFF, FLAC, OGG or MP3 file as `StemWriter` writes it.
        target: another path; overwritten.
        inserts: lengths together small enough for what a WAV header can say.

    Raises:
        OSError: of reading or writing.
    """
    with source.open("rb") as old, target.open("wb", buffering=0) as new:
        magic, head = old.read(4), b""
        if magic == b"OggS":
            old.seek(0)
            for page in commented(old, inserts[0].data):
                _write_all(new, page)
        elif magic == b"fLaC":
            head = _flac_head(old, inserts)
        elif magic in (b"RIFF", b"RF64", b"FORM"):
            head = _chunked_head(old, source.stat().st_size, inserts)
        else:
            old.seek(0)
            head = b"".join(insert.data for insert in inserts)
        _write_all(new, head)
        while block := old.read(_COPY_BYTES):
            _write_all(new, block)
    shutil.copymode(source, target)


def _chunked_head(file: IO[bytes], n_bytes: int, inserts: Sequence[Insert]) -> bytes:
    """All of the new file before its samples' chunk; `file` is left there."""
    audio = audio_chunk(file, 0, n_bytes)
    assert audio  # noqa: S101 - libsndfile wrote it
    file.seek(0)
    head = bytearray(file.read(audio.start - 8))
    order = ">" if head[:4] == b"FORM" else "<"
    for insert in inserts:
        data = insert.data
        if head[:4] == b"RF64" and len(data) % 2:
            data += _FILLING.get(insert.name, b"\0")
        head += insert.name + struct.pack(f"{order}I", len(data)) + data + bytes(len(data) % 2)
    n_new = n_bytes - 8 + len(head) - (audio.start - 8)
    if head[:4] == b"RF64":
        struct.pack_into("<Q", head, 20, n_new)  # ds64 comes first (EBU Tech 3306), its first field is this
    else:
        struct.pack_into(f"{order}I", head, 4, n_new)
    return bytes(head)


def _flac_head(file: IO[bytes], inserts: Sequence[Insert]) -> bytes:
    """All of the new file before its frames; `file` is left there."""
    own, frames = [], 0
    for block in walk_flac_blocks(file, 0):
        file.seek(block.start)
        own.append(Insert(block.name, file.read(block.n_bytes)))
        frames = block.start + block.n_bytes
    file.seek(frames)
    comments = [block.data for block in own if block.name == VORBIS_COMMENT]
    vendor = comments[0][: 4 + int.from_bytes(comments[0][:4], "little")] if comments else bytes(4)
    if any(insert.name == VORBIS_COMMENT for insert in inserts):
        own = [block for block in own if block.name != VORBIS_COMMENT]
    added = [Insert(i.name, vendor + i.data if i.name == VORBIS_COMMENT else i.data) for i in inserts]
    blocks = [*own, *added]  # STREAMINFO stays the first
    head = b"fLaC"
    for left, new in enumerate(blocks, 1 - len(blocks)):
        number = FLAC_BLOCKS.index(new.name) | (0 if left else 0x80)
        head += bytes([number]) + len(new.data).to_bytes(3, "big") + new.data
    return head


def _write_all(file: IO[bytes], data: bytes) -> None:
    """An unbuffered file may take only part of what it is given; the next write then says why."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
