"""Convolutions on a CPU as matrix products: of gathered windows, or Winograd's F(4 x 4, 3 x 3).

Winograd's is after Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, equations
8 to 15: patches of 6 x 6 pixels that overlap by two are transformed, multiplied by transformed kernels, which
is 36 matrix products, and transformed back to 4 x 4 pixels of output. That takes a quarter of the
multiplications; in float32 it agrees with a direct convolution to about 110 dB. Images with few rows take
F(2 x 4, 3 x 3): patches of 4 x 6 pixels, a third of the multiplications.

Images are (B, rows, columns, channels). Axes: B images, C channels in, N channels out, T x U patches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

TILE = 4
"""Columns of output that one patch gives, and rows where there are enough."""
_MAX_PATCHES = 128
"""Patches transformed at a time: what they need lies in a core's own cache."""

_MATRICES = {
    2: (
        ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
        ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
        ((1, 1, 1, 0), (0, 1, -1, -1)),
    ),
    4: (
        (
            *((4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0)),
            *((0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1)),
        ),
        (
            *((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6)),
            *((1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1)),
        ),
        ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
    ),
}
"""By pixels of output along an axis: the transforms of inputs, kernels and outputs."""
_MOST_OF_TAPS = 0.75
"""If no more of the kernels' rows meet an image, rows of output are computed one by one."""
_EVERYWHERE = 7
"""What is added to this product, (1, 1) of (rows, 6), comes out in every pixel: those columns of the outputs'
transforms are ones."""


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

    def piece_of(self, taken: Tensor) -> int:
        """Which piece a tensor lies in."""
        return int(taken.data_ptr() != self._pieces[0].data_ptr())


class Product:
    """A convolution with kernels (N, C, height, width) and a bias (N), as matrix products.

    Args:
        kernel: of all images that will be joined.
        bias: (N,).
        n_channels: of each image; C in sum.
        stride: of rows, as in the windows that it will get.
    """

    def __init__(self, kernel: Tensor, bias: Tensor, n_channels: Sequence[int], stride: int = 1) -> None:
        parts = torch.split(kernel, list(n_channels), dim=1)
        flat = [part.permute(2, 3, 1, 0).flatten(1, 2) for part in parts]
        self._kernel, self._bias = torch.cat(flat, dim=1).float().contiguous(), bias.float()
        self._stride, self.n_out = stride, len(kernel)

    def convolve(self, parts: Sequence[Tensor], scratch: Scratch, n_rows: int, n_kept: int) -> Tensor:
        """The convolution (B, rows, columns, N), in scratch.

        Where an image has few rows, most rows of the kernel meet nothing but the zeros above and below it:
        these are not multiplied.

        Args:
            parts: what `windows` gives of each image, (B, rows, columns, height, width * C); a row of zeros
                lies above the images.
            n_rows: of the images, without the zeros.
            n_kept: rows of the output that are wanted; those below may be anything finite.
        """
        n_images, n_out, n_columns, height = parts[0].shape[:4]
        taps = [_taps(self._stride * row, height, n_rows) for row in range(min(n_out, n_kept))]
        if sum(map(len, taps)) > _MOST_OF_TAPS * n_out * height:
            out = scratch.take(1, n_images, n_out, n_columns, self.n_out)
            self._multiply(parts, slice(None), scratch, out)
            return out
        rows = scratch.take(1, n_out, n_images, 1, n_columns, self.n_out)
        rows[len(taps) :].zero_()
        for row, (own, out) in enumerate(zip(taps, rows, strict=False)):
            reached = slice(own.start, own.stop)
            self._multiply([part[:, row : row + 1, :, reached] for part in parts], reached, scratch, out)
        return rows.squeeze(2).transpose(0, 1)

    def _multiply(self, parts: Sequence[Tensor], taps: slice, scratch: Scratch, out: Tensor) -> None:
        """The product of windows with some rows of the kernel; `out` is contiguous."""
        kernel = self._kernel[taps]
        gathered = scratch.take(0, *parts[0].shape[:3], *kernel.shape[:2])
        _join(parts, gathered)
        flat = gathered.view(-1, kernel.shape[0] * kernel.shape[1])
        torch.addmm(self._bias, flat, kernel.flatten(0, 1), out=out.view(-1, self.n_out))


class Winograd:
    """A convolution with kernels (N, C, 3, 3), stride 1, and a bias (N).

    Args:
        n_rows: rows of output that one patch gives, 2 or 4; its columns are `TILE`.
    """

    def __init__(self, kernel: Tensor, bias: Tensor, n_rows: int = TILE) -> None:
        self.n_rows = n_rows
        rows, columns = _MATRICES[n_rows], _MATRICES[TILE]
        products = torch.einsum("xi,ncij,yj->xycn", _matrix(rows[1]), kernel.double(), _matrix(columns[1]))
        self._kernel, self._bias = products.flatten(0, 1).float().contiguous(), bias.float()
        self._input, self._output = ((_matrix(rows[i]).float(), _matrix(columns[i]).float()) for i in (0, 2))

    def convolve(self, parts: Sequence[Tensor], scratch: Scratch) -> Iterator[tuple[slice, Tensor]]:
        """The convolution of some images joined, given what `patches` makes of each.

        Yields:
            Rows of patches, and their output (n_rows, 4, B, rows, U, N): pixel (i, j) of each patch. It lies
            in scratch: use it before you go on.
        """
        n_points, n_in, n_out = self._kernel.shape
        height, width, n_images, n_patch_rows, n_columns = parts[0].shape[:5]
        step = max(1, _MAX_PATCHES // (n_images * n_columns))
        for first in range(0, n_patch_rows, step):
            rows = slice(first, min(first + step, n_patch_rows))
            shape = n_images, rows.stop - first, n_columns
            n = torch.Size(shape).numel()
            gathered = scratch.take(0, height, width, n * n_in)
            _join([part[:, :, :, rows] for part in parts], gathered.view(height, width, *shape, n_in))
            transformed = _transformed(gathered, *self._input, scratch)
            products = scratch.take(1, n_points, n, n_out)
            torch.bmm(transformed.view(n_points, n, n_in), self._kernel, out=products)
            products[_EVERYWHERE] += self._bias
            out = _transformed(products.view(height, width, -1), *self._output, scratch)
            yield rows, out.view(self.n_rows, TILE, *shape, n_out)


def _transformed(x: Tensor, rows: Tensor, columns: Tensor, scratch: Scratch) -> Tensor:
    """rows @ x @ columns.T for each x[:, :, i]: (height, width, n), in the piece of scratch that x lies in.

    One axis after the other: with a single matrix for both it would be thrice the multiplications.
    """
    piece = scratch.piece_of(x)
    once = scratch.take(1 - piece, len(rows), x[0].numel())
    torch.mm(rows, x.flatten(1), out=once)
    twice = scratch.take(piece, len(rows), len(columns), x.shape[2])
    each = columns.expand(len(rows), *columns.shape)
    return torch.bmm(each, once.view(len(rows), x.shape[1], -1), out=twice)


def _matrix(rows: tuple[tuple[float, ...], ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def windows(images: Tensor, size: tuple[int, int], stride: int = 1) -> Tensor:
    """All windows (B, rows, columns, height, width * C) of images, a view."""
    (height, width), (n_images, n_rows, n_columns, n_channels) = size, images.shape
    image, row, column, _ = images.stride()
    counts = (n_rows - height) // stride + 1, (n_columns - width) // stride + 1
    shape = (n_images, *counts, height, width * n_channels)
    return images.as_strided(shape, (image, stride * row, stride * column, row, 1), images.storage_offset())


def in_fours(kernel: Tensor) -> Tensor:
    """Kernel (N, 4 C, 3, 3) that does to squares of 2 x 2 pixels what (N, C, 5, 5) does, stride 2."""
    n_out, n_in = kernel.shape[:2]
    squares = torch.nn.functional.pad(kernel, (0, 1, 0, 1)).reshape(n_out, n_in, 3, 2, 3, 2)
    return squares.permute(0, 3, 5, 1, 2, 4).reshape(n_out, 4 * n_in, 3, 3)


def patches_in_fours(images: Tensor, n_rows: int) -> Tensor:
    """The patches (n_rows + 2, 6, B, T, U, 2, 2 C), a view, of the 2 x 2 squares of images.

    These are (B, 2 (n_rows T + 2), 2 (4 U + 2), C).
    """
    image, row, column, _ = images.stride()
    n_images, height, width, n_channels = images.shape
    counts = n_images, (height // 2 - 2) // n_rows, (width // 2 - 2) // TILE
    shape = n_rows + 2, TILE + 2, *counts, 2, 2 * n_channels
    strides = 2 * row, 2 * column, image, 2 * n_rows * row, 2 * TILE * column, row, 1
    return images.as_strided(shape, strides, images.storage_offset())


def patches(images: Tensor, n_rows: int = TILE) -> Tensor:
    """The patches (n_rows + 2, 6, B, T, U, C), a view, of images (B, n_rows T + 2, 4 U + 2, C)."""
    image, row, column, _ = images.stride()
    n_images, height, width, n_channels = images.shape
    shape = n_rows + 2, TILE + 2, n_images, (height - 2) // n_rows, (width - 2) // TILE, n_channels
    strides = (row, column, image, n_rows * row, TILE * column, 1)
    return images.as_strided(shape, strides, images.storage_offset())


def _taps(first: int, height: int, n_rows: int) -> range:
    """Those rows of a kernel that meet an image of `n_rows`, if the kernel begins at `first` - 1."""
    return range(max(0, 1 - first), min(height, n_rows + 1 - first))


def _join(parts: Sequence[Tensor], out: Tensor) -> None:
    """Copy all parts beside each other into the last axis of `out`, the axes they have more into one."""
    first = 0
    for part in parts:
        width = part.shape[out.ndim - 1 :].numel()
        out[..., first : first + width].view(part.shape).copy_(part)
        first += width
