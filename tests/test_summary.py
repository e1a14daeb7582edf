"""A report in words."""

from __future__ import annotations

import dataclasses

from flows.summary import failure_lines, summary_lines, summary_markdown
from splitfire_batch.records import DeviceSeconds, StageSeconds
from splitfire_batch.report import Failure, Report

REPORT = Report(
    run_id="20260101T000000Z-abcdef",
    source="/music",
    destination="/stems",
    model="passthrough",
    settings_id="0123456789abcdef",
    n_listed=10,
    ignored={"hidden": 2, "not audio": 3},
    n_done_before=3,
    n_failed_before=1,
    n_planned=6,
    n_done=4,
    n_failed=1,
    failures_by_code={"EMPTY": 1},
    failures=(Failure("a.wav", "EMPTY", "a.wav: no bytes"),),
    audio_s=7_384.0,
    n_bytes_out=3 * 2**20,
    wall_s=61.0,
    seconds=StageSeconds(),
    worker_s=120.0,
    device=DeviceSeconds(busy=60.0, fetch=30.0, store=12.0),
)
NOTHING = dataclasses.replace(REPORT, n_planned=0, n_done=0, n_failed=0, failures=(), failures_by_code={})


def test_the_first_line_says_what_is_left_and_what_to_do() -> None:
    assert summary_lines(REPORT)[0] == "4 done, 1 failed, 1 left (run the same command again)"


def test_a_finished_run_asks_for_nothing() -> None:
    finished = dataclasses.replace(REPORT, n_done=5)
    assert summary_lines(finished)[0] == "5 done, 1 failed"


def test_every_number_that_is_not_zero_is_told() -> None:
    text = "\n".join(summary_lines(REPORT))
    assert "3 were done before" in text
    assert "1 failed before" in text
    assert "ignored: 2 hidden, 3 not audio" in text
    assert "2 h 03 min of audio in 1 min 01 s (121.0 x real time), 3.0 MiB" in text


def test_the_bottleneck_is_named_with_a_setting() -> None:
    assert summary_lines(REPORT)[-1].startswith("fetch-bound: the device was busy 50 %; raise open_tracks")


def test_a_run_with_nothing_to_do_says_so_and_quotes_no_speed() -> None:
    lines = summary_lines(NOTHING)
    assert lines[0] == "nothing to do: 3 of 10 tracks are done"
    assert not any("real time" in line for line in lines)


def test_failures_beyond_those_kept_are_counted() -> None:
    many = dataclasses.replace(REPORT, n_failed=8)
    assert failure_lines(REPORT) == [
        "failed: 1 EMPTY; see: splitfire failures /stems",
        "  EMPTY  a.wav: no bytes",
    ]
    assert failure_lines(many)[-1] == "  ... and 7 more"


def test_markdown_has_a_row_per_code_and_names_the_manifest() -> None:
    page = summary_markdown(REPORT)
    assert "| EMPTY | 1 |" in page
    assert "`/stems/_splitfire/views/tracks.parquet`" in page


def test_a_backtick_in_a_path_does_not_end_the_code_span() -> None:
    page = summary_markdown(dataclasses.replace(REPORT, destination="/st`ems"))
    assert "/st`ems" not in page


def test_skipped_tracks_are_counted_apart_from_failures() -> None:
    skipping = dataclasses.replace(REPORT, n_done=2, n_skipped=2, n_failed=1, n_skipped_before=5)
    lines = summary_lines(skipping)
    assert lines[0] == "2 done, 2 skipped, 1 failed, 1 left (run the same command again)"
    assert "5 were skipped before, as the settings wish" in lines
    assert any("real time" in line for line in lines)


def test_a_run_that_only_skipped_is_complete() -> None:
    only = dataclasses.replace(REPORT, n_planned=3, n_done=0, n_skipped=3, n_failed=0)
    assert (only.n_unsettled, only.exit_code) == (0, 0)
    assert any("real time" in line for line in summary_lines(only))
