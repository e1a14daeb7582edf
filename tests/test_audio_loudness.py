"""Loudness and its range: the EBU's own test signals, and two other meters on real music."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyloudnorm
import pytest
import soundfile
from numpy.typing import NDArray

from splitfire_batch.audio.k_weighting import STEP_FRAMES
from splitfire_batch.audio.loudness import LoudnessMeter, default_weights
from tests import assets
from tests.ffmpeg_meter import ffmpeg_levels
from tests.material import noise

Tones = Sequence[tuple[float, float]]
"""Peak levels in dB relative to full scale, and seconds, one after the other."""
HIGH_PASS_DB = {32_000: -0.0216, 44_100: -0.0038, 48_000: 0.0, 96_000: 0.0216}
"""The standard's high pass has a gain of 0.04 dB at 48 kHz. Ours has it at every rate, so that a tone
measures alike; pyloudnorm and FFmpeg keep the numerator 1, -2, 1, whose gain depends on the rate."""


def metered(
    samples: NDArray[np.floating], sample_rate: int, weights: tuple[float, ...] | None = None
) -> LoudnessMeter:
    """A meter that has heard samples (n, C)."""
    meter = LoudnessMeter(sample_rate, samples.shape[1], weights)
    padded = np.zeros((samples.shape[1], -(-len(samples) // STEP_FRAMES) * STEP_FRAMES))
    padded[:, : len(samples)] = samples.T
    meter.add(padded, len(samples))
    return meter


def tones(levels: Tones, sample_rate: int = 48_000, n_channels: int = 2) -> NDArray[np.float64]:
    """Sines of 1 kHz, in phase in all channels."""
    envelope = np.concatenate([np.full(round(s * sample_rate), 10 ** (db / 20)) for db, s in levels])
    sine = envelope * np.sin(2 * np.pi * 1_000 / sample_rate * np.arange(len(envelope)))
    return np.repeat(sine[:, None], n_channels, axis=1)


@pytest.mark.parametrize(
    ("levels", "lufs"),
    [
        ([(-23, 20)], -23),
        ([(-33, 20)], -33),
        ([(-36, 10), (-23, 60), (-36, 10)], -23),
        ([(-72, 10), (-36, 10), (-23, 60), (-36, 10), (-72, 10)], -23),
        ([(-26, 20), (-20, 20.1), (-26, 20)], -23),
    ],
)
@pytest.mark.parametrize("rate", [44_100, 48_000])
def test_integrated_loudness_meets_ebu_tech_3341_cases_1_to_5(levels, lufs, rate):
    assert metered(tones(levels, rate), rate).integrated() == pytest.approx(lufs, abs=0.1)


def test_integrated_loudness_of_surround_meets_ebu_tech_3341_case_6():
    gains = 10 ** (np.array([-28, -28, -24, -30, -30]) / 20)
    samples = tones([(0, 20)], n_channels=5) * gains
    assert metered(samples, 48_000).integrated() == pytest.approx(-23, abs=0.1)


@pytest.mark.parametrize(
    ("levels", "lra"),
    [
        ([(-20, 20), (-30, 20)], 10),
        ([(-20, 20), (-15, 20)], 5),
        ([(-40, 20), (-20, 20)], 20),
        ([(-50, 20), (-35, 20), (-20, 20), (-35, 20), (-50, 20)], 15),
    ],
)
def test_loudness_range_meets_ebu_tech_3342_cases_1_to_4(levels, lra):
    assert metered(tones(levels), 48_000).range() == pytest.approx(lra, abs=1)


@pytest.mark.parametrize("file", [assets.audio_example, lambda: assets.music()[0]])
def test_real_music_measures_as_in_pyloudnorm_and_ffmpeg(file):
    samples, rate = soundfile.read(file(), frames=60 * 44_100, always_2d=True)
    samples = samples[: len(samples) // 4_410 * 4_410]
    meter, ffmpeg = metered(samples, rate), ffmpeg_levels(samples, rate)
    wanted = pyloudnorm.Meter(rate, filter_class="DeMan").integrated_loudness(samples)
    assert meter.integrated() == pytest.approx(wanted + HIGH_PASS_DB[rate], abs=1e-3)
    assert meter.integrated() == pytest.approx(ffmpeg.loudness_lufs + HIGH_PASS_DB[rate], abs=1e-2)
    assert meter.range() == pytest.approx(ffmpeg.loudness_range_lu, abs=0.1)  # FFmpeg rounds to 0.01 LU


@pytest.mark.parametrize("n_channels", [1, 2, 5])
@pytest.mark.parametrize("rate", [32_000, 48_000, 96_000])
@pytest.mark.parametrize("n_hops", [4, 5, 23])
def test_noise_of_any_shape_measures_as_in_pyloudnorm(n_channels, rate, n_hops):
    samples = noise(n_hops * rate // 10, n_channels) * np.linspace(1, 0.001, n_hops * rate // 10)[:, None]
    wanted = pyloudnorm.Meter(rate, filter_class="DeMan").integrated_loudness(samples)
    assert metered(samples, rate).integrated() == pytest.approx(wanted + HIGH_PASS_DB[rate], abs=1e-3)


@pytest.mark.parametrize("gain_db", [-30.0, -6.0, 3.0])
def test_a_gain_moves_loudness_by_as_much_and_its_range_not_at_all(gain_db):
    samples = tones([(-20, 4), (-12, 4)])
    before, after = metered(samples, 48_000), metered(samples * 10 ** (gain_db / 20), 48_000)
    assert after.integrated() == pytest.approx(before.integrated() + gain_db, abs=1e-6)
    assert after.range() == pytest.approx(before.range(), abs=1e-6)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100])
def test_loudness_needs_400_ms_and_its_range_3_s(rate):
    whole = noise(4 * rate)
    block, window = 4 * (rate // 10), 30 * (rate // 10)
    assert metered(whole[: block - 1], rate).integrated() is None
    assert metered(whole[:block], rate).integrated() is not None
    assert metered(whole[: window - 1], rate).range() is None
    assert metered(whole[:window], rate).range() is not None


@pytest.mark.parametrize("level", [0.0, 1e-5])
def test_what_is_nowhere_above_the_absolute_gate_has_no_loudness(level):
    meter = metered(noise(4 * 44_100) * level, 44_100)
    assert (meter.integrated(), meter.range()) == (None, None)


def test_the_lfe_does_not_count_and_other_weights_may_be_given():
    samples = noise(44_100, 6)
    without = samples.copy()
    without[:, 3] = 0
    assert metered(samples, 44_100).integrated() == metered(without, 44_100).integrated()
    louder = metered(samples, 44_100, (1, 1, 1, 1, 1.41, 1.41)).integrated()
    assert louder > metered(without, 44_100).integrated() + 0.5


@pytest.mark.parametrize("n_channels", range(1, 9))
def test_every_channel_count_has_its_weights(n_channels):
    weights = default_weights(n_channels)
    assert len(weights) == n_channels
    assert weights[:2] == (1.0, 1.0)[:n_channels]
    assert set(weights) <= {0.0, 1.0, 1.41}
