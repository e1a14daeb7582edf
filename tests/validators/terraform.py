"""infra/terraform: HashiCorp's own parser, names and arguments, and that no right is more than is needed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pygohcl

from tests.validators.refusal import ROOT, Refused, refuse_if
from tests.validators.terraform_words import ARGUMENTS

FOLDER = ROOT / "infra" / "terraform"
_DELETES = re.compile(r"s3:(Delete|PutLifecycle|PutBucket)|s3:\*|:\*$|^\*$")
_READ_ONLY = re.compile(r"ec2:Describe\w+$")


def check_syntax(path: Path) -> None:
    """As Terraform reads it: its parser, in Go."""
    _parse(path)


def check_words(path: Path) -> None:
    """Every argument is one of its resource, and every name that is used is declared in some file."""
    blocks = _parse(path)
    for kind in ("resource", "data"):
        for resource, named in blocks.get(kind, {}).items():
            if resource not in ARGUMENTS:
                raise Refused(f"{resource}: not among the resources whose arguments we know")
            for name, body in named.items():
                strange = set(body) - ARGUMENTS[resource] - {"lifecycle", "dynamic", "count", "for_each"}
                refuse_if(f"{resource}.{name}: no argument {word}" for word in sorted(strange))
    refuse_if(_undeclared(path))


def check_rights(path: Path) -> None:
    """Policies: no wildcard, prefixes on every listing, deletion in one role, and never of the source."""
    documents = _parse(path).get("data", {}).get("aws_iam_policy_document", {})
    refuse_if(problem for name, body in documents.items() for problem in _document(name, body))
    if "worker" in documents:
        refuse_if(_differs_from_security_md(documents["worker"]))


def check_buckets(path: Path) -> None:
    """A bucket is closed, encrypted, kept, and tidied of uploads that nobody will finish."""
    resources = _parse(path).get("resource", {})
    for name, body in resources.get("aws_s3_bucket", {}).items():
        refuse_if(_bucket(name, body, resources))
    for name, rule in resources.get("aws_vpc_security_group_ingress_rule", {}).items():
        if rule.get("cidr_ipv4") in ("0.0.0.0/0", None) and not rule.get("referenced_security_group_id"):
            raise Refused(f"{name}: the whole world may knock")


def _parse(path: Path) -> dict[str, Any]:
    try:
        parsed: dict[str, Any] = pygohcl.loads(path.read_text())
    except pygohcl.HCLParseError as error:
        raise Refused(f"hcl: {error}") from error
    return parsed


def _declared(files: list[Path]) -> dict[str, set[str]]:
    """Names of variables, locals, and resources."""
    found: dict[str, set[str]] = {"var": set(), "local": set(), "resource": set()}
    for file in files:
        blocks = _parse(file)
        found["var"] |= set(blocks.get("variable", {}))
        found["local"] |= set(blocks.get("locals", {}))
        for resource, named in blocks.get("resource", {}).items():
            found["resource"] |= {f"{resource}.{name}" for name in named}
        for resource, named in blocks.get("data", {}).items():
            found["resource"] |= {f"data.{resource}.{name}" for name in named}
    return found


def _undeclared(path: Path) -> Iterator[str]:
    """Names that the folder uses and does not declare, with `path` in place of the file of that name."""
    files = [path if file.name == path.name else file for file in sorted(FOLDER.glob("*.tf"))]
    text, declared = "\n".join(_without_comments(file.read_text()) for file in files), _declared(files)
    for kind in ("var", "local"):
        for name in sorted(set(re.findall(rf"\b{kind}\.(\w+)", text)) - declared[kind]):
            yield f"{kind}.{name} is declared nowhere"
    used = set(re.findall(r"\b((?:data\.)?aws_\w+\.\w+)\.\w+", text))
    for name in sorted(used - declared["resource"]):
        yield f"{name} is declared nowhere"


def _without_comments(text: str) -> str:
    return re.sub(r"(^|\s)#.*", "", text)


def _statements(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Its statements, those of `dynamic` blocks among them."""
    found = body.get("statement", [])
    found = found if isinstance(found, list) else [found]
    dynamic = body.get("dynamic", {}).get("statement", {}).get("content")
    return found + ([dynamic] if dynamic else [])


def _conditions(statement: dict[str, Any]) -> list[dict[str, Any]]:
    found = statement.get("condition", [])
    return found if isinstance(found, list) else [found]


def _document(name: str, body: dict[str, Any]) -> Iterator[str]:
    for statement in _statements(body):
        if statement.get("effect") == "Deny":
            if [item["variable"] for item in _conditions(statement)] != ["aws:SecureTransport"]:
                yield f"{name}: it denies something else than requests without TLS"
            continue
        where = f"{name}.{statement.get('sid', '')}"
        actions, resources = statement["actions"], statement.get("resources", [])
        conditions = {condition["variable"] for condition in _conditions(statement)}
        for action in actions:
            if "*" in action:
                yield f"{where}: {action} allows more than is needed"
            if _DELETES.search(action) and name != "vacuum":
                yield f"{where}: only vacuum may {action}"
            if action == "s3:ListBucket" and "s3:prefix" not in conditions:
                yield f"{where}: a list without a prefix shows the whole bucket"
            if action == "iam:PassRole" and resources != ["aws_iam_role.worker.arn"]:
                yield f"{where}: whoever can hand on other roles has them"
            if action in ("ec2:TerminateInstances", "ec2:CreateTags") and not conditions:
                yield f"{where}: it could end or tag the machines of others"
        if "*" in resources and not all(_READ_ONLY.match(action) for action in actions):
            yield f"{where}: * is every resource there is"
        yield from _places(where, actions, resources)
        principals = statement.get("principals", {})
        if principals.get("identifiers") == ["*"]:
            yield f"{where}: everybody may"


def _places(where: str, actions: list[str], resources: list[str]) -> Iterator[str]:
    """Objects are read below a prefix, and written below the destination's only."""
    for action in actions:
        for resource in resources:
            if not action.startswith("s3:") or action in ("s3:ListBucket", "s3:ListBucketMultipartUploads"):
                continue
            is_destination = resource == "local.stems"
            is_read = action == "s3:GetObject" and re.search(r"/var\.\w+_prefix/\*$", resource)
            if not is_destination and not is_read:
                yield f"{where}: {action} on {resource}"


def _differs_from_security_md(worker: dict[str, Any]) -> Iterator[str]:
    """The policy that SECURITY.md prints; ours has one statement more, for weights."""
    text = (ROOT / "SECURITY.md").read_text()
    printed = json.loads(text.split("```json")[1].split("```")[0])["Statement"]
    wanted = {item["Sid"]: item["Action"] for item in printed}
    wanted = {sid: [value] if isinstance(value, str) else value for sid, value in wanted.items()}
    found = {item["sid"]: item["actions"] for item in _statements(worker) if item["sid"] != "ReadWeights"}
    if found != wanted:
        yield f"worker: SECURITY.md says {wanted}, found {found}"


def _bucket(name: str, body: dict[str, Any], resources: dict[str, Any]) -> Iterator[str]:
    def beside(kind: str) -> Any:
        return resources.get(f"aws_s3_bucket_{kind}", {}).get(name, {})

    if body.get("lifecycle", {}).get("prevent_destroy") is not True:
        yield f"{name}: Terraform could delete the stems"
    switches = ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets")
    if [beside("public_access_block").get(switch) for switch in switches] != [True] * 4:
        yield f"{name}: it could be made public"
    if "AES256" not in str(beside("server_side_encryption_configuration")):
        yield f"{name}: it is not encrypted"
    rules = beside("lifecycle_configuration").get("rule", [])
    rules = rules if isinstance(rules, list) else [rules]
    days = [rule.get("abort_incomplete_multipart_upload", {}).get("days_after_initiation") for rule in rules]
    if not any(isinstance(day, int) and day <= 7 for day in days):
        yield f"{name}: uploads that nobody finishes would stay"
    if any("expiration" in rule and "days" in rule["expiration"] for rule in rules):
        yield f"{name}: stems would vanish"
    if not re.fullmatch(r"data\.aws_iam_policy_document\.\w+\.json", beside("policy").get("policy", "")):
        yield f"{name}: it has no policy of its own, and could be reached without TLS"
