"""The activations of Spleeter's U-Nets on a CPU, each in the form in which the layers write their output.

ELU is max(x, exp(min(x, 0)) - 1), for exp(x) - 1 >= x: three plain passes. Torch's own is no slower, but it
rounds differently in the elements that do not fill a vector, whose places depend on the threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from splitfire_batch.models.spleeter_options import Activation
from splitfire_batch.models.spleeter_unet import SLOPE

_ROWS = 8
"""Of an image at a time: what three passes need lies in a core's own cache."""


@dataclass(frozen=True, slots=True)
class Activations:
    """Those of one network."""

    down: Callable[[Tensor, Tensor], None]
    """(x, out): write the activation of x (B, rows, columns, N)."""
    up: Callable[[Tensor, Tensor, Tensor, Tensor], None]
    """(x, floor, spare, out): write the activation plus the floor; `spare` is memory of the size of x."""
    is_shifted: bool
    """Whether x must already have the floor added to it, as the bias of a convolution does for nothing."""


def _leaky_relu(x: Tensor, out: Tensor) -> None:
    torch.ops.aten.leaky_relu.out(x, SLOPE, out=out)


def _relu_plus(x: Tensor, floor: Tensor, spare: Tensor, out: Tensor) -> None:  # noqa: ARG001
    """max(x, 0) + floor is max(x + floor, floor)."""
    torch.maximum(x, floor, out=out)


def _elu(x: Tensor, out: Tensor) -> None:
    for part, target in zip(torch.split(x, _ROWS, dim=1), torch.split(out, _ROWS, dim=1), strict=True):
        torch.clamp(part, max=0, out=target)
        torch.maximum(part, target.expm1_(), out=target)


def _elu_plus(x: Tensor, floor: Tensor, spare: Tensor, out: Tensor) -> None:
    torch.clamp(x, max=0, out=spare)
    torch.maximum(x, spare.expm1_(), out=spare)
    torch.add(spare, floor, out=out)


ACTIVATIONS: dict[Activation, Activations] = {
    "leaky": Activations(_leaky_relu, _relu_plus, is_shifted=True),
    "elu": Activations(_elu, _elu_plus, is_shifted=False),
}
