"""Demucs packages as they are published, brought by a user: from a registry to stems, or refused."""

from __future__ import annotations

import hashlib
import json
from fractions import Fraction
from pathlib import Path

import pytest
import soundfile
import torch

from splitfire_batch.models.weights import cache_folder
from tests.demucs_networks import FOUR, SMALL
from tests.material import noise, write
from tests.small_library import run_main
from tests.test_checkpoints import Writes


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SPLITFIRE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SPLITFIRE_RUNTIME__REGISTRY", str(tmp_path / "my.toml"))
    monkeypatch.chdir(tmp_path)


def publish(folder: Path, name: str, **more: object) -> str:
    """A package in half precision as demucs' own `serialize_model` makes them; its table in a registry."""
    network = SMALL
    net = network.reference
    package = {
        "klass": type(net),
        "args": [list(FOUR)],
        "kwargs": {**network.kwargs, "segment": Fraction(str(network.kwargs["segment"]))},
        "state": {key: value.half() for key, value in net.state_dict().items()},
        "training_args": {"lr": 3e-4},
        **more,
    }
    path = folder / f"{name}.th"
    torch.save(package, path)
    return f"""
    [{name}]
    like = "htdemucs"
    [{name}.options]
    class = "HTDemucs"
    kwargs = {{ {", ".join(f"{key} = {json.dumps(value)}" for key, value in network.kwargs.items())} }}
    [[{name}.files]]
    name = "{name}.th"
    sha256 = "{hashlib.sha256(path.read_bytes()).hexdigest()}"
    sources = ["{path}"]
    """


BAG = """
[ours]
like = "htdemucs_ft"
members = [
  { model = "one", weights = { drums = 1, bass = 0, other = 0, vocals = 0 } },
  { model = "two", weights = { drums = 0, bass = 1, other = 1, vocals = 1 } },
]
"""


def test_a_bag_of_packages_separates_and_loads_only_what_is_needed(tmp_path, monkeypatch, capsys):
    (tmp_path / "my.toml").write_text(publish(tmp_path, "one") + publish(tmp_path, "two") + BAG)
    write(tmp_path / "a.wav", noise(8_000, seed=1))
    separate = ("separate", "a.wav", "-o", "out", "--model", "ours")
    code, told, said = run_main(monkeypatch, capsys, *separate, "--stems", "drums")
    assert code == 0, said
    assert [Path(line).name for line in told.splitlines()] == ["a_drums.wav"]
    assert [path.name[:4] for path in cache_folder().glob("*.safetensors")] == ["one-"]
    code, told, said = run_main(monkeypatch, capsys, *separate)
    assert code == 0, said
    assert sorted(Path(line).name for line in told.splitlines()) == sorted(f"a_{stem}.wav" for stem in FOUR)
    assert len(soundfile.read(told.splitlines()[0])[0]) == 8_000


def test_a_package_that_would_run_something_is_refused_before_anything_is_done(tmp_path, monkeypatch, capsys):
    bad = publish(tmp_path, "two", training_args=Writes(tmp_path / "marker", "os.system"))
    (tmp_path / "my.toml").write_text(publish(tmp_path, "one") + bad + BAG)
    (tmp_path / "marker").unlink(missing_ok=True)
    write(tmp_path / "in" / "a.wav", noise(3_000, seed=1))
    code, _, said = run_main(monkeypatch, capsys, "separate", "in/a.wav", "-o", "out", "--model", "ours")
    assert code == 2
    assert "two: two.th: this checkpoint names posix.system" in said
    assert not (tmp_path / "marker").exists()
    assert not (tmp_path / "out").exists()
