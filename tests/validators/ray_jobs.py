"""cluster/rayjob.yaml: the schema of KubeRay, its operator's further rules, and what we promise."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

from tests.validators.refusal import THIRD_PARTY, Refused, pins, read_yaml, refuse_if


def check_schema(path: Path) -> None:
    """Against the CRD of KubeRay 1.7, unknown fields included: the API server would drop them in silence."""
    job = read_yaml(path)
    if (job.get("apiVersion"), job.get("kind")) != ("ray.io/v1", "RayJob"):
        raise Refused("this is no RayJob of ray.io/v1")
    errors = sorted(_validator().iter_errors(job), key=lambda error: error.json_path)
    refuse_if(f"rayjob crd: {error.json_path}: {error.message}" for error in errors)


def check_operator_rules(path: Path) -> None:
    """What KubeRay's operator refuses beyond its schema (its controllers/ray/utils/validation.go)."""
    refuse_if(_operator_rules(read_yaml(path)["spec"]))


def check_promises(path: Path) -> None:
    """Token, no root, no way in from outside, spot, an end: what cluster/README.md says of this file."""
    spec = read_yaml(path)["spec"]
    refuse_if(
        [*_job(spec), *_cluster(spec["rayClusterSpec"]), *(p for pod in _pods(spec) for p in _pod(*pod))]
    )


def pod_template_schema() -> Any:
    """What Kubernetes takes for the template of a pod, as KubeRay's CRD repeats it."""
    schema = _closed(json.loads((THIRD_PARTY / "kuberay" / "rayjob-v1.json").read_text()))
    return schema["properties"]["spec"]["properties"]["submitterPodTemplate"]


@cache
def _validator() -> jsonschema.Draft202012Validator:
    schema = _closed(json.loads((THIRD_PARTY / "kuberay" / "rayjob-v1.json").read_text()))
    schema["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own, of which a CRD says nothing more
    return jsonschema.Draft202012Validator(schema)


def _closed(schema: Any) -> Any:
    """The schema with unknown fields refused, and Kubernetes' "int or string" in the words of JSON Schema."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if closed.get("x-kubernetes-int-or-string") is True:
        return {"type": ["integer", "string"]}
    is_object = isinstance(closed.get("properties"), dict) and closed.get("type") == "object"
    if is_object and closed.get("x-kubernetes-preserve-unknown-fields") is not True:
        closed.setdefault("additionalProperties", False)
    return closed


def _operator_rules(spec: dict[str, Any]) -> Iterator[str]:
    cluster = spec["rayClusterSpec"]
    version = tuple(int(part) for part in cluster.get("rayVersion", "0.0.0").split("."))
    if cluster.get("authOptions", {}).get("mode") == "token" and version < (2, 52, 0):
        yield "authOptions.mode: token needs rayVersion 2.52.0 or later"
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        if not group["template"]["spec"].get("containers"):
            yield "a group without a container"
        is_v2 = cluster.get("autoscalerOptions", {}).get("version") == "v2"
        if is_v2 and group["template"]["spec"].get("restartPolicy", "Never") != "Never":
            yield "restartPolicy: wanted Never with version 2 of the autoscaler"
    for group in cluster["workerGroupSpecs"]:
        if not 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
            yield f"{group['groupName']}: wanted minReplicas <= replicas <= maxReplicas"
    if spec.get("ttlSecondsAfterFinished", 0) and not spec.get("shutdownAfterJobFinishes"):
        yield "ttlSecondsAfterFinished is nothing without shutdownAfterJobFinishes"


def _job(spec: dict[str, Any]) -> Iterator[str]:
    if not spec.get("shutdownAfterJobFinishes"):
        yield "shutdownAfterJobFinishes: GPUs that idle cost money"
    if spec.get("ttlSecondsAfterFinished", 1 << 30) > 3600 or not spec.get("activeDeadlineSeconds"):
        yield "a job that has ended, or never ends, is to be removed"
    if not spec.get("backoffLimit"):
        yield "backoffLimit: a lost head is to be tried again"
    if spec["entrypoint"].split()[0] != "splitfire-job":
        yield "entrypoint: failed tracks are to be no failed job, see cluster/job.sh"
    if set(spec["entrypoint"]) & set("'\"$`\\"):
        yield "entrypoint: Ray would expand it twice"
    wanted = re.search(r"--device cuda --workers (\d+)", spec["entrypoint"])
    n_gpus = sum(group.get("maxReplicas", 0) for group in spec["rayClusterSpec"]["workerGroupSpecs"])
    if not wanted or int(wanted[1]) > n_gpus:
        yield "entrypoint: it is to ask for GPUs, and for no more than there may be"
    if spec["rayClusterSpec"].get("rayVersion") != pins()["ray"]:
        yield f"rayVersion: wanted {pins()['ray']}, as in constraints.txt"


def _cluster(cluster: dict[str, Any]) -> Iterator[str]:
    if cluster.get("authOptions", {}).get("mode") != "token":
        yield "authOptions: whoever reaches the cluster could run code on it"
    head = cluster["headGroupSpec"]
    if head.get("serviceType") != "ClusterIP" or head.get("enableIngress") or head.get("ingressOptions"):
        yield "headGroupSpec: the dashboard is not to be reached from outside"
    if head["rayStartParams"].get("num-cpus") != "0":
        yield "headGroupSpec: the head is to do no work"
    if not cluster.get("enableInTreeAutoscaling") or not cluster["autoscalerOptions"].get(
        "idleTimeoutSeconds"
    ):
        yield "autoscaler: idle GPUs cost money"
    for group in cluster["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        if not pod["containers"][0]["resources"]["limits"].get("nvidia.com/gpu"):
            yield f"{group['groupName']}: no GPU"
        if not (pod.get("nodeSelector") or pod.get("affinity")) or not pod.get("tolerations"):
            yield f"{group['groupName']}: nothing puts it on spot machines with GPUs"
        if pod.get("automountServiceAccountToken") is not False:
            yield f"{group['groupName']}: workers have no business with Kubernetes"


def _pods(spec: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    cluster = spec["rayClusterSpec"]
    yield "submitter", spec["submitterPodTemplate"]["spec"]
    yield "head", cluster["headGroupSpec"]["template"]["spec"]
    for group in cluster["workerGroupSpecs"]:
        yield group["groupName"], group["template"]["spec"]


def _pod(name: str, pod: dict[str, Any]) -> Iterator[str]:
    context = pod.get("securityContext", {})
    if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
        yield f"{name}: it runs as root"
    if name != "submitter" and not pod.get("serviceAccountName"):
        yield f"{name}: no service account of its own"
    for container in pod["containers"]:
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{name}: its container may gain rights"
        if not container.get("resources", {}).get("limits", {}).get("memory"):
            yield f"{name}: no limit of memory"
        secrets = [item["name"] for item in container.get("env", []) if _looks_secret(item)]
        if secrets:
            yield f"{name}: secrets in the environment: {secrets}"


def _looks_secret(variable: dict[str, Any]) -> bool:
    return "value" in variable and any(
        word in variable["name"] for word in ("SECRET", "TOKEN", "PASSWORD", "ACCESS_KEY")
    )
