"""What a run hands to those who do its work: workers, wherever they are, and whoever settles duplicates."""

from __future__ import annotations

from functools import partial

from splitfire_batch.children import CodecLimits, Codecs, InChildren, Inline
from splitfire_batch.config import RuntimeConfig
from splitfire_batch.duplicate_rows import DuplicateBench
from splitfire_batch.models.registry import added_cards
from splitfire_batch.runs import Run, destination_of, is_immutable
from splitfire_batch.spec import WorkerSpec
from splitfire_batch.storage import Stores


def worker_spec(run: Run) -> WorkerSpec:
    """What a worker needs to make itself."""
    return WorkerSpec(
        destination=destination_of(run.job).url,
        separation=run.job.separation,
        output=run.job.output,
        runtime=run.job.runtime,
        context=run.context,
        is_immutable=is_immutable(run.job),
        nonce=run.lease.nonce,
        cards=added_cards(),
        weights=run.weights,
    )


def duplicate_bench(run: Run) -> DuplicateBench:
    """What duplicates are settled with, in the process of the driver."""
    runtime = run.job.runtime
    return DuplicateBench(
        store=destination_of(run.job),
        context=run.context,
        is_immutable=is_immutable(run.job),
        sources=Stores(runtime.storage),
        scratch=runtime.scratch_dir,
        codecs=partial(_codecs, runtime),
        check=run.lease.check,
    )


def _codecs(runtime: RuntimeConfig) -> Codecs:
    if runtime.codecs == "inline":
        return Inline()
    return InChildren(CodecLimits(runtime.codec_mb, runtime.codec_s))
