"""What the engine promises of real stems: the real Spleeter on real audio, through everything around it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from cluster.on_ray import on_ray
from splitfire_batch import job as story
from splitfire_batch.config import OutputConfig, RuntimeConfig, SeparationConfig
from splitfire_batch.engine import Engine
from splitfire_batch.job import Job
from splitfire_batch.models import load_model
from splitfire_batch.segments import Model
from tests.assets import one_shots
from tests.benchmarks import memory, seams
from tests.benchmarks.library import RATE, whole_music

STEMS = ("vocals", "accompaniment")


@pytest.fixture(scope="module")
def spleeter() -> Model:
    return load_model(SeparationConfig(), "cpu")


@pytest.fixture(scope="module")
def clips() -> list[Tensor]:
    """A hundred real one-shots of 0.1 to 1.3 s, (1, 2, n): each forwards and backwards."""
    mixes = []
    for path in one_shots():
        samples, _ = soundfile.read(path, dtype="float32", always_2d=True)
        mix = torch.from_numpy(samples[: int(1.3 * RATE)].T.copy())[None, :1].expand(1, 2, -1)
        mixes += [mix, mix.flip(2)]
    return mixes[:100]


def music(seconds: float) -> Tensor:
    """(1, 2, n), from a loud part of the piece."""
    return torch.from_numpy(whole_music(1, 60 + seconds)[60 * RATE :].T.copy())[None]


def in_blocks(mix: Tensor, seed: int) -> Iterator[Tensor]:
    """Of 1 to 99,999 frames."""
    numbers, start = random.Random(seed), 0
    while start < mix.shape[2]:
        n_frames = int(10 ** numbers.uniform(0, 5))
        yield mix[:, :, start : start + n_frames]
        start += n_frames


def separated(engine: Engine, mix: Tensor, seed: int | None = None) -> Tensor:
    """(S, 2, n); from one block, or from many as `seed` has it."""
    return torch.cat(list(engine.separate([mix] if seed is None else in_blocks(mix, seed))), dim=3)[0]


def all_open_at_once(engine: Engine, mixes: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Each in a thread of its own, begun in an order of the seed's, from odd blocks; given back in order."""
    order = random.Random(seed).sample(range(len(mixes)), len(mixes))
    with ThreadPoolExecutor(len(mixes)) as threads:
        running = {i: threads.submit(separated, engine, mixes[i], seed + i) for i in order}
        return [running[i].result() for i in range(len(mixes))]


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_a_track_among_a_hundred_others_is_bit_equal_to_the_track_alone(spleeter, clips):
    track = music(14)
    with Engine(spleeter) as engine:
        alone = separated(engine, track)
        *others, among = all_open_at_once(engine, [*clips, track], seed=1)
        assert torch.equal(among, alone)
        for i in range(0, len(clips), 10):
            assert torch.equal(others[i], separated(engine, clips[i]))


def test_a_retried_track_and_one_in_odd_blocks_are_bit_equal_to_the_first_try(spleeter):
    track = music(14)
    with Engine(spleeter) as engine:
        first = separated(engine, track)
        giving_up = engine.separate(in_blocks(track, 2))
        next(giving_up)
        giving_up.close()  # as a track that failed half way
        assert torch.equal(separated(engine, track, seed=3), first)


@pytest.mark.parametrize(
    ("batch", "n_threads", "packs_short"),
    [(2, 1, None), (2, 2, None), (7, 1, None), (7, 2, None), (4, 2, False)],
)
def test_batches_and_threads_change_no_bit(spleeter, clips, batch, n_threads, packs_short):
    # in packs of four, of two and of one
    chosen = [*clips[:7], *(music(seconds) for seconds in (1.9, 2.6, 3.4, 4.3))]
    with torch_threads(1), Engine(spleeter, 1, packs_short) as engine:
        wanted = [separated(engine, clip) for clip in chosen]
    with torch_threads(n_threads), Engine(spleeter, batch, packs_short) as engine:
        found = all_open_at_once(engine, chosen, seed=4)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_long_music_among_a_hundred_in_any_order_is_bit_equal_to_the_track_alone(spleeter, clips):
    tracks = [*clips, music(90), music(40)]
    with Engine(spleeter) as engine:
        alone = [separated(engine, mix) for mix in tracks]
        for seed in (5, 6):
            together = all_open_at_once(engine, tracks, seed)
            assert [torch.equal(one, other) for one, other in zip(together, alone, strict=True)] == [
                True
            ] * 102


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_batches_and_threads_change_no_bit_of_long_music(spleeter, batch, n_threads):
    track = music(60)
    with torch_threads(1), Engine(spleeter, 1) as engine:
        wanted = separated(engine, track)
    with torch_threads(n_threads), Engine(spleeter, batch) as engine:
        found = separated(engine, track)
    assert torch.equal(found, wanted)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_to_three_workers_agree_within_2_lsb_of_24_bit(tmp_path):
    source = tmp_path / "library"
    source.mkdir()
    for number, path in enumerate(one_shots()[:6]):
        samples, rate = soundfile.read(path)
        soundfile.write(source / f"{number}.wav", samples, rate, "PCM_24")
    soundfile.write(source / "music.wav", music(30)[0].T.numpy(), RATE, "PCM_24")
    one, *more = (stems_of(source, tmp_path / str(n), n) for n in (1, 2, 3))
    assert len(one) == 14
    for other in more:
        assert other.keys() == one.keys()
        differences = {path: np.abs(other[path] - one[path]).max() for path in one}
        assert {path: n for path, n in differences.items() if n >= 2} == {}


def stems_of(source: Path, out: Path, workers: int) -> dict[str, np.ndarray]:
    """What a job with so many workers writes, in steps of 24 bit."""
    runtime = RuntimeConfig(workers=workers, shard_s=0.1)
    job = Job(str(source), str(out), output=OutputConfig(format="wav"), runtime=runtime)
    run = story.make_plan(job, story.list_tracks(job), workers)
    story.save_plan(run)
    with on_ray(runtime, Event()) as run_shards:
        report = story.finalise(run, story.separate(run, run_shards, lambda _: None))
    assert report.n_failed == 0, report.failures
    read = {str(path.relative_to(out)): soundfile.read(path, dtype="int32")[0] for path in out.rglob("*.wav")}
    return {name: samples.astype(np.int64) >> 8 for name, samples in read.items()}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("kind", "audible"), [("instrumental", {"accompaniment"}), ("song, looped", set(STEMS))]
)
def test_estimates_agree_with_the_original_around_every_border_of_segments(kind, audible):
    mix = seams.mixes()[kind]
    assert len(mix) >= 180 * RATE
    found = {agreement.stem: agreement for agreement in seams.measure(mix)}
    assert {stem for stem, agreement in found.items() if len(agreement.audible) >= 11} == audible
    for agreement in found.values():
        assert len(agreement.borders) == len(mix) // 524_288
        assert all(border.snr_db >= seams.FLOOR_DB for border in agreement.audible), agreement
        assert agreement.whole.is_silent or agreement.excess_db <= seams.MOST_EXCESS_DB, agreement


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_worker_needs_no_more_memory_for_a_longer_track():
    short = memory.read_long_track(memory.QUICK.short_s)
    long = memory.read_long_track(memory.QUICK.long_s)
    assert memory.peak_mb(long) <= 1.10 * memory.peak_mb(short)
    assert memory.peak_mb(long) < memory.LIMIT_MB


@pytest.mark.slow
@pytest.mark.apt
@pytest.mark.timeout(1800)
def test_a_worker_needs_no_more_memory_for_more_one_shots():
    scale = memory.Scale(few=500, many=1500)  # by then its caches are as full as they get
    readings = memory.read_one_shots(scale)
    first, last = (memory.at_track(readings, n, scale) for n in (scale.few, scale.many))
    assert 0.95 <= last / first <= 1.05
    assert memory.peak_mb(readings) < memory.LIMIT_MB
