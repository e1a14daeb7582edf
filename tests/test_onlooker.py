"""What a destination alone shows of a run: who is at work, how far it is, and that it is gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from splitfire_batch import job as story
from splitfire_batch.config import RuntimeConfig, SeparationConfig
from splitfire_batch.job import Job, Run
from splitfire_batch.lease import Lease, Timing, hold, unheld
from splitfire_batch.lease.sighting import Sighting
from splitfire_batch.onlooker import Onlooker
from splitfire_batch.records import Shard
from splitfire_batch.storage import Store, open_store
from splitfire_batch.worker import Worker
from tests.small_library import write_bad_track, write_tracks

QUICK = Timing(renew_s=0.05, expire_s=0.4, look_s=0.05)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where stems go: a folder, or a bucket where the test says so."""
    if getattr(request, "param", "folder") == "bucket":
        return f"{request.getfixturevalue('bucket')}/some/prefix"
    return str(tmp_path / "out")


@pytest.fixture
def job(tmp_path: Path, place: str) -> Job:
    """Four tracks of two seconds and one that is none, each in a shard of its own."""
    write_bad_track(write_tracks(tmp_path / "source", 4, seconds=2.0))
    return Job(
        str(tmp_path / "source"),
        place,
        SeparationConfig(model="passthrough"),
        runtime=RuntimeConfig(open_tracks=1, codecs="inline", shard_s=0.01),
    )


@pytest.fixture
def store(job: Job) -> Store:
    store = open_store(job.destination, {})
    store.check_writable()
    return store


def planned(job: Job, lease: Lease) -> Run:
    return story.save_plan(story.make_plan(job, story.list_tracks(job), lease=lease))


def settle(run: Run, shards: list[Shard]) -> story.Tally:
    """Have a worker in this process do these shards."""

    def here(_, spec):  # type: ignore[no-untyped-def]
        worker: Worker = spec()
        for shard in shards:
            yield from worker.run_shard(shard)
        worker.close()

    return story.separate(run, here, lambda _: None)


@contextmanager
def leased(store: Store) -> Iterator[Lease]:
    with hold(store, story.new_run_id(), timing=QUICK) as lease:
        yield lease


def test_a_run_is_seen_from_its_lease_to_its_end(job: Job, store: Store) -> None:
    onlooker = Onlooker(open_store(job.destination, {}))
    sight = onlooker.look()
    assert (sight.lease.state, sight.run) == ("free", None)
    with leased(store) as lease:
        sight = onlooker.look()
        assert (sight.lease.state, sight.run) == ("held", None)
        assert sight.lease.holder is not None
        assert sight.lease.holder.run_id == lease.run_id

        run = planned(job, lease)
        sight = onlooker.look()
        assert sight.run is not None
        assert (sight.run.run_id, sight.run.progress.n_planned) == (run.context.run_id, 5)
        assert (sight.run.progress.n_settled, sight.run.shards, sight.run.bottleneck) == (0, (), None)

        shards = list(run.plan.shards())
        assert sight.run.n_shards == len(shards) == 5
        settle(run, shards[:2])
        settle(run, [shard for shard in shards if shard.tracks[0].path == "bad.wav"])
        sight = onlooker.look()
        assert sight.run is not None
        progress = sight.run.progress
        assert (progress.n_done, progress.n_failed, progress.n_planned) == (2, 1, 5)
        assert progress.failures_by_code == {"NOT_AUDIO": 1}
        assert progress.audio_s == pytest.approx(4.0)
        assert progress.real_time_factor > 0
        assert progress.eta_s is not None
        assert [shard.n_settled for shard in sight.run.shards] == [1, 1, 1]
        assert [shard.n_tracks for shard in sight.run.shards] == [1, 1, 1]
        assert sight.run.shards[0].audio_s == 0.0  # the bad one came last
        assert sight.run.bottleneck is not None

        story.finalise(run, settle(run, shards))
    sight = onlooker.look()
    assert (sight.lease.state, sight.run) == ("free", None)


def test_a_second_look_reads_only_new_parts(job: Job, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with leased(store) as lease:
        run = planned(job, lease)
        shards = list(run.plan.shards())
        settle(run, shards[:3])
        watched = open_store(job.destination, {})
        read: list[str] = []
        whole = watched.read
        monkeypatch.setattr(watched, "read", lambda path, *more: read.append(path) or whole(path, *more))
        onlooker = Onlooker(watched)
        onlooker.look()
        n_first = sum("/parts/" in path for path in read)
        read.clear()
        assert onlooker.look().run == onlooker.look().run
        assert (n_first, sum("/parts/" in path for path in read)) == (3, 0)
        settle(run, shards[3:4])
        sight = onlooker.look()
        assert sight.run is not None
        assert (sight.run.progress.n_settled, sum("/parts/" in path for path in read)) == (4, 1)


def test_a_track_that_was_done_twice_counts_once(job: Job, store: Store) -> None:
    with leased(store) as lease:
        run = planned(job, lease)
        for _ in range(2):
            settle(run, list(run.plan.shards())[:1])
        sight = Onlooker(store).look()
    assert sight.run is not None
    assert sight.run.progress.n_settled == 1


def test_a_run_that_was_cut_off_is_seen_until_the_next_one_ends(job: Job, store: Store) -> None:
    cut_off = planned(job, unheld(story.new_run_id()))
    settle(cut_off, list(cut_off.plan.shards())[:2])
    sight = Onlooker(store).look()
    assert sight.lease.state == "free"
    assert sight.run is not None
    assert (sight.run.run_id, sight.run.progress.n_settled) == (cut_off.context.run_id, 2)

    with leased(store) as lease:
        assert Onlooker(store).look().run is None  # the next one plans
        run = planned(job, lease)
        sight = Onlooker(store).look()
        assert sight.run is not None
        assert sight.run.progress.n_planned == 3
        story.finalise(run, settle(run, list(run.plan.shards())))
    assert Onlooker(store).look().run is None


def test_a_holder_that_shows_no_sign_of_life_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path), {})
    now = 1_000.0
    monkeypatch.setattr("splitfire_batch.lease.sighting.time.monotonic", lambda: now)
    with hold(store, "a-run", timing=Timing(renew_s=1_000)):  # it does not renew while this test runs
        sighting = Sighting(store)
        assert sighting.look().state == "held"
        now += 14
        seen = sighting.look()
        assert (seen.state, seen.watched_s) == ("held", 14)
        now += 2
        seen = sighting.look()
        assert (seen.state, seen.watched_s) == ("silent", 16)
        assert seen.holder is not None
        assert seen.holder.run_id == "a-run"
    assert sighting.look().state == "free"


def test_a_record_that_is_old_at_first_sight_is_silent_by_the_clock_and_not_yet_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path), {})
    with hold(store, "a-run", timing=Timing(renew_s=1_000)):
        modified = store.stat("_splitfire/lease.json").modified
        monkeypatch.setattr("splitfire_batch.lease.sighting.time.time", lambda: modified + 3_600)
        seen = Sighting(store).look()
    assert (seen.state, seen.watched_s) == ("silent", 0.0)
    assert seen.silent_s == pytest.approx(3_600, abs=60)
