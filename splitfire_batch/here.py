"""A few files in this process: the same stems as a job's, without plan, shards or manifest.

The same but for rounding: short clips share no batches here, see `Engine`.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from pathlib import Path

from splitfire_batch.config import OutputConfig, RuntimeConfig, SeparationConfig
from splitfire_batch.errors import ConfigError, TransientError
from splitfire_batch.headway import Headway
from splitfire_batch.models import (
    Loaded,
    ModelCard,
    check_commercial,
    find_card,
    load_model,
    supply_of,
    use_registry,
)
from splitfire_batch.models.strides import check_obeyed
from splitfire_batch.naming import NamedTrack, make_targets
from splitfire_batch.records import StemFile, Track, TrackRow
from splitfire_batch.settling import settle
from splitfire_batch.stems import make_recipes, possible_stems, with_judged
from splitfire_batch.storage import refuse_file
from splitfire_batch.transfer import DeviceLost
from splitfire_batch.tuning import find_tuning
from splitfire_batch.workbench import Workbench, open_bench


def separate_files(
    files: Sequence[Path],
    out: str,
    separation: SeparationConfig,
    output: OutputConfig,
    runtime: RuntimeConfig,
    headway: Headway | None = None,
) -> Iterator[TrackRow]:
    """Settle each file; a bad one becomes a failed row and the others go on.

    The model is there when this returns; files are settled as rows are asked for.

    Args:
        files: audio files, each settled once, some at a time; rows come in their order. Their folders do not
            show in the stems' paths.
        out: folder or URL for the stems; stems of the same name are replaced.
        separation: how the stems sound.
        output: how they are written.
        runtime: device, threads and limits.
        headway: is told of each file, for whoever wants to look.

    Raises:
        ConfigError: a file that is missing or a folder, an `out` that is a file, an unknown model or stem, no
            scratch folder.
        TransientError: the device failed, or a source of the weights does not answer.
    """
    make_recipes(separation, card_here(separation, runtime).stems)
    refuse_file(out)
    headway = headway or Headway()
    tracks = _tracks(files, separation, output)
    headway.expect(len(tracks))
    model, batch = load_here(with_judged(separation, output), runtime)
    runtime = replace(runtime, batch=batch, open_tracks=1)
    bench = open_bench(model, out, separation, output, runtime, is_immutable=output.names == "immutable")
    return _settled(tracks, bench, headway)


def _settled(tracks: Sequence[Track], bench: Workbench, headway: Headway) -> Iterator[TrackRow]:
    """Rows in the tracks' order; as many tracks at a time as the model has cores."""
    pool = ThreadPoolExecutor(bench.engine.n_servers, "track")
    with closing(bench):
        try:
            running: deque[Future[TrackRow]] = deque()
            for track in tracks:
                running.append(pool.submit(_settle, track, bench, headway))
                if len(running) == bench.engine.n_servers:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        except DeviceLost as error:
            raise TransientError(f"{error}; run the same command again") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _settle(track: Track, bench: Workbench, headway: Headway) -> TrackRow:
    """Settle one, and tell of it."""
    limits = replace(bench.limits, begin=partial(headway.begin, track.path))
    row = settle(track, replace(bench, limits=limits))
    headway.settle(row)
    return row


def stem_uri(out: str, stem: StemFile) -> str:
    """Where a stem is that `separate_files` wrote to `out`."""
    return f"{out.rstrip('/')}/{stem.path}"


def card_here(separation: SeparationConfig, runtime: RuntimeConfig) -> ModelCard:
    """The model that the settings name, of our registry or the user's.

    Raises:
        ConfigError: there is none, it may not be used, it does not obey a setting, or the
            user's registry is wrong.
    """
    use_registry(runtime)
    card = find_card(separation.model)
    if runtime.require_commercial:
        check_commercial(card)
    check_obeyed(card, separation)
    return card


def load_here(separation: SeparationConfig, runtime: RuntimeConfig) -> tuple[Loaded, int | None]:
    """The model as it runs best on this machine, which is all ours, and the batch for it.

    Raises:
        ConfigError, TransientError: see `models.load_model`.
    """
    import torch

    device = pick_device(runtime)
    tuning = find_tuning(separation, runtime, device, runtime.threads)
    if tuning.threads:
        torch.set_num_threads(tuning.threads)
    model = load_model(separation, device, supply_of(runtime), runtime.compile, tuning.is_channels_last)
    return model, tuning.batch


def pick_device(runtime: RuntimeConfig) -> str:
    """`cuda` where there is a GPU and the settings allow it, else `cpu`.

    Raises:
        ConfigError: the settings want a GPU, and there is none.
    """
    import torch

    if runtime.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if runtime.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: found 'cuda', and torch sees no CUDA device here; use 'auto' or 'cpu'")
    return runtime.device


def _tracks(files: Sequence[Path], separation: SeparationConfig, output: OutputConfig) -> list[Track]:
    for file in files:
        if file.is_dir():
            raise ConfigError(f"{file} is a folder; `splitfire run {file} DESTINATION` separates folders")
        if not file.exists():
            raise ConfigError(f"there is no file {file}")
    files = list({file.absolute(): file for file in files}.values())
    uris = [str(file.resolve()) for file in files]
    # not of the resolved path: two links to one file are two tracks
    ids = [blake2b(os.fsencode(file.absolute()), digest_size=8).hexdigest() for file in files]
    named = [NamedTrack(file.name, track_id, {}) for file, track_id in zip(files, ids, strict=True)]
    stems = possible_stems(find_card(separation.model).stems)
    targets = make_targets(named, output.template, separation.model, stems=stems)
    return [
        Track(track_id, track_id, uri, str(file), file.stat().st_size, "", target)
        for file, track_id, uri, target in zip(files, ids, uris, targets, strict=True)
    ]
