"""infra/docker-compose.yaml: the schema of the Compose specification, compose-lint, and what we promise."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

from tests.validators.refusal import ROOT, THIRD_PARTY, Refused, read_yaml, refuse_if


def check_schema(path: Path) -> None:
    """Against compose-spec.json."""
    errors = _validator().iter_errors(read_yaml(path))
    refuse_if(f"compose-spec.json: {error.json_path}: {error.message}" for error in errors)


def check_lint(path: Path) -> None:
    """No finding of compose-lint but that tags are no digests, of which the Dockerfile says why."""
    command = [sys.executable, "-m", "compose_lint", "check", "--fail-on", "medium", "--format", "json", path]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        findings = json.loads(done.stdout)
    except json.JSONDecodeError as error:
        raise Refused(f"compose-lint: {done.stdout}{done.stderr}") from error
    refuse_if(f"compose-lint: {line}" for line in _findings(findings))


def check_promises(path: Path) -> None:
    """Loopback, secrets, health, order: what infra/README.md says of it."""
    config = read_yaml(path)
    refuse_if([*_references(config), *_services(config)])


@cache
def _validator() -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(
        json.loads((THIRD_PARTY / "compose-spec" / "compose-spec.json").read_text())
    )


def _findings(report: Any) -> Iterator[str]:
    items = report if isinstance(report, list) else report["findings"]
    for item in items:
        if item["rule_id"] != "CL-0019":
            yield f"{item['rule_id']} {item['message']}"


def _references(config: dict[str, Any]) -> Iterator[str]:
    """What Docker would only find out when it starts them."""
    for name, service in config["services"].items():
        for other in service.get("depends_on", {}):
            if other not in config["services"]:
                yield f"{name} depends on {other}, which there is not"
        for network in service.get("networks", []):
            if network not in config.get("networks", {}):
                yield f"{name}: no network {network}"
        for mount in service.get("volumes", []):
            source = mount.partition(":")[0]
            if not source.startswith((".", "/")) and source not in config.get("volumes", {}):
                yield f"{name}: no volume {source}"
        for file in service.get("env_file", []):
            if not (ROOT / "infra" / file).exists():
                yield f"{name}: no file {file}"


def _services(config: dict[str, Any]) -> Iterator[str]:
    for name, service in config["services"].items():
        for port in service.get("ports", []):
            if not str(port).startswith("127.0.0.1:"):
                yield f"{name}: port {port} would be open to the network"
        if "healthcheck" not in service:
            yield f"{name}: nobody would see that it hangs"
        if not re.search(r":\d+\.\d+[\w.-]*$|@sha256:", service["image"]):
            yield f"{name}: its image has no exact tag"
        if service.get("privileged") or service.get("user") in ("root", "0", "0:0"):
            yield f"{name}: it runs as root"
        for key, value in service.get("environment", {}).items():
            if re.search("PASSWORD|AUTH_STRING|SECRET", key) and not re.match(r"\$\{\w+:\?", str(value)):
                yield f"{name}: {key} must come from the file of secrets, and have no default"
    if config["services"]["postgres"].get("ports") or not config["networks"]["database"].get("internal"):
        yield "postgres: only the server may reach it"
