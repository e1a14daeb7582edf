"""`splitfire doctor` finds what does not work, and leaves nothing behind."""

from __future__ import annotations

import importlib.metadata
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flows import advisories
from flows.doctor import Check, diagnose
from flows.settings import Settings
from splitfire_batch.config import OutputConfig, RuntimeConfig, SeparationConfig
from splitfire_batch.storage import Store, open_store
from splitfire_batch.storage.promises import PROMISES
from tests.small_library import run_main, tree

QUICK = Settings(separation=SeparationConfig(model="passthrough"))


def by_name(checks: list[Check]) -> dict[str, Check]:
    assert len({check.name for check in checks}) == len(checks)
    return {check.name: check for check in checks}


def test_this_installation_is_in_order() -> None:
    checks = by_name(diagnose(QUICK, None))
    assert [check for check in checks.values() if not check.is_ok] == []
    assert checks["torch"].found == importlib.metadata.version("torch")
    assert "destination" not in checks


def destination(checks: list[Check]) -> dict[str, Check]:
    return {name: check for name, check in by_name(checks).items() if name.startswith("destination")}


def test_a_folder_that_works_is_left_without_a_file(tmp_path: Path) -> None:
    checks = destination(diagnose(QUICK, str(tmp_path)))
    assert {check.mark for check in checks.values()} == {"ok"}
    assert list(checks) == ["destination", *(f"destination {promise.name}" for promise in PROMISES)]
    assert tree(tmp_path) == {}


def test_a_bucket_that_works_is_left_empty(bucket: str) -> None:
    checks = destination(diagnose(QUICK, bucket))
    assert {check.mark for check in checks.values()} == {"ok"}
    assert list(open_store(bucket, {}).list()) == []


def test_a_missing_bucket_fails_that_check_only(bucket: str) -> None:
    checks = by_name(diagnose(QUICK, f"{bucket}-gone"))
    assert [check.name for check in checks.values() if not check.is_ok] == ["destination"]
    assert f"{bucket}-gone" in checks["destination"].found


@pytest.mark.parametrize(("names", "mark"), [("auto", "warn"), ("plain", "FAIL")])
def test_a_store_whose_create_overwrites_fails_where_plain_names_need_the_lease(
    bucket: str, monkeypatch: pytest.MonkeyPatch, names: str, mark: str
) -> None:
    def create(store: Store, path: str, data: bytes) -> str:  # as several object stores behave
        store.write(path, data)
        return store.stat(path).etag

    monkeypatch.setattr(Store, "create", create)
    settings = QUICK.model_copy(update={"output": OutputConfig(names=names)})
    checks = destination(diagnose(settings, bucket))
    assert {check.name for check in checks.values() if not check.is_ok} == {"destination exclusive create"}
    check = checks["destination exclusive create"]
    assert (check.mark, check.as_dict()["is_needed"]) == (mark, mark == "FAIL")
    assert "exclusive create wrote over an object" in check.found
    assert list(open_store(bucket, {}).list()) == []


def test_a_scratch_folder_that_is_missing_is_a_failed_check(tmp_path: Path) -> None:
    settings = QUICK.model_copy(update={"runtime": RuntimeConfig(scratch_dir=str(tmp_path / "gone"))})
    check = by_name(diagnose(settings, None))["scratch"]
    assert not check.is_ok
    assert "gone" in check.found


@pytest.mark.parametrize(("url", "code", "mark"), [("works", 0, "ok  "), ("file://bad", 1, "FAIL")])
def test_the_command_says_with_its_exit_code_whether_all_is_well(
    url: str,
    code: int,
    mark: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPLITFIRE_SEPARATION__MODEL", "passthrough")
    found, out, err = run_main(monkeypatch, capsys, "doctor", "--destination", url)
    (line,) = [line for line in out.splitlines() if " destination: " in line]
    assert (found, line[:4], err) == (code, mark, "")


def test_versions_with_a_fixed_successor_fail_and_others_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = advisories.installed() | {"torch": "2.9.1+cpu", "libsndfile": "1.2.2"}
    monkeypatch.setattr(advisories, "installed", lambda: found)
    check = by_name(diagnose(QUICK, None))["advisories"]
    assert not check.is_ok
    assert "torch 2.9.1+cpu: weights_only" in check.found
    assert "install at least torch 2.10" in check.found
    del found["torch"]
    assert advisories.advice().startswith("no release is better than libsndfile 1.2.2: ")


@pytest.mark.parametrize(
    ("version", "stands"), [("2.53.9", True), ("2.54", False), ("2.54.0rc1", False), ("2.60.0+x", False)]
)
def test_an_advisory_ends_with_the_version_that_fixes_it(version: str, stands: bool) -> None:
    assert bool(list(advisories.standing({"ray": version}))) is stands


def test_a_cluster_that_is_away_fails_that_check_only() -> None:
    settings = QUICK.model_copy(update={"runtime": RuntimeConfig(ray="127.0.0.1:1")})
    failed = [check for check in diagnose(settings, None) if not check.is_ok]
    assert [check.name for check in failed] == ["ray access"]
    assert "127.0.0.1:1" in failed[0].found


@pytest.mark.parametrize(("status", "is_ok"), [(401, True), (403, True), (200, False)])
def test_a_prefect_server_must_ask_for_a_password(
    status: int, is_ok: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}/api"
        monkeypatch.setattr("flows.own_server.api_url", lambda: url)
        check = by_name(diagnose(QUICK, None))["prefect access"]
        server.shutdown()
    assert check.is_ok is is_ok, check.found
    assert url in check.found
