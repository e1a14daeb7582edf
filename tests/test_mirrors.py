"""Where workers on other machines find weights: in their run's destination, or a mirror, and nowhere else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from splitfire_batch import job as story
from splitfire_batch.config import RuntimeConfig, SeparationConfig
from splitfire_batch.errors import ConfigError, StorageError, TransientError
from splitfire_batch.job import Job
from splitfire_batch.models import supply_of_worker
from splitfire_batch.models.members import needed_cards
from splitfire_batch.models.mirrors import OFFERED, mirror_weights, offer_weights
from splitfire_batch.models.supply import Supply
from splitfire_batch.models.weights import cache_folder, fetch_weights, load_weights
from splitfire_batch.records import Shard, ShardEvent
from splitfire_batch.runs import needs_offers
from splitfire_batch.spec import WorkerSpec
from splitfire_batch.storage import open_store
from tests.elsewhere import run_elsewhere
from tests.fault_proxy import FaultProxy, Rule
from tests.s3_server import S3Server
from tests.small_library import write_registry
from tests.test_downloads import server as server
from tests.test_job import here, tone
from tests.test_weights import FILES, card_with, put
from tests.weights_server import WeightsServer

CLUSTER = "192.0.2.1:6379"
"""Nobody's address (RFC 5737): no test connects to it."""


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch) -> None:
    """A cache of the test's own, and no index."""
    monkeypatch.setenv("SPLITFIRE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")


def test_workers_of_a_cluster_have_the_weights_from_the_destination(bucket, tmp_path):
    """Also those of a registry's own file, which lies on the driver's machine alone."""
    file = write_registry(tmp_path)
    tone(tmp_path / "in" / "a.wav", 200)

    def elsewhere(shards: Iterable[Shard], spec: WorkerSpec) -> Iterator[ShardEvent]:
        (tmp_path / "a.safetensors").unlink()
        file.unlink()
        run_elsewhere(shards, spec, SPLITFIRE_CACHE=str(tmp_path / "another machine"))
        yield from ()

    runtime = RuntimeConfig(registry=str(file), ray=CLUSTER)
    job = Job(str(tmp_path / "in"), f"{bucket}/out", SeparationConfig("weighed"), runtime=runtime)
    story.check(job)
    planned = story.make_plan(job, story.list_tracks(job))
    planned = story.save_plan(planned)
    report = story.finalise(planned, story.separate(planned, elsewhere, lambda _: None))
    assert (report.n_done, report.n_failed) == (1, 0)
    (cached,) = cache_folder().glob("*.safetensors")
    stored = [item.path for item in open_store(job.destination, {}).list_under(OFFERED)]
    assert stored == [f"{OFFERED}/{cached.name}"]
    (other,) = (tmp_path / "another machine" / "weights").glob("*.safetensors")
    assert (other.name, other.read_bytes()) == (cached.name, cached.read_bytes())


ON_A_CLUSTER = """
import os, sys
from ray.cluster_utils import Cluster
from tests.in_process_job import JobOrder

source, bucket, folder, registry = sys.argv[1:]
os.environ["SPLITFIRE_CACHE"] = f"{folder}/another machine"  # actors have the environment of their node
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 80_000_000})
os.environ["SPLITFIRE_CACHE"] = f"{folder}/cache"
runtime = {"ray": cluster.address, "registry": registry, "workers": 1}
order = JobOrder(source, f"{bucket}/out", f"{folder}/journal", runtime=runtime, model="weighed")
code = order()
cluster.shutdown()
sys.exit(code)
"""


@pytest.mark.slow
def test_actors_of_a_real_cluster_with_a_cache_of_their_own_do_the_same(bucket, tmp_path):
    tone(tmp_path / "in" / "a.wav", 200)
    arguments = [str(tmp_path / "in"), bucket, str(tmp_path), str(write_registry(tmp_path))]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    child = subprocess.run(
        [sys.executable, "-c", ON_A_CLUSTER, *arguments], env=environment, capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr
    names = [path.name for path in (tmp_path / "cache" / "weights").glob("*.safetensors")]
    assert len(names) == 1
    assert [item.path for item in open_store(f"{bucket}/out", {}).list_under(OFFERED)] == [
        f"{OFFERED}/{names[0]}"
    ]
    assert (tmp_path / "another machine" / "weights" / names[0]).exists()


@pytest.mark.parametrize(
    ("destination", "runtime", "is_needed"),
    [
        ("s3://b/out", {"ray": CLUSTER}, True),
        ("/shared/out", {"ray": CLUSTER}, True),
        ("s3://b/out", {}, False),
        ("s3://b/out", {"ray": CLUSTER, "weights_mirror": "s3://b/weights"}, False),
        ("s3://b/out", {"ray": CLUSTER, "offline": True}, False),
        ("/shared/out", {"ray": CLUSTER, "offline": True}, True),
    ],
    ids=["cluster", "cluster, folder", "this machine", "mirror", "offline", "offline, folder"],
)
def test_weights_are_offered_where_workers_may_have_no_other_way(destination, runtime, is_needed):
    assert needs_offers(Job("in", destination, runtime=RuntimeConfig(**runtime))) is is_needed


def offered(card, store, monkeypatch, tmp_path) -> Supply:
    """What a worker gets that is on another machine from now on."""
    urls = offer_weights([fetch_weights(card)], store)
    monkeypatch.setenv("SPLITFIRE_CACHE", str(tmp_path / "another machine"))
    return supply_of_worker(RuntimeConfig(), urls, 0)


def test_what_is_offered_is_put_once_and_compared_with_its_name(tmp_path, monkeypatch):
    card, store = card_with(f"{put(tmp_path / 'there')}/"), open_store(str(tmp_path / "out"), {})
    supply = offered(card, store, monkeypatch, tmp_path)
    (found,) = store.list_under(OFFERED)
    assert offer_weights([Path(store.uri_of(found.path))], store) == supply.offers
    assert store.stat(found.path) == found
    store.write(found.path, b"x" * found.n_bytes)
    with pytest.raises(
        ConfigError, match="is not what the run stored there: it has another sha256; remove it"
    ):
        fetch_weights(card, supply)
    assert [path.suffix for path in cache_folder().iterdir()] == [".lock"]
    store.delete(found.path)
    with pytest.raises(ConfigError, match=f"the run stored at {supply.offers[0]}: there is no such object"):
        fetch_weights(card, supply)


def test_a_destination_that_is_away_passes(bucket, s3: S3Server, tmp_path, monkeypatch):
    card = card_with(f"{put(tmp_path / 'there')}/")
    with FaultProxy(s3.endpoint, Rule("status", "^GET .*safetensors", count=4)) as proxy:
        supply = offered(card, open_store(bucket, {}), monkeypatch, tmp_path)
        supply = replace(supply, options={"s3://": {"endpoint_url": proxy.endpoint}})
        with pytest.raises(TransientError, match=r"the weights of tiny that the run stored: .* tries in"):
            fetch_weights(card, supply)
        assert "step" in load_weights(card, supply)


def test_a_worker_asks_no_publisher(server: WeightsServer, tmp_path):
    card = card_with(f"{server.url}/", f"{put(tmp_path / 'there')}/")
    with pytest.raises(ConfigError) as caught:
        fetch_weights(card, supply_of_worker(RuntimeConfig(), (), 0))
    assert "none: a worker asks no publisher, and no mirror is set" in str(caught.value)
    assert "`splitfire models pull tiny --to URL` and weights_mirror = URL" in str(caught.value)
    assert "folder that all nodes share as SPLITFIRE_CACHE" in str(caught.value)
    list(mirror_weights(card, str(tmp_path / "mirror"), Supply(None)))
    server.requests.clear()
    mirrored = RuntimeConfig(weights_mirror=str(tmp_path / "mirror"))
    assert "step" in load_weights(card, supply_of_worker(mirrored, (), 0))
    assert not server.requests


def test_a_worker_waits_for_its_mirror(server: WeightsServer, tmp_path):
    """As it does for a store; the driver, whose fault it would be to have the wrong address, does not."""
    registry = write_registry(tmp_path)
    path = "/weighed/a.safetensors"
    server.files[path] = (tmp_path / "a.safetensors").read_bytes()
    tone(tmp_path / "in" / "a.wav", 200)
    runtime = RuntimeConfig(registry=str(registry), weights_mirror=server.url)
    job = Job(str(tmp_path / "in"), str(tmp_path / "out"), SeparationConfig("weighed"), runtime=runtime)

    def later(shards: Iterable[Shard], spec: WorkerSpec) -> Iterator[ShardEvent]:
        shutil.rmtree(tmp_path / "cache")
        server.refusals[path] = [503, 503, 503, 503, 200]
        yield from here(shards, spec)

    story.check(job)
    planned = story.make_plan(job, story.list_tracks(job))
    story.save_plan(planned)
    assert story.separate(planned, later, lambda _: None).n_done == 1
    assert [asked for asked, _ in server.requests] == [path] * 6


def test_a_mirror_that_stops_answering_is_not_called_wrong(bucket, s3: S3Server, tmp_path, monkeypatch):
    monkeypatch.setattr("splitfire_batch.storage.PATIENCE_S", 0.0)
    card = card_with(f"{put(tmp_path / 'there')}/")
    with FaultProxy(s3.endpoint) as proxy:
        supply = Supply(options={"s3://": {"endpoint_url": proxy.endpoint}})
        assert len(list(mirror_weights(card, bucket, supply))) == len(FILES)
        proxy.set_rules(Rule("status", "^GET .*tiny/"))
        with pytest.raises(TransientError, match=f"the mirror {bucket} does not answer: {bucket}/tiny/model"):
            list(mirror_weights(card, bucket, supply))
        proxy.set_rules(Rule("status", "^GET .*tiny/", status=403))
        with pytest.raises(StorageError, match="the store refuses"):
            list(mirror_weights(card, bucket, supply))
        proxy.set_rules()
        assert len(list(mirror_weights(card, bucket, supply))) == len(FILES)


@pytest.mark.parametrize(
    ("stems", "members"),
    [
        ("drums", ["drums"]),
        ("vocals,no_vocals", ["vocals"]),
        ("drums,bass", ["drums", "bass"]),
        ("", ["drums", "bass", "vocals"]),
        ("other", ["drums", "bass", "vocals"]),
    ],
)
def test_of_a_bag_only_the_members_that_the_stems_need_are_fetched(stems, members):
    """The stem that takes what is left over is the mix minus the others."""
    separation = SeparationConfig("htdemucs_ft", tuple(stems.split(",")) if stems else ())
    assert [card.name for card in needed_cards(separation)] == [f"htdemucs_ft_{stem}" for stem in members]


def test_a_run_fetches_only_the_members_it_needs(tmp_path, monkeypatch):
    fetched: list[str] = []

    def fetch(card, _):
        fetched.append(card.name)
        return tmp_path / card.name

    monkeypatch.setattr("splitfire_batch.models.weights.fetch_weights", fetch)
    tone(tmp_path / "in" / "a.wav", 200)
    separation = SeparationConfig("htdemucs_ft", ("drums",), residual="drop")
    job = Job(str(tmp_path / "in"), str(tmp_path / "out"), separation)
    story.save_plan(story.make_plan(job, story.list_tracks(job)))
    assert fetched == ["htdemucs_ft_drums"]
