"""A stopwatch counts work and leaves out waiting; a clock knows what an idle device waited for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from splitfire_batch import stopwatch
from splitfire_batch.records import DeviceSeconds, StageSeconds
from splitfire_batch.stopwatch import DeviceClock, Stopwatch


def test_a_new_stopwatch_shows_zeros():
    assert Stopwatch().seconds() == StageSeconds()


def test_stages_add_up_apart_from_each_other():
    watch = Stopwatch()
    for stage, seconds in (("fetch", 1.0), ("device", 2.0), ("fetch", 4.0)):
        watch.add(stage, seconds)
    assert watch.seconds() == StageSeconds(fetch=5.0, device=2.0)


def test_no_second_is_lost_between_threads():
    watch = Stopwatch()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: watch.add("store", 1.0), range(4_000)))
    assert watch.seconds().store == 4_000


def test_a_stage_that_raises_is_counted_too():
    def fail_slowly() -> None:
        with watch.measure("encode"):
            time.sleep(0.01)
            raise KeyError

    watch = Stopwatch()
    with pytest.raises(KeyError):
        fail_slowly()
    assert watch.seconds().encode >= 0.01


def test_timed_counts_the_making_of_items_and_not_their_use():
    def slow() -> Iterator[int]:
        for number in range(3):
            time.sleep(0.01)
            yield number

    watch, items = Stopwatch(), []
    begin = time.perf_counter()
    for item in watch.timed("decode", slow()):
        items.append(item)
        time.sleep(0.1)
    total = time.perf_counter() - begin
    assert items == [0, 1, 2]
    assert 0.03 <= watch.seconds().decode <= total - 0.3


class Hands:
    """Stands for the module `time`: moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def __call__(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Hands:
    hands = Hands()
    monkeypatch.setattr(stopwatch, "time", hands)
    return hands


def test_a_busy_second_has_one_cause_whatever_the_tracks_do(wait):
    clock = DeviceClock(2)
    usage = clock.usage()
    with clock.busy(), clock.at_work("fetch"), clock.at_work("wait_memory"):
        wait(3)
    assert usage()[1] == DeviceSeconds(busy=3)


def test_an_idle_second_is_shared_among_the_tracks_at_work(wait):
    clock = DeviceClock(2)
    usage = clock.usage()
    with clock.at_work("encode"), clock.at_work("encode"), clock.at_work("fetch"):
        wait(3)
        with clock.at_work("store"):
            wait(4)
    assert usage()[1] == DeviceSeconds(encode=2 + 2, fetch=1 + 1, store=1)


def test_an_idle_second_without_a_track_at_work_has_no_cause(wait):
    clock = DeviceClock(2)
    usage = clock.usage()
    wait(3)
    with clock.at_work("wait_device"):
        wait(3)
    assert usage()[1] == DeviceSeconds()


def test_memory_is_to_blame_only_while_cores_have_nothing_to_do(wait):
    clock = DeviceClock(2)
    usage = clock.usage()
    with clock.at_work("wait_memory"), clock.at_work("encode"), clock.at_work("fetch"):
        wait(5)
        with clock.at_work("decode"):
            wait(3)
    assert usage()[1] == DeviceSeconds(memory=5, encode=1, decode=1, fetch=1)


def test_a_stopwatch_tells_its_clock_what_it_measures_also_when_that_raises(wait):
    clock = DeviceClock(2)
    usage = clock.usage()
    watch = Stopwatch(clock)

    def fail_slowly() -> None:
        with watch.measure("store"):
            wait(2)
            raise KeyError

    with pytest.raises(KeyError):
        fail_slowly()
    wait(5)
    assert usage()[1] == DeviceSeconds(store=2)
    assert watch.seconds() == StageSeconds(store=2)


def test_usage_is_what_was_spent_since_it_was_asked_for(wait):
    clock = DeviceClock(2)
    with clock.busy():
        wait(3)
    usage = clock.usage()
    with clock.busy():
        wait(4)
    wait(2)
    assert usage() == (6, DeviceSeconds(busy=4))
    wait(1)
    assert usage() == (7, DeviceSeconds(busy=4))
