"""Figures in words: forecast, what came of it, and a page of both."""

from __future__ import annotations

import dataclasses

import pytest

from splitfire_batch.figures import (
    aligned,
    compared_figures,
    data_size,
    duration,
    forecast_figures,
    stage_figures,
)
from splitfire_batch.forecast import Forecast, Usage
from splitfire_batch.page import report_page
from splitfire_batch.records import StageSeconds
from splitfire_batch.report import Failure, Report
from tests.test_summary import REPORT as PLAIN

FORECAST = Forecast(
    n_tracks=2_000,
    audio_s=360_000,
    audio_error_s=3_600,
    durations={"catalogue": 0, "header": 512, "sample": 1_488, "size": 0},
    n_bytes_in=3 * 2**30,
    n_bytes_out=5 * 2**30,
    device_s=3_600,
    wall_s=1_800,
    n_workers=4,
    scratch_bytes=2**30,
    throughput="measured in 3 runs on this machine (cpu), last on 2026-01-02",
    is_measured=True,
    gpu_hourly=1.5,
)
REPORT = dataclasses.replace(
    PLAIN,
    forecast=FORECAST,
    usage=Usage(n_workers=4, held_s=8_000.0),
    gpu_hourly=1.5,
    seconds=StageSeconds(fetch=3.0, device=4_000.0),
)


def rows(report: Report) -> dict[str, tuple[str, str]]:
    return {name: (before, after) for name, before, after in compared_figures(report)}


def test_a_forecast_says_what_it_rests_on():
    found = dict(forecast_figures(FORECAST))
    assert found["audio"] == "100 h 00 min, give or take 1 h 00 min"
    assert found["durations"] == "512 read from headers, 1,488 from headers of tracks like them"
    assert found["device time"] == "1 h 00 min (100.0 x real time)"
    assert found["speed"].startswith("measured in 3 runs")
    assert found["wall time"] == "30 min 00 s with 4 workers"
    assert found["cost"] == "3.00, 1.50 per 1,000 tracks (2.00 device hours at 1.5)"


def test_without_a_price_there_is_no_cost():
    assert "cost" not in dict(forecast_figures(dataclasses.replace(FORECAST, gpu_hourly=None)))
    unpriced = dataclasses.replace(REPORT, forecast=dataclasses.replace(FORECAST, gpu_hourly=None))
    assert "cost" not in rows(unpriced)


def test_a_report_puts_what_was_expected_beside_what_came():
    found = rows(REPORT)
    assert found["tracks"] == ("2,000", "4")
    assert found["device time"] == ("1 h 00 min", "1 h 06 min")
    assert found["device hours held"] == ("2.00", "2.22")
    assert found["cost"] == ("3.00", "3.33")
    assert found["cost per 1,000 tracks"] == ("1.50", "833.33")


def test_a_run_without_work_has_nothing_to_compare():
    assert compared_figures(PLAIN) == []


def test_stages_come_with_what_took_longest_first():
    assert stage_figures(REPORT).startswith("device 4,000.0 s, fetch 3.0 s, ")
    assert "wait for memory 0.0 s" in stage_figures(REPORT)


def test_json_of_a_report_has_the_plain_numbers():
    found = REPORT.as_dict()
    assert found["cost"] == pytest.approx(8_000 / 3600 * 1.5)
    assert found["cost_per_1000_tracks"] == pytest.approx(found["cost"] / 4 * 1000)
    assert found["device_s"] == 4_000
    assert found["forecast"]["cost"] == pytest.approx(3.0)
    assert PLAIN.as_dict()["forecast"] is None


def test_a_page_holds_figures_and_failures_and_no_markup_of_others():
    hostile = Failure("<script>x</script>.wav", "EMPTY", "a.wav: <b>\x1b[31m")
    page = report_page(dataclasses.replace(REPORT, source="/<i>", failures=(hostile,)))
    assert "<script>" not in page
    assert "<i>" not in page
    assert "\x1b" not in page
    assert "&lt;script&gt;x&lt;/script&gt;.wav" in page
    assert "<td>cost per 1,000 tracks</td><td>1.50</td><td>833.33</td>" in page
    assert "the object has no bytes" in page


def test_a_page_without_a_forecast_has_the_actual_figures():
    assert "<td>wall time</td><td>-</td><td>1 min 01 s</td>" in report_page(PLAIN)


def test_columns_are_aligned():
    assert aligned([("", "a"), ("long", "10"), ("x", "1,000")]) == [
        "          a",
        "long     10",
        "x     1,000",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.21, "4.2 s"), (72.4, "1 min 12 s"), (59.9, "1 min 00 s"), (7_384, "2 h 03 min")]
)
def test_durations_are_for_people(seconds: float, text: str):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 bytes"), (1_023, "1,023 bytes"), (3 * 2**20, "3.0 MiB"), (2**50, "1,024.0 TiB")],
)
def test_sizes_are_for_people(n_bytes: int, text: str):
    assert data_size(n_bytes) == text
