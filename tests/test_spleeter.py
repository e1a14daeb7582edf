"""Spleeter against the original's output, against a slow whole-track version, and against its laws.

Laws that hold for any weights are tested with random ones; the rest uses the published weights.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from splitfire_batch.blending import MixBuffer, OverlapAdd
from splitfire_batch.config import SeparationConfig
from splitfire_batch.errors import ConfigError
from splitfire_batch.models import find_card, load_model
from splitfire_batch.models.spleeter import Spleeter
from splitfire_batch.models.spleeter_unet import UNet, _sub_pixel, _variable, make_unet
from splitfire_batch.models.weights import load_weights
from tests.assets import audio_example
from tests.spleeter_models import spleeter

CARD = find_card("spleeter-2stems")
PARITY = Path(__file__).parent / "data" / "parity_audio_example.npz"


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    return load_weights(CARD)


@pytest.fixture(scope="module")
def random_weights() -> dict[str, Tensor]:
    """Tensors like the published ones in name, shape and rough size."""
    numbers = torch.Generator().manual_seed(1)
    tensors = {}
    for key, value in UNet().state_dict().items():
        shape = tuple(value.shape)
        if key.startswith("up."):  # a transposed convolution in the checkpoint: (in, out, 5, 5)
            shape = (shape[1], shape[0] // 4, 5, 5) if value.ndim == 4 else (shape[0] // 4,)
        for instrument in range(2):
            if not key.endswith("num_batches_tracked"):
                scale = 0.02 if value.ndim == 4 else 1.0
                found = torch.rand(shape, generator=numbers) * scale
                found = found.permute(2, 3, 1, 0) if value.ndim == 4 else found
                tensors[_variable(key, instrument)] = found
    return tensors


@pytest.mark.parametrize(("n_in", "n_out", "height", "width"), [(3, 2, 4, 6), (8, 1, 1, 1), (2, 5, 7, 2)])
def test_a_transposed_convolution_is_a_plain_one_and_a_pixel_shuffle(n_in, n_out, height, width):
    numbers = torch.Generator().manual_seed(2)
    x = torch.randn((2, n_in, height, width), generator=numbers, dtype=torch.float64)
    kernel = torch.randn((n_in, n_out, 5, 5), generator=numbers, dtype=torch.float64)
    full = torch.nn.functional.conv_transpose2d(x, kernel, stride=2)
    wanted = full[..., 1 : 2 * height + 1, 1 : 2 * width + 1]
    plain = torch.nn.functional.conv2d(x, _sub_pixel(kernel), padding=1)
    torch.testing.assert_close(torch.nn.functional.pixel_shuffle(plain, 2), wanted)


def stems_of(model: Spleeter, mix: Tensor) -> Tensor:
    """(S, C, n) as the engine gets them, one segment at a time."""
    n_frames = mix.shape[1]
    buffer, blend = MixBuffer(2), OverlapAdd(len(model.stems), 2)
    buffer.push(mix)
    for segment in model.segments(n_frames):
        blend.add(segment, model(buffer.read(segment)[None])[0], model.window(segment))
    return blend.take(n_frames)


def snr_db(wanted: NDArray[np.floating], found: NDArray[np.floating]) -> float:
    wanted = wanted.astype(np.float64)
    return float(10 * np.log10(np.sum(wanted**2) / np.sum((wanted - found) ** 2)))


def noise(n_frames: int, seed: int = 0) -> Tensor:
    return torch.rand((2, n_frames), generator=torch.Generator().manual_seed(seed)) - 0.5


def example() -> Tensor:
    mix, _ = soundfile.read(audio_example(), dtype="float32")
    return torch.from_numpy(mix.T.copy())


def test_stems_agree_with_the_original_implementation(published):
    """`data/parity_audio_example.npz`: 8,192 frames of what TensorFlow 2.12 and the original code give."""
    reference = np.load(PARITY)
    found = stems_of(spleeter(CARD, published, short_clip="reference"), example()).numpy()
    for stem, estimate in zip(CARD.stems, found, strict=True):
        # Two float32 implementations of the same formulas come to 100 dB; a wrong STFT to 30.
        assert snr_db(reference[stem].T, estimate[:, reference["frames"]]) >= 90, stem


def slow_stems(weights: dict[str, Tensor], mix: NDArray[np.float64], n_pad: int) -> NDArray[np.float64]:
    """Whole-track separation in float64 as the formulas read; `n_pad` columns are the least of a block."""
    n_frames = mix.shape[1]
    n_columns = -(-(n_frames + 4096) // 1024)
    padded = np.zeros((2, (n_columns + 3) * 1024))
    padded[:, 4096 : 4096 + n_frames] = mix
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(4096) / 4096)
    spectrum = np.stack(
        [np.fft.rfft(padded[:, j * 1024 : j * 1024 + 4096] * hann) for j in range(n_columns)], axis=1
    )
    nets = [make_unet(weights, instrument).double() for instrument in range(2)]
    masks = np.zeros((2, 2, n_columns, 2049))
    for first in range(0, n_columns, 512):
        magnitude = np.abs(spectrum[:, first : first + 512, :1024])
        n_block = magnitude.shape[1]
        block = np.pad(magnitude, ((0, 0), (0, -n_block % n_pad), (0, 0)))
        with torch.inference_mode():
            outputs = [net(torch.from_numpy(block[None]))[0].numpy() for net in nets]
        squares = np.stack([(output * block) ** 2 for output in outputs])
        block_masks = (squares + 1e-10 / 2) / (squares.sum(0) + 1e-10)
        masks[:, :, first : first + n_block, :1024] = block_masks[:, :, :n_block]
    stems = np.zeros((2, *padded.shape))
    for j in range(n_columns):
        stems[..., j * 1024 : j * 1024 + 4096] += np.fft.irfft(spectrum[:, j] * masks[:, :, j]) * hann * 2 / 3
    return stems[..., 4096 : 4096 + n_frames]


@pytest.mark.slow
@pytest.mark.parametrize(("short_clip", "n_pad"), [("adaptive", 64), ("reference", 512)])
def test_segments_add_up_to_the_whole_track(published, short_clip, n_pad):
    mix = example().repeat(1, 2)[:, :900_000]  # a full block and one of 371 columns
    found = stems_of(spleeter(CARD, published, short_clip=short_clip), mix)
    wanted = slow_stems(published, mix.double().numpy(), n_pad)
    for stem, one, other in zip(CARD.stems, wanted, found.numpy(), strict=True):
        assert snr_db(one, other) >= 100, stem  # float32 against float64


@pytest.mark.parametrize(
    ("residual", "stems", "wanted"),
    [
        ("drop", (), ("vocals", "accompaniment")),
        ("fold", (), ("vocals",)),
        ("fold", ("instrumental",), ("vocals",)),
        ("drop", ("accompaniment",), ("accompaniment",)),
    ],
)
@pytest.mark.parametrize("mask_extension", ["zeros", "average"])
def test_only_what_the_stems_are_made_of_is_computed(published, residual, stems, wanted, mask_extension):
    segment = example()[None, :, :68_608]
    both = spleeter(CARD, published, mask_extension=mask_extension)(segment)
    model = spleeter(CARD, published, residual=residual, stems=stems, mask_extension=mask_extension)
    assert model.stems == wanted
    assert torch.equal(model(segment), both[:, [CARD.stems.index(stem) for stem in wanted]])


@pytest.mark.parametrize("columns", [32, 64, 512])
def test_an_estimate_does_not_depend_on_its_neighbours(published, columns):
    model = spleeter(CARD, published)
    length = (columns - 1) * 1024 + 4096
    segment = example()[:, :length]
    segment = torch.nn.functional.pad(segment, (0, length - segment.shape[1]))
    first = model(torch.stack([segment, noise(length), torch.zeros(2, length)]))[0]
    second = model(torch.stack([noise(length, 1) * 3, segment.flip(1), segment]))[2]
    assert torch.equal(first, second)


def test_load_model_gives_the_published_network_its_settings(published):
    separation = SeparationConfig(short_clip="reference", mask_extension="average", residual="drop")
    model = load_model(separation, "cpu")
    assert (model.name, model.stems, model.sample_rate, model.n_channels) == (
        CARD.name,
        CARD.stems,
        44_100,
        2,
    )
    assert model.segments(1)[0].n_frames == 527_360
    segment = example()[None, :, :68_608]
    same = spleeter(CARD, published, short_clip="reference", mask_extension="average")
    assert torch.equal(model(segment), same(segment))


@pytest.mark.parametrize("n_frames", [1, 1024, 44_100, 264_600, 264_601, 530_000])
def test_with_average_extension_the_stems_sum_to_the_mix(random_weights, n_frames):
    """The masks then sum to one at every bin, and Hann at a hop of a quarter reconstructs perfectly."""
    mix = noise(n_frames)
    stems = stems_of(spleeter(CARD, random_weights, mask_extension="average"), mix)
    torch.testing.assert_close(stems.sum(0), mix, rtol=0, atol=3e-6)


@pytest.mark.parametrize(
    ("n_frames", "columns"), [(1, 32), (700, 32), (28_672, 32), (28_673, 64), (61_440, 64), (61_441, 96)]
)
def test_a_short_clip_is_separated_like_the_loop_it_is_part_of(published, n_frames, columns):
    """Its estimate is the one at its place in an endless loop, of which the network sees few columns."""
    clip, n_seen = example()[:, :n_frames], (columns - 1) * 1024 + 4096
    loop = clip.repeat(1, n_seen // n_frames + 2)
    first = n_frames * (1 + 4095 // n_frames)  # a repetition with 4,096 frames of the loop before it
    model = spleeter(CARD, published)
    estimates = model(loop[None, :, first - 4096 :][..., :n_seen])[0]
    assert torch.equal(stems_of(model, clip), estimates[..., 4096 : 4096 + n_frames])


def test_with_zero_extension_nothing_is_above_the_networks_bins(random_weights):
    seconds = torch.arange(88_200, dtype=torch.float64) / 44_100  # float32 would add phase noise
    tone = torch.sin(2 * torch.pi * 15_000 * seconds).float().expand(2, -1)
    stems = stems_of(spleeter(CARD, random_weights), tone)
    middle = stems[..., 8192:-8192]  # its ends are clicks, at every bin
    assert middle.abs().max() < 1e-4
    assert stems_of(spleeter(CARD, random_weights, mask_extension="average"), tone).abs().max() > 0.1


def test_silence_stays_silent(random_weights):
    assert not stems_of(spleeter(CARD, random_weights), torch.zeros(2, 70_000)).any()


LENGTHS = st.one_of(
    st.integers(1, 3_000_000), st.builds(lambda k, d: k * 1024 + d, st.integers(8, 2000), st.integers(-1, 1))
)


@pytest.fixture(scope="module", params=["adaptive", "reference"])
def model(request, random_weights) -> Spleeter:
    return spleeter(CARD, random_weights, short_clip=request.param)


@given(n_frames=LENGTHS)
def test_segments_cover_the_track_and_all_its_stft_columns(model, n_frames):
    segments = list(model.segments(n_frames))
    n_columns = sum((segment.n_frames - 3072) // 1024 for segment in segments)
    assert segments[0].start == -4096
    assert n_columns * 1024 >= n_frames + 4096
    assert n_columns * 1024 < n_frames + 4096 + (512 + 1) * 1024
    for one, other in itertools.pairwise(segments):
        assert one.stop - other.start == 3072
        assert one.n_frames == 527_360
    assert ((segments[-1].n_frames - 3072) // 1024) % (32 if segments[-1].fill == "tile" else 64) == 0


@given(n_frames=LENGTHS, more=st.integers(0, 2_000_000))
def test_a_segment_within_a_prefix_stays_as_it_is(model, n_frames, more):
    longer = model.segments(n_frames + more)
    for index, segment in enumerate(model.segments(n_frames)):
        if segment.stop <= n_frames:
            assert longer[index] == segment


@pytest.fixture(scope="module")
def reference_model(random_weights) -> Spleeter:
    return spleeter(CARD, random_weights, short_clip="reference")


@given(n_frames=LENGTHS)
def test_reference_segments_are_all_full(reference_model, n_frames):
    segments = reference_model.segments(n_frames)
    assert {(segment.n_frames, segment.fill) for segment in segments} == {(527_360, "zeros")}


@pytest.mark.parametrize(
    ("n_frames", "n_columns", "fill"),
    [
        (1, 32, "tile"),
        (32 * 1024 - 4096, 32, "tile"),
        (32 * 1024 - 4095, 64, "tile"),
        (64 * 1024 - 4095, 96, "tile"),
        (264_600, 288, "tile"),
        (264_601, 320, "zeros"),
        (512 * 1024 - 4096, 512, "zeros"),
    ],
)
def test_a_clip_is_filled_up_to_the_next_multiple_of_32_columns_in_a_loop_of_64_with_zeros(
    random_weights, n_frames, n_columns, fill
):
    (segment,) = spleeter(CARD, random_weights).segments(n_frames)
    assert segment.n_frames == (n_columns - 1) * 1024 + 4096
    assert segment.fill == fill


def test_segments_of_a_very_long_track_are_cheap_to_ask_for(random_weights):
    segments = spleeter(CARD, random_weights).segments(10**15)
    assert len(segments) > 10**9
    assert segments[10**9].start == 10**9 * 524_288 - 4096
    with pytest.raises(IndexError):
        segments[len(segments)]


@pytest.mark.parametrize("shape", [(2, 68_608), (1, 1, 68_608), (1, 2, 68_607), (1, 2, 69_632), (1, 2, 0)])
def test_segments_of_another_shape_are_refused(reference_model, shape):
    with pytest.raises(ValueError, match="wanted"):
        reference_model(torch.zeros(shape))


def test_weights_of_another_model_are_refused(random_weights):
    less = {name: tensor for name, tensor in random_weights.items() if name != "conv2d_13/bias"}
    with pytest.raises(ConfigError, match="the weights have no conv2d_13/bias"):
        spleeter(CARD, less)
    with pytest.raises(ConfigError, match=r"conv2d/bias is torch.float32 of shape \(17,\), wanted .*\(16,\)"):
        spleeter(CARD, {**random_weights, "conv2d/bias": torch.zeros(17)})
