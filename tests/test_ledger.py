"""The ledger without Ray: who is charged, who goes back, who is given up."""

from __future__ import annotations

import random

from cluster.ledger import Assignment, Ledger
from splitfire_batch.records import Committed, Outcome, Quarantined, Shard, Started, Track


def shard(name: str, *track_ids: str) -> Shard:
    return Shard(name, tuple(track(track_id) for track_id in track_ids))


def track(track_id: str, attempts: int = 0) -> Track:
    return Track(track_id, track_id, f"mem://{track_id}", track_id, 1, "", "{stem}.{ext}", attempts=attempts)


def committed(shard_id: str, *track_ids: str) -> Committed:
    outcomes = (Outcome(track_id, track_id, "done", None, None, 1.0, 1) for track_id in track_ids)
    return Committed(shard_id, tuple(outcomes))


def take(ledger: Ledger, is_idle: bool = True) -> Assignment:
    assignment = ledger.take(is_idle)
    assert assignment is not None
    return assignment


def start(ledger: Ledger, shard_id: str, *track_ids: str) -> None:
    for track_id in track_ids:
        ledger.note(Started(shard_id, track_id))


def tracks_of(assignment: Assignment) -> list[tuple[str, int]]:
    return [(track.track_id, track.attempts) for track in assignment.shard.tracks]


def test_shards_are_handed_out_in_the_order_given() -> None:
    ledger = Ledger([shard("s1", "a"), shard("s2", "b")])
    assert [take(ledger).shard.shard_id, take(ledger).shard.shard_id] == ["s1", "s2"]
    assert ledger.take(is_idle=True) is None
    assert not ledger.has_next()


def test_a_death_charges_only_the_tracks_in_flight() -> None:
    ledger = Ledger([shard("s1", "settled", "flying", "flying too", "waiting")])
    take(ledger)
    start(ledger, "s1", "settled", "flying", "flying too")
    ledger.note(committed("s1", "settled"))
    assert ledger.lose(["s1"], ["s1"], "killed") == []
    retries = [take(ledger) for _ in range(3)]
    assert [tracks_of(retry) for retry in retries] == [[("flying", 1)], [("flying too", 1)], [("waiting", 0)]]
    assert [retry.is_alone for retry in retries] == [True, True, False]
    assert len({retry.shard.shard_id for retry in retries} | {"s1"}) == 4


def test_a_preemption_charges_nobody_and_makes_nobody_a_suspect() -> None:
    ledger = Ledger([shard("s1", "flying", "waiting")])
    take(ledger)
    start(ledger, "s1", "flying")
    assert ledger.lose(["s1"], [], "spot instance taken back") == []
    retry = take(ledger)
    assert tracks_of(retry) == [("flying", 0), ("waiting", 0)]
    assert not retry.is_alone


def test_a_track_that_was_alone_in_flight_twice_is_given_up_with_the_last_message() -> None:
    ledger = Ledger([shard("s1", "poison")])
    take(ledger)
    start(ledger, "s1", "poison")
    ledger.lose(["s1"], ["s1"], "first")
    retry = take(ledger).shard.shard_id
    start(ledger, retry, "poison")
    assert ledger.lose([retry], [retry], "second") == [Quarantined(track("poison", attempts=2), "second")]
    assert not ledger.has_next()


def test_a_track_with_company_is_never_given_up_whatever_its_attempts() -> None:
    ledger = Ledger([Shard("s1", (track("a", attempts=5), track("b")))])
    take(ledger)
    start(ledger, "s1", "a", "b")
    assert ledger.lose(["s1"], ["s1"], "killed") == []
    assert [tracks_of(take(ledger)) for _ in range(2)] == [[("a", 6)], [("b", 1)]]


def test_company_in_the_other_shard_of_the_worker_counts() -> None:
    ledger = Ledger([Shard("s1", (track("a", attempts=1),)), shard("s2", "b")])
    take(ledger), take(ledger)
    start(ledger, "s1", "a")
    start(ledger, "s2", "b")
    assert ledger.lose(["s1", "s2"], ["s1", "s2"], "killed") == []


def test_an_exception_charges_its_own_shard_and_not_the_neighbour() -> None:
    ledger = Ledger([shard("s1", "a"), shard("s2", "b", "c")])
    take(ledger), take(ledger)
    start(ledger, "s1", "a")
    start(ledger, "s2", "b")
    ledger.lose(["s1", "s2"], ["s1"], "raised")
    assert [tracks_of(take(ledger)) for _ in range(2)] == [[("a", 1)], [("b", 0), ("c", 0)]]


def test_a_suspect_is_not_given_to_a_busy_worker() -> None:
    ledger = Ledger([shard("s1", "a"), shard("s2", "b")])
    take(ledger)
    start(ledger, "s1", "a")
    ledger.lose(["s1"], ["s1"], "killed")
    assert take(ledger, is_idle=False).shard.shard_id == "s2"
    assert ledger.take(is_idle=False) is None
    assert tracks_of(take(ledger, is_idle=True)) == [("a", 1)]


def test_a_suspect_whose_worker_dies_before_it_starts_stays_a_suspect_uncharged() -> None:
    ledger = Ledger([shard("s1", "a")])
    take(ledger)
    start(ledger, "s1", "a")
    ledger.lose(["s1"], ["s1"], "killed")
    retry = take(ledger).shard.shard_id
    ledger.lose([retry], [retry], "killed again")
    again = take(ledger)
    assert (tracks_of(again), again.is_alone) == ([("a", 1)], True)


def test_shards_are_read_lazily() -> None:
    n_read = 0

    def endless():
        nonlocal n_read
        while True:
            n_read += 1
            yield shard(f"s{n_read}", f"t{n_read}")

    ledger = Ledger(endless())
    for _ in range(3):
        assert ledger.has_next()
        take(ledger)
    assert n_read == 3


def test_every_track_is_settled_once_under_random_deaths() -> None:
    """A seeded simulation: whatever the order of events and deaths, the account closes."""
    for seed in range(50):
        chance = random.Random(seed)
        names = [f"t{i}" for i in range(40)]
        poison = set(chance.sample(names, 3))
        ledger = Ledger(shard(f"s{i}", *names[i * 5 : i * 5 + 5]) for i in range(8))
        settled: list[str] = []
        n_deaths = 0
        while ledger.has_next():
            begun = take(ledger).shard
            left = [track.track_id for track in begun.tracks]
            in_flight: list[str] = []
            while left or in_flight:
                if left and len(in_flight) < 3:
                    in_flight.append(left.pop(0))
                    start(ledger, begun.shard_id, in_flight[-1])
                    continue
                ending = in_flight.pop(0)
                if ending in poison or (n_deaths < 20 and chance.random() < 0.1):
                    n_deaths += 1
                    given_up = ledger.lose([begun.shard_id], [begun.shard_id], "killed")
                    settled += [item.track.track_id for item in given_up]
                    break
                ledger.note(committed(begun.shard_id, ending))
                settled.append(ending)
            else:
                ledger.close(begun.shard_id)
        assert sorted(settled) == sorted(names)
