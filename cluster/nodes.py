"""The machines of the connected Ray: which are there, and which are about to be taken away."""

from __future__ import annotations

import ray
from ray._private.state import state  # Ray says nowhere else that a node is being drained

LOOK_S = 1.0
"""How often it is asked which nodes are being drained."""


def is_alive(node_id: str) -> bool:
    """Whether Ray still counts that node in."""
    return any(node["NodeID"] == node_id and node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]


def are_any_alive() -> bool:
    """Whether there is still a machine to work on."""
    return any(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]


def count_places(cpus: float, gpus: float, draining: frozenset[str]) -> int:
    """How many actors with these reservations the machines have room for, but for those that are drained."""
    alive = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in draining]  # type: ignore[no-untyped-call]
    wanted = {name: each for name, each in (("CPU", cpus), ("GPU", gpus)) if each}
    rooms = ((node["Resources"].get(name, 0.0) / each for name, each in wanted.items()) for node in alive)
    return sum(int(min(room, default=0.0) + 1e-6) for room in rooms)


def draining_nodes() -> frozenset[str]:
    """Ids of nodes that got notice: spot instances to be taken back, and those that are scaled down."""
    return frozenset(state.get_draining_nodes())
