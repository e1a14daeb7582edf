"""Networks side by side: the same answers in the same order, torch's threads shared and given back."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from splitfire_batch.models.side_by_side import SideBySide


@pytest.fixture
def set_threads() -> Iterator[object]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("n_threads", "n_nets", "share"), [(1, 2, 1), (2, 2, 1), (4, 2, 2), (2, 4, 1), (3, 1, 3)]
)
def test_each_network_gets_its_share_of_the_threads(set_threads, n_threads, n_nets, share):
    set_threads(n_threads)
    found = SideBySide(n_nets).map(lambda net: (net, torch.get_num_threads()), range(n_nets))
    assert found == [(net, share) for net in range(n_nets)]
    assert torch.get_num_threads() == n_threads


def test_networks_really_run_at_the_same_time(set_threads):
    set_threads(2)
    both = threading.Barrier(2, timeout=30)
    SideBySide(2).map(lambda _: both.wait(), range(2))
    assert not both.broken


def test_a_thread_made_later_has_all_threads(set_threads):
    set_threads(4)
    SideBySide(2).map(lambda net: net, range(2))
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert found == [4]


def test_another_number_of_threads_is_noticed(set_threads):
    nets = SideBySide(2)
    set_threads(2)
    nets.map(lambda net: net, range(2))
    set_threads(4)
    assert nets.map(lambda _: torch.get_num_threads(), range(2)) == [2, 2]


def test_what_a_network_raises_is_raised(set_threads):
    set_threads(2)
    with pytest.raises(ZeroDivisionError):
        SideBySide(2).map(lambda net: 1 / net, [1, 0])
