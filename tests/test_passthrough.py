"""Passthrough is a test's stand-in for a network, so its own laws are tested exactly."""

from __future__ import annotations

import pytest
import torch

from splitfire_batch.blending import MixBuffer, OverlapAdd
from splitfire_batch.config import SeparationConfig
from splitfire_batch.models import find_card, load_model
from splitfire_batch.models.passthrough import Passthrough
from splitfire_batch.segments import Segment

CPU = torch.device("cpu")


def small() -> Passthrough:
    return Passthrough(find_card("passthrough"), CPU, segment_frames=100)


def stems_of(mix: torch.Tensor) -> torch.Tensor:
    model = small()
    buffer, blend = MixBuffer(2), OverlapAdd(2, 2)
    buffer.push(mix)
    for segment in model.segments(mix.shape[1]):
        blend.add(segment, model(buffer.read(segment)[None])[0], model.window(segment))
    return blend.take(mix.shape[1])


@pytest.mark.parametrize("n_frames", [1, 74, 75, 76, 99, 100, 101, 1037])
def test_stems_are_fixed_shares_of_the_mix(n_frames):
    mix = torch.rand((2, n_frames), generator=torch.Generator().manual_seed(1)) * 2 - 1
    vocals, accompaniment = stems_of(mix)
    # A weighted mean of two equal values may be off by the rounding of float32.
    torch.testing.assert_close(vocals, 0.25 * mix, rtol=0, atol=1e-6)
    torch.testing.assert_close(accompaniment, 0.75 * mix, rtol=0, atol=1e-6)


@pytest.mark.parametrize("n_frames", [1, 2, 99, 100])
def test_the_window_is_positive_and_symmetric(n_frames):
    window = small().window(Segment(0, n_frames))
    assert window.shape == (n_frames,)
    assert (window > 0).all()
    assert (window <= 1).all()
    assert torch.equal(window, window.flip(0))


def test_segments_overlap_by_a_quarter():
    first, second = small().segments(150)
    assert (first.start, first.stop) == (0, 100)
    assert (second.start, second.stop) == (75, 175)


def test_load_model_gives_it_without_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("SPLITFIRE_CACHE", str(tmp_path))
    model = load_model(SeparationConfig(model="passthrough", residual="drop"), "cpu")
    assert (model.name, model.stems, model.sample_rate) == (
        "passthrough",
        ("vocals", "accompaniment"),
        44_100,
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(2, 100), (1, 1, 100), (1, 2, 3, 100)])
def test_segments_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"wanted \(B, 2, L\)"):
        small()(torch.zeros(shape))


def test_a_segment_too_short_to_overlap_is_refused():
    with pytest.raises(ValueError, match="wanted at least 4"):
        Passthrough(find_card("passthrough"), CPU, segment_frames=3)
