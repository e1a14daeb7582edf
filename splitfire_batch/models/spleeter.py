"""Spleeter (Hennequin et al., JOSS 5(50) 2154, 2020): one U-Net per stem turns |STFT| into soft masks.

After the original's model/__init__.py and model/functions/unet.py, such that the estimates agree with it:
4,096 zeros before the mix; STFT with frames of 4,096 every 1,024, periodic Hann, not centred; the networks
see blocks of 512 columns and the lowest K of 2,049 bins. With S_i = sigmoid(U-Net_i(|X|)) |X| the mask of
stem i among N is M_i = (S_i^2 + eps/N) / (sum_j S_j^2 + eps), and its estimate the inverse STFT of M_i X. In
the model of 5 stems S_i is the softmax over all U-Nets' outputs, times |X|. So either way every mask needs
every network. The inverse windows with the same Hann and is scaled by 2/3, since Hann^2 at a hop of a quarter
sums to 3/2.

A segment is one block of 512 columns: its estimate is the block's inverse STFT, and the plain sum of the
segments is the inverse STFT of the whole track, for overlap-add is linear.

Axes: B batch, S stems, C channels, F STFT columns, K bins, L frames of a segment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from splitfire_batch.config import SeparationConfig
from splitfire_batch.models.precision import Arithmetic
from splitfire_batch.models.registry import ModelCard
from splitfire_batch.models.spleeter_options import read_options
from splitfire_batch.models.spleeter_unet import make_unets
from splitfire_batch.models.unet_on_cpu import UNetOnCpu, Workspace, is_suited
from splitfire_batch.segments import Fill, LazySegments, Segment
from splitfire_batch.stems import make_recipes, needed_estimates

FFT_FRAMES = 4096
HOP = 1024
BLOCK_COLUMNS = 512
COLUMN_STEP, LOOP_STEP = 64, 32
"""The network halves its input six times, so the columns of a segment are a multiple of the first; those of a
clip that is repeated, of the second."""
TILE_UP_TO_S = 6.0
"""Adaptive: a clip up to here is repeated to fill its segment; longer ones were not measured: zeros."""

Net = Callable[[Tensor], Tensor]
_ALL_BINS = FFT_FRAMES // 2 + 1
_EPSILON = 1e-10


class Spleeter:
    """Implements `segments.Model`. Estimates carry their window: they are simply summed."""

    block_columns, tile_up_to_s = BLOCK_COLUMNS, TILE_UP_TO_S
    """As the networks were trained; a test may want shorter segments."""

    def __init__(
        self,
        card: ModelCard,
        tensors: Mapping[str, Tensor],
        separation: SeparationConfig,
        arithmetic: Arithmetic,
        texts: Mapping[str, str] | None = None,  # noqa: ARG002
    ) -> None:
        """Build the networks.

        Args:
            card: names, in order, the stems that the tensors were trained for; its options are those of
                `SpleeterOptions`.
            tensors: the original checkpoint's variables, under its names and in its layout.
            separation: `short_clip` and `mask_extension` are obeyed; only estimates that its stems are made
                of are computed.
            arithmetic: where and how the networks compute.

        Raises:
            ConfigError: a tensor is missing or has another shape; an option that there is not.
        """
        options = read_options(card.name, card.options)
        self.name = card.name
        self.sample_rate = card.sample_rate
        self.n_channels = card.n_channels
        needed = needed_estimates(make_recipes(separation, card.stems))
        self.stems = tuple(stem for stem in card.stems if stem in needed)
        self._is_wanted = [stem in needed for stem in card.stems]
        self.device = arithmetic.device
        self._is_adaptive = separation.short_clip == "adaptive"
        self._has_average = separation.mask_extension == "average"
        self._n_bins, self._is_softmax = options.n_bins, options.mask == "softmax"
        self._arithmetic = arithmetic
        is_plain_cpu = arithmetic.is_plain and self.device.type == "cpu"
        nets = make_unets(tensors, len(card.stems), options)
        workspace = Workspace()
        self._nets: list[Net] = [
            UNetOnCpu(net, workspace, self.block_columns)
            if is_plain_cpu and is_suited(net)
            else arithmetic.network(net)
            for net in nets
        ]
        self.is_of_any_length = False
        self.is_for_one_core = all(isinstance(net, UNetOnCpu) for net in self._nets)
        self._hann = torch.hann_window(FFT_FRAMES, dtype=torch.float64).to(self.device, torch.float32)

    def segments(self, n_frames: int) -> Sequence[Segment]:
        """Blocks of 512 STFT columns, none shared, the last one shorter; see `segments.Model.segments`.

        The prefix law holds because only the last block may have fewer columns than 512, and it always ends
        at least 3,072 frames after the track.
        """
        n_columns = -(-(n_frames + FFT_FRAMES) // HOP)
        n_before, last = divmod(n_columns - 1, self.block_columns)
        fill: Fill = "zeros"
        last_columns = self.block_columns
        if self._is_adaptive:
            fill = "tile" if n_frames <= self.tile_up_to_s * self.sample_rate else "zeros"
            step = LOOP_STEP if fill == "tile" else COLUMN_STEP
            last_columns = (last // step + 1) * step

        def block(index: int) -> Segment:
            columns = last_columns if index == n_before else self.block_columns
            start = index * self.block_columns * HOP - FFT_FRAMES
            return Segment(start, (columns - 1) * HOP + FFT_FRAMES, fill)

        return LazySegments(n_before + 1, block)

    def window(self, segment: Segment) -> None:
        """None: estimates are simply summed."""

    def __call__(self, segments: Tensor) -> Tensor:
        """Estimates (B, S, C, L) of segments (B, C, L), float32, L = (32 k - 1) * 1024 + 4096.

        An estimate does not depend, by one bit, on what else is in the batch.

        Raises:
            ValueError: the segments have another shape.
        """
        columns, rest = divmod(segments.shape[-1] - FFT_FRAMES + HOP, HOP)
        if segments.ndim != 3 or segments.shape[1] != self.n_channels or rest or columns % LOOP_STEP:
            wanted = f"(B, {self.n_channels}, ({LOOP_STEP} k - 1) * {HOP} + {FFT_FRAMES})"
            raise ValueError(f"segments have shape {tuple(segments.shape)}, wanted {wanted}")
        with torch.inference_mode(), self._arithmetic.exactly():
            spectrum = self._stft(segments)
            squares = self._squares(_magnitude(spectrum[..., : self._n_bins]))
            total = sum(squares[1:], squares[0]).add(_EPSILON)
            kept = [square for square, is_wanted in zip(squares, self._is_wanted, strict=True) if is_wanted]
            estimates = segments.new_zeros((len(segments), len(kept), *segments.shape[1:]))
            masked = spectrum if len(kept) == 1 else torch.empty_like(spectrum)
            for stem, square in enumerate(kept):
                mask = self._extended(square.add_(_EPSILON / len(squares)).div_(total))
                n_bins = mask.shape[-1]
                torch.mul(spectrum[..., :n_bins], mask, out=masked[..., :n_bins])
                masked[..., n_bins:] = 0
                self._add_istft(masked, estimates[:, stem])
            return estimates

    def _stft(self, segments: Tensor) -> Tensor:
        """(B, C, L) -> (B, C, F, 2049), complex."""
        spectrum: Tensor = torch.fft.rfft(segments.unfold(-1, FFT_FRAMES, HOP) * self._hann)
        return spectrum

    def _squares(self, magnitude: Tensor) -> list[Tensor]:
        """S_i^2 of every stem, each (B, C, F, K) like the magnitude."""
        inputs = self._arithmetic.inputs(magnitude)
        shares = [net(inputs) for net in self._nets]
        if self._is_softmax:
            _softmax(shares)
        return [share.mul_(magnitude).square_() for share in shares]

    def _extended(self, mask: Tensor) -> Tensor:
        """M_i of all bins that it is known for: only the lowest K, or all of them."""
        if not self._has_average:
            return mask
        above = mask.mean(-1, keepdim=True).expand(*mask.shape[:-1], _ALL_BINS - self._n_bins)
        return torch.cat((mask, above), dim=-1)

    def _add_istft(self, spectrum: Tensor, signal: Tensor) -> None:
        """Add the inverse of (B, C, F, 2049) to `signal` (B, C, L)."""
        frames = torch.fft.irfft(spectrum, n=FFT_FRAMES)
        hops, n_columns = FFT_FRAMES // HOP, frames.shape[-2]
        parts = frames.view(*frames.shape[:-1], hops, HOP)
        window = (self._hann * (2 / 3)).view(hops, HOP)
        rows = signal.view(*signal.shape[:-1], n_columns + hops - 1, HOP)
        # Column j lies on the hops j to j + 3: four shifted sums, instead of a scattered one.
        for shift in range(hops):
            rows[..., shift : shift + n_columns, :].addcmul_(parts[..., shift, :], window[shift])


def _softmax(logits: Sequence[Tensor]) -> None:
    """Put shares, which sum to one over all stems, in place of logits, each (B, C, F, K).

    One image at a time: how torch rounds depends on an element's place among all.
    """
    for images in zip(*logits, strict=True):
        for image, share in zip(images, torch.stack(images).softmax(0), strict=True):
            image.copy_(share)


def _magnitude(spectrum: Tensor) -> Tensor:
    """|X|; torch's own `abs` of complex numbers guards against overflow, and takes twice as long."""
    squares = torch.view_as_real(spectrum).square()
    return (squares[..., 0] + squares[..., 1]).sqrt_()


build = Spleeter
"""See `models.Build`."""
