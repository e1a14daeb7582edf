import numpy as np
import pytest
import soundfile

from splitfire_batch.audio.quantise import NO_NOISE, Dither, full_scale, quantise


def noise(n_frames, seed=0):
    return np.random.default_rng(seed).uniform(-0.9, 0.9, (n_frames, 2)).astype(np.float32)


@pytest.mark.parametrize("bits", [16, 24])
def test_rounding_has_no_mean_error_where_libsndfile_has_half_a_step(bits, tmp_path):
    x = noise(200_000)
    steps = x.astype(np.float64) * 2 ** (bits - 1)
    ours = quantise(x, bits) - steps
    soundfile.write(tmp_path / "x.wav", x.astype(np.float64), 44_100, f"PCM_{bits}")
    theirs = (soundfile.read(tmp_path / "x.wav", dtype="int32")[0] >> (32 - bits)) - steps
    assert np.abs(ours).max() <= 0.5
    if bits == 16:  # 24-bit steps are as fine as the floats themselves: many errors are exactly 0
        assert abs(ours.mean()) < 0.002  # five standard errors of a uniform error in 400,000 samples
        assert theirs.mean() < -0.4


@pytest.mark.parametrize("bits", [8, 16, 24])
def test_integers_survive_the_way_through_float(bits):
    least, greatest = full_scale(bits)
    wanted = np.random.default_rng(0).integers(least, greatest, (5000, 2), endpoint=True).astype(np.int32)
    assert np.array_equal(quantise(wanted.astype(np.float32) / np.float32(2 ** (bits - 1)), bits), wanted)


def test_unchecked_integers_go_past_full_scale_in_proportion_to_the_gain():
    x = np.array([-2.0, 0.5, 3.0], dtype=np.float32)
    assert quantise(x, 16).tolist() == [-65_536, 16_384, 98_304]
    assert quantise(x, 32, gain=0.5).tolist() == [-(2**31), 2**29, 3 * 2**30]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_what_is_no_sample_is_refused_even_unchecked(bad):
    with pytest.raises(ValueError, match="NaN, infinite or absurdly large"):
        quantise(np.array([0.0, bad], dtype=np.float32), 24)


def test_dither_error_is_triangular_and_does_not_depend_on_the_signal():
    for level in (0.0, 0.25, 0.5):
        x = np.full(200_000, level / 2**15, dtype=np.float32)
        error = quantise(x, 16, dither=Dither("track", "vocals")) - level
        assert abs(error.mean()) < 0.006  # five standard errors
        assert error.var() == pytest.approx(1 / 4, rel=0.02)  # 2/12 of the dither + 1/12 of rounding


def test_dither_does_not_depend_on_the_blocks():
    x = noise(10_000)
    whole = quantise(x, 16, dither=Dither("track", "vocals"))
    dither = Dither("track", "vocals")
    parts = [quantise(x[start : start + 777], 16, dither=dither) for start in range(0, len(x), 777)]
    assert np.array_equal(np.concatenate(parts), whole)


def test_dither_is_a_step_at_most_either_way():
    drawn = Dither("track", "vocals").draw(1_000_000) / NO_NOISE - 1
    assert -1 <= drawn.min() < -0.99
    assert 0.99 < drawn.max() <= 1
    assert abs(drawn.mean()) < 0.003  # seven standard errors
    assert drawn.var() == pytest.approx(1 / 6, rel=0.01)
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 0.005


@pytest.mark.parametrize("gain", [1.0, 0.7])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("peak", [0.9, 40.0])  # beyond 24 dB over full scale it takes 64 bits
def test_dither_is_added_before_rounding(peak, dtype, gain):
    x = (peak * noise(20_000)).astype(dtype)
    drawn = Dither("track", "vocals").draw(x.size).reshape(x.shape) - float(NO_NOISE)
    wanted = x.astype(np.float64) * gain * 2**15 + drawn / 4096
    found = quantise(x, 16, gain, Dither("track", "vocals"))
    assert np.abs(found - wanted).max() < 0.5 + 2.0**-9 * max(1, peak)
    assert abs((found - wanted).mean()) < 0.008


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_what_is_no_sample_is_refused_with_dither_too(bad):
    with pytest.raises(ValueError, match="NaN, infinite or absurdly large"):
        quantise(np.array([0.0, bad], dtype=np.float32), 16, dither=Dither("track", "vocals"))


@pytest.mark.parametrize(("peak", "dtype"), [(0.9, np.int32), (15.9, np.int32), (16.1, np.int64)])
def test_integers_are_wide_only_where_they_must_be(peak, dtype):
    x = np.array([peak, -peak], dtype=np.float32)
    steps = quantise(x, 24)
    assert (steps.dtype, steps.tolist()) == (dtype, np.rint(x.astype(np.float64) * 2**23).tolist())


def test_each_stem_of_each_track_has_its_own_dither():
    names = [("a", "vocals"), ("a", "drums"), ("b", "vocals"), ("avocals", "")]
    draws = {tuple(Dither(track, stem).draw(3)) for track, stem in names}
    assert len(draws) == len(names)
    assert Dither("a", "vocals").draw(3).tolist() == Dither("a", "vocals").draw(3).tolist()
