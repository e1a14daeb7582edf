"""Masks are made by libsndfile, by hand, and by FFmpeg, which sorts channels itself and so is the oracle."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from splitfire_batch.audio.channels import DEFAULT_MASKS, channel_groups, is_default
from splitfire_batch.audio.decode import open_audio
from splitfire_batch.audio.sniff import Sniffed
from splitfire_batch.audio.speakers import read_speakers, sort_speakers, vorbis_order
from tests.ffmpeg_files import encode, packed_frames

RATE = 48_000


def tones(n_channels, n_frames=30_000):
    """Each channel a pitch of its own, so that any mix-up shows."""
    t = np.arange(n_frames)[:, None] / RATE
    return (0.2 * np.sin(2 * np.pi * (300 + 170 * np.arange(n_channels)) * t)).astype(np.float32)


def pitches(x):
    """The loudest frequency of each channel, in cycles per 24,000 frames."""
    return np.abs(np.fft.rfft(x[:24_000], axis=0)).argmax(axis=0).tolist()


def decoded(path):
    with open_audio(path) as decoder:
        return np.concatenate(list(decoder.blocks())), decoder.format


def wav_with_mask(path, mask, n_channels, container="WAVEX"):
    soundfile.write(path, tones(n_channels, 100), RATE, "PCM_24", format=container)
    data = bytearray(path.read_bytes())
    at = data.index(b"fmt ") + 8 + 20
    data[at : at + 4] = struct.pack("<I", mask)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("container", ["WAVEX", "RF64"])
@pytest.mark.parametrize("mask", [0x3F, 0x60F, 0x107, 0x2D03F])
def test_the_mask_of_a_wav_is_read(tmp_path, container, mask):
    n_channels = mask.bit_count()
    path = wav_with_mask(tmp_path / "x.wav", mask, min(n_channels, 8), container)
    assert decoded(path)[1].channel_mask == (mask if n_channels <= 8 else 0)


def test_a_w64_with_a_mask_is_read(tmp_path):
    path = tmp_path / "x.w64"
    soundfile.write(path, tones(4, 100), RATE, "PCM_16", format="W64")
    data = path.read_bytes()
    at = data.index(b"fmt ")
    fmt = data[at + 24 : at + 40]
    guid = struct.pack("<H", 1) + bytes.fromhex("000000001000800000aa00389b71")
    longer = struct.pack("<H", 0xFFFE) + fmt[2:16] + struct.pack("<HHI", 22, 16, 0x107) + guid
    size = struct.pack("<Q", 24 + len(longer))
    path.write_bytes(data[: at + 16] + size + longer + data[at + 40 :])
    assert decoded(path)[1].channel_mask == 0x107


@pytest.mark.parametrize(("mask", "n_channels"), [(0, 6), (0x3, 6), (0xFFFFFFFF, 2)])
def test_a_mask_that_does_not_match_the_channels_says_nothing(tmp_path, mask, n_channels):
    assert decoded(wav_with_mask(tmp_path / "x", mask, n_channels))[1].channel_mask == 0


def test_a_plain_wav_has_no_mask(tmp_path):
    soundfile.write(tmp_path / "x.wav", tones(6, 100), RATE)
    assert decoded(tmp_path / "x.wav")[1].channel_mask == 0


def with_comment(data, comment):
    """A FLAC file whose first block after STREAMINFO is a comment block of one comment."""
    body = struct.pack("<I", 0) + struct.pack("<I", 1) + struct.pack("<I", len(comment)) + comment
    block = bytes([4]) + len(body).to_bytes(3, "big") + body
    return data[:4] + bytes([data[4] & 0x7F]) + data[5:42] + block + data[42:]


@pytest.mark.parametrize("name", [b"WAVEFORMATEXTENSIBLE_CHANNEL_MASK", b"waveformatextensible_channel_mask"])
@pytest.mark.parametrize(("value", "wanted"), [(b"0x107", 0x107), (b"nonsense", 0), (b"0x3", 0)])
def test_the_mask_of_a_flac_is_in_its_comment(tmp_path, name, value, wanted):
    soundfile.write(tmp_path / "x.flac", tones(4, 5000), RATE)
    data = (tmp_path / "x.flac").read_bytes()
    (tmp_path / "y.flac").write_bytes(with_comment(data, name + b"=" + value))
    x, audio_format = decoded(tmp_path / "y.flac")
    assert audio_format.channel_mask == wanted
    assert len(x) == 5000


def core_audio(tag, bitmap=0, labels=()):
    return struct.pack(">III", tag, bitmap, len(labels)) + b"".join(
        struct.pack(">I16x", label) for label in labels
    )


LAYOUTS = [
    (core_audio(0, labels=(3, 1, 2, 5, 6, 4)), 6, 0x3F, [1, 2, 0, 5, 3, 4]),  # C L R Ls Rs LFE
    (core_audio(124 << 16 | 6), 6, 0x3F, [1, 2, 0, 5, 3, 4]),  # the same by tag
    (core_audio(1 << 16, bitmap=0x107), 4, 0x107, [0, 1, 2, 3]),
    (core_audio(0, labels=(1, 2, 3, 4, 5, 6, 33, 34)), 8, 0x63F, [0, 1, 2, 3, 6, 7, 4, 5]),
    (core_audio(0, labels=(1, 1)), 2, 0, [0, 1]),  # twice the left one
    (core_audio(0, labels=(1, 999)), 2, 0, [0, 1]),  # an unknown speaker
    (core_audio(77 << 16 | 6), 6, 0, [0, 1, 2, 3, 4, 5]),  # an unknown tag
    (core_audio(0, labels=(1, 2)), 6, 0, [0, 1, 2, 3, 4, 5]),  # too few
]


@pytest.mark.parametrize(("chunk", "n_channels", "mask", "order"), LAYOUTS)
def test_the_channels_of_a_caf_are_sorted_by_its_layout(tmp_path, chunk, n_channels, mask, order):
    soundfile.write(tmp_path / "x.caf", tones(n_channels), RATE)
    data = (tmp_path / "x.caf").read_bytes()
    at = data.index(b"data\0")
    (tmp_path / "y.caf").write_bytes(data[:at] + b"chan" + struct.pack(">Q", len(chunk)) + chunk + data[at:])
    x, audio_format = decoded(tmp_path / "y.caf")
    assert audio_format.channel_mask == mask
    assert pitches(x.astype(np.float64)) == [pitches(tones(n_channels))[channel] for channel in order]


@pytest.mark.parametrize("n_channels", [3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("codec", ["VORBIS", "OPUS"])
def test_vorbis_and_opus_come_in_the_order_that_ffmpeg_gives(tmp_path, codec, n_channels):
    path = tmp_path / "x.ogg"
    soundfile.write(path, tones(n_channels), RATE, codec, format="OGG")  # raw, in the file's own order
    x, audio_format = decoded(path)
    assert pitches(x) == pitches(packed_frames(path))
    assert audio_format.channel_mask.bit_count() == n_channels


@pytest.mark.parametrize("n_channels", range(1, 9))
def test_writing_vorbis_undoes_the_sorting_of_reading_it(tmp_path, n_channels):
    order = vorbis_order(n_channels)
    x = tones(n_channels)
    soundfile.write(tmp_path / "x.ogg", x[:, order] if order else x, RATE, "VORBIS", format="OGG")
    assert pitches(decoded(tmp_path / "x.ogg")[0]) == pitches(x)
    if n_channels not in (1, 2):
        assert pitches(packed_frames(tmp_path / "x.ogg")) == pitches(x)


def test_an_opus_file_without_speakers_keeps_its_order(tmp_path):
    path = encode(tmp_path / "x.opus", "libopus", tones(6), RATE, "5.1")
    data = bytearray(path.read_bytes())
    assert data[data.index(b"OpusHead") + 18] == 1
    data[data.index(b"OpusHead") + 18] = 255
    path.write_bytes(data)
    assert read_speakers(path, Sniffed("OGG", 0), "OPUS", 6).order is None


def test_what_a_format_without_a_mask_means_anyway():
    assert is_default(0, 6)
    assert is_default(0x3F, 6)
    assert is_default(0x60F, 6)  # 5.1 with the surrounds at the sides
    assert is_default(0x63F, 8)
    assert not is_default(0x107, 4)
    assert not is_default(0x30, 2)


GROUPS = [
    (0x107, ((0, 1), (2,), (3,))),  # L R C and a centre behind
    (0x60F, ((0, 1), (2,), (3,), (4, 5))),
    (0x2D000, ((0, 1), (2, 3))),  # the corners of the ceiling
    (0xFF, ((0, 1), (2,), (3,), (4, 5), (6, 7))),  # the wide screen of SDDS
    (0x107 | 0x8, ((0, 1), (2,), (3,), (4,))),
    (0x5, ((0,), (1,))),  # left and centre are no pair
    (0x7000, ((0, 2), (1,))),  # a pair with the centre between it
    (0x1F, ((0, 1), (2,), (3,), (4,))),  # the left one behind has lost its right one
]


@pytest.mark.parametrize(("mask", "groups"), GROUPS)
def test_left_and_right_go_together_and_all_others_alone(mask, groups):
    assert channel_groups(mask.bit_count(), mask) == groups


@pytest.mark.parametrize("n_channels", range(1, 9))
def test_no_mask_and_the_default_mask_give_the_same_groups(n_channels):
    assert channel_groups(n_channels, DEFAULT_MASKS[n_channels]) == channel_groups(n_channels, 0)


def test_sorting_is_undone_by_the_order_it_gives():
    speakers = [0x4, 0x1, 0x8, 0x2]
    found = sort_speakers(speakers)
    assert found.order is not None
    assert [speakers[channel] for channel in found.order] == sorted(speakers)


def test_ffmpegs_layouts_have_the_bits_of_a_wave_mask(tmp_path: Path):
    """What `FFMPEG_NAMES` rests on: a mask that we read is the one that FFmpeg writes."""
    path = encode(tmp_path / "x.wav", "pcm_s16le", (tones(6) * 32767).astype(np.int16), RATE, "5.1(side)")
    assert decoded(path)[1].channel_mask == 0x60F
    with av.open(str(path)) as container:
        assert container.streams.audio[0].layout.name == "5.1(side)"
