"""Pages are judged by libsndfile and FFmpeg, and by a slow CRC straight from RFC 3533."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile
from tinytag import TinyTag

from splitfire_batch.audio.ogg import _crc, commented, finish_ogg, second_stream
from tests.ffmpeg_files import packed_frames
from tests.material import noise


def slow_crc(data):
    """Bit by bit: polynomial 0x04C11DB7, from 0, no reflection, no final inversion."""
    crc = 0
    for byte in data:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc & 1 << 31 else 0)) & 0xFFFFFFFF
    return crc


@pytest.mark.parametrize("n_bytes", [0, 1, 27, 1000])
def test_the_fast_crc_is_the_slow_one(n_bytes):
    data = np.random.default_rng(n_bytes).bytes(n_bytes)
    assert _crc(data) == slow_crc(data)


def finished(path, x, codec="VORBIS", rate=48_000):
    with soundfile.SoundFile(path, "w", rate, x.shape[1], codec, format="OGG") as file:
        for start in range(0, len(x), 65_536):
            file.write(x[start : start + 65_536])
    before = soundfile.read(path)[0]
    finish_ogg(path, codec == "VORBIS")
    return before


@pytest.mark.parametrize("codec", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("n_frames", [1, 500, 30_000, 300_000])
def test_finishing_changes_no_sample(tmp_path, codec, n_frames):
    before = finished(tmp_path / "x.ogg", noise(n_frames).astype(np.float32), codec)
    assert np.array_equal(soundfile.read(tmp_path / "x.ogg")[0], before)
    assert [path.name for path in tmp_path.iterdir()] == ["x.ogg"]


@pytest.mark.parametrize("peak", [0.5, 0.001])
@pytest.mark.parametrize("n_channels", [1, 2])
@pytest.mark.parametrize("rate", [8_000, 44_100, 192_000])
def test_ffmpeg_counts_short_vorbis_exactly(tmp_path, rate, n_channels, peak):
    for n_frames in (1, 63, 64, 65, 127, 129, 577, 1_024, 1_025, 3_000, 9_999, 20_001, 53_079):
        x = noise(n_frames, n_channels, peak, seed=n_frames).astype(np.float32)
        finished(tmp_path / "x.ogg", x, rate=rate)
        assert len(packed_frames(tmp_path / "x.ogg")) == n_frames


def test_pages_are_numbered_and_summed(tmp_path):
    path = tmp_path / "x.ogg"
    finished(path, noise(100_000).astype(np.float32))
    data, position, numbers = path.read_bytes(), 0, []
    while position < len(data):
        magic, _, _, _, serial, number, crc, n = struct.unpack_from("<4sBBqIIIB", data, position)
        size = 27 + n + sum(data[position + 27 : position + 27 + n])
        page = bytearray(data[position : position + size])
        page[22:26] = bytes(4)
        assert (magic, serial, crc) == (b"OggS", 1, _crc(bytes(page)))
        numbers.append(number)
        position += size
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 4


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("n_comment", [0, 1, 250, 255, 300, 70_000, 900_000])
def test_other_comments_change_no_frame_for_any_decoder(tmp_path, subtype, n_comment):
    """70,000 bytes go over the edge of a page, 900,000 fill pages on which no packet ends."""
    plain, tagged = tmp_path / "plain.ogg", tmp_path / "tagged.ogg"
    x = noise(30_001, 2)
    soundfile.write(plain, x, 48_000, subtype, format="OGG")
    finish_ogg(plain, subtype == "VORBIS")
    entry = b"COMMENT=" + b"x" * n_comment
    comments = struct.pack("<II", 1, len(entry)) + entry
    with plain.open("rb") as file:
        tagged.write_bytes(b"".join(commented(file, comments)))
    assert TinyTag.get(tagged).comment == ("x" * n_comment or None)
    ours, _ = soundfile.read(tagged)
    assert np.array_equal(ours, soundfile.read(plain)[0])
    assert len(ours) == 30_001
    assert np.array_equal(packed_frames(tagged), packed_frames(plain))


def test_comments_can_be_written_over_again(tmp_path):
    path = tmp_path / "a.ogg"
    soundfile.write(path, noise(5_000), 44_100, "VORBIS", format="OGG")
    finish_ogg(path, True)
    once = path.read_bytes()
    for text in (b"x" * 100_000, b"y"):
        entry = b"TITLE=" + text
        with path.open("rb") as file:
            data = b"".join(commented(file, struct.pack("<II", 1, len(entry)) + entry))
        path.write_bytes(data)
    assert TinyTag.get(path).title == "y"
    assert abs(len(path.read_bytes()) - len(once)) < 200


def test_a_second_link_is_found_and_a_second_stream_beside_the_first_is_none(tmp_path):
    finished(tmp_path / "x.ogg", noise(300_000).astype(np.float32))
    one = (tmp_path / "x.ogg").read_bytes()
    first_page = one[: one.index(b"OggS", 4)]
    assert second_stream(io.BytesIO(one), 0) is None
    assert second_stream(io.BytesIO(one + one), 0) == len(one)
    assert second_stream(io.BytesIO(b"tag" + one + one), 3) == 3 + len(one)
    assert second_stream(io.BytesIO(first_page + one), 0) is None
    assert second_stream(io.BytesIO(one + one[:20]), 0) is None
    assert second_stream(io.BytesIO(one[:9_000] + b"damaged" + one[9_000:] + one), 0) is None
