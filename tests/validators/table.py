"""Which file of cluster/ and infra/ is checked by what; a file that is missing here fails a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.validators import (
    compose,
    images,
    monitoring,
    prefect_files,
    prose,
    ray_clusters,
    ray_jobs,
    shell,
    terraform,
)
from tests.validators.refusal import ROOT, files_below

Check = Callable[[Path], None]

CLUSTER: dict[str, tuple[Check, ...]] = {
    "cluster/README.md": (prose.check_names, prose.check_files),
    "cluster/ray-cluster.aws.yaml": (
        ray_clusters.check_schema,
        ray_clusters.check_ec2,
        ray_clusters.check_promises,
    ),
    "cluster/ray-cluster.gcp.yaml": (
        ray_clusters.check_schema,
        ray_clusters.check_gce,
        ray_clusters.check_promises,
    ),
    "cluster/rayjob.yaml": (
        ray_jobs.check_schema,
        ray_jobs.check_operator_rules,
        ray_jobs.check_promises,
    ),
    "cluster/slurm.sh": (shell.check_shellcheck, shell.check_strictness, shell.check_sbatch),
    "cluster/job.sh": (shell.check_shellcheck, shell.check_strictness),
    "cluster/node-setup.sh": (shell.check_shellcheck, shell.check_strictness, shell.check_version),
    "cluster/node-environment.sh": (shell.check_shellcheck, shell.check_environment),
}

_TERRAFORM = (terraform.check_syntax, terraform.check_words, terraform.check_rights, terraform.check_buckets)
INFRA: dict[str, tuple[Check, ...]] = {
    "infra/README.md": (prose.check_names, prose.check_files),
    "infra/Dockerfile": (images.check_hadolint, images.check_promises),
    "infra/Dockerfile.dockerignore": (images.check_ignore,),
    "infra/docker-compose.yaml": (compose.check_schema, compose.check_promises, compose.check_lint),
    "infra/prefect.yaml": (prefect_files.check_deployments,),
    "infra/prefect-server.env": (prefect_files.check_server_environment,),
    "infra/kubernetes-job-template.json": (prefect_files.check_job_template,),
    "infra/prometheus.yaml": (monitoring.check_prometheus,),
    "infra/grafana-dashboard.json": (monitoring.check_dashboard,),
    "infra/terraform/access.tf": _TERRAFORM,
    "infra/terraform/buckets.tf": _TERRAFORM,
    "infra/terraform/network.tf": _TERRAFORM,
    "infra/terraform/outputs.tf": _TERRAFORM,
    "infra/terraform/variables.tf": _TERRAFORM,
    "infra/terraform/versions.tf": _TERRAFORM,
}
TABLE = CLUSTER | INFRA


def files(folder: str) -> set[str]:
    """Every file below a folder that needs a validator."""
    return {str(path.relative_to(ROOT)) for path in files_below(ROOT / folder)}


def check(name: str, path: Path | None = None) -> None:
    """Run every validator of the file `name`; over a copy of it, where `path` is one. Raises Refused."""
    for validator in TABLE[name]:
        validator(path or ROOT / name)
