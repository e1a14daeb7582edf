"""Positions move with the rate, each by its own chunk's rules; everything else stays."""

from __future__ import annotations

import struct
from fractions import Fraction

import pytest

from splitfire_batch.audio import Insert
from splitfire_batch.metadata.damage import is_sound, markers
from splitfire_batch.metadata.positions import scaled
from tests import chunked

CHUNKS = {
    b"smpl": chunked.smpl((1_000, 1_999), (0, 0), note=50, extra=b"sampler data"),
    b"cue ": chunked.cue(0, 500, 4_001),
    b"plst": struct.pack("<7I", 2, 1, 500, 1, 2, 77, 1),
    b"LIST": chunked.labels({1: "one"}),
    b"bext": chunked.bext(time_reference=2**33 + 1),
    b"MARK": chunked.mark(0, 10, 3_333),
    b"acid": chunked.acid(120, 8),
    b"INST": chunked.inst(60, 1, 2),
    b"iXML": b"<x/>",
}


def at(rate: Fraction, name: bytes) -> bytes:
    found = scaled(Insert(name, CHUNKS[name]), rate)
    assert is_sound(found)
    assert len(found.data) == len(CHUNKS[name])
    return found.data


@pytest.mark.parametrize("name", CHUNKS)
def test_at_the_same_rate_every_chunk_is_the_same(name):
    assert at(Fraction(1), name) == CHUNKS[name]


@pytest.mark.parametrize("name", [b"acid", b"INST", b"iXML"])
def test_chunks_without_positions_stay(name):
    assert at(Fraction(2), name) == CHUNKS[name]


@pytest.mark.parametrize("name", CHUNKS)
@pytest.mark.parametrize("ratio", [Fraction(2), Fraction(3), Fraction(96_000, 44_100)])
def test_up_and_down_again_gives_what_was(name, ratio):
    """Rounding moves a position by at most half a frame of the finer rate: less than half a coarse one."""
    up = Insert(name, at(ratio, name))
    down = scaled(up, 1 / ratio).data
    if name == b"smpl":  # the period, in whole nanoseconds, may be off by one
        assert abs(struct.unpack_from("<I", down, 8)[0] - struct.unpack_from("<I", CHUNKS[name], 8)[0]) <= 1
        down = down[:8] + CHUNKS[name][8:12] + down[12:]
    assert down == CHUNKS[name]


def test_a_loop_covers_the_same_time():
    data = at(Fraction(2), b"smpl")
    assert struct.unpack_from("<II", data, 44) == (2_000, 3_999)  # frames 1000 to 1999: all of both halves
    assert struct.unpack_from("<I", data, 8)[0] == round(1e9 / 88_200)
    assert data.endswith(b"sampler data")


def test_cues_regions_and_time_move():
    cue = at(Fraction(2), b"cue ")
    assert [struct.unpack_from("<I", cue, 4 + 24 * n + 20)[0] for n in range(3)] == [0, 1_000, 8_002]
    assert [struct.unpack_from("<I", cue, 4 + 24 * n + 4)[0] for n in range(3)] == [0, 1_000, 8_002]
    assert chunked.labels({1: "one"}).replace(struct.pack("<I", 500), struct.pack("<I", 1_000)) == at(
        Fraction(2), b"LIST"
    )
    assert struct.unpack_from("<Q", at(Fraction(2), b"bext"), 338)[0] == 2**34 + 2
    assert struct.unpack_from("<I", at(Fraction(2), b"plst"), 8)[0] == 1_000


def test_markers_move_and_keep_their_names():
    data = at(Fraction(1, 2), b"MARK")
    assert [position for _, position, _ in markers(data) or ()] == [0, 5, 1_666]
    assert [number for number, _, _ in markers(data) or ()] == [1, 2, 3]


def test_a_position_never_passes_what_its_field_holds():
    late = Insert(b"cue ", chunked.cue(2**32 - 1))
    assert struct.unpack_from("<I", scaled(late, Fraction(2)).data, 24)[0] == 2**32 - 1
