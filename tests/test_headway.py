"""How far files are, counted where their audio is kept anyway."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from splitfire_batch.headway import FilesProgress, Headway, OpenFile
from splitfire_batch.records import AudioFormat, Status, Track, TrackRow

RATE = 44_100


@dataclass
class Kept:
    """A file's audio, as far as it is estimated."""

    source: AudioFormat
    n_estimated: int = 0


def audio(seconds: float) -> AudioFormat:
    return AudioFormat("WAV", "PCM_16", RATE, 2, round(seconds * RATE))


def row(path: str, status: Status, seconds: float | None) -> TrackRow:
    track = Track(path, path, path, path, 1, "", "")
    return TrackRow(track, status, source=None if seconds is None else audio(seconds))


@pytest.fixture
def now() -> list[float]:
    return [100.0]


@pytest.fixture
def headway(now: list[float]) -> Headway:
    return Headway(lambda: now[0])


def test_before_anything_begins_only_the_number_of_files_is_known(headway: Headway) -> None:
    headway.expect(3)
    assert headway.now() == FilesProgress(3, 0, 0.0, 0.0, ())
    assert headway.now().real_time_factor == 0


def test_an_open_file_says_how_far_and_how_fast_it_is(headway: Headway, now: list[float]) -> None:
    kept = Kept(audio(60))
    headway.begin("a.wav", kept)
    now[0], kept.n_estimated = 102.0, 30 * RATE
    (file,) = headway.now().open
    assert file == OpenFile("a.wav", 30.0, 60.0, 2.0)
    assert (file.real_time_factor, file.eta_s, file.is_separated) == (15.0, 2.0, False)
    kept.n_estimated = 60 * RATE
    assert headway.now().open[0].is_separated


def test_a_length_that_the_header_does_not_say_is_not_guessed(headway: Headway, now: list[float]) -> None:
    headway.begin("a.mp3", Kept(audio(0), 5 * RATE))
    now[0] = 101.0
    (file,) = headway.now().open
    assert (file.audio_s, file.duration_s, file.eta_s, file.is_separated) == (5.0, 0.0, None, False)


def test_a_file_that_has_just_begun_has_no_speed_yet(headway: Headway) -> None:
    headway.begin("a.wav", Kept(audio(60)))
    (file,) = headway.now().open
    assert (file.real_time_factor, file.eta_s) == (0.0, None)


def test_all_files_count_together_from_the_first_on(headway: Headway, now: list[float]) -> None:
    headway.expect(4)
    headway.begin("done.wav", Kept(audio(10), 10 * RATE))
    now[0] = 101.0
    headway.settle(row("done.wav", "done", 10))
    headway.begin("bad.wav", Kept(audio(100), 7 * RATE))
    headway.settle(row("bad.wav", "failed", 100))
    headway.settle(row("none.wav", "failed", None))
    headway.begin("open.wav", Kept(audio(20), 5 * RATE))
    now[0] = 103.0
    seen = headway.now()
    assert (seen.n_files, seen.n_settled, seen.audio_s, seen.seconds) == (4, 3, 15.0, 3.0)
    assert seen.real_time_factor == 5.0
    assert [file.path for file in seen.open] == ["open.wav"]
