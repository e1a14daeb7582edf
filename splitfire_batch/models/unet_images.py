"""The images between the layers of a U-Net on a CPU: one piece of memory, kept from call to call.

Each image lies in a border of zeros, as the convolution that reads it wants it, and nobody writes there.

Images are (B, rows, columns, channels). Level n has been halved n times, odd numbers rounded up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Bordered:
    """Images of one level."""

    whole: Tensor
    """With the zeros around them."""
    inside: Tensor
    """A view without."""
    doubled: Tensor
    """A view with twice the rows of the level below: these may be one more, which belongs to the border."""

    def clear_border(self) -> None:
        """Zeros where `doubled` goes beyond `inside`."""
        self.doubled[:, self.inside.shape[1] :].zero_()


class Images:
    """All images of a pack.

    Args:
        shape: images, rows, columns; the latter a multiple of 64.
        widths: channels of level 0, 1 and so on.
        memory: (n,), float32, of earlier images; it is used again if it is enough.
    """

    def __init__(self, shape: tuple[int, int, int], widths: Sequence[int], memory: Tensor) -> None:
        self.shape = shape
        deepest = len(widths) - 1
        self._rows = [-(-shape[1] // 2**level) for level in range(deepest + 2)]
        for_down = [(level, 1, 3 + self._rows[level] % 2, 3) for level in range(deepest)]
        for_up = [(level, 1, 1, 1) for level in range(2, deepest)]
        borders = [*for_down, *for_up, (deepest, 1, 1, 1), *for_up, (1, 0, 0, 0)]
        shapes = [
            (
                shape[0],
                before + self._rows[level] + below,
                before + shape[2] // 2**level + right,
                widths[level],
            )
            for level, before, below, right in borders
        ]
        shapes.append((1, shape[1] + 6, shape[2] + 6, 1))
        counts = [torch.Size(each).numel() for each in shapes]
        self.memory = memory if memory.numel() >= sum(counts) else torch.empty(sum(counts))
        pieces = torch.split(self.memory[: sum(counts)].zero_(), counts)
        whole = [piece.view(each) for piece, each in zip(pieces, shapes, strict=True)]
        made = [self._bordered(*each) for each in zip(whole, borders, strict=False)]
        levels = range(2, deepest)
        self.inputs = made[:deepest]
        """What the convolutions read, by level."""
        self.skips = dict(zip(levels, made[deepest:], strict=False))
        """What the transposed convolutions read beside `ups`, by level."""
        self.bottom = made[deepest + len(levels)]
        self.ups = dict(zip((*levels, 1), made[deepest + len(levels) + 1 :], strict=True))
        """What the transposed convolutions write, by level."""
        self.plane = whole[-1][0, ..., 0]
        """The output of the outermost one, a single image with three zeros around it: (rows, columns)."""

    def _bordered(self, whole: Tensor, border: tuple[int, int, int, int]) -> Bordered:
        level, before, below, right = border
        rows, columns = whole.shape[1] - below, whole.shape[2] - right
        doubled = before + 2 * self._rows[level + 1]
        return Bordered(
            whole, whole[:, before:rows, before:columns], whole[:, before:doubled, before:columns]
        )
