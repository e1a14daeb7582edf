"""Separate whole music libraries into stems.

`separate(path)` does one file in this process; `job` does a catalogue. Names are loaded when first used,
so that importing the package costs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["Separator", "Stems", "__version__", "separate"]

if TYPE_CHECKING:
    from splitfire_batch.separator import Separator, Stems, separate


def __getattr__(name: str) -> object:
    if name in ("Separator", "Stems", "separate"):
        from splitfire_batch import separator

        return getattr(separator, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
