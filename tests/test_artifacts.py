"""Tables for Prefect's page; that the page gets them is `test_flow`'s."""

from __future__ import annotations

from dataclasses import replace

from flows.artifacts import cost_rows
from splitfire_batch.forecast import Usage
from splitfire_batch.records import StageSeconds
from tests.test_summary import REPORT


def test_machine_time_is_told_in_hours_and_for_a_thousand_tracks() -> None:
    # 500 tracks settled: a thousand would take twice as long
    run = replace(
        REPORT,
        n_done=450,
        n_skipped=20,
        n_failed=30,
        usage=Usage(held_s=7200.0),
        wall_s=3600.0,
        seconds=StageSeconds(fetch=360.0, device=5400.0, wait_memory=36.0),
    )
    rows = {row["what"]: (row["hours"], row["hours per 1,000 tracks"]) for row in cost_rows(run)}
    assert rows["devices held"] == (2.0, 4.0)
    assert rows["devices busy"] == (1.5, 3.0)
    assert rows["wall clock"] == (1.0, 2.0)
    assert rows["tracks: fetch"] == (0.1, 0.2)
    assert rows["tracks: wait for memory"] == (0.01, 0.02)


def test_money_is_told_with_a_price_only() -> None:
    run = replace(REPORT, n_done=500, n_skipped=0, n_failed=0, usage=Usage(held_s=7200.0), gpu_hourly=None)
    assert all("cost" not in row for row in cost_rows(run))
    held, *others = cost_rows(replace(run, gpu_hourly=2.5))
    assert (held["what"], held["cost"], held["cost per 1,000 tracks with stems"]) == (
        "devices held",
        5.0,
        10.0,
    )
    assert {row["cost"] for row in others} == {""}
