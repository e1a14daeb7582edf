"""Many actors whose devices only sleep, on many nodes: nothing is lost, and none is idle for long."""

from __future__ import annotations

import pytest

from tests.pool_simulation import Simulation, simulate


def test_sixteen_actors_settle_every_shard_once_and_are_busy(capsys: pytest.CaptureFixture[str]) -> None:
    """They sleep on purpose, so a machine that is busy with other things may still show it."""
    found = simulate(Simulation(n_actors=16, n_nodes=1, shard_s=0.5, n_shards=160))
    with capsys.disabled():
        print(f"\npool of 16: busy {found.busy:.0%}, {found.busy_all:.0%} to the end")
    assert (found.n_settled, found.n_settled_twice, found.n_begun_again) == (160, 0, 0)
    assert found.n_workers == 16
    assert found.busy >= 0.9


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_nodes_that_die_and_join_cost_no_shard_and_settle_none_twice() -> None:
    found = simulate(Simulation(16, 8, 2.0, 16 * 15, n_tracks=4, remove_nodes=2, add_nodes=1))
    assert (found.n_settled, found.n_settled_twice) == (16 * 15 * 4, 0)
    assert found.n_begun_again <= 2 * 2 * 2  # on each of four actors one track, in at most two shards
