"""From a file to estimates: rate, channels, length and place of every frame survive."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from splitfire_batch.config import SeparationConfig
from splitfire_batch.engine import Engine
from splitfire_batch.errors import TrackError
from splitfire_batch.models import load_model
from splitfire_batch.separation import Limits, separate_file
from splitfire_batch.stopwatch import Stopwatch
from tests.material import MODEL_STEMS, Shares, noise, read_wav, write

Arrays = dict[str, NDArray[np.float32]]


def separated(
    file: Path, model: object, stems: tuple[str, ...] = MODEL_STEMS, limits: Limits | None = None
) -> tuple[NDArray[np.int32], Arrays, dict[str, float]]:
    """The mix, the estimates and their peaks of a whole file, kept in memory, or with limits in files."""
    spool_bytes = 0 if limits else 2**30
    with (
        Engine(model) as engine,
        separate_file(file, engine, stems, limits or Limits(), Stopwatch(), lambda _: spool_bytes) as result,
    ):
        blocks = list(result.blocks())
        mix = np.concatenate([mix for mix, _ in blocks])
        estimates = {stem: np.concatenate([block[stem] for _, block in blocks]) for stem in stems}
        assert result.source.n_frames == len(mix)
        return mix, estimates, result.peaks


def passthrough() -> object:
    return load_model(SeparationConfig(model="passthrough", residual="drop"), "cpu")


@pytest.mark.parametrize("n_channels", [1, 2, 3, 6, 8])
def test_passthrough_gives_each_channel_its_share(tmp_path, n_channels):
    file = write(tmp_path / "mix.wav", noise(50_000, n_channels), 44_100, "PCM_24")
    wanted, _ = read_wav(file)
    _, estimates, _ = separated(file, passthrough())
    for stem, share in zip(MODEL_STEMS, (0.25, 0.75), strict=True):
        # float32 rounding of a weighted mean of overlapping segments
        assert_allclose(estimates[stem], wanted * share / 2**23, rtol=0, atol=2e-7)


def test_the_mix_is_kept_as_its_own_integers(tmp_path):
    file = write(tmp_path / "mix.wav", noise(70_000), 44_100, "PCM_24")
    mix, _, _ = separated(file, Shares())
    assert_array_equal(mix >> 8, read_wav(file)[0])


@pytest.mark.parametrize("sample_rate", [8_000, 22_050, 48_000, 96_000])
@pytest.mark.parametrize("n_frames", [1, 2, 1_023, 100_003])
def test_estimates_have_the_frames_of_the_mix_at_any_rate(tmp_path, sample_rate, n_frames):
    file = write(tmp_path / "mix.wav", noise(n_frames), sample_rate)
    mix, estimates, _ = separated(file, Shares())
    assert [len(mix), *(len(array) for array in estimates.values())] == [n_frames] * 3


@pytest.mark.parametrize("sample_rate", [8_000, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("position", [0, 5_000, 99_000, 119_990])
def test_an_impulse_stays_at_its_frame(tmp_path, sample_rate, position):
    samples = np.zeros((120_000, 2))
    samples[position] = 0.5, -0.25
    _, estimates, _ = separated(write(tmp_path / "mix.wav", samples, sample_rate), passthrough())
    for estimate in estimates.values():
        assert np.abs(estimate).argmax(axis=0).tolist() == [position, position]


@pytest.mark.parametrize("sample_rate", [22_050, 48_000, 96_000])
def test_a_tone_comes_back_in_phase_through_the_models_rate(tmp_path, sample_rate):
    """A delay of one hundredth of a frame would leave more than 1e-3 of a 1 kHz tone at 22,050 Hz."""
    tone = 0.5 * np.sin(2 * np.pi * 1000 / sample_rate * np.arange(3 * sample_rate))[:, None]
    _, estimates, _ = separated(write(tmp_path / "mix.wav", tone, sample_rate, "FLOAT"), passthrough())
    inner = slice(sample_rate // 10, -sample_rate // 10)  # a tone that begins at once has no band limit
    assert_allclose(estimates["vocals"][inner], 0.25 * tone[inner], rtol=0, atol=2e-5)


def test_spools_on_disk_give_what_spools_in_memory_give(tmp_path):
    file = write(tmp_path / "mix.wav", noise(200_000, 5), 48_000)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    mix, estimates, peaks = separated(file, Shares())
    same_mix, same_estimates, same_peaks = separated(file, Shares(), limits=Limits(scratch=scratch))
    assert_array_equal(mix, same_mix)
    for stem in MODEL_STEMS:
        assert_array_equal(estimates[stem], same_estimates[stem])
    assert peaks == same_peaks
    assert not list(scratch.iterdir())


def test_only_the_stems_asked_for_are_kept(tmp_path):
    file = write(tmp_path / "mix.wav", noise(1_000))
    _, every, _ = separated(file, Shares())
    _, one, peaks = separated(file, Shares(), stems=("accompaniment",))
    assert_array_equal(one["accompaniment"], every["accompaniment"])
    assert list(one) == list(peaks) == ["accompaniment"]


def test_peaks_are_the_highest_absolute_values(tmp_path):
    file = write(tmp_path / "mix.wav", noise(90_000))
    _, estimates, peaks = separated(file, Shares(-3.0, 0.5))
    assert peaks == {stem: np.abs(array).max() for stem, array in estimates.items()}


def test_a_track_beyond_the_limit_is_too_long(tmp_path):
    file = write(tmp_path / "mix.wav", noise(44_101))
    with pytest.raises(TrackError, match="TOO_LONG"):
        separated(file, Shares(), limits=Limits(max_duration_s=1))


def test_repaired_copies_of_a_file_go_to_scratch(tmp_path, monkeypatch):
    """A WAV whose recorder could not go back to write its length is copied before it is read."""
    file = write(tmp_path / "mix.wav", noise(3_000))
    data = bytearray(file.read_bytes())
    for where in (4, data.index(b"data") + 4):
        data[where : where + 4] = bytes(4)
    file.write_bytes(data)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))  # the system's folder is unusable
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    mix, _, _ = separated(file, Shares(), limits=Limits(scratch=scratch))
    assert len(mix) == 3_000
    assert not list(scratch.iterdir())


def test_a_long_track_decodes_in_a_thread_of_its_own_that_ends_with_it(tmp_path):
    file = write(tmp_path / "mix.wav", noise(2_000_000))
    names = set()

    def look(_: object) -> None:
        names.update(thread.name for thread in threading.enumerate())

    separated(file, Shares(before=look))
    assert any(name.startswith("decode") for name in names)
    assert not any(thread.name.startswith("decode") for thread in threading.enumerate())


def test_a_long_track_that_breaks_off_is_refused_and_leaves_no_thread(tmp_path):
    file = write(tmp_path / "mix.flac", noise(2_000_000))
    data = file.read_bytes()
    file.write_bytes(data[: len(data) * 3 // 4])
    with pytest.raises(TrackError, match="TRUNCATED"):
        separated(file, Shares())
    assert not any(thread.name.startswith("decode") for thread in threading.enumerate())


def test_a_model_that_fails_ends_the_decoding_of_a_long_track(tmp_path):
    def fail(_: object) -> None:
        raise ArithmeticError("poison")

    file = write(tmp_path / "mix.wav", noise(2_000_000))
    with pytest.raises(ArithmeticError, match="poison"):
        separated(file, Shares(before=fail))
    assert not any(thread.name.startswith("decode") for thread in threading.enumerate())
