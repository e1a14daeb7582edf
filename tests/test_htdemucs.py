"""Hybrid Demucs against the package's own `apply_model`, from the same state: estimates, segments, precision.

What every architecture must do is tested in `test_model_contract`.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import soundfile
import torch
from demucs.apply import apply_model
from torch import Tensor

from splitfire_batch.config import SeparationConfig
from splitfire_batch.engine import Engine
from splitfire_batch.errors import ConfigError
from splitfire_batch.models.htdemucs import Demucs
from splitfire_batch.models.htdemucs_network import make_network, segment_frames, with_package
from splitfire_batch.models.precision import Arithmetic
from tests.assets import audio_example
from tests.demucs_networks import CPU, FULL, FULL_SIX, SMALL, SMALL_SIX, SMALL_V3, Network, make_card

CLOSE = 1e-5
"""Relative; the promise is 1e-4. Found: 8e-7, the rounding of float32 through the network."""
RAW = SeparationConfig(residual="drop")
"""With all estimates."""
NETWORKS = [SMALL, SMALL_SIX, SMALL_V3]
EACH = pytest.mark.parametrize("network", NETWORKS, ids=str)
BOTH = pytest.mark.parametrize("network", [SMALL, SMALL_V3], ids=str)
LENGTH, STRIDE = 11_025, 8_268
"""Frames of a small network's segment, and to the next one."""
BORDERS = [
    *(1, 2, 3, 767, 768, 769),  # one frame to what the STFT mirrors
    *(n + step for n in (STRIDE, LENGTH, 2 * STRIDE, LENGTH + STRIDE, 3 * STRIDE) for step in (-1, 0, 1)),
    3 * LENGTH + 17,
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """More of them wait longer for each other than networks as small as these take."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@functools.cache
def model_of(network: Network, tail: str, overlap: float | None = None) -> Demucs:
    """With all estimates, built once."""
    return network.model(tail=tail, overlap=overlap)


def noise(n_frames: int, seed: int = 1) -> Tensor:
    """(1, 2, T)."""
    return torch.randn((1, 2, n_frames), generator=torch.Generator().manual_seed(seed)) * 0.1


def music(n_frames: int) -> Tensor:
    """(1, 2, T)."""
    mix, _ = soundfile.read(audio_example(), dtype="float32", start=44_100, frames=n_frames)
    return torch.from_numpy(mix.T.copy())[None]


def separated(model: Demucs, mix: Tensor, block: int | None = None, batch: int | None = None) -> Tensor:
    """(1, S, C, T) from the engine; the mix arrives in blocks of that many frames."""
    with Engine(model, batch) as engine:
        return torch.cat(list(engine.separate(mix.split(block or mix.shape[2], dim=2))), dim=3)


def reference(network: Network, mix: Tensor, overlap: float = 0.25) -> Tensor:
    """(1, S, C, T) from the package."""
    with torch.inference_mode():
        return apply_model(network.reference, mix, shifts=0, split=True, overlap=overlap)


def distance(found: Tensor, wanted: Tensor) -> float:
    """Relative, of the stem that is furthest off."""
    stems = zip(found.unbind(1), wanted.unbind(1), strict=True)
    return max(float((ours - theirs).norm() / theirs.norm()) for ours, theirs in stems)


def snr_db(found: Tensor, wanted: Tensor) -> float:
    return float(10 * torch.log10(wanted.square().sum() / (found - wanted).square().sum()))


# Against the package


@BOTH
@pytest.mark.parametrize("n_frames", BORDERS)
def test_with_the_reference_tail_it_is_what_the_package_gives(network, n_frames):
    mix = noise(n_frames)
    assert distance(separated(model_of(network, "reference"), mix), reference(network, mix)) < CLOSE


@BOTH
@pytest.mark.parametrize("overlap", [0, 0.1, 0.5, 0.75])
def test_any_overlap_is_the_packages_too(network, overlap):
    mix = noise(2 * LENGTH + 100)
    found = separated(model_of(network, "reference", overlap), mix)
    assert distance(found, reference(network, mix, overlap)) < CLOSE


@EACH
def test_music_is_what_the_package_gives(network):
    mix = music(5 * LENGTH)
    assert distance(separated(model_of(network, "reference"), mix), reference(network, mix)) < CLOSE


@EACH
def test_weights_published_in_half_precision_are_taken_as_they_are(network):
    halved = {name: value.half() for name, value in network.tensors.items()}
    model = Demucs(network.card, halved, RAW, Arithmetic("fp32", CPU))
    exact = {name: value.float() for name, value in halved.items()}
    same = Demucs(network.card, exact, RAW, Arithmetic("fp32", CPU))
    segment = noise(model.segments(2**40)[0].n_frames)
    assert torch.equal(model(segment), same(segment))


@pytest.mark.parametrize(("network", "n_bytes"), [(FULL, 84_023_856), (FULL_SIX, 54_884_136)], ids=str)
def test_at_full_size_it_takes_the_tensors_that_were_published(network, n_bytes):
    """Names and shapes are the package's for the published arguments. What is left of the published files,
    which hold two bytes for each number, is their header: name, type, shape and place of every tensor.
    """
    state = network.shapes()
    with torch.device("meta"):
        net = make_network(network.card, state)
    assert {name: value.shape for name, value in net.state_dict().items()} == {
        name: value.shape for name, value in state.items()
    }
    header = n_bytes - 2 * sum(value.numel() for value in state.values())
    assert 60 * len(state) < header < 150 * len(state)
    assert segment_frames(net) == 343_980


# Its segments


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize(("tail", "overlap"), [("lean", None), ("reference", 0.75)])
def test_streamed_equals_whole(network, tail, overlap):
    model = model_of(network, tail, overlap)
    for n_frames in (LENGTH - 1, LENGTH + STRIDE + 1, 2 * LENGTH):
        mix = noise(n_frames)
        whole = separated(model, mix)
        for block in (777, LENGTH):
            assert torch.equal(separated(model, mix, block), whole)


@BOTH
@pytest.mark.parametrize("n_frames", BORDERS)
def test_a_lean_tail_leaves_out_what_is_covered_already(network, n_frames):
    lean, full = (list(model_of(network, tail).segments(n_frames)) for tail in ("lean", "reference"))
    assert lean == full[: len(lean)]
    assert lean[-1].lands.stop >= n_frames  # so every later one would cover nothing new
    assert len(lean) == 1 or lean[-2].lands.stop < n_frames
    assert len(full) == -(-n_frames // STRIDE)


@BOTH
def test_a_lean_tail_changes_nothing_before_the_segment_it_leaves_out(network):
    n_frames = LENGTH + STRIDE - 1  # in the reference three segments, of which the last one is covered
    mix = noise(n_frames)
    lean, full = (separated(model_of(network, tail), mix) for tail in ("lean", "reference"))
    assert torch.equal(lean[..., : 2 * STRIDE], full[..., : 2 * STRIDE])
    assert not torch.equal(lean, full)


@pytest.mark.parametrize("n_frames", [1, LENGTH // 3, LENGTH - 1])
def test_a_short_clip_lies_in_the_middle_of_its_segment(n_frames):
    (segment,) = SMALL.model().segments(n_frames)
    assert (segment.n_frames, segment.fill) == (LENGTH, "zeros")
    before, after = -segment.start, segment.stop - n_frames
    assert 0 <= after - before <= 1
    assert segment.lands == slice(0, n_frames)


def test_segments_without_a_transformer_are_as_long_as_what_is_left_of_the_track():
    segments = SMALL_V3.model().segments(STRIDE + 4_000)
    assert [(segment.start, segment.n_landing) for segment in segments] == [(0, LENGTH), (STRIDE, 4_000)]


def test_only_without_a_transformer_a_cut_segment_has_a_length_of_its_own():
    for network in NETWORKS:
        model = model_of(network, "lean")
        lengths = {segment.n_frames for n in (1, 500, 501, LENGTH + 9) for segment in model.segments(n)}
        assert model.is_of_any_length == (len(lengths) > 1) == (network is SMALL_V3)


def test_an_overlap_of_nearly_all_still_goes_on():
    assert [segment.start for segment in SMALL.model(overlap=0.99999).segments(LENGTH + 2)][:3] == [0, 1, 2]


# Which estimates


@EACH
def test_only_the_estimates_that_are_needed_are_finished(network):
    model, every = network.model(stems="vocals"), network.model()
    assert model.stems == ("vocals",)
    segment = noise(model.segments(2**40)[0].n_frames)
    assert torch.equal(model(segment)[:, 0], every(segment)[:, every.stems.index("vocals")])


# Half precision


class Overflowing(torch.nn.Module):
    """Layers whose output is finite in float16 only while their input stays below `limit`."""

    def __init__(self, layers: Any, limit: float) -> None:
        super().__init__()
        self._layers, self._limit = layers, limit

    def forward(self, x: Tensor, xt: Tensor) -> tuple[Tensor, ...]:
        y, yt = self._layers(x, xt)
        yt = yt * (65_504 * xt.abs().amax(dim=(1, 2), keepdim=True) / self._limit).half() / 65_504
        return y, yt.float()


def in_fp16(limit: float) -> Demucs:
    """A model that takes its layers for ones in fp16, which no CPU offers; they overflow beyond `limit`."""
    arithmetic = Arithmetic("fp32", CPU)
    arithmetic.precision = "fp16"
    model = SMALL.model(arithmetic)
    model._layers = Overflowing(model._layers, limit)
    return model


def sparse() -> Tensor:
    """A click: standardised, it is 74 deviations high, where noise reaches 5. (1, 2, L)."""
    mix = torch.zeros((1, 2, LENGTH))
    mix[..., 1_000] = 0.5
    return mix


def counted(model: Demucs) -> list[int]:
    """The sizes of the batches that go through float32 again, from now on."""
    sizes: list[int] = []
    assert model._exact is not None
    layers = model._exact()

    def call(x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        sizes.append(len(x))
        return layers(x, xt)

    model._exact = lambda: call
    return sizes


def test_what_overflows_in_half_precision_is_computed_again_in_float32_in_one_batch():
    model = in_fp16(limit=20)
    sizes = counted(model)
    batch = torch.cat((noise(LENGTH), sparse(), noise(LENGTH, 2), -sparse()))
    found, exact = model(batch), SMALL.model()(batch)
    assert found.isfinite().all()
    assert torch.equal(found[[1, 3]], exact[[1, 3]])
    assert not torch.equal(found[[0, 2]], exact[[0, 2]])  # they were not in need of it
    assert (sizes, model.n_redone) == ([4], 2)


def test_a_segment_does_not_depend_on_which_others_overflow():
    model = in_fp16(limit=20)
    alone = [model(torch.cat((one, noise(LENGTH, 9)))) for one in (noise(LENGTH), sparse())]
    both = model(torch.cat((noise(LENGTH), sparse())))
    assert torch.equal(both[0], alone[0][0])
    assert torch.equal(both[1], alone[1][0])


def test_nothing_is_computed_again_while_there_are_numbers():
    model = in_fp16(limit=1e4)
    sizes = counted(model)
    assert model(torch.cat((noise(LENGTH), sparse()))).isfinite().all()
    assert (sizes, model.n_redone) == ([], 0)


def test_a_track_with_a_click_comes_out_whole_in_half_precision():
    silence = torch.zeros((1, 2, LENGTH))
    mix = torch.cat((noise(LENGTH), silence, sparse(), silence), dim=2)
    model = in_fp16(limit=20)
    with Engine(model) as engine:
        assert engine.warnings == ()
        assert all(frames.isfinite().all() for frames in engine.separate([mix]))
        told = f"so far {model.n_redone} segments were computed again in fp32"
        assert [told in warning for warning in engine.warnings] == [True]
    assert model.n_redone


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_layers_run_in_half_precision(dtype):
    """Whole, as on a GPU: that no float32 is left in between, and what the rounding costs."""
    model, exact = SMALL.model(), SMALL.model()
    model._layers = model._layers.to(dtype)  # type: ignore[attr-defined]
    model._arithmetic._dtype = dtype
    segment = music(LENGTH)
    wanted = {torch.bfloat16: 20, torch.float16: 45}  # bf16: 20.9 on a CPU with AMX, above 25 on a Zen 4
    assert snr_db(model(segment), exact(segment)) > wanted[dtype]


# What is refused


def with_options(**changes: Any) -> Any:
    options = {"class": "HTDemucs", "kwargs": dict(SMALL.kwargs), **changes}
    return make_card("mine", SMALL.stems, options=options)


def build(card: Any, tensors: Mapping[str, Tensor] | None = None) -> Demucs:
    return Demucs(card, tensors or SMALL.tensors, RAW, Arithmetic("fp32", CPU))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"class": "demucs.wdemucs.WDemucs"}, "found 'WDemucs', known are HTDemucs, HDemucs"),
        ({"kwargs": {**SMALL.kwargs, "cac": False}}, "kwargs.cac: found False, wanted True"),
        ({"kwargs": {**SMALL.kwargs, "t_sparse_self_attn": True}}, "t_sparse_self_attn: found True"),
        ({"kwargs": {**SMALL.kwargs, "samplerate": 48_000}}, "found 48000, its card says 44100"),
        ({"kwargs": {**SMALL.kwargs, "sources": ["vocals", "drums"]}}, "its network gives vocals, drums"),
        ({"kwargs": {**SMALL.kwargs, "t_heads": 7}}, "its options make no HTDemucs"),
        ({"kwargs": {**SMALL.kwargs, "bottom_channels": 0}}, "have, unknown to the network, channel_down"),
        ({"kwargs": {**SMALL.kwargs, "t_layers": 7}}, "lack crosstransformer.layers.5"),
        ({"kwargs": {**SMALL.kwargs, "channels": 16}}, r"has the shape .*, wanted .*; check options.kwargs"),
    ],
)
def test_options_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(ConfigError, match=f"^mine: .*{words}"):
        build(with_options(**changes))


def test_arguments_that_the_class_no_longer_has_are_left_out():
    kwargs = {**SMALL.kwargs, "of_old": 1, "segment": {"_type": "fraction", "numerator": 1, "denominator": 4}}
    assert build(with_options(kwargs=kwargs)).segments(2**40)[0].n_frames == LENGTH


PACKAGE = {
    "klass": "demucs.htdemucs.HTDemucs",
    "args": [list(SMALL.stems)],
    "kwargs": {**SMALL.kwargs, "segment": {"_type": "fraction", "numerator": 1, "denominator": 4}},
}


def test_without_options_the_published_package_says_what_its_network_is():
    card = with_package(make_card("mine", SMALL.stems), json.dumps(PACKAGE))
    segment = noise(LENGTH)
    assert torch.equal(build(card)(segment), SMALL.model()(segment))


def test_what_a_card_says_wins_over_the_package():
    card = make_card("mine", SMALL.stems, options={"segment": "1/2"})
    assert build(with_package(card, json.dumps(PACKAGE))).segments(2**40)[0].n_frames == 2 * LENGTH


@pytest.mark.parametrize("text", ["{}", "[]", "x", '{"klass": "a", "args": 1, "kwargs": {}}'])
def test_a_package_that_does_not_say_it_is_refused(text):
    with pytest.raises(ConfigError, match=r"mine: its package does not say klass, .*options\.kwargs"):
        with_package(make_card("mine", SMALL.stems), text)


def test_a_bag_may_set_another_segment():
    card = make_card("mine", SMALL_V3.stems, options={"class": "HDemucs", "kwargs": dict(SMALL_V3.kwargs)})
    longer = make_card("mine", SMALL_V3.stems, options={**card.options, "segment": 0.5})
    assert build(longer, SMALL_V3.tensors).segments(2**40)[0].n_landing == 22_050


@EACH
def test_segments_of_another_length_are_refused(network):
    with pytest.raises(ValueError, match=r"segments have shape \(1, 2, 1\), wanted \(B, 2, "):
        network.model()(noise(1))


def test_without_the_package_the_message_says_what_to_install():
    code = (
        "import sys\n"
        "sys.modules['demucs'] = None\n"
        "import splitfire_batch\n"
        "from splitfire_batch.errors import ConfigError\n"
        "from splitfire_batch.models.htdemucs_network import make_network\n"
        "from splitfire_batch.models import find_card\n"
        "try:\n"
        "    make_network(find_card('passthrough'), {})\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "needs the package demucs" in told
    assert "pip install 'splitfire-batch[demucs]'" in told
