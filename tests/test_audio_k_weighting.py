"""The K-weighting is the recursion that ITU-R BS.1770 prints, and sounds alike at every rate."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.signal import sosfilt

from splitfire_batch.audio.k_weighting import STEP_FRAMES, KWeighting
from tests.material import noise

ITU = [
    [1.53512485958697, -2.69169618940638, 1.19839281085285, 1.0, -1.69065929318241, 0.73248077421585],
    [1.0, -2.0, 1.0, 1.0, -1.99004745483398, 0.99007225036621],
]
"""Tables 1 and 2 of Annex 1, for 48 kHz."""


def gain_db(sample_rate: int, frequency: float) -> float:
    """Of a sine, from the filter's answer to an impulse."""
    n_frames = -(-sample_rate // STEP_FRAMES) * STEP_FRAMES
    impulse = np.zeros((1, n_frames), np.float32)
    impulse[0, 0] = 1
    response = KWeighting(sample_rate, 1).weigh(impulse)[0]
    angles = 2 * np.pi * frequency / sample_rate * np.arange(n_frames)
    return float(20 * np.log10(abs(np.sum(response * np.exp(-1j * angles)))))


@pytest.mark.parametrize("n_channels", [1, 2, 6])
def test_at_48_khz_it_is_the_recursion_of_the_standard(n_channels):
    signal = np.ascontiguousarray(noise(8 * STEP_FRAMES, n_channels).T, dtype=np.float32)
    wanted = sosfilt(ITU, signal.astype(np.float64))
    error = KWeighting(48_000, n_channels).weigh(signal) - wanted
    assert np.sqrt(np.mean(error**2) / np.mean(wanted**2)) < 1e-7  # float32: -140 dB


def test_low_tones_keep_five_digits_though_the_states_are_thousands_of_times_as_large():
    tone = np.sin(2 * np.pi * 30 / 48_000 * np.arange(8 * STEP_FRAMES), dtype=np.float32)[None]
    error = KWeighting(48_000, 1).weigh(tone) - sosfilt(ITU, tone.astype(np.float64))
    assert np.abs(error).max() < 1e-5


def test_blocks_go_on_where_the_last_one_ended():
    signal = np.ascontiguousarray(noise(6 * STEP_FRAMES).T, dtype=np.float32)
    whole = KWeighting(44_100, 2).weigh(signal)
    filter_ = KWeighting(44_100, 2)
    parts = [filter_.weigh(part) for part in np.split(signal, [STEP_FRAMES, 4 * STEP_FRAMES], axis=1)]
    assert_allclose(np.concatenate(parts, axis=1), whole, rtol=0, atol=1e-6)


def test_channels_do_not_touch_each_other():
    signal = np.ascontiguousarray(noise(STEP_FRAMES, 3).T, dtype=np.float32)
    alone = [KWeighting(44_100, 1).weigh(channel[None])[0] for channel in signal]
    assert_allclose(KWeighting(44_100, 3).weigh(signal), alone, rtol=0, atol=1e-6)
    signal[1] = 0
    assert_array_equal(KWeighting(44_100, 3).weigh(signal)[1], np.zeros(STEP_FRAMES))


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 96_000, 192_000, 384_000])
@pytest.mark.parametrize("frequency", [20.0, 38.0, 100.0, 440.0, 1_000.0])
def test_a_tone_weighs_the_same_at_every_rate(rate, frequency):
    # a bilinear transform bends frequencies near half the rate: at 8 kHz this shows from about 1 kHz
    tolerance = 0.3 if rate == 8_000 else 0.03
    assert gain_db(rate, frequency) == pytest.approx(gain_db(48_000, frequency), abs=tolerance)


def test_a_block_of_another_size_is_refused():
    with pytest.raises(ValueError, match=f"found 100 frames, wanted a multiple of {STEP_FRAMES}"):
        KWeighting(44_100, 1).weigh(np.zeros((1, 100)))
