"""The other models of the Spleeter family: 4 and 5 stems, and those that see more bins.

Against the formulas in float64 with random weights here, and against the original package in
`test_spleeter_original`. What all Spleeter models have in common is tested in `test_spleeter`.
"""

from __future__ import annotations

import dataclasses

import pytest
import soundfile
import torch
from torch import Tensor

from splitfire_batch.errors import ConfigError
from splitfire_batch.models.spleeter import _softmax
from splitfire_batch.models.spleeter_unet import UNet, _variable
from splitfire_batch.models.unet_on_cpu import UNetOnCpu
from tests.assets import audio_example
from tests.spleeter_models import spleeter
from tests.spleeter_networks import CARDS, NORM, estimates_of, random_checkpoint, variables

N_FRAMES = 63 * 1024 + 4096
"""Of a segment of 64 columns."""
STEMS = {
    2: ("vocals", "accompaniment"),
    4: ("vocals", "drums", "bass", "other"),
    5: ("vocals", "piano", "drums", "bass", "other"),
}
"""In the order in which the original counts their variables."""


@pytest.fixture(scope="module")
def checkpoints() -> dict[int, dict[str, Tensor]]:
    return {n_stems: random_checkpoint(n_stems) for n_stems in (2, 4, 5)}


@pytest.fixture(scope="module")
def music() -> Tensor:
    """Segments (2, 2, L) of the same song."""
    mix, _ = soundfile.read(audio_example(), dtype="float32", frames=4 * N_FRAMES)
    return torch.from_numpy(mix.T.copy()).view(2, 4, N_FRAMES)[:, 1::2].transpose(0, 1).contiguous()


IN_GATE = [
    name
    if name in ("spleeter-4stems", "spleeter-5stems-16khz")
    else pytest.param(name, marks=pytest.mark.slow)
    for name in CARDS
]


def snr_db(wanted: Tensor, found: Tensor) -> float:
    wanted = wanted.double()
    return float(10 * torch.log10(wanted.square().sum() / (wanted - found).square().sum()))


@pytest.mark.parametrize("name", IN_GATE)
def test_estimates_are_what_the_formulas_say(name, checkpoints, music):
    card = CARDS[name]
    weights = checkpoints[len(card.stems)]
    model = spleeter(card, weights)
    assert model.stems == STEMS[len(card.stems)]
    assert all(isinstance(net, UNetOnCpu) for net in model._nets)
    found, wanted = model(music[:1])[0], estimates_of(weights, card, music[0])
    for stem, one, other in zip(card.stems, wanted, found, strict=True):
        share = float(one.square().sum() / music[0].double().square().sum())
        assert 0.0001 < share < 0.9, f"{stem}: {share:.6f} of the mix makes it no test"
        assert snr_db(one, other) >= 100, stem  # float32 against float64


def test_one_stem_is_what_it_is_among_all(checkpoints, music):
    """Its mask needs every network; only the inverse transforms of the others are left out."""
    card, weights = CARDS["spleeter-5stems"], checkpoints[5]
    alone = spleeter(card, weights, stems="piano")
    assert alone.stems == ("piano",)
    assert torch.equal(alone(music[:1])[:, 0], spleeter(card, weights)(music[:1])[:, 1])


def test_by_default_the_stem_other_is_left_to_the_mix(checkpoints):
    assert spleeter(CARDS["spleeter-5stems"], checkpoints[5], residual="fold").stems == STEMS[5][:-1]


def test_an_estimate_does_not_depend_on_its_neighbours(checkpoints, music):
    model = spleeter(CARDS["spleeter-5stems"], checkpoints[5])
    one, other, silence = music[0], music[1], torch.zeros_like(music[0])
    first = model(torch.stack([one, other, silence]))
    second = model(torch.stack([silence, other.flip(1) * 3, one]))
    assert torch.equal(first[0], second[2])
    assert not first[2].any()
    assert not second[0].any()


def test_a_softmax_over_stems_does_not_depend_on_the_batch_or_the_threads():
    """Torch rounds the last elements of each thread's share otherwise; three threads have no even shares."""
    logits = [torch.randn(3, 2, 32, 64, generator=torch.Generator().manual_seed(i)) for i in range(5)]
    alone = [logit[2:].clone() for logit in logits]
    n_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        _softmax(logits)
        _softmax(alone)
    finally:
        torch.set_num_threads(n_threads)
    assert all(torch.equal(one[0], many[2]) for one, many in zip(alone, logits, strict=True))
    torch.testing.assert_close(sum(logits), torch.ones(3, 2, 32, 64))


@pytest.mark.parametrize(("name", "is_heard"), [("spleeter-5stems", False), ("spleeter-5stems-16khz", True)])
def test_a_tone_of_15_khz_is_in_stems_of_16_khz_models_only(name, is_heard, checkpoints):
    seconds = torch.arange(N_FRAMES, dtype=torch.float64) / 44_100  # float32 would add phase noise
    tone = torch.sin(2 * torch.pi * 15_000 * seconds).float().expand(1, 2, -1)
    middle = spleeter(CARDS[name], checkpoints[5])(tone)[..., 8192:-8192]  # its ends are clicks, at every bin
    assert (middle.sum(1).abs().max() > 0.5) == is_heard
    assert is_heard or middle.abs().max() < 1e-4


def test_with_average_extension_five_stems_sum_to_the_mix(checkpoints, music):
    model = spleeter(CARDS["spleeter-5stems-16khz"], checkpoints[5], mask_extension="average")
    middle = slice(4096, -4096)  # the segment's ends are one window each, not yet a sum
    torch.testing.assert_close(
        model(music[:1])[0].sum(0)[..., middle], music[0][..., middle], rtol=0, atol=3e-6
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "relu"}, "activation: found 'relu'; Input should be 'leaky' or 'elu'"),
        ({"mask": "ratio"}, "mask: found 'ratio'; Input should be 'sigmoid' or 'softmax'"),
        ({"n_bins": 1500}, "n_bins: found 1500; Input should be a multiple of 64"),
        ({"n_bins": 2112}, "n_bins: found 2112; Input should be less than or equal to 2048"),
        ({"n_bins": "1024"}, "n_bins: found '1024'; Input should be a valid integer"),
        ({"bins": 1024}, "'bins' is no setting; known are activation, mask, n_bins"),
    ],
)
def test_options_that_the_networks_cannot_have_are_refused(options, message, checkpoints):
    card = dataclasses.replace(CARDS["spleeter-4stems"], options=options)
    with pytest.raises(ConfigError) as found:
        spleeter(card, checkpoints[4])
    assert str(found.value) == f"the options of spleeter-4stems in the registry are not Spleeter's: {message}"


def test_the_fifth_stem_has_the_numbers_that_the_original_gives_it():
    shapes = dict(variables(5))
    assert len(shapes) == 5 * (2 * 13 + 4 * 12)
    assert shapes["conv2d_28/kernel"] == (5, 5, 2, 16)
    assert shapes["conv2d_34/kernel"] == (4, 4, 1, 2)
    assert shapes["conv2d_transpose_24/kernel"] == (5, 5, 256, 512)
    assert shapes["batch_normalization_59/gamma"] == (1,)
    state = {_variable(key, stem) for key in UNet().state_dict() for stem in range(5)}
    unused = {name for name in shapes if name not in state}
    assert unused == {f"batch_normalization{s}/{k}" for s in ("_5", "_17", "_29", "_41", "_53") for k in NORM}
    assert not state - set(shapes)


@pytest.mark.parametrize(
    ("stems", "message"),
    [
        (STEMS[4], r"the weights have conv2d_34/bias, so they are of more than 4 stems"),
        ((*STEMS[5], "guitar"), r"the weights have no conv2d_35/kernel"),
    ],
)
def test_weights_of_another_number_of_stems_are_refused(stems, message, checkpoints):
    card = dataclasses.replace(CARDS["spleeter-5stems"], stems=stems)
    with pytest.raises(ConfigError, match=message):
        spleeter(card, checkpoints[5])
