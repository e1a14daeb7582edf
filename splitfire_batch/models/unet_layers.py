"""The layers of Spleeter's U-Net on a CPU: convolutions with what follows them, in as few passes as can be.

Convolutions are Winograd's or matrix products where that is faster. Normalisations are part of their
neighbours: before an activation in the weights of the convolution, and the skip takes it back; after one,
act(x) g + h = (act(x) + h/g) g, where the next convolution multiplies by g.

Images are (B, rows, columns, channels). Axes: B images, N channels of an output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitfire_batch.models.convolutions import (
    TILE,
    Product,
    Scratch,
    Winograd,
    in_fours,
    patches,
    patches_in_fours,
    windows,
)
from splitfire_batch.models.unet_activations import Activations

_MIN_PATCHES = 32
"""With fewer, reading Winograd's larger kernels takes longer than the multiplications they save."""

_ROWS = 32
"""Of the outermost layer at a time: what they need lies in a core's own cache."""

_PARITIES = tuple(product((0, 1), (0, 1)))
"""Pixels of a transposed convolution of stride 2 are of four kinds: in even or odd rows and columns."""

_TAPS = ((0, 0), (1, 0), (0, -1), (1, -1), (1, 1))
"""Its taps along an axis: the parity of the pixels that they are part of, and where these look for input."""


class Down:
    """A convolution (5 x 5, stride 2) with the normalisation behind it."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d, patch_rows: Sequence[int]) -> None:
        gain, shift = affine(norm)
        self.n_out = len(gain)
        self.undo = 1 / gain, -shift / gain
        """What the convolution alone would give is the normalised output times the first, plus the second."""
        self._undo = self.undo[0].float(), self.undo[1].float()
        kernel, bias = conv.weight * gain[:, None, None, None], exact_bias(conv) * gain + shift
        self._kernel = kernel.float().contiguous(memory_format=torch.channels_last)
        self._bias = bias.float()
        self._winograds = [Winograd(in_fours(kernel), bias, rows) for rows in patch_rows]
        self._product = Product(kernel, bias, [conv.in_channels], stride=2) if patch_rows else None

    def convolve(self, images: Tensor, scratch: Scratch) -> Tensor:
        """Normalised output, of images with one row and column of zeros before and at least three behind."""
        n_images, n_rows, n_columns = len(images), images.shape[1] // 2 - 2, images.shape[2] // 2 - 2
        if winograd := _fitting(self._winograds, n_images, n_rows, n_columns):
            out = torch.empty(n_images, n_rows, n_columns, self.n_out)
            height = winograd.n_rows
            pixels = out.view(n_images, n_rows // height, height, n_columns // TILE, TILE, -1)
            pixels = pixels.permute(2, 4, 0, 1, 3, 5)
            for rows, part in winograd.convolve([patches_in_fours(images, height)], scratch):
                pixels[:, :, :, rows].copy_(part)
            return out
        if n_rows == 1 and self._product:
            parts = [windows(images, (5, 5), stride=2)[:, :1, :n_columns]]
            return self._product.convolve(parts, scratch, images.shape[1] - 4, 1)
        out = functional.conv2d(images.permute(0, 3, 1, 2), self._kernel, self._bias, stride=2)
        return out.permute(0, 2, 3, 1)

    def undo_norm(self, normalised: Tensor, out: Tensor) -> None:
        """Write what the convolution alone would give: that is what the skip wants."""
        torch.addcmul(self._undo[1], normalised, self._undo[0], out=out)


@dataclass(frozen=True, slots=True)
class Merged:
    """What a transposed convolution and its neighbours come to."""

    kernel: Tensor
    """(2, 2, N, C, 3, 3) by parity, float64."""
    bias: Tensor
    """(2, 2, N) by parity, float64; with the floor in it where the activation wants that."""
    floor: Tensor
    """(N,), what is added to the activation, float64."""
    n_channels: Sequence[int]
    """Of each image that is joined; C in sum."""
    activations: Activations


class Up:
    """A transposed convolution (5 x 5, stride 2) of joined images, its activation and normalisation, without
    what that multiplies by.
    """

    def __init__(self, parts: Merged, patch_rows: Sequence[int]) -> None:
        kernel, bias, floor, n_channels = parts.kernel, parts.bias, parts.floor, parts.n_channels
        self.n_out = len(floor)
        self._write = parts.activations.up
        self._floor = floor.float()
        self._floors = self._floor.repeat(2)
        self._products = [
            Product(kernel[a, b, :, :, : 2 + a, : 2 + b], bias[a, b], n_channels) for a, b in _PARITIES
        ]
        self._winograds = [Winograd(kernel.flatten(0, 2), bias.flatten(), rows) for rows in patch_rows]

    def convolve(self, images: Sequence[Tensor], scratch: Scratch, out: Tensor, n_kept: int) -> None:
        """Write the output, of which `n_kept` rows count; images have zeros around them."""
        n_images, n_rows, n_columns = out.shape[0], out.shape[1] // 2, out.shape[2] // 2
        if winograd := _fitting(self._winograds, n_images, n_rows, n_columns):
            height = winograd.n_rows
            tiles = n_images, n_rows // height, height, 2, n_columns // TILE, TILE, 2 * self.n_out
            pixels = out.view(tiles).permute(2, 5, 0, 1, 4, 3, 6)
            parts = [patches(image, height) for image in images]
            for rows, part in winograd.convolve(parts, scratch):
                target = pixels[:, :, :, rows]
                spare = scratch.take(1 - scratch.piece_of(part), *target.shape)
                self._write(part.view(target.shape), self._floors, spare, target)
            return
        for (a, b), layer in zip(_PARITIES, self._products, strict=True):
            parts = [windows(image, (2 + a, 2 + b))[:, :n_rows, :n_columns] for image in images]
            convolved = layer.convolve(parts, scratch, n_rows, (n_kept + 1 - a) // 2)
            spare = scratch.take(1 - scratch.piece_of(convolved), *convolved.shape)
            self._write(convolved, self._floor, spare, out[:, a::2, b::2])


def _fitting(methods: Sequence[Winograd], n_images: int, n_rows: int, n_columns: int) -> Winograd | None:
    """The first that cuts an output of that size into whole patches, and enough of them."""
    for method in methods:
        n_patches = n_images * (n_rows // method.n_rows) * (n_columns // TILE)
        if n_rows % method.n_rows == n_columns % TILE == 0 and n_patches >= _MIN_PATCHES:
            return method
    return None


class Outermost:
    """The transposed convolution with one output channel: each pixel times all taps, then sums of these."""

    def __init__(self, parts: Merged, first: Down) -> None:
        kernel, n_channels = parts.kernel, parts.n_channels
        self._floor = parts.floor.float()
        self._write = parts.activations.up
        taps = torch.stack([kernel[a, b, 0, :, y + 1, x + 1] for b, x in _TAPS for a, y in _TAPS])
        skip, self._up = taps[:, : n_channels[0]], taps[:, n_channels[0] :].float()
        scale, shift = first.undo
        constant = (skip @ shift).view(len(_TAPS), len(_TAPS))
        constant[:2, :2] += parts.bias[0, 0]
        self._skip, self._constant = (skip * scale).float(), constant.float().view(-1, 1)

    def convolve(self, skip: Tensor, up: Tensor, scratch: Scratch, out: Tensor) -> None:
        """Write the output (rows, columns) of one image; `skip` is still normalised."""
        n_rows = len(skip)
        for start in range(0, n_rows, _ROWS):
            stop = min(start + _ROWS, n_rows)
            first, last = max(0, start - 1), min(stop + 1, n_rows)
            sums = self._sums(skip[first:last], up[first:last], scratch)
            n_columns = skip.shape[1]
            pixels = out[2 * start : 2 * stop].view(stop - start, 2, n_columns, 2).permute(1, 3, 0, 2)
            inner = sums[:, :, start - first : stop - first]
            self._write(inner, self._floor, scratch.take(1, *inner.shape), pixels)

    def _sums(self, skip: Tensor, up: Tensor, scratch: Scratch) -> Tensor:
        """Pixels (2, 2, rows, columns) by parity, of rows with nothing around them."""
        n_rows, n_columns = skip.shape[:2]
        taps = scratch.take(0, len(_TAPS), len(_TAPS), n_rows, n_columns)
        flat = taps.view(-1, n_rows * n_columns)
        torch.addmm(self._constant, self._skip, skip.reshape(n_rows * n_columns, -1).T, out=flat)
        flat.addmm_(self._up, up.reshape(n_rows * n_columns, -1).T)
        taps[:2, ..., 1:] += taps[2:4, ..., :-1]
        taps[1, ..., :-1] += taps[4, ..., 1:]
        sums = taps[:2]
        sums[:, :2, 1:] += sums[:, 2:4, :-1]
        sums[:, 1, :-1] += sums[:, 4, 1:]
        return sums[:, :2].transpose(0, 1)


def merged(
    conv: nn.Conv2d, norm: nn.BatchNorm2d, gain_before: Tensor | None, activations: Activations
) -> Merged:
    """A transposed convolution with its normalisation and, as far as that is joined to it, the one before.

    Args:
        gain_before: (C,), what the layer before has left to multiply by; None for the first layer.
    """
    gain, shift = affine(norm)
    floor = shift / gain
    kernel = conv.weight.double()
    n_channels = [conv.in_channels]
    if gain_before is not None:
        n_channels = [conv.in_channels - len(gain_before), len(gain_before)]
        skip, up = torch.split(kernel, n_channels, dim=1)
        kernel = torch.cat((skip, up * gain_before[:, None, None]), dim=1)
    kernel = kernel.reshape(-1, 2, 2, *kernel.shape[1:]).permute(1, 2, 0, 3, 4, 5)
    bias = exact_bias(conv).reshape(-1, 2, 2).permute(1, 2, 0)
    return Merged(kernel, bias + floor if activations.is_shifted else bias, floor, n_channels, activations)


def affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What a normalisation multiplies by and then adds, float64."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None  # noqa: S101, PT018
    gain = norm.weight.double() / torch.sqrt(variance.double() + norm.eps)
    return gain, norm.bias.double() - mean.double() * gain


def exact_bias(conv: nn.Conv2d) -> Tensor:
    """The bias (N), float64."""
    assert conv.bias is not None  # noqa: S101
    return conv.bias.double()
