"""`splitfire doctor` finds what does not work, and leaves nothing behind."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

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
