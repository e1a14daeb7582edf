"""A chunk that holds together is sound; one that lost its end is not."""

from __future__ import annotations

import struct

import pytest

from splitfire_batch.audio import Insert
from splitfire_batch.metadata.damage import comment_entries, is_sound, markers, subchunks
from tests import chunked

SOUND = [
    (b"smpl", chunked.smpl((1, 2), (3, 4))),
    (b"cue ", chunked.cue(1, 2, 3)),
    (b"acid", chunked.acid(120, 4)),
    (b"LIST", chunked.info(INAM="song")),
    (b"LIST", chunked.listed(b"adtl", (b"labl", b"\1\0\0\0an odd text\0"))),
    (b"MARK", chunked.mark(1, 2, 3, 4)),
    (b"INST", chunked.inst(60, 1, 2)),
    (b"COMT", struct.pack(">HIHH", 1, 0, 1, 4) + b"abcd"),
    (b"PICTURE", chunked.picture(b"jpeg")),
    (b"CUESHEET", bytes(395) + b"\2" + (bytes(35) + b"\1" + bytes(12)) * 2),
    (b"VORBIS_COMMENT", chunked.comments("A=b", "C=d", vendor=b"")[4:]),
]


@pytest.mark.parametrize(("name", "data"), SOUND)
def test_a_whole_chunk_is_sound_and_a_cut_one_is_not(name, data):
    assert is_sound(Insert(name, data))
    for n_bytes in range(len(data)):
        rest = data[n_bytes:]
        if rest.strip(b"\0") and data[:n_bytes] not in (b"INFO", b"adtl"):  # an empty list is a list
            assert not is_sound(Insert(name, data[:n_bytes])), n_bytes


def test_a_bext_chunk_may_lack_a_history_and_nothing_else():
    assert is_sound(Insert(b"bext", chunked.bext()[:602]))
    assert not is_sound(Insert(b"bext", chunked.bext()[:601]))


def test_a_list_of_an_unknown_kind_is_not_sound():
    assert not is_sound(Insert(b"LIST", chunked.listed(b"exif", (b"a   ", b"b"))))


@pytest.mark.parametrize("count", [4, 2**16, 2**32 - 1])
def test_a_count_beyond_the_chunk_is_not_sound(count):
    for name, at in ((b"smpl", 28), (b"cue ", 0), (b"VORBIS_COMMENT", 0)):
        data = bytearray(dict(SOUND)[name])
        struct.pack_into("<I", data, at, count)
        assert not is_sound(Insert(name, bytes(data)))


def test_parts_are_those_that_were_put_in():
    parts = [(b"INAM", b"odd"), (b"IART", b"even")]
    assert list(subchunks(chunked.listed(b"INFO", *parts)) or ()) == parts
    assert [position for _, position, _ in markers(chunked.mark(5, 6)) or ()] == [5, 6]
    assert comment_entries(chunked.comments("A=b", "")[10:]) == [b"A=b", b""]
