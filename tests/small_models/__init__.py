"""Small random networks of every architecture, each in a module of its own that lists its `CASES`.

`tests/test_model_contract.py` holds all of them to one contract. A new architecture adds a module here, and
nothing there. The networks are as small as their architecture allows, and always the same.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from splitfire_batch.config import Precision, SeparationConfig
from splitfire_batch.models import Build, _builder
from splitfire_batch.models.precision import Arithmetic
from splitfire_batch.models.registry import ModelCard
from splitfire_batch.segments import Model

TWO_LSB = 2 * 2.0**-23
"""Of 24 bit, full scale being 1: what batches of other shapes may change (DESIGN §2)."""


@dataclass(frozen=True, eq=False)
class Case:
    """One small model, and what the contract has to know of it."""

    name: str
    """Shown in the test's name; unique."""
    card: ModelCard
    weights: Callable[[], Mapping[str, Tensor]] = dict
    """Its tensors by their published names; the same at every call."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of SeparationConfig, besides `stems`, `residual` and `precision`."""
    build: Build | None = None
    """Default: the architecture's own."""
    lengths: tuple[int, ...] = ()
    """Of tracks, in frames, where its segmentation does something special."""
    rounding: float = TWO_LSB
    """What batches of other shapes may change; random weights may amplify it more than trained ones."""
    is_silent_on_silence: bool = False
    """Whether silence must come out as silence; where biases are added after the mask it may not."""

    def __str__(self) -> str:
        return self.name

    def separation(self, **settings: Any) -> SeparationConfig:
        """Its settings with these; by default all estimates are written as they are."""
        return SeparationConfig(**{"model": self.card.name, "residual": "drop", **self.settings, **settings})

    def model(self, device: str = "cpu", precision: Precision = "fp32", **settings: Any) -> Model:
        """Built for these settings."""
        build, arithmetic = self.build or _builder(self.card), Arithmetic(precision, torch.device(device))
        separation = self.separation(precision=precision, **settings)
        return build(self.card, _made(self.weights), separation, arithmetic)


@functools.cache
def _made(weights: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    return weights()


@functools.cache
def cases() -> tuple[Case, ...]:
    """Those of every module of this package."""
    modules = sorted(module.name for module in pkgutil.iter_modules(__path__))
    found = [case for name in modules for case in importlib.import_module(f"{__name__}.{name}").CASES]
    return tuple(found)
