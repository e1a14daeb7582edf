"""Convolutions on a CPU as matrix products: of gathered windows, or Winograd's F(4 x 4, 3 x 3).

Winograd's is after Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, equations
8 to 15: patches of 6 x 6 pixels that overlap by two are transformed, multiplied by transformed kernels, which
is 36 matrix products, and transformed back to 4 x 4 pixels of output. That takes a quarter of the
multiplications; in float32 it agrees with a direct convolution to about 110 dB.

Images are (rows, columns, channels). Axes: C channels in, N channels out, T x U patches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

TILE = 4
"""Rows and columns of output that one patch gives."""
_PATCH = 6
_MAX_PATCHES = 1024
"""Patches transformed at a time: more would only cost memory."""

_INPUT = (
    *((4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0)),
    *((0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1)),
)
_KERNEL_24 = ((6, 0, 0), (-4, -4, -4), (-4, 4, -4), (1, 2, 4), (1, -2, 4), (0, 0, 24))
"""The kernels' transform, times 24."""
_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))
_EVERYWHERE = 7
"""What is added to this product comes out in each of the 16 pixels: the second column of _OUTPUT is ones."""


class Scratch:
    """Two pieces of memory that the convolutions of a network use, one after the other."""

    def __init__(self) -> None:
        self._pieces = [torch.empty(0), torch.empty(0)]

    def take(self, piece: int, *shape: int) -> Tensor:
        """A tensor of that shape in piece 0 or 1; whatever was taken there before is lost."""
        n = torch.Size(shape).numel()
        if self._pieces[piece].numel() < n:
            self._pieces[piece] = torch.empty(n)
        return self._pieces[piece][:n].view(shape)


class Product:
    """A convolution with kernels (N, C, height, width) and a bias (N), as one matrix product."""

    def __init__(self, kernel: Tensor, bias: Tensor, n_channels: Sequence[int]) -> None:
        """Args: `n_channels`: of each image that will be joined; C in sum."""
        parts = torch.split(kernel, list(n_channels), dim=1)
        flat = [part.permute(2, 3, 1, 0).reshape(-1, len(kernel)) for part in parts]
        self._kernel, self._bias = torch.cat(flat).float(), bias.float()
        self.n_out = len(kernel)

    def convolve(self, parts: Sequence[Tensor], scratch: Scratch) -> Tensor:
        """The convolution (rows, columns, N), in scratch, of what `windows` gives of each image."""
        gathered = scratch.take(0, *parts[0].shape[:2], len(self._kernel))
        _join(parts, gathered)
        out = scratch.take(1, *gathered.shape[:2], self.n_out)
        torch.addmm(self._bias, gathered.flatten(0, 1), self._kernel, out=out.view(-1, self.n_out))
        return out


class Winograd:
    """A convolution with kernels (N, C, 3, 3), stride 1, and a bias (N)."""

    def __init__(self, kernel: Tensor, bias: Tensor) -> None:
        left = torch.tensor(_KERNEL_24, dtype=torch.float64) / 24
        products = torch.einsum("xi,ncij,yj->xycn", left, kernel.double(), left)
        self._kernel, self._bias = products.flatten(0, 1).float().contiguous(), bias.float()
        both = (torch.tensor(matrix, dtype=torch.float32) for matrix in (_INPUT, _OUTPUT))
        self._input, self._output = (torch.kron(matrix, matrix) for matrix in both)

    def convolve(self, parts: Sequence[Tensor], scratch: Scratch) -> Iterator[tuple[slice, Tensor]]:
        """The convolution of some images joined, given what `patches` makes of each.

        Yields:
            Rows of patches, and their output (4, 4, rows, U, N): pixel (i, j) of each patch. It lies in
            scratch: use it before you go on.
        """
        n_in, n_out = self._kernel.shape[1:]
        n_rows, n_columns = parts[0].shape[2:4]
        step = max(1, _MAX_PATCHES // n_columns)
        for first in range(0, n_rows, step):
            rows = slice(first, min(first + step, n_rows))
            n = (rows.stop - first) * n_columns
            gathered = scratch.take(0, _PATCH, _PATCH, rows.stop - first, n_columns, n_in)
            _join([part[:, :, rows] for part in parts], gathered)
            transformed = scratch.take(1, _PATCH**2, n, n_in)
            torch.mm(self._input, gathered.view(_PATCH**2, -1), out=transformed.view(_PATCH**2, -1))
            products = torch.bmm(transformed, self._kernel, out=scratch.take(0, _PATCH**2, n, n_out))
            products[_EVERYWHERE] += self._bias
            out = scratch.take(1, TILE, TILE, rows.stop - first, n_columns, n_out)
            torch.mm(self._output, products.view(_PATCH**2, -1), out=out.view(TILE**2, -1))
            yield rows, out


def inner(image: Tensor, before: int, after: int) -> Tensor:
    """The image without its border."""
    return image[before : image.shape[0] - after, before : image.shape[1] - after]


def windows(image: Tensor, size: tuple[int, int], stride: int = 1) -> Tensor:
    """All windows (rows, columns, height, width * C) of an image, a view."""
    (height, width), (n_rows, n_columns, n_channels) = size, image.shape
    row, column, _ = image.stride()
    counts = (n_rows - height) // stride + 1, (n_columns - width) // stride + 1
    shape = (*counts, height, width * n_channels)
    return image.as_strided(shape, (stride * row, stride * column, row, 1), image.storage_offset())


def patches(image: Tensor) -> Tensor:
    """The patches (6, 6, T, U, C), a view, of an image (4 T + 2, 4 U + 2, C)."""
    row, column, _ = image.stride()
    shape = (_PATCH, _PATCH, image.shape[0] // TILE, image.shape[1] // TILE, image.shape[2])
    return image.as_strided(shape, (row, column, TILE * row, TILE * column, 1), image.storage_offset())


def _join(parts: Sequence[Tensor], out: Tensor) -> None:
    """Copy all parts beside each other into the last axis of `out`, the axes they have more into one."""
    first = 0
    for part in parts:
        width = part.shape[out.ndim - 1 :].numel()
        out[..., first : first + width].view(part.shape).copy_(part)
        first += width
