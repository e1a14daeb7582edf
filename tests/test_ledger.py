"""The ledger without Ray: who is charged, who goes back, who is given up."""

from __future__ import annotations

import random

from cluster.ledger import MAX_MISHAPS, Assignment, Blame, Ledger
from splitfire_batch.records import (
    Committed,
    Outcome,
    Quarantined,
    Returned,
    Shard,
    Started,
    Suspected,
    Track,
)


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


def die(ledger: Ledger, *shard_ids: str, why: str = "killed") -> list[Suspected | Quarantined]:
    """The worker of these shards dies: all their tracks in flight are charged."""
    return ledger.lose(shard_ids, Blame(ledger.in_flight(shard_ids), why))


def charges(events: list[Suspected | Quarantined]) -> list[tuple[str, int]]:
    return [(t.track_id, t.attempts) for e in events if isinstance(e, Suspected) for t in e.tracks]


def tracks_of(assignment: Assignment) -> list[str]:
    return [track.track_id for track in assignment.shard.tracks]


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
    assert charges(die(ledger, "s1")) == [("flying", 1), ("flying too", 1)]
    retries = [take(ledger) for _ in range(3)]
    assert [tracks_of(retry) for retry in retries] == [["flying"], ["flying too"], ["waiting"]]
    assert [retry.is_alone for retry in retries] == [True, True, False]
    assert len({retry.shard.shard_id for retry in retries} | {"s1"}) == 4


def test_a_suspect_is_sent_as_if_it_were_innocent_so_that_its_row_says_so() -> None:
    ledger = Ledger([shard("s1", "a", "b")])
    take(ledger)
    start(ledger, "s1", "a", "b")
    die(ledger, "s1")
    assert [take(ledger).shard.tracks[0].attempts for _ in range(2)] == [0, 0]


def test_a_preemption_charges_nobody_and_makes_nobody_a_suspect() -> None:
    ledger = Ledger([shard("s1", "flying", "waiting")])
    take(ledger)
    start(ledger, "s1", "flying")
    assert ledger.lose(["s1"], Blame(why="spot instance taken back")) == []
    retry = take(ledger)
    assert tracks_of(retry) == ["flying", "waiting"]
    assert not retry.is_alone


def test_a_track_that_was_alone_in_flight_twice_is_given_up_with_the_last_message_and_code() -> None:
    ledger = Ledger([shard("s1", "poison")])
    take(ledger)
    start(ledger, "s1", "poison")
    die(ledger, "s1", why="first")
    retry = take(ledger).shard.shard_id
    start(ledger, retry, "poison")
    given_up = ledger.lose([retry], Blame(["poison"], "second", "OOM"))
    assert given_up == [Quarantined(track("poison", attempts=2), "second", "OOM")]
    assert not ledger.has_next()


def test_a_track_with_company_on_its_worker_is_never_given_up() -> None:
    ledger = Ledger([shard("s1", "a", "b")])
    take(ledger)
    start(ledger, "s1", "a", "b")
    die(ledger, "s1")
    for n_times in range(2, 6):
        retries = [take(ledger).shard for _ in range(2)]
        for retry in retries:
            start(ledger, retry.shard_id, retry.tracks[0].track_id)
        events = die(ledger, *(retry.shard_id for retry in retries))
        assert charges(events) == [("a", n_times), ("b", n_times)]
        assert not any(isinstance(event, Quarantined) for event in events)


def test_an_exception_charges_its_own_shard_and_not_the_neighbour() -> None:
    ledger = Ledger([shard("s1", "a"), shard("s2", "b", "c")])
    take(ledger), take(ledger)
    start(ledger, "s1", "a")
    start(ledger, "s2", "b")
    events = ledger.lose(["s1", "s2"], Blame(ledger.in_flight(["s1"]), "raised"))
    assert charges(events) == [("a", 1)]
    assert [tracks_of(take(ledger)) for _ in range(2)] == [["a"], ["b", "c"]]


def test_a_known_culprit_is_charged_alone() -> None:
    ledger = Ledger([shard("s1", "endless", "beside")])
    take(ledger)
    start(ledger, "s1", "endless", "beside")
    assert charges(ledger.lose(["s1"], Blame(["endless"], "hung"))) == [("endless", 1)]
    assert [(tracks_of(sent), sent.is_alone) for sent in (take(ledger), take(ledger))] == [
        (["endless"], True),
        (["beside"], False),
    ]


def test_a_suspect_is_not_given_to_a_busy_worker() -> None:
    ledger = Ledger([shard("s1", "a"), shard("s2", "b")])
    take(ledger)
    start(ledger, "s1", "a")
    die(ledger, "s1")
    assert take(ledger, is_idle=False).shard.shard_id == "s2"
    assert ledger.take(is_idle=False) is None
    assert tracks_of(take(ledger, is_idle=True)) == ["a"]


def test_a_suspect_whose_worker_dies_before_it_starts_stays_a_suspect_uncharged() -> None:
    ledger = Ledger([shard("s1", "a")])
    take(ledger)
    start(ledger, "s1", "a")
    die(ledger, "s1")
    assert die(ledger, take(ledger).shard.shard_id) == []
    again = take(ledger)
    assert (tracks_of(again), again.is_alone) == (["a"], True)


def test_a_track_that_an_earlier_run_charged_is_a_suspect_from_the_start() -> None:
    ledger = Ledger([Shard("s1", (track("innocent"), track("suspect", attempts=1)))])
    assert ledger.has_next()
    sent = take(ledger)
    assert (tracks_of(sent), sent.is_alone) == (["suspect"], True)
    assert tracks_of(take(ledger)) == ["innocent"]
    start(ledger, sent.shard.shard_id, "suspect")
    (given_up,) = die(ledger, sent.shard.shard_id)
    assert isinstance(given_up, Quarantined)
    assert given_up.track.attempts == 2


def test_a_shard_of_suspects_alone_does_not_keep_a_busy_worker_from_the_next() -> None:
    ledger = Ledger([Shard("s1", (track("a", attempts=1),)), shard("s2", "b")])
    assert tracks_of(take(ledger, is_idle=False)) == ["b"]
    assert tracks_of(take(ledger)) == ["a"]
    assert not ledger.has_next()


def test_lost_nodes_charge_nobody_until_it_is_always_the_same_track() -> None:
    """A track that takes down whole nodes must end too; one that was beside it must not."""
    ledger = Ledger([shard("s1", "takes nodes down", "beside")])
    sent = take(ledger)
    start(ledger, "s1", "takes nodes down", "beside")
    for n_times in range(1, MAX_MISHAPS + 1):
        events = ledger.lose([sent.shard.shard_id], Blame(why="node lost", is_mishap=True))
        if n_times < MAX_MISHAPS:
            assert events == []
            sent = take(ledger)
            assert sent.is_alone == (n_times == MAX_MISHAPS - 1)
            start(ledger, sent.shard.shard_id, *tracks_of(sent))
    assert events == [Quarantined(track("takes nodes down", attempts=MAX_MISHAPS), "node lost")]
    assert tracks_of(take(ledger)) == ["beside"]


def bisect(ledger: Ledger, deadly: str) -> tuple[list[str], list[str], int]:
    """Whom it settles, whom it gives up, and in how many deaths, if one track kills before it is told."""
    given_up: list[str] = []
    settled: list[str] = []
    n_deaths = 0
    while ledger.has_next():
        sent = take(ledger)
        if deadly in tracks_of(sent):
            n_deaths += 1
            events = ledger.lose([sent.shard.shard_id], Blame(why="killed", is_unseen=True))
            given_up += [event.track.track_id for event in events if isinstance(event, Quarantined)]
        else:
            settled += tracks_of(sent)
            ledger.note(committed(sent.shard.shard_id, *tracks_of(sent)))
            ledger.close(sent.shard.shard_id)
    return sorted(settled), given_up, n_deaths


def test_a_track_that_kills_before_anyone_is_told_is_found_by_halving() -> None:
    names = [f"t{i:04}" for i in range(2000)]
    for deadly in (names[0], names[777], names[-1]):
        settled, given_up, n_deaths = bisect(Ledger([shard("s1", *names)]), deadly)
        assert (settled, given_up) == (sorted(set(names) - {deadly}), [deadly])
        assert n_deaths <= 11 + MAX_MISHAPS  # 2**11 > 2000


def test_deaths_that_nobody_saw_coming_do_not_make_a_whole_shard_go_one_by_one() -> None:
    ledger = Ledger([shard("s1", *(f"t{i}" for i in range(2000)))])
    for _ in range(2):
        sent = take(ledger)
        assert ledger.lose([sent.shard.shard_id], Blame(why="killed", is_unseen=True)) == []
    retries = []
    while ledger.has_next():
        retries.append(take(ledger))
    assert [(len(retry.shard.tracks), retry.is_alone) for retry in retries] == [
        (1000, False),
        (500, False),
        (500, False),
    ]


def test_a_track_that_had_company_at_unseen_deaths_is_not_given_up_at_its_first_alone() -> None:
    ledger = Ledger([shard("s1", "a", "b", "c", "d", "e")])
    for n_tracks in (5, 3, 2):
        sent = next(sent for sent in iter(lambda: take(ledger), None) if "a" in tracks_of(sent))
        assert len(sent.shard.tracks) == n_tracks
        ledger.lose([sent.shard.shard_id], Blame(why="killed", is_unseen=True))
    sent = next(sent for sent in iter(lambda: take(ledger), None) if "a" in tracks_of(sent))
    assert ledger.lose([sent.shard.shard_id], Blame(why="killed", is_unseen=True)) == []


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
                    events = die(ledger, begun.shard_id)
                    settled += [item.track.track_id for item in events if isinstance(item, Quarantined)]
                    break
                ledger.note(committed(begun.shard_id, ending))
                settled.append(ending)
            else:
                ledger.close(begun.shard_id)
        assert sorted(settled) == sorted(names)


def test_tracks_that_a_worker_gives_back_are_a_shard_of_their_own_and_settled_once() -> None:
    ledger = Ledger([shard("s1", "a", "b", "c", "d")])
    take(ledger)
    start(ledger, "s1", "a")
    assert ledger.waiting_cost("s1") == 3
    ledger.note(Returned("s1", ("c", "d")))
    assert ledger.waiting_cost("s1") == 1
    split = take(ledger)
    assert (split.shard.shard_id, tracks_of(split), split.is_alone) == ("s1-split1", ["c", "d"], False)
    ledger.note(committed("s1", "a", "b"))
    assert ledger.n_unsettled("s1") == 0
    assert die(ledger, "s1-split1") == []
    assert tracks_of(take(ledger)) == ["c", "d"]


def test_a_worker_that_dies_after_it_gave_tracks_back_is_not_asked_for_them_again() -> None:
    ledger = Ledger([shard("s1", "a", "b", "c")])
    take(ledger)
    start(ledger, "s1", "a")
    ledger.note(Returned("s1", ("c",)))
    assert charges(die(ledger, "s1")) == [("a", 1)]
    found = [tracks_of(take(ledger)) for _ in range(3)]
    assert sorted(found) == [["a"], ["b"], ["c"]]
    assert not ledger.has_next()


def test_a_worker_that_has_nothing_to_give_back_changes_nothing() -> None:
    ledger = Ledger([shard("s1", "a")])
    take(ledger)
    ledger.note(Returned("s1", ()))
    assert not ledger.has_next()
    assert ledger.n_unsettled("s1") == 1
