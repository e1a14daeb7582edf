"""The plan: every track to do lies in exactly one shard, and the same input gives the same plan."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st

from splitfire_batch.catalogue import LISTING
from splitfire_batch.packing import MAX_SHARD_TRACKS
from splitfire_batch.plan import Ledger, Plan, PlanSettings
from splitfire_batch.plan import make_plan as plan_rows
from splitfire_batch.rows import rows_of

SETTINGS = PlanSettings("m", "{model}/{dir}/{name}_{stem}.{ext}", segment_s=12.0, shard_cost=800.0)
durations = st.none() | st.floats(0, 7_200)


def listing(*lengths_s: float | None, **columns: object) -> pa.Table:
    rows = [
        {
            "track_id": f"t{i}",
            "source_id": f"s{i}",
            "uri": f"/in/{i}.wav",
            "path": f"{i}.wav",
            "n_bytes": 176_400 * 60,
            "etag": "e",
            "duration_s": length_s,
            "meta": [("title", f"T{i}")],
            "problem": None,
            **columns,
        }
        for i, length_s in enumerate(lengths_s)
    ]
    return pa.Table.from_pylist(rows, schema=LISTING)


def make_plan(table: pa.Table, ledger: Ledger, settings: PlanSettings) -> Plan:
    return plan_rows(rows_of(table.to_batches(), table.schema), ledger, settings)


def ledger(done: list[str], failed: list[str]) -> Ledger:
    return Ledger(pa.array(done, pa.string()), pa.array(failed, pa.string()))


def settings(**changes: float) -> PlanSettings:
    values: Mapping[str, float] = {"shard_cost": SETTINGS.shard_cost, "n_workers": 1, **changes}
    return PlanSettings("m", SETTINGS.template, 12.0, values["shard_cost"], int(values["n_workers"]))


def ids(plan: Plan) -> list[str]:
    return [track.track_id for shard in plan.shards() for track in shard.tracks]


@trials(deadline=None, max_examples=50)
@given(st.lists(durations, max_size=60), st.floats(1, 900), st.integers(1, 9))
def test_every_track_is_in_exactly_one_shard_and_costly_shards_come_first(lengths, shard_cost, n_workers):
    plan = make_plan(listing(*lengths), Ledger(), settings(shard_cost=shard_cost, n_workers=n_workers))
    shards = list(plan.shards())
    assert sorted(ids(plan)) == sorted(f"t{i}" for i in range(len(lengths)))
    assert len({shard.shard_id for shard in shards}) == len(shards)
    costs = [shard.cost for shard in shards]
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(costs))
    assert all(shard.cost <= shard_cost + 1e-9 or len(shard.tracks) == 1 for shard in shards)
    numbers = plan.rows.table()["shard"].to_pylist()
    assert numbers == sorted(numbers)


@trials(deadline=None, max_examples=50)
@given(st.lists(durations, max_size=30), st.randoms(use_true_random=False))
def test_the_same_tracks_give_the_same_plan_in_whatever_order_they_are_listed(lengths, chance):
    table = listing(*lengths)
    order = list(range(len(lengths)))
    chance.shuffle(order)
    again = make_plan(table.take(pa.array(order, pa.int64())), Ledger(), SETTINGS)
    assert list(again.shards()) == list(make_plan(table, Ledger(), SETTINGS).shards())


def test_a_shards_id_changes_with_its_tracks():
    (one,) = make_plan(listing(5.0), Ledger(), SETTINGS).shards()
    (two,) = make_plan(listing(5.0, 5.0), Ledger(), SETTINGS).shards()
    assert one.shard_id != two.shard_id


def test_done_tracks_and_standing_failures_are_left_out_and_counted():
    # s3 failed once and was done later: that is done; s9 is not listed any more
    plan = make_plan(listing(*[60.0] * 6), ledger(["s1", "s3", "s9"], ["s2", "s3"]), SETTINGS)
    assert sorted(ids(plan)) == ["t0", "t4", "t5"]
    assert (plan.n_listed, plan.n_done, plan.n_failed_before) == (6, 2, 1)
    assert plan.n_skipped_before == 0
    assert plan.audio_s == 180.0
    assert plan.n_bytes == 3 * 176_400 * 60


def test_skipped_tracks_are_left_out_and_counted_apart():
    # s3 was skipped once and done later: that is done
    settled = replace(ledger(["s1", "s3"], ["s2"]), skipped=pa.array(["s0", "s3"]))
    plan = make_plan(listing(*[60.0] * 6), settled, SETTINGS)
    assert sorted(ids(plan)) == ["t4", "t5"]
    assert (plan.n_done, plan.n_skipped_before, plan.n_failed_before) == (2, 1, 1)


@pytest.mark.parametrize(
    ("overwrite", "todo", "numbers"),
    [
        ("changed", ["t0", "t4", "t5"], (1, 1, 1)),
        ("never", ["t4", "t5"], (2, 1, 1)),
        ("always", ["t0", "t1", "t2", "t3", "t4", "t5"], (0, 0, 0)),
    ],
)
def test_what_is_done_again_is_what_changed_or_nothing_or_everything(overwrite, todo, numbers):
    # the object of t0 was another when its stems were made
    before = replace(
        ledger(["s0 before", "s1"], ["s2"]),
        skipped=pa.array(["s3"]),
        done_tracks=pa.array(["t0", "t1"]),
    )
    plan = make_plan(listing(*[60.0] * 6), before, replace(SETTINGS, overwrite=overwrite))
    assert sorted(ids(plan)) == todo
    assert (plan.n_done, plan.n_skipped_before, plan.n_failed_before) == numbers


def test_names_do_not_depend_on_what_is_already_done():
    table = listing(60.0, 60.0).set_column(3, "path", pa.array(["x.wav", "x.flac"]))
    before = make_plan(table, Ledger(), SETTINGS).rows.table()
    after = make_plan(table, ledger(["s0"], []), SETTINGS).rows.table()
    assert after["target"].to_pylist() == ["m/x.flac_{stem}.{ext}"]
    assert after["target"][0] in before["target"].combine_chunks()


@pytest.mark.parametrize("n_workers", [1, 3, 16])
def test_a_small_job_is_cut_so_that_every_worker_has_several_shards(n_workers):
    plan = make_plan(listing(*[240.0] * (8 * n_workers)), Ledger(), settings(n_workers=n_workers))
    assert len(list(plan.shards())) >= 4 * n_workers


def test_a_big_job_fills_its_shards():
    plan = make_plan(listing(*[240.0] * 1_000), Ledger(), SETTINGS)
    full = [shard.cost for shard in plan.shards()][:-1]
    assert min(full) > SETTINGS.shard_cost - 21  # one more track would not have fitted


def test_a_shard_of_one_shots_has_a_bounded_number_of_tracks():
    plan = make_plan(listing(*[0.1] * (MAX_SHARD_TRACKS + 5)), Ledger(), settings(shard_cost=1e9))
    assert max(len(shard.tracks) for shard in plan.shards()) <= MAX_SHARD_TRACKS


def test_an_empty_listing_and_one_that_is_all_done_give_no_shards():
    for plan in (
        make_plan(listing(), Ledger(), SETTINGS),
        make_plan(listing(9.0), ledger(["s0"], []), SETTINGS),
    ):
        assert list(plan.shards()) == []
        assert (plan.audio_s, plan.n_bytes) == (0.0, 0)


@pytest.mark.parametrize("unknown", [None, -1.0, math.nan, math.inf])
def test_a_duration_that_is_not_known_is_guessed_from_the_size(unknown):
    plan = make_plan(listing(unknown), Ledger(), SETTINGS)
    assert plan.audio_s == 60.0  # 176,400 bytes a second: 16 bit, stereo, 44.1 kHz
    assert next(plan.shards()).cost == pytest.approx(60 / 12, abs=0.1)


def test_compressed_tracks_are_taken_to_be_longer_than_pcm_of_the_same_size():
    paths = [f"x.{ext}" for ext in ("wav", "FLAC", "mp3")]
    table = listing(None, None, None).set_column(3, "path", pa.array(paths))
    found = {
        track.path: track.cost
        for shard in make_plan(table, Ledger(), SETTINGS).shards()
        for track in shard.tracks
    }
    assert found["x.wav"] < found["x.FLAC"] < found["x.mp3"]


def test_a_track_carries_what_the_listing_says():
    (shard,) = make_plan(listing(60.0, problem="BAD_URI: x"), Ledger(), SETTINGS).shards()
    (track,) = shard.tracks
    assert (track.uri, track.path, track.etag, track.problem) == ("/in/0.wav", "0.wav", "e", "BAD_URI: x")
    assert track.meta == (("title", "T0"),)
    assert track.target == "m/0_{stem}.{ext}"


def test_a_hundred_thousand_tracks_are_planned_within_five_cpu_seconds():
    n = 100_000
    numbers = pa.array(range(n))
    text = numbers.cast(pa.string())
    columns = dict.fromkeys(("track_id", "source_id", "uri", "etag"), text)
    columns["path"] = pa.array([f"album {i // 12}/{i}.flac" for i in range(n)])
    columns["n_bytes"] = numbers
    columns["duration_s"] = columns["problem"] = pa.nulls(n)
    columns["meta"] = pa.array([[]] * n, LISTING.field("meta").type)
    table = pa.table(columns).select(LISTING.names).cast(LISTING)
    begin = time.process_time()
    plan = make_plan(table, Ledger(), SETTINGS)
    assert time.process_time() - begin < 5
    assert plan.n_tracks == n
