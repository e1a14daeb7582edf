"""Spleeter's networks as their formulas read, in float64, and random checkpoints for them.

Written from the description of the original alone, and slow: transposed convolutions are transposed ones,
'same' padding is padding, and nothing is folded into anything.

Axes: S stems, C channels, F STFT columns, K bins, L frames of a segment.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from splitfire_batch.models import ModelCard, find_card
from splitfire_batch.models.spleeter_options import SpleeterOptions, read_options

_DOWN = (2, 16, 32, 64, 128, 256, 512)
_UP = ((512, 256), (512, 128), (256, 64), (128, 32), (64, 16), (32, 1))
NORM = ("gamma", "beta", "moving_mean", "moving_variance")
CARDS = {
    name: find_card(name)
    for name in (
        *("spleeter-2stems-16khz", "spleeter-4stems", "spleeter-4stems-16khz"),
        *("spleeter-5stems", "spleeter-5stems-16khz"),
    )
}
"""The family's models besides spleeter-2stems."""


def random_checkpoint(n_stems: int, seed: int = 1) -> dict[str, Tensor]:
    """A checkpoint's variables, such that the masks of music are anywhere between 0 and 1.

    The normalisations move, stretch and mirror, as those of the published weights do not.
    """
    numbers = torch.Generator().manual_seed(seed)
    return {name: _values(name, shape, numbers) for name, shape in variables(n_stems)}


def variables(n_stems: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a checkpoint's variables, counted as the original makes them, stem by stem."""
    n_made: dict[str, int] = {}

    def made(layer: str) -> str:
        number = n_made.get(layer, 0)
        n_made[layer] = number + 1
        return f"{layer}_{number}" if number else layer

    def norm(width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        name = made("batch_normalization")
        yield from ((f"{name}/{kind}", (width,)) for kind in NORM)

    for _ in range(n_stems):
        for n_in, n_out in itertools.pairwise(_DOWN):
            name = made("conv2d")
            yield from ((f"{name}/kernel", (5, 5, n_in, n_out)), (f"{name}/bias", (n_out,)))
            yield from norm(n_out)
        for n_in, n_out in _UP:
            name = made("conv2d_transpose")
            yield from ((f"{name}/kernel", (5, 5, n_out, n_in)), (f"{name}/bias", (n_out,)))
            yield from norm(n_out)
        name = made("conv2d")
        yield from ((f"{name}/kernel", (4, 4, 1, 2)), (f"{name}/bias", (2,)))


def _values(name: str, shape: tuple[int, ...], numbers: torch.Generator) -> Tensor:
    """Of one variable; the first convolutions make numbers around 1 of music's magnitudes."""
    found = torch.randn(shape, generator=numbers)
    if name.endswith("kernel"):
        _, _, a, b = shape
        fan_in = 25 * b / 4 if "transpose" in name else shape[0] * shape[1] * a
        return found * (0.05 if a == 2 and b == 16 else 2.0 if shape[0] == 4 else 1.0) / fan_in**0.5
    if name.endswith("variance"):
        return found.sigmoid() + 0.5
    return 0.2 * found + found.sign() * 0.8 if name.endswith("gamma") else 0.3 * found


def estimates_of(tensors: Mapping[str, Tensor], card: ModelCard, segment: Tensor) -> Tensor:
    """(S, C, L), float64, of a segment (C, L) with all stems of a card, in its order."""
    n_bins = read_options(card.name, card.options).n_bins
    hann = torch.hann_window(4096, dtype=torch.float64)
    spectrum = torch.fft.rfft(segment.double().unfold(-1, 4096, 1024) * hann)
    squares = shares_of(tensors, card, spectrum[..., :n_bins].abs()).square()
    masks = (squares + 1e-10 / len(squares)) / (squares.sum(0) + 1e-10)
    frames = torch.fft.irfft(functional.pad(masks, (0, 2049 - n_bins)) * spectrum) * hann * (2 / 3)
    estimates = torch.zeros(len(masks), *segment.shape, dtype=torch.float64)
    for column in range(frames.shape[2]):
        estimates[..., column * 1024 : column * 1024 + 4096] += frames[:, :, column]
    return estimates


def shares_of(tensors: Mapping[str, Tensor], card: ModelCard, magnitude: Tensor) -> Tensor:
    """S_i (S, C, F, K), float64: what the networks make of a magnitude (C, F, K)."""
    options = read_options(card.name, card.options)
    logits = torch.stack([logits_of(tensors, i, options, magnitude) for i in range(len(card.stems))])
    shares = torch.softmax(logits, dim=0) if options.mask == "softmax" else torch.sigmoid(logits)
    return shares * magnitude


def logits_of(tensors: Mapping[str, Tensor], stem: int, options: SpleeterOptions, x: Tensor) -> Tensor:
    """What one stem's network has before sigmoid or softmax: (C, F, K), float64, of a magnitude (C, F, K)."""

    def take(layer: str, number: int, kind: str) -> Tensor:
        suffix = f"_{number}" if number else ""
        return tensors[f"{layer}{suffix}/{kind}"].double()

    def normalise(x: Tensor, number: int) -> Tensor:
        gamma, beta, mean, variance = (take("batch_normalization", 12 * stem + number, kind) for kind in NORM)
        rows = (gamma / (variance + 1e-3).sqrt())[:, None, None]
        return (x - mean[:, None, None]) * rows + beta[:, None, None]

    def rectify(x: Tensor, slope: float) -> Tensor:
        below = torch.expm1(x) if options.activation == "elu" else slope * x
        return torch.where(x > 0, x, below)

    x, skips = x.double(), []
    for k in range(6):
        kernel, bias = (take("conv2d", 7 * stem + k, kind) for kind in ("kernel", "bias"))
        rows, columns = (max(0, (-(-size // 2) - 1) * 2 + 5 - size) for size in x.shape[1:])
        x = functional.pad(x, (columns // 2, -(-columns // 2), rows // 2, -(-rows // 2)))
        x = functional.conv2d(x[None], kernel.permute(3, 2, 0, 1), bias, stride=2)[0]
        skips.append(x)
        x = rectify(normalise(x, k), 0.2)
    x = skips.pop()
    for k in range(6):
        kernel, bias = (take("conv2d_transpose", 6 * stem + k, kind) for kind in ("kernel", "bias"))
        x = functional.conv_transpose2d(x[None], kernel.permute(3, 2, 0, 1), bias, stride=2)[0]
        x = normalise(rectify(x[:, 1:-2, 1:-2], 0.0), 6 + k)
        x = torch.cat((skips.pop(), x)) if skips else x
    kernel, bias = (take("conv2d", 7 * stem + 6, kind) for kind in ("kernel", "bias"))
    return functional.conv2d(x[None], kernel.permute(3, 2, 0, 1), bias, padding=3, dilation=2)[0]
