"""The pool when machines go, memory is full or Ray loses answers: each track is settled exactly once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.pool_drills import drill


def all_settled_once(told: dict[str, Any], n_shards: int, n_tracks: int) -> bool:
    wanted = {f"s{s}t{t}": 1 for s in range(n_shards) for t in range(n_tracks)}
    return bool(told["settled"] == wanted)


@pytest.mark.slow
def test_answers_that_ray_loses_cost_no_track_and_blame_none() -> None:
    """Both the answers to our calls and those to the events that workers send."""
    lost = {
        "CoreWorkerService.grpc_client.PushTask": (2, 50, 50),
        "CoreWorkerService.grpc_client.ReportGeneratorItemReturns": (-1, 10, 10),
    }
    names = ("num_failures", "req_failure_prob", "resp_failure_prob")
    failures = {call: dict(zip(names, numbers, strict=True)) for call, numbers in lost.items()}
    told = drill("lost_replies", RAY_testing_rpc_failure=json.dumps(failures))
    assert all_settled_once(told, 4, 3)
    assert (told["suspected"], told["given_up"]) == ([], {})
    assert set(told["causes"]) <= {"connection"}


@pytest.mark.slow
def test_a_ray_of_our_own_that_loses_its_only_node_ends_the_run_to_be_resumed() -> None:
    assert "has lost its node" in drill("own_node_loss")["why"]


@pytest.mark.slow
def test_a_track_that_fills_the_memory_is_tried_twice_and_given_up_as_such() -> None:
    told = drill("full_memory")
    assert all_settled_once(told, 2, 3)
    assert told["given_up"] == {"s0t1": "OOM"}
    assert told["causes"] == ["memory", "memory"]


@pytest.mark.slow
def test_a_node_that_dies_blames_no_track_and_a_new_one_is_used() -> None:
    told = drill("node_loss_and_join")
    assert all_settled_once(told, 8, 4)
    assert told["causes"] == ["node"]
    assert (told["suspected"], told["given_up"]) == ([], {})
    assert len(told["started_again"]) <= 4  # what one worker had in flight
    assert told["n_new_since_loss"] == 1


@pytest.mark.slow
def test_a_node_that_is_taken_away_with_notice_has_finished_what_it_began() -> None:
    told = drill("preemption")
    assert all_settled_once(told, 8, 4)
    assert told["is_gone"]
    assert (told["causes"], told["started_again"]) == ([], [])
    assert told["n_workers"] == 3


@pytest.mark.slow
def test_a_track_that_takes_down_every_node_is_given_up_and_no_other() -> None:
    told = drill("felled_nodes")
    assert all_settled_once(told, 8, 4)
    assert told["causes"] == ["node", "node", "node"]
    assert told["given_up"] == {"s0t1": "WORKER_CRASH"}
