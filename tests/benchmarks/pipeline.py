"""Pipeline: a whole job, S3 to S3, against the engine alone with a paced device; and CPU-seconds by stage.

A paced device answers each segment after a fixed time and leaves the CPU alone meanwhile; fetching, decoding,
blending, encoding, hashing and storing are real, and so are S3 server, Ray and pool. Three paces show up to
where this machine's cores keep a device busy. The other tables are the real model on the CPU, with codecs in
the same process, whose threads are told apart; `cost_of_safety` measures what their children add.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from threading import Event
from unittest.mock import patch

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.on_ray import on_ray
from splitfire_batch import job as story
from splitfire_batch import settling, worker
from splitfire_batch.config import RuntimeConfig, SeparationConfig
from splitfire_batch.engine import Engine
from splitfire_batch.job import Job, RunShards
from splitfire_batch.models import load_model
from splitfire_batch.observations import Measurements
from splitfire_batch.records import Committed, Quarantined, Shard, ShardEvent, StageSeconds, Started
from splitfire_batch.report import Progress, Report
from splitfire_batch.segments import Model, Segment
from splitfire_batch.spec import WorkerSpec
from splitfire_batch.stopwatch import Stage, Stopwatch
from splitfire_batch.storage import open_store
from splitfire_batch.worker import CPU_OPEN_TRACKS, Worker
from tests.benchmarks.library import RATE, blocks_of, whole_music
from tests.s3_server import S3Server

PACES_S = (0.24, 0.12, 0.06)
N_TRACKS, TRACK_S = 16, 90
FLOOR, CPU_FLOOR = 0.90, 0.80
MEASURES: Sequence[Measurements] = ("none", "all")
ROUNDS = 3
_FULL_FRAMES, _SHARED_FRAMES = 527_360, 3_072

Mixes = Sequence[NDArray[np.float32]]


class Paced:
    """Implements `segments.Model`: Spleeter's segments, each answered after a fixed time."""

    name, sample_rate, n_channels, stems = "paced", RATE, 2, ("vocals", "accompaniment")
    device = torch.device("cpu")
    is_for_one_core = is_of_any_length = False

    def __init__(self, segment_s: float) -> None:
        """`segment_s` is the time of a full segment; a shorter one takes its part of it."""
        self._segment_s = segment_s
        self._spleeter = load_model(SeparationConfig(), "cpu")
        self._shares = torch.tensor((0.25, 0.75)).reshape(1, -1, 1, 1)

    def segments(self, n_frames: int) -> Sequence[Segment]:
        return self._spleeter.segments(n_frames)

    def window(self, segment: Segment) -> None:
        """None: what two segments share is in the second one only."""

    def __call__(self, segments: Tensor) -> Tensor:
        done_at = time.perf_counter() + self._segment_s * len(segments) * segments.shape[-1] / _FULL_FRAMES
        estimates = segments[:, None] * self._shares
        estimates[..., -_SHARED_FRAMES:] = 0
        time.sleep(max(0.0, done_at - time.perf_counter()))
        return estimates


@dataclass(frozen=True, slots=True)
class PacedSpec(WorkerSpec):
    """Makes a worker with a paced device, in whatever process it is called."""

    segment_s: float = 0.0

    def __call__(self) -> Worker:
        with patch.object(worker, "load_model", lambda *_: Paced(self.segment_s)):
            return Worker(self)


class CpuStopwatch(Stopwatch):
    """Counts what the calling thread computes, not how long it takes."""

    @contextmanager
    def measure(self, stage: Stage) -> Iterator[None]:
        begin = time.thread_time()
        try:
            yield
        finally:
            self.add(stage, time.thread_time() - begin)


def main(arguments: Sequence[str] = ()) -> None:
    """Print both tables with their bounds."""
    parser = argparse.ArgumentParser(prog="pipeline")
    parser.add_argument("--paces", type=float, nargs="*", default=PACES_S, help="seconds of a full segment")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(arguments)
    with S3Server() as server, patch.dict(os.environ, server.environment):
        server.make_bucket("pipeline")
        mixes = _fill("flac")
        if options.paces:
            _print_paced(mixes, options.paces, options.rounds)
        _cpu_job("flac", load_model(SeparationConfig(), "cpu"), RuntimeConfig(codecs="inline"))  # to warm up
        for container in ("flac", "wav"):
            mixes = mixes if container == "flac" else _fill(container)
            for measure in MEASURES:
                print(f"\n{container.upper()}, measure = {measure}")
                runtime = RuntimeConfig(measure=measure, codecs="inline")
                _print_cpu(container, mixes, runtime, options.rounds)


def _fill(container: str) -> Mixes:
    """Put tracks of music into a store, 16 bit deep; returns what a decoder makes of them."""
    music = np.concatenate([whole_music(0), whole_music(1)])
    starts = np.linspace(0, len(music) - TRACK_S * RATE, N_TRACKS).astype(int)
    store, mixes = open_store(_library(container), {}), []
    with tempfile.TemporaryDirectory(prefix="splitfire-pipeline-") as folder:
        for number, start in enumerate(starts):
            path = Path(folder) / f"{number:02}.{container}"
            soundfile.write(path, music[start : start + TRACK_S * RATE], RATE, "PCM_16")
            store.write(path.name, path)
            mixes.append(soundfile.read(path, dtype="float32")[0])
    return mixes


def _print_paced(mixes: Mixes, paces_s: Sequence[float], n_rounds: int) -> None:
    print(f"{'a segment takes':>16} {'engine alone':>13} {'tracks of the job':>18} {'ratio':>6}")
    audio_s = sum(map(len, mixes)) / RATE
    runtime = RuntimeConfig(workers=1)
    with on_ray(runtime, Event()) as run_shards:
        for pace_s in paces_s:
            alone, whole = [], []
            for _ in range(n_rounds):
                alone.append(_engine_alone(Paced(pace_s), mixes)[0])
                whole.append(_paced_job(run_shards, runtime, pace_s))
            rates = [audio_s / statistics.median(times) for times in (alone, whole)]
            ratio = statistics.median(a / w for a, w in zip(alone, whole, strict=True))
            print(f"{pace_s * 1000:13.0f} ms {rates[0]:12.0f}x {rates[1]:17.0f}x {ratio:6.2f}", flush=True)
    print(f"\nx real time, medians of {n_rounds}, {audio_s:.0f} s of music; floor {FLOOR:.2f}\n")


def _library(container: str) -> str:
    return f"s3://pipeline/library-{container}"


def _print_cpu(container: str, mixes: Mixes, runtime: RuntimeConfig, n_rounds: int) -> None:
    """Jobs in turn with the engine alone; each is compared with the engine before and after it."""
    audio_s = sum(map(len, mixes)) / RATE
    model = load_model(SeparationConfig(), "cpu")
    alone, jobs = [_engine_alone(model, mixes)[1]], []
    for _ in range(n_rounds):
        jobs.append(_cpu_stages(container, model, runtime))
        alone.append(_engine_alone(model, mixes)[1])
    engines = [(before + after) / 2 for before, after in pairwise(alone)]
    rows = [
        {
            "engine, measured alone": engine,
            **stages,
            "all else": whole - engine - sum(stages.values()),
            "the whole job": whole,
        }
        for engine, (whole, stages) in zip(engines, jobs, strict=True)
    ]
    medians = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    job_s = medians["the whole job"]
    print(f"{'CPU-seconds of':24} {'seconds':>9} {'share':>7} {'per hour of audio':>18}")
    for name, seconds in medians.items():
        print(f"{name:24} {seconds:9.1f} {seconds / job_s:7.1%} {seconds / audio_s * 3600:18.1f}")
    shares = [engine / whole for engine, (whole, _) in zip(engines, jobs, strict=True)]
    floor = f"; floor {CPU_FLOOR:.2f}" if runtime.measure == "none" else ""
    print(f"\nengine / job {statistics.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f}){floor}")


def _cpu_stages(container: str, model: Model, runtime: RuntimeConfig) -> tuple[float, dict[str, float]]:
    """CPU-seconds of a whole job, and by stage without the engine's."""
    network_s = _thread_cpu_s("fsspecIO")
    job_s, report = _cpu_job(container, model, runtime)
    network_s = _thread_cpu_s("fsspecIO") - network_s
    names = [field.name for field in fields(StageSeconds) if not field.name.startswith(("device", "wait"))]
    stages = {name: getattr(report.seconds, name) for name in names}
    return job_s, {**stages, "fsspec's thread": network_s}


def _engine_alone(model: Model, mixes: Mixes) -> tuple[float, float]:
    """Seconds and CPU-seconds of the engine with as many open tracks as a worker has."""

    def separate(mix: NDArray[np.float32]) -> int:
        return sum(frames.shape[-1] for frames in engine.separate(blocks_of(mix)))

    with Engine(model) as engine, ThreadPoolExecutor(CPU_OPEN_TRACKS) as pool:
        begin, cpu_begin = time.perf_counter(), time.process_time()
        n_frames = sum(pool.map(separate, mixes))
        seconds = time.perf_counter() - begin, time.process_time() - cpu_begin
    assert n_frames == sum(map(len, mixes))
    return seconds


def _thread_cpu_s(name: str) -> float:
    """CPU-seconds so far of the threads whose names begin so."""
    found = [t.ident for t in threading.enumerate() if t.ident and t.name.startswith(name)]
    return sum(time.clock_gettime(time.pthread_getcpuclockid(ident)) for ident in found)


def _paced_job(run_shards: RunShards, runtime: RuntimeConfig, pace_s: float) -> float:
    """Seconds from the first track's beginning to the last one's commit, with a paced worker on Ray."""
    begun: list[float] = []
    committed: list[float] = []

    def timed(shards: Iterable[Shard], spec: WorkerSpec) -> Iterator[ShardEvent | Quarantined]:
        values = {field.name: getattr(spec, field.name) for field in fields(WorkerSpec)}
        for event in run_shards(shards, PacedSpec(**values, segment_s=pace_s)):
            if isinstance(event, Started | Committed):
                (begun if isinstance(event, Started) else committed).append(time.perf_counter())
            yield event

    _do("flac", runtime, timed)
    return committed[-1] - begun[0]


def _cpu_job(container: str, model: Model, runtime: RuntimeConfig) -> tuple[float, Report]:
    """CPU-seconds of a whole job in this process, its model already loaded, and its report."""

    def here(shards: Iterable[Shard], spec: WorkerSpec) -> Iterator[ShardEvent | Quarantined]:
        with patch.object(worker, "load_model", lambda *_: model):
            made = replace(spec, threads=torch.get_num_threads())()
        for shard in shards:
            yield from made.run_shard(shard)
        made.close()

    with patch.object(settling, "Stopwatch", CpuStopwatch):
        begin = time.process_time()
        report = _do(container, runtime, here)
        return time.process_time() - begin, report


def _do(container: str, runtime: RuntimeConfig, run_shards: RunShards) -> Report:
    """The story of a job, into an empty destination."""

    def ignore(_: Progress) -> None:
        """Nobody watches."""

    destination = f"s3://pipeline/stems-{time.time_ns()}"
    job = Job(_library(container), destination, runtime=runtime)
    run = story.make_plan(job, story.list_tracks(job))
    story.save_plan(run)
    report = story.finalise(run, story.separate(run, run_shards, ignore))
    assert (report.n_done, report.n_failed) == (N_TRACKS, 0), report.failures
    return report
