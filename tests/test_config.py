"""Settings refuse what is wrong in words that help, and their hash says what changes the stems."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from splitfire_batch.config import (
    CatalogueConfig,
    OutputConfig,
    RuntimeConfig,
    SeparationConfig,
    configure,
)
from splitfire_batch.errors import ConfigError
from splitfire_batch.identity import settings, settings_id

CLASSES = [SeparationConfig, OutputConfig, CatalogueConfig, RuntimeConfig]
BAD = [
    *((SeparationConfig, name, value) for name, value in {
        "model": 5, "stems": 5, "residual": "keep", "short_clip": "tile", "mask_extension": 1,
        "precision": "fp8", "tail": "short", "overlap": 1,
    }.items()),
    *((OutputConfig, name, value) for name, value in {
        "format": "mp2", "depth": "20", "quality": 0, "dither": "maybe", "metadata": "maybe", "names": "",
        "template": "{name}.{ext}", "skip_silent_stems": 1, "skip_without_vocals": "yes",
    }.items()),
    *((CatalogueConfig, name, value) for name, value in {
        "include": 1, "exclude": "*.wav", "limit": 0, "sample": 101, "allow_root": 2, "overwrite": "maybe",
        "checksum": "maybe", "dedupe": "maybe",
    }.items()),
    *((RuntimeConfig, name, value) for name, value in {
        "ray": 1, "workers": 0, "threads": -1, "device": "tpu", "batch": 0, "open_tracks": 0, "audio_mb": 0,
        "compile": "maybe", "scratch_dir": 1, "shard_s": 0, "storage": "x", "weights_mirror": 1,
        "registry": 1, "require_commercial": "maybe", "offline": "maybe",
        "codecs": "threads", "codec_mb": 63, "codec_s": 0, "max_duration_s": -1, "max_bytes": 0,
        "measure": "some", "lease": "maybe", "max_failures": "many", "drain_s": -1, "stall_s": 0,
        "gpu_hourly": -1,
    }.items()),
]  # fmt: skip


def id_of(
    separation: dict[str, Any] | None = None, output: dict[str, Any] | None = None, weights: str = "w"
) -> str:
    return settings_id(settings(SeparationConfig(**separation or {}), OutputConfig(**output or {}), weights))


@pytest.mark.parametrize("cls", CLASSES)
def test_an_unknown_setting_is_refused_and_every_known_one_is_listed(cls):
    with pytest.raises(ConfigError, match="'colour' is no setting; known are") as caught:
        configure(cls, {"colour": "red"})
    assert all(field.name in str(caught.value) for field in dataclasses.fields(cls))
    assert "red" not in str(caught.value)


def test_there_is_a_bad_value_for_every_setting():
    assert {(cls, name) for cls, name, _ in BAD} == {
        (cls, f.name) for cls in CLASSES for f in dataclasses.fields(cls)
    }


@pytest.mark.parametrize(("cls", "name", "value"), BAD, ids=lambda item: getattr(item, "__name__", str(item)))
def test_a_value_out_of_range_is_refused_by_the_name_of_its_setting(cls, name, value):
    with pytest.raises(ConfigError, match=f"^{name}: "):
        configure(cls, {name: value})


def test_every_bad_value_is_told_at_once():
    with pytest.raises(ConfigError, match=r"workers: found 0.*; batch: found -1"):
        configure(RuntimeConfig, {"workers": 0, "batch": -1})


@pytest.mark.parametrize("template", ["{name}.{ext}", "{name}_{stem}.wav", "{name}_{stem}.{ext}/x", ""])
def test_a_template_must_name_stem_and_extension(template):
    with pytest.raises(ConfigError, match=r"wanted a path with {stem} in it"):
        configure(OutputConfig, {"template": template})


@pytest.mark.parametrize(
    "option", ["secret", "aws_secret_access_key", "Password", "sas_token", "account_key"]
)
@pytest.mark.parametrize("value", ["hunter2", 424242])
def test_a_secret_is_refused_and_never_shown(option, value):
    storage = {"s3://": {option: value}}
    with pytest.raises(ConfigError, match="storage") as caught:
        configure(RuntimeConfig, {"storage": storage})
    with pytest.raises(ValidationError) as direct:
        RuntimeConfig(storage=storage)
    for text in (str(caught.value), str(direct.value), repr(caught.value.__cause__)):
        assert str(value) not in text


def test_a_secret_in_place_of_the_options_is_not_shown_either():
    with pytest.raises(ConfigError) as caught:
        configure(RuntimeConfig, {"storage": "hunter2"})
    assert "hunter2" not in str(caught.value)


def test_options_that_are_no_secrets_are_kept():
    storage = {"s3://": {"endpoint_url": "http://127.0.0.1:1", "profile": "x"}}
    assert configure(RuntimeConfig, {"storage": storage}).storage == storage


@pytest.mark.parametrize(
    "stems",
    ["vocals,accompaniment", ["vocals,accompaniment"], ["vocals", "accompaniment"], " vocals ,accompaniment,",
     ("vocals,accompaniment", "vocals")],
)  # fmt: skip
def test_stems_may_be_separated_by_commas(stems):
    assert configure(SeparationConfig, {"stems": stems}).stems == ("vocals", "accompaniment")


@pytest.mark.parametrize("stems", ["", [], [""], ","])
def test_no_stems_mean_all(stems):
    assert configure(SeparationConfig, {"stems": stems}) == SeparationConfig()


@pytest.mark.parametrize("stems", [["vocals", 1], {"vocals": 1}, None])
def test_stems_of_another_type_are_refused(stems):
    with pytest.raises(ConfigError, match="stems"):
        configure(SeparationConfig, {"stems": stems})


def test_settings_cannot_be_changed_later():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SeparationConfig().model = "x"  # type: ignore[misc]


CHANGES = {
    "model": "spleeter-4stems",
    "stems": ("vocals",),
    "residual": "drop",
    "short_clip": "reference",
    "mask_extension": "average",
    "precision": "bf16",
    "tail": "reference",
    "overlap": 0.5,
}
OLDER = [
    ({}, {}, "2529281d0cead767"),
    ({"model": "passthrough", "stems": "vocals"}, {"format": "mp3"}, "4fc2cbb8511c372b"),
    (
        {"residual": "stem", "short_clip": "reference", "precision": "bf16"},
        {"skip_silent_stems": -60},
        "c9d12b5f6614db3e",
    ),
]
"""What destinations of this epoch have, and had before `tail` and `overlap` were settings."""


def test_everything_that_changes_the_sound_or_the_bytes_changes_the_settings_id():
    found = [id_of(), id_of(weights="v")]
    found += [id_of({name: value}) for name, value in CHANGES.items()]
    found += [id_of(output=change) for change in ({"format": "wav"}, {"depth": "16"}, {"dither": False})]
    found += [id_of(output={name: -60}) for name in ("skip_silent_stems", "skip_without_vocals")]
    found.append(settings_id(settings(SeparationConfig(), OutputConfig(), "w"), epoch=1))
    assert len(set(found)) == len(found)
    assert set(CHANGES) == {field.name for field in dataclasses.fields(SeparationConfig)}


@pytest.mark.parametrize(("separation", "output", "held"), OLDER)
def test_a_destination_keeps_its_settings_id_when_settings_are_added(separation, output, held):
    assert id_of(separation, output) == held


def test_an_added_setting_is_hashed_wherever_it_was_set():
    assert len({id_of({"overlap": overlap}) for overlap in (None, 0, 0.25, 0.75)}) == 4


def test_names_and_the_order_of_stems_do_not_change_the_settings_id():
    assert (
        id_of(output={"names": "immutable"}) == id_of(output={"template": "{stem}/{name}.{ext}"}) == id_of()
    )
    assert id_of({"stems": "a,b"}) == id_of({"stems": "b,a,b"})


def test_the_settings_id_is_the_same_in_another_process():
    code = (
        "from splitfire_batch.config import *; from splitfire_batch.identity import *;"
        "print(settings_id(settings(SeparationConfig(stems='b,a'), OutputConfig(), 'w')))"
    )
    environment = {"PYTHONHASHSEED": "7"}
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert other.stdout.strip() == id_of({"stems": ["a", "b"]})


@pytest.mark.parametrize("name", ["ogg", "opus", "mp3"])
def test_a_lossy_format_takes_a_quality_and_no_depth(name):
    with pytest.raises(ConfigError, match=f"depth: .*{name} has no depth"):
        configure(OutputConfig, {"format": name, "depth": "24"})
    assert id_of(output={"format": name, "quality": 0.5}) != id_of(output={"format": name})


def test_a_quality_changes_nothing_where_nothing_is_lost():
    assert id_of(output={"quality": 0.5}) == id_of()
