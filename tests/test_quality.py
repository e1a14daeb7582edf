"""Every flag is raised by its own number, from its limit on, and by nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from splitfire_batch.observations import Levels
from splitfire_batch.quality import FLAGS, qc_flags
from splitfire_batch.records import AudioFormat, StemFile, Track, TrackRow

SOURCE = AudioFormat("WAV", "PCM_16", 44_100, 2, 44_100)
GOOD = Levels(peak_db=-1.0, rms_db=-15.0, side_ratio=0.2, clipped_samples=1, clipped_run=1)
STEM = StemFile("vocals", "v.wav", "WAV", "PCM_16", 44_100, 2, 44_100, 9, "a", "b", GOOD, -3.0)
ROW = TrackRow(
    Track("t", "s", "/a.wav", "a.wav", 9, "e", "a_{stem}.{ext}"),
    "done",
    source=SOURCE,
    levels=GOOD,
    gain_db=0.0,
    stems=(STEM, replace(STEM, stem="accompaniment")),
)


def source(**levels: object) -> TrackRow:
    return replace(ROW, levels=replace(GOOD, **levels))


def stems(**changes: object) -> TrackRow:
    return replace(ROW, stems=(ROW.stems[0], replace(STEM, **changes)))


def coded(subtype: str, n_frames: int = 44_100, **levels: object) -> TrackRow:
    row = source(**levels)
    return replace(row, source=replace(SOURCE, subtype=subtype, n_frames=n_frames))


def test_a_good_track_has_none():
    assert qc_flags(ROW) == ()


RAISED = {
    "input_clipped": source(clipped_run=3),
    "clipped": stems(levels=replace(GOOD, clipped_run=3)),
    "silent_all": replace(ROW, stems=tuple(replace(stem, is_silent=True) for stem in ROW.stems)),
    "residual_high": replace(ROW, sum_residual_db=-34.9),
    "dc": source(dc_offset=-0.0101),
    "nearly_mono": source(side_ratio=0.99e-4),
    "lossy_source": coded("MPEG_LAYER_III"),
}
JUST_NOT = [
    source(clipped_run=2, clipped_samples=1_000),
    stems(levels=replace(GOOD, clipped_run=2)),
    stems(is_silent=True),
    replace(ROW, stems=()),
    replace(ROW, sum_residual_db=-35.1),
    source(dc_offset=0.0099),
    coded("PCM_16", 17_639, dc_offset=0.2),  # shorter than 0.4 s
    source(side_ratio=1.01e-4),
    source(side_ratio=None),
    coded("FLOAT"),
    coded("DOUBLE"),
    coded("ALAC_24"),
]


@pytest.mark.parametrize("flag", FLAGS)
def test_each_flag_is_raised_by_its_own_number(flag):
    assert qc_flags(RAISED[flag]) == (flag,)


@pytest.mark.parametrize("row", JUST_NOT)
def test_below_its_limit_no_flag_is_raised(row):
    assert qc_flags(row) == ()


def test_the_residual_is_judged_against_the_mix_as_it_was_scaled():
    assert qc_flags(replace(ROW, sum_residual_db=-37.0, gain_db=-3.0)) == ("residual_high",)
    assert qc_flags(replace(ROW, sum_residual_db=-39.0, gain_db=-3.0)) == ()


def test_a_track_that_failed_before_it_was_decoded_has_none():
    assert qc_flags(TrackRow(ROW.track, "failed", "EMPTY")) == ()


@pytest.mark.parametrize("flag", FLAGS)
def test_each_flag_says_when_and_why(flag):
    assert FLAGS[flag].meaning
    assert FLAGS[flag].reason
