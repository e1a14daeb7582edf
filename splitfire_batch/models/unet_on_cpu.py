"""Spleeter's U-Net for CPUs: what `spleeter_unet.UNet` computes, with half the multiplications, few copies.

Convolutions are Winograd's or matrix products where that is faster. Normalisations are part of their
neighbours: before a leaky ReLU in the weights of the convolution, and the skip takes it back; after a ReLU,
max(x, 0) g + h = max(x + h/g, h/g) g, where the next convolution multiplies by g. What one layer writes is
what the next one reads, zeros around it and all, in memory that is kept from call to call.

Images are (rows, columns, channels). Axes: B batch, F STFT columns, K bins, N channels of an output.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitfire_batch.models.convolutions import TILE, Product, Scratch, Winograd, inner, patches, windows
from splitfire_batch.models.spleeter_unet import UNet

_SLOPE = 0.2
_MIN_PATCHES = 32
"""With fewer, reading Winograd's larger kernels takes longer than the multiplications they save."""
_PARITIES = tuple(product((0, 1), (0, 1)))
"""Pixels of a transposed convolution of stride 2 are of four kinds: in even or odd rows and columns."""


def is_suited(net: UNet) -> bool:
    """Whether no normalisation multiplies by (almost) zero: `UNetOnCpu` divides by what they multiply by."""
    return all(
        bool(_affine(cast(nn.BatchNorm2d, norm))[0].abs().min() > 1e-6)
        for norm in (*net.down_norm, *net.up_norm)
    )


class UNetOnCpu:
    """(B, 2, F, K) magnitudes -> sigmoid of the same shape; F and K multiples of 64.

    Image by image, so that the batch cannot matter. Not for two threads at a time.
    """

    def __init__(self, net: UNet) -> None:
        down, up = (cast("list[nn.Conv2d]", list(layers)) for layers in (net.down, net.up))
        down_norm, up_norm = (cast("list[nn.BatchNorm2d]", list(x)) for x in (net.down_norm, net.up_norm))
        self._down = [_Down(conv, norm) for conv, norm in zip(down, down_norm, strict=False)]
        self._bottom = Product(down[-1].weight, _bias(down[-1]), [down[-1].in_channels])
        gains = [_affine(norm)[0] for norm in up_norm]
        kernels = [_merged(*layer) for layer in zip(up, up_norm, [None, *gains], strict=False)]
        self._up = [_Up(*kernel) for kernel in kernels[:-1]]
        self._outermost = _Outermost(*kernels[-1], self._down[0])
        self._last = (net.last.weight * gains[-1]).float(), net.last.bias
        self._scratch = Scratch()
        self._memory = torch.empty(0)
        self._shape = torch.Size()

    def __call__(self, x: Tensor) -> Tensor:
        return torch.stack([self._sigmoid(image) for image in x])

    def _sigmoid(self, magnitude: Tensor) -> Tensor:
        """(2, F, K) -> the same."""
        if magnitude.shape != self._shape:
            self._shape = magnitude.shape
            self._allocate(*magnitude.shape[1:])
        inner(self._inputs[0], 1, 2).copy_(magnitude.permute(1, 2, 0))
        for layer, image, skip, following in zip(
            self._down, self._inputs[:-1], [None, *self._skips], self._inputs[1:], strict=True
        ):
            normalised = layer.convolve(image)
            if skip is None:
                first = normalised
            else:
                layer.undo_norm(normalised, out=inner(skip, 1, 1))
            torch.ops.aten.leaky_relu.out(normalised, _SLOPE, out=inner(following, 1, 2))
        bottom = self._bottom.convolve([windows(self._inputs[-1], (5, 5), stride=2)], self._scratch)
        inner(self._deepest, 1, 1).copy_(bottom)
        images = [self._deepest]
        for up, out, skip in zip(self._up, self._ups, [*reversed(self._skips), first], strict=True):
            border = 0 if skip is first else 1
            up.convolve(images, self._scratch, out=inner(out, border, border))
            images = [skip, out]
        self._outermost.convolve(images[0], images[1], self._scratch, out=inner(self._plane, 3, 3))
        return functional.conv2d(self._plane[None, None], *self._last, dilation=2)[0].sigmoid_()

    def _allocate(self, n_rows: int, n_columns: int) -> None:
        """Cut the images of all layers out of one piece of memory; nobody will write on their borders."""
        sizes = [(n_rows >> level, n_columns >> level) for level in range(7)]
        widths = [2, *(layer.n_out for layer in self._down)]
        shapes: list[tuple[int, ...]] = [(h + 3, w + 3, n) for (h, w), n in zip(sizes, widths, strict=False)]
        shapes += [(h + 2, w + 2, n) for (h, w), n in zip(sizes[2:6], widths[2:], strict=True)]
        shapes += [(sizes[6][0] + 2, sizes[6][1] + 2, self._bottom.n_out)]
        shapes += [(h + 2, w + 2, up.n_out) for (h, w), up in zip(sizes[5:1:-1], self._up, strict=False)]
        shapes += [(*sizes[1], self._up[-1].n_out), (n_rows + 6, n_columns + 6)]
        counts = [torch.Size(shape).numel() for shape in shapes]
        if self._memory.numel() < sum(counts):
            self._memory = torch.empty(sum(counts))
        pieces = torch.split(self._memory[: sum(counts)].zero_(), counts)
        images = [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]
        self._inputs, self._skips, self._deepest = images[:6], images[6:10], images[10]
        self._ups, self._plane = images[11:16], images[16]


class _Down:
    """A convolution (5 x 5, stride 2) with the normalisation behind it."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        gain, shift = _affine(norm)
        self.n_out = len(gain)
        self.undo = 1 / gain, -shift / gain
        """What the convolution alone would give is the normalised output times the first, plus the second."""
        self._undo = self.undo[0].float(), self.undo[1].float()
        kernel = (conv.weight * gain[:, None, None, None]).float()
        self._kernel = kernel.contiguous(memory_format=torch.channels_last)
        self._bias = (_bias(conv) * gain + shift).float()

    def convolve(self, image: Tensor) -> Tensor:
        """Normalised output, of an image with one row and column of zeros before and two behind."""
        out = functional.conv2d(image.permute(2, 0, 1)[None], self._kernel, self._bias, stride=2)
        return out[0].permute(1, 2, 0)

    def undo_norm(self, normalised: Tensor, out: Tensor) -> None:
        """Write what the convolution alone would give: that is what the skip wants."""
        torch.addcmul(self._undo[1], normalised, self._undo[0], out=out)


class _Up:
    """A transposed convolution (5 x 5, stride 2) of joined images, ReLU, normalisation but for its gain."""

    def __init__(self, kernel: Tensor, bias: Tensor, floor: Tensor, n_channels: Sequence[int]) -> None:
        self.n_out = len(floor)
        self._floor = floor.float()
        self._floors = self._floor.repeat(2)
        self._products = [
            Product(kernel[a, b, :, :, : 2 + a, : 2 + b], bias[a, b], n_channels) for a, b in _PARITIES
        ]
        is_deepest = len(n_channels) == 1
        self._winograd = None if is_deepest else Winograd(kernel.flatten(0, 2), bias.flatten())

    def convolve(self, images: Sequence[Tensor], scratch: Scratch, out: Tensor) -> None:
        """Write the output of images that have one row and column of zeros around them."""
        n_rows, n_columns = out.shape[0] // 2, out.shape[1] // 2
        n_patches, rest = divmod(n_rows // TILE * n_columns, TILE)
        if self._winograd and n_patches >= _MIN_PATCHES and not (rest or n_rows % TILE):
            by_patch = out.view(n_rows // TILE, TILE, 2, n_columns // TILE, TILE, 2 * self.n_out)
            pixels = by_patch.permute(1, 4, 0, 3, 2, 5)
            for rows, part in self._winograd.convolve([patches(image) for image in images], scratch):
                torch.maximum(part.view(pixels[:, :, rows].shape), self._floors, out=pixels[:, :, rows])
            return
        for (a, b), layer in zip(_PARITIES, self._products, strict=True):
            parts = [windows(image, (2 + a, 2 + b))[:n_rows, :n_columns] for image in images]
            torch.maximum(layer.convolve(parts, scratch), self._floor, out=out[a::2, b::2])


class _Outermost:
    """The transposed convolution with one output channel: each pixel times all taps, then sums of these."""

    def __init__(
        self, kernel: Tensor, bias: Tensor, floor: Tensor, n_channels: Sequence[int], first: _Down
    ) -> None:
        self._bias, self._floor = float(bias[0, 0]), float(floor)
        self._taps = [(a, b, y - 1, x - 1) for a, b in _PARITIES for y in range(2 + a) for x in range(2 + b)]
        self._taps.sort(key=lambda tap: tap[2:] != (0, 0))  # begin each sum with a tap that covers all of it
        taps = torch.stack([kernel[a, b, 0, :, y + 1, x + 1] for a, b, y, x in self._taps])
        skip, self._up = taps[:, : n_channels[0]], taps[:, n_channels[0] :].float()
        scale, shift = first.undo
        self._skip, self._constant = (skip * scale).float(), (skip @ shift).float()[:, None]

    def convolve(self, skip: Tensor, up: Tensor, scratch: Scratch, out: Tensor) -> None:
        """Write the output (rows, columns); `skip` is still normalised."""
        n_rows, n_columns = skip.shape[:2]
        taps = scratch.take(0, len(self._taps), n_rows, n_columns)
        flat = taps.flatten(1)
        torch.addmm(self._constant, self._skip, skip.reshape(n_rows * n_columns, -1).T, out=flat)
        flat.addmm_(self._up, up.reshape(n_rows * n_columns, -1).T)
        sums = scratch.take(1, 2, 2, n_rows, n_columns)
        for tap, (a, b, y, x) in zip(taps, self._taps, strict=True):
            if y == x == 0:
                torch.add(tap, self._bias, out=sums[a, b])
            else:
                _overlap(sums[a, b], -y, -x).add_(_overlap(tap, y, x))
        pixels = out.view(n_rows, 2, n_columns, 2).permute(1, 3, 0, 2)
        torch.clamp(sums, min=self._floor, out=pixels)


def _overlap(image: Tensor, y: int, x: int) -> Tensor:
    """The part of an image that lies on its copy which is moved up by y rows and left by x columns."""
    n_rows, n_columns = image.shape
    return image[max(0, y) : n_rows + min(0, y), max(0, x) : n_columns + min(0, x)]


def _merged(
    conv: nn.Conv2d, norm: nn.BatchNorm2d, gain_before: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """Kernels (2, 2, N, C, 3, 3) by parity, biases (2, 2, N), floor of the ReLU (N), and the channels of each
    image that is joined; `gain_before` is what the layer before has left to multiply by.
    """
    gain, shift = _affine(norm)
    floor = shift / gain
    kernel = conv.weight.double()
    n_channels = [conv.in_channels]
    if gain_before is not None:
        n_channels = [conv.in_channels - len(gain_before), len(gain_before)]
        skip, up = torch.split(kernel, n_channels, dim=1)
        kernel = torch.cat((skip, up * gain_before[:, None, None]), dim=1)
    kernel = kernel.reshape(-1, 2, 2, *kernel.shape[1:]).permute(1, 2, 0, 3, 4, 5)
    bias = _bias(conv).reshape(-1, 2, 2).permute(1, 2, 0) + floor
    return kernel, bias, floor, n_channels


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What a normalisation multiplies by and then adds, float64."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None  # noqa: S101, PT018
    gain = norm.weight.double() / torch.sqrt(variance.double() + norm.eps)
    return gain, norm.bias.double() - mean.double() * gain


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None  # noqa: S101
    return conv.bias.double()
