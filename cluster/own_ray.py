"""Which processes a Ray of our own has, and how they are started. Ray has no settings for these."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from ray._private import parameter, services


@contextmanager
def few_processes(is_verbose: bool) -> Iterator[None]:
    """While it is open, a Ray that is started has only what a run uses, in a process group of its own.

    What Ray starts besides, whether it is asked to or not, takes 4 of 9 CPU-seconds, and `ray.init` waits for
    one of them: a dashboard that shows nothing, an autoscaler without machines, and, unless `is_verbose`, a
    reader of logs that prints nothing.

    Prefect's workers, and other schedulers, ask a run to stop by SIGTERM to its whole group. Ray would die of
    it at once, and with it the actors that are to finish their tracks.
    """
    # the types of its parameters say str, and it asks for the truth of it
    few = partial(parameter.RayParams, no_monitor=True, include_log_monitor=is_verbose)  # type: ignore[arg-type]
    group_of_its_own = partial(services.ConsolePopen, process_group=0)
    changes: list[tuple[Any, str, Any]] = [
        (parameter, "RayParams", few),
        (services, "ConsolePopen", group_of_its_own),
        (services, "start_api_server", _start_no_dashboard),
    ]
    before = [getattr(module, name) for module, name, _ in changes]
    try:
        for module, name, changed in changes:
            setattr(module, name, changed)
        yield
    finally:
        for (module, name, _), value in zip(changes, before, strict=True):
            setattr(module, name, value)


def _start_no_dashboard(*_: object, **__: object) -> tuple[None, None]:
    """What Ray's own gives where a dashboard did not start and need not: no URL, no process."""
    return None, None
