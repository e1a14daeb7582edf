"""What a run asks of a store, each thing with what follows where it does not hold.

Whatever speaks S3 or looks like a folder need not keep them: some overwrite where they should refuse, some
list what is gone. `contract` tries them on a live store; the test suite keeps every kind of store to the same
ones, with processes as rivals instead of threads.
"""

from __future__ import annotations

import secrets
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from splitfire_batch.errors import ObjectChanged, ObjectExists, TransientError
from splitfire_batch.storage.contract import Broken, Promise, Trial
from splitfire_batch.storage.faults import RetryBudget
from splitfire_batch.storage.races import count_up, create_each, find_false_winner
from splitfire_batch.storage.s3 import S3

ODD_KEYS = (
    "a b/c d.bin",
    "#1 hit.bin",
    "100%.bin",
    "what?versionId=7.bin",
    "a%2Fb.bin",
    "x::y.bin",
    "Äpfel/日本語/🎸.bin",
    "plus+and&more=.bin",
    "quote'\".bin",
    "[set]{brace}*.bin",
)


def _is_written(trial: Trial) -> str:
    for n_bytes in (300_000, 1, 0):  # each shorter than what it replaces
        data, path = secrets.token_bytes(n_bytes), trial.path("written")
        trial.store.write(path, data)
        trial.must(trial.store.read(path) == data, f"of {n_bytes} bytes written, others were read")
        found = trial.store.stat(path).n_bytes
        trial.must(found == n_bytes, f"of {n_bytes} bytes written, {found} are shown")
    with tempfile.NamedTemporaryFile() as file:
        file.write(data := secrets.token_bytes(100_000))
        file.flush()
        trial.store.write(path := trial.path("from file"), Path(file.name))
    trial.must(trial.store.read(path) == data, "a file that was written is read with other bytes")
    with suppress(TransientError):
        trial.store.within(RetryBudget(tries=1)).read(path, n_bytes=len(data) + 1)
        raise Broken("an object of another length than expected was read without an error")
    return "what is written is read, to the byte"


def _is_whole(trial: Trial) -> str:
    path, n_reads = trial.path("overwritten"), 0
    versions = [bytes([n]) * 200_000 for n in range(2)]
    trial.store.write(path, versions[0])
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(lambda: list(map(trial.store.write, [path] * 11, versions[1:] + versions * 5)))
        while not writing.done() or n_reads < 2:
            trial.must(trial.store.read(path) in versions, "a reader saw half of a write")
            n_reads += 1
        writing.result()
    return f"{n_reads} readers during 11 writes saw the old object or the new one"


def _is_listed(trial: Trial) -> str:
    for n in range(4):
        path = trial.path(f"listed/{n}")
        trial.must(not trial.store.exists(path), f"{path} was never written and is there")
        trial.store.write(path, b"x")
        trial.must(path in _names(trial), f"{path} was written and is not listed")
        trial.must(trial.store.exists(path), f"{path} was written and is not there")
    return "what was written is listed at once"


def _deletes(trial: Trial) -> str:
    for n in range(4):
        path = trial.path(f"listed/deleted {n}")
        trial.store.write(path, b"x")
        trial.store.delete(path)
        trial.must(path not in _names(trial), f"{path} was deleted and is listed")
        trial.must(not trial.store.exists(path), f"{path} was deleted and is there")
        trial.store.delete(path)
    return "what was deleted is listed no longer; deleting it again is no error"


def _names(trial: Trial) -> set[str]:
    return {each.path for each in trial.store.list_under(f"{trial.folder}/listed")}


def _takes_keys(trial: Trial) -> str:
    for key in ODD_KEYS:
        path, data = trial.path(f"odd/{key}"), secrets.token_bytes(20)
        trial.store.write(path, data)
        trial.must(trial.store.read(path) == data, f"{key} is read with other bytes")
    listed = {each.path for each in trial.store.list_under(f"{trial.folder}/odd")}
    wanted = {f"{trial.folder}/odd/{key}" for key in ODD_KEYS}
    trial.must(listed == wanted, f"{sorted(listed ^ wanted)} are listed under other names")
    return f"{len(ODD_KEYS)} names with #, %, ?, ::, quotes, brackets and other scripts are taken as they are"


def _creates(trial: Trial) -> str:
    for data in (b"first", b""):
        path = trial.path(f"created {len(data)}")
        trial.store.create(path, data)
        with suppress(ObjectExists):
            trial.store.create(path, b"second")
            raise Broken(f"exclusive create wrote over an object of {len(data)} bytes")
        trial.must(trial.store.read(path) == data, "a create that was refused left its bytes")
    paths, rivals = [trial.path(f"raced/{n}") for n in range(8)], [f"rival {n}" for n in range(8)]
    with ThreadPoolExecutor(len(rivals)) as pool:
        won = list(pool.map(lambda rival: create_each(trial.store, paths, rival), rivals))
    false = find_false_winner(trial.store, paths, dict(zip(rivals, won, strict=True)))
    trial.must(not false, false)
    return f"of {len(rivals)} rivals for each of {len(paths)} objects exactly one wins"


def _replaces(trial: Trial) -> str:
    path = trial.path("replaced")
    trial.must(trial.store.can_replace, "conditional replace is not there for this kind of store")
    etag = trial.store.create(path, b"first")
    trial.store.replace(path, b"second", etag)
    for name in (path, trial.path("never there")):
        with suppress(ObjectChanged):
            trial.store.replace(name, b"third", etag)
            raise Broken("conditional replace wrote over an object that had changed, or was not there")
    trial.store.create(counter := trial.path("counter"), b"0")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda rival: count_up(trial.store, counter, 5, rival), "abcd"))
    found = trial.store.read(counter).split()[0]
    trial.must(found == b"20", f"4 rivals counted to {found.decode()} instead of 20")
    return "4 rivals counted to 20, none over the other"


def _checks_uploads(trial: Trial) -> str:
    backend = trial.store._backend
    if not isinstance(backend, S3):
        return "not asked of this kind of store"
    path = trial.path("damaged")
    is_refused = trial.store._faults.attempt(path, lambda: backend.refuses_damage(path))
    trial.must(is_refused, "an upload whose checksum did not fit was stored")
    return "an upload that is damaged on the way is refused"


_NO_LEASE = "so a lease cannot keep a second run out (--no-lease): see to it that one runs at a time"
_BUCKET, _ANY = frozenset({"bucket"}), frozenset({"bucket", "folder"})  # in a folder a lease is a lock
PROMISES = (
    Promise("write", _is_written),
    Promise("overwrite", _is_whole),
    Promise("listing", _is_listed),
    Promise("exclusive create", _creates, f"in a bucket, {_NO_LEASE}", _BUCKET),
    Promise("conditional replace", _replaces, _NO_LEASE, _ANY),
    Promise("delete", _deletes, "only `splitfire vacuum` has to, so grant it the right to delete"),
    Promise("names", _takes_keys, "sources with such names cannot be there; stems' have few of them"),
    Promise("checksums", _checks_uploads, "only `splitfire verify` finds a stem that was damaged on the way"),
)
"""All that is asked of a store."""
