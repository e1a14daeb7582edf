"""A Ray to work in: one started here, or a cluster that is joined; and how many actors fit into it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain

import ray
from ray._private import services
from ray.exceptions import RayError

from cluster.access import check_cluster, for_us_only, settings_kept
from cluster.actors import PoolSize
from cluster.import_paths import job_config
from cluster.own_ray import few_processes
from splitfire_batch.config import RuntimeConfig
from splitfire_batch.errors import ConfigError, TransientError

_OBJECT_STORE_BYTES = 100_000_000
"""No audio crosses Ray, so little shared memory will do (Ray's own minimum is 78,643,200)."""
_CONNECT_S = 5.0
_NAMESPACE = "splitfire"


@contextmanager
def connect(
    address: str | None = None, n_cpus: int | None = None, is_verbose: bool = False
) -> Iterator[None]:
    """Within it there is a Ray; afterwards only one that was started here is gone.

    A Ray that this process already has is used as it is. Ray takes over SIGTERM when it is started, so
    a process with a handler of its own installs it inside. Usage statistics are off. Whatever the
    setting, Ray prints a line to stdout when a worker dies.

    Args:
        address: `host:port` of a cluster's head, `auto` for the one of this machine, None to start one.
        n_cpus: CPUs that a Ray started here may give away; None for all of the machine's.
        is_verbose: print what Ray and the actors print.

    Raises:
        ConfigError: the address is none that can be used here.
        TransientError: the cluster does not answer, or Ray did not start.
    """
    if ray.is_initialized():
        yield
        return
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with settings_kept():
        try:
            if address is None:
                _start(n_cpus, is_verbose)
            else:
                _join(address, is_verbose)
            yield
        finally:
            ray.shutdown()


@dataclass(frozen=True, slots=True)
class Node:
    """What a machine of the cluster gives away."""

    n_cpus: int
    n_gpus: int = 0


def pool_size(config: RuntimeConfig) -> PoolSize:
    """How many actors the connected Ray has room for, and what each reserves.

    With GPUs one actor for each, and a share of its node's CPUs. Without, one for every two CPUs. On a
    cluster their number follows nodes that join, unless it is set; a number that is set is asked for with a
    whole GPU each where the device is `cuda`, and has the cluster grow if it has fewer.

    Raises:
        ConfigError: GPUs are asked for, Ray sees none, and it is not said how many there should be.
    """
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    size = size_for(config, [Node(int(has.get("CPU", 0)), int(has.get("GPU", 0))) for has in alive])
    return replace(size, grows=config.ray is not None and config.workers is None)


def size_for(config: RuntimeConfig, nodes: Sequence[Node]) -> PoolSize:
    """As `pool_size`, for a cluster of these nodes.

    Each actor reserves as many whole CPUs as let every one of them have a place on some node; more workers
    than CPUs share them.

    Raises:
        ConfigError: GPUs are asked for and there are none.
    """
    n_gpus = sum(node.n_gpus for node in nodes)
    if config.device == "cuda" and config.ray and n_gpus < (config.workers or 0):
        return _size_to_grow_to(config, config.workers or 0, nodes, n_gpus)
    if config.device == "cuda" and n_gpus == 0:
        raise ConfigError(
            "device: found 'cuda', and Ray sees no GPU; use 'auto' or 'cpu', or join a cluster with --ray; "
            "for one that grows and has no GPU yet, say with --workers how many there shall be"
        )
    gpus = 0.0
    if n_gpus and config.device != "cpu":
        workers = config.workers or n_gpus
        per_gpu = -(-workers // n_gpus)
        gpus = 10_000 // per_gpu / 10_000  # Ray counts in ten-thousandths; rounded down, so that all fit
        places = [(node.n_cpus, node.n_gpus * per_gpu) for node in nodes]
    else:
        # a cluster that grows on demand may begin with a head that gives no CPU away
        counts = [node.n_cpus for node in nodes if node.n_cpus] or [1]
        workers = config.workers or sum(n // 2 for n in counts) or len(counts)
        places = [(n, workers) for n in counts]
    cpus = _cpus_each(places, workers)
    threads = config.threads or max(1, int(cpus))
    return PoolSize(workers, int(cpus * 10_000) / 10_000, gpus, threads)


def _size_to_grow_to(config: RuntimeConfig, workers: int, nodes: Sequence[Node], n_gpus: int) -> PoolSize:
    """For more workers than there are GPUs: one for each, and as many CPUs as on the nodes there are."""
    here = size_for(replace(config, workers=n_gpus), nodes) if n_gpus else PoolSize(0, 1, 1, 1)
    return PoolSize(workers, here.cpus, 1, config.threads or here.threads)


def _cpus_each(places: Sequence[tuple[int, int]], workers: int) -> Fraction:
    """The most that each worker can reserve, on nodes of (CPUs, workers there is otherwise room for)."""
    shares = chain(
        (Fraction(n) for n in range(max(n_cpus for n_cpus, _ in places), 0, -1)),
        (Fraction(1, n) for n in range(2, workers + 1)),
    )
    for cpus in shares:
        if sum(min(n_cpus // cpus, room) for n_cpus, room in places) >= workers:
            return cpus
    return Fraction(0)


def find_cluster(address: str) -> str:
    """`host:port` as given, or for `auto` of this machine's cluster. Raises TransientError."""
    if address != "auto":
        return address
    try:
        found: str = services.canonicalize_bootstrap_address_or_die(address)
    except (ConnectionError, ValueError) as error:
        raise TransientError(f"ray: no cluster is found on this machine: {error}") from error
    return found


def knock(address: str) -> None:
    """Returns if something listens at `host:port`; waits a few seconds at most.

    Raises:
        ConfigError: the address is no `host:port`.
        TransientError: nothing answers there.
    """
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal():
        raise ConfigError(
            f"ray: found {address!r}, wanted host:port of the head node (such as 10.0.0.1:6379) or auto; "
            "run this command on a machine of the cluster"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise TransientError(f"no Ray cluster answers at {address}: {error}") from error


def _start(n_cpus: int | None, is_verbose: bool) -> None:
    """A Ray of our own, for this machine and this user only."""
    try:
        with for_us_only() as folder, few_processes(is_verbose):
            ray.init(
                address="local",
                num_cpus=n_cpus,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                namespace=_NAMESPACE,
                job_config=job_config(),
                log_to_driver=is_verbose,
                logging_level=logging.INFO if is_verbose else logging.ERROR,
                _temp_dir=str(folder / "ray"),
                # else it begins with a worker for each CPU there is, whatever will be asked of it
                _system_config={"prestart_worker_first_driver": False},
            )
    except Exception as error:  # a bare one where a node takes too long to start
        raise TransientError(f"Ray did not start on this machine: {error}") from error


def _join(address: str, is_verbose: bool) -> None:
    """A cluster's Ray; asked whether it is there first, because Ray itself waits for minutes, then exits."""
    address = find_cluster(address)
    knock(address)
    check_cluster(address)
    try:
        ray.init(
            address=address,
            namespace=_NAMESPACE,
            job_config=job_config(),
            log_to_driver=is_verbose,
            logging_level=logging.INFO if is_verbose else logging.ERROR,
        )
    except (RayError, OSError, RuntimeError) as error:
        raise TransientError(f"the Ray cluster at {address} cannot be joined: {error}") from error
