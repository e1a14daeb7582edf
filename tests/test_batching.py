"""The device thread with a device that works in the background: order, overlap, loss and want of memory."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from splitfire_batch import batching
from splitfire_batch import requests as waiting
from splitfire_batch.batching import Batcher
from splitfire_batch.errors import TrackError
from splitfire_batch.requests import Request, RequestQueue
from splitfire_batch.stopwatch import DeviceClock
from splitfire_batch.transfer import DeviceLost, Receive

FRAMES = 100


class Background:
    """Implements `Transfer` as a device in the background does it: nothing is there before `receive`.

    Batches are named by the first value of their first segment; `log` says when each was begun, and when
    it was waited for.
    """

    def __init__(self, depth: int = 2, room: int = 99, broken: float | None = None) -> None:
        self.depth, self._room, self._broken = depth, room, broken
        self.log: list[str] = []
        self.under_way = self.most_under_way = 0

    def launch(self, segments: Sequence[Tensor], size: int) -> Receive:
        name = f"{float(segments[0][0, 0]):g}"
        if self.under_way + size > self._room:
            self.log.append(f"no room for {name} x{size}")
            raise torch.OutOfMemoryError
        self.under_way += size
        self.most_under_way = max(self.most_under_way, self.under_way)
        self.log.append(f"launch {name} x{size}")

        def receive() -> Sequence[Tensor]:
            self.under_way -= size
            self.log.append(f"receive {name}")
            if name == str(self._broken):
                raise DeviceLost("illegal memory access")
            return [torch.stack((segment, 3 * segment)) for segment in segments]

        return receive


@contextmanager
def batcher(transfer: Background, batch: int = 1) -> Iterator[RequestQueue]:
    requests = RequestQueue(lambda _: batch)
    served = Batcher(requests, transfer, DeviceClock(1))
    try:
        yield requests
    finally:
        served.close()


def numbered(n: int, first: int = 0) -> list[Tensor]:
    return [torch.full((2, FRAMES), float(number)) for number in range(first, first + n)]


def sent(served: RequestQueue, n: int) -> list[Request]:
    """Requests that reach the queue together, so that no timing decides on the batches."""
    with served.open_track():
        return served.send(numbered(n))


def test_the_next_batch_is_launched_before_the_one_under_way_is_waited_for():
    device = Background()
    with batcher(device) as served:
        served.receive(sent(served, 4))
    launches = [device.log.index(f"launch {n} x1") for n in range(4)]
    receipts = [device.log.index(f"receive {n}") for n in range(4)]
    assert launches == sorted(launches)
    assert receipts == sorted(receipts)
    assert all(launches[n + 1] < receipts[n] for n in range(3))
    assert device.most_under_way == 2


def test_one_at_a_time_where_the_device_computes_at_once():
    device = Background(depth=1)
    with batcher(device) as served:
        served.receive(sent(served, 3))
    assert device.log == [line for n in range(3) for line in (f"launch {n} x1", f"receive {n}")]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_every_request_gets_its_own_estimate(depth):
    with batcher(Background(depth), batch=3) as served:
        requests = sent(served, 11)
        estimates = served.receive(requests)
    for number, estimate in enumerate(estimates):
        assert torch.equal(estimate, torch.stack((numbered(1, number)[0], 3 * numbered(1, number)[0])))


def test_a_single_batch_is_waited_for_although_nothing_follows():
    device = Background()
    with batcher(device) as served, served.open_track():
        served.receive(served.send(numbered(1)))
    assert device.log == ["launch 0 x1", "receive 0"]


def test_a_partial_batch_does_not_leave_while_those_it_waits_for_are_under_way(monkeypatch):
    monkeypatch.setattr(waiting, "_LINGER_S", 3_600)
    device = Background()
    with batcher(device, batch=2) as served, served.open_track():
        requests = served.send(numbered(5))
        served.receive(requests[:4])
        served.receive([*requests[4:], *served.send(numbered(1, first=5))])
    assert [line for line in device.log if line.startswith("launch")] == [f"launch {n} x2" for n in (0, 2, 4)]


def test_a_lost_device_is_told_to_those_in_its_batch_and_the_thread_lives_on():
    with batcher(Background(broken=1)) as served:
        first, second, third = sent(served, 3)
        with pytest.raises(DeviceLost, match="illegal memory access"):
            served.receive([second])
        assert len(served.receive([first, third])) == 2


def test_batches_that_fit_alone_but_not_side_by_side_keep_their_size():
    device = Background(room=4)
    with batcher(device, batch=4) as served:
        served.receive(sent(served, 12))
        assert served.halved == {}
    assert [line for line in device.log if "room" in line] == ["no room for 4 x4"]  # only the first time
    assert device.most_under_way == 4


def test_a_batch_that_does_not_fit_alone_is_halved_and_nothing_is_lost():
    device = Background(room=2)
    with batcher(device, batch=4) as served:
        estimates = served.receive(sent(served, 12))
        assert served.halved == {FRAMES: 2}
    assert [float(estimate[0, 0, 0]) for estimate in estimates] == list(range(12))


def test_one_segment_that_does_not_fit_fails_its_track_only():
    with batcher(Background(room=0)) as served, pytest.raises(TrackError) as caught:
        served.receive(sent(served, 1))
    assert caught.value.code == "OOM"


def test_busy_seconds_do_not_count_overlapping_batches_twice(monkeypatch):
    now = itertools.count()
    monkeypatch.setattr(batching.time, "perf_counter", lambda: float(next(now)))
    queue = RequestQueue(lambda _: 1)
    served = Batcher(queue, Background(), DeviceClock(1))
    requests = sent(queue, 6)
    queue.receive(requests)
    first, last = 0, next(now)
    served.close()
    assert 0 < served.busy_s <= last - first
    assert sum(request.seconds for request in requests) == served.busy_s


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


class OneEach:
    """Stands for a model that is computed on one core, by several threads at a time."""

    depth = 1

    def __init__(self, compute: Callable[[Tensor], None]) -> None:
        self._compute = compute

    def launch(self, segments: Sequence[Tensor], size: int) -> Receive:
        assert len(segments) <= size
        self._compute(segments[0])
        return lambda: [torch.stack((segment, 3 * segment)) for segment in segments]


@contextmanager
def on_cores(n: int, compute: Callable[[Tensor], None], clock: DeviceClock | None = None, batch: int = 1):
    requests = RequestQueue(lambda _: batch)
    served = Batcher(requests, OneEach(compute), clock or DeviceClock(n, n), n)
    try:
        yield requests
    finally:
        served.close()


@pytest.mark.parametrize("n_cores", [2, 3])
def test_each_core_computes_a_batch_at_the_same_time_with_one_thread(set_threads, n_cores):
    set_threads(4)
    everywhere, threads = threading.Barrier(n_cores, timeout=30), set()

    def together(_: Tensor) -> None:
        everywhere.wait()
        threads.add((threading.get_ident(), torch.get_num_threads()))

    with on_cores(n_cores, together) as served:
        estimates = served.receive(sent(served, n_cores))
    assert [float(estimate[1, 0, 0]) for estimate in estimates] == [3.0 * n for n in range(n_cores)]
    assert len(threads) == n_cores
    assert {n for _, n in threads} == {1}


def test_threads_made_after_the_cores_have_all_of_torchs_threads(set_threads):
    set_threads(4)
    with on_cores(2, lambda _: None):
        found = [torch.get_num_threads()]
        thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        thread.start()
        thread.join()
    assert found == [4, 4]


def test_a_slow_batch_keeps_no_other_core_from_the_queue(set_threads):
    set_threads(2)
    others_are_done = threading.Event()

    def compute(segment: Tensor) -> None:
        if not segment[0, 0]:
            assert others_are_done.wait(30)

    with on_cores(2, compute) as served:
        slow, *others = sent(served, 6)
        served.receive(others)
        assert not slow.estimate.done()
        others_are_done.set()
        served.receive([slow])


def test_a_partial_batch_waits_for_tracks_whose_segments_another_core_computes(monkeypatch, set_threads):
    set_threads(2)
    monkeypatch.setattr(waiting, "_LINGER_S", 3_600)
    sizes, first_is_taken = [], threading.Event()

    def compute(segment: Tensor) -> None:
        if segment[0, 0] == 0:
            first_is_taken.set()
            time.sleep(0.2)

    with (
        on_cores(2, compute, batch=2) as served,
        served.open_track(),
        served.open_track(),
        ThreadPoolExecutor(2) as tracks,
    ):
        first = served.send(numbered(2))
        waiting_for_it = tracks.submit(served.receive, first)
        assert first_is_taken.wait(30)
        lonely = served.send(numbered(1, first=2))
        answer = tracks.submit(served.receive, lonely)
        waiting_for_it.result()
        sizes.append(lonely[0].estimate.done())  # the first track may still add to its batch
        served.receive(served.send(numbered(1, first=3)))
        answer.result()
    assert sizes == [False]


def test_a_device_whose_cores_are_half_in_use_is_half_busy(set_threads):
    set_threads(2)
    clock = DeviceClock(2, 2)
    usage = clock.usage()
    with on_cores(2, lambda _: time.sleep(0.2), clock) as served:
        served.receive(sent(served, 1))
    wall_s, device = usage()
    assert 0.09 <= device.busy <= wall_s / 2 + 0.001


def test_if_a_thread_cannot_be_had_nothing_is_left_behind(monkeypatch, set_threads):
    set_threads(4)
    real_start, started = threading.Thread.start, []

    def start(thread: threading.Thread) -> None:
        if thread.name == "device-2":
            raise RuntimeError("can't start new thread")
        started.append(thread)
        real_start(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        Batcher(RequestQueue(lambda _: 1), OneEach(lambda _: None), DeviceClock(3), 3)
    for thread in started:
        thread.join(30)
    assert not any(thread.is_alive() for thread in started)
    assert torch.get_num_threads() == 4
