"""One contract for every architecture: each small network of `tests/small_models` is held to all of it.

Nothing here knows an architecture. What one of them promises beyond that is tested in a module of its own.

Axes: B batch, S stems, C channels, T frames, L frames of a segment.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from splitfire_batch.engine import Engine
from splitfire_batch.errors import ConfigError, TrackError
from splitfire_batch.models.fidelity import measure
from splitfire_batch.models.precision import precisions
from splitfire_batch.segments import Model, Segment
from splitfire_batch.separation import Limits, separate_file
from splitfire_batch.stem_blocks import float_blocks
from splitfire_batch.stems import make_recipes, needed_estimates
from splitfire_batch.stopwatch import Stopwatch
from tests.small_models import Case, cases

SILENT = 1e-4
"""-80 dB: silence, for a network that is not exactly silent."""
BATCHES = (1, 2, 3, 7)
IN_GATE = {"spleeter", "small-htdemucs", "bs-roformer", "mel-band-roformer", "passthrough"}
"""One case of each architecture; settings and variants of them are for the long tier."""
assert {str(case) for case in cases()} >= IN_GATE
EVERY = pytest.mark.parametrize(
    "case",
    [pytest.param(c, id=str(c), marks=[] if str(c) in IN_GATE else pytest.mark.slow) for c in cases()],
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks gain nothing by more, and wait for all of them on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@functools.cache
def model_of(case: Case, residual: str = "drop", stems: tuple[str, ...] = ()) -> Model:
    """Built once; by default with all estimates."""
    return case.model(residual=residual, stems=stems)


def noise(n_frames: int, seed: int = 1, peak: float = 0.5, n_lanes: int = 1) -> Tensor:
    """(G, 2, T)."""
    numbers = torch.Generator().manual_seed(seed)
    return (torch.rand((n_lanes, 2, n_frames), generator=numbers) * 2 - 1) * peak


def separated(engine: Engine, blocks: Iterable[Tensor]) -> Tensor:
    """(G, S, C, T)."""
    return torch.cat(list(engine.separate(blocks)), dim=3)


def full_frames(model: Model) -> int:
    return model.segments(2**62)[0].n_frames


def first_where(is_true: Callable[[int], bool], most: int) -> int:
    """The least n in 1..most for which it holds; it holds for all n after it."""
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_true(middle) else (middle + 1, high)
    return low


def borders(case: Case) -> dict[str, int]:
    """Lengths of tracks from which on a segment is needed that shorter ones do not need, up to the third,
    and those the case names.
    """
    model, most = model_of(case), 4 * full_frames(model_of(case))
    more = [first_where(lambda n, k=k: len(model.segments(n)) > k, most) for k in (1, 2)]
    return dict(zip(names_of_borders(case), (full_frames(model), *more, *case.lengths), strict=True))


def names_of_borders(case: Case) -> list[str]:
    """Known before the network is built, which tests that are only collected need not wait for."""
    return ["full", "second", "third", *map(str, case.lengths)]


AROUND_BORDERS = [
    pytest.param(
        case,
        border,
        step,
        id=f"{case}-{border}{step:+}",
        marks=[] if str(case) in IN_GATE and step == 0 else pytest.mark.slow,
    )
    for case in cases()
    for border in names_of_borders(case)
    for step in (-1, 0, 1)
]
"""The neighbours of the borders are for the long tier."""


# What it says of itself


@EVERY
def test_it_says_what_it_is(case):
    model = model_of(case)
    assert (model.name, model.sample_rate, model.n_channels) == (
        case.card.name,
        case.card.sample_rate,
        case.card.n_channels,
    )
    assert model.device == torch.device("cpu")
    assert model.stems == case.card.stems


@EVERY
def test_only_estimates_that_the_stems_are_made_of_are_computed_and_they_stay_the_same(case):
    whole, stems = model_of(case), case.card.stems
    segment = noise(whole.segments(1)[0].n_frames)
    every = whole(segment)
    for residual, chosen in [("fold", ()), *(("drop", (stem,)) for stem in stems)]:
        needed = needed_estimates(make_recipes(case.separation(residual=residual, stems=chosen), stems))
        model = model_of(case, residual, chosen)
        assert model.stems == tuple(stem for stem in stems if stem in needed)
        kept = every[:, [stems.index(stem) for stem in model.stems]]
        torch.testing.assert_close(model(segment), kept, rtol=0, atol=1e-6)


@EVERY
def test_a_batch_has_an_estimate_for_each_stem_in_float32(case):
    model = model_of(case)
    for n_frames in {model.segments(1)[0].n_frames, full_frames(model)}:
        segments = noise(n_frames)
        given = segments.clone()
        estimates = model(segments)
        assert estimates.shape == (1, len(model.stems), 2, n_frames)
        assert estimates.dtype == torch.float32
        assert estimates.device == model.device
        assert not estimates.requires_grad
        assert torch.equal(segments, given)  # it belongs to the caller


@EVERY
@pytest.mark.parametrize("change", ["no batch", "mono", "three channels"])
def test_segments_of_another_shape_are_refused(case, change):
    model = model_of(case)
    segments = noise(model.segments(1)[0].n_frames)
    wrong = {"no batch": segments[0], "mono": segments[:, :1], "three channels": segments[:, [0, 1, 1]]}
    with pytest.raises(ValueError, match="wanted"):
        model(wrong[change])


# Where its segments lie


def some_length(model: Model) -> st.SearchStrategy[int]:
    """Often just about a border of segments."""
    most = 5 * full_frames(model)
    stride = model.segments(2**62)[1].start - model.segments(2**62)[0].start
    near = st.builds(
        lambda k, at, step: max(1, k * stride + at + step),
        st.integers(0, 4),
        st.sampled_from([0, full_frames(model) - stride, full_frames(model)]),
        st.integers(-2, 2),
    )
    return st.one_of(st.integers(1, most), st.integers(1, 3_000), near)


@EVERY
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_frame_lands_and_the_landings_ascend(case, data):
    model = model_of(case)
    n_frames = data.draw(some_length(model))
    found = list(model.segments(n_frames))
    lands = [segment.lands for segment in found]
    assert lands[0].start <= 0
    assert all(one.start <= other.start <= one.stop for one, other in itertools.pairwise(lands))
    assert max(part.stop for part in lands) >= n_frames
    for segment in found:
        assert 0 <= segment.landing.start < segment.landing.stop <= segment.n_frames


@EVERY
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_segment_within_a_prefix_stays_as_it_is(case, data):
    model = model_of(case)
    n_frames, more = data.draw(some_length(model)), data.draw(some_length(model))
    longer = model.segments(n_frames + more)
    for index, segment in enumerate(model.segments(n_frames)):
        if segment.stop <= n_frames:
            assert longer[index] == segment


@EVERY
def test_segments_of_an_endless_track_are_cheap_to_ask_for(case):
    endless = model_of(case).segments(2**62)
    stride = endless[1].start - endless[0].start
    assert endless[10**9].start - endless[0].start == 10**9 * stride
    with pytest.raises(IndexError):
        endless[len(endless)]


@EVERY
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_weights_are_positive_over_just_what_lands(case, data):
    model = model_of(case)
    for segment in model.segments(data.draw(some_length(model))):
        window = model.window(segment)
        if window is not None:
            assert window.dtype == torch.float32
            assert window.shape == (segment.lands.stop - segment.lands.start,)
            assert (window > 0).all()


class Copying:
    """The model's segments and windows, and estimates that are the segment as it was read."""

    def __init__(self, model: Model) -> None:
        self.name, self.stems, self.device = model.name, ("copy",), model.device
        self.sample_rate, self.n_channels, self.is_for_one_core = model.sample_rate, model.n_channels, False
        self.is_of_any_length = model.is_of_any_length
        self.segments, self.window = model.segments, model.window

    def __call__(self, segments: Tensor) -> Tensor:
        return segments[:, None].clone()


@EVERY
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_what_is_read_does_not_depend_on_how_the_track_comes(case, data):
    model = model_of(case)
    n_frames = data.draw(some_length(model))
    cuts = sorted(data.draw(st.lists(st.integers(0, n_frames), max_size=6)))
    sizes = [stop - start for start, stop in itertools.pairwise([0, *cuts, n_frames])]
    mix = noise(n_frames)
    with Engine(Copying(model)) as engine:
        whole = separated(engine, [mix])
        assert torch.equal(separated(engine, mix.split(sizes, dim=2)), whole)
    if model.window(model.segments(n_frames)[0]) is not None:
        torch.testing.assert_close(whole[:, 0], mix, rtol=0, atol=1e-6)  # rounding of a weighted mean


# Through the real engine


def read(mix: np.ndarray, segment: Segment) -> np.ndarray:
    """The segment's frames (C, L), as its docstring says."""
    n_frames, places = mix.shape[1], np.arange(segment.start, segment.stop)
    if segment.fill == "tile" and segment.stop > n_frames:
        return mix[:, places % n_frames]
    if segment.fill == "reflect" and (segment.start < 0 or segment.stop > n_frames):
        period = max(1, 2 * (n_frames - 1))
        return mix[:, np.minimum(places % period, -places % period)]
    inside = (places >= 0) & (places < n_frames)
    return np.where(inside, mix[:, np.clip(places, 0, n_frames - 1)], 0.0)


def slow_overlap_add(model: Model, mix: Tensor) -> np.ndarray:
    """(S, C, T) in float64, of the whole track, one segment at a time."""
    n_frames = mix.shape[2]
    total, weight = np.zeros((len(model.stems), 2, n_frames)), np.zeros(n_frames)
    for segment in model.segments(n_frames):
        excerpt = torch.from_numpy(read(mix[0].numpy(), segment).astype(np.float32))
        estimate = model(excerpt[None])[0].numpy().astype(np.float64)[..., segment.landing]
        window = model.window(segment)
        weights = np.ones(estimate.shape[-1]) if window is None else window.numpy().astype(np.float64)
        first, last = max(0, segment.lands.start), min(n_frames, segment.lands.stop)
        part = slice(first - segment.lands.start, last - segment.lands.start)
        total[..., first:last] += (estimate * weights)[..., part]
        weight[first:last] += 1 if window is None else weights[part]
    return total if model.window(model.segments(n_frames)[0]) is None else total / weight


@pytest.mark.parametrize(("case", "border", "step"), AROUND_BORDERS)
def test_the_engine_agrees_with_a_slow_overlap_add_around_borders(case, border, step):
    check_against_slow_overlap_add(case, borders(case)[border] + step)


@pytest.mark.slow
@EVERY
@pytest.mark.parametrize("n_frames", [1, 2])
def test_the_engine_agrees_with_a_slow_overlap_add_of_a_frame_or_two(case, n_frames):
    check_against_slow_overlap_add(case, n_frames)


def check_against_slow_overlap_add(case: Case, n_frames: int) -> None:
    model, mix = model_of(case), noise(n_frames)
    with Engine(model, batch=1, packs_short=False) as engine:
        found = separated(engine, [mix])[0]
    assert found.shape == (len(model.stems), 2, n_frames)
    wanted = slow_overlap_add(model, mix)
    # float32 rounding of a weighted mean of a few estimates
    np.testing.assert_allclose(found, wanted, rtol=0, atol=4e-7 * max(1.0, np.abs(wanted).max()))


def odd_blocks(mix: Tensor, at: Iterable[int]) -> list[Tensor]:
    """Single frames around the borders, odd sizes elsewhere."""
    n_frames = mix.shape[2]
    near = {frame for border in at for frame in range(border - 4, border + 4)}
    cuts = sorted({frame for frame in near if 0 < frame < n_frames} | {*range(997, n_frames, 99_991)})
    return list(torch.tensor_split(mix, cuts, dim=2))


@EVERY
def test_streamed_equals_whole_bit_for_bit(case):
    torch.set_num_threads(2)  # as many batches at a time, of a model that is for one core
    model = model_of(case)
    n_frames = max(borders(case).values()) + 1
    mix = noise(n_frames)
    with Engine(model) as engine:
        whole = separated(engine, [mix])
        assert torch.equal(separated(engine, odd_blocks(mix, borders(case).values())), whole)
        clip = noise(300, seed=2)
        assert torch.equal(separated(engine, clip.split(1, dim=2)), separated(engine, [clip]))


@EVERY
def test_lanes_are_separated_each_as_if_alone(case):
    lanes = noise(5_000, n_lanes=3)
    with Engine(model_of(case), batch=2, packs_short=False) as engine:
        together = separated(engine, [lanes])
        alone = [separated(engine, [lane[None]]) for lane in lanes]
    assert torch.equal(together, torch.cat(alone))


# Whatever else is in the batch


@EVERY
@pytest.mark.parametrize("batch", BATCHES)
def test_neighbours_order_and_slot_do_not_change_a_bit(case, batch):
    model = model_of(case)
    length = model.segments(1)[0].n_frames
    ours, others = (
        noise(length)[0],
        [noise(length, seed, peak)[0] for seed, peak in enumerate((1.0, 1e-4), 2)],
    )
    others += [torch.zeros(2, length)]
    found = []
    for turn, slot in enumerate((0, batch // 2, batch - 1)[: min(batch, 3)]):
        segments = [others[(i + turn) % 3] for i in range(batch)]
        segments[slot] = ours
        found.append(model(torch.stack(segments))[slot])
    assert all(torch.equal(one, found[0]) for one in found)


@EVERY
def test_batches_of_other_shapes_agree_to_rounding(case):
    model = model_of(case)
    segments = torch.cat([noise(model.segments(1)[0].n_frames, seed) for seed in range(max(BATCHES))])
    alone = torch.cat([model(segment[None]) for segment in segments])
    bound = case.rounding * max(1.0, float(alone.abs().max()))
    for batch in BATCHES[1:]:
        assert float((model(segments[:batch]) - alone[:batch]).abs().max()) <= bound, batch


@EVERY
def test_a_second_call_gives_the_same(case):
    model = model_of(case)
    segments = noise(model.segments(1)[0].n_frames)
    first = model(segments).clone()
    model(noise(model.segments(1)[0].n_frames, seed=9))
    assert torch.equal(model(segments), first)


# Material that breaks things


def square(n_frames: int) -> Tensor:
    return torch.where(torch.arange(n_frames) % 100 < 50, 1.0, -1.0).expand(1, 2, -1)


def impulse(n_frames: int) -> Tensor:
    mix = torch.zeros((1, 2, n_frames))
    mix[..., n_frames // 3] = 1.0
    return mix


MATERIAL: dict[str, Callable[[int], Tensor]] = {
    "silence": lambda n: torch.zeros((1, 2, n)),
    "full-scale DC": lambda n: torch.ones((1, 2, n)),
    "an impulse": impulse,
    "full-scale square": square,
    "noise at -90 dBFS": lambda n: noise(n, peak=10 ** (-90 / 20)),
    "one channel silent": lambda n: noise(n) * torch.tensor([1.0, 0.0])[:, None],
    "denormal numbers": lambda n: torch.full((1, 2, n), 1e-41),
}


@EVERY
@pytest.mark.parametrize("material", MATERIAL)
def test_estimates_of_odd_material_are_finite(case, material):
    with Engine(model_of(case), batch=1) as engine:
        estimates = separated(engine, [MATERIAL[material](3_000)])
    assert estimates.isfinite().all()
    if material == "silence" and case.is_silent_on_silence:
        assert float(estimates.abs().max()) <= SILENT


@EVERY
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_does_not_come_out_as_numbers(case, value):
    model = model_of(case)
    segments = noise(model.segments(1)[0].n_frames)
    segments[0, 0, segments.shape[-1] // 2] = value
    estimates = model(segments)
    assert all(not estimate.isfinite().all() for estimate in estimates[0])


# Through everything around the engine


def stems_of(
    path: Path, model: Model, case: Case, **chosen: object
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The mix and the stems (T, C) of a file."""
    recipes = make_recipes(case.separation(**chosen), case.card.stems)
    wanted = needed_estimates(recipes)
    with (
        Engine(model) as engine,
        separate_file(path, engine, wanted, Limits(), Stopwatch()) as found,
    ):
        blocks = list(float_blocks(found, recipes))
    mix = np.concatenate([block for block, _ in blocks])
    return mix, {r.stem: np.concatenate([stems[r.stem] for _, stems in blocks]) for r in recipes}


@EVERY
@pytest.mark.parametrize("n_channels", [1, 2, 3])
@pytest.mark.parametrize("sample_rate", [44_100, 22_050])
def test_stems_sum_to_the_mix_with_its_length_rate_and_channels(case, n_channels, sample_rate, tmp_path):
    samples = noise(4_001, n_lanes=2)[:, :, :].flatten(0, 1)[:n_channels].T.numpy()
    soundfile.write(tmp_path / "mix.wav", samples, sample_rate, "FLOAT")
    model = model_of(case, "fold")
    mix, stems = stems_of(tmp_path / "mix.wav", model, case, residual="fold")
    assert np.array_equal(mix, samples)
    assert {array.shape for array in stems.values()} == {samples.shape}
    peak = max(1.0, *(float(np.abs(array).max()) for array in stems.values()))
    np.testing.assert_allclose(sum(stems.values()), mix, rtol=0, atol=len(stems) * 2.0**-23 * peak)


@EVERY
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_file_with_what_is_no_number_is_refused(case, value, tmp_path):
    samples = noise(4_001)[0].T.numpy()
    samples[1_000] = value
    soundfile.write(tmp_path / "mix.wav", samples, 44_100, "FLOAT")
    with pytest.raises(TrackError) as caught:
        stems_of(tmp_path / "mix.wav", model_of(case), case, residual="drop")
    assert caught.value.code == "NON_FINITE"


# In other precisions


@EVERY
def test_a_precision_that_the_device_lacks_is_refused(case):
    lacking = {"fp32", "tf32", "bf16", "fp16"} - set(precisions(torch.device("cpu")))
    for precision in lacking:
        with pytest.raises(ConfigError, match="precision"):
            case.model(precision=precision)


def _holds_to_precision(case: Case, device: str) -> None:
    exact = case.model(device)
    segment = noise(exact.segments(1)[0].n_frames)[0]
    for precision in precisions(torch.device(device))[1:]:
        found = measure(case.model(device, precision), exact, segment)
        assert [item.stem for item in found] == list(exact.stems)
        # what random weights do to rounding says little of trained ones: `load_model` measures those
        assert all(item.snr_db > 20 for item in found), (precision, found)


@EVERY
def test_other_precisions_of_a_cpu_are_near_fp32(case):
    _holds_to_precision(case, "cpu")


@pytest.mark.gpu
@EVERY
def test_other_precisions_of_a_gpu_are_near_fp32(case):
    _holds_to_precision(case, "cuda")


@pytest.mark.gpu
@EVERY
def test_a_gpu_agrees_with_the_cpu(case):
    mix = noise(max(borders(case).values()) + 1)
    outs = []
    for model in (model_of(case), case.model("cuda")):
        with Engine(model, batch=2) as engine:
            outs.append(separated(engine, [mix]))
    peak = max(1.0, float(outs[0].abs().max()))
    assert float((outs[1] - outs[0]).abs().max()) <= 1e-4 * peak
