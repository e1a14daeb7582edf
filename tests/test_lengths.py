"""Lengths: what the catalogue tells is believed, what headers tell is exact, and a sample knows its error."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pytest

from splitfire_batch.catalogue import LISTING
from splitfire_batch.lengths import Lengths, ReadHeaders, guess_lengths, sample_lengths
from splitfire_batch.records import AudioFormat
from splitfire_batch.rows import Rows, rows_of

RATE = 44_100


def listing(paths: Sequence[str], n_bytes: Sequence[int], **columns: Sequence[object]) -> Rows:
    n = len(paths)
    ids = [blake2b(path.encode(), digest_size=8).hexdigest() for path in paths]
    texts = {name: list(paths) for name in ("source_id", "uri", "etag")}
    known = {"track_id": ids, "path": list(paths), "n_bytes": list(n_bytes), "meta": [[]] * n, **texts}
    empty = {"duration_s": [None] * n, "problem": [None] * n}
    values = {**empty, **known, **columns}
    arrays = [pa.array(values[field.name], field.type) for field in LISTING]
    table = pa.Table.from_arrays(arrays, schema=LISTING)
    return rows_of(table.to_batches(), LISTING)


class Library:
    """Files of any length, and who read them."""

    def __init__(self, seconds: dict[str, float], unread: Sequence[str] = ()) -> None:
        self.seconds, self.asked = seconds, []
        self._unread = set(unread)

    def __call__(self, objects: Sequence[tuple[str, int]]) -> list[AudioFormat | None]:
        self.asked += [uri for uri, _ in objects]
        return [
            None
            if uri in self._unread
            else AudioFormat("FLAC", "PCM_16", RATE, 2, round(self.seconds[uri] * RATE))
            for uri, _ in objects
        ]


def folders_of_flac(n: int, seed: int) -> tuple[Rows, Library]:
    """Two folders, one of which is compressed half as well; and in each file some chance."""
    chance = np.random.default_rng(seed)
    n_bytes = np.exp(chance.normal(15, 1.5, n)).astype(int)
    is_dense = chance.random(n) < 0.5
    paths = [f"{'dense' if d else 'thin'}/{seed}-{i}.flac" for i, d in enumerate(is_dense)]
    rates = np.where(is_dense, 150_000, 75_000) * chance.uniform(0.7, 1.3, n)
    seconds = n_bytes / rates
    return listing(paths, n_bytes.tolist()), Library(dict(zip(paths, seconds.tolist(), strict=True)))


def all_of(rows: Rows) -> np.ndarray:
    return np.ones(len(rows), bool)


def test_without_headers_told_lengths_are_believed_and_the_rest_is_guessed_from_sizes():
    rows = listing(
        ["a.wav", "b.wav", "c.mp3"], [176_400 * 10, 176_400 * 10, 28_000], duration_s=[3.0, -1, None]
    )
    found = guess_lengths(rows, all_of(rows))
    assert found.seconds.tolist() == [3.0, 10.0, 1.0]
    assert (found.sample.n_told, found.sample.n_guessed) == (1, 2)
    assert found.sample.error_s == pytest.approx(11.0 * 0.5)


def test_a_small_catalogue_is_read_whole_and_known_exactly():
    rows, library = folders_of_flac(100, 1)
    found = sample_lengths(rows, all_of(rows), library, n_sample=100)
    wanted = [library.seconds[path] for path in rows.table(["path"])["path"].to_pylist()]
    assert found.seconds == pytest.approx(wanted, abs=1 / RATE)
    assert found.sample.error_s == 0
    assert (found.sample.n_read, found.sample.n_scaled, found.sample.n_guessed) == (100, 0, 0)
    assert sum(seconds for seconds, _ in found.sample.formats) == pytest.approx(sum(wanted), rel=1e-4)


def test_the_interval_holds_the_truth_nearly_always_and_is_no_excuse():
    """95 of 100 are promised; with 25 trials fewer than 20 would be a wonder (1 in 800)."""
    hits, widths = 0, []
    for seed in range(25):
        rows, library = folders_of_flac(2_000, seed)
        found = sample_lengths(rows, all_of(rows), library, n_sample=200)
        truth = sum(library.seconds.values())
        hits += abs(float(found.seconds.sum()) - truth) <= found.sample.error_s
        widths.append(found.sample.error_s / truth)
        assert len(library.asked) <= 200
    assert hits >= 20
    assert np.median(widths) < 0.06


def test_only_tracks_to_do_whose_length_nobody_tells_are_read():
    paths = ["told.wav", "done.wav", "archived.wav", "open.wav"]
    problems = [None, None, "ARCHIVED: restore it", None]
    rows = listing(paths, [1_000] * 4, duration_s=[5.0, None, None, None], problem=problems)
    library = Library({"open.wav": 7.0})
    found = sample_lengths(rows, np.array([True, False, True, True]), library)
    assert library.asked == ["open.wav"]
    assert found.seconds[[0, 2, 3]].tolist() == [5.0, 0.0, 7.0]
    assert (found.sample.n_told, found.sample.n_read) == (1, 1)


def test_the_same_listing_in_another_order_gives_the_same_sample():
    rows, library = folders_of_flac(1_000, 3)
    _, again = folders_of_flac(1_000, 3)
    table = rows.table().take(pa.array(np.random.default_rng(0).permutation(1_000)))
    shuffled = rows_of(table.to_batches(), LISTING)
    first = sample_lengths(rows, all_of(rows), library, n_sample=100)
    second = sample_lengths(shuffled, all_of(shuffled), again, n_sample=100)
    assert sorted(library.asked) == sorted(again.asked)
    assert first.seconds.sum() == pytest.approx(second.seconds.sum())


def test_headers_that_cannot_be_read_leave_guesses_and_a_wide_margin():
    rows = listing(["a.wma", "b.wma"], [200_000, 200_000])
    found = sample_lengths(rows, all_of(rows), Library({}, unread=["a.wma", "b.wma"]))
    assert found.seconds.tolist() == [10.0, 10.0]
    assert (found.sample.n_read, found.sample.n_guessed) == (0, 2)
    assert found.sample.error_s == pytest.approx(10.0)


def test_files_without_audio_make_those_like_them_count_for_less():
    paths = [f"{i}.flac" for i in range(1_000)]
    rows = listing(paths, [1_000_000] * 1_000)
    library = Library({path: 10.0 if int(path[:-5]) % 2 else 0.0 for path in paths})
    found = sample_lengths(rows, all_of(rows), library, n_sample=300)
    assert found.seconds.sum() == pytest.approx(5_000, rel=0.2)


def test_a_rare_kind_is_looked_at_too():
    """Two headers of each stratum, or else the one huge file would be guessed by the small ones."""
    paths = [f"{i}.flac" for i in range(2_000)] + ["set.flac"]
    rows = listing(paths, [100_000] * 2_000 + [10**9])
    library = Library({**dict.fromkeys(paths, 1.0), "set.flac": 14_400.0})
    found = sample_lengths(rows, all_of(rows), library, n_sample=50)
    assert found.seconds[-1] == 14_400.0


@pytest.mark.parametrize("measure", [guess_lengths, None], ids=["guessed", "sampled"])
def test_nothing_to_do_reads_nothing(measure: Callable[..., Lengths] | None):
    rows, library = folders_of_flac(10, 1)
    read: ReadHeaders = library
    nobody = np.zeros(len(rows), bool)
    found = measure(rows, nobody) if measure else sample_lengths(rows, nobody, read)
    assert (found.sample.n_told, found.sample.n_read, found.sample.n_guessed) == (0, 0, 0)
    assert not library.asked


def test_fifty_thousand_tracks_are_sampled_within_a_cpu_second():
    rows, library = folders_of_flac(50_000, 1)
    begin = time.process_time()
    sample_lengths(rows, all_of(rows), library)
    assert time.process_time() - begin < 1
