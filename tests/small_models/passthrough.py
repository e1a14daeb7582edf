"""The model without weights, with short segments."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from splitfire_batch.config import SeparationConfig
from splitfire_batch.models import find_card
from splitfire_batch.models.passthrough import Passthrough
from splitfire_batch.models.precision import Arithmetic
from splitfire_batch.models.registry import ModelCard
from tests.small_models import Case


def short(
    card: ModelCard,
    weights: Mapping[str, Tensor],  # noqa: ARG001
    separation: SeparationConfig,
    arithmetic: Arithmetic,
) -> Passthrough:
    return Passthrough(card, arithmetic.device, 1_000, separation)


CASES = [Case("passthrough", find_card("passthrough"), build=short, is_silent_on_silence=True)]
