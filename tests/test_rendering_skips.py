"""A silent stem may be left out: then no file is written for it, and the others still sum to the mix."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from splitfire_batch.records import StemFile
from splitfire_batch.rendering import Rendered
from tests.material import Shares, noise, read_stems, read_wav, rendered, write

QUIET_VOCALS = Shares(5e-4, 1.0)
"""-72 dB below full scale for a mix that peaks at -6 dB."""
QUIET_REST = Shares(0.9995, 1.0)
"""With residual = "fold" the accompaniment is what these vocals leave over: likewise -72 dB."""


def files(result: Rendered) -> list[str]:
    return [stem.stem for stem in result.stems if stem.path]


def entry(result: Rendered, name: str) -> StemFile:
    return next(stem for stem in result.stems if stem.stem == name)


def level_db(samples: np.ndarray) -> float:
    return float(20 * np.log10(np.sqrt(np.mean(samples**2))))


def check_skipped(stem: StemFile, mix: np.ndarray, share: float) -> None:
    """The row's entry has no file, but the levels that it would have had."""
    assert (stem.path, stem.sha256, stem.pcm_md5, stem.n_bytes) == (None, None, None, 0)
    assert stem.is_silent
    assert stem.n_frames == len(mix)
    # in 16 bit such a stem peaks at 8 steps, of which rounding changes up to half a step
    assert stem.levels.peak_db == pytest.approx(20 * math.log10(np.abs(mix).max() * share), abs=0.5)
    assert stem.levels.rms_db == pytest.approx(level_db(mix * share), abs=0.1)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_what_a_silent_stem_would_have_had_is_in_the_stem_that_takes_the_rest(tmp_path, subtype):
    file = write(tmp_path / "mix.wav", noise(70_000), 44_100, subtype)
    result = rendered(file, tmp_path / "out", QUIET_VOCALS, skip_silent_stems=-60, dither=False)
    mix, _ = read_wav(file)
    assert files(result) == ["accompaniment"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["accompaniment.wav"]
    assert_array_equal(read_wav(tmp_path / "out" / "accompaniment.wav")[0], mix)
    assert result.sum_residual_db is None
    scale = {"PCM_16": 2.0**15, "PCM_24": 2.0**23, "FLOAT": 1.0}[subtype]
    check_skipped(entry(result, "vocals"), mix / scale, 5e-4)
    assert not entry(result, "accompaniment").is_silent


@pytest.mark.parametrize("residual", ["fold", "stem"])
def test_the_others_sum_to_the_mix_whatever_takes_the_rest(tmp_path, residual):
    file = write(tmp_path / "mix.wav", noise(30_000), 48_000, "PCM_24")
    model = Shares(5e-4, 0.5)
    result = rendered(file, tmp_path / "out", model, residual=residual, skip_silent_stems=-60)
    stems = {name: read_wav(tmp_path / "out" / f"{name}.wav")[0] for name in files(result)}
    assert "vocals" not in stems
    assert len(stems) == (1 if residual == "fold" else 2)
    assert_array_equal(sum(stems.values()), read_wav(file)[0])
    assert result.sum_residual_db is None


def test_the_instrumental_of_a_track_without_vocals_is_the_mix(tmp_path):
    file = write(tmp_path / "mix.wav", noise(30_000), 48_000, "PCM_24")
    names = ("vocals", "instrumental")
    result = rendered(file, tmp_path / "out", QUIET_VOCALS, stems=names, skip_silent_stems=-60)
    assert files(result) == ["instrumental"]
    assert_array_equal(read_wav(tmp_path / "out" / "instrumental.wav")[0], read_wav(file)[0])


def test_where_the_rest_itself_is_silent_the_row_says_what_the_sum_lacks(tmp_path):
    file = write(tmp_path / "mix.wav", noise(70_000), 44_100, "PCM_24")
    result = rendered(file, tmp_path / "out", QUIET_REST, skip_silent_stems=-60)
    mix = read_wav(file)[0] / 2.0**23
    assert files(result) == ["vocals"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["vocals.wav"]
    check_skipped(entry(result, "accompaniment"), mix, 5e-4)
    lacking = mix - read_wav(tmp_path / "out" / "vocals.wav")[0] / 2.0**23
    assert result.sum_residual_db == pytest.approx(level_db(lacking), abs=1e-6)


def test_a_silent_track_gets_no_stems_at_all(tmp_path):
    file = write(tmp_path / "mix.wav", noise(30_000, peak=5e-4), 44_100, "PCM_24")
    result = rendered(file, tmp_path / "out", Shares(), skip_silent_stems=-60)
    assert files(result) == []
    assert list((tmp_path / "out").iterdir()) == []
    assert result.sum_residual_db == pytest.approx(level_db(read_wav(file)[0] / 2.0**23), abs=1e-6)


def test_raw_estimates_are_left_out_without_touching_the_others(tmp_path):
    file = write(tmp_path / "mix.wav", noise(30_000), 44_100, "FLOAT")
    result = rendered(file, tmp_path / "out", Shares(5e-4, 0.5), residual="drop", skip_silent_stems=-60)
    mix = read_wav(file)[0]
    assert files(result) == ["accompaniment"]
    assert_allclose(read_wav(tmp_path / "out" / "accompaniment.wav")[0], mix * 0.5, rtol=0, atol=1e-6)
    assert result.sum_residual_db == pytest.approx(level_db(mix * 0.5), abs=1e-3)


@pytest.mark.parametrize("threshold", [-73.0, -71.0])
def test_the_threshold_is_the_stems_sample_peak(tmp_path, threshold):
    samples = noise(30_000)
    samples[0] = 0.5
    file = write(tmp_path / "mix.wav", samples, 44_100, "PCM_24")  # vocals peak at -72.04 dB
    result = rendered(file, tmp_path / "out", QUIET_VOCALS, skip_silent_stems=threshold)
    assert ("vocals" in files(result)) == (threshold == -73.0)
    assert entry(result, "vocals").is_silent == (threshold == -71.0)


def test_a_gain_counts_before_a_stem_is_called_silent(tmp_path):
    """The vocals peak 0.1 dB above the threshold, and below it once the track is scaled."""
    samples = noise(30_000, peak=1.5)
    samples[0] = 2.0
    file = write(tmp_path / "mix.wav", samples, 44_100, "FLOAT")
    level = 10 ** (-59.9 / 20) / 2.0
    result = rendered(file, tmp_path / "out", Shares(level, 1.0), depth="24", skip_silent_stems=-60)
    assert result.gain_db < -6
    assert files(result) == ["accompaniment"]
    stems = read_wav(tmp_path / "out" / "accompaniment.wav")[0] / 2.0**23
    assert_allclose(stems, samples * 10 ** (result.gain_db / 20), rtol=0, atol=2e-7)


def test_without_the_option_silent_stems_are_written_and_called_so(tmp_path):
    file = write(tmp_path / "mix.wav", noise(30_000), 44_100, "PCM_24")
    result = rendered(file, tmp_path / "out", QUIET_VOCALS)
    assert files(result) == ["vocals", "accompaniment"]
    assert [stem.is_silent for stem in result.stems] == [True, False]
    assert_array_equal(sum(read_stems(result, tmp_path / "out").values()), read_wav(file)[0])
