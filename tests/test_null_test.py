"""Stems as they are rendered sum to their source, and a single wrong step in one of them is seen."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

from splitfire_batch.null_test import Deviation, Sum, null_test, sums_of
from splitfire_batch.rendering import Rendered
from splitfire_batch.stems import Recipe
from tests.material import Shares, noise, rendered, write

LOUD = Shares(1.9, 0.4)  # vocals beyond full scale: all stems get a gain
QUIET = Shares(0.3, 0.6)


def deviation(source: Path, result: Rendered, folder: Path, is_dithered: bool = True) -> Deviation:
    stems = [folder / stem.path for stem in result.stems if stem.stem != "instrumental"]
    return null_test(source, stems, Sum(result.gain_db, is_dithered))


def nudge(file: Path, frame: int = 777) -> None:
    """One sample of an integer file, one step up or down."""
    info = soundfile.info(file)
    shift = 32 - int(info.subtype.removeprefix("PCM_"))
    samples, rate = soundfile.read(file, dtype="int32", always_2d=True)
    step = -1 if samples[frame, 0] > 0 else 1
    samples[frame, 0] += step << shift
    soundfile.write(file, samples, rate, info.subtype)


INTEGERS = [
    # source, its subtype, model, config: exact; deeper; shallower; with a gain; both; with a residual stem
    ("a.wav", "PCM_16", QUIET, {}),
    ("a.flac", "PCM_24", QUIET, {}),
    ("a.wav", "PCM_32", QUIET, {}),
    ("a.wav", "PCM_U8", QUIET, {"depth": "24"}),
    ("a.wav", "PCM_24", QUIET, {"depth": "16"}),
    ("a.wav", "PCM_24", QUIET, {"depth": "16", "dither": False}),
    ("a.wav", "PCM_16", LOUD, {}),
    ("a.wav", "PCM_16", LOUD, {"dither": False}),
    ("a.wav", "PCM_24", LOUD, {}),
    ("a.wav", "PCM_32", LOUD, {}),
    ("a.wav", "FLOAT", LOUD, {"format": "flac"}),
    ("a.aiff", "PCM_24", LOUD, {"residual": "stem"}),
    ("a.wav", "PCM_16", QUIET, {"residual": "stem"}),
]


@pytest.mark.parametrize(("name", "subtype", "model", "config"), INTEGERS)
def test_integer_stems_are_null_and_one_wrong_step_is_seen(tmp_path, name, subtype, model, config):
    source = write(tmp_path / name, noise(70_000, peak=0.7), subtype=subtype)  # two blocks
    result = rendered(source, tmp_path / "out", model, **config)
    assert (result.gain_db < 0) == (model is LOUD)
    dithered = config.get("dither", True)

    good = deviation(source, result, tmp_path / "out", dithered)
    assert good.is_null
    assert good.repeats(result.sum_residual_db)
    assert good.worst == 0 or result.sum_residual_db is not None

    nudge(tmp_path / "out" / result.stems[0].path)
    bad = deviation(source, result, tmp_path / "out", dithered)
    assert not (bad.is_null and bad.repeats(result.sum_residual_db))


def test_the_wrong_frame_is_told(tmp_path):
    source = write(tmp_path / "a.wav", noise(70_000))
    result = rendered(source, tmp_path / "out", QUIET)
    nudge(tmp_path / "out" / result.stems[1].path, 69_123)
    found = deviation(source, result, tmp_path / "out")
    assert (found.worst, found.allowed, found.frame) == (1, 0, 69_123)


@pytest.mark.parametrize("gain", [1.0, 1e5])
def test_float_stems_are_null_within_their_rounding(tmp_path, gain):
    source = write(tmp_path / "a.wav", gain * noise(5_000), subtype="FLOAT")
    result = rendered(source, tmp_path / "out", LOUD)
    good = deviation(source, result, tmp_path / "out")
    assert good.is_null
    assert good.repeats(result.sum_residual_db)
    file = tmp_path / "out" / result.stems[0].path
    samples, rate = soundfile.read(file, dtype="float32")
    samples[3, 1] += gain * 1e-6
    soundfile.write(file, samples, rate, "FLOAT")
    assert not deviation(source, result, tmp_path / "out").is_null


def test_a_lossy_source_leaves_room_for_another_decoder_but_not_for_a_click(tmp_path):
    source = tmp_path / "a.mp3"
    soundfile.write(source, noise(20_000), 44_100, format="MP3")
    result = rendered(source, tmp_path / "out", QUIET)
    good = deviation(source, result, tmp_path / "out")
    assert good.is_null
    assert good.repeats(0.0)  # whatever another decoder measured
    file = tmp_path / "out" / result.stems[0].path
    samples, rate = soundfile.read(file, dtype="int32")
    samples[100, 0] += 8 << 8
    soundfile.write(file, samples, rate, "PCM_24")
    assert not deviation(source, result, tmp_path / "out").is_null


def test_dropped_residuals_are_no_null_but_repeat_what_was_measured(tmp_path):
    source = write(tmp_path / "a.wav", noise(5_000))
    result = rendered(source, tmp_path / "out", QUIET, residual="drop")
    found = deviation(source, result, tmp_path / "out")
    assert not found.is_null
    assert found.repeats(result.sum_residual_db)
    nudge(tmp_path / "out" / result.stems[0].path)
    assert not deviation(source, result, tmp_path / "out").repeats(result.sum_residual_db)


@pytest.mark.parametrize("n_frames", [4_999, 5_001, 70_000])
def test_a_source_of_another_length_is_refused(tmp_path, n_frames):
    source = write(tmp_path / "a.wav", noise(5_000))
    result = rendered(source, tmp_path / "out", QUIET)
    other = write(tmp_path / "b.wav", noise(n_frames))
    with pytest.raises(ValueError, match="differ in frames"):
        deviation(other, result, tmp_path / "out")


def test_what_must_sum_to_the_mix_follows_from_the_recipes():
    vocals, drums = Recipe("vocals"), Recipe("drums")
    other = Recipe("other", ("vocals", "drums"))
    instrumental = Recipe("instrumental", ("vocals",))
    assert sums_of([vocals, drums, other]) == (("other", "vocals", "drums"),)
    assert sums_of([vocals, other]) == ()
    assert sums_of([vocals, instrumental]) == (("instrumental", "vocals"),)
    assert sums_of([vocals, drums]) == ()
    assert len(sums_of([vocals, drums, other, instrumental])) == 2
