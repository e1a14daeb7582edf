"""Where workers look for modules: where their driver does, but not in the folder that it stands in.

Ray puts that folder first. Whoever runs us in a library stands among the files of strangers, one of which may
have the name of a module that workers import; and a `cluster` or `flows` of the user's own is not ours.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from ray.job_config import JobConfig


class _Fixed(list[str]):
    """Folders that Ray reads, and to which it adds in vain."""

    def extend(self, folders: Iterable[str], /) -> None:
        """Leave it as it is."""


def job_config() -> JobConfig:
    """For `ray.init`: workers have the driver's folders of modules before their own installation's."""
    config = JobConfig()
    config._py_driver_sys_path = _Fixed(reversed(_added_folders()))  # each is put before the one before it
    return config


def _added_folders() -> list[str]:
    """Those on `sys.path` that belong to no installation; "" is the folder we stand in."""
    installed = {Path(root).resolve() for root in (sys.prefix, sys.base_prefix)}
    return [
        path for path in sys.path if path and not any(map(Path(path).resolve().is_relative_to, installed))
    ]
