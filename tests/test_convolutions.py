"""Convolutions as matrix products against torch's own, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from splitfire_batch.models.convolutions import (
    Product,
    Scratch,
    Winograd,
    in_fours,
    patches,
    patches_in_fours,
    windows,
)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def bordered(images: Tensor, before: int, after: int) -> Tensor:
    return torch.nn.functional.pad(images, (0, 0, before, after, before, after))


def oracle(images: Tensor, kernel: Tensor, bias: Tensor, stride: int) -> Tensor:
    """Of images with their borders, (B, rows, columns, N), float64."""
    inputs = images.permute(0, 3, 1, 2).double()
    out = torch.nn.functional.conv2d(inputs, kernel.double(), bias.double(), stride=stride)
    return out.permute(0, 2, 3, 1)


def snr_db(wanted: Tensor, found: Tensor) -> float:
    return float(10 * torch.log10(wanted.square().sum() / (wanted - found).square().sum()))


def by_patch(method: Winograd, parts: list[Tensor], n_rows: int, n_columns: int) -> Tensor:
    """What a method gives, put together: (B, rows, columns, 7)."""
    found = torch.full((parts[0].shape[2], n_rows, n_columns, 7), torch.nan)
    pixels = found.unflatten(1, (-1, method.n_rows)).unflatten(3, (-1, 4)).permute(2, 4, 0, 1, 3, 5)
    for rows, part in method.convolve(parts, Scratch()):
        pixels[:, :, :, rows] = part
    return found


@pytest.mark.parametrize(("n_rows", "n_columns"), [(4, 4), (8, 16), (132, 64), (4, 4 * 1030)])
@pytest.mark.parametrize("widths", [(3,), (5, 16)])
@pytest.mark.parametrize("height", [2, 4])
def test_winograds_convolution_is_a_convolution(n_rows, n_columns, widths, height):
    images = [bordered(random(2, n_rows, n_columns, width), 1, 1) for width in widths]
    kernel, bias = random(7, sum(widths), 3, 3), random(7)
    found = by_patch(
        Winograd(kernel, bias, height), [patches(image, height) for image in images], n_rows, n_columns
    )
    assert snr_db(oracle(torch.cat(images, dim=3), kernel, bias, 1), found) > 105  # float32: about 110


@pytest.mark.parametrize("height", [2, 4])
def test_a_stride_of_two_is_a_convolution_of_squares(height):
    images = bordered(random(2, 16, 24, 5), 1, 3)
    kernel, bias = random(7, 5, 5, 5), random(7)
    method = Winograd(in_fours(kernel), bias, height)
    found = by_patch(method, [patches_in_fours(images, height)], 8, 12)
    assert snr_db(oracle(images[:, :19, :27], kernel, bias, 2), found) > 105


@pytest.mark.parametrize(("size", "stride"), [((5, 5), 2), ((2, 3), 1), ((3, 2), 1), ((1, 1), 1)])
@pytest.mark.parametrize("widths", [(3,), (5, 16)])
def test_a_product_of_windows_is_a_convolution(size, stride, widths):
    images = [bordered(random(2, 12, 20, width), 1, 2) for width in widths]
    kernel, bias = random(7, sum(widths), *size), random(7)
    layer = Product(kernel, bias, widths, stride)
    found = layer.convolve([windows(image, size, stride) for image in images], Scratch(), 12, 15)
    wanted = oracle(torch.cat(images, dim=3), kernel, bias, stride)
    assert found.shape == wanted.shape
    assert snr_db(wanted, found) > 120


@pytest.mark.parametrize("n_rows", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize(("size", "stride"), [((5, 5), 2), ((2, 3), 1), ((3, 2), 1)])
def test_rows_of_a_kernel_that_only_meet_zeros_are_left_out(size, stride, n_rows):
    images = [bordered(random(2, n_rows, 20, width), 1, 4) for width in (5, 16)]
    kernel, bias = random(7, 21, *size), random(7)
    n_kept = -(-n_rows // stride)
    parts = [windows(image, size, stride)[:, : n_kept + 1] for image in images]
    found = Product(kernel, bias, (5, 16), stride).convolve(parts, Scratch(), n_rows, n_kept)
    wanted = oracle(torch.cat(images, dim=3), kernel, bias, stride)[:, :n_kept]
    assert snr_db(wanted, found[:, :n_kept]) > 120
    assert found.isfinite().all()


def test_convolutions_may_share_scratch_memory_one_after_the_other():
    scratch = Scratch()
    image, kernel, bias = bordered(random(1, 8, 8, 4), 1, 1), random(2, 4, 3, 3), random(2)
    layer = Product(kernel, bias, [4])
    alone = layer.convolve([windows(image, (3, 3))], Scratch(), 8, 8).clone()
    larger = bordered(random(1, 40, 40, 4), 1, 1)
    layer.convolve([windows(larger, (3, 3))], scratch, 40, 40)
    assert torch.equal(layer.convolve([windows(image, (3, 3))], scratch, 8, 8), alone)
