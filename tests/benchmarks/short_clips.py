"""Short clips: how best to fill the rest of a segment, by SDR on mixtures and by what one-shots leak.

Singers and instruments that were recorded apart are mixed at seeded places and levels (-6 to +6 dB), cut to
length, and separated under every rule; differences are those of the same excerpt. One-shots have no vocals:
what the model takes for vocals in them is its error, in dB of the clip's energy. The environment variable
EXCERPTS sets how many of each length there are (16 take three minutes of one core, 150 half an hour).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from splitfire_batch.config import SeparationConfig
from splitfire_batch.models import find_card, load_model
from splitfire_batch.models.spleeter import COLUMN_STEP, FFT_FRAMES, HOP
from splitfire_batch.models.spleeter_options import N_BINS
from splitfire_batch.models.spleeter_unet import UNet, make_unet
from splitfire_batch.models.weights import load_weights
from tests.benchmarks.mixtures import SAMPLE_RATE, Audio, make_mixtures, one_shots, read_bands, read_singers

Estimate = Callable[[Tensor], Tensor]  # segments (B, C, L) to estimates (B, S, C, L)
Places = NDArray[np.int64]  # frames of a segment, counted from the clip's first

SECONDS = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0)
AUDIBLE_DB = -30


def zeros(clip: Audio, at: Places) -> Audio:
    """The clip in silence."""
    inside = (at >= 0) & (at < clip.shape[1])
    return np.where(inside, clip[:, at % clip.shape[1]], np.float32(0))


def tile(clip: Audio, at: Places) -> Audio:
    """Silence, and the clip again and again."""
    return np.where(at >= 0, loop(clip, at), np.float32(0))


def loop(clip: Audio, at: Places) -> Audio:
    """The clip again and again, also before itself: what `short_clip = "adaptive"` does up to 6 s."""
    return clip[:, at % clip.shape[1]]


def mirror(clip: Audio, at: Places) -> Audio:
    """Silence, and the clip by turns forward and backward."""
    n = clip.shape[1]
    turn = at % (2 * n)
    return np.where(at >= 0, clip[:, np.minimum(turn, 2 * n - 1 - turn)], np.float32(0))


def crossfade(clip: Audio, at: Places) -> Audio:
    """Like `tile`, with every repetition faded in over 20 ms while the clip runs backward and fades out."""
    n = clip.shape[1]
    fade = min(SAMPLE_RATE // 50, n)
    share = np.where(at < n, 1, np.minimum(at % n / fade, 1)).astype(np.float32)
    return tile(clip, at) * share + np.where(at >= 0, clip[:, n - 1 - at % n], np.float32(0)) * (1 - share)


class NarrowUNet(UNet):
    """For any number of columns: 'same' padding of odd numbers, and upsampled images cut to their skips."""

    def forward(self, x: Tensor) -> Tensor:
        skips, columns = [], []
        for i, conv in enumerate(self.down):
            columns.append(x.shape[2])
            x = functional.leaky_relu(self.down_norm[i - 1](x), 0.2) if i else x
            x = conv(functional.pad(x, (1, 2, 1 + x.shape[2] % 2, 2)))
            skips.append(x)
        skips.pop()
        for i, (conv, norm) in enumerate(zip(self.up, self.up_norm, strict=True)):
            x = torch.cat((skips.pop(), x), dim=1) if i else x
            x = norm(functional.pixel_shuffle(conv(x).relu_(), 2))[:, :, : columns.pop()]
        return torch.sigmoid(self.last(x))


class NarrowSpleeter:
    """Spleeter for any number of columns, as its formulas read."""

    def __init__(self) -> None:
        card = find_card("spleeter-2stems")
        self._nets = []
        for instrument in range(len(card.stems)):
            net = NarrowUNet().eval()
            net.load_state_dict(make_unet(load_weights(card), instrument).state_dict())
            self._nets.append(net.to(memory_format=torch.channels_last))

    @torch.inference_mode()
    def __call__(self, segments: Tensor) -> Tensor:
        options = {"n_fft": FFT_FRAMES, "hop_length": HOP, "center": False, "return_complex": True}
        hann = torch.hann_window(FFT_FRAMES)
        spectrum = torch.stft(segments[0], window=hann, **options).mT  # (C, F, K)
        magnitude = spectrum[None, ..., :N_BINS].abs()
        squares = torch.cat([(net(magnitude) * magnitude).square() for net in self._nets])
        masks = (squares + 0.5e-10) / (squares.sum(0) + 1e-10)
        masked = functional.pad(masks, (0, spectrum.shape[-1] - N_BINS)) * spectrum
        frames = torch.fft.irfft(masked) * hann * (2 / 3)  # (S, C, F, 4096)
        estimates = segments.new_zeros((*frames.shape[:2], segments.shape[-1]))
        for column in range(frames.shape[2]):
            estimates[..., column * HOP : column * HOP + FFT_FRAMES] += frames[:, :, column]
        return estimates[None]


@dataclass(frozen=True, slots=True)
class Rule:
    """How a clip becomes one segment of the model, and its estimates those of the clip."""

    fill: Callable[[Audio, Places], Audio]
    step: int = 64
    """Columns are a multiple of this."""
    is_last: bool = False
    """The clip stands at the segment's end, not after its first 4,096 frames."""
    is_mean: bool = False
    """The estimates of all whole repetitions are averaged."""

    def separate(self, model: Estimate, clip: Audio) -> Audio:
        """(S, 2, n) of a clip (2, n)."""
        n, border = clip.shape[1], FFT_FRAMES - HOP
        columns = -(-(n + FFT_FRAMES) // HOP // self.step) * self.step
        n_segment = columns * HOP + border
        first = n_segment - border - n if self.is_last else FFT_FRAMES
        segment = np.ascontiguousarray(self.fill(clip, np.arange(n_segment) - first))
        estimates = model(torch.from_numpy(segment)[None])[0].numpy()
        last = n_segment - border - n if self.is_mean else first
        copies = [estimates[..., start : start + n] for start in range(first, last + 1, n)]
        return np.mean(copies, axis=0, dtype=np.float32)


RULES = {
    "tile": Rule(tile),
    "zeros": Rule(zeros),
    "mirror": Rule(mirror),
    "cross-fade 20 ms": Rule(crossfade),
    "loop": Rule(loop),
    "loop, clip last": Rule(loop, is_last=True),
    "tile, mean of copies": Rule(tile, is_mean=True),
    "loop, mean of copies": Rule(loop, is_mean=True),
    "tile, 16 columns": Rule(tile, step=16),
    "tile, 32 columns": Rule(tile, step=32),
    "reference": Rule(zeros, step=512),
}
BASE = "tile"


def main() -> None:
    """Print a table for each length, and one for one-shots."""
    torch.set_num_threads(1)
    model = load_model(SeparationConfig(residual="drop"), "cpu")
    models = {name: NarrowSpleeter() if rule.step % COLUMN_STEP else model for name, rule in RULES.items()}
    n_excerpts = int(os.environ.get("EXCERPTS", "16"))
    singers, bands = read_singers(), read_bands()
    for seconds in SECONDS:
        mixtures = list(make_mixtures(singers, bands, seconds, n_excerpts))
        print(f"\n{seconds:g} s, {n_excerpts} excerpts; vocals, then accompaniment: dB SDR")
        _print_sdr(models, mixtures)
    _print_leaks(models, list(one_shots(2 * n_excerpts)))


def _print_sdr(models: dict[str, Estimate], mixtures: list[tuple[Audio, Audio]]) -> None:
    print(f"{'':22} {'vocals':>7} {'gain, median':>13} {'(90 %)':>15} {'better':>7} {'mean':>6}", end="")
    print(f" {'accomp.':>8} {'gain':>6} {'CPU ms':>7}")
    base = np.empty(0)
    for name, rule in RULES.items():
        begin = time.process_time()
        found = [rule.separate(models[name], vocals + rest) for vocals, rest in mixtures]
        cpu_ms = (time.process_time() - begin) / len(mixtures) * 1000
        pairs = zip(mixtures, found, strict=True)
        sdr = np.array([[_ratio_db(s, s - e) for s, e in zip(*pair, strict=True)] for pair in pairs])
        base = sdr if name == BASE else base
        gains = sdr - base
        low, high = _interval(gains[:, 0])
        print(f"{name:22} {np.median(sdr[:, 0]):7.2f} {np.median(gains[:, 0]):13.2f}", end="")
        print(
            f" ({low:+6.2f} {high:+6.2f}) {np.mean(gains[:, 0] > 0):7.0%} {gains[:, 0].mean():6.2f}", end=""
        )
        print(f" {np.median(sdr[:, 1]):8.2f} {np.median(gains[:, 1]):6.2f} {cpu_ms:7.0f}", flush=True)


def _print_leaks(models: dict[str, Estimate], clips: list[Audio]) -> None:
    seconds = np.median([clip.shape[1] for clip in clips]) / SAMPLE_RATE
    print(f"\n{len(clips)} one-shots, half of them shorter than {seconds:.2f} s; vocals against the clip, dB")
    print(f"{'':22} {'median':>7} {'90 %':>7} {f'> {AUDIBLE_DB} dB':>9} {'energy':>7}")
    for name, rule in RULES.items():
        leaks = np.array([-_ratio_db(clip, rule.separate(models[name], clip)[0]) for clip in clips])
        energy = 10 * np.log10(np.mean(10 ** (leaks / 10)))
        print(f"{name:22} {np.median(leaks):7.1f} {np.quantile(leaks, 0.9):7.1f}", end="")
        print(f" {np.mean(leaks > AUDIBLE_DB):9.0%} {energy:7.1f}", flush=True)


def _ratio_db(signal: Audio, error: Audio) -> float:
    energy, errors = (np.sum(x.astype(np.float64) ** 2) for x in (signal, error))
    return float(10 * np.log10(energy / max(errors, 1e-20)))


def _interval(gains: NDArray[np.float64]) -> tuple[float, float]:
    """90 % bootstrap interval of the median."""
    drawn = np.random.default_rng(0).choice(gains, (2000, len(gains)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.05, 0.95])
    return float(low), float(high)
