"""The engine must be invisible: what else is open, and how batches are made, cannot be heard."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from splitfire_batch import requests
from splitfire_batch.config import SeparationConfig
from splitfire_batch.engine import Engine
from splitfire_batch.errors import TrackError
from splitfire_batch.models import load_model
from splitfire_batch.segments import Segment, uniform_segments
from splitfire_batch.stopwatch import Stopwatch
from splitfire_batch.transfer import DeviceLost

LENGTH, STRIDE = 100, 75
POISON = 77.0


class Toy:
    """Estimates depend on the position in the segment and on the frame before; a hook sees each batch."""

    name, sample_rate, n_channels, stems = "toy", 44_100, 2, ("a", "b")
    device = torch.device("cpu")
    is_for_one_core = is_of_any_length = False

    def __init__(self, before: Callable[[Tensor], object] = len, stride: int = STRIDE) -> None:
        self._before, self._stride = before, stride

    def segments(self, n_frames: int) -> Sequence[Segment]:
        return uniform_segments(n_frames, LENGTH, self._stride)

    def window(self, segment: Segment) -> Tensor:
        ramp = torch.arange(1, segment.n_frames + 1, dtype=torch.float32)
        return torch.minimum(ramp, ramp.flip(0))

    def __call__(self, segments: Tensor) -> Tensor:
        self._before(segments)
        first = segments * torch.linspace(0, 1, segments.shape[-1])
        return torch.stack([first, (segments + segments.roll(1, -1)) ** 2], dim=1)


def noise(n_frames: int, seed: int = 1, n_lanes: int = 1) -> Tensor:
    return torch.rand((n_lanes, 2, n_frames), generator=torch.Generator().manual_seed(seed)) * 2 - 1


def separated(engine: Engine, mix: Tensor, block_frames: int = 64) -> Tensor:
    """(G, S, C, T)."""
    return torch.cat(list(engine.separate(mix.split(block_frames, dim=2))), dim=3)


def refuse_poison(segments: Tensor) -> None:
    if (segments == POISON).any():
        raise ArithmeticError("poison")


def out_of_memory_above(n: int) -> Callable[[Tensor], None]:
    def check(segments: Tensor) -> None:
        if len(segments) > n:
            raise torch.OutOfMemoryError(f"{len(segments)} segments")

    return check


def slow_reference(mix: Tensor) -> Tensor:
    """Overlap-add of the toy's estimates, whole track at once, in float64."""
    model, n_frames = Toy(), mix.shape[2]
    total = torch.zeros((1, 2, 2, n_frames + 2 * LENGTH), dtype=torch.float64)
    weight = torch.zeros(n_frames + 2 * LENGTH, dtype=torch.float64)
    padded = torch.nn.functional.pad(mix, (0, 2 * LENGTH))
    for start in range(0, max(1, n_frames - LENGTH + STRIDE), STRIDE):
        part = slice(start, start + LENGTH)
        window = model.window(Segment(start, LENGTH))
        total[..., part] += model(padded[..., part]) * window
        weight[part] += window
    return (total / weight)[..., :n_frames]


@pytest.mark.parametrize("n_frames", [1, 74, 75, 76, 99, 100, 101, 175, 176, 1037])
@pytest.mark.parametrize("block_frames", [1, 64, 5_000])
def test_agrees_with_a_slow_overlap_add_of_the_whole_track(n_frames, block_frames):
    mix = noise(n_frames)
    with Engine(Toy(), batch=3) as engine:
        out = separated(engine, mix, block_frames)
    # float32 rounding of values up to 4 in a weighted mean of two
    torch.testing.assert_close(out.double(), slow_reference(mix), rtol=0, atol=2e-6)


def test_a_hundred_clips_from_eight_threads_equal_each_alone_bit_for_bit():
    mixes = [noise(37 * i + 1, seed=i) for i in range(100)]
    with Engine(Toy(), batch=4) as engine:
        alone = [separated(engine, mix) for mix in mixes]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda mix: separated(engine, mix), mixes))
    assert all(map(torch.equal, alone, together))


def test_tracks_share_batches():
    sizes: list[int] = []
    everyone = threading.Barrier(4)

    def blocks(seed: int) -> Iterator[Tensor]:
        yield noise(LENGTH, seed)[:, :, :50]
        everyone.wait()
        yield noise(LENGTH, seed)[:, :, 50:]

    model = Toy(lambda segments: sizes.append(int(segments.any(-1).any(-1).sum())))
    with Engine(model, batch=4) as engine, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: list(engine.separate(blocks(seed))), range(4)))
    assert max(sizes) > 1


def test_batch_sizes_agree_within_float_rounding():
    mix = noise(5_000)
    outs = []
    for batch in (1, 2, 7):
        with Engine(Toy(), batch) as engine:
            outs.append(separated(engine, mix))
    torch.testing.assert_close(outs[1], outs[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(outs[2], outs[0], rtol=0, atol=1e-6)


def test_every_batch_has_the_same_shape_however_few_segments_there_are():
    shapes = set()
    with Engine(Toy(lambda segments: shapes.add(tuple(segments.shape))), batch=5) as engine:
        separated(engine, noise(30))
        separated(engine, noise(3_000))
    assert shapes == {(5, 2, LENGTH)}


def test_short_segments_share_a_batch_on_a_cpu_where_padding_is_cheap():
    class Skipping(Toy):
        is_for_one_core = True

    with Engine(Skipping(), batch=2) as engine:
        assert [engine.batch_size(n) for n in (LENGTH, LENGTH // 2, LENGTH // 3, LENGTH // 7, 1)] == [
            2,
            2,
            4,
            8,
            8,
        ]
        assert engine.batch_label == "batch2/packed"
    with Engine(Skipping(), batch=2, packs_short=False) as engine:  # short ones alone: a pack has other bits
        assert [engine.batch_size(n) for n in (LENGTH, LENGTH // 2, LENGTH // 3, 1)] == [2, 2, 1, 1]
        assert engine.batch_label == "batch2"
    with Engine(Toy(), batch=2) as engine:
        assert (engine.batch_size(LENGTH // 7), engine.batch_label) == (2, "batch2")
    with Engine(OnAccelerator(), batch=2) as engine:
        assert [engine.batch_size(n) for n in (LENGTH, LENGTH // 2, LENGTH // 7)] == [2, 4, 14]


@pytest.mark.parametrize("is_packed", [True, False])
def test_segments_of_any_length_go_alone_and_not_in_batches_of_padding(is_packed):
    class Cutting(OnAccelerator):
        is_of_any_length = True

        def segments(self, n_frames: int) -> Sequence[Segment]:
            starts = range(0, n_frames, STRIDE)
            return [Segment(start, min(LENGTH, n_frames - start)) for start in starts[:40]]

    shapes: list[tuple[int, int]] = []
    model = Cutting(lambda segments: shapes.append((len(segments), segments.shape[-1])))
    with Engine(model, batch=8, packs_short=is_packed) as engine:
        separated(engine, noise(2 * STRIDE + 7), block_frames=1_000)
        separated(engine, noise(3))
    assert sorted(shapes) == [(1, 3), (1, 7), (1, STRIDE + 7), (8, LENGTH)]


def test_lanes_are_separated_each_as_if_alone():
    mix = noise(777, n_lanes=3)
    with Engine(Toy(), batch=2) as engine:
        together = separated(engine, mix)
        alone = [separated(engine, mix[lane : lane + 1]) for lane in range(3)]
    assert torch.equal(together, torch.cat(alone))


def test_no_blocks_give_nothing_and_an_empty_block_no_frames():
    with Engine(Toy()) as engine:
        assert list(engine.separate([])) == []
        assert list(engine.separate([noise(0)])) == []


def test_a_model_that_raises_fails_the_tracks_of_its_batch_only():
    poisoned = torch.full((1, 2, 500), POISON)
    with Engine(Toy(refuse_poison)) as engine:
        expected = separated(engine, noise(900))
        with ThreadPoolExecutor(4) as pool:
            good = [pool.submit(separated, engine, noise(900)) for _ in range(3)]
            bad = pool.submit(separated, engine, poisoned)
            with pytest.raises(ArithmeticError, match="poison"):
                bad.result()
        assert all(torch.equal(future.result(), expected) for future in good)
        assert torch.equal(separated(engine, noise(900)), expected)


class OnAccelerator(Toy):
    """Computes on the CPU, and says that it does not."""

    device = torch.device("meta")

    def __call__(self, segments: Tensor) -> Tensor:
        return super().__call__(torch.zeros(segments.shape))


def test_a_model_that_raises_on_an_accelerator_has_lost_the_device():
    def break_down(_: Tensor) -> None:
        raise RuntimeError("illegal memory access")

    with (
        Engine(OnAccelerator(break_down)) as engine,
        pytest.raises(DeviceLost, match="meta: RuntimeError: illegal memory access"),
    ):
        separated(engine, noise(300))


def test_out_of_memory_on_an_accelerator_is_no_lost_device():
    with Engine(OnAccelerator(out_of_memory_above(2)), batch=8, packs_short=False) as engine:
        assert separated(engine, noise(300)).shape[3] == 300


def test_a_model_that_gives_another_shape_fails_the_track_and_does_not_hang():
    class Short(Toy):
        def __call__(self, segments: Tensor) -> Tensor:
            return super().__call__(segments)[:-1]

    with (
        Engine(Short(), batch=2) as engine,
        pytest.raises(ValueError, match=r"gave shape .* wanted \(2, 2, 2,"),
    ):
        separated(engine, noise(300))


def test_a_frame_in_no_segment_is_refused():
    gaps = Toy(stride=LENGTH + 1)
    with Engine(gaps) as engine, pytest.raises(ValueError, match="frames 100 to 101 are in no segment"):
        separated(engine, noise(900))


def test_a_decoder_that_fails_ends_its_track_only():
    def blocks() -> Iterator[Tensor]:
        yield noise(1_000)
        raise TrackError("CORRUPT_DATA", "why")

    with Engine(Toy(), batch=4) as engine:
        with pytest.raises(TrackError, match="CORRUPT_DATA"):
            list(engine.separate(blocks()))
        assert separated(engine, noise(200)).shape == (1, 2, 2, 200)


@pytest.mark.parametrize("fits", [1, 2, 3])
@pytest.mark.parametrize("batch", [2, 7, 8])
def test_out_of_memory_halves_the_batch_and_succeeds(batch, fits):
    mixes = [noise(1_500 + i, seed=i) for i in range(6)]
    with Engine(Toy()) as engine:
        expected = [separated(engine, mix) for mix in mixes]
    with Engine(Toy(out_of_memory_above(fits)), batch) as engine, ThreadPoolExecutor(6) as pool:
        out = list(pool.map(lambda mix: separated(engine, mix), mixes))
        assert engine.batch_size(LENGTH) <= fits
    for found, wanted in zip(out, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_a_halved_batch_is_told():
    with Engine(Toy(out_of_memory_above(3)), batch=8) as engine:
        assert (engine.warnings, engine.batch_label) == ((), "batch8")
        separated(engine, noise(300))
        (warning,) = engine.warnings
        assert warning == "batch halved to 2 for segments of 100 frames: the device is out of memory"
        assert engine.batch_label == "batch8/batch2@100"


def test_out_of_memory_with_one_segment_is_a_track_error():
    with Engine(Toy(out_of_memory_above(0)), batch=4) as engine, pytest.raises(TrackError) as caught:
        separated(engine, noise(300))
    assert caught.value.code == "OOM"


def test_the_memory_of_the_failed_batch_is_free_before_the_smaller_one_runs():
    held: list[weakref.ref[Tensor]] = []
    alive: list[bool] = []

    def fill_memory(segments: Tensor) -> None:
        activations = segments * 2
        alive.extend(ref() is not None for ref in held)
        held.append(weakref.ref(activations))
        if len(segments) > 1:
            raise torch.OutOfMemoryError

    with Engine(Toy(fill_memory), batch=2) as engine:
        separated(engine, noise(50))
    assert alive == [False]


def test_a_partial_batch_does_not_wait_when_nobody_could_add_to_it(monkeypatch):
    monkeypatch.setattr(requests, "_LINGER_S", 3_600)
    with Engine(Toy(), batch=64) as engine, ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(separated, engine, noise(n)) for n in (10, 400, 3_000)]
        assert [future.result(timeout=30).shape[3] for future in futures] == [10, 400, 3_000]


def test_a_partial_batch_does_not_wait_for_a_track_whose_blocks_do_not_come():
    is_over = threading.Event()

    def stuck() -> Iterator[Tensor]:
        yield noise(10)
        is_over.wait(60)

    with Engine(Toy(), batch=64) as engine, ThreadPoolExecutor(1) as pool:
        other = pool.submit(lambda: list(engine.separate(stuck())))
        try:
            assert separated(engine, noise(500)).shape[3] == 500
            assert not other.done()
        finally:
            is_over.set()


def test_an_overdue_partial_batch_does_not_starve_behind_full_ones(monkeypatch):
    monkeypatch.setattr(requests, "_LINGER_S", 0)
    gate, lengths = threading.Event(), []

    def look(segments: Tensor) -> None:
        lengths.append(segments.shape[-1])
        gate.wait(30)

    engine = Engine(Toy(look), batch=2)
    waiting = engine._requests
    with waiting.open_track():
        first = waiting.send([torch.zeros(2, LENGTH)])
        while not lengths:
            time.sleep(0.001)  # all others are sent while the device is busy
        partial = waiting.send([torch.zeros(2, 30)])
        full = waiting.send([torch.zeros(2, LENGTH)] * 6)
        gate.set()
        waiting.receive([*first, *partial, *full])
    engine.close()
    assert lengths == [LENGTH, 30, LENGTH, LENGTH, LENGTH]


def test_a_generator_abandoned_half_way_blocks_neither_others_nor_close(monkeypatch):
    engine = Engine(Toy(), batch=2)
    abandoned = engine.separate(noise(100_000).split(64, dim=2))
    next(abandoned)
    assert separated(engine, noise(500)).shape[3] == 500  # it is still open, so batches linger
    abandoned.close()
    monkeypatch.setattr(requests, "_LINGER_S", 3_600)
    assert separated(engine, noise(500)).shape[3] == 500
    another = engine.separate(noise(100_000).split(64, dim=2))
    next(another)
    closer = threading.Thread(target=engine.close, daemon=True)
    closer.start()
    closer.join(timeout=30)
    assert not closer.is_alive()


def test_a_closed_engine_refuses_to_separate_rather_than_wait_for_ever():
    with Engine(Toy()) as engine:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        separated(engine, noise(500))


def bytes_in_tensors() -> int:
    """Memory of all tensors that anybody still holds."""
    tensors = [item for item in gc.get_objects() if type(item) is Tensor]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


@pytest.mark.parametrize(
    "block_frames",
    [50_000, 1_000_000, 10_000],
    ids=["small blocks", "long blocks", "blocks that end where segments do"],
)
def test_a_long_track_holds_a_bounded_number_of_frames(block_frames):
    class Wide(Toy):
        def segments(self, n_frames: int) -> Sequence[Segment]:
            return uniform_segments(n_frames, 50_000, 40_000)

    n_frames, given, taken, lags, sizes = 10_000_000, 0, 0, [0], []

    def blocks() -> Iterator[Tensor]:
        nonlocal given
        for _ in range(n_frames // block_frames):
            yield torch.zeros((1, 2, block_frames))
            given += block_frames

    before = bytes_in_tensors()
    with Engine(Wide(), batch=2) as engine:
        for number, frames in enumerate(engine.separate(blocks())):
            taken += frames.shape[3]
            lags.append(given - taken)
            if number % 50 == 49:
                sizes.append(bytes_in_tensors() - before)
    assert taken == n_frames
    # What came in and did not go out: two batches and one segment in flight, one incomplete, one block.
    assert max(lags) <= 6 * 50_000 + block_frames
    # 8 bytes a frame of the mix, 16 of the estimates; a block may be copied once. The whole: 80 and 160 MB.
    assert max(sizes) <= 8 * 50_000 * (8 + 16) + 4 * block_frames * 8


@pytest.mark.slow
@pytest.mark.parametrize("n_tracks", [1, 3, 12])
def test_what_is_told_to_be_held_is_not_passed_however_many_tracks_are_open(n_tracks):
    """Tensors only: the caller's copies of finished frames are part of what is told, too."""
    sizes = []

    def look(_: Tensor) -> None:
        sizes.append(bytes_in_tensors() - before)

    class Wide(Toy):
        def segments(self, n_frames: int) -> Sequence[Segment]:
            return uniform_segments(n_frames, 50_000, 40_000)

    def consume(_: int) -> None:
        for _ in engine.separate(torch.zeros((1, 2, 8_000)) for _ in range(60)):
            time.sleep(0.001)

    before = bytes_in_tensors()
    with Engine(Wide(look), batch=4) as engine, ThreadPoolExecutor(n_tracks) as pool:
        list(pool.map(consume, range(n_tracks)))
        limit = engine.queue_bytes + n_tracks * engine.track_bytes(0, n_lanes=1)
    padded = 4 * 50_000 * 2 * 4
    assert max(sizes) <= limit + padded


def test_segments_that_wait_for_the_device_are_told():
    watches = [Stopwatch() for _ in range(2)]
    with Engine(Toy(lambda _: time.sleep(0.01))) as engine, ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda watch: list(engine.separate([noise(2_000)], watch)), watches))
    for watch in watches:
        assert watch.seconds().wait_device > watch.seconds().blend > 0


def test_the_tracks_shares_of_the_device_add_up_to_its_busy_seconds():
    watches = [Stopwatch() for _ in range(5)]
    with Engine(Toy(), batch=3) as engine, ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda watch: list(engine.separate([noise(2_000)], watch)), watches))
    assert engine.busy_s > 0
    assert sum(watch.seconds().device for watch in watches) == pytest.approx(engine.busy_s)


def test_spleeter_in_odd_blocks_equals_one_block_bit_for_bit():
    mix = noise(14 * 44_100)  # a full segment and a part of one
    with Engine(load_model(SeparationConfig(residual="drop"), "cpu")) as engine:
        whole = separated(engine, mix, mix.shape[2])
        odd = separated(engine, mix, 44_101)
    assert whole.shape == (1, 2, 2, mix.shape[2])
    assert torch.equal(odd, whole)
