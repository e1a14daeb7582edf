"""A checkpoint as the community publishes them, from the user's registry to the stems of real audio."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from splitfire_batch.config import RuntimeConfig, SeparationConfig
from splitfire_batch.models import Supply, load_model, use_registry, weights
from splitfire_batch.models.fidelity import excerpt
from splitfire_batch.models.precision import Arithmetic
from splitfire_batch.models.roformer import Roformer
from splitfire_batch.models.supply import NOTHING_SET
from tests.assets import audio_example
from tests.roformers import CPU, PUBLISHED, as_yaml, blended, make_card, package_network
from tests.small_library import run_main

CHUNK, OVERLAPS = 22_050, 2
SLIM = {"dim": 16, "depth": 1, "heads": 2, "dim_head": 8, "mask_estimator_depth": 1, "num_stems": 1}
"""All bins and bands of the published ones, and few numbers for each."""


def write_registry(folder: Path, name: str, architecture: str, arguments: dict[str, Any]) -> Any:
    """Settings, and a registry with a model whose weights are a pickle and its config YAML; its network."""
    net = package_network(architecture, arguments)
    torch.save({"state_dict": dict(net.state_dict()), "epoch": 3}, folder / "ours.ckpt")
    sections = {
        "audio": {"chunk_size": CHUNK, "num_channels": 2, "sample_rate": 44_100, "dim_t": 801},
        "model": {**arguments, "flash_attn": True},
        "training": {"instruments": ["vocals", "other"], "target_instrument": "vocals", "lr": 1e-5},
        "inference": {"num_overlap": OVERLAPS, "batch_size": 4, "normalize": True},
    }
    (folder / "ours.yaml").write_text(as_yaml(sections))
    text = f"""
[{name}]
architecture = "{architecture}"
stems = ["vocals", "other"]
code_license = "MIT"
weights_license = "ours"
license_url = "https://example.com"
is_commercial_ok = true
training_data = "none"
"""
    for file in ("ours.ckpt", "ours.yaml"):
        content = (folder / file).read_bytes()
        text += f"""
[[{name}.files]]
name = "{file}"
sha256 = "{hashlib.sha256(content).hexdigest()}"
n_bytes = {len(content)}
sources = ["{folder / file}"]
"""
    (folder / "registry.toml").write_text(text)
    (folder / "splitfire.toml").write_text(f'[runtime]\nregistry = "{folder / "registry.toml"}"\n')
    return net


@pytest.mark.parametrize("name", ["kim", "viperx_ep317"])
def test_separate_with_a_checkpoint_and_its_yaml(name, tmp_path, monkeypatch, capsys):
    """What is written is the slow blend of the package's own forward, and the stems sum to the mix."""
    monkeypatch.setenv("SPLITFIRE_CACHE", str(tmp_path / "cache"))
    architecture, arguments = PUBLISHED[name]
    net = write_registry(tmp_path, f"our-{name}", architecture, {**arguments, **SLIM})
    mix, rate = soundfile.read(audio_example(), frames=70_000, dtype="float32")
    soundfile.write(tmp_path / "song.wav", mix, rate, subtype="FLOAT")
    out = tmp_path / "out"
    options = "--out", out, "--model", f"our-{name}", "--config", tmp_path / "splitfire.toml"
    code, _, err = run_main(monkeypatch, capsys, "separate", tmp_path / "song.wav", *options)
    assert code == 0, err
    stems = {path.stem.removeprefix("song_"): soundfile.read(path)[0].T for path in out.rglob("*.wav")}
    assert set(stems) == {"vocals", "other"}
    wanted = blended(mix.T, net, CHUNK, CHUNK // OVERLAPS, is_lean=True)
    np.testing.assert_allclose(stems["vocals"], wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    np.testing.assert_allclose(stems["vocals"] + stems["other"], mix.T, rtol=0, atol=2e-7)
    assert np.abs(wanted).max() > 0.01


def test_tensors_and_config_come_of_one_verified_file(tmp_path, monkeypatch):
    """Nothing is fetched, or read for its hash, once more, so the supply is asked for all there is."""
    monkeypatch.setenv("SPLITFIRE_CACHE", str(tmp_path / "cache"))
    architecture, arguments = PUBLISHED["kim"]
    write_registry(tmp_path, "our-one-read", architecture, {**arguments, **SLIM})
    use_registry(RuntimeConfig(registry=str(tmp_path / "registry.toml")))
    supplies = []

    def fetch(card, supply=NOTHING_SET, real=weights.fetch_weights):
        supplies.append(supply)
        return real(card, supply)

    monkeypatch.setattr(weights, "fetch_weights", fetch)
    supply = Supply(is_offline=True)
    model = load_model(SeparationConfig(model="our-one-read"), "cpu", supply)
    assert model.segments(2**40)[0].n_frames == CHUNK  # the config was read
    assert supplies == [supply]


MEASURE = """
import resource, sys, warnings
warnings.simplefilter("ignore")
from tests.test_roformer_checkpoint import compare
print(compare(sys.argv[1]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def compare(name: str) -> float:
    """SNR in dB of our full-size estimates against the package's own forward, over a second of music."""
    architecture, arguments = PUBLISHED[name]
    n_frames = 100 * arguments["stft_hop_length"]
    net = package_network(architecture, arguments)
    stems = [f"stem-{i}" for i in range(arguments["num_stems"])]
    card = make_card(architecture, arguments, stems, audio={"chunk_size": n_frames})
    segments = excerpt(n_frames, 44_100)[None]
    with torch.inference_mode():
        wanted = net(segments).view(1, len(stems), 2, n_frames).double()
    weights = dict(net.state_dict())
    found = Roformer(card, weights, SeparationConfig(residual="drop"), Arithmetic("fp32", CPU))(segments)
    return float(10 * torch.log10(wanted.square().sum() / (found - wanted).square().sum()))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_agrees_with_the_package_at_full_size(name, capsys):
    done = subprocess.run([sys.executable, "-c", MEASURE, name], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    snr_db, peak_kib = done.stdout.split()
    with capsys.disabled():
        print(f"{name}: {float(snr_db):.2f} dB SNR, {int(peak_kib) / 1024:.0f} MiB")
    assert float(snr_db) > 110  # float32 rounding, through up to 24 layers of attention
    assert int(peak_kib) < 4 * 2**20
