"""`splitfire doctor --tune` from the command to the file that workers read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from splitfire_batch.config import RuntimeConfig, SeparationConfig
from splitfire_batch.tuning import cache_file, find_tuning
from tests.material import noise, write
from tests.small_library import run_main


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPLITFIRE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SPLITFIRE_SEPARATION__MODEL", "passthrough")


def test_the_table_marks_what_the_file_holds(monkeypatch, capsys):
    code, out, err = run_main(monkeypatch, capsys, "doctor", "--tune", "--device", "cpu")
    assert (code, err) == (0, "")
    assert out.startswith("passthrough on ")
    marked = [line.split() for line in out.splitlines() if line.startswith("* fp32")]
    kept = [entry for entry in json.loads(cache_file().read_text()) if entry["precision"] == "fp32"]
    assert [(int(line[2]), int(line[3])) for line in marked] == [(e["threads"], e["batch"]) for e in kept]
    assert str(cache_file()) in out
    fastest = max(kept, key=lambda entry: entry["x_real_time"])
    found = find_tuning(SeparationConfig(model="passthrough"), RuntimeConfig(), "cpu")
    assert (found.threads, found.batch) == (fastest["threads"], fastest["batch"])


def test_json_on_a_file_of_another_rate_and_layout(tmp_path, monkeypatch, capsys):
    file = write(tmp_path / "mono.wav", noise(30_000, n_channels=1), sample_rate=22_050)
    code, out, _ = run_main(
        monkeypatch, capsys, "doctor", "--tune-on", str(file), "--json", "--device", "cpu"
    )
    record = json.loads(out)
    assert code == 0
    assert record["path"] == str(cache_file())
    fp32 = record["results"][0]
    assert (fp32["precision"], fp32["fidelity"][0]["snr_db"]) == ("fp32", None)
    assert fp32["best"]
    assert all(trial in fp32["trials"] for trial in fp32["best"])


def test_a_missing_file_is_bad_usage(tmp_path, monkeypatch, capsys):
    code, _, err = run_main(monkeypatch, capsys, "doctor", "--tune-on", str(tmp_path / "gone.wav"))
    assert code == 2
    assert "there is no file" in err
    assert not cache_file().exists()


def test_a_cache_that_cannot_be_written_is_bad_usage_that_says_what_to_set(tmp_path, monkeypatch, capsys):
    (tmp_path / "cache").write_text("a file where a folder should be")
    code, _, err = run_main(monkeypatch, capsys, "doctor", "--tune", "--device", "cpu")
    assert code == 2
    assert "set SPLITFIRE_CACHE" in err
