"""The files of infra/: each is taken by its validators, and a broken copy is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.broken_copies import Broken, expect_refusal
from tests.validators.table import INFRA, check, files

README, IMAGE, IGNORE = "infra/README.md", "infra/Dockerfile", "infra/Dockerfile.dockerignore"
COMPOSE, PREFECT, SERVER = "infra/docker-compose.yaml", "infra/prefect.yaml", "infra/prefect-server.env"
TEMPLATE = "infra/kubernetes-job-template.json"
SCRAPE, BOARD = "infra/prometheus.yaml", "infra/grafana-dashboard.json"
ACCESS, BUCKETS, NETWORK, OUTPUTS, VARIABLES, VERSIONS = (
    f"infra/terraform/{name}.tf"
    for name in ("access", "buckets", "network", "outputs", "variables", "versions")
)
BROKEN = [
    Broken(README, "| `prometheus.yaml` |", "| prometheus |", "says nothing of prometheus.yaml"),
    Broken(README, "`prefect-server.env`", "`prefect-serve.env`", "does not exist"),
    Broken(IMAGE, "USER 10001:10001\n", "", "wanted USER"),
    Broken(IMAGE, "USER 10001:10001", "USER root", "DL3002|wanted USER"),
    Broken(IMAGE, "python:3.11.14-slim-bookworm\n\n", "python:latest\n\n", "DL3007|exact tag"),
    Broken(IMAGE, "--no-install-recommends ", "", "DL3015"),
    Broken(IMAGE, "FROM runtime AS cuda", "FROM runtime AS gpu", "targets cpu and cuda"),
    Broken(IMAGE, '--constraint constraints.txt ".[', '".[', "without exact versions|DL3013"),
    Broken(IMAGE, "WORKDIR /src", "ENV TOKEN=abc\nWORKDIR /src", "secret in a layer|DL3064"),
    Broken(IMAGE, "COPY flows flows", "COPY flow flow", "flow is copied and does not exist"),
    Broken(IMAGE, "    && rm -rf /var/lib/apt/lists/* \\\n", "", "DL3009"),
    Broken(IGNORE, "*\n!constraints", "!constraints", "secrets and .git"),
    Broken(IGNORE, "!flows\n", "!flows\n!.git\n", "!.git"),
    Broken(
        COMPOSE,
        "healthcheck:\n      test: [CMD-SHELL, pg",
        "healthcheque:\n      test: [CMD-SHELL, pg",
        "healthcheque",
    ),
    Broken(COMPOSE, "127.0.0.1:4200:4200", "4200:4200", "open to the network"),
    Broken(COMPOSE, "cap_drop: [ALL]", "privileged: true", "runs as root"),
    Broken(
        COMPOSE,
        "${POSTGRES_PASSWORD:?is missing; put it into the file that --env-file names}",
        "postgres",
        "file of secrets",
    ),
    Broken(
        COMPOSE,
        "${PREFECT_AUTH_STRING:?is missing; put it into",
        "${PREFECT_AUTH_STRING:-a:b",
        "file of secrets",
    ),
    Broken(COMPOSE, "postgres:17.6-bookworm", "postgres:latest", "exact tag"),
    Broken(COMPOSE, '  security_opt: ["no-new-privileges:true"]\n', "", "CL-0003"),
    Broken(COMPOSE, "  cap_drop: [ALL]\n", "", "CL-0006"),
    Broken(COMPOSE, "server: {condition", "serve: {condition", "which there is not"),
    Broken(COMPOSE, "database: {internal: true}", "database: {}", "only the server may reach it"),
    Broken(PREFECT, "timezone: Europe/Berlin", "timezone: Europe/Berlim", "no schedule in a time zone"),
    Broken(PREFECT, "0 2 * * *", "0 26 * * *", "no schedule in a time zone"),
    Broken(PREFECT, "collision_strategy: CANCEL_NEW", "collision_strategy: ENQUEUE", "overlap itself"),
    Broken(PREFECT, "scratch_dir: /scratch", "scratchdir: /scratch", "'scratchdir' is no setting"),
    Broken(PREFECT, 'destination: "{{', 'goal: "{{', "no parameter goal"),
    Broken(PREFECT, "{{ $SPLITFIRE_SOURCE }}", "s3://key:secret@bucket", "environment of `prefect deploy`"),
    Broken(PREFECT, "prefect-version: 3.8.8", "prefect-version: 2.0.0", "constraints.txt"),
    Broken(
        PREFECT,
        "flows.separate_catalogue.separate_catalogue",
        "flows.separate_catalogue.run",
        "there is no flows",
    ),
    Broken(SERVER, "CSRF_PROTECTION_ENABLED=true", "CSRF_PROTECTION_ENABLED=false", "wanted true"),
    Broken(SERVER, "ORIGINS=http://127.0.0.1:4200", "ORIGINS=*", "any page"),
    Broken(SERVER, "SERIALIZER=json", "SERIALIZER=pickle", "wanted json"),
    Broken(SERVER, "PREFECT_API_URL=", "PREFECT_API_AUTH_STRING=a:b\nPREFECT_API_URL=", "no place here"),
    Broken(TEMPLATE, '"runAsNonRoot": true', '"runAsNonRoot": false', "root"),
    Broken(TEMPLATE, '"volumeMounts"', '"volumeMount"', "volumeMount"),
    Broken(TEMPLATE, '"{{ gpus }}"', '"{{ gpu }}"', "gpus?: used and not declared"),
    Broken(SCRAPE, "file_sd_configs", "file_sd_config", "knows no file_sd_config"),
    Broken(SCRAPE, "scrape_interval: 15s", "scrape_interval: soon", "no duration"),
    Broken(SCRAPE, "action: keep", "action: retain", "no action"),
    Broken(SCRAPE, "job_name: ray-kubernetes", "job_name: ray", "none twice"),
    Broken(
        BOARD, "ray_splitfire_queue_bytes", "ray_splitfire_queued_bytes", "neither in cluster/metric_names.py"
    ),
    Broken(BOARD, "by (stage) (rate(", "by (stages) (rate(", "has the label stages"),
    Broken(BOARD, "avg(ray_splitfire_device_busy_ratio", "avg(rate(ray_splitfire_device_busy_ratio", "avg"),
    Broken(
        BOARD,
        'sum(rate(ray_splitfire_audio_seconds_total{SessionName=~\\"$session\\"}[$__rate_interval]))',
        "sum(ray_splitfire_audio_seconds_total)",
        "is a counter|neither",
    ),
    Broken(BOARD, '"panels": [', '"panel": [', "without panels"),
    Broken(
        ACCESS,
        '["s3:GetObject"]\n    resources = ["${local',
        '["s3:*"]\n    resources = ["${local',
        "more than is needed",
    ),
    Broken(ACCESS, '"s3:PutObject", ', '"s3:PutObject", "s3:DeleteObject", ', "only vacuum may"),
    Broken(ACCESS, "resources = [local.stems]", 'resources = ["*"]', "every resource there is"),
    Broken(ACCESS, 'variable = "s3:prefix"', 'variable = "s3:delimiter"', "shows the whole bucket"),
    Broken(ACCESS, "[aws_iam_role.worker.arn]", '["arn:aws:iam::1:role/*"]', "hand on other roles"),
    Broken(ACCESS, '"${local.source_arn}/${var.source_prefix}/*"', '"${local.source_arn}/*"', "GetObject on"),
    Broken(ACCESS, "var.weights_prefix", "var.weight_prefix", "var.weight_prefix is declared nowhere"),
    Broken(ACCESS, '"aws_iam_role" "head" {', '"aws_iam_role" "head" {{', "hcl"),
    Broken(ACCESS, "assume_role_policy = data", "assume_policy = data", "no argument assume_policy"),
    Broken(
        BUCKETS, "block_public_policy     = true", "block_public_policy     = false", "could be made public"
    ),
    Broken(BUCKETS, "prevent_destroy = true", "prevent_destroy = false", "could delete the stems"),
    Broken(BUCKETS, "days_after_initiation = 1", "days_after_initiation = 90", "uploads that nobody"),
    Broken(BUCKETS, "aws:SecureTransport", "aws:SourceIp", "without TLS"),
    Broken(
        BUCKETS, '"aws_s3_bucket_policy" "stems"', '"aws_s3_bucket_policy" "other"', "no policy of its own"
    ),
    Broken(BUCKETS, '"AES256"', '"none"', "not encrypted"),
    Broken(
        NETWORK,
        "cidr_ipv4         = var.operator_cidr",
        'cidr_ipv4         = "0.0.0.0/0"',
        "whole world may knock",
    ),
    Broken(NETWORK, "from_port         = 22", "port              = 22", "no argument port"),
    Broken(OUTPUTS, "aws_security_group.cluster.id", "aws_security_group.clusters.id", "declared nowhere"),
    Broken(VARIABLES, 'variable "region" {', 'variable "regio" {', "var.region is declared nowhere"),
    Broken(VERSIONS, "region = var.region", "region = var.zone", "var.zone is declared nowhere"),
]


@pytest.mark.parametrize("name", sorted(INFRA))
def test_a_file_is_taken_by_its_validators(name: str) -> None:
    check(name)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.id)
def test_a_broken_copy_is_refused(broken: Broken, tmp_path: Path) -> None:
    expect_refusal(broken, tmp_path)


def test_every_file_has_a_validator_and_a_broken_copy() -> None:
    assert files("infra") == set(INFRA)
    assert {broken.name for broken in BROKEN} == set(INFRA)
