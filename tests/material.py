"""Generated audio, models with known answers, and a WAV reader of our own, for the tests of the pipeline.

The reader shares no code with the library: it parses RIFF itself, so that libsndfile is not its own judge.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from splitfire_batch.audio import choose_output
from splitfire_batch.budget import AudioBudget
from splitfire_batch.config import OutputConfig, SeparationConfig
from splitfire_batch.engine import Engine
from splitfire_batch.records import Track
from splitfire_batch.rendering import Rendered, render
from splitfire_batch.segments import Segment, uniform_segments
from splitfire_batch.separation import Limits, separate_file
from splitfire_batch.stem_blocks import RenderSettings
from splitfire_batch.stems import is_complete, make_recipes, needed_estimates
from splitfire_batch.stopwatch import Stopwatch
from splitfire_batch.storage import Stores, open_store
from splitfire_batch.workbench import Workbench

MODEL_STEMS = ("vocals", "accompaniment")


class Shares:
    """Implements `segments.Model`: every stem is a fixed multiple of the mix, whatever the multiple."""

    name = "shares"
    sample_rate = 44_100
    n_channels = 2
    stems = MODEL_STEMS
    device = torch.device("cpu")
    is_for_one_core = is_of_any_length = False

    def __init__(
        self,
        *shares: float,
        segment_frames: int = 20_000,
        before: Callable[[Tensor], object] | None = None,
    ) -> None:
        """`before` is called with each batch (B, C, L), and may wait or raise."""
        self._shares = torch.tensor(shares or (0.25, 0.75)).reshape(1, -1, 1, 1)
        self._segment_frames, self._before = segment_frames, before

    def segments(self, n_frames: int) -> Sequence[Segment]:
        return uniform_segments(n_frames, self._segment_frames, self._segment_frames * 3 // 4)

    def window(self, segment: Segment) -> Tensor:
        return torch.ones(segment.n_frames)

    def __call__(self, segments: Tensor) -> Tensor:
        if self._before:
            self._before(segments)
        return segments[:, None] * self._shares


class Gate:
    """For `before`: lets the first `n` batches pass, and the others once it is open."""

    def __init__(self, n: int) -> None:
        self._n, self._open = n, threading.Event()

    def __call__(self, _: Tensor) -> None:
        self._n -= 1
        if self._n < 0:
            assert self._open.wait(30)

    def open(self) -> None:
        self._open.set()


def noise(n_frames: int, n_channels: int = 2, peak: float = 0.5, seed: int = 0) -> NDArray[np.float64]:
    """White noise (n_frames, n_channels) within ±peak."""
    return np.random.default_rng(seed).uniform(-peak, peak, (n_frames, n_channels))


def write(
    path: Path, samples: NDArray[np.float64], sample_rate: int = 44_100, subtype: str = "PCM_16"
) -> Path:
    """An audio file of the container that the name ends in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, sample_rate, subtype)
    return path


def read_wav(path: Path) -> tuple[NDArray[np.int64] | NDArray[np.float64], int]:
    """Samples (n, C) of a WAV file, integers at the file's own depth and signed, and the rate in Hz."""
    data = path.read_bytes()
    assert data[:4] == b"RIFF"
    assert data[8:12] == b"WAVE"
    chunks, position = {}, 12
    while position + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, position)
        chunks[name] = data[position + 8 : position + 8 + size]
        position += 8 + size + size % 2
    kind, n_channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", chunks[b"fmt "])
    if kind == 0xFFFE:
        (kind,) = struct.unpack_from("<H", chunks[b"fmt "], 24)
    if kind == 3:
        return np.frombuffer(chunks[b"data"], f"<f{bits // 8}").astype(np.float64).reshape(
            -1, n_channels
        ), rate
    octets = np.frombuffer(chunks[b"data"], np.uint8).reshape(-1, bits // 8).astype(np.int64)
    values = (octets << (8 * np.arange(bits // 8))).sum(axis=1)
    values = values - 128 if bits == 8 else np.where(values >= 1 << (bits - 1), values - (1 << bits), values)
    return values.reshape(-1, n_channels), rate


def track_of(file: Path, track_id: str = "0123456789abcdef", **changes: object) -> Track:
    """A track as a listing makes it, of a file whose folder is the source's root."""
    store, key = Stores({}).locate(str(file))
    found = store.stat(key)
    values: dict[str, object] = {
        "track_id": track_id,
        "source_id": f"source-{track_id}",
        "uri": str(file),
        "path": file.name,
        "n_bytes": found.n_bytes,
        "etag": found.etag,
        "target": f"{file.stem}_{{stem}}.{{ext}}",
    }
    return Track(**{**values, **changes})  # type: ignore[arg-type]


@contextmanager
def workbench(
    folder: Path,
    model: object = None,
    separation: SeparationConfig | None = None,
    output: OutputConfig | None = None,
    limits: Limits | None = None,
    max_bytes: int = 2**40,
    audio_bytes: int = 2**30,
) -> Iterator[Workbench]:
    """A workbench that writes into `folder`."""
    recipes = make_recipes(separation or SeparationConfig(), MODEL_STEMS)
    with Engine(model or Shares()) as engine:  # type: ignore[arg-type]
        yield Workbench(
            engine=engine,
            sources=Stores({}),
            destination=open_store(str(folder), {}),
            recipes=recipes,
            sums_to_mix=is_complete(recipes, MODEL_STEMS),
            output=output or OutputConfig(),
            limits=limits or Limits(),
            budget=AudioBudget(audio_bytes),
            max_bytes=max_bytes,
            is_immutable=False,
        )


def rendered(
    file: Path, folder: Path, model: object, track_id: str = "track", residual: str = "fold", **config: object
) -> Rendered:
    """Stems of `file` in `folder`; `config` are fields of OutputConfig and `stems`."""
    stems = config.pop("stems", ())
    separation = SeparationConfig(stems=stems, residual=residual)  # type: ignore[arg-type]
    recipes = make_recipes(separation, MODEL_STEMS)
    output = OutputConfig(**config)  # type: ignore[arg-type]
    folder.mkdir(exist_ok=True)
    with (
        Engine(model) as engine,  # type: ignore[arg-type]
        separate_file(file, engine, needed_estimates(recipes), Limits(), Stopwatch()) as separated,
    ):
        settings = RenderSettings(
            recipes,
            choose_output(separated.source, output),
            output.dither,
            track_id,
            is_complete(recipes, MODEL_STEMS),
            skip_below_db=output.skip_silent_stems,
        )
        return render(separated, settings, folder, Stopwatch())


def read_stems(result: Rendered, folder: Path) -> dict[str, NDArray[np.float64]]:
    return {stem.stem: read_wav(folder / stem.path)[0].astype(np.float64) for stem in result.stems}
