"""Every file of two sample libraries with the real model: frames, rate and channels exact, sums exact.

sonic-pi-samples and hydrogen-drumkits hold 919 files: 22.05, 44.1 and 48 kHz, mono and stereo, 8, 16 and 24
bit, WAV, FLAC and AIFF. A seeded part is in the gate, all of them are in `make test-all`.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from splitfire_batch.audio.formats import source_bits
from splitfire_batch.config import RuntimeConfig, SeparationConfig
from splitfire_batch.here import load_here
from splitfire_batch.settling import settle
from splitfire_batch.workbench import Workbench
from tests import assets
from tests.material import track_of, workbench

pytestmark = [
    pytest.mark.apt,
    pytest.mark.skipif(shutil.which("apt-get") is None, reason="the samples come as Debian packages"),
]

IN_THE_GATE = 6


def library() -> list[Path]:
    roots = assets.sonic_pi_samples(), assets.hydrogen_drumkits()
    endings = {".wav", ".flac", ".aiff", ".aif"}
    return sorted(path for root in roots for path in root.rglob("*") if path.suffix.lower() in endings)


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Iterator[Workbench]:
    model, _ = load_here(SeparationConfig(), RuntimeConfig(device="cpu"))
    with workbench(tmp_path_factory.mktemp("out"), model) as made:
        yield made


WINDOWS = "xtra;"
"""A chunk of one file, in which Windows keeps what only it understands."""


def check(bench: Workbench, file: Path) -> None:
    """The audio contract for one file, by libsndfile; the stems are removed again."""
    row = settle(track_of(file), bench)
    warnings = tuple(
        warning for warning in row.warnings if not warning.startswith(f"not carried over: {WINDOWS}")
    )
    assert (row.status, row.message, warnings) == ("done", None, ()), file
    assert row.source is not None
    wanted = soundfile.info(file)
    bits = source_bits(wanted.subtype)
    mix = soundfile.read(file, dtype="int32", always_2d=True)[0].astype(np.int64)
    total = np.zeros_like(mix)
    for stem in row.stems:
        path = Path(bench.destination.url) / stem.path
        samples, rate = soundfile.read(path, dtype="int32", always_2d=True)
        assert (samples.shape, rate) == (mix.shape, wanted.samplerate), file
        total += samples
        path.unlink()
    if bits and row.gain_db == 0:
        assert np.array_equal(total, mix), file
        assert row.sum_residual_db is None
    else:
        step = 1 << (32 - max(16, bits or 24))
        gain = 10 ** ((row.gain_db or 0) / 20)
        assert np.abs(total - mix * gain).max() <= 1.5 * step + 1, file


def test_a_seeded_part_of_two_libraries_keeps_the_contract(bench):
    for file in random.Random(4).sample(library(), IN_THE_GATE):
        check(bench, file)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_both_libraries_keep_the_contract(bench):
    files = library()
    assert len(files) > 800
    kinds: Counter[tuple[str, int, int]] = Counter()
    for file in files:
        check(bench, file)
        found = soundfile.info(file)
        kinds[found.subtype, found.samplerate, found.channels] += 1
    assert {"PCM_16", "PCM_24"} <= {subtype for subtype, _, _ in kinds}
    assert {1, 2} == {n_channels for _, _, n_channels in kinds}
