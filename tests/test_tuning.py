"""What was measured here is used here and nowhere else, and a bad file costs a warning, never a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from splitfire_batch import tuning
from splitfire_batch.config import RuntimeConfig, SeparationConfig
from splitfire_batch.tuning import Trial, Tuning, cache_file, device_name, find_tuning, keep

FP32 = SeparationConfig()
BF16 = SeparationConfig(precision="bf16")
DEFAULT = RuntimeConfig()
TRIALS = (Trial(Tuning(3, 1, False), 20.0), Trial(Tuning(2, 2), 30.0))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITFIRE_CACHE", str(tmp_path / "cache"))


def test_without_measurements_everything_is_as_asked_or_by_default(caplog):
    assert find_tuning(FP32, DEFAULT, "cpu") == Tuning()
    assert find_tuning(FP32, RuntimeConfig(batch=5), "cpu", 4) == Tuning(5, 4)
    assert not caplog.records


def test_the_fastest_is_used_where_all_of_the_machine_is_ours():
    keep(FP32, "cpu", TRIALS)
    assert find_tuning(FP32, DEFAULT, "cpu") == Tuning(2, 2)


def test_a_worker_that_was_given_threads_keeps_them_and_gets_the_batch_for_them():
    keep(FP32, "cpu", TRIALS)
    assert find_tuning(FP32, DEFAULT, "cpu", 1) == Tuning(3, 1, False)
    assert find_tuning(FP32, DEFAULT, "cpu", 7) == Tuning(None, 7)


def test_a_batch_that_was_set_wins_over_what_was_measured():
    keep(FP32, "cpu", TRIALS)
    assert find_tuning(FP32, RuntimeConfig(batch=1), "cpu") == Tuning(1, 2)


def test_the_file_may_be_read_by_whoever_may_read_new_files(tmp_path):
    (tmp_path / "new").touch()
    assert keep(FP32, "cpu", TRIALS).stat().st_mode == (tmp_path / "new").stat().st_mode


def test_measuring_again_replaces_what_was_and_leaves_other_precisions():
    keep(FP32, "cpu", TRIALS)
    keep(BF16, "cpu", TRIALS[:1])
    keep(FP32, "cpu", [Trial(Tuning(4, 2), 5.0)])
    assert find_tuning(FP32, DEFAULT, "cpu") == Tuning(4, 2)
    assert find_tuning(BF16, DEFAULT, "cpu") == Tuning(3, 1, False)
    assert [path.name for path in cache_file().parent.iterdir()] == ["tune.json"]


@pytest.mark.parametrize(
    ("name", "value"), [("torch", "1.0"), ("weights", "0" * 16), ("device", "another"), ("cores", 1_000)]
)
def test_what_was_measured_on_something_else_is_passed_over_with_a_warning(name, value, caplog):
    path = keep(FP32, "cpu", TRIALS)
    entries = json.loads(path.read_text())
    path.write_text(json.dumps([{**entry, name: value} for entry in entries]))
    assert find_tuning(FP32, DEFAULT, "cpu") == Tuning()
    assert "tuning_stale" in caplog.text
    assert str(path) in caplog.text


def test_another_model_or_precision_was_not_measured_and_that_is_no_matter(caplog):
    keep(FP32, "cpu", TRIALS)
    assert find_tuning(BF16, DEFAULT, "cpu") == Tuning()
    assert find_tuning(replace(FP32, model="passthrough"), DEFAULT, "cpu") == Tuning()
    assert not caplog.records


@pytest.mark.parametrize("damage", ["", "{", "5", '{"a": 1}', "[[]]", "[{}]", '"text"', "batch", "speed"])
def test_a_damaged_file_is_passed_over_with_a_warning_and_can_be_replaced(damage, caplog):
    path = keep(FP32, "cpu", TRIALS)
    entries = json.loads(path.read_text())
    spoilt = {"batch": [{**entries[0], "batch": "8"}], "speed": [{**entries[0], "x_real_time": None}]}
    path.write_text(json.dumps(spoilt[damage]) if damage in spoilt else damage)
    assert find_tuning(FP32, DEFAULT, "cpu") == Tuning()
    assert "tuning_ignored" in caplog.text
    keep(FP32, "cpu", TRIALS)
    assert find_tuning(FP32, DEFAULT, "cpu") == Tuning(2, 2)


def test_a_file_that_cannot_be_read_is_passed_over_with_a_warning(caplog):
    cache_file().mkdir(parents=True)
    assert find_tuning(FP32, DEFAULT, "cpu") == Tuning()
    assert "tuning_ignored" in caplog.text


def test_a_cpu_has_a_name_also_where_nobody_says_it(monkeypatch):
    assert device_name(torch.device("cpu"))
    monkeypatch.setattr(tuning.Path, "read_text", _no_proc)
    assert device_name(torch.device("cpu"))


def _no_proc(*_: object, **__: object) -> str:
    raise FileNotFoundError
