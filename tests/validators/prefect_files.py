"""Prefect's files: deployments against our flow's parameters, a server's environment, the template of a job.

What a real server says of them: tests/test_deployment.py.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import jsonschema
from cronsim import CronSim, CronSimError

from splitfire_batch import config
from splitfire_batch.errors import ConfigError
from tests.validators.ray_jobs import pod_template_schema
from tests.validators.refusal import ROOT, Refused, pins, read_yaml, refuse_if

_DEPLOYMENT = {
    "name",
    "version",
    "version_type",
    "tags",
    "description",
    "schedules",
    "concurrency_limit",
    "entrypoint",
    "parameters",
    "enforce_parameter_schema",
    "work_pool",
    "triggers",
    "sla",
    "flow_name",
}
"""Keys that Prefect's template of a deployment has; others it would carry along in silence."""
_SAFE = {
    "PREFECT_SERVER_API_HOST": "127.0.0.1",
    "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
    "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
}


def check_deployments(path: Path) -> None:
    """Keys, schedules, parameters and limits of prefect.yaml."""
    project = read_yaml(path)
    problems = (
        []
        if project.get("prefect-version") == pins()["prefect"]
        else ["prefect-version: see constraints.txt"]
    )
    names = [deployment["name"] for deployment in project["deployments"]]
    pools = [deployment["work_pool"]["name"] for deployment in project["deployments"]]
    if len({*names}) < len(names) or len({*pools}) < len(pools):
        problems.append("two deployments of the same name, or for the same work pool")
    refuse_if(problems + [p for deployment in project["deployments"] for p in _deployment(deployment)])


def check_server_environment(path: Path) -> None:
    """NAME=value, each name once, with the values that keep strangers out, and without secrets."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    strange = [line for line in lines if not re.fullmatch(r"PREFECT_[A-Z_]+=\S+", line)]
    refuse_if(f"wanted NAME=value without quotes or spaces: {line}" for line in strange)
    found = dict(line.split("=", 1) for line in lines)
    refuse_if(["a name is there twice"] if len(found) < len(lines) else [])
    refuse_if(f"{name}: wanted {value}" for name, value in _SAFE.items() if found.get(name) != value)
    secrets = [name for name in found if re.search("AUTH_STRING|PASSWORD|API_KEY|CONNECTION_URL", name)]
    refuse_if(f"{name}: a secret has no place here" for name in secrets)
    if "*" in found.get("PREFECT_SERVER_CORS_ALLOWED_ORIGINS", "*"):
        raise Refused("PREFECT_SERVER_CORS_ALLOWED_ORIGINS: any page could use the server")


def check_job_template(path: Path) -> None:
    """Placeholders are declared, and the pod is one that Kubernetes takes and that is not root."""
    try:
        template = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise Refused(f"no JSON: {error}") from error
    declared = template["variables"]["properties"]
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
    refuse_if(f"{name}: used and not declared, or the other way round" for name in used ^ set(declared))
    pod = _filled(template["job_configuration"]["job_manifest"]["spec"]["template"], declared)
    validator = jsonschema.Draft202012Validator(pod_template_schema())
    refuse_if(f"pod: {error.json_path}: {error.message}" for error in validator.iter_errors(pod))
    refuse_if(_pod(pod["spec"]))


def _deployment(deployment: dict[str, Any]) -> Iterator[str]:
    name = deployment["name"]
    for key in sorted(set(deployment) - _DEPLOYMENT):
        yield f"{name}: Prefect knows no {key}"
    module, _, function = deployment["entrypoint"].rpartition(".")
    if function not in _functions(module):
        yield f"{name}: there is no {deployment['entrypoint']}"
        return
    parameters = deployment.get("parameters", {})
    for parameter in sorted(set(parameters) ^ (set(parameters) & set(_functions(module)[function]))):
        yield f"{name}: the flow has no parameter {parameter}"
    for parameter in ("source", "destination"):
        if not re.fullmatch(r"\{\{ \$SPLITFIRE_[A-Z]+ \}\}", str(parameters.get(parameter))):
            yield f"{name}: {parameter} is to come from the environment of `prefect deploy`"
    yield from _settings(name, parameters)
    if deployment.get("concurrency_limit") != {"limit": 1, "collision_strategy": "CANCEL_NEW"}:
        yield f"{name}: a run must not overlap itself"
    if not deployment.get("schedules"):
        yield f"{name}: nightly, and without a schedule"
    for schedule in deployment.get("schedules", []):
        yield from _schedule(name, schedule)


def _settings(name: str, parameters: dict[str, Any]) -> Iterator[str]:
    for section, cls in (("runtime", config.RuntimeConfig), ("output", config.OutputConfig)):
        try:
            config.configure(cls, parameters.get(section, {}))
        except ConfigError as error:
            yield f"{name}: {section}: {error}"


def _schedule(name: str, schedule: dict[str, Any]) -> Iterator[str]:
    try:
        next(CronSim(schedule["cron"], datetime(2026, 1, 1)))
        ZoneInfo(schedule["timezone"])
    except (KeyError, CronSimError, ZoneInfoNotFoundError) as error:
        yield f"{name}: no schedule in a time zone: {error!r}"


@cache
def _functions(module: str) -> dict[str, list[str]]:
    """Parameters of a module's functions, by name, read without importing it."""
    file = ROOT / (module.replace(".", "/") + ".py")
    if not file.is_file():
        return {}
    tree = ast.parse(file.read_text())
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    return {node.name: [argument.arg for argument in node.args.args] for node in functions}


def _filled(value: Any, declared: dict[str, Any]) -> Any:
    """The template with the variables' defaults in it; as with Prefect, keys whose variable has none go."""
    if isinstance(value, dict):
        filled = {key: _filled(item, declared) for key, item in value.items()}
        return {key: item for key, item in filled.items() if item is not inspect.Parameter.empty}
    if isinstance(value, list):
        return [_filled(item, declared) for item in value]
    name = re.fullmatch(r"\{\{ (\w+) \}\}", str(value))
    return declared[name[1]].get("default", inspect.Parameter.empty) if name else value


def _pod(pod: dict[str, Any]) -> Iterator[str]:
    if not pod.get("securityContext", {}).get("runAsNonRoot") or not pod["securityContext"].get("runAsUser"):
        yield "pod: it runs as root"
    if pod.get("automountServiceAccountToken") is not False:
        yield "pod: a run has no business with Kubernetes"
    for container in pod["containers"]:
        if container.get("securityContext", {}).get("allowPrivilegeEscalation") is not False:
            yield "pod: it may gain rights"
        for item in container.get("envFrom", []):
            if "secretRef" not in item:
                yield "pod: secrets come from a Secret"
