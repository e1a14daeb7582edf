"""Spleeter with random weights: its networks have one size, and short segments make them quick."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from splitfire_batch.models import find_card
from splitfire_batch.models.spleeter import Spleeter
from splitfire_batch.models.spleeter_unet import UNet, _variable
from tests.small_models import Case


def random_tensors(n_stems: int, seed: int = 1) -> dict[str, Tensor]:
    """A checkpoint's variables, such that the masks of noise are anywhere between 0 and 1."""
    numbers = torch.Generator().manual_seed(seed)
    tensors = {}
    with torch.device("meta"):
        entries = UNet().state_dict()
    for instrument in range(n_stems):
        for key, value in entries.items():
            if key.endswith("num_batches_tracked"):
                continue
            shape = tuple(value.shape)
            if key.startswith("up."):  # transposed convolutions in the checkpoint: (in, out, 5, 5)
                shape = (shape[1], shape[0] // 4, 5, 5) if value.ndim == 4 else (shape[0] // 4,)
            found = torch.randn(shape, generator=numbers) * 0.1
            if value.ndim == 4:
                fan_in = shape[0] * 25 / 4 if key.startswith("up.") else shape[1] * 25
                found = (found * 10 * math.sqrt(2 / fan_in)).permute(2, 3, 1, 0)
            elif key.endswith("var") or ("norm" in key and key.endswith("weight")):
                found = 1 + found
            tensors[_variable(key, instrument)] = found.contiguous()
    return tensors


def two_stems() -> dict[str, Tensor]:
    return random_tensors(2)


def three_stems() -> dict[str, Tensor]:
    return random_tensors(3)


class Short(Spleeter):
    """Segments of 128 columns in place of 512: clips up to 1.5 s, not 6, are repeated."""

    block_columns, tile_up_to_s = 128, 1.5


class Shortest(Spleeter):
    """The least that its networks take."""

    block_columns = 32


_CARD = find_card("spleeter-2stems")
CASES = [
    # where a repeated clip gets its second and third 32 columns, and where clips are no longer repeated
    Case(
        "spleeter",
        _CARD,
        two_stems,
        build=Short,
        lengths=(28_673, 61_441, 66_151),
        rounding=1e-6,
        is_silent_on_silence=True,
    ),
    Case(
        "spleeter-reference",
        _CARD,
        two_stems,
        {"short_clip": "reference"},
        build=Shortest,
        rounding=1e-6,
        is_silent_on_silence=True,
    ),
    # what those of 5 stems are, with fewer: every network has ten million weights
    Case(
        "spleeter-softmax-16khz",
        dataclasses.replace(
            _CARD,
            stems=("vocals", "piano", "other"),
            options={"activation": "elu", "mask": "softmax", "n_bins": 1536},
        ),
        three_stems,
        {"short_clip": "reference"},
        build=Shortest,
        rounding=1e-6,
        is_silent_on_silence=True,
    ),
]
