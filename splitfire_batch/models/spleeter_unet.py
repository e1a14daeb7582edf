"""Spleeter's U-Net (Jansson et al., ISMIR 2017), one per stem, and how the original's checkpoint fills it.

After model/functions/unet.py of the original, such that the estimates agree with it.

Axes: B batch, F STFT columns, K bins.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from splitfire_batch.errors import ConfigError
from splitfire_batch.models.spleeter_options import PLAIN, SpleeterOptions

_NONE = 5
"""Index of the zeros behind a kernel of 5."""
SLOPE = 0.2
"""Of a leaky ReLU below zero."""
_WIDTHS = (2, 16, 32, 64, 128, 256, 512)


class UNet(nn.Module):
    """(B, 2, F, K) magnitudes -> masks of the same shape; F a multiple of 32, K of 64.

    They are sigmoids, or logits if a softmax over all stems is to follow. TensorFlow's 'same' padding is 1
    before and 2 after for these convolutions; for the transposed ones it cuts as much from their full output.
    The skips are the raw convolutions, before normalisation. The transposed convolutions run as plain ones
    with four times the channels, see `_sub_pixel`.
    """

    def __init__(self, options: SpleeterOptions = PLAIN) -> None:
        super().__init__()
        self.options = options
        ups = ((512, 256), (512, 128), (256, 64), (128, 32), (64, 16), (32, 1))
        pairs = itertools.pairwise(_WIDTHS)
        self.down = nn.ModuleList(nn.Conv2d(n_in, n_out, 5, stride=2) for n_in, n_out in pairs)
        self.down_norm = nn.ModuleList(nn.BatchNorm2d(width, eps=1e-3) for width in _WIDTHS[1:-1])
        self.up = nn.ModuleList(nn.Conv2d(n_in, 4 * n_out, 3, padding=1) for n_in, n_out in ups)
        self.up_norm = nn.ModuleList(nn.BatchNorm2d(n_out, eps=1e-3) for _, n_out in ups)
        self.last = nn.Conv2d(1, 2, 4, dilation=2, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        is_elu = self.options.activation == "elu"
        skips: list[Tensor] = []
        n_columns: list[int] = []
        for i, conv in enumerate(self.down):
            if i:
                x = self.down_norm[i - 1](x)
                x = nn.functional.elu(x) if is_elu else nn.functional.leaky_relu(x, SLOPE)
            n_columns.append(x.shape[2])
            x = conv(nn.functional.pad(x, (1, 2, 1, 2 + x.shape[2] % 2)))
            skips.append(x)
        skips.pop()
        for i, (conv, norm) in enumerate(zip(self.up, self.up_norm, strict=True)):
            if i:
                x = torch.cat((skips.pop(), x), dim=1)
            x = nn.functional.elu_(conv(x)) if is_elu else conv(x).relu_()
            x = norm(nn.functional.pixel_shuffle(x, 2))[:, :, : n_columns.pop()]
        x = self.last(x)
        return x if self.options.mask == "softmax" else torch.sigmoid(x)


def make_unets(tensors: Mapping[str, Tensor], n_stems: int, options: SpleeterOptions) -> list[UNet]:
    """The networks of all stems from the checkpoint's variables.

    Raises:
        ConfigError: a tensor is missing or has another shape, or they are of more stems.
    """
    nets = [make_unet(tensors, instrument, options) for instrument in range(n_stems)]
    if (name := _variable("last.bias", n_stems)) in tensors:
        raise ConfigError(f"the weights have {name}, so they are of more than {n_stems} stems: another model")
    return nets


def make_unet(tensors: Mapping[str, Tensor], instrument: int, options: SpleeterOptions = PLAIN) -> UNet:
    """The network of one stem from the checkpoint's variables, which are numbered through all stems.

    Raises:
        ConfigError: a tensor is missing or has another shape.
    """
    with torch.device("meta"):  # no numbers: all come from the checkpoint
        net = UNet(options)
    state: dict[str, Tensor] = {}
    for key, wanted in net.state_dict().items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(0)
            continue
        name = _variable(key, instrument)
        if name not in tensors:
            raise ConfigError(f"the weights have no {name}; they are of another model")
        found = tensors[name]
        if found.ndim == 4:  # (height, width, in, out); transposed convolutions: (height, width, out, in)
            found = found.permute(3, 2, 0, 1)
        if key.startswith("up."):
            found = _sub_pixel(found) if found.ndim == 4 else found.repeat_interleave(4)
        if found.ndim == 4:
            found = found.contiguous(memory_format=torch.channels_last)
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            raise ConfigError(f"{name} is {_kind(found)}, wanted {_kind(wanted)}; it is of another model")
        state[key] = found
    net.load_state_dict(state, assign=True)
    net.eval().requires_grad_(False)
    return net


def _sub_pixel(kernel: Tensor) -> Tensor:
    """Kernel (4 out, in, 3, 3) that, with a pixel shuffle, does what a transposed one (in, out, 5, 5) does.

    Output pixel 2p + a of a transposed convolution with stride 2, of whose full output 1 is cut before, sums
    x[p + (a + 1 - k) / 2] w[k] over the k for which that is whole: three or two taps per axis, and always
    within p - 1 to p + 1. So each of the four phases is a plain convolution (Shi et al., CVPR 2016). That is
    1.44 times the multiplications, and still faster: few libraries run transposed ones well, least of all
    those with one output channel.
    """
    taps = torch.tensor([[3, 1, _NONE], [4, 2, 0]])  # k by a, for p - 1, p and p + 1
    phases = nn.functional.pad(kernel, (0, 1, 0, 1))[:, :, taps][..., taps]
    return phases.permute(1, 2, 4, 0, 3, 5).flatten(0, 2)


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}"


def _variable(key: str, instrument: int) -> str:
    """TensorFlow's name for an entry of UNet's state: `down.2.weight` is `conv2d_2/kernel` of stem 0."""
    layer, *number, kind = key.split(".")
    first = int(number[0]) if number else 6
    prefix, index = {
        "down": ("conv2d", 7 * instrument + first),
        "last": ("conv2d", 7 * instrument + first),
        "up": ("conv2d_transpose", 6 * instrument + first),
        "down_norm": ("batch_normalization", 12 * instrument + first),
        "up_norm": ("batch_normalization", 12 * instrument + 6 + first),
    }[layer]
    names = {"bias": "bias", "weight": "kernel", "running_mean": "moving_mean"}
    if layer.endswith("norm"):
        names = {"bias": "beta", "weight": "gamma", "running_mean": "moving_mean"}
    suffix = f"_{index}" if index else ""
    return f"{prefix}{suffix}/{names.get(kind, 'moving_variance')}"
