"""HTDemucs at the size it is published in, with random weights: agreement, and the memory it takes.

The models are like those of our registry, with tensors of our own in the published precision.
"""

from __future__ import annotations

import hashlib
import math
import subprocess
import time

import pytest
import soundfile
from safetensors.torch import save_file

from tests.benchmarks.library import write_long_track
from tests.benchmarks.processes import pss_mb, tree
from tests.demucs_networks import FOUR, FULL, FULL_SIX, FULL_V3, Network
from tests.small_library import COMMAND, environment
from tests.test_htdemucs import distance, music, reference, separated

MINUTES = 3
MOST_MB = 4000
BORDERS = (1, 257_985, 257_986, 343_980, 343_981)
"""Around the first two segments; one frame more than fits one is two of them."""


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("network", "lengths"),
    [
        pytest.param(FULL, BORDERS, id=str(FULL)),
        pytest.param(FULL_SIX, BORDERS, id=str(FULL_SIX)),
        pytest.param(FULL_V3, (1, 100_000, 400_000), id=str(FULL_V3)),  # one segment, as long as the track
    ],
)
def test_it_is_what_the_package_gives(network: Network, lengths: tuple[int, ...], capsys):
    model = network.model(tail="reference")
    for n_frames in lengths:
        mix = music(n_frames)
        found = distance(separated(model, mix), reference(network, mix))
        with capsys.disabled():
            snr_db = -20 * math.log10(max(found, 1e-12))
            print(f"{network}, {n_frames} frames: {snr_db:.1f} dB SNR of the worst stem")
        assert found < 1e-4, n_frames


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_three_minutes_are_separated_in_less_than_4_gb(tmp_path, capsys):
    weights = tmp_path / "mine.safetensors"
    save_file({name: value.half().contiguous() for name, value in FULL.tensors.items()}, weights)
    (tmp_path / "my.toml").write_text(f"""
        [mine]
        like = "htdemucs"
        [[mine.files]]
        name = "mine.safetensors"
        sha256 = "{hashlib.sha256(weights.read_bytes()).hexdigest()}"
        sources = ["{weights}"]
    """)
    song = tmp_path / "song.wav"
    write_long_track(song, MINUTES * 60)
    variables = environment(tmp_path / "home")
    variables |= {
        "SPLITFIRE_CACHE": str(tmp_path / "cache"),
        "SPLITFIRE_RUNTIME__REGISTRY": str(tmp_path / "my.toml"),
    }
    command = [*COMMAND, "separate", str(song), "-o", str(tmp_path / "out"), "--model", "mine"]
    began, peak_mb = time.monotonic(), 0.0
    with subprocess.Popen(command, env=variables) as process:
        while process.poll() is None:
            peak_mb = max(peak_mb, sum(map(pss_mb, tree(process.pid))))
            time.sleep(0.2)
    with capsys.disabled():
        print(f"{MINUTES} min in {time.monotonic() - began:.0f} s, at most {peak_mb:.0f} MB of memory")
    assert process.returncode == 0
    stems = sorted((tmp_path / "out").rglob("*.wav"))
    assert [path.stem for path in stems] == sorted(f"song_{stem}" for stem in FOUR)
    assert all(soundfile.info(path).frames == soundfile.info(song).frames for path in stems)
    assert 1000 < peak_mb < MOST_MB  # less than the network itself would be a measure of nothing
