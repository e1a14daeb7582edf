"""What is asked for: of a job by its operator, and of a worker, wherever it is to run, by the driver.

Light enough for a run with nothing to do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from splitfire_batch.config import CatalogueConfig, OutputConfig, RuntimeConfig, SeparationConfig
from splitfire_batch.manifest.outcomes import recorded
from splitfire_batch.manifest.schema import RunContext
from splitfire_batch.records import Outcome
from splitfire_batch.storage import open_store

if TYPE_CHECKING:
    from splitfire_batch.models.cards import ModelCard
    from splitfire_batch.worker import Worker


@dataclass(frozen=True, slots=True)
class Job:
    """What the operator asks for."""

    source: str
    destination: str
    separation: SeparationConfig = field(default_factory=SeparationConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    catalogue: CatalogueConfig = field(default_factory=CatalogueConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    replace: bool = False
    """Write over stems that were made with other settings (plain names only)."""
    retry: tuple[str, ...] | None = None
    """In place of the whole catalogue, its tracks that failed with these codes (empty: with any)."""
    saved_plan: str | None = None
    """Path or URL of a plan of this job; what was listed for it is taken, and nothing else."""

    @property
    def urls(self) -> tuple[str | None, ...]:
        """Whatever may be a URL and travels with the job: none may hold a secret."""
        runtime, roots = self.runtime, self.catalogue.allow_root
        places = (self.source, self.destination, self.saved_plan)
        return (*places, runtime.weights_mirror, runtime.registry, *roots)


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
    nonce: str = ""
    """Of the lease that must be held whenever rows, or stems under plain names, are written; or empty."""
    cards: tuple[ModelCard, ...] = ()
    """Models of the user's own registry, whose file need not be where the worker is."""
    weights: tuple[str, ...] = ()
    """URLs of the weights, for a machine that has them neither in its cache nor from a mirror."""

    def __call__(self) -> Worker:
        """Load the model and open the stores; torch is imported here and not before."""
        from splitfire_batch.worker import Worker

        return Worker(self)

    def recorded(self, shard_id: str) -> tuple[Outcome, ...]:
        """What lies in the destination of a shard, whether or not its worker lived to tell."""
        return recorded(open_store(self.destination, self.runtime.storage), self.context, shard_id)
