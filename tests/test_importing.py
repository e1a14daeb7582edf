"""What is imported inside the block is not collected there, nor looked through afterwards."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from splitfire_batch.importing import uncollected


class Node:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def unfrozen() -> Iterator[None]:
    """As if nothing had been imported so before, and the collector as it was."""
    gc.unfreeze()
    yield
    gc.enable()
    gc.unfreeze()


def test_nothing_is_collected_inside_and_what_was_made_is_left_alone() -> None:
    with uncollected():
        kept = [[] for _ in range(100_000)]
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() >= len(kept)


def test_what_a_program_makes_between_two_blocks_can_still_be_collected() -> None:
    with uncollected():
        pass
    node = Node()
    found = weakref.ref(node)
    with uncollected():
        del node
    gc.collect()
    assert found() is None


def test_garbage_made_later_is_collected() -> None:
    with uncollected():
        pass
    node = weakref.ref(Node())
    gc.collect()
    assert node() is None


def test_a_collector_that_was_off_stays_off_and_an_error_turns_it_on_again() -> None:
    with pytest.raises(ImportError), uncollected():
        raise ImportError
    assert gc.isenabled()
    gc.disable()
    with uncollected():
        pass
    assert not gc.isenabled()
