"""What a person sees while a run goes on."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from flows import console as module
from flows.console import showing, view
from splitfire_batch.account import Account
from splitfire_batch.manifest.schema import RunContext
from splitfire_batch.records import Committed, Outcome, Started
from splitfire_batch.report import Progress, Tally
from splitfire_batch.staff import Staff, WorkerState
from splitfire_batch.storage import open_store

HALF = Progress(
    n_planned=18_000,
    n_done=8_990,
    n_failed=10,
    audio_s=36_000.0,
    planned_audio_s=72_000.0,
    wall_s=400.0,
    working_s=360.0,
    failures_by_code={"TRUNCATED": 1, "NOT_AUDIO": 9},
)
WORKING = WorkerState("a1b2c3d4", 77, "working", n_settled=311, n_in_flight=3, path="artist/song.wav")


def shown(now: Progress, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(view(now))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_a_run_shows_how_far_it_is_how_fast_and_how_long_it_will_take() -> None:
    text = shown(HALF, 140)
    assert "9,000/18,000 tracks" in text
    assert "10 h 00 min of audio, 100.0 x real time, 10 failed, 6 min 00 s to go" in text
    assert "9 NOT_AUDIO, 1 TRUNCATED" in text


def test_workers_are_shown_with_what_they_are_at_those_that_work_first() -> None:
    starting = WorkerState("", None, "starting")
    lines = shown(replace(HALF, workers=(starting, WORKING))).splitlines()
    assert any(line.startswith("workers    1 working, 1 starting; 3 tracks in flight") for line in lines)
    (first, second) = lines[-2:]
    assert first.split() == [
        "a1b2c3d4/77",
        "working",
        "311",
        "settled",
        "3",
        "in",
        "flight",
        "artist/song.wav",
    ]
    assert second.split()[:2] == ["-", "starting"]


def test_many_workers_do_not_fill_the_screen() -> None:
    text = shown(replace(HALF, workers=(WORKING,) * 64))
    assert "64 working; 192 tracks in flight" in text
    assert "... and 52 more" in text
    assert len(text.splitlines()) < 20


def test_a_hostile_name_stays_one_line_and_is_no_markup() -> None:
    name = "\x1b[2J[red]x[/]\n.wav"
    text = shown(replace(HALF, workers=(replace(WORKING, path=name),)), 140)
    assert r"\x1b[2J[red]x[/]\n.wav" in text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"n_done": 0, "n_failed": 0, "audio_s": 0.0, "working_s": 0.0}, None),
        ({}, 360.0),
        ({"n_done": 17_990, "audio_s": 72_000.0}, 0.0),
        ({"n_done": 8_990, "audio_s": 80_000.0}, 360.0),  # longer than planned: by tracks
    ],
)
def test_the_estimate_is_by_audio_and_by_tracks_when_no_audio_is_left(
    changes: dict[str, float], expected: float | None
) -> None:
    assert replace(HALF, **changes).eta_s == (None if expected is None else pytest.approx(expected))  # type: ignore[arg-type]


def test_lines_come_every_few_seconds_and_at_the_end_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    with showing(is_quiet=False) as show:
        show(replace(HALF, n_done=1, n_failed=0))
        show(replace(HALF, n_done=2, n_failed=0))  # too soon
        clock[0] += module.PLAIN_S
        show(replace(HALF, n_done=3, n_failed=0))
        show(replace(HALF, n_done=17_990))
    told = [line.split(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert told == [f"separating {n}/18000 tracks" for n in (1, 3, 18_000)]


def test_a_quiet_run_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with showing(is_quiet=True) as show:
        show(HALF)
    assert capsys.readouterr() == ("", "")


def test_events_reach_what_is_shown(tmp_path: object) -> None:
    """The time counts from the first track: workers take some to start."""
    tally = Tally(2, 60.0)
    context = RunContext("run", "settings", "catalogue", "passthrough", "weights", "fp32")
    account = Account(open_store(str(tmp_path), {}), context, tally, None)
    assert tally.progress().working_s == 0
    account.take(Staff((WORKING,)))
    account.take(Started("s", "t"))
    account.take(Committed("s", (Outcome("t", "t.wav", "done", None, None, 30.0, 1),)))
    now = tally.progress()
    assert now.workers == (WORKING,)
    assert 0 < now.working_s <= now.wall_s
    assert now.eta_s == pytest.approx(now.working_s, rel=0.5)
