import numpy as np
import pytest
import soundfile

from splitfire_batch.audio.quantise import dither_source, full_scale, quantise, to_int


def noise(n_frames, seed=0):
    return np.random.default_rng(seed).uniform(-0.9, 0.9, (n_frames, 2)).astype(np.float32)


@pytest.mark.parametrize("bits", [16, 24])
def test_rounding_has_no_mean_error_where_libsndfile_has_half_a_step(bits, tmp_path):
    x = noise(200_000)
    steps = x.astype(np.float64) * 2 ** (bits - 1)
    ours = to_int(x, bits) - steps
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
    assert np.array_equal(to_int(wanted.astype(np.float32) / np.float32(2 ** (bits - 1)), bits), wanted)


@pytest.mark.parametrize("bits", [16, 24, 32])
@pytest.mark.parametrize("bad", [1.0, -1.1, np.nan, np.inf])
def test_what_does_not_fit_is_refused_not_clipped(bits, bad):
    x = np.array([[0.0], [bad]], dtype=np.float32)
    with pytest.raises(ValueError, match=r"do not fit|NaN"):
        to_int(x, bits)


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
        error = to_int(x, 16, dither_source("track", "vocals")) - level
        assert abs(error.mean()) < 0.006  # five standard errors
        assert error.var() == pytest.approx(1 / 4, rel=0.02)  # 2/12 of the dither + 1/12 of rounding


def test_dither_does_not_depend_on_the_blocks():
    x = noise(10_000)
    whole = to_int(x, 16, dither_source("track", "vocals"))
    rng = dither_source("track", "vocals")
    parts = [to_int(x[start : start + 777], 16, rng) for start in range(0, len(x), 777)]
    assert np.array_equal(np.concatenate(parts), whole)


def test_dither_stays_inside_full_scale():
    x = np.tile(np.array([-1.0, 32_767 / 32_768], dtype=np.float32), (10_000, 1))
    dithered = to_int(x, 16, dither_source("track", "vocals"))
    assert (dithered.min(), dithered.max()) == full_scale(16)


def test_each_stem_of_each_track_has_its_own_dither():
    names = [("a", "vocals"), ("a", "drums"), ("b", "vocals"), ("avocals", "")]
    draws = {dither_source(track, stem).random() for track, stem in names}
    assert len(draws) == len(names)
    assert dither_source("a", "vocals").random() == dither_source("a", "vocals").random()
