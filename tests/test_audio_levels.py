"""Levels are those that numpy finds in the whole signal, and the same however the signal was cut."""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from splitfire_batch.audio.levels import PIECE_FRAMES, LevelMeter
from splitfire_batch.observations import Levels
from tests.material import noise

RATE = 44_100


def levels_of(
    samples: NDArray[np.generic],
    bits: int | None = None,
    full_scale: float = 1.0,
    cuts: list[int] | None = None,
    is_full: bool = True,
    rate: int = RATE,
) -> Levels:
    meter = LevelMeter(rate, samples.shape[1], bits, full_scale, is_full)
    for begin, end in itertools.pairwise([0, *sorted(cuts or []), len(samples)]):
        meter.add(samples[begin:end])
    return meter.levels()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 150_000), max_size=6), st.sampled_from([1, 2, 5]))
def test_the_result_is_the_same_to_the_bit_however_the_signal_is_cut(cuts, n_channels):
    samples = np.clip(noise(150_000, n_channels, peak=1.4), -1, 1)
    assert levels_of(samples, cuts=cuts) == levels_of(samples)


@pytest.mark.parametrize("n_frames", [1, 31, 4_410, PIECE_FRAMES, PIECE_FRAMES + 1, 100_000])
@pytest.mark.parametrize("n_channels", [1, 2, 6])
def test_levels_are_those_of_the_whole_signal(n_frames, n_channels):
    samples = noise(n_frames, n_channels) + 0.125
    found = levels_of(samples)
    means = samples.mean(axis=0)
    assert found.peak_db == pytest.approx(20 * np.log10(np.abs(samples).max()), abs=1e-9)
    assert found.rms_db == pytest.approx(10 * np.log10(np.mean(samples**2)), abs=1e-9)
    assert found.dc_offset == pytest.approx(means[np.abs(means).argmax()], abs=1e-12)
    assert found.true_peak_db >= found.peak_db - 1e-6
    assert (found.clipped_samples, found.clipped_run, found.silence_ratio) == (0, 0, 0)


def test_the_dc_offset_keeps_its_sign_and_is_that_of_the_worst_channel():
    samples = noise(44_100) + np.array([0.1, -0.3])
    assert levels_of(samples).dc_offset == pytest.approx(samples[:, 1].mean(), abs=1e-12)


@pytest.mark.parametrize(("bits", "shift"), [(8, 24), (16, 16), (24, 8), (32, 0), (16, 0), (24, 0)])
def test_integers_measure_like_the_floats_they_stand_for(bits, shift):
    """Left-justified as they are decoded, and right-justified as they are written."""
    steps = np.rint(noise(30_000) * 2 ** (bits - 1)).astype(np.int64)
    found = levels_of(steps << shift, bits, 2.0 ** (bits - 1 + shift))
    assert found == levels_of(steps / 2.0 ** (bits - 1))


@pytest.mark.parametrize("bits", [8, 16, 24, 32, None])
def test_samples_at_full_scale_are_counted_with_their_longest_run(bits):
    greatest, scale = (1.0, 1.0) if bits is None else (2 ** (bits - 1) - 1, 2.0 ** (bits - 1))
    samples = np.zeros((80_000, 2))
    samples[PIECE_FRAMES - 4 : PIECE_FRAMES + 3, 0] = greatest  # across two pieces
    samples[100:103, 1] = -scale
    samples[500, :] = greatest
    samples[700, 1] = greatest * 0.99
    found = levels_of(samples, bits, scale)
    assert (found.clipped_samples, found.clipped_run) == (7 + 3 + 2, 7)


@pytest.mark.parametrize(
    "where", [slice(0, 3), slice(99_997, 100_000), slice(PIECE_FRAMES - 2, PIECE_FRAMES + 1), slice(0, None)]
)
def test_runs_are_counted_at_every_edge(where):
    samples = np.zeros((100_000, 1))
    samples[where] = 1.0
    n = len(range(100_000)[where])
    assert (levels_of(samples).clipped_samples, levels_of(samples).clipped_run) == (n, n)


def test_two_runs_with_a_gap_are_not_one():
    samples = np.zeros((80_000, 1))
    samples[10:14], samples[15:18] = 1.0, -1.0
    samples[PIECE_FRAMES : PIECE_FRAMES + 2] = 1.0
    assert levels_of(samples).clipped_run == 4


def test_the_silence_ratio_is_the_part_of_the_time_below_60_db():
    samples = noise(20 * 4_410, 2, peak=0.5)
    samples[4_410 * 3 : 4_410 * 8] *= 0.0019  # its peaks lie below 0.001
    assert levels_of(samples).silence_ratio == pytest.approx(5 / 20)
    assert levels_of(samples[: 4_410 * 7 + 100]).silence_ratio == pytest.approx((4 * 4_410 + 100) / 30_970)


def test_digital_silence_has_no_levels():
    found = levels_of(np.zeros((50_000, 2)))
    assert found == Levels(dc_offset=0.0, clipped_samples=0, clipped_run=0, silence_ratio=1.0)


@pytest.mark.parametrize(
    ("left", "right", "wanted"), [(1, 1, 0.0), (1, -1, 1.0), (1, 0, 0.5), (1, 0.5, 0.25 / (0.25 + 2.25))]
)
def test_the_side_ratio_tells_how_much_the_channels_differ(left, right, wanted):
    samples = noise(30_000, 1) * [left, right]
    assert levels_of(samples).side_ratio == pytest.approx(wanted, abs=1e-12)
    assert levels_of(noise(30_000, 1)).side_ratio is None
    assert levels_of(noise(30_000, 3)).side_ratio is None


def test_without_the_costly_meters_the_others_say_the_same():
    samples = noise(4 * RATE)
    full, basic = asdict(levels_of(samples)), asdict(levels_of(samples, is_full=False))
    costly = {"true_peak_db", "loudness_lufs", "loudness_range_lu"}
    assert {name for name in full if full[name] != basic[name]} == costly
    assert all(basic[name] is None for name in costly)


@pytest.mark.parametrize("rate", [4_000, 8_000, 384_000])
def test_a_gain_moves_every_level_by_as_much(rate):
    samples = noise(2 * rate, 2, peak=0.25)
    before, after = levels_of(samples, rate=rate), levels_of(samples * 2, rate=rate)
    for name in ("peak_db", "rms_db", "true_peak_db", "loudness_lufs"):
        moved = getattr(after, name) - getattr(before, name)
        assert moved == pytest.approx(20 * math.log10(2), abs=1e-5), name
