"""What we are made of is pinned, can be audited, and is described as it is."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
SECURITY = (ROOT / "SECURITY.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/\w+\.py)::(\w+)`", SECURITY)))


def pins() -> dict[str, str]:
    """Versions of constraints.txt by normalised name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.partition("==") for line in lines if line and not line.startswith("#")]
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, _, version in pairs}


def test_every_version_is_exact_and_every_dependency_has_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~ ]", need)[0]).lower() for need in wanted}
    assert all(re.fullmatch(r"[\w.]+", version) for version in pins().values())
    assert names <= set(pins())


def test_an_audit_that_could_not_ask_fails() -> None:
    (line,) = [line for line in MAKEFILE.splitlines() if "/pip-audit " in line]
    # without --strict, pip-audit ends with 0 and "no known vulnerabilities" where it reaches no service
    assert {"--strict", "-r constraints.txt"} <= set(re.findall(r"-r \S+|--\w+", line))


def test_the_tools_of_the_audit_are_pinned_and_stay_out_of_our_environment() -> None:
    lines = (ROOT / ".ci" / "audit-requirements.txt").read_text().splitlines()
    tools = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", tool) for tool in tools)
    assert not {tool.partition("==")[0] for tool in tools} & set(pins())


def test_the_gate_asks_no_service_about_vulnerabilities() -> None:
    gate = (ROOT / ".ci" / "run").read_text()
    assert "make test" in gate
    assert "audit" not in gate


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_every_test_that_security_md_names_exists(file: str, name: str) -> None:
    assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE)


def test_security_md_names_tests_for_its_defences() -> None:
    table = SECURITY.split("## What is defended")[1].split("## What is not")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith("| threat")]
    assert len(rows) >= 10
    assert [row for row in rows if "`tests/" not in row] == []


def test_the_rights_of_vacuum_are_named() -> None:
    rights = SECURITY.split("## Rights that are enough")[1].split("```json")[0]
    assert "`s3:DeleteObject`" in rights
    assert "`s3:ListBucketMultipartUploads`" in rights


def test_the_rights_that_are_enough_delete_nothing_and_hold_no_wildcard() -> None:
    (policy,) = re.findall(r"```json\n(.*?)```", SECURITY, re.DOTALL)
    statements = json.loads(policy)["Statement"]
    actions = {
        action
        for each in statements
        for action in ([each["Action"]] if isinstance(each["Action"], str) else each["Action"])
    }
    assert actions == {
        "s3:ListBucket",
        "s3:GetObject",
        "s3:PutObject",
        "s3:AbortMultipartUpload",
        "s3:ListMultipartUploadParts",
    }
    assert all(re.fullmatch(r"arn:aws:s3:::[A-Z-]+(/[A-Z-]+/\*)?", each["Resource"]) for each in statements)
