"""Spleeter's U-Net for CPUs: what `spleeter_unet.UNet` computes, with half the multiplications, few copies.

What one layer writes (`unet_layers`) is what the next one reads, zeros around it and all, in memory that is
kept from call to call (`unet_images`).

Images are (B, rows, columns, channels). Axes: B batch, F STFT columns, K bins.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitfire_batch.models.convolutions import TILE, Product, Scratch, windows
from splitfire_batch.models.spleeter_unet import UNet
from splitfire_batch.models.unet_activations import ACTIVATIONS
from splitfire_batch.models.unet_images import Images
from splitfire_batch.models.unet_layers import Down, Outermost, Up, affine, exact_bias, merged
from splitfire_batch.segments import cpu_pack

_DEEP = 3
"""Images halved more often are small, and the layers that write them have nearly all of the weights."""
_DOWN_ROWS = ((), (), (), (TILE, 2), (2,))
_UP_ROWS = ((), (2,), (TILE, 2), (TILE,), (TILE,))
"""Rows of Winograd's patches, by layer and preference; none where the method would not be faster."""
_LEAST_GAIN = 1e-6
_MAX_LOSS = 1e3
_ALL = slice(None)


def is_suited(net: UNet) -> bool:
    """Whether `UNetOnCpu` may divide by what the normalisations multiply by.

    No multiplier may be almost zero. And a skip, which takes a normalisation back, loses as many digits as
    |beta / gamma| has, whatever the statistics: at the limit such a channel still has 84 dB.
    """
    norms = [cast("nn.BatchNorm2d", norm) for norm in (*net.down_norm, *net.up_norm)]
    if any(bool(affine(norm)[0].abs().min() <= _LEAST_GAIN) for norm in norms):
        return False
    return all(
        bool((norm.bias / norm.weight).abs().max() < _MAX_LOSS) for norm in norms[: len(net.down_norm)]
    )


class Workspace(threading.local):
    """Memory that networks of one shape use, one after the other; each thread has its own."""

    def __init__(self) -> None:
        self.scratch = Scratch()
        self.images: Images | None = None

    def images_of(self, shape: tuple[int, int, int], widths: Sequence[int]) -> Images:
        """Images of that shape, with what the last network left in them."""
        if self.images is None or self.images.shape != shape:
            memory = self.images.memory if self.images else torch.empty(0)
            self.images = Images(shape, widths, memory)
        return self.images


class UNetOnCpu:
    """(B, 2, F, K) magnitudes -> masks of the same shape, as `UNet`; F a multiple of 32, K of 64.

    The deep layers compute a pack of images at a time, so that their weights are read once for all of them;
    packs have one size for each length, so no bit of an image depends on the others. A silent image is
    answered with zeros: what it will be multiplied by is zero.
    """

    def __init__(self, net: UNet, workspace: Workspace, full_columns: int = 512) -> None:
        """Fold the normalisations into the convolutions; `full_columns` are those of a full segment."""
        down, up = (cast("list[nn.Conv2d]", list(layers)) for layers in (net.down, net.up))
        down_norm, up_norm = (cast("list[nn.BatchNorm2d]", list(x)) for x in (net.down_norm, net.up_norm))
        self._down = [Down(*layer) for layer in zip(down, down_norm, _DOWN_ROWS, strict=False)]
        self._bottom = Product(down[-1].weight, exact_bias(down[-1]), [down[-1].in_channels], stride=2)
        gains = [affine(norm)[0] for norm in up_norm]
        self._activations = ACTIVATIONS[net.options.activation]
        self._is_sigmoid = net.options.mask == "sigmoid"
        layers = [
            merged(*layer, self._activations) for layer in zip(up, up_norm, [None, *gains], strict=False)
        ]
        self._up = [Up(*layer) for layer in zip(layers, _UP_ROWS, strict=False)]
        self._outermost = Outermost(layers[-1], self._down[0])
        self._last = (net.last.weight * gains[-1]).float(), net.last.bias
        self._widths = [2, *(layer.n_out for layer in self._down), self._bottom.n_out]
        self._workspace, self._full_columns = workspace, full_columns

    def __call__(self, x: Tensor) -> Tensor:
        out = torch.zeros(x.shape)
        size = min(len(x), cpu_pack(x.shape[2], self._full_columns))
        images = self._workspace.images_of((size, x.shape[2], x.shape[3]), self._widths)
        for pack, results in zip(torch.split(x, size), torch.split(out, size), strict=True):
            audible = [slice(i, i + 1) for i, image in enumerate(pack) if image.amax() != 0]
            if audible:
                first = self._go_down(images, audible, pack)
                self._go_up(images, audible, first, results)
        return out

    def _go_down(self, images: Images, audible: Sequence[slice], magnitudes: Tensor) -> list[Tensor]:
        """Fill the images down to the bottom; gives the normalised output of the first layer."""
        scratch, first = self._workspace.scratch, []
        for one in audible:
            images.inputs[0].inside[one].copy_(magnitudes[one].permute(0, 2, 3, 1))
        for level, layer in enumerate(self._down, start=1):
            for part in [_ALL] if level > _DEEP else audible:
                normalised = layer.convolve(images.inputs[level - 1].whole[part], scratch)
                if level == 1:
                    first.append(normalised)
                else:
                    layer.undo_norm(normalised, out=images.skips[level].inside[part])
                self._activations.down(normalised, images.inputs[level].inside[part])
        deepest, bottom = images.inputs[-1], images.bottom.inside
        parts, n_rows = [windows(deepest.whole, (5, 5), stride=2)], deepest.inside.shape[1]
        bottom.copy_(self._bottom.convolve(parts, scratch, n_rows, bottom.shape[1]))
        return first

    def _go_up(self, images: Images, audible: Sequence[slice], first: Sequence[Tensor], out: Tensor) -> None:
        """Write the masks of all audible images."""
        scratch, joined = self._workspace.scratch, [images.bottom.whole]
        for level, up in zip(range(5, 0, -1), self._up, strict=True):
            image = images.ups[level]
            for part in [_ALL] if level >= _DEEP else audible:
                below = [whole[part] for whole in joined]
                up.convolve(below, scratch, image.doubled[part], image.inside.shape[1])
            image.clear_border()
            joined = [images.skips[level].whole, image.whole] if level > 1 else []
        n_rows, n_columns = out.shape[2:]
        for one, normalised in zip(audible, first, strict=True):
            plane = images.plane[3 : 3 + n_rows, 3 : 3 + n_columns]
            self._outermost.convolve(normalised[0], images.ups[1].inside[one][0], scratch, plane)
            logits = functional.conv2d(images.plane[None, None], *self._last, dilation=2)
            out[one].copy_(logits.sigmoid_() if self._is_sigmoid else logits)
