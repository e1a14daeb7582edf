"""OGG Vorbis, Opus and MP3 as written here, read by libsndfile and, independently, by FFmpeg."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
import soundfile

from splitfire_batch.audio.encode import StemWriter
from splitfire_batch.audio.formats import CARRIERS, SHORT_MP3_FRAMES, choose_output, losses
from splitfire_batch.audio.readback import read_back
from splitfire_batch.config import OutputConfig
from splitfire_batch.errors import StorageError, TrackError
from splitfire_batch.records import AudioFormat
from tests.ffmpeg_files import packed_frames
from tests.material import Shares as Shares
from tests.material import noise, rendered, write

LOSSY = ["ogg", "opus", "mp3"]


def music(n_frames, n_channels=2, seed=0):
    """Low-passed noise: codecs keep its shape, so that a shift or an exchange of channels shows."""
    white = noise(n_frames + 15, n_channels, peak=0.6, seed=seed)
    return (sum(white[k : k + n_frames] for k in range(16)) / 8).astype(np.float32)


def source(sample_rate=48_000, n_channels=2, n_frames=1000, mask=0):
    return AudioFormat("WAV", "PCM_16", sample_rate, n_channels, n_frames, mask)


def written(path, name, x, sample_rate=48_000, quality=0.75, block=30_000):
    out = choose_output(source(sample_rate, x.shape[1]), OutputConfig(format=name, quality=quality))
    path = path.with_suffix(f".{out.ext}")
    with StemWriter(path, out) as writer:
        for start in range(0, len(x), block):
            writer.write(x[start : start + block])
        return path, writer.close()


LENGTHS = [1, 2, 100, 1_000, 1_152, 4_999, 12_345, 48_000, 100_001]


CASES = [("ogg", 1), ("ogg", 2), ("ogg", 6), ("opus", 1), ("opus", 2), ("opus", 8), ("mp3", 1), ("mp3", 2)]


@pytest.mark.parametrize("n_frames", LENGTHS)
@pytest.mark.parametrize(("name", "n_channels"), CASES)
def test_two_decoders_read_exactly_the_frames_that_were_written(tmp_path, name, n_channels, n_frames):
    x = music(n_frames, n_channels)
    path, encoded = written(tmp_path / "x", name, x)
    assert encoded.n_frames == n_frames
    assert soundfile.read(path, always_2d=True)[0].shape == x.shape
    assert packed_frames(path, name if name == "mp3" else None).shape == x.shape


@pytest.mark.parametrize("quality", [0.1, 0.5, 1.0])
@pytest.mark.parametrize(
    ("name", "rate"),
    [(name, rates[0]) for name in ("opus", "mp3") for rates in CARRIERS[name].rates]
    + [("ogg", rate) for rate in (4_000, 11_025, 44_100, 96_000, 192_000, 200_000)],
)
def test_every_rate_of_the_table_keeps_its_frames(tmp_path, name, rate, quality):
    x = music(7_001)
    path, _ = written(tmp_path / "x", name, x, rate, quality)
    got, got_rate = soundfile.read(path)
    assert (got.shape, got_rate) == (x.shape, rate)
    heard = packed_frames(path, name if name == "mp3" else None)
    assert len(heard) == (len(x) * 48_000 // rate if name == "opus" else len(x))  # Opus decodes to 48 kHz


@pytest.mark.parametrize("name", LOSSY)
def test_nothing_is_shifted(tmp_path, name):
    x = music(60_000)
    path, _ = written(tmp_path / "x", name, x)
    for got in (soundfile.read(path)[0], packed_frames(path)):
        errors = [np.square(x[10:-10] - np.roll(got, shift, 0)[10:-10]).mean() for shift in range(-3, 4)]
        assert int(np.argmin(errors)) == 3
        assert errors[3] < 0.1 * np.square(x).mean()


@pytest.mark.parametrize("name", LOSSY)
def test_a_higher_quality_is_closer_to_what_was_written(tmp_path, name):
    x = music(60_000)
    errors = []
    for quality in (0.1, 0.5, 1.0):
        path, _ = written(tmp_path / "x", name, x, quality=quality)
        errors.append(np.square(x - soundfile.read(path)[0]).mean())
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("name", LOSSY)
def test_the_same_stem_gives_the_same_bytes(tmp_path, name):
    x = music(80_000)
    path, one = written(tmp_path / "1", name, x)
    again, two = written(tmp_path / "2", name, x)
    assert path.read_bytes() == again.read_bytes()
    assert one == two
    assert one.pcm_md5 == hashlib.md5(x.astype("<f4").tobytes()).hexdigest()  # noqa: S324


@pytest.mark.parametrize("name", LOSSY)
def test_what_the_table_refuses_is_refused_and_says_what_to_set(name):
    carrier = CARRIERS[name]
    rates = (3_999, 8_000, 11_025, 22_050, 44_100, 44_101, 48_000, 96_000, 200_001, 384_000)
    for rate, n_channels in itertools.product(rates, range(1, 9)):
        config = OutputConfig(format=name)
        if carrier.has_rate(rate) and n_channels <= carrier.max_channels:
            assert choose_output(source(rate, n_channels), config).sample_rate == rate
        else:
            with pytest.raises(TrackError, match=r"UNSUPPORTED_OUTPUT.*holds .*; set format") as caught:
                choose_output(source(rate, n_channels), config)
            assert name.upper() in str(caught.value)


@pytest.mark.parametrize("name", ["opus", "mp3"])
def test_rates_that_the_table_lacks_libsndfile_cannot_write(tmp_path, name):
    carrier = CARRIERS[name]
    for rate in (7_350, 11_025, 22_050, 32_000, 44_100, 44_101, 64_000, 88_200, 96_000):
        if not carrier.has_rate(rate):
            with pytest.raises(soundfile.LibsndfileError):
                soundfile.write(
                    tmp_path / "x", np.zeros((10, 2)), rate, carrier.codec, format=carrier.container
                )


def test_a_very_short_mp3_has_a_warning():
    out = choose_output(source(), OutputConfig(format="mp3"))
    assert not losses(source(n_frames=SHORT_MP3_FRAMES), out)
    (warning,) = losses(source(n_frames=SHORT_MP3_FRAMES - 1), out)
    assert str(SHORT_MP3_FRAMES - 1) in warning


def test_a_mask_that_the_output_cannot_hold_has_a_warning():
    odd = source(n_channels=4, mask=0x107)
    for name in ("wav", "flac"):
        assert not losses(odd, choose_output(odd, OutputConfig(format=name)))
    for name in ("aiff", "ogg"):
        (warning,) = losses(odd, choose_output(odd, OutputConfig(format=name)))
        assert "0x107" in warning
    plain = source(n_channels=6, mask=0x60F)
    assert not losses(plain, choose_output(plain, OutputConfig(format="flac")))


def test_six_channels_of_vorbis_are_where_other_programs_expect_them(tmp_path):
    t = np.arange(30_000)[:, None] / 48_000
    x = (0.2 * np.sin(2 * np.pi * (300 + 170 * np.arange(6)) * t)).astype(np.float32)
    path, _ = written(tmp_path / "x", "ogg", x)
    heard = packed_frames(path)  # in the order of a WAVE mask
    loudest = [np.abs(np.fft.rfft(signal[:24_000], axis=0)).argmax(axis=0) for signal in (x, heard)]
    assert np.allclose(*loudest, atol=1)


@pytest.mark.parametrize("name", LOSSY)
def test_stems_of_a_loud_mix_are_lowered_together_until_no_decoder_clips_them(tmp_path, name):
    file = write(tmp_path / "x.wav", noise(60_000, peak=0.999), 48_000)
    result = rendered(file, tmp_path / "out", Shares(1.0, 0.0), format=name)
    vocals = soundfile.read(tmp_path / "out" / f"vocals.{result.stems[0].path.rpartition('.')[2]}")[0]
    assert result.gain_db < -0.1  # white noise at full scale overshoots in every codec
    assert 0.5 < np.abs(vocals).max() <= 1
    assert result.sum_residual_db is not None
    mix = soundfile.read(file)[0] * 10 ** (result.gain_db / 20)
    others = [soundfile.read(tmp_path / "out" / stem.path)[0] for stem in result.stems]
    residual = np.sqrt(np.square(sum(others) - mix).mean())
    assert result.sum_residual_db == pytest.approx(20 * np.log10(residual), abs=0.01)


@pytest.mark.parametrize("name", LOSSY)
def test_a_stem_beyond_full_scale_is_scaled_with_the_others(tmp_path, name):
    file = write(tmp_path / "x.wav", noise(30_000, peak=0.9), 48_000, "FLOAT")
    result = rendered(file, tmp_path / "out", Shares(2.0, 0.5), format=name, residual="drop")
    assert result.gain_db < 20 * np.log10(1 / 1.8)
    peaks = [np.abs(soundfile.read(tmp_path / "out" / stem.path)[0]).max() for stem in result.stems]
    assert max(peaks) <= 1
    assert peaks[0] / peaks[1] == pytest.approx(4, rel=0.5)  # still one to the other as the model had them


def test_a_quiet_track_is_not_scaled(tmp_path):
    file = write(tmp_path / "x.wav", noise(30_000, peak=0.3), 48_000)
    assert rendered(file, tmp_path / "out", Shares(0.3, 0.7), format="ogg").gain_db == 0


def test_read_back_finds_peak_and_residual_by_arithmetic(tmp_path):
    x, y = noise(70_000, seed=1).astype(np.float32), noise(70_000, seed=2).astype(np.float32)
    files = {"a": tmp_path / "a.wav", "b": tmp_path / "b.wav", "c": tmp_path / "c.wav"}
    for path, signal in zip(files.values(), (x, y, 1.5 * x), strict=True):
        soundfile.write(path, signal, 48_000, "FLOAT")
    blocks = [x[:65_536], x[65_536:]]
    heard = read_back(files, blocks, frozenset({"a", "b"}))
    assert heard.peak == pytest.approx(np.abs(1.5 * x).max())
    assert heard.residual_db == pytest.approx(10 * np.log10(np.square(y.astype(np.float64)).mean()))
    assert read_back({"a": files["a"]}, blocks, frozenset({"a"})).residual_db is None


@pytest.mark.parametrize("n_frames", [65_536, 69_999, 70_001, 140_000])
def test_a_stem_of_another_length_does_not_pass(tmp_path, n_frames):
    soundfile.write(tmp_path / "a.wav", noise(n_frames), 48_000, "FLOAT")
    x = noise(70_000)
    with pytest.raises(StorageError, match="read back"):
        read_back({"a": tmp_path / "a.wav"}, [x[:65_536], x[65_536:]], frozenset())
