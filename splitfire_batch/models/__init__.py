"""Separation models behind one contract, `segments.Model`: `load_model` makes them from the settings.

`registry` says what there is, `weights` gets it, and one module per architecture computes. Torch takes
seconds to import, so the names below come without it until a model is loaded.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from splitfire_batch.config import SeparationConfig
from splitfire_batch.errors import ConfigError
from splitfire_batch.models.members import needed_cards
from splitfire_batch.models.registry import (
    ARCHITECTURES,
    ENSEMBLE,
    ModelCard,
    check_commercial,
    find_card,
    model_cards,
    weights_id,
    with_members,
)
from splitfire_batch.models.supply import NOTHING_SET, Supply, supply_of, supply_of_worker
from splitfire_batch.models.user_registry import use_registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from splitfire_batch.models.ensemble import Loaded
    from splitfire_batch.models.precision import Arithmetic
    from splitfire_batch.segments import Model
else:  # its module imports torch; elsewhere the name stands in annotations only
    Loaded = "Loaded"

__all__ = [
    "ENSEMBLE",
    "Loaded",
    "ModelCard",
    "Supply",
    "check_commercial",
    "fetch_weights",
    "find_card",
    "load_model",
    "model_cards",
    "supply_of",
    "supply_of_worker",
    "use_registry",
    "weights_id",
    "with_members",
]


Weights = Mapping[str, "Tensor"]
"""A model's tensors by their published names, on the CPU."""


class Build(Protocol):
    """What every architecture's module has under the name `build`."""

    def __call__(
        self,
        card: ModelCard,
        weights: Weights,
        separation: SeparationConfig,
        arithmetic: Arithmetic,
        texts: Mapping[str, str] | None = None,
    ) -> Model:
        """The model of a card; `texts` are its YAML and JSON files by name, see `weights.load_texts`.

        Raises:
            ConfigError: tensors that do not fit, an extra that is not installed.
        """


def load_model(
    separation: SeparationConfig,
    device: str,
    supply: Supply = NOTHING_SET,
    is_compiled: bool = False,
    is_channels_last: bool = True,
) -> Loaded:
    """The model or ensemble that the settings name, with its weights on a device, ready to call.

    In another precision than fp32, or compiled, it is tried on a few seconds of music before it is given
    out, and has to keep the floor of `fidelity.FLOORS_DB`.

    Args:
        separation: names the model and what changes its estimates.
        device: `cpu`, `cuda` or `cuda:<n>`.
        supply: where its weights may come from.
        is_compiled: let `torch.compile` fuse the networks; up to a minute for each shape at first.
        is_channels_last: keep channels innermost in memory.

    Raises:
        ConfigError: an unknown model or device, weights that cannot be had, a precision that the device
            lacks or that is further from fp32 than it may be, no compiler.
        TransientError: a source of its weights does not answer.
    """
    from splitfire_batch.models.precision import Arithmetic

    card = find_card(separation.model)
    if card.members or card.architecture == ENSEMBLE:
        from splitfire_batch.models.ensemble import load_ensemble

        return load_ensemble(
            card, separation, lambda one: load_model(one, device, supply, is_compiled, is_channels_last)
        )
    build = _builder(card)
    arithmetic = Arithmetic(separation.precision, _device(device), is_compiled, is_channels_last)
    weights, texts = _weights(card, supply)
    model = build(card, weights, separation, arithmetic, texts)
    if card.files and (separation.precision != "fp32" or is_compiled):
        from splitfire_batch.models.fidelity import check_fidelity

        exact = build(card, weights, separation, Arithmetic("fp32", arithmetic.device), texts)
        check_fidelity(model, exact, separation.precision)
    return model


def _builder(card: ModelCard) -> Build:
    """The `build` of an architecture's module; its package may be an extra."""
    if card.architecture not in ARCHITECTURES:
        raise ConfigError(f"{card.name}: this version has no architecture {card.architecture!r}; upgrade it")
    build: Build = importlib.import_module(f"{__name__}.{ARCHITECTURES[card.architecture]}").build
    return build


def _weights(card: ModelCard, supply: Supply) -> tuple[Weights, Mapping[str, str]]:
    """A card's tensors and texts, of one file that was verified once."""
    if not card.files:
        return {}, {}
    from safetensors.torch import load_file

    from splitfire_batch.models.conversion import read_texts
    from splitfire_batch.models.weights import fetch_weights

    path = fetch_weights(card, supply)
    return load_file(path), read_texts(path)


def fetch_weights(separation: SeparationConfig, supply: Supply = NOTHING_SET) -> tuple[Path, ...]:
    """The cached, verified weights that the settings need, a file for each member that has any.

    Args:
        separation: as for `load_model`, which needs no others.
        supply: where they may come from.

    Raises:
        ConfigError: no source has them; the message says which file to put where.
        TransientError: none has them, and one does not answer.
    """
    from splitfire_batch.models import weights

    return tuple(weights.fetch_weights(card, supply) for card in needed_cards(separation) if card.files)


def _device(name: str) -> torch.device:
    import torch

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device: found {name!r}, wanted cpu, cuda or cuda:<n>") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device: found {name!r}, wanted cpu, cuda or cuda:<n>")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device: found {name!r}, but torch sees {torch.cuda.device_count()} CUDA devices")
    return device
