"""RoFormers against the package's own forward, a slow blend of the whole track, and their laws."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from splitfire_batch.blending import MixBuffer
from splitfire_batch.config import SeparationConfig
from splitfire_batch.engine import Engine
from splitfire_batch.models import roformer_network
from splitfire_batch.models.roformer import Roformer
from tests.roformers import CHUNK, CPU, SMALL, blended, make_small

ARCHITECTURES = sorted(SMALL)
SIX = ("bass", "drums", "other", "vocals", "guitar", "piano")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Products this small wait for their threads longer than they compute."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_networks_are_sensitive_to_what_the_tests_look_for():
    """Else agreement would say little: an estimate depends on frames far away, and on both channels."""
    model, _ = make_small()
    mix = noise(1, 2, CHUNK)
    late, right = mix.clone(), mix.clone()
    late[..., -100:] *= 0.5
    right[:, 1] *= 0.5
    for other in (late, right):
        assert (model(mix) - model(other))[:, :, 0, :200].abs().max() > 1e-4 * model(mix).abs().max()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("stereo", [True, False])
@pytest.mark.parametrize("stems", [("vocals",), ("drums", "bass", "other", "vocals"), SIX])
def test_agrees_with_the_package_s_own_forward(architecture, stereo, stems):
    model, package = make_small(architecture, stems, num_stems=len(stems), stereo=stereo)
    segments = noise(3, 2 if stereo else 1, CHUNK)
    wanted = package(segments).view(3, len(stems), -1, CHUNK)
    # the same products in float32; rotations and mean masks are rounded elsewhere
    torch.testing.assert_close(model(segments), wanted, rtol=0, atol=1e-5 * wanted.abs().max())


@pytest.mark.parametrize("arguments", [
    {"stft_hop_length": 15, "match_input_audio_length": True},
    {"stft_normalized": True, "stft_win_length": 48, "num_bands": 5},
    {"mask_estimator_depth": 1, "time_transformer_depth": 2, "freq_transformer_depth": 2},
    {"dim_head": 16, "heads": 3, "depth": 1},
])  # fmt: skip
def test_agrees_with_the_package_whatever_its_sizes(arguments):
    model, package = make_small("mel_band_roformer", **arguments)
    segments = noise(2, 2, CHUNK)
    wanted = package(segments)[:, None]
    torch.testing.assert_close(model(segments), wanted, rtol=0, atol=1e-5 * wanted.abs().max())


def test_zero_dc_takes_0_hz_out_of_the_masked_spectrum(monkeypatch):
    (usual, package), (without, _) = (make_small(zero_dc=zero_dc) for zero_dc in (False, True))
    segments = 0.5 + 0.1 * noise(1, 2, CHUNK)
    invert = torch.istft

    def invert_without_dc(spectrum: Tensor, **sizes: Any) -> Tensor:
        return invert(spectrum * (torch.arange(33) > 0)[:, None], **sizes)

    assert not torch.allclose(without(segments), usual(segments), atol=1e-3)
    monkeypatch.setattr(torch, "istft", invert_without_dc)
    wanted = package(segments)[:, None]
    monkeypatch.undo()
    torch.testing.assert_close(without(segments), wanted, rtol=0, atol=1e-5 * wanted.abs().max())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_estimate_depends_by_no_bit_on_its_batch(architecture):
    model, _ = make_small(architecture)
    segments = torch.cat((noise(2, 2, CHUNK), torch.zeros(1, 2, CHUNK), noise(1, 2, CHUNK, seed=2)))
    alone = torch.cat([model(segments[i : i + 1]) for i in range(4)])
    assert torch.equal(model(segments), alone)
    assert torch.equal(model(segments.flip(0)), alone.flip(0))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("gain", [0.001, 7.0])
def test_estimates_scale_with_the_mix(architecture, gain):
    """So a config's `inference.normalize` has nothing to do, nor could it make stems that miss the mix."""
    model, _ = make_small(architecture)
    segments = noise(1, 2, CHUNK)
    found, wanted = model(gain * segments) / gain, model(segments)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * wanted.abs().max())


def test_attention_is_exact():
    numbers = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn((4, 2, 801, 64), generator=numbers) for _ in range(3))
    found = roformer_network._Attention()(q, k, v)
    weights = (q.double() @ k.double().transpose(-1, -2) / 8).softmax(-1)
    torch.testing.assert_close(found.double(), weights @ v.double(), rtol=0, atol=2e-6)


def test_half_precisions_keep_norms_and_phases_in_float32():
    """At position 800 a phase in bfloat16 would be wrong by up to two radians."""
    frequencies = 10_000 ** -(torch.arange(0, 64, 2) / 64)
    x = noise(1, 1, 801, 64)
    turns = torch.polar(torch.ones(801, 32).double(), torch.outer(torch.arange(801), frequencies).double())
    wanted = torch.view_as_real(torch.view_as_complex(x.double().unflatten(-1, (32, 2))) * turns).flatten(-2)
    rotation = roformer_network._Rotation(frequencies, 801, CPU)
    torch.testing.assert_close(rotation.rotate_queries_or_keys(x).double(), wanted, rtol=0, atol=1e-6)
    found = rotation.to(torch.bfloat16).rotate_queries_or_keys(x.bfloat16())
    assert found.dtype == torch.bfloat16
    assert (found - wanted).abs().max() < 0.02  # two roundings to 8 bits
    norm = roformer_network._Norm(nn.Parameter(torch.ones(512)), 512**0.5).half()
    loud = torch.full((1, 512), 3e4, dtype=torch.float16)  # whose norm is past the largest of these
    torch.testing.assert_close(norm(loud).float(), torch.ones(1, 512), rtol=0, atol=0.01)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("dtype", "floor_db"), [(torch.bfloat16, 40), (torch.float16, 60)])
def test_half_precisions_stay_near_float32(architecture, dtype, floor_db):
    """As on a GPU, whose floors these are: only the layers between norms are in half precision."""
    segments = noise(2, 2, CHUNK)
    model, _ = make_small(architecture)
    wanted = model(segments)
    model._net._net.to(dtype)
    found = model(segments)
    assert {value.dtype for value in model._net.parameters()} == {dtype}
    assert found.dtype == torch.float32
    error = (found - wanted).double().square().sum()
    assert 10 * torch.log10(wanted.double().square().sum() / error) > floor_db


def streamed(model: Roformer, mix: Tensor, block_frames: int, batch: int = 2) -> Tensor:
    """(S, C, T)."""
    with Engine(model, batch=batch) as engine:
        return torch.cat(list(engine.separate(mix[None].split(block_frames, dim=2))), dim=3)[0]


LENGTHS = [1, 200, 201, 399, 400, 401, 799, 801, 1200]
"""About a half, one and two chunks, and several."""


@pytest.mark.parametrize("tail", ["lean", "reference"])
@pytest.mark.parametrize(("overlap", "n_overlap"), [(None, 2), (None, 4), (None, 1), (0.05, 2), (0.33, 2)])
def test_agrees_with_a_slow_blend_of_the_whole_track(tail, overlap, n_overlap):
    settings = SeparationConfig(residual="drop", overlap=overlap, tail=tail)
    model, package = make_small(separation=settings, sections={"inference": {"num_overlap": n_overlap}})
    stride = CHUNK // n_overlap if overlap is None else round(CHUNK * (1 - overlap))
    for n_frames in LENGTHS:
        mix = noise(2, n_frames)
        wanted = blended(mix.numpy(), package, CHUNK, stride, tail == "lean")
        found = streamed(model, mix, 77)[0].double().numpy()
        # float32 estimates, and their weighted mean
        np.testing.assert_allclose(
            found, wanted, rtol=0, atol=2e-5 * np.abs(wanted).max(), err_msg=str(n_frames)
        )


def demixed(mix: Tensor, net: nn.Module, n_overlap: int) -> Tensor:
    """What the community's inference makes of a track (C, T), in float64: from its formulas alone.

    It mirrors a track longer than twice the border, makes up what the last chunks lack from the padded end
    (mirrored where they hold more than half a chunk, else zeros), and has no fade at the two outer edges.
    """
    stride = CHUNK // n_overlap
    border, fade = CHUNK - stride, CHUNK // 10
    is_padded = mix.shape[1] > 2 * border > 0
    if is_padded:
        mix = torch.nn.functional.pad(mix, (border, border), mode="reflect")
    n_frames = mix.shape[1]
    sums, weights = torch.zeros((2, n_frames + CHUNK)).double(), torch.zeros(n_frames + CHUNK).double()
    for start in range(0, n_frames, stride):
        chunk = mix[:, start : start + CHUNK]
        n = chunk.shape[1]
        how = "reflect" if n > CHUNK // 2 else "constant"
        estimate = net(torch.nn.functional.pad(chunk[None], (0, CHUNK - n), mode=how))[0].double()
        window = torch.ones(CHUNK).double()
        if start:
            window[:fade] = torch.linspace(0, 1, fade)
        if start + stride < n_frames:
            window[-fade:] = torch.linspace(1, 0, fade)
        sums[:, start : start + n] += (estimate * window)[:, :n]
        weights[start : start + n] += window[:n]
    whole = sums[:, :n_frames] / weights[:n_frames]
    return whole[:, border:-border] if is_padded else whole


@pytest.mark.parametrize(
    ("n_overlap", "n_frames", "least_db", "most_db"),
    [
        *((2, 401, 120, 999), (2, 800, 120, 999)),  # the same
        *((2, 500, 30, 60), (2, 650, 30, 60), (2, 1337, 30, 60), (2, 1777, 30, 60)),  # but for the last chunk
        *((4, 1337, 40, 80), (4, 1777, 40, 80)),
        *((2, 400, 0, 20), (4, 401, 0, 20), (4, 500, 0, 20)),  # mirrored here, and not there
    ],
)
def test_where_the_reference_tail_is_the_communitys_and_where_it_is_not(
    n_overlap, n_frames, least_db, most_db
):
    """Two rules differ, see `models.roformer`. Random weights hear the difference more than trained ones."""
    separation = SeparationConfig(residual="drop", tail="reference")
    model, net = make_small(separation=separation, sections={"inference": {"num_overlap": n_overlap}})
    mix = torch.randn((2, n_frames), generator=torch.Generator().manual_seed(n_frames))
    wanted = demixed(mix, net, n_overlap)
    found = streamed(model, mix, n_frames)[0].double()
    snr_db = float(10 * torch.log10(wanted.square().sum() / (found - wanted).square().sum()))
    assert least_db < snr_db < most_db


@pytest.mark.slow
@pytest.mark.parametrize("tail", ["lean", "reference"])
@pytest.mark.parametrize("overlap", [None, 0.1, 0.8])
@pytest.mark.parametrize("n_frames", [1, 201, 400, 1337])
def test_streamed_equals_whole_bit_for_bit(tail, overlap, n_frames):
    model, _ = make_small(separation=SeparationConfig(residual="drop", tail=tail, overlap=overlap))
    mix = noise(2, n_frames)
    whole = streamed(model, mix, n_frames)
    assert whole.shape == (1, 2, n_frames)
    assert all(torch.equal(streamed(model, mix, block), whole) for block in (1, 399, 400))
    assert torch.equal(streamed(model, mix, 64, batch=1), whole)


MODELS = {
    (tail, overlap): make_small(separation=SeparationConfig(residual="drop", tail=tail, overlap=overlap))[0]
    for tail in ("lean", "reference")
    for overlap in (None, 0.0, 0.05, 0.75)
}


@given(st.sampled_from(sorted(MODELS, key=str)), st.integers(1, 3000), st.integers(0, 3000))
def test_segments_obey_the_prefix_law_cover_the_track_and_can_be_read(which, n_frames, n_more):
    model = MODELS[which]
    segments = list(model.segments(n_frames))
    later = model.segments(n_frames + n_more)
    ended = [segment for segment in segments if segment.stop <= n_frames]
    assert ended == list(later[: len(ended)])
    starts = [segment.start for segment in segments]
    assert starts == sorted(set(starts))
    assert starts[0] <= 0
    assert all(after.start <= before.stop for before, after in itertools.pairwise(segments))
    assert segments[-1].start < n_frames <= segments[-1].stop
    buffer = MixBuffer(1)
    buffer.push(torch.arange(n_frames, dtype=torch.float32)[None])
    for segment in segments:  # what the engine forgets is not needed
        buffer.drop_before(segment.start - segment.n_back)
        assert buffer.read(segment).shape == (1, CHUNK)


def test_lean_has_no_chunk_for_what_is_covered():
    lean, reference = (MODELS[tail, None] for tail in ("lean", "reference"))
    counts = [[len(model.segments(n)) for n in (300, 400, 1000, 100_000)] for model in (lean, reference)]
    assert counts == [[1, 2, 5, 500], [2, 3, 6, 501]]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_only_the_masks_that_are_needed_are_computed(architecture):
    every, _ = make_small(architecture, SIX, num_stems=6)
    some = SeparationConfig(residual="drop", stems=("piano", "bass"))
    model, _ = make_small(architecture, SIX, some, num_stems=6)
    assert model.stems == ("bass", "piano")
    segments = noise(1, 2, CHUNK)
    assert torch.equal(model(segments), every(segments)[:, [0, 5]])
    n_masks = [sum(1 for _ in each._net._net._mask_estimators) for each in (every, model)]
    assert n_masks == [6, 2]


def test_what_a_single_stem_leaves_of_the_mix_is_a_stem_too():
    segments = noise(2, 2, CHUNK)
    target = {"training": {"instruments": ["vocals", "other"], "target_instrument": "vocals"}}
    both, _ = make_small(stems=("vocals", "other"), sections=target)
    torch.testing.assert_close(both(segments).sum(1), segments, rtol=0, atol=1e-6)
    folded, _ = make_small(stems=("vocals", "other"), separation=SeparationConfig(), sections=target)
    assert folded.stems == ("vocals",)  # the other is the mix minus it, at the track's own rate
    assert torch.equal(folded(segments)[:, 0], both(segments)[:, 0])
    settings = SeparationConfig(residual="drop", stems=("other",))
    only, _ = make_small(stems=("vocals", "other"), separation=settings, sections=target)
    assert torch.equal(only(segments)[:, 0], both(segments)[:, 1])


def test_another_shape_is_refused():
    model, _ = make_small()
    for shape in [(1, 1, CHUNK), (1, 2, CHUNK - 1), (2, CHUNK)]:
        with pytest.raises(ValueError, match=r"wanted \(B, 2, 400\)"):
            model(torch.zeros(shape))
