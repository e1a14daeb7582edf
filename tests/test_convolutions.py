"""Convolutions as matrix products against torch's own, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from splitfire_batch.models.convolutions import Product, Scratch, Winograd, inner, patches, windows


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def bordered(image: Tensor, before: int, after: int) -> Tensor:
    return torch.nn.functional.pad(image, (0, 0, before, after, before, after))


def oracle(image: Tensor, kernel: Tensor, bias: Tensor, stride: int) -> Tensor:
    """Of an image with its border, (rows, columns, N), float64."""
    inputs = image.permute(2, 0, 1)[None].double()
    out = torch.nn.functional.conv2d(inputs, kernel.double(), bias.double(), stride=stride)
    return out[0].permute(1, 2, 0)


def snr_db(wanted: Tensor, found: Tensor) -> float:
    return float(10 * torch.log10(wanted.square().sum() / (wanted - found).square().sum()))


@pytest.mark.parametrize(("n_rows", "n_columns"), [(4, 4), (8, 16), (132, 64), (4, 4 * 1030)])
@pytest.mark.parametrize("widths", [(3,), (5, 16)])
def test_winograds_convolution_is_a_convolution(n_rows, n_columns, widths):
    images = [bordered(random(n_rows, n_columns, width), 1, 1) for width in widths]
    kernel, bias = random(7, sum(widths), 3, 3), random(7)
    found = torch.full((n_rows, n_columns, 7), torch.nan)
    pixels = found.unflatten(0, (-1, 4)).unflatten(2, (-1, 4)).permute(1, 3, 0, 2, 4)
    for rows, part in Winograd(kernel, bias).convolve([patches(image) for image in images], Scratch()):
        pixels[:, :, rows] = part
    assert snr_db(oracle(torch.cat(images, dim=2), kernel, bias, 1), found) > 105  # float32: about 110


@pytest.mark.parametrize(("size", "stride"), [((5, 5), 2), ((2, 3), 1), ((3, 2), 1), ((1, 1), 1)])
@pytest.mark.parametrize("widths", [(3,), (5, 16)])
def test_a_product_of_windows_is_a_convolution(size, stride, widths):
    images = [bordered(random(12, 20, width), 1, 2) for width in widths]
    kernel, bias = random(7, sum(widths), *size), random(7)
    layer = Product(kernel, bias, widths)
    found = layer.convolve([windows(image, size, stride) for image in images], Scratch())
    wanted = oracle(torch.cat(images, dim=2), kernel, bias, stride)
    assert found.shape == wanted.shape
    assert snr_db(wanted, found) > 120


def test_convolutions_may_share_scratch_memory_one_after_the_other():
    scratch = Scratch()
    image, kernel, bias = bordered(random(8, 8, 4), 1, 1), random(2, 4, 3, 3), random(2)
    layer = Product(kernel, bias, [4])
    alone = layer.convolve([windows(image, (3, 3))], Scratch()).clone()
    larger = bordered(random(40, 40, 4), 1, 1)
    layer.convolve([windows(larger, (3, 3))], scratch)
    assert torch.equal(layer.convolve([windows(image, (3, 3))], scratch), alone)


def test_inner_is_the_image_without_its_border():
    image = random(5, 7, 2)
    assert torch.equal(inner(bordered(image, 1, 2), 1, 2), image)
