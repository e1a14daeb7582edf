"""The images of a U-Net: their sizes, their borders, and that they are all apart."""

from __future__ import annotations

import pytest
import torch

from splitfire_batch.models.unet_images import Bordered, Images

WIDTHS = (2, 3, 4, 5, 6, 7, 8)


def all_of(images: Images) -> list[Bordered]:
    return [*images.inputs, *images.skips.values(), images.bottom, *images.ups.values()]


@pytest.mark.parametrize("n_rows", [32, 96, 512])
def test_sizes_are_halved_and_rounded_up(n_rows):
    images = Images((2, n_rows, 128), WIDTHS, torch.empty(0))
    for level in range(6):
        assert images.inputs[level].inside.shape == (2, -(-n_rows // 2**level), 128 >> level, WIDTHS[level])
    for level in (1, 2, 3, 4, 5):
        assert images.ups[level].inside.shape == images.inputs[level].inside.shape
        assert images.ups[level].doubled.shape[1] == 2 * -(-n_rows // 2 ** (level + 1))
    assert images.bottom.inside.shape == (2, -(-n_rows // 64), 2, 8)
    assert images.plane.shape == (n_rows + 6, 134)


def test_no_image_lies_in_another_and_borders_stay_zeros():
    images = Images((2, 96, 64), WIDTHS, torch.full((10_000_000,), torch.nan))
    for number, image in enumerate(all_of(images), start=1):
        assert not image.whole.any()
        image.inside.fill_(number)
    for number, image in enumerate(all_of(images), start=1):
        assert torch.equal(image.inside, torch.full_like(image.inside, number))
        assert image.whole.sum() == number * image.inside.numel()


def test_a_row_too_many_becomes_border_again():
    (image,) = [Images((1, 96, 64), WIDTHS, torch.empty(0)).ups[5]]
    assert image.doubled.shape[1] == image.inside.shape[1] + 1
    image.doubled.fill_(1)
    image.clear_border()
    assert image.whole.sum() == image.inside.numel()


def test_memory_is_used_again_where_it_is_enough():
    first = Images((1, 512, 64), WIDTHS, torch.empty(0))
    second = Images((4, 64, 64), WIDTHS, first.memory)
    assert second.memory is first.memory
    assert Images((8, 512, 64), WIDTHS, first.memory).memory is not first.memory
