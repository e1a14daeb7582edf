"""Spleeter's models for tests: building one takes a second, and nothing that it computes changes it."""

from __future__ import annotations

import torch
from torch import Tensor

from splitfire_batch.config import SeparationConfig
from splitfire_batch.models import ModelCard
from splitfire_batch.models.precision import Arithmetic
from splitfire_batch.models.spleeter import Spleeter

_N_KEPT = 2
_kept: dict[tuple[object, ...], tuple[Spleeter, object, object]] = {}
"""The last ones, by what they were built of; that is kept, too, so that no other has its id."""


def spleeter(card: ModelCard, weights: dict[str, Tensor], **settings: object) -> Spleeter:
    """With all estimates by default; in float32, on the CPU."""
    key = (id(card), id(weights), *sorted(settings.items()))
    if key not in _kept:
        separation = SeparationConfig(**{"residual": "drop", **settings})  # type: ignore[arg-type]
        arithmetic = Arithmetic("fp32", torch.device("cpu"))
        _kept[key] = Spleeter(card, weights, separation, arithmetic), card, weights
        if len(_kept) > _N_KEPT:
            del _kept[next(iter(_kept))]
    return _kept[key][0]
