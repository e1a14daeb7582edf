"""Which tracks of a shard begin, and which are given back."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from splitfire_batch.admission import Admission
from splitfire_batch.records import Track


def track(track_id: str, cost: float = 1.0) -> Track:
    return Track(track_id, track_id, f"mem://{track_id}", track_id, 1, "", "{stem}.{ext}", cost)


def given_back(admission: Admission) -> tuple[str, ...]:
    told: list[tuple[str, ...]] = []
    admission.give_back(told.append)
    (track_ids,) = told
    return track_ids


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        ([], ()),
        ([5.0], ("0",)),
        ([1.0, 1.0], ("1",)),
        ([1.0, 1.0, 1.0], ("2",)),
        ([1.0] * 8, ("4", "5", "6", "7")),
        ([8.0, 1.0, 1.0], ("1", "2")),
        ([1.0, 1.0, 8.0], ("2",)),
    ],
)
def test_the_last_tracks_are_given_back_up_to_half_of_the_cost_and_one_at_least(
    costs: list[float], expected: tuple[str, ...]
) -> None:
    admission = Admission([track(str(n), cost) for n, cost in enumerate(costs)])
    assert given_back(admission) == expected


def test_what_has_begun_is_not_given_back_and_what_is_given_back_does_not_begin() -> None:
    admission = Admission([track(name) for name in "abcd"])
    assert admission.admit("a")
    assert admission.admit("d")
    assert given_back(admission) == ("c",)
    assert not admission.admit("c")
    assert admission.admit("b")
    assert given_back(admission) == ()


def test_threads_that_race_settle_each_track_once() -> None:
    """Seeded orders; each track is begun by one thread or given back, never both, never neither."""
    chance = random.Random(7)
    for _ in range(50):
        names = [str(n) for n in range(40)]
        admission = Admission([track(name) for name in names])
        begun: list[str] = []
        back: list[tuple[str, ...]] = []
        meeting = threading.Barrier(4)

        def begin(order: list[str], admission=admission, begun=begun, meeting=meeting) -> None:  # type: ignore[no-untyped-def]
            meeting.wait()
            begun.extend(name for name in order if admission.admit(name))

        def ask(admission=admission, back=back, meeting=meeting) -> None:  # type: ignore[no-untyped-def]
            meeting.wait()
            for _ in range(3):
                admission.give_back(back.append)

        with ThreadPoolExecutor(4) as pool:
            running = [pool.submit(begin, chance.sample(names, 40)) for _ in range(3)]
            running.append(pool.submit(ask))
            for each in running:
                each.result()
        assert sorted([*begun, *(name for ids in back for name in ids)]) == sorted(names)
