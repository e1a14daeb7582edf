"""Damaged files are made from good ones, byte by byte; what libsndfile wrote is the oracle for good ones."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from splitfire_batch.audio import mpeg
from splitfire_batch.audio.decode import open_audio, to_depth, to_float
from splitfire_batch.audio.mpeg import parse_header
from splitfire_batch.errors import TrackError

RATE = 44_100


def noise(n_frames, n_channels=2, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (n_frames, n_channels)).astype(np.float32)


def encoded(x, container, subtype, rate=RATE):
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, x.shape[1], subtype, format=container) as out:
        for start in range(0, len(x), 65_536):
            out.write(x[start : start + 65_536])
    return file.getvalue()


def decoded(path, n_frames=65_536, **options):
    with open_audio(path, **options) as decoder:
        return np.concatenate(list(decoder.blocks(n_frames))), decoder


def refusal(path, data, **options):
    """The TrackError for a file of these bytes."""
    path.write_bytes(data)
    with pytest.raises(TrackError) as caught:
        decoded(path, **options)
    assert "File does not exist" not in str(caught.value)
    return caught.value


@pytest.fixture
def path(tmp_path: Path):
    return tmp_path / "x"


INTEGERS = [
    ("WAV", "PCM_U8", 8), ("WAV", "PCM_16", 16), ("WAV", "PCM_24", 24), ("WAV", "PCM_32", 32),
    ("WAVEX", "PCM_24", 24), ("RF64", "PCM_24", 24), ("W64", "PCM_16", 16), ("AIFF", "PCM_S8", 8),
    ("AIFF", "PCM_24", 24), ("CAF", "PCM_24", 24), ("FLAC", "PCM_S8", 8), ("FLAC", "PCM_16", 16),
    ("FLAC", "PCM_24", 24),
]  # fmt: skip


@pytest.mark.parametrize(("container", "subtype", "bits"), INTEGERS)
def test_integer_files_give_back_their_exact_integers(path, container, subtype, bits):
    rng = np.random.default_rng(1)
    wanted = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (5000, 2), dtype=np.int64)
    path.write_bytes(encoded((wanted << (32 - bits)).astype(np.int32), container, subtype))
    blocks, decoder = decoded(path, 1001)
    assert decoder.bits == bits
    assert blocks.dtype == (np.int16 if bits <= 16 else np.int32)
    assert blocks.flags.c_contiguous
    assert np.array_equal(to_depth(blocks, bits), wanted)


@pytest.mark.parametrize("container", ["WAV", "AIFF", "CAF", "W64"])
def test_float_files_give_back_their_exact_floats(path, container):
    path.write_bytes(encoded(noise(5000), container, "FLOAT"))
    blocks, decoder = decoded(path)
    assert decoder.bits is None
    assert np.array_equal(blocks, noise(5000))


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_floats_of_integers_agree_with_libsndfile(path, subtype):
    path.write_bytes(encoded(noise(5000), "WAV", subtype))
    wanted, _ = soundfile.read(path, dtype="float32")
    assert np.array_equal(to_float(decoded(path)[0]), wanted)


LOSSY = [("OGG", "VORBIS", RATE), ("OGG", "OPUS", 48_000), ("MP3", "MPEG_LAYER_III", RATE)]


@pytest.mark.parametrize(("container", "subtype", "rate"), LOSSY)
def test_lossy_files_keep_their_length_and_do_not_depend_on_the_block_size(path, container, subtype, rate):
    path.write_bytes(encoded(noise(100_000), container, subtype, rate))
    whole, decoder = decoded(path, 200_000)
    assert len(whole) == decoder.format.n_frames == 100_000
    assert np.array_equal(decoded(path, 999)[0], whole)


def test_the_name_of_a_file_does_not_matter(tmp_path):
    path = tmp_path / "song.mp3"
    path.write_bytes(encoded(noise(100), "FLAC", "PCM_16"))
    assert decoded(path)[1].format.container == "FLAC"


@pytest.mark.parametrize("container", ["FLAC", "MP3", "WAV"])
def test_an_id3_tag_in_front_changes_nothing(path, container):
    data = encoded(noise(5000), container, None if container == "MP3" else "PCM_16")
    path.write_bytes(data)
    wanted, _ = decoded(path)
    path.write_bytes(b"ID3\x04\0\0\0\0\x08\0" + bytes(1024) + data)
    assert np.array_equal(decoded(path)[0], wanted)


def test_one_frame_is_a_track(path):
    path.write_bytes(encoded(noise(1), "WAV", "PCM_16"))
    assert decoded(path)[1].n_frames == 1


FOREIGN = {
    "text": b"<html>404</html>", "utf16": "hello world".encode("utf-16") * 400, "zeros": bytes(5000),
    "random": np.random.default_rng(0).bytes(100_000), "jpeg": b"\xff\xd8\xff\xe0" + bytes(900),
    "one byte": b"x", "avi": b"RIFF\0\0\0\0AVI LIST", "midi": b"MThd\0\0\0\6",
    "lying id3": b"ID3\x04\0\0\x7f\x7f\x7f\x7fxx", "junk before RIFF": b"junk" + b"RIFF\0\0\0\0WAVE",
}  # fmt: skip


@pytest.mark.parametrize("data", FOREIGN.values(), ids=FOREIGN.keys())
def test_what_is_no_audio_is_called_so(path, data):
    assert refusal(path, data).code == "NOT_AUDIO"


def test_an_empty_file_is_called_empty(path):
    assert refusal(path, b"").code == "EMPTY"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"MAC \x96\x0f", "Monkey"),
        (b"wvpk\0\0", "WavPack"),
        (b"DSD \x1c", "DSD"),
    ],
)
def test_audio_without_a_decoder_is_named(path, data, name):
    error = refusal(path, data)
    assert error.code == "UNSUPPORTED"
    assert name in error.why


@pytest.mark.parametrize("data", [b"RIFF\0\0\0\0WAVEfmt ", b"caff\0\1\0\0", b"FORM\0\0\0\0AIFF"])
def test_a_header_that_makes_no_sense_is_corrupt(path, data):
    assert refusal(path, data).code == "CORRUPT_HEADER"


@pytest.mark.parametrize("container", ["WAV", "RF64", "W64", "AIFF", "CAF", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize("part", [0.3, 0.9, 0.999])
def test_a_cut_file_is_truncated(path, container, part):
    data = encoded(noise(30_000), container, None if container in ("OGG", "MP3") else "PCM_16")
    cut = refusal(path, data[: int(len(data) * part)])
    assert cut.code == "TRUNCATED", cut


def test_a_cut_wav_tells_both_lengths(path):
    error = refusal(path, encoded(noise(1000), "WAV", "PCM_16")[:-400])
    assert "4000 bytes" in error.why
    assert "3600 are there" in error.why


@pytest.mark.parametrize(
    ("subtype", "n_bytes"),
    [
        *(("PCM_S8", 1), ("PCM_16", 2), ("PCM_24", 3), ("PCM_32", 4)),
        *(("PCM_U8", 1), ("ULAW", 1), ("ALAW", 1), ("FLOAT", 4), ("DOUBLE", 8)),
    ],
)
def test_an_aiff_that_promises_more_frames_than_it_has_is_truncated(path, subtype, n_bytes):
    data = encoded(noise(1_000, 1), "AIFF", subtype)
    path.write_bytes(data)
    assert len(decoded(path)[0]) == 1_000
    at = data.index(b"COMM") + 10
    error = refusal(path, data[:at] + (1_001).to_bytes(4, "big") + data[at + 4 :])
    assert error.code == "TRUNCATED"
    assert f"promises 1001 frames in {1_001 * n_bytes} bytes of samples, {1_000 * n_bytes} are" in error.why


@pytest.mark.parametrize("subtype", ["GSM610", "IMA_ADPCM"])
def test_an_aiff_whose_bytes_do_not_tell_its_frames_is_read(path, subtype):
    path.write_bytes(encoded(noise(6_400, 1), "AIFF", subtype))
    assert len(decoded(path)[0]) == 6_400


def test_a_flac_cut_between_frames_tells_both_lengths(path):
    data = encoded(noise(20_480), "FLAC", "PCM_16")  # five frames of 4096
    last = max(i for i in range(len(data)) if data[i : i + 2] == b"\xff\xf8" and data[i + 4] == 4)
    error = refusal(path, data[:last])
    assert error.code == "TRUNCATED"
    assert "20480" in error.why
    assert "16384" in error.why


def test_a_flac_with_damage_inside_is_corrupt_not_truncated(path):
    data = bytearray(encoded(noise(50_000), "FLAC", "PCM_16"))
    flipped = data.copy()
    flipped[len(data) // 2] ^= 0xFF
    assert refusal(path, flipped).code == "CORRUPT_DATA"
    data[50_000:70_000] = bytes(20_000)
    assert refusal(path, data).code == "CORRUPT_DATA"


@pytest.mark.parametrize("riff", [0, 8, 36, 0xFFFFFFFF])
@pytest.mark.parametrize("size", [0, 0x7FFFFFFF - 36, 0xFFFFFFFF])
def test_a_wav_whose_writer_left_its_length_open_goes_to_the_end(path, riff, size):
    data = bytearray(encoded(noise(3000), "WAV", "PCM_16"))
    path.write_bytes(data)
    wanted, _ = decoded(path)
    data[4:8], data[40:44] = struct.pack("<I", riff), struct.pack("<I", size)
    path.write_bytes(data)
    assert np.array_equal(decoded(path)[0], wanted)


@pytest.mark.parametrize("container", ["WAV", "AIFF", "FLAC", "CAF"])
def test_a_file_without_frames_has_no_samples(path, container):
    data = encoded(noise(0), container, "PCM_16")
    if container == "FLAC":  # libsndfile writes nothing at all: keep the header of another
        data = encoded(noise(1), container, "PCM_16")
        data = data[: data.index(b"\xff\xf8")]
    assert refusal(path, data).code == "NO_SAMPLES"


def flac_with_total(n_frames, total):
    data = bytearray(encoded(noise(n_frames), "FLAC", "PCM_16"))
    fields = int.from_bytes(data[18:26], "big")  # rate 20, channels 3, bits 5, total 36 bits
    data[18:26] = (fields >> 36 << 36 | total).to_bytes(8, "big")
    return data


def test_a_flac_of_unknown_length_is_read_to_its_end(path):
    path.write_bytes(flac_with_total(10_000, 0))
    blocks, decoder = decoded(path)
    assert len(blocks) == decoder.n_frames == 10_000
    assert decoder.format.n_frames == 0


def test_an_absurd_length_costs_no_memory_and_is_truncated(path):
    assert refusal(path, flac_with_total(10_000, 2**36 - 1)).code == "TRUNCATED"


@pytest.mark.parametrize("total", [0, 10_000, 2**36 - 1])
def test_a_file_beyond_the_limit_is_too_long_whatever_its_header_says(path, total):
    assert refusal(path, flac_with_total(10_000, total), max_duration_s=9_999 / RATE).code == "TOO_LONG"


def test_a_file_at_the_limit_is_not_too_long(path):
    path.write_bytes(encoded(noise(100), "WAV", "PCM_16"))
    assert decoded(path, max_duration_s=100 / RATE)[1].n_frames == 100


@pytest.mark.parametrize("rate", [1, 3_999, 768_001, 2_000_000_000])
def test_an_unlikely_rate_is_refused(path, rate):
    assert refusal(path, encoded(noise(10), "WAV", "PCM_16", rate)).code == "BAD_RATE"


def test_more_than_eight_channels_are_refused(path):
    assert refusal(path, encoded(noise(10, 9), "WAV", "PCM_16")).code == "BAD_CHANNELS"


def test_samples_that_are_no_numbers_are_counted_and_placed(path):
    x = noise(10_000)
    x[5_000, 1], x[7_000, 0], x[7_001, 0] = np.nan, np.inf, -1e30
    path.write_bytes(encoded(x, "WAV", "FLOAT"))
    blocks = []
    with open_audio(path) as decoder, pytest.raises(TrackError) as caught:
        blocks.extend(decoder.blocks(1000))
    assert caught.value.code == "NON_FINITE"
    assert caught.value.why.startswith("3 samples are NaN, infinite or beyond 1e+06 times full scale")
    assert "the first in frame 5000 " in caught.value.why
    assert all(np.isfinite(block).all() for block in blocks)


@pytest.mark.parametrize("tail", [b"", b"TAG" + bytes(125), b"APETAGEX" + bytes(20_000)])
def test_an_mp3_that_does_not_say_its_length_is_read_to_its_end(path, tail):
    # loud after silence: libsndfile alone takes the first frames' bitrate for all and loses the end
    x = noise(100_000) * np.linspace(0, 1, 100_000, dtype=np.float32)[:, None]
    data = encoded(x, "MP3", "MPEG_LAYER_III")
    path.write_bytes(data)
    wanted, _ = decoded(path)
    header = parse_header(data[:4])
    assert header is not None
    path.write_bytes(data[header.n_bytes :] + tail)
    got, _ = decoded(path)
    delay = 576  # of the encoder, told only by the lost header
    assert len(got) >= len(wanted) + delay
    middle = slice(50_000, 60_000)
    np.testing.assert_allclose(got[delay:][middle], wanted[middle], atol=1e-6)


@pytest.mark.parametrize("window_bytes", [7, 300, 5_000])
def test_the_frames_of_an_mp3_are_counted_in_windows_of_any_length(path, window_bytes, monkeypatch):
    data = encoded(noise(100_000), "MP3", "MPEG_LAYER_III")
    header = parse_header(data[:4])
    assert header is not None
    frames = data[header.n_bytes :]
    path.write_bytes(b"\xff\xfb\x90" * 700 + frames[:5_000] + b"\xff" * 900 + frames[5_000:] + b"\xff" * 900)
    with mpeg.with_length(path, 0, None) as whole:
        wanted = Path(whole.name).read_bytes()
    monkeypatch.setattr(mpeg, "_WINDOW_BYTES", window_bytes)
    with mpeg.with_length(path, 0, None) as windowed:
        assert Path(windowed.name).read_bytes() == wanted
    assert len(wanted) > len(frames)


def test_a_missing_file_is_the_callers_mistake(path):
    with pytest.raises(FileNotFoundError):
        open_audio(path)
