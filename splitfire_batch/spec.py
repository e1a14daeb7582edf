"""What a driver sends to make a worker, wherever it is to run; light enough for a run with nothing to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from splitfire_batch.config import OutputConfig, RuntimeConfig, SeparationConfig
from splitfire_batch.schema import RunContext

if TYPE_CHECKING:
    from splitfire_batch.worker import Worker


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """Everything a worker needs to make itself, on whatever machine; it holds no secret."""

    destination: str
    separation: SeparationConfig
    output: OutputConfig
    runtime: RuntimeConfig
    context: RunContext
    is_immutable: bool
    """Whether stem names end in the hash of their bytes."""
    device: str = "cpu"
    threads: int = 1

    def __call__(self) -> Worker:
        """Load the model and open the stores; torch is imported here and not before."""
        from splitfire_batch.worker import Worker

        return Worker(self)
