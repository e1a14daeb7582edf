"""infra/prometheus.yaml and infra/grafana-dashboard.json.

There is no promtool in a package registry: the configuration is held to the keys that Prometheus documents
(prometheus.io/docs/prometheus/latest/configuration). Queries go through a PromQL parser, which is a port of
Prometheus' own; their names are ours (cluster/metric_names.py), or stand in the dashboards that Ray ships.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import promql_parser
import ray.dashboard

from cluster.metric_names import METRICS
from tests.validators.refusal import Refused, read_yaml, refuse_if

_GLOBAL = {"scrape_interval", "scrape_timeout", "evaluation_interval", "external_labels"}
_JOB = {
    "job_name",
    "scrape_interval",
    "scrape_timeout",
    "metrics_path",
    "scheme",
    "basic_auth",
    "authorization",
    "tls_config",
    "static_configs",
    "file_sd_configs",
    "kubernetes_sd_configs",
    "relabel_configs",
    "metric_relabel_configs",
}
_FILES = {"files", "refresh_interval"}
_KUBERNETES = {"role", "selectors", "namespaces", "api_server", "kubeconfig_file"}
_RELABEL = {"source_labels", "separator", "target_label", "regex", "modulus", "replacement", "action"}
_ACTIONS = {"replace", "keep", "drop", "hashmod", "labelmap", "labeldrop", "labelkeep", "keepequal"}
_DURATION = re.compile(r"(\d+(ms|[smhdwy]))+")
_PANEL = {"id", "type", "title", "description", "datasource", "gridPos", "fieldConfig", "options", "targets"}
_MACROS = {"$__rate_interval": "1m", "$__range": "3h", "$session": ".+"}
_OWN_LABELS = {"SessionName", "instance", "NodeAddress"}


def check_prometheus(path: Path) -> None:
    """Documented keys with values of their kind, and no secret."""
    config = read_yaml(path)
    refuse_if([*_unknown("", config, {"global", "scrape_configs"}), *_global(config.get("global", {}))])
    names = [job.get("job_name") for job in config["scrape_configs"]]
    refuse_if(
        ["job_name: wanted one for each job, and none twice"] if len({*names} - {None}) < len(names) else []
    )
    refuse_if(problem for job in config["scrape_configs"] for problem in _job(job))


def check_dashboard(path: Path) -> None:
    """A dashboard that Grafana imports, whose queries parse, with names and labels that exist."""
    try:
        board = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise Refused(f"no JSON: {error}") from error
    missing = {"title", "uid", "schemaVersion", "panels", "templating", "time"} - set(board)
    refuse_if([f"a dashboard without {name}" for name in sorted(missing)])
    refuse_if([*_layout(board), *(problem for panel in board["panels"] for problem in _panel(panel))])
    refuse_if(
        f"nothing shows {metric.exported}" for metric in METRICS if metric.exported not in path.read_text()
    )


def _unknown(where: str, given: dict[str, Any], known: set[str]) -> Iterator[str]:
    for key in given:
        if key not in known:
            yield f"{where}: Prometheus knows no {key}"


def _global(given: dict[str, Any]) -> Iterator[str]:
    yield from _unknown("global", given, _GLOBAL)
    for key in ("scrape_interval", "scrape_timeout", "evaluation_interval"):
        if key in given and not _DURATION.fullmatch(str(given[key])):
            yield f"global: {key}: {given[key]} is no duration"


def _job(job: dict[str, Any]) -> Iterator[str]:
    where = job["job_name"]
    yield from _unknown(where, job, _JOB)
    if not any(key.endswith("_sd_configs") or key == "static_configs" for key in job):
        yield f"{where}: it says nowhere what to scrape"
    for found in job.get("file_sd_configs", []):
        yield from _unknown(where, found, _FILES)
        for name in found.get("files", []):
            if not name.endswith((".json", ".yml", ".yaml")):
                yield f"{where}: {name} is neither JSON nor YAML"
    for found in job.get("kubernetes_sd_configs", []):
        yield from _unknown(where, found, _KUBERNETES)
        if found.get("role") not in ("node", "pod", "service", "endpoints", "endpointslice", "ingress"):
            yield f"{where}: Kubernetes has no role {found.get('role')}"
    for rule in job.get("relabel_configs", []):
        yield from _unknown(where, rule, _RELABEL)
        if rule.get("action", "replace") not in _ACTIONS:
            yield f"{where}: {rule['action']} is no action"
        if rule.get("action", "replace") == "replace" and "target_label" not in rule:
            yield f"{where}: a rule that puts its value nowhere"
    if "password" in str(job.get("basic_auth", "")).replace("password_file", ""):
        yield f"{where}: a password belongs into password_file"


def _layout(board: dict[str, Any]) -> Iterator[str]:
    ids = [panel.get("id") for panel in board["panels"]]
    if len(set(ids)) < len(ids):
        yield "two panels have the same id"
    cells: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        if own & cells or place["x"] + place["w"] > 24:
            yield f"{panel['title']}: it lies over another panel, or beyond the grid of 24"
        cells |= own


def _panel(panel: dict[str, Any]) -> Iterator[str]:
    if missing := _PANEL - set(panel):
        yield f"a panel without {sorted(missing)}"
    for target in panel.get("targets", []):
        query = target["expr"]
        for macro, value in _MACROS.items():
            query = query.replace(macro, value)
        try:
            tree = promql_parser.parse(query)
        except ValueError as error:
            yield f"{panel['title']}: {target['expr']}: {error}"
            continue
        yield from _names(panel["title"], tree.prettify(), target.get("legendFormat", ""))


def _names(title: str, query: str, legend: str) -> Iterator[str]:
    ours = {metric.exported: metric for metric in METRICS}
    allowed = set(_OWN_LABELS)
    for name in set(re.findall(r"\b(ray_\w+)", query)):
        if name in ours:
            allowed |= set(ours[name].labels)
            is_rated = re.search(rf"(rate|increase)\(\s*{name}\b", query)
            if (ours[name].kind == "counter") != bool(is_rated):
                yield f"{title}: {name} is a {ours[name].kind}; of counters take rate() or increase()"
        elif name not in _rays_own():
            yield f"{title}: {name} is neither in cluster/metric_names.py nor in Ray's own dashboards"
    words = re.findall(r"\bby \(([^)]*)\)", query) + re.findall(r"\{\{(\w+)\}\}", legend)
    for label in {word.strip() for words_ in words for word in words_.split(",")} - allowed:
        yield f"{title}: no metric of it has the label {label}"


@cache
def _rays_own() -> set[str]:
    """Names in the dashboards that Ray ships."""
    folder = Path(ray.dashboard.__file__).parent / "modules" / "metrics" / "dashboards"
    texts = (file.read_text() for file in folder.glob("*.py"))
    return {name for text in texts for name in re.findall(r"\bray_\w+", text)}
