"""Cost of safety: CPU-seconds of the demo catalogue with codec children and commits, and without.

The same worker with the real model, folder to folder, three ways in turn: codecs in children and manifest
parts put; codecs in the worker and parts put; neither. CPU-seconds are those of the process and of all
children it has waited for; the model is loaded once, before. Ratios are of the runs of one round, whose order
changes from round to round. A last line has the codecs alone, on the same files without the model, whose own
CPU-seconds differ by more from run to run than the codecs cost.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from unittest.mock import patch

import numpy as np
import torch

from splitfire_batch import worker
from splitfire_batch.audio import choose_output, to_depth, to_float
from splitfire_batch.children import CodecLimits, Codecs, InChildren, Inline
from splitfire_batch.config import OutputConfig, RuntimeConfig, SeparationConfig
from splitfire_batch.manifest.schema import RunContext
from splitfire_batch.models import load_model
from splitfire_batch.records import Committed, Shard, Track
from splitfire_batch.segments import Model
from splitfire_batch.separation import BLOCK_FRAMES
from splitfire_batch.spec import WorkerSpec
from tests.assets import audio_example, music, one_shots
from tests.material import track_of

MOST = 1.05
ROUNDS = 5
_CONTEXT = RunContext("run", "settings", "catalogue", "spleeter-2stems", "weights", "fp32")


@dataclass(frozen=True, slots=True)
class Way:
    """How a run is done."""

    name: str
    codecs: Literal["children", "inline"]
    commits: bool


WAYS = (
    Way("children, commits", "children", True),
    Way("inline, commits", "inline", True),
    Way("inline, no commits", "inline", False),
)


def main(arguments: Sequence[str] = ()) -> None:
    """Print medians, and the ratio of each way to the last."""
    parser = argparse.ArgumentParser(prog="cost_of_safety")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--one-shots", action="store_true", help="leave out the music")
    options = parser.parse_args(arguments)
    files = one_shots() if options.one_shots else [audio_example(), *music(), *one_shots()]
    tracks = tuple(
        replace(track_of(file, f"{i:016x}"), target=f"{i}_{{stem}}.{{ext}}") for i, file in enumerate(files)
    )
    model = load_model(SeparationConfig(), "cpu")
    _cpu_s(WAYS[0], model, tracks[-3:])  # warm
    seconds: dict[str, list[float]] = {way.name: [] for way in WAYS}
    for number in range(options.rounds):
        for way in WAYS[number % 3 :] + WAYS[: number % 3]:
            seconds[way.name].append(_cpu_s(way, model, tracks))
    bare = seconds[WAYS[-1].name]
    print(f"{'':22} {'CPU-seconds':>12} {'least':>8} {'most':>8} {'ratio':>7}")
    for name, found in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(found, bare, strict=True))
        print(f"{name:22} {statistics.median(found):12.2f} {min(found):8.2f} {max(found):8.2f} {ratio:7.3f}")
    print(f"\nmedians of {options.rounds}, {len(tracks)} tracks; bound of the first ratio {MOST}")
    alone = [[_codecs_cpu_s(make, files) for _ in range(options.rounds)] for make in (_in_children, Inline)]
    children_s, inline_s = map(statistics.median, alone)
    share = (children_s - inline_s) / statistics.median(bare)
    print(f"codecs alone: {children_s:.2f} in children, {inline_s:.2f} inline; {share:+.1%} of the whole")


def _cpu_s(way: Way, model: Model, tracks: tuple[Track, ...]) -> float:
    """CPU-seconds of a shard, its worker's beginning and end included."""
    with tempfile.TemporaryDirectory(prefix="splitfire-safety-") as folder:
        spec = WorkerSpec(
            destination=str(Path(folder) / "out"),
            separation=SeparationConfig(),
            output=OutputConfig(),
            runtime=RuntimeConfig(codecs=way.codecs),
            context=_CONTEXT,
            is_immutable=False,
            threads=torch.get_num_threads(),
        )
        begin = _spent_s()
        with patch.object(worker, "load_model", lambda *_: model):
            made = spec()
        with patch.object(worker, "write_part", worker.write_part if way.commits else lambda *_: None):
            events = list(made.run_shard(Shard("s", tracks)))
        made.close()
        spent_s = _spent_s() - begin
    outcomes = [o for event in events if isinstance(event, Committed) for o in event.outcomes]
    assert [o.status for o in outcomes] == ["done"] * len(tracks), outcomes
    return spent_s


def _in_children() -> InChildren:
    return InChildren(CodecLimits(1024, 120))


def _codecs_cpu_s(make: Callable[[], Codecs], files: Sequence[Path]) -> float:
    """CPU-seconds of decoding each file and encoding it twice, codecs' beginning and end included."""
    begin = _spent_s()
    codecs = make()
    for file in files:
        with codecs.open_audio(file, 86_400, None) as decoder:
            out = choose_output(decoder.format, OutputConfig())
            blocks = [_steps(block, out.bits) for block in decoder.blocks(BLOCK_FRAMES)]
        codecs.read_metadata(file)
        with tempfile.TemporaryDirectory(prefix="splitfire-safety-") as folder:
            paths = {stem: Path(folder) / f"{stem}.{out.ext}" for stem in ("vocals", "accompaniment")}
            with codecs.open_stems(paths, out, {}, sum(map(len, blocks))) as stems:
                for block in blocks:
                    stems.write(dict.fromkeys(paths, block))
                stems.close()
    codecs.close()
    return _spent_s() - begin


def _steps(block: np.ndarray, bits: int | None) -> np.ndarray:
    """A decoded block as stems are written: in steps of their depth."""
    if bits is None:
        return to_float(block)
    if block.dtype.kind == "i":
        return to_depth(block, bits).astype(np.int64)
    full = 2.0 ** (bits - 1)
    return np.clip(block * full, -full, full - 1).astype(np.int64)


def _spent_s() -> float:
    found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in found)
