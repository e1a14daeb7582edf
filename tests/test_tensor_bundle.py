"""The reader is held against a writer of the same format, the real checkpoint, and hostile bytes."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from splitfire_batch.errors import ConfigError
from splitfire_batch.models.registry import find_card
from splitfire_batch.models.tensor_bundle import crc32c, mask_crc, read_bundle
from splitfire_batch.models.weights import load_weights

HEADER = bytes([0x08, 1])  # one data file
DTYPES = {"float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int64": 9, "float16": 19}
Entries = list[tuple[bytes, bytes]]


def varint(number: int) -> bytes:
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def block_of(entries: Entries) -> bytes:
    """Entries with prefix compression, and one restart point."""
    out, previous = b"", b""
    for key, value in entries:
        n_shared = 0
        while n_shared < min(len(key), len(previous)) and key[n_shared] == previous[n_shared]:
            n_shared += 1
        out += varint(n_shared) + varint(len(key) - n_shared) + varint(len(value)) + key[n_shared:] + value
        previous = key
    return out + struct.pack("<II", 0, 1)


def table_of(blocks: list[bytes], compression: int = 0) -> bytes:
    """A table with these data blocks, valid in its frame whatever the blocks hold."""
    out = b""
    handles: Entries = []
    for number, block in enumerate(blocks):
        handles.append((b"%09d" % number, varint(len(out)) + varint(len(block))))
        out += sealed(block, compression)
    return out + table_end(len(out), block_of(handles))


def sealed(block: bytes, compression: int = 0) -> bytes:
    kind = bytes([compression])
    return block + kind + struct.pack("<I", mask_crc(crc32c(block + kind)))


def table_end(offset: int, index_block: bytes) -> bytes:
    handle = varint(0) + varint(0) + varint(offset) + varint(len(index_block))
    return sealed(index_block) + handle.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def entry_of(dtype: int, shape: tuple[int, ...], offset: int, n_bytes: int) -> bytes:
    dims = b""
    for size in shape:
        dim = b"\x08" + varint(size)
        dims += b"\x12" + varint(len(dim)) + dim
    numbers = b"\x08" + varint(dtype) + b"\x12" + varint(len(dims)) + dims
    return numbers + b"\x20" + varint(offset) + b"\x28" + varint(n_bytes) + b"\x35" + bytes(4)


def write_bundle(tensors: dict[str, NDArray[np.generic]]) -> tuple[bytes, bytes]:
    """Index and data file of a checkpoint, two tensors to a block."""
    entries: Entries = [(b"", HEADER)]
    data = b""
    for name in sorted(tensors, key=str.encode):
        raw = tensors[name].tobytes()
        value = entry_of(DTYPES[tensors[name].dtype.name], tensors[name].shape, len(data), len(raw))
        entries.append((name.encode(), value))
        data += raw
    return table_of([block_of(entries[i : i + 2]) for i in range(0, len(entries), 2)]), data


def index_with(*entries: tuple[bytes, bytes], header: bytes = HEADER) -> bytes:
    return table_of([block_of([(b"", header), *entries])])


arrays = st.tuples(
    st.sampled_from(sorted(DTYPES)), st.lists(st.integers(1, 4), max_size=3), st.integers(0, 2**32 - 1)
).map(lambda a: np.random.default_rng(a[2]).integers(0, 100, tuple(a[1])).astype(a[0]))


@given(st.dictionaries(st.text(min_size=1, max_size=20), arrays, max_size=8))
def test_what_was_written_is_read(tensors):
    found = read_bundle(*write_bundle(tensors))
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert np.array_equal(found[name], tensor)


def test_the_checksum_is_the_published_one():
    assert crc32c(b"123456789") == 0xE3069283  # check value of CRC-32C in the CRC catalogue
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4


def test_a_real_checkpoint_has_the_published_number_of_weights():
    tensors = load_weights(find_card("spleeter-2stems"))
    assert tensors.pop("global_step").shape == ()
    assert sum(tensor.numel() for tensor in tensors.values()) == 2 * 9_826_759
    assert tensors["conv2d/kernel"].shape == (5, 5, 2, 16)
    assert tensors["conv2d_transpose/kernel"].shape == (5, 5, 256, 512)
    for name, tensor in tensors.items():
        assert tensor.isfinite().all(), name
        if name.endswith("moving_variance"):
            assert (tensor >= 0).all(), name


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_in_words(junk):
    with pytest.raises(ConfigError, match="this TensorFlow checkpoint cannot be read"):
        read_bundle(junk, b"")


TINY = write_bundle({"a/kernel": np.ones((2, 3), np.float32), "a/step": np.int64(7), "b": np.zeros(4)})


@given(st.integers(0, len(TINY[0]) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_noticed_or_harmless(position, change):
    index, data = bytearray(TINY[0]), TINY[1]
    index[position] ^= change
    try:
        found = read_bundle(bytes(index), data)
    except ConfigError:
        return
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        name: tensor.tolist() for name, tensor in read_bundle(*TINY).items()
    }


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=80), max_size=4), st.binary(max_size=64))
def test_hostile_blocks_with_right_checksums_do_no_harm(blocks, data):
    with contextlib.suppress(ConfigError):
        read_bundle(table_of(blocks), data)


field = st.tuples(
    st.integers(0, 80), st.one_of(st.integers(0, 2**64 - 1).map(varint), st.binary(max_size=20))
)


@settings(max_examples=300)
@given(st.lists(field, max_size=8), st.binary(max_size=64))
def test_hostile_entries_do_no_harm(fields, data):
    value = b"".join(varint(tag) + content for tag, content in fields)
    with contextlib.suppress(ConfigError):
        read_bundle(index_with((b"w", value)), data)


def read_in_bounds(index: bytes, data: bytes) -> None:
    """Read it: tensors inside the data, or our error; and memory in proportion to the index."""
    tracemalloc.start()
    try:
        found = read_bundle(index, data)
    except ConfigError as error:
        assert str(error).startswith("this TensorFlow checkpoint cannot be read")  # noqa: PT017
        found = {}
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak <= 64 * 2**10 + 100 * len(index)
    for name, tensor in found.items():
        assert tensor.nbytes <= len(data), name
        assert not tensor.flags.writeable


# A real index, taken apart, changed, and sealed again: what no checksum can find.
BLOCKS = [
    block_of([(b"", HEADER), (b"a/kernel", entry_of(1, (2, 3), 0, 24))]),
    block_of([(b"a/step", entry_of(9, (), 24, 8)), (b"b", entry_of(2, (4,), 32, 32))]),
]
cuts = st.tuples(st.integers(0, 1), st.integers(0, 90), st.integers(0, 12), st.binary(max_size=12))


@settings(max_examples=1000)
@given(st.lists(cuts, min_size=1, max_size=4), st.integers(0, 80))
def test_a_changed_block_with_right_checksums_is_refused_or_harmless(changes, n_bytes):
    blocks = list(BLOCKS)
    for which, at, n_removed, inserted in changes:
        block = blocks[which]
        blocks[which] = block[:at] + inserted + block[at + n_removed :]
    read_in_bounds(table_of(blocks), bytes(n_bytes))


numbers = st.one_of(
    st.integers(0, 200),
    st.sampled_from([2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]),
    st.integers(0, 2**64 - 1),
)


@settings(max_examples=500)
@given(st.lists(st.tuples(numbers, numbers), max_size=5), st.tuples(numbers, numbers, numbers, numbers))
def test_hostile_handles_lead_nowhere(handles, footer):
    body = sealed(BLOCKS[0]) + sealed(BLOCKS[1])
    index_block = block_of([(b"%03d" % i, varint(a) + varint(n)) for i, (a, n) in enumerate(handles)])
    read_in_bounds(body + table_end(len(body), index_block), bytes(64))
    end = b"".join(map(varint, footer))[:40].ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    read_in_bounds(body + sealed(index_block) + end, bytes(64))


@settings(max_examples=300)
@given(numbers, st.lists(numbers, max_size=6), numbers, numbers, st.integers(0, 100))
def test_hostile_shapes_and_places_read_nothing_outside_the_data(dtype, shape, offset, n_bytes, n_data):
    read_in_bounds(index_with((b"w", entry_of(dtype, tuple(shape), offset, n_bytes))), bytes(n_data))


@given(st.integers(0, len(TINY[0])), st.integers(0, len(TINY[1])))
def test_a_cut_index_or_data_file_is_refused(n_index, n_data):
    if (n_index, n_data) == (len(TINY[0]), len(TINY[1])):
        return
    with pytest.raises(ConfigError, match="cannot be read"):
        read_bundle(TINY[0][:n_index], TINY[1][:n_data])


def test_short_entries_cannot_unfold_into_long_names_without_end():
    """Names that share 508 bytes with the one before them take five bytes of the index each."""
    stem, value = b"x" * 508, entry_of(1, (), 0, 4)
    names = [stem + n.to_bytes(4, "big") for n in range(0x20202020, 0x20202020 + 90)]
    entries = [(b"", HEADER), *((name, value) for name in names)]
    index = table_of([block_of(entries)])
    assert len(index) < 4_000
    read_in_bounds(index, bytes(4))
    many = [(b"%05d" % n, value) for n in range(65_536)]
    with pytest.raises(ConfigError, match="more than 65536 tensors"):
        read_bundle(table_of([block_of([(b"", HEADER), *many])]), bytes(4))


HOSTILE = {
    "compressed": (table_of([block_of([(b"", HEADER)])], compression=1), "is compressed"),
    "no header": (table_of([block_of([(b"w", b"")])]), "wanted the empty one of the header"),
    "empty": (table_of([]), "the index is empty"),
    "big-endian": (index_with(header=HEADER + b"\x10\x01"), "big-endian"),
    "several data files": (index_with(header=b"\x08\x02"), "spread over 2 data files"),
    "sliced": (index_with((b"w", entry_of(1, (1,), 0, 4) + b"\x3a\x00")), "sliced"),
    "strings": (index_with((b"w", entry_of(7, (1,), 0, 4))), "data type 7"),
    "negative size": (index_with((b"w", entry_of(1, (2**64 - 1,), 0, 4))), "has the shape"),
    "wrong size": (index_with((b"w", entry_of(1, (3,), 0, 4))), "wants 12"),
    "huge product": (index_with((b"w", entry_of(1, (2**31 - 1,) * 16, 0, 4))), "wants"),
    "past the end": (index_with((b"w", entry_of(1, (2,), 60, 8))), "too short"),
    "many dimensions": (index_with((b"w", entry_of(1, (1,) * 17, 0, 4))), "has the shape"),
    "out of order": (index_with((b"w", entry_of(1, (), 0, 4)), (b"a", b"")), "must ascend"),
    "not UTF-8": (index_with((b"\xff", entry_of(1, (), 0, 4))), "not UTF-8"),
    "long name": (index_with((b"w" * 513, b"")), "a name shares"),
    "restart points": (table_of([struct.pack("<I", 2**32 - 1)]), "restart points"),
    "tiny block": (table_of([b"abc"]), "wanted at least 4"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_index_is_refused_with_its_reason(case):
    index, reason = HOSTILE[case]
    with pytest.raises(ConfigError, match=reason):
        read_bundle(index, bytes(64))


def test_a_block_cannot_be_read_twice():
    block = block_of([(b"", HEADER)])
    handle = varint(0) + varint(len(block))
    index = sealed(block) + table_end(len(block) + 5, block_of([(b"0", handle), (b"1", handle)]))
    with pytest.raises(ConfigError, match="inside or before"):
        read_bundle(index, b"")


def test_an_oversized_index_is_refused_unread():
    with pytest.raises(ConfigError, match="16777217 bytes"):
        read_bundle(bytes(2**24 + 1), b"")
