"""What is a track among listed objects: all at once they are judged as each of them is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from splitfire_batch.sources import _audible, problem_of, why_ignored
from splitfire_batch.storage import StoredObject, open_store

PLAIN = "|.|..|...|.x|..x|x.|_splitfire|a|é|x.wav|X.WAV|y.Mp3|z.txt|.wav|wav|a.wav.bak|mKa"
ODD = ["\udcff.wav", "line\n.wav", "x.wav\n", "nul\0.wav", "x.m\u212aa", "x.opu\u017f"]
"""Names that are no UTF-8, line ends, and letters that are k and s in other cases."""
parts = st.sampled_from([*PLAIN.split("|"), *ODD])
paths = st.lists(parts, min_size=1, max_size=4).map("/".join)
classes = st.sampled_from(["", "STANDARD", "GLACIER", "GLACIER_IR", "DEEP_ARCHIVE"])
objects = st.builds(StoredObject, paths, st.integers(0, 2**40), st.just("e"), st.just(0.0), classes)


@settings(max_examples=40)
@given(st.lists(objects, max_size=12))
@example([StoredObject("\udcff.wav", 1, "e", 0.0), StoredObject("a.wav", 1, "e", 0.0)])
def test_a_page_of_objects_is_judged_as_each_is(page: list[StoredObject]) -> None:
    ignored: Counter[str] = Counter()
    found = _audible(open_store("/music", {}), page, ignored).to_pylist()

    tracks = [item for item in page if why_ignored(item.path) is None]
    assert ignored == Counter(reason for item in page if (reason := why_ignored(item.path)))
    assert [row["path"] for row in found] == [item.path for item in tracks]
    assert [row["name"] for row in found] == [item.path for item in tracks]
    assert [row["uri"] for row in found] == [f"/music/{item.path}" for item in tracks]
    assert [row["n_bytes"] for row in found] == [item.n_bytes for item in tracks]
    assert [row["problem"] for row in found] == [problem_of(item.path, item.storage_class) for item in tracks]


def test_the_root_of_all_files_has_one_slash(tmp_path: Path) -> None:
    assert tmp_path.exists()
    page = [StoredObject("a.wav", 1, "e", 0.0)]
    assert _audible(open_store("/", {}), page, Counter())["uri"].to_pylist() == ["/a.wav"]
