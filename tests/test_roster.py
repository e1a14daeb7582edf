"""The actors of a pool without Ray: who is started, who is replaced, who is asked."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cluster import roster as module
from cluster.actors import PoolSize, RemoteWorker
from cluster.losses import Lost
from cluster.roster import Patience, Roster
from cluster.seats import MAX_FALSE_STARTS, Seat


class FakeActor:
    """Stands where Ray's would: nothing is started, and calls are counted."""

    def __init__(self, *_: object) -> None:
        self.shard_ids: tuple[str, ...] = ()
        self.has_started, self.pid, self.node_id = True, 1, None

    def kill(self) -> None:
        self.has_started = False


class Work:
    """Whether an actor without work would get some."""

    is_there = True

    def has_more(self) -> bool:
        return self.is_there


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def roster(work: Work, monkeypatch: pytest.MonkeyPatch) -> Roster:
    monkeypatch.setattr(module, "RemoteWorker", FakeActor)
    return Roster(lambda: None, PoolSize(4, 1, 0, 1), Patience(), work.has_more)  # type: ignore[arg-type]


def lose(roster: Roster, seat: Seat) -> None:
    seat.lost = Lost("death", "killed")
    roster.replace(seat)


def test_as_many_actors_start_as_are_wanted(roster: Roster) -> None:
    roster.open(4)
    assert len(roster.seats) == 4


def test_all_actors_that_were_lost_while_there_was_no_work_come_back_with_it(
    roster: Roster, work: Work
) -> None:
    roster.open(4)
    first, second, third, _ = roster.seats.values()
    work.is_there = False  # all of it is in flight
    lose(roster, first)
    lose(roster, second)
    assert len(roster.seats) == 2
    work.is_there = True  # what the third had in flight comes back
    lose(roster, third)
    assert len(roster.seats) == 4
    assert sorted(seat.n_false_starts for seat in roster.seats.values()) == [0, 0, 0, 1]


def test_no_more_actors_start_than_there_is_work_for(roster: Roster, work: Work) -> None:
    work.is_there = False
    roster.open(4)
    assert not roster.seats


def test_an_actor_that_is_slow_to_answer_is_asked_once(
    roster: Roster, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker: RemoteWorker = RemoteWorker.__new__(RemoteWorker)
    worker._asking, worker._streams, worker.has_started = None, {}, True
    worker.pid, worker.node_id = 1, None
    calls: list[object] = []
    worker._actor = SimpleNamespace(where=SimpleNamespace(remote=lambda: calls.append(object()) or calls[-1]))
    seat = roster.seats[worker] = Seat(worker, 0)
    seat.lose(Lost("unclear", "no answer"))
    monkeypatch.setattr(module, "draining_nodes", set)
    monkeypatch.setattr(module, "LOOK_S", 0.0)
    for _ in range(3):
        assert not list(roster.look_around())
    assert worker.pending() == calls
    assert len(calls) == 1


@pytest.fixture
def growing(work: Work, monkeypatch: pytest.MonkeyPatch) -> tuple[Roster, list[int]]:
    """A roster that follows a cluster, and the number of places there are in it."""
    places = [2]
    monkeypatch.setattr(module, "RemoteWorker", FakeActor)
    monkeypatch.setattr(module, "LOOK_S", 0.0)
    monkeypatch.setattr(module, "draining_nodes", set)
    monkeypatch.setattr(module, "count_places", lambda *_: places[0])
    size = PoolSize(2, 1, 0, 1, grows=True)
    roster = Roster(lambda: None, size, Patience(), work.has_more)  # type: ignore[arg-type]
    roster.open(2)
    return roster, places


def test_actors_start_on_nodes_that_join_and_are_kept_when_others_leave(
    growing: tuple[Roster, list[int]],
) -> None:
    roster, places = growing
    places[0] = 5
    assert not list(roster.look_around())
    assert len(roster.seats) == 5
    places[0] = 1  # Ray tells of each actor that went with its node
    assert not list(roster.look_around())
    assert len(roster.seats) == 5


def test_a_node_that_joins_when_nothing_is_left_to_do_gets_no_actor(
    growing: tuple[Roster, list[int]], work: Work
) -> None:
    roster, places = growing
    work.is_there, places[0] = False, 9
    assert not list(roster.look_around())
    assert len(roster.seats) == 2


def test_a_place_that_was_given_up_is_not_taken_for_a_new_one(growing: tuple[Roster, list[int]]) -> None:
    roster, _ = growing
    seat = next(iter(roster.seats.values()))
    seat.n_false_starts = MAX_FALSE_STARTS
    lose(roster, seat)
    assert not list(roster.look_around())
    assert len(roster.seats) == 1
