"""A plan in a file: what was listed on the day it was looked at, so that a run does that and nothing else.

The file is a Parquet table of the whole listing, whose metadata say what it was made for. A run with it lists
nothing: it takes these tracks, minus what is done by then, and names stems as a run on that day would have.
An object that changed since is not separated; its row says SOURCE_CHANGED. Nor is one that was done since, in
whatever version.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from splitfire_batch.catalogue import LISTING, Catalogue, check_source
from splitfire_batch.errors import ConfigError, ObjectMissing
from splitfire_batch.identity import differences, settings
from splitfire_batch.masking import masked
from splitfire_batch.models import find_card, weights_id
from splitfire_batch.rows import BATCH_ROWS, rows_of, write_parquet
from splitfire_batch.runs import destination_of, is_immutable, newest_run, stamp
from splitfire_batch.scratch import scratch_folder
from splitfire_batch.spec import Job
from splitfire_batch.storage import Store, open_store
from splitfire_batch.tables import placed, plain_url

EXTENSION = ".parquet"
_KEY = b"splitfire_plan"
_VERSION = 1


def check_place(url: str, job: Job, is_new: bool = False) -> None:
    """Refuse a file that holds no plan, or in which none can be saved, before anything is done.

    Args:
        url: path or URL of the file.
        job: its options of stores are used.
        is_new: whether a plan is to be saved there.

    Raises:
        ConfigError: a name that ends otherwise, is taken, or is not there.
    """
    store, name = _place(url, job)
    if store.exists(name) != is_new:
        return
    if is_new:
        raise ConfigError(f"{url} exists already; give --save another name, or remove it first")
    raise _missing(url)


def save_listing(catalogue: Catalogue, job: Job, url: str, newest: str | None = None) -> None:
    """Write down what was listed for a job.

    Args:
        catalogue: what `list_tracks` gave for the job.
        job: what it was listed for.
        url: path or URL of the file; ends in ".parquet".
        newest: `newest_run` of the destination before that; now, if None.

    Raises:
        ConfigError: a name that ends otherwise.
    """
    store, name = _place(url, job)
    about = {
        "version": _VERSION,
        "saved_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "newest_run": newest_run(destination_of(job)) if newest is None else newest,
        "catalogue": catalogue.name,
        "ignored": catalogue.ignored,
        "purpose": _purpose(job),
    }
    with scratch_folder(job.runtime.scratch_dir) as folder:
        file = write_parquet(catalogue.rows, folder / "plan", {_KEY: json.dumps(about).encode()})
        store.write(name, file)


def read_listing(job: Job, url: str) -> Catalogue:
    """The listing that was saved for a job like this one.

    Args:
        job: with the source, destination and settings that the plan was saved for; `runtime` may differ.
        url: path or URL of the file.

    Raises:
        ConfigError: no such file, no plan, one of another job, or one that names objects outside the job's
            source and `allow_root`: whoever can change the file must not choose what a machine reads.
    """
    store, name = _place(url, job)
    roots = [check_source(job.source, job.runtime.storage), *map(plain_url, job.catalogue.allow_root)]
    with scratch_folder(job.runtime.scratch_dir) as folder:
        try:
            file = pq.ParquetFile(store.fetch(name, folder / "plan"))
        except ObjectMissing as error:
            raise _missing(url) from error
        except pa.ArrowInvalid as error:
            raise ConfigError(f"{url} is no saved plan: {masked(str(error))}") from error
        with file:
            about = _about(file, url)
            if what := differences(about["purpose"], _purpose(job)):
                of = f"{url}, saved {about['saved_at']}"
                raise ConfigError(f"{of}, is the plan of another job: {what}; give the same, or plan again")
            rows = rows_of(_batches(file, roots, url), LISTING, job.runtime.scratch_dir)
    newest = about.get("newest_run", stamp(datetime.fromisoformat(about["saved_at"])))
    return Catalogue(about["catalogue"], rows, about["ignored"], newest_run=newest)


def _place(url: str, job: Job) -> tuple[Store, str]:
    """The store of the file's folder, and its name there."""
    if not url.endswith(EXTENSION):
        raise ConfigError(f"found {url} for a saved plan, wanted a name that ends in {EXTENSION}")
    folder, _, name = plain_url(url).rpartition("/")
    return open_store(folder or "/", job.runtime.storage), name


def _missing(url: str) -> ConfigError:
    return ConfigError(f"there is no saved plan {url}; make one with: splitfire plan --save")


def _purpose(job: Job) -> dict[str, Any]:
    """What a plan depends on besides the listing and what is done, as JSON gives it back."""
    separation, output = job.separation, job.output
    values = {
        "source": plain_url(job.source),
        "destination": destination_of(job).url,
        **settings(separation, output, weights_id(find_card(separation.model))),
        "names": "immutable" if is_immutable(job) else "plain",
        "template": output.template,
        "replace": job.replace,
        **dataclasses.asdict(job.catalogue),
    }
    as_json: dict[str, Any] = json.loads(json.dumps(values))
    return as_json


def _about(file: pq.ParquetFile, url: str) -> dict[str, Any]:
    """What `save_listing` wrote beside the rows."""
    try:
        about: dict[str, Any] = json.loads((file.schema_arrow.metadata or {})[_KEY])
        version = about["version"]
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"{url} is no saved plan; make one with: splitfire plan --save") from error
    if version != _VERSION:
        raise ConfigError(f"{url} has version {version} of saved plans, wanted {_VERSION}: plan again")
    return about


def _batches(file: pq.ParquetFile, roots: list[str], url: str) -> Iterator[pa.RecordBatch]:
    """The rows, after it is seen that each may be fetched, or has a `problem` and never is."""
    for batch in file.iter_batches(BATCH_ROWS, columns=LISTING.names):
        is_outside = pc.and_(
            pc.is_null(batch["problem"]), pc.is_valid(placed(batch["uri"], roots)["problem"])
        )
        if pc.any(is_outside).as_py():
            found = masked(batch["uri"].filter(is_outside)[0].as_py())
            raise ConfigError(f"{url} names {found}, wanted objects below {' or '.join(roots)}: plan again")
        yield batch.cast(LISTING)
