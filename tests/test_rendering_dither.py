"""Dither: without bias, alike on every machine, never in silence, and never beyond full scale."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from splitfire_batch import stem_blocks
from splitfire_batch.audio.quantise import NO_NOISE
from tests.material import Shares, noise, read_stems, read_wav, rendered, write


class _WorstDither:
    """The rarest noise there is: as much as there can be, always to one side."""

    def __init__(self, side: int) -> None:
        self._value = NO_NOISE + side * NO_NOISE

    def draw(self, n: int) -> NDArray[np.uint16]:
        return np.full(n, self._value, np.uint16)


@pytest.mark.parametrize("peak", np.linspace(0.93, 0.99, 12).round(4))
def test_the_gain_leaves_room_for_the_most_unlucky_dither(tmp_path, monkeypatch, peak):
    """The peak is measured with noise that makes it lower, and written with noise that makes it higher."""
    file = write(tmp_path / "mix.wav", np.full((100, 1), peak), 44_100, "FLOAT")
    calls = itertools.count()

    def dither(_: str, name: str) -> _WorstDither:
        is_first_pass = next(calls) < 2
        return _WorstDither(-1 if (name == "mix") == is_first_pass else 1)

    monkeypatch.setattr(stem_blocks, "Dither", dither)
    assert rendered(file, tmp_path / "out", Shares(-0.08, 1.08), depth="16").gain_db < 0


@pytest.mark.parametrize("ext", ["wav", "flac", "aiff"])
def test_the_same_track_gives_the_same_bytes(tmp_path, ext):
    file = write(tmp_path / f"mix.{ext}", noise(70_000), 48_000)
    first = rendered(file, tmp_path / "first", Shares())
    second = rendered(file, tmp_path / "second", Shares(segment_frames=20_000))
    assert first == second
    for stem in first.stems:
        data = (tmp_path / "first" / stem.path).read_bytes()
        assert data == (tmp_path / "second" / stem.path).read_bytes()


def test_dither_makes_the_error_the_same_for_any_signal(tmp_path):
    """Rounding alone leaves a variance of 1/12 step², with TPDF dither it is 1/4 (Lipshitz et al. 1992)."""
    file = write(tmp_path / "mix.wav", noise(100_000, 1, peak=2e-4), 44_100, "FLOAT")
    mix = read_wav(file)[0] * 2**15
    errors = {}
    for track_id in ("one", "other"):
        result = rendered(file, tmp_path / track_id, Shares(0.5, 0.5), track_id, depth="16")
        stems = read_stems(result, tmp_path / track_id)
        errors[track_id, "vocals"] = stems["vocals"] - mix * 0.5
        errors[track_id, "sum"] = sum(stems.values()) - mix
    for error in errors.values():
        assert abs(error.mean()) < 0.01  # six standard errors
        assert error.var() == pytest.approx(0.25, rel=0.03)
    every = np.corrcoef([error[:, 0] for error in errors.values()])
    assert np.abs(every - np.eye(4)).max() < 0.02  # no two tracks or stems share their noise


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_a_silent_stem_stays_digital_silence_under_dither(tmp_path, subtype):
    file = write(tmp_path / "mix.wav", noise(30_000), 44_100, subtype)
    result = rendered(file, tmp_path / "out", Shares(0.0, 1.0), depth="16")
    assert not read_stems(result, tmp_path / "out")["vocals"].any()
    assert (result.stems[0].levels.peak_db, result.stems[0].levels.rms_db) == (None, None)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_a_silent_mix_gives_silent_stems_under_dither(tmp_path, subtype):
    file = write(tmp_path / "mix.wav", np.zeros((30_000, 2)), 44_100, subtype)
    result = rendered(file, tmp_path / "out", Shares(), depth="16")
    for samples in read_stems(result, tmp_path / "out").values():
        assert not samples.any()
    assert result.sum_residual_db is None
