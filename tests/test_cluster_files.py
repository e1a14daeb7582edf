"""The files of cluster/ that are no Python: each is taken by its validators, and a broken copy is not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.broken_copies import Broken, expect_refusal
from tests.validators.refusal import ROOT
from tests.validators.table import CLUSTER, check, files

AWS, GCP = "cluster/ray-cluster.aws.yaml", "cluster/ray-cluster.gcp.yaml"
JOB, SLURM = "cluster/rayjob.yaml", "cluster/slurm.sh"
SETUP, ENVIRONMENT, RUN = "cluster/node-setup.sh", "cluster/node-environment.sh", "cluster/job.sh"
README = "cluster/README.md"
BROKEN = [
    Broken(README, "`slurm.sh`", "`slum.sh`", "slum.sh"),
    Broken(README, "| `job.sh` |", "| job |", "says nothing of job.sh"),
    Broken(README, "splitfire plan ", "splitfire plant ", "no command"),
    Broken(AWS, "max_workers: 16\n#", "most_workers: 16\n#", "most_workers"),
    Broken(AWS, "idle_timeout_minutes: 5", "idle_timeout_minutes: five", "ray-schema.json"),
    Broken(AWS, "head_node_type: head", "head_node_type: chief", "head_node_type"),
    Broken(AWS, "cluster_name: splitfire", "cluster_name: a\ncluster_name: b", "said twice"),
    Broken(AWS, "MarketType: spot", "MarketType: sport", "'sport' is no value"),
    Broken(AWS, "InstanceType: g6.2xlarge", "InstanceType: g6.2xlarger", "no value that EC2 knows"),
    Broken(AWS, "IamInstanceProfile: {Name: splitfire-head}", "IamProfile: {}", "Unknown parameter"),
    Broken(AWS, "{Name: splitfire-worker}", "{Name: splitfire-head}", "only the head's may start"),
    Broken(AWS, "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "dashboard must listen on 127"),
    Broken(AWS, "head_start_ray_commands", "head_setup_commands2", "head_setup_commands2"),
    Broken(AWS, "HttpTokens: required", "HttpTokens: optional", "IMDSv2"),
    Broken(AWS, "Encrypted: true", "Encrypted: false", "not encrypted"),
    Broken(AWS, "            SecurityGroupIds: *groups\n", "", "open to the world"),
    Broken(AWS, "min_workers: 0", "min_workers: 2", "GPUs that wait"),
    Broken(AWS, "boto3==1.43.117", "boto3==1.40.0", "does not go with botocore"),
    Broken(
        AWS, "ubuntu/.ray/auth_token: ~/.ray/auth_token", "ubuntu/nothing: ~/nothing", "token does not reach"
    ),
    Broken(AWS, "    ssh_user: ubuntu", "    ssh_user: ubuntu\n    ssh_private_key: ~/key", "place for one"),
    Broken(GCP, "provisioningModel: SPOT", "provisionModel: SPOT", "no field named .provisionModel"),
    Broken(GCP, "provisioningModel: SPOT", "provisioningModel: STANDARD", "GPUs on spot"),
    Broken(GCP, "ray start --head", "ray startup --head", "wanted one `ray start` of our own"),
    Broken(GCP, ". ~/splitfire/node-environment.sh && ulimit", "ulimit", "asks for a token"),
    Broken(GCP, "use_internal_ips: true", "use_internal_ips: false", "public addresses"),
    Broken(GCP, "/YOUR-SUBNET", "/S\n                  accessConfigs: [{name: out}]", "public address"),
    Broken(GCP, '"CPU": 0', '"CPU": 4', "do no work"),
    Broken(JOB, "backoffLimit: 5", "backofLimit: 5", "backofLimit"),
    Broken(JOB, "mode: token", "mode: tokens", "authOptions.mode"),
    Broken(JOB, "mode: token", "mode: disabled", "could run code"),
    Broken(JOB, "groupName: gpu", "labels: {}", "groupName"),
    Broken(JOB, "maxReplicas: 16", "maxReplicas: many", "maxReplicas"),
    Broken(JOB, "replicas: 0", "replicas: 17", "minReplicas <= replicas"),
    Broken(JOB, "runAsNonRoot: true", "runAsNonRoot: false", "runs as root"),
    Broken(JOB, "runAsUser: 10001", "runAsUser: 0", "runs as root"),
    Broken(JOB, "allowPrivilegeEscalation: false", "privileged: true", "may gain rights"),
    Broken(JOB, "serviceType: ClusterIP", "serviceType: LoadBalancer", "reached from outside"),
    Broken(
        JOB, "shutdownAfterJobFinishes: true", "shutdownAfterJobFinishes: false", "GPUs that idle|nothing"
    ),
    Broken(JOB, 'rayVersion: "2.60.0"', 'rayVersion: "2.40.0"', "2.52.0 or later"),
    Broken(JOB, 'rayVersion: "2.60.0"', 'rayVersion: "2.59.0"', "as in constraints.txt"),
    Broken(
        JOB,
        "value: /scratch/cache",
        "value: x}\n                              - {name: AWS_SECRET, value: y",
        "secrets",
    ),
    Broken(JOB, "--ray auto", "--ray auto || echo $?", "expand it twice"),
    Broken(JOB, "--workers 8", "--workers 80", "no more than there may be"),
    Broken(JOB, "key: nvidia.com/gpu, operator", "keys: nvidia.com/gpu, operator", "keys"),
    Broken(SLURM, "#SBATCH --requeue\n", "", "queued again"),
    Broken(SLURM, "--signal=B:TERM@90", "--signal=KILL", "none that we know"),
    Broken(SLURM, "#SBATCH --mem=32G", "#SBATCH --memory=32G", "none that we know"),
    Broken(SLURM, 'rm -rf "$secrets"', "rm -rf $secrets", "SC2086"),
    Broken(SLURM, "RAY_AUTH_MODE=token ", "", "without a token"),
    Broken(SLURM, " --include-dashboard=false", "", "dashboard"),
    Broken(SLURM, "set -euo pipefail\n", "", "wanted `set"),
    Broken(RUN, 'run "$@"', "run $@", "SC2068"),
    Broken(RUN, "set -uo pipefail\n", "", "wanted `set"),
    Broken(SETUP, "VERSION=0.1.0", "VERSION=0.0.9", "pyproject.toml"),
    Broken(SETUP, '$@"\n\n# Unreleased', "$@\n\n# Unreleased", "SC"),
    Broken(ENVIRONMENT, "RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled", "wanted token"),
    Broken(ENVIRONMENT, "WAIT_TIME_S=40", "WAIT_TIME_S=10", "could not finish"),
    Broken(ENVIRONMENT, "export RAY_USAGE", "export RAY_AUTH_TOKEN=abc RAY_USAGE", "secrets"),
    Broken(ENVIRONMENT, 'PATH="$HOME/venv/bin:$PATH"', 'PATH="$PATH"', "would not find ray"),
]


@pytest.mark.parametrize("name", sorted(CLUSTER))
def test_a_file_is_taken_by_its_validators(name: str) -> None:
    check(name)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.id)
def test_a_broken_copy_is_refused(broken: Broken, tmp_path: Path) -> None:
    expect_refusal(broken, tmp_path)


def test_every_file_has_a_validator_and_a_broken_copy() -> None:
    assert files("cluster") == set(CLUSTER)
    assert {broken.name for broken in BROKEN} == set(CLUSTER)


@pytest.mark.parametrize(("code", "wanted"), [(0, 0), (3, 0), (2, 2), (4, 4), (75, 75)])
def test_for_schedulers_failed_tracks_are_a_success_and_nothing_else_is(
    code: int, wanted: int, tmp_path: Path
) -> None:
    stand_in = tmp_path / "splitfire"
    stand_in.write_text(f'#!/bin/sh\necho "$@"\nexit {code}\n')
    stand_in.chmod(0o755)
    done = subprocess.run(
        [ROOT / RUN, "a b", "out"], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (wanted, "run a b out\n")
