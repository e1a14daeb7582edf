import numpy as np
import pytest
import soxr

from splitfire_batch.audio.resample import Resampler


def noise(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def resampled(x, rate_in, rate_out, block, n_frames=None):
    resampler = Resampler(rate_in, rate_out, int(np.prod(x.shape[:-1])))
    parts = [resampler.push(x[..., start : start + block]) for start in range(0, x.shape[-1], block)]
    out = np.concatenate([*parts, resampler.finish(n_frames)], axis=-1)
    assert resampler.n_frames == out.shape[-1]
    return out


RATES = [(48_000, 44_100), (44_100, 48_000), (96_000, 44_100), (44_100, 192_000), (8_000, 44_100)]


@pytest.mark.parametrize(("rate_in", "rate_out"), RATES)
@pytest.mark.parametrize("block", [977, 16_384])
def test_a_stream_equals_one_shot_bit_for_bit(rate_in, rate_out, block):
    x = noise(2, 20_001)
    wanted = soxr.resample(np.ascontiguousarray(x.T), rate_in, rate_out, quality="HQ").T
    assert np.array_equal(resampled(x, rate_in, rate_out, block), wanted)


@pytest.mark.parametrize(("rate_in", "rate_out"), RATES)
@pytest.mark.parametrize("n_frames", [1, 2, 1000, 12_345])
def test_there_and_back_has_the_very_length_of_the_source(rate_in, rate_out, n_frames):
    there = resampled(noise(1, n_frames), rate_in, rate_out, 4096)
    assert resampled(there, rate_out, rate_in, 4096, n_frames).shape == (1, n_frames)


def test_there_and_back_is_aligned_and_the_same_within_the_band():
    t = np.arange(48_000) / 48_000
    x = np.stack([np.sin(2 * np.pi * f * t) for f in (100, 5_000)]).astype(np.float32)
    back = resampled(resampled(x, 48_000, 44_100, 5000), 44_100, 48_000, 5000, x.shape[1])
    inner = slice(4_000, -4_000)  # away from the ends, where a cut tone is not band-limited
    np.testing.assert_allclose(back[:, inner], x[:, inner], atol=1e-5)  # HQ keeps 20 bits, 1e-6, each way


def test_leading_axes_are_kept_and_signals_do_not_mix():
    x = noise(3, 2, 5000)
    together = resampled(x, 48_000, 44_100, 1000)
    assert together.shape[:2] == (3, 2)
    assert np.array_equal(together[1, :1], resampled(x[1, :1], 48_000, 44_100, 5000))


def test_equal_rates_hand_the_block_through():
    resampler = Resampler(44_100, 44_100, 2)
    x = noise(2, 100)
    assert resampler.push(x) is x
    assert resampler.finish(100).shape == (2, 0)


@pytest.mark.parametrize("rate_in", [44_100, 48_000])
def test_the_end_is_padded_with_zeros_to_the_wanted_length(rate_in):
    out = resampled(noise(2, 1000), rate_in, 44_100, 100, 5000)
    assert out.shape == (2, 5000)
    assert not out[:, 1000:].any()


def test_less_than_was_given_out_is_refused():
    resampler = Resampler(44_100, 44_100, 1)
    resampler.push(noise(1, 100))
    with pytest.raises(ValueError, match="100 frames were given out, wanted 99"):
        resampler.finish(99)


@pytest.mark.parametrize("block", [np.zeros((3, 10), np.float32), np.zeros((2, 10))])
def test_other_shapes_and_dtypes_are_refused(block):
    with pytest.raises(ValueError, match="wanted"):
        Resampler(44_100, 48_000, 2).push(block)


def test_nothing_in_nothing_out():
    assert Resampler(44_100, 48_000, 2).finish().shape == (2, 0)
    resampler = Resampler(44_100, 48_000, 2)
    assert resampler.push(noise(2, 0)).shape == (2, 0)
