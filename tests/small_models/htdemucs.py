"""Hybrid Demucs: with a transformer, four stems and six, and without one."""

from __future__ import annotations

from tests.demucs_networks import SMALL, SMALL_SIX, SMALL_V3, Network
from tests.small_models import Case

ROUNDING = 8 * 2.0**-23
"""Batches of other shapes change products in the last bits, and a transformer's random weights make more of
it than trained ones would: up to 7e-7 was found."""


def case(network: Network, name: str = "", **settings: object) -> Case:
    """It computes biases from silence, so silence does not come out as silence."""
    return Case(name or network.name, network.card, lambda: network.tensors, settings, rounding=ROUNDING)


CASES = [
    case(SMALL),
    case(SMALL, "small-htdemucs-reference", tail="reference"),
    case(SMALL_SIX),
    case(SMALL_V3),
]
