"""Tracks share the memory for audio: never more than there is, in order, and nobody waits for ever."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from splitfire_batch.budget import AudioBudget
from splitfire_batch.stopwatch import Stopwatch


def wait_until(is_true: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < give_up_at
        time.sleep(0.001)


def test_what_is_held_never_passes_the_budget_and_everybody_gets_a_share():
    """Forty tracks in eight threads, each with a guess, a header, and spools that are kept longer."""
    budget, seen = AudioBudget(100), []
    chance = random.Random(1)
    needs = [(chance.randint(0, 60), chance.randint(0, 100), chance.randint(0, 100)) for _ in range(40)]

    def settle(need: tuple[int, int, int]) -> None:
        expected, n_bytes, spools = need
        with budget.share(expected, Stopwatch()) as share:
            share.resize(n_bytes)
            seen.append(budget.n_held)
            share.resize(min(share.n_bytes, spools))

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(settle, need) for need in needs]
        for future in futures:
            future.result(timeout=30)
    assert max(seen) <= 100
    assert budget.n_held == 0


def test_a_track_larger_than_the_budget_has_its_turn_alone():
    budget, began = AudioBudget(100), threading.Event()

    def take_all() -> None:
        with budget.share(10**9, Stopwatch()):
            began.set()

    with budget.share(1, Stopwatch()):
        large = threading.Thread(target=take_all)
        large.start()
        wait_until(lambda: budget.n_waiting == 1)
        assert not began.is_set()
    large.join(20)
    assert began.is_set()
    assert budget.n_held == 0


def test_shares_are_given_in_the_order_they_were_asked_for():
    """A small track could slip in before the large one that waits; then the large one might wait for ever."""
    budget, order = AudioBudget(100), []

    def take(n_bytes: int) -> None:
        with budget.share(n_bytes, Stopwatch()):
            order.append(n_bytes)

    with budget.share(50, Stopwatch()):
        threads = [threading.Thread(target=take, args=(n_bytes,)) for n_bytes in (90, 20, 85)]
        for n_waiting, thread in enumerate(threads, start=1):
            thread.start()
            wait_until(lambda n=n_waiting: budget.n_waiting == n)
        assert order == []
    for thread in threads:
        thread.join(20)
    assert order == [90, 20, 85]


def test_whoever_needs_more_than_expected_goes_before_those_not_begun():
    budget, order = AudioBudget(100), []
    is_longer = threading.Event()

    def settle(name: str, expected: int, n_bytes: int) -> None:
        with budget.share(expected, Stopwatch()) as share:
            is_longer.wait(20)
            share.resize(n_bytes)
            order.append(name)

    with budget.share(60, Stopwatch()):
        longer = threading.Thread(target=settle, args=("longer", 30, 70))
        longer.start()
        wait_until(lambda: budget.n_held == 90)
        later = threading.Thread(target=settle, args=("later", 70, 70))
        later.start()
        wait_until(lambda: budget.n_waiting == 1)
        is_longer.set()
        wait_until(lambda: budget.n_waiting == 2)
        assert budget.n_held == 60  # who waits holds nothing
        assert order == []
    for thread in (longer, later):
        thread.join(20)
    assert order == ["longer", "later"]


def test_a_share_comes_back_when_its_track_fails():
    budget = AudioBudget(100)
    with pytest.raises(ZeroDivisionError), budget.share(70, Stopwatch()):
        raise ZeroDivisionError
    assert budget.n_held == 0


def test_only_waiting_is_counted_as_waiting():
    budget, free, waits = AudioBudget(100), Stopwatch(), Stopwatch()

    def take() -> None:
        with budget.share(90, waits):
            pass

    with budget.share(50, free):
        thread = threading.Thread(target=take)
        thread.start()
        wait_until(lambda: budget.n_waiting == 1)
    thread.join(20)
    assert free.seconds().wait_memory == 0
    assert waits.seconds().wait_memory > 0


def test_spools_stay_in_memory_while_eight_tracks_could_do_so():
    budget = AudioBudget(800)
    assert budget.fits_spools(100)
    assert not budget.fits_spools(101)
    assert not AudioBudget(-5).fits_spools(1)  # a budget that the engine's queue has used up
