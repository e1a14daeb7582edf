"""Torch pickles: those that people publish are read, and those that want to run something are refused.

Each hostile file is first opened as pickle and torch do by themselves, to see that it would have worked.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from splitfire_batch.errors import ConfigError
from splitfire_batch.models.cards import ModelCard, WeightsFile
from splitfire_batch.models.checkpoints import _check_small, read_checkpoint
from splitfire_batch.models.weights import cache_folder, load_texts, load_weights

STATE = {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.ones(2, dtype=torch.float16)}
SAVED = pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SPLITFIRE_CACHE", str(tmp_path / "cache"))


def saved(what: object, path: Path, is_zip: bool = True) -> Path:
    torch.save(what, path, _use_new_zipfile_serialization=is_zip)
    return path


def is_state(tensors: dict[str, torch.Tensor]) -> bool:
    same = all(torch.equal(tensors[name], STATE[name]) for name in STATE)
    return same and tensors.keys() == STATE.keys() and tensors["conv.bias"].dtype == torch.float16


def card_of(*paths: Path) -> ModelCard:
    files = tuple(
        WeightsFile(path.name, hashlib.sha256(path.read_bytes()).hexdigest(), None, (str(path),))
        for path in paths
    )
    return ModelCard("tiny", "spleeter", ("v",), 44_100, 2, files, "MIT", "MIT", "", True, "none", "", ())


@SAVED
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1, "state": {}}},
        lambda state: {"model": state},
        lambda state: {"state": state, "metrics": {"sdr": 9.0}},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {"model_state_dict": state, "scheduler": None},
    ],
)
def test_a_state_is_found_under_the_usual_names_in_its_precision(tmp_path, wrap, is_zip):
    path = saved(wrap(STATE), tmp_path / "a.ckpt", is_zip)
    assert is_state(read_checkpoint(path, "a").tensors)


@pytest.mark.parametrize("name", ["a.th", "a.pt", "a.pth", "a.ckpt", "a.bin", "a.safetensors"])
def test_every_format_ends_as_cached_safetensors(tmp_path, name):
    path = tmp_path / name
    save_file(STATE, path) if name.endswith("safetensors") else saved(STATE, path)
    assert is_state(load_weights(card_of(path)))
    assert [path.suffix for path in cache_folder().iterdir() if path.suffix != ".lock"] == [".safetensors"]


def test_texts_come_with_the_tensors(tmp_path):
    (tmp_path / "config.yaml").write_text("dim: 384  # ü\n")
    card = card_of(saved(STATE, tmp_path / "a.ckpt"), tmp_path / "config.yaml")
    assert load_texts(card) == {"config.yaml": "dim: 384  # ü\n"}
    assert is_state(load_weights(card))


def test_a_text_that_is_none_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"config.yaml is no text"):
        load_texts(card_of(saved(STATE, tmp_path / "a.ckpt"), tmp_path / "config.yaml"))


def test_files_of_no_known_format_are_named(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"found the files \['a.onnx'\], wanted one .index"):
        load_weights(card_of(tmp_path / "a.onnx"))


def test_tensors_that_share_memory_are_kept_apart(tmp_path):
    shared = torch.arange(12.0)
    tied = torch.ones(3)
    state = {"a": shared[:4], "b": shared[2:8], "c": shared.view(3, 4).T, "d": tied, "e": tied}
    tensors = load_weights(card_of(saved(state, tmp_path / "a.pt")))
    assert all(torch.equal(tensors[name], state[name]) for name in state)


demucs = pytest.importorskip("demucs.htdemucs")


def package(**more: object) -> dict[str, object]:
    """As demucs' own `serialize_model` makes them, measurements in numpy beside."""
    return {
        "klass": demucs.HTDemucs,
        "args": (["drums", "vocals"],),
        "kwargs": {"channels": 4, "segment": Fraction(39, 5), "t_cape_glob_loc_scale": [5000.0, 1.0, 1.4]},
        "state": STATE,
        "training_args": {"lr": 3e-4},
        "metrics": {"sdr": np.float64(9.0), "all": [np.float32(1.5)]},
        **more,
    }


def test_a_demucs_package_gives_its_state_and_says_what_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(demucs.HTDemucs, "__init__", lambda *_: pytest.fail("a constructor ran"))
    card = card_of(saved(package(), tmp_path / "a.th"))
    assert is_state(load_weights(card))
    assert json.loads(load_texts(card)["package.json"]) == {
        "klass": "demucs.htdemucs.HTDemucs",
        "args": [["drums", "vocals"]],
        "kwargs": {
            "channels": 4,
            "segment": {"_type": "fraction", "numerator": 39, "denominator": 5},
            "t_cape_glob_loc_scale": [5000.0, 1.0, 1.4],
        },
    }


def test_a_package_as_safetensors_says_the_same(tmp_path):
    said = json.loads(read_checkpoint(saved(package(), tmp_path / "a.th"), "a").package)
    metadata = {
        "klass": said["klass"],
        "args": json.dumps(said["args"]),
        "kwargs": json.dumps(said["kwargs"]),
    }
    save_file(STATE, tmp_path / "a.safetensors", metadata)
    assert json.loads(load_texts(card_of(tmp_path / "a.safetensors"))["package.json"]) == said


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"klass": Fraction}, "its klass is .*, wanted one of demucs"),
        ({"kwargs": {"segment": demucs.HTDemucs}}, "cannot be told: found a type"),
        ({"kwargs": {"x": np.float64(1)}}, "cannot be told: found a numpy"),
        ({"state": {"__quantized": True, "x": STATE["conv.weight"]}}, "quantised by diffq"),
        ({"state": {"a": 1}}, r"a dict with a \(int\)"),
    ],
)
def test_packages_that_say_odd_things_are_refused(tmp_path, more, why):
    with pytest.raises(ConfigError, match=why):
        read_checkpoint(saved(package(**more), tmp_path / "a.th"), "a")


class Writes:
    """Pickled, a call that writes a file as it is opened."""

    def __init__(self, marker: Path, how: str) -> None:
        self.marker, self.how = marker, how

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        import os

        command = f"echo ran > {self.marker}"
        calls: dict[str, tuple[object, tuple[object, ...]]] = {
            "os.system": (os.system, (command,)),
            "subprocess": (subprocess.check_output, (["sh", "-c", command],)),
            "eval": (eval, (f"__import__('os').system({command!r})",)),
            "exec": (exec, (f"import os; os.system({command!r})",)),
        }
        return calls[self.how]


@SAVED
@pytest.mark.parametrize("how", ["os.system", "subprocess", "eval", "exec"])
@pytest.mark.parametrize("where", ["alone", "beside a state", "in a package"])
def test_a_checkpoint_that_would_run_something_is_refused_and_nothing_runs(tmp_path, how, where, is_zip):
    marker = tmp_path / "marker"
    bad = Writes(marker, how)
    content = {
        "alone": bad,
        "beside a state": {"state_dict": STATE, "hyper_parameters": bad},
        "in a package": package(kwargs={"segment": bad}),
    }[where]
    path = saved(content, tmp_path / "bad.th", is_zip)
    torch.load(path, weights_only=False)
    assert marker.exists(), "the file is harmless, so this test shows nothing"
    marker.unlink()
    with pytest.raises(ConfigError) as caught:
        load_weights(card_of(path))
    assert not marker.exists()
    assert "tiny: bad.th: this checkpoint " in str(caught.value)
    assert "nothing was run, and the file is refused" in str(caught.value)
    assert not list(cache_folder().glob("*.safetensors"))
    assert not list(cache_folder().glob("*.partial"))


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_a_plain_pickle_that_would_run_something_is_refused(tmp_path, protocol):
    marker = tmp_path / "marker"
    path = tmp_path / "bad.ckpt"
    path.write_bytes(pickle.dumps(Writes(marker, "os.system"), protocol))
    pickle.loads(path.read_bytes())  # noqa: S301
    assert marker.exists(), "the file is harmless, so this test shows nothing"
    marker.unlink()
    with pytest.raises(ConfigError, match=r"bad.ckpt: this "):
        load_weights(card_of(path))
    assert not marker.exists()


def test_a_class_from_elsewhere_is_refused_and_not_imported(tmp_path):
    module = tmp_path / "elsewhere" / "strange.py"
    module.parent.mkdir()
    module.write_text(f"open({str(tmp_path / 'marker')!r}, 'w').close()\nclass Thing: pass\n")
    make = (
        "import sys, torch\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import strange\n"
        "torch.save({'state_dict': {}, 'thing': strange.Thing()}, sys.argv[2])\n"
    )
    subprocess.run([sys.executable, "-c", make, str(module.parent), str(tmp_path / "bad.ckpt")], check=True)
    (tmp_path / "marker").unlink()
    sys.path.insert(0, str(module.parent))
    try:
        with pytest.raises(ConfigError, match=r"this checkpoint names strange\.Thing"):
            read_checkpoint(tmp_path / "bad.ckpt", "bad")
        assert not (tmp_path / "marker").exists()
        torch.load(tmp_path / "bad.ckpt", weights_only=False)
        assert (tmp_path / "marker").exists(), "the file is harmless, so this test shows nothing"
    finally:
        sys.path.remove(str(module.parent))
        sys.modules.pop("strange", None)


def test_stand_ins_are_gone_afterwards(tmp_path):
    read_checkpoint(saved(package(), tmp_path / "a.th"), "a")
    with pytest.raises(pickle.UnpicklingError, match="HTDemucs"):
        torch.load(tmp_path / "a.th", weights_only=True)


def test_a_few_numbers_spread_over_a_huge_tensor_are_refused(tmp_path):
    huge = torch.zeros(1).expand(10**6, 10**6)
    with pytest.raises(ConfigError, match="its tensors claim 4000000000000 bytes"):
        read_checkpoint(saved({"a": huge}, tmp_path / "a.pt"), "a")


def test_a_packed_zip_is_refused(tmp_path):
    path, packed = saved({"a": torch.zeros(10_000_000)}, tmp_path / "a.pt"), tmp_path / "packed.pt"
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as small:
        for name in whole.namelist():
            small.writestr(name, whole.read(name))
    assert packed.stat().st_size < 100_000
    with pytest.raises(ConfigError, match="is compressed, which torch never does"):
        read_checkpoint(packed, "a")


def test_tensors_of_other_kinds_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="a is a sparse or quantised tensor"):
        read_checkpoint(saved({"a": torch.eye(3).to_sparse(), "b": torch.ones(9)}, tmp_path / "a.pt"), "x")


def damaged() -> list[bytes]:
    return [
        b"",
        b"hello",
        b"\x80\x02}q\x00.",
        b"PK\x03\x04" + bytes(100),
        struct.pack("<Q", 2**40),
        b"\x80\x02" + b"(" * 100,
    ]


@pytest.mark.parametrize("content", damaged())
def test_what_is_no_checkpoint_is_refused_in_our_words(tmp_path, content):
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_checkpoint(path, "a")
    assert "weights_only" not in str(caught.value)


def test_a_cut_or_flipped_checkpoint_is_refused_or_read(tmp_path):
    whole = saved(package(), tmp_path / "a.pt").read_bytes()
    path = tmp_path / "b.pt"
    random = np.random.default_rng(0)
    for _ in range(150):
        content = bytearray(whole)
        content[random.integers(len(content))] ^= int(random.integers(1, 256))
        path.write_bytes(content[: random.integers(len(content))] if random.random() < 0.3 else content)
        try:
            read_checkpoint(path, "b")
        except ConfigError:
            continue


def test_arguments_that_grow_when_they_are_written_out_are_refused():
    doubled: list[object] = [1]
    for _ in range(6):
        doubled = [doubled] * 10
    with pytest.raises(ValueError, match="more than 10000 values"):
        _check_small(doubled)
    deep: list[object] = []
    for _ in range(9):
        deep = [deep]
    with pytest.raises(ValueError, match="8 levels"):
        _check_small(deep)
