"""True peak: the EBU's own test signals, resampled and other meters' peaks, and no peak overlooked."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray

from splitfire_batch.audio.true_peak import WINDOW_FRAMES, TruePeakMeter
from tests import assets
from tests.ffmpeg_meter import ffmpeg_levels
from tests.material import noise


def true_peak(samples: NDArray[np.floating], looks_everywhere: bool = False) -> float:
    """Of samples (n, C), in one block."""
    meter = TruePeakMeter(samples.shape[1])
    if looks_everywhere:
        meter._greatest_gain = np.inf
    n_frames = (len(samples) // WINDOW_FRAMES + 2) * WINDOW_FRAMES
    padded = np.zeros((samples.shape[1], n_frames))
    padded[:, : len(samples)] = samples.T
    with np.errstate(invalid="ignore"):  # inf times silence
        meter.add(padded)
    return meter.peak()


def excerpt(seconds: int = 20) -> NDArray[np.float64]:
    samples, _ = soundfile.read(assets.music()[1], frames=seconds * 44_100, always_2d=True)
    return samples


def test_the_excerpt_is_music():
    assert excerpt().std() > 0.01


@pytest.mark.parametrize(
    ("amplitude", "divisor", "degrees", "wanted_db"),
    [
        (0.50, 4, 0.0, -6.0),
        (0.50, 4, 45.0, -6.0),
        (0.50, 6, 60.0, -6.0),
        (0.50, 8, 67.5, -6.0),
        (1.41, 4, 45.0, 3.0),
    ],
)
def test_sines_meet_ebu_tech_3341_cases_15_to_19(amplitude, divisor, degrees, wanted_db):
    """Phases at which the samples miss the peak; allowed are +0.2 and -0.4 dB. The ends fade, as there."""
    frames = np.arange(48_000)
    fade = np.minimum(1, np.minimum(frames, frames[::-1]) / 4_800)
    sine = amplitude * fade * np.sin(2 * np.pi * frames / divisor + np.radians(degrees))
    found_db = 20 * np.log10(true_peak(sine[:, None]))
    assert wanted_db - 0.4 <= found_db <= wanted_db + 0.2


@pytest.mark.parametrize("gain", [0.5, 1.0, 4.0])
def test_music_peaks_where_it_does_when_resampled_eight_times(gain):
    samples = np.clip(excerpt() * gain, -1, 1)
    wanted = np.abs(soxr.resample(samples, 44_100, 8 * 44_100, quality="VHQ")).max()
    # a grid of four values per sample misses up to 0.36 dB at 16 kHz, where music has little
    assert 20 * np.log10(true_peak(samples) / wanted) == pytest.approx(-0.05, abs=0.15)


def test_music_peaks_as_in_ffmpeg():
    samples = np.clip(excerpt() * 4, -1, 1)
    wanted = ffmpeg_levels(samples, 44_100).true_peak
    assert 20 * np.log10(true_peak(samples) / wanted) == pytest.approx(0, abs=0.2)


@pytest.mark.parametrize("gain", [1.0, 30.0])
def test_looking_only_where_a_peak_can_be_overlooks_none(gain):
    samples = np.clip(excerpt() * gain, -1, 1)
    assert true_peak(samples) == pytest.approx(true_peak(samples, looks_everywhere=True), rel=1e-6)


@pytest.mark.parametrize("at", [0, 1, 15, 31, 32, 33, 47, 63, 64, 500, 999])
def test_a_peak_is_found_wherever_it_lies(at):
    """Two samples alike: between them the signal is higher than either."""
    samples = noise(1_000, 2, peak=0.01)
    samples[at : at + 2, 1] = 0.9
    found = true_peak(samples)
    assert found == pytest.approx(true_peak(samples, looks_everywhere=True), rel=1e-6)
    assert found > (1.05 if at < 999 else 0.899)


@pytest.mark.parametrize("n_channels", [1, 2, 6])
def test_it_is_never_below_the_sample_peak_and_grows_with_the_gain(n_channels):
    samples = noise(3_000, n_channels)
    found = true_peak(samples)
    assert found >= np.abs(samples).max() * (1 - 1e-7)
    assert true_peak(samples * -3) == pytest.approx(3 * found, rel=1e-6)


def test_silence_has_none():
    assert true_peak(np.zeros((1_000, 2))) == 0


def test_a_block_of_another_size_is_refused():
    with pytest.raises(ValueError, match=f"found 100 frames, wanted a multiple of {WINDOW_FRAMES}"):
        TruePeakMeter(1).add(np.zeros((1, 100)))
