"""A stopwatch counts work and leaves out waiting."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from splitfire_batch.records import StageSeconds
from splitfire_batch.stopwatch import Stopwatch


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
