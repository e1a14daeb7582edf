"""The files of `ray up`: Ray's own schema, what the clouds take, and what we promise of ours."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
from botocore.session import Session
from botocore.validate import ParamValidator
from google.protobuf.json_format import ParseError
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.validators.refusal import ROOT, Refused, pins, read_yaml, refuse_if

ENVIRONMENT = "cluster/node-environment.sh"
_SECRETS = re.compile(
    r"AKIA|aws_secret|aws_access_key|gcp_credentials|private_key|PRIVATE KEY", re.IGNORECASE
)


def check_schema(path: Path) -> None:
    """As `ray up` does before it starts anything."""
    config = read_yaml(path)
    try:
        validate_config(prepare_config(copy.deepcopy(config)))
    except jsonschema.ValidationError as error:
        raise Refused(f"ray-schema.json: {error.json_path}: {error.message}") from error
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise Refused(f"ray: {error!r}") from error


def check_ec2(path: Path) -> None:
    """Every node against the parameters of EC2's RunInstances, as botocore has them."""
    shape = _run_instances()
    for name, node in read_yaml(path)["available_node_types"].items():
        given = copy.deepcopy(node["node_config"])
        subnets = given.pop("SubnetIds", [])  # Ray's own word; it takes them in turn
        wanted = {**given, "SubnetId": subnets[0] if subnets else None, "MinCount": 1, "MaxCount": 1}
        report = ParamValidator().validate(wanted, shape)
        refuse_if([f"{name}: {report.generate_report()}"] if report.has_errors() else [])
        refuse_if(_unknown_words(name, given, shape))


def check_gce(path: Path) -> None:
    """Every node as an Instance of Google's Compute Engine API."""
    for name, node in read_yaml(path)["available_node_types"].items():
        try:
            _instance_message().from_json(json.dumps(node["node_config"]))
        except ParseError as error:
            raise Refused(f"{name}: {str(error).splitlines()[0]}") from error


def check_promises(path: Path) -> None:
    """Token, loopback, spot, roles, pins: what cluster/README.md says of these files."""
    config = read_yaml(path)
    refuse_if([*_commands(config), *_nodes(config), *_provider(config), *_text(path)])


@cache
def _instance_message() -> Any:
    """Of google-cloud-compute, without its package's own imports: a hundred clients, and seconds."""
    name = "google.cloud.compute_v1"
    spec = importlib.util.find_spec(name)
    assert spec is not None
    bare = sys.modules.setdefault(name, ModuleType(name))
    bare.__path__ = spec.submodule_search_locations or []
    return importlib.import_module(f"{name}.types.compute").Instance


@cache
def _run_instances() -> Any:
    return Session().get_service_model("ec2").operation_model("RunInstances").input_shape


def _unknown_words(name: str, given: Any, shape: Any) -> Iterator[str]:
    """Values that are none of an enumeration; botocore leaves that to the service."""
    if isinstance(given, dict):
        for key, value in given.items():
            yield from _unknown_words(f"{name}.{key}", value, shape.members[key])
    elif isinstance(given, list):
        for value in given:
            yield from _unknown_words(name, value, shape.member)
    elif getattr(shape, "enum", None) and given not in shape.enum:
        yield f"{name}: {given!r} is no value that EC2 knows"


def _commands(config: dict[str, Any]) -> Iterator[str]:
    for kind in ("head", "worker"):
        commands = [line for line in config.get(f"{kind}_start_ray_commands", []) if "ray start -" in line]
        if len(commands) != 1:
            yield f"{kind}: wanted one `ray start` of our own; Ray's default shows its dashboard to everybody"
        for line in commands:
            if f". ~/splitfire/{Path(ENVIRONMENT).name} &&" not in line:
                yield f"{kind}: Ray is started without the environment that asks for a token"
            if kind == "head" and "--dashboard-host=127.0.0.1" not in line.split():
                yield "head: the dashboard must listen on 127.0.0.1 only"
            if "ulimit -n 65536" not in line:
                yield f"{kind}: a limit of open files that is too low"
    if "export RAY_AUTH_MODE=token\n" not in (ROOT / ENVIRONMENT).read_text():
        yield f"{ENVIRONMENT}: token authentication is not on"
    mounts = config.get("file_mounts", {})
    if mounts.get("/home/ubuntu/.ray/auth_token") != "~/.ray/auth_token":
        yield "the token does not reach the machines"
    if mounts.get("/home/ubuntu/splitfire/constraints.txt") != "constraints.txt":
        yield "the exact versions do not reach the machines"
    for source in mounts.values():
        if source != "dist" and not source.startswith("~") and not (ROOT / source).exists():
            yield f"{source} is mounted and does not exist"


def _nodes(config: dict[str, Any]) -> Iterator[str]:
    types = config["available_node_types"]
    head = types[config["head_node_type"]]
    workers = [node for name, node in types.items() if name != config["head_node_type"]]
    if head["resources"] != {"CPU": 0} or _is_spot(head):
        yield "head: it is to do no work, and not to be on spot"
    if not workers or not all(_is_spot(node) and node["resources"].get("GPU") for node in workers):
        yield "workers: wanted GPUs on spot"
    if any(node["min_workers"] for node in workers):
        yield "workers: GPUs that wait for a job cost money; a run has them come"
    if not 0 < config.get("idle_timeout_minutes", 0) <= 30:
        yield "idle_timeout_minutes: idle GPUs cost money"
    identities = [_identity(node) for node in types.values()]
    if None in identities or _identity(head) in [_identity(node) for node in workers]:
        yield "identities: each machine needs a role, and only the head's may start machines"


def _provider(config: dict[str, Any]) -> Iterator[str]:
    if not config["provider"].get("use_internal_ips"):
        yield "provider: machines must not need public addresses"
    if config["provider"].get("cache_stopped_nodes", True):
        yield "provider: spot machines cannot be stopped and kept"
    for name, node in config["available_node_types"].items():
        wanted = node["node_config"]
        if config["provider"]["type"] == "aws":
            if wanted.get("MetadataOptions") != {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}:
                yield f"{name}: IMDSv2 with one hop is to be required"
            if not wanted.get("SecurityGroupIds"):
                yield f"{name}: without a security group Ray makes one that is open to the world"
            if not all(
                disk["Ebs"].get("Encrypted") for disk in wanted.get("BlockDeviceMappings", [{"Ebs": {}}])
            ):
                yield f"{name}: a disk is not encrypted"
        elif any("accessConfigs" in interface for interface in wanted.get("networkInterfaces", [])):
            yield f"{name}: it would have a public address"


def _text(path: Path) -> Iterator[str]:
    text = path.read_text()
    if found := _SECRETS.search(text):
        yield f"a secret, or the place for one: {found[0]}"
    boto3 = re.search(r"boto3==(\S+)", text)
    if boto3 and boto3[1] != pins()["botocore"]:
        yield f"boto3 {boto3[1]} does not go with botocore {pins()['botocore']}"
    if re.search(r"^\s*- .*pip install", text, re.MULTILINE):
        yield "packages are installed by node-setup.sh, which knows the exact versions"


def _is_spot(node: dict[str, Any]) -> bool:
    wanted = node["node_config"]
    market = wanted.get("InstanceMarketOptions", {}).get("MarketType")
    return "spot" in (market, str(wanted.get("scheduling", {}).get("provisioningModel")).lower())


def _identity(node: dict[str, Any]) -> str | None:
    wanted = node["node_config"]
    accounts = wanted.get("serviceAccounts") or [{}]
    found: str | None = wanted.get("IamInstanceProfile", {}).get("Name") or accounts[0].get("email")
    return found
