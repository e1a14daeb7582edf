"""The audio contract on written files, read back by a reader that shares no code with the writer."""

from __future__ import annotations

import hashlib
import itertools
import math
import random

import numpy as np
import pytest
import soundfile
from numpy.testing import assert_allclose, assert_array_equal

from tests.material import MODEL_STEMS, Shares, noise, read_stems, read_wav, rendered, write

BITS = {"PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
LOUD = Shares(-0.9, 1.9)
"""Vocals in antiphase: the accompaniment of a loud mix is almost twice as loud as the mix."""


def cases() -> list[tuple[int, int, str, int]]:
    """Rates x channels x subtypes x lengths: a seeded part, with few of the long ones."""
    subtypes = [*BITS, "FLOAT"]
    rates = [8_000, 22_050, 44_100, 48_000, 96_000]
    seeded = random.Random(20)
    short = list(itertools.product(rates, [1, 2, 5, 6], subtypes, [1, 2, 1_023, 44_100]))
    long = list(itertools.product(rates[1:], [1, 2], subtypes, [700_001]))
    return [*seeded.sample(short, 70), *seeded.sample(long, 5), (48_000, 6, "PCM_24", 700_001)]


@pytest.mark.parametrize(("sample_rate", "n_channels", "subtype", "n_frames"), cases())
def test_stems_have_the_shape_of_the_mix_and_sum_to_it(tmp_path, sample_rate, n_channels, subtype, n_frames):
    file = write(tmp_path / "mix.wav", noise(n_frames, n_channels), sample_rate, subtype)
    result = rendered(file, tmp_path / "out", Shares())
    mix, _ = read_wav(file)
    total = np.zeros(mix.shape)
    for stem in result.stems:
        samples, rate = read_wav(tmp_path / "out" / stem.path)
        assert samples.shape == mix.shape == (n_frames, n_channels)
        assert rate == sample_rate
        total += samples
    assert result.gain_db == 0
    if subtype == "FLOAT":
        assert_allclose(total, mix, rtol=0, atol=1e-6)
        return
    assert_array_equal(total, mix * 2.0 ** (max(16, BITS[subtype]) - BITS[subtype]))
    assert result.sum_residual_db is None


@pytest.mark.parametrize("dither", [True, False])
@pytest.mark.parametrize(
    ("subtype", "depth"),
    [
        ("PCM_16", "16"),
        ("PCM_16", "24"),
        ("PCM_24", "16"),
        ("PCM_24", "24"),
        ("PCM_32", "32"),
        ("FLOAT", "24"),
    ],
)
def test_what_would_clip_gets_one_recorded_gain_for_all_stems(tmp_path, subtype, depth, dither):
    file = write(tmp_path / "mix.wav", noise(60_000, peak=0.95), 44_100, subtype)
    result = rendered(file, tmp_path / "out", LOUD, depth=depth, dither=dither)
    stems = read_stems(result, tmp_path / "out")
    mix = read_wav(file)[0] * 2.0 ** (int(depth) - BITS.get(subtype, 1))
    gain = 10 ** (result.gain_db / 20)
    assert 0.5 < gain < 0.6
    error = np.abs(sum(stems.values()) - mix * gain).max()
    # the fold stem is the rounded mix minus the others, so the sum has the rounding error of the mix alone
    assert error <= (1.5 if dither and depth == "16" else 0.5) + 1e-5
    loudest = np.abs(stems["accompaniment"]).max()
    full_scale = 2.0 ** (int(depth) - 1)
    assert full_scale * 0.999 < loudest < full_scale
    assert_allclose(stems["vocals"], mix * gain * -0.9, rtol=0, atol=1.5 + full_scale * 1e-7)


def test_a_loud_mix_whose_stems_fit_is_not_scaled(tmp_path):
    file = write(tmp_path / "mix.wav", noise(5_000, peak=1.0))
    assert rendered(file, tmp_path / "out", Shares()).gain_db == 0


def test_float_stems_are_never_scaled(tmp_path):
    file = write(tmp_path / "mix.wav", noise(5_000, peak=0.95))
    result = rendered(file, tmp_path / "out", LOUD, depth="float")
    stems = read_stems(result, tmp_path / "out")
    assert result.gain_db == 0
    assert np.abs(stems["accompaniment"]).max() > 1
    assert_allclose(sum(stems.values()), read_wav(file)[0] / 2**15, rtol=0, atol=1e-6)


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_drop_gives_the_raw_estimates(tmp_path, subtype):
    file = write(tmp_path / "mix.wav", noise(30_000), 44_100, subtype)
    result = rendered(file, tmp_path / "out", Shares(0.3, 0.5), residual="drop", dither=False)
    stems = read_stems(result, tmp_path / "out")
    mix = read_wav(file)[0]
    for stem, share in zip(MODEL_STEMS, (0.3, 0.5), strict=True):
        assert_allclose(stems[stem], mix * share, rtol=0, atol=1e-6 if subtype == "FLOAT" else 0.51)
    scale = 1 if subtype == "FLOAT" else 2**15
    left_over = 20 * math.log10(0.2 * np.sqrt(np.mean((mix / scale) ** 2)))
    assert result.sum_residual_db == pytest.approx(left_over, abs=0.01)


def test_the_residual_as_a_stem_of_its_own_completes_the_sum(tmp_path):
    file = write(tmp_path / "mix.wav", noise(30_000))
    result = rendered(file, tmp_path / "out", Shares(0.3, 0.5), residual="stem")
    stems = read_stems(result, tmp_path / "out")
    mix = read_wav(file)[0]
    assert list(stems) == ["vocals", "accompaniment", "residual"]
    assert_array_equal(sum(stems.values()), mix)
    assert_allclose(stems["residual"], 0.2 * mix, rtol=0, atol=3.01)  # rounding and dither of two stems
    assert result.sum_residual_db is None


def test_the_instrumental_is_the_mix_minus_the_vocals(tmp_path):
    file = write(tmp_path / "mix.wav", noise(30_000), 48_000, "PCM_24")
    result = rendered(file, tmp_path / "out", Shares(0.3, 0.5), stems=("vocals", "instrumental"))
    stems = read_stems(result, tmp_path / "out")
    assert_array_equal(stems["vocals"] + stems["instrumental"], read_wav(file)[0])


def test_vocals_alone_are_one_file_without_a_claim_about_the_sum(tmp_path):
    file = write(tmp_path / "mix.wav", noise(3_000))
    result = rendered(file, tmp_path / "out", Shares(), stems=("vocals",))
    assert [stem.stem for stem in result.stems] == ["vocals"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["vocals.wav"]
    assert result.sum_residual_db is None


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_levels_and_hashes_are_those_of_the_file(tmp_path, subtype):
    file = write(tmp_path / "mix.wav", noise(70_000), 44_100, subtype)
    result = rendered(file, tmp_path / "out", Shares())
    for stem in result.stems:
        path = tmp_path / "out" / stem.path
        data = path.read_bytes()
        samples = read_wav(path)[0] / (1 if subtype == "FLOAT" else 2 ** (BITS[subtype] - 1))
        assert stem.levels.peak_db == pytest.approx(20 * np.log10(np.abs(samples).max()), abs=1e-9)
        assert stem.levels.rms_db == pytest.approx(10 * np.log10(np.mean(samples**2)), abs=1e-9)
        assert (stem.n_bytes, stem.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        n_pcm = samples.size * (4 if subtype == "FLOAT" else BITS[subtype] // 8)
        start = data.index(b"data") + 8
        assert stem.pcm_md5 == hashlib.md5(data[start : start + n_pcm]).hexdigest()  # noqa: S324
        assert (stem.container, stem.subtype) == ("WAV", subtype)


def test_the_pcm_md5_of_flac_is_its_own(tmp_path):
    file = write(tmp_path / "mix.flac", noise(70_000), 44_100, "PCM_24")
    result = rendered(file, tmp_path / "out", Shares())
    for stem in result.stems:
        assert stem.path == f"{stem.stem}.flac"
        assert (tmp_path / "out" / stem.path).read_bytes()[26:42].hex() == stem.pcm_md5


@pytest.mark.parametrize(("ext", "subtype"), [("flac", "PCM_16"), ("flac", "PCM_24"), ("aiff", "PCM_24")])
def test_stems_of_other_containers_sum_to_the_mix_too(tmp_path, ext, subtype):
    file = write(tmp_path / f"mix.{ext}", noise(70_000), 48_000, subtype)
    result = rendered(file, tmp_path / "out", Shares())
    stems = [soundfile.read(tmp_path / "out" / stem.path, dtype="int32")[0] for stem in result.stems]
    assert_array_equal(sum(stems), soundfile.read(file, dtype="int32")[0])
    assert result.stems[0].container == ext.upper()
