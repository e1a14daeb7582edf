"""Hybrid Demucs: with a transformer, four stems and six, and without one."""

from __future__ import annotations

from tests.demucs_networks import SMALL, SMALL_SIX, SMALL_V3, Network
from tests.small_models import Case


def case(network: Network, name: str = "", **settings: object) -> Case:
    return Case(
        name or network.name, network.card, lambda: network.tensors, settings, is_silent_on_silence=False
    )


CASES = [
    case(SMALL),
    case(SMALL, "small-htdemucs-reference", tail="reference"),
    case(SMALL_SIX),
    case(SMALL_V3),
]
