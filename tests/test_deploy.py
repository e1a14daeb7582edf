"""`splitfire deploy` up to the server; what a server makes of it: `test_flow`, `test_nightly`."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.deployment import DRAIN_S, ENTRYPOINT, parameters_of, schedule_of
from flows.separate_catalogue import separate_catalogue
from splitfire_batch.config import CatalogueConfig, OutputConfig, RuntimeConfig, SeparationConfig
from splitfire_batch.errors import ConfigError
from splitfire_batch.job import Job
from tests.small_library import run_main, tree, write_tracks


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    return write_tracks(tmp_path / "source", 1), tmp_path / "out"


@pytest.fixture(autouse=True)
def no_server() -> Iterator[None]:
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        yield


def test_the_entrypoint_is_the_flow() -> None:
    assert f"{separate_catalogue.fn.__module__}.{separate_catalogue.fn.__name__}" == ENTRYPOINT


def test_parameters_are_what_differs_from_the_defaults() -> None:
    job = Job("s3://music/masters", "s3://stems", runtime=RuntimeConfig(drain_s=5))
    assert parameters_of(job) == {
        "source": "s3://music/masters",
        "destination": "s3://stems",
        "runtime": {"drain_s": 5.0},
    }
    assert parameters_of(Job("s3://a", "s3://b"))["runtime"] == {"drain_s": DRAIN_S}


def test_the_flow_makes_the_same_job_of_them(tmp_path: Path) -> None:
    job = Job(
        str(tmp_path / "source"),
        "s3://stems",
        SeparationConfig(stems=("vocals", "instrumental"), short_clip="reference"),
        OutputConfig(format="flac", skip_silent_stems=-60),
        CatalogueConfig(include=("*.wav",), sample=5, allow_root=("s3://music",)),
        RuntimeConfig(drain_s=10, max_failures="5%", storage={"s3://": {"endpoint_url": "http://x:1"}}),
        replace=True,
    )
    stored = json.loads(json.dumps(parameters_of(job)))
    assert Job(**separate_catalogue.validate_parameters(stored)) == job


def test_local_places_are_written_out_for_a_worker_starts_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    runtime = RuntimeConfig(registry="my.toml", weights_mirror="https://mirror.example/w", scratch_dir="~/s")
    made = parameters_of(
        Job("in", "file:///out", catalogue=CatalogueConfig(allow_root=("~/music",)), runtime=runtime)
    )
    assert (made["source"], made["destination"]) == (str(tmp_path / "in"), "/out")
    assert made["catalogue"] == {"allow_root": ["/home/me/music"]}
    assert made["runtime"]["registry"] == str(tmp_path / "my.toml")
    assert made["runtime"]["weights_mirror"] == "https://mirror.example/w"
    assert made["runtime"]["scratch_dir"] == "/home/me/s"


@pytest.mark.parametrize(
    ("cron", "timezone", "named"),
    [
        ("0 25 * * *", "UTC", "--cron"),
        ("nightly", "UTC", "--cron"),
        ("0 2 * * *", "Berlin", "Europe/Berlin"),
    ],
)
def test_a_schedule_that_never_comes_is_refused_with_an_example(cron: str, timezone: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        schedule_of(cron, timezone)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ((), "PREFECT_API_URL"),
        (("--timezone", "Europe/Berlin"), "--cron"),
        (("--name", "a/b"), "--name"),
        (("--cron", "0 2 * *"), "--cron"),
        (("--model", "nobody"), "nobody"),
        (("--max-failures", "lots"), "max_failures"),
        (("--weights-mirror", "https://me:secret@mirror.example"), "mirror"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_work_is_usage_and_nothing_is_touched(
    places: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    named: str,
) -> None:
    code, out, err = run_main(monkeypatch, capsys, "deploy", *places, *flags)
    assert (code, out) == (2, "")
    assert named in err
    assert "secret" not in err
    assert len(err.splitlines()) == 1
    assert tree(places[1]) == {}


def test_a_source_that_cannot_be_seen_from_here_is_refused_unless_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    places = (tmp_path / "gone", tmp_path / "out")
    code, _, err = run_main(monkeypatch, capsys, "deploy", *places)
    assert (code, "gone" in err) == (2, True)
    code, _, err = run_main(monkeypatch, capsys, "deploy", *places, "--unchecked")
    assert (code, "PREFECT_API_URL" in err) == (2, True)


def test_a_server_that_does_not_answer_is_temporary(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as silent:  # bound, but nobody listens: connections are refused
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
        with temporary_settings({PREFECT_API_URL: url}):
            code, _, err = run_main(monkeypatch, capsys, "deploy", *places)
    assert (code, url in err) == (75, True), err
