"""GPU: Spleeter, HTDemucs and BS-RoFormer, x real time and device busy, against the packages they come from.

Spleeter has its real weights, in every precision that `SeparationConfig` offers and at a sweep of batches.
HTDemucs is the network of the PyPI package `demucs` with random weights, in our engine and in its own
`apply_model` at the same overlap, without shifts, interleaved. BS-RoFormer has viperx' published shape and
random weights, in every precision; the network of the package `bs-roformer` computes the same batches.
Where there is no CUDA, `--device cpu --seconds 30` shows that it runs, with a slim RoFormer.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from importlib.metadata import version
from typing import Any, get_args, get_type_hints

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splitfire_batch.config import Precision, SeparationConfig
from splitfire_batch.engine import Engine
from splitfire_batch.errors import ConfigError
from splitfire_batch.models import load_model
from splitfire_batch.models.precision import Arithmetic
from splitfire_batch.models.roformer import Roformer
from splitfire_batch.segments import Model, Segment, uniform_segments
from splitfire_batch.worker import GPU_OPEN_TRACKS
from tests.benchmarks.library import RATE, blocks_of, whole_music

BATCHES = {"cpu": (1, 2), "cuda": (1, 2, 4, 8, 16, 32)}
TRACKS = {"cpu": 2, "cuda": GPU_OPEN_TRACKS}
ROUNDS = {"cpu": 1, "cuda": 3}
_ROFORMER_CHUNK = 352_800
"""Frames: 8 s, as viperx' config has them."""
_HEADER = f"{'batch':>6} {'network x real time':>20} {'engine x real time':>19} {'busy':>6}"


class HTDemucsShaped:
    """Implements `segments.Model`: the network of `demucs`, its published shape, weights from a seed."""

    name, sample_rate, n_channels = "htdemucs-shaped", RATE, 2
    stems = ("drums", "bass", "other", "vocals")

    def __init__(self, device: torch.device) -> None:
        from demucs.htdemucs import HTDemucs

        torch.manual_seed(1)
        made = HTDemucs(list(self.stems), bottom_channels=512, segment=Fraction(39, 5))
        self.network = made.eval().to(device)
        self.device = device
        self.is_for_one_core = self.is_of_any_length = False

    def segments(self, n_frames: int) -> Sequence[Segment]:
        return uniform_segments(n_frames, 343_980, 257_985)

    def window(self, segment: Segment) -> Tensor:
        ramp = torch.arange(1, segment.n_frames + 1, dtype=torch.float32)
        return torch.minimum(ramp, ramp.flip(0)) / (segment.n_frames // 2)

    def __call__(self, segments: Tensor) -> Tensor:
        with torch.inference_mode():
            estimates: Tensor = self.network(segments)
            return estimates


def main(arguments: Sequence[str] = ()) -> None:
    """Print hardware, versions and three tables."""
    parser = argparse.ArgumentParser(prog="gpu")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=220, help="length of a track")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("torch sees no CUDA device: nothing was measured (`--device cpu --seconds 30` only smokes)")
        return
    device = torch.device(options.device)
    _print_machine(device)
    mix = whole_music(1, options.seconds)
    print(f"\n{'Spleeter':26} {_HEADER}")
    _print_precisions(lambda one: load_model(SeparationConfig(precision=one), device.type), mix)
    if _has("demucs", "HTDemucs"):
        _print_htdemucs(HTDemucsShaped(device), mix)
    if _has("bs_roformer", "BS-RoFormer"):
        _print_roformer(device, mix)


def _has(package: str, what: str) -> bool:
    """Whether a peer is installed; says so if not."""
    is_there = importlib.util.find_spec(package) is not None
    if not is_there:
        print(f"\nno package {package}: {what} was not measured (make install)")
    return is_there


def _print_precisions(load: Callable[[Precision], Model], mix: NDArray[np.float32]) -> None:
    """A sweep for each precision that the device offers."""
    for precision in get_args(get_type_hints(SeparationConfig)["precision"]):
        try:
            model = load(precision)
        except ConfigError as error:
            print(f"{precision:26} refused: {error}")
            continue
        _print_sweep(model, precision, mix)


def _print_machine(device: torch.device) -> None:
    """What the figures belong to."""
    name, libraries = f"{platform.machine()} CPU: a SMOKE CHECK, no result", ""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        libraries = f", CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    threads = f"{torch.get_num_threads()} threads"
    print(f"{name}; torch {torch.__version__}{libraries}, Python {platform.python_version()}, {threads}")


def _print_sweep(model: Model, label: str, mix: NDArray[np.float32]) -> None:
    """One line per batch: network alone, whole engine with open tracks, share of time the device computed."""
    for batch in BATCHES[model.device.type]:
        try:
            alone = _network_rate(model, batch)
        except torch.OutOfMemoryError:
            print(f"{label:26} {batch:6} out of memory")
            return
        rates, shares = zip(
            *(_engine_rate(model, batch, mix) for _ in range(ROUNDS[model.device.type])), strict=True
        )
        figures = f"{alone:20.3g} {statistics.median(rates):19.3g} {statistics.median(shares):6.0%}"
        print(f"{label:26} {batch:6} {figures}", flush=True)


def _print_htdemucs(model: HTDemucsShaped, mix: NDArray[np.float32]) -> None:
    """Our engine with several open tracks, and `apply_model` with one, interleaved."""
    from demucs.apply import apply_model

    one = torch.from_numpy(mix.T.copy())[None]
    peer = f"demucs {version('demucs')} apply_model"
    print(f"\n{'HTDemucs, random weights':26} {_HEADER}")
    _print_sweep(model, "splitfire engine", mix)
    batch = BATCHES[model.device.type][-2]
    _apply(apply_model, model, one)
    theirs, ours = [], []
    for _ in range(ROUNDS[model.device.type]):
        theirs.append(_apply(apply_model, model, one))
        ours.append(_engine_rate(model, batch, mix)[0])
    ratio = statistics.median(our / their for our, their in zip(ours, theirs, strict=True))
    print(f"{peer:26} {1:6} {'':20} {statistics.median(theirs):19.3g}")
    n_tracks = TRACKS[model.device.type]
    print(f"\nratio {ratio:.2f}: batch {batch} and {n_tracks} open tracks against one track at a time")


def _print_roformer(device: torch.device, mix: NDArray[np.float32]) -> None:
    """Our engine in every precision, and the network of the package alone."""
    from tests.roformers import PUBLISHED, make_card, package_network

    architecture, arguments = PUBLISHED["viperx_ep317"]
    if device.type == "cpu":
        arguments = {**arguments, "dim": 16, "depth": 1, "heads": 2, "dim_head": 8}
    net = package_network(architecture, arguments)
    card = make_card(architecture, arguments, audio={"chunk_size": _ROFORMER_CHUNK})
    separation = SeparationConfig(residual="drop")

    def load(precision: Precision) -> Roformer:
        return Roformer(card, dict(net.state_dict()), separation, Arithmetic(precision, device))

    print(f"\n{'BS-RoFormer, random weights':26} {_HEADER}")
    _print_precisions(load, mix)
    model = load("fp32")
    net.to(device)
    for batch in BATCHES[device.type][:-1]:
        rate = _network_rate(model, batch, net)
        print(f"{'bs-roformer ' + version('bs-roformer') + ' fp32':26} {batch:6} {rate:20.3g}", flush=True)


def _apply(apply_model: Callable[..., Any], model: HTDemucsShaped, mix: Tensor) -> float:
    """x real time of the peer on one track."""
    seconds = _timed(
        lambda: apply_model(model.network, mix, shifts=0, overlap=0.25, device=model.device), model
    )
    return mix.shape[-1] / RATE / seconds


def _network_rate(model: Model, batch: int, peer: Callable[[Tensor], Tensor] | None = None) -> float:
    """x real time of full segments in one batch that lies on the device; what they share counts once."""
    first, second = model.segments(2**40)[:2]
    segments = torch.rand((batch, model.n_channels, first.n_frames), device=model.device) - 0.5
    compute = peer or model
    with torch.inference_mode():
        compute(segments)
        seconds = statistics.median(
            _timed(lambda: compute(segments), model) for _ in range(ROUNDS[model.device.type])
        )
    return batch * (second.start - first.start) / model.sample_rate / seconds


def _engine_rate(model: Model, batch: int, mix: NDArray[np.float32]) -> tuple[float, float]:
    """x real time with as many open tracks as a worker has, and the device's busy share."""

    def separate(_: int) -> int:
        return sum(frames.shape[-1] for frames in engine.separate(blocks_of(mix)))

    n_tracks = TRACKS[model.device.type]
    with Engine(model, batch) as engine, ThreadPoolExecutor(n_tracks) as threads:
        begin = time.perf_counter()
        n_frames = sum(threads.map(separate, range(n_tracks)))
        seconds = time.perf_counter() - begin
        return n_frames / RATE / seconds, engine.busy_s / seconds


def _timed(work: Callable[[], object], model: Model) -> float:
    """Seconds until the device has done it."""
    begin = time.perf_counter()
    work()
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter() - begin
