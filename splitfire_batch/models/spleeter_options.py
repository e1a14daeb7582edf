"""What tells the models of the Spleeter family apart: the options of their cards.

After the configurations that the original is published with: those of 2 stems name no activation, so its code
takes its defaults; those of 4 and 5 stems name ELU, and that of 5 a softmax over the stems. The 16 kHz
variants have the same weights, and see more bins: the networks are convolutions only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from splitfire_batch.config import explain
from splitfire_batch.errors import ConfigError

BIN_STEP = 64
"""The networks halve their input six times."""
N_BINS = 1024

Activation = Literal["leaky", "elu"]
Mask = Literal["sigmoid", "softmax"]


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class SpleeterOptions:
    """Of the networks of one model."""

    activation: Activation = "leaky"
    """`leaky` is leaky ReLU with a slope of 0.2 on the way down, and ReLU on the way up."""
    mask: Mask = "sigmoid"
    """What makes of a network's output its share of the mix: of each alone, or of all stems together."""
    n_bins: int = Field(default=N_BINS, strict=True, ge=BIN_STEP, le=2048, multiple_of=BIN_STEP)
    """Bins the networks see, of 2,049: 1,024 reach up to 11 kHz, 1,536 up to 16.5 kHz."""


PLAIN = SpleeterOptions()
"""Those of 2 stems."""


def read_options(model: str, options: Mapping[str, Any]) -> SpleeterOptions:
    """The options of a card.

    Args:
        model: its name, for the message.
        options: as they stand in the registry.

    Raises:
        ConfigError: an unknown key (the known ones are listed) or a value that the networks cannot have.
    """
    try:
        return TypeAdapter(SpleeterOptions).validate_python(dict(options))
    except ValidationError as error:
        faults = "; ".join(explain(SpleeterOptions, item) for item in error.errors())
        raise ConfigError(f"the options of {model} in the registry are not Spleeter's: {faults}") from None
