"""Chunks are found where they are, whatever their headers claim."""

from __future__ import annotations

import io
import struct

import pytest

from splitfire_batch.audio.chunks import audio_chunk, walk_chunks, walk_flac_blocks
from tests import chunked


def riff(*parts: tuple[bytes, bytes], padding: bool = True) -> bytes:
    body = b"".join(
        name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2 and padding) for name, data in parts
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


def names(data: bytes, offset: int = 0) -> list[bytes]:
    return [chunk.name for chunk in walk_chunks(io.BytesIO(data), offset, len(data))]


PARTS = ((b"fmt ", bytes(16)), (b"iXML", b"odd"), (b"data", bytes(7)), (b"smpl", chunked.smpl((1, 2))))


@pytest.mark.parametrize("padding", [True, False])
def test_chunks_are_found_with_and_without_their_padding(padding):
    data = riff(*PARTS, padding=padding)
    assert names(data) == [name for name, _ in PARTS]
    for chunk, (_, wanted) in zip(walk_chunks(io.BytesIO(data), 0, len(data)), PARTS, strict=True):
        assert data[chunk.start : chunk.start + chunk.n_bytes] == wanted


def test_chunks_are_found_behind_an_offset():
    assert names(b"ID3 junk" + riff(*PARTS), offset=8) == [name for name, _ in PARTS]


def test_the_samples_of_an_rf64_file_end_where_ds64_says_so():
    ds64 = struct.pack("<QQQI", 0, 4, 1, 0)
    data = riff((b"ds64", ds64), (b"data", bytes(4)), (b"cue ", chunked.cue(1)))
    data = b"RF64" + data[4:].replace(b"data" + struct.pack("<I", 4), b"data" + b"\xff" * 4)
    assert names(data) == [b"ds64", b"data", b"cue "]
    found = audio_chunk(io.BytesIO(data), 0, len(data))
    assert found is not None
    assert found.n_bytes == 4


def test_a_length_beyond_the_end_is_given_as_it_is_and_ends_the_walk():
    data = riff(*PARTS)
    data = data.replace(b"iXML" + struct.pack("<I", 3), b"iXML" + struct.pack("<I", 2**32 - 5))
    assert [(c.name, c.n_bytes) for c in walk_chunks(io.BytesIO(data), 0, len(data))][1:] == [
        (b"iXML", 2**32 - 5)
    ]


def test_ten_thousand_chunks_are_enough():
    data = riff(*[(b"note", b"")] * 20_000)
    assert len(names(data)) == 10_000


def test_a_file_without_samples_has_no_audio_chunk():
    data = riff(*PARTS[:2])
    assert audio_chunk(io.BytesIO(data), 0, len(data)) is None


def test_blocks_of_flac_are_found_to_the_last():
    blocks = [(0, bytes(34)), (4, b"abc"), (99, b""), (6 | 0x80, b"p"), (1, b"not a block")]
    data = b"fLaC" + b"".join(bytes([n]) + len(d).to_bytes(3, "big") + d for n, d in blocks)
    found = list(walk_flac_blocks(io.BytesIO(data), 0))
    assert [block.name for block in found] == [b"STREAMINFO", b"VORBIS_COMMENT", b"", b"PICTURE"]
    assert [data[b.start : b.start + b.n_bytes] for b in found] == [bytes(34), b"abc", b"", b"p"]
