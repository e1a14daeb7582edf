"""The watchdog with a clock of its own: who hangs, who is only slow, and who must be blamed."""

from __future__ import annotations

import pytest

from cluster.watchdog import FIRST_PACE, MANY_TIMES, STALLS, Watchdog
from splitfire_batch.records import Beat, Committed, Outcome, Shard, Started, Status, Track

STALL_S = 100.0


def shard(shard_id: str, **costs: float) -> Shard:
    tracks = (Track(name, name, "", name, 1, "", "", cost=cost) for name, cost in costs.items())
    return Shard(shard_id, tuple(tracks))


def committed(shard_id: str, track_id: str, status: Status = "done") -> Committed:
    return Committed(shard_id, (Outcome(track_id, track_id, status, None, None, 1.0, 1),))


class Days:
    """A watchdog and the clock on its wall."""

    def __init__(self) -> None:
        self.dog, self.now = Watchdog(STALL_S), 0.0
        self.dog.look(self.now)

    def pass_s(self, seconds: float, beating: str | None = None) -> None:
        """Let time pass with a look every second, and a beat of worker `w`'s shard every ten."""
        for second in range(int(seconds)):
            self.now += 1.0
            self.dog.look(self.now)
            if beating and second % 10 == 0:
                self.dog.hear("w", Beat(beating))


@pytest.fixture
def days() -> Days:
    return Days()


def test_a_worker_without_a_shard_never_hangs(days: Days) -> None:
    days.pass_s(10_000)
    assert days.dog.hung("w") is None


@pytest.mark.parametrize("is_started", [True, False])
def test_a_silent_worker_hangs_and_any_track_may_be_why(days: Days, is_started: bool) -> None:
    days.dog.send("w", shard("s", a=1, b=1))
    if is_started:
        days.dog.hear("w", Started("s", "a"))
    days.pass_s(STALL_S)
    assert days.dog.hung("w") is None
    days.pass_s(1)
    hung = days.dog.hung("w")
    assert hung is not None
    assert hung.track_id is None
    assert "101 s" in hung.why


def test_only_the_silent_one_hangs(days: Days) -> None:
    days.dog.send("w", shard("s", a=1000))
    days.dog.send("silent", shard("other", b=1000))
    days.dog.hear("w", Started("s", "a"))
    days.dog.hear("silent", Started("other", "b"))
    days.pass_s(STALL_S + 1, beating="s")
    assert days.dog.hung("w") is None
    assert days.dog.hung("silent")


def test_a_recording_of_ten_hours_may_take_hours_while_it_gets_on(days: Days) -> None:
    days.dog.send("w", shard("s", long=3000))
    days.dog.hear("w", Started("s", "long"))
    days.pass_s(5 * 3600, beating="s")
    assert days.dog.hung("w") is None


def test_a_short_track_that_never_ends_hangs_though_its_worker_gets_on_and_is_the_one_to_blame(
    days: Days,
) -> None:
    days.dog.send("w", shard("s", endless=1, beside=1))
    days.dog.hear("w", Started("s", "endless"))
    days.pass_s(10)
    days.dog.hear("w", Started("s", "beside"))
    days.pass_s(STALLS * STALL_S - 10, beating="s")
    assert days.dog.hung("w") is None
    days.pass_s(2, beating="s")
    hung = days.dog.hung("w")
    assert hung is not None
    assert hung.track_id == "endless"


def test_what_a_track_may_take_follows_the_pace_of_the_run(days: Days) -> None:
    """At the pace before anything is measured cost 100 may take 24,000 s; ten times as fast, 2,400 s."""
    days.dog.send("w", shard("s", **{f"t{i}": 10.0 for i in range(10)}, last=100.0))
    for i in range(10):
        days.dog.hear("w", Started("s", f"t{i}"))
        days.pass_s(12)  # ten times FIRST_PACE
        days.dog.hear("w", committed("s", f"t{i}"))
    days.dog.hear("w", Started("s", "last"))
    days.pass_s(0.95 * MANY_TIMES * 100 / FIRST_PACE / 10, beating="s")
    assert days.dog.hung("w") is None
    days.pass_s(0.2 * MANY_TIMES * 100 / FIRST_PACE / 10, beating="s")
    hung = days.dog.hung("w")
    assert hung is not None
    assert hung.track_id == "last"


def test_tracks_that_fail_at_once_do_not_make_the_pace_look_fast(days: Days) -> None:
    names = [f"bad{i}" for i in range(70)]
    days.dog.send("w", shard("s", **dict.fromkeys(names, 100.0), good=100.0))
    for name in names:
        days.dog.hear("w", Started("s", name))
        days.pass_s(1)
        days.dog.hear("w", committed("s", name, "failed"))
    days.dog.hear("w", Started("s", "good"))
    days.pass_s(STALLS * STALL_S + 100, beating="s")
    assert days.dog.hung("w") is None


def test_a_driver_that_was_asleep_blames_nobody(days: Days) -> None:
    days.dog.send("w", shard("s", a=1))
    days.dog.hear("w", Started("s", "a"))
    days.now += 8 * 3600
    days.dog.look(days.now)
    assert days.dog.hung("w") is None
    days.pass_s(STALL_S + 1)
    assert days.dog.hung("w")


def test_waiting_between_two_shards_is_no_silence(days: Days) -> None:
    days.dog.send("w", shard("s", a=1))
    days.dog.hear("w", committed("s", "a"))
    days.dog.end("w", "s")
    days.pass_s(1000)
    days.dog.send("w", shard("s2", b=1))
    assert days.dog.hung("w") is None


def test_a_worker_that_is_gone_is_forgotten(days: Days) -> None:
    days.dog.send("w", shard("s", a=1))
    days.dog.forget("w")
    days.pass_s(1000)
    assert days.dog.hung("w") is None
