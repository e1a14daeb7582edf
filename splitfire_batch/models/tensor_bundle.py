"""Reads a TensorFlow checkpoint without TensorFlow: the index is a small sorted table, the data raw tensors.

The index (`model.index`) is a table in LevelDB's format (LevelDB, doc/table_format.md): a 48-byte footer
points to an index block, that points to data blocks, whose entries are prefix-compressed keys with protobuf
values (`BundleEntryProto` in TensorFlow's tensor_bundle.proto). The data file holds the tensors little-endian
and uncompressed, at the offsets the index names.

The bytes may be hostile: every length is checked before it is used, the block checksums are verified, keys
and blocks must ascend (so no part of the file can be read twice), and memory stays within a small multiple
of the index's size. Anything unexpected is a ConfigError.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from splitfire_batch.errors import ConfigError

Tensors = dict[str, NDArray[np.generic]]

_FOOTER_BYTES = 48
_MAGIC = 0xDB4775248B80FB57
_TRAILER_BYTES = 5  # one of compression, four of checksum
_MAX_INDEX_BYTES = 16 * 2**20
_MAX_KEY_BYTES = 512
_MAX_ENTRIES = 65_536
_MAX_DIMENSIONS = 16
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "<u1", 5: "<i2", 6: "<i1", 9: "<i8", 19: "<f2"}
"""Numpy's name for each DataType of TensorFlow's types.proto that is read here."""


def read_bundle(index: bytes, data: bytes | memoryview) -> Tensors:
    """Every tensor of a checkpoint by its name, as read-only views of `data`.

    Args:
        index: contents of `model.index`.
        data: contents of `model.data-00000-of-00001`; it must outlive the views.

    Raises:
        ConfigError: the bytes are no bundle, a damaged one, or one in several files, compressed or sliced.
    """
    tensors: Tensors = {}
    has_header = False
    for key, value in _table(index):
        if not has_header:
            _check_header(key, value)
            has_header = True
            continue
        try:
            name = key.decode()
        except UnicodeDecodeError as error:
            raise _damage(f"the name {key!r} is not UTF-8") from error
        tensors[name] = _tensor(name, value, data)
    if not has_header:
        raise _damage("the index is empty")
    return tensors


def crc32c(data: bytes) -> int:
    """Checksum with Castagnoli's polynomial (RFC 3720, appendix B.4), 32 bits; slow, for a few kB."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def mask_crc(crc: int) -> int:
    """The form in which a table stores a checksum (LevelDB, util/crc32c.h)."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _crc_entry(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC_TABLE = tuple(_crc_entry(byte) for byte in range(256))


class _Cursor:
    """Reads from the front of some bytes and never past their end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def __bool__(self) -> bool:
        return self._position < len(self._data)

    def take(self, n_bytes: int) -> bytes:
        """The next `n_bytes` bytes."""
        if n_bytes > len(self._data) - self._position:
            raise _damage(f"{n_bytes} bytes are wanted where {len(self._data) - self._position} are left")
        self._position += n_bytes
        return self._data[self._position - n_bytes : self._position]

    def varint(self) -> int:
        """The next base-128 number, 0 to 2^64 - 1."""
        number = 0
        for shift in range(0, 64, 7):
            byte = self.take(1)[0]
            number |= (byte & 0x7F) << shift
            if byte < 0x80 and number < 2**64:
                return number
        raise _damage("a number has more than 64 bits")


def _table(index: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Entries of a table, by strictly ascending key."""
    if not _FOOTER_BYTES <= len(index) <= _MAX_INDEX_BYTES:
        raise _damage(f"the index has {len(index)} bytes, wanted {_FOOTER_BYTES} to {_MAX_INDEX_BYTES}")
    (magic,) = struct.unpack("<Q", index[-8:])
    if magic != _MAGIC:
        raise _damage(f"the index ends in {magic:#x}, wanted {_MAGIC:#x}; it is no TensorFlow 'model.index'")
    footer = _Cursor(index[-_FOOTER_BYTES:-8])
    # The first two locate the metaindex: filters, which a checkpoint has not.
    _, _, offset, n_bytes = (footer.varint() for _ in range(4))
    previous: bytes | None = None
    end = n_entries = 0
    for _, handle in _entries(_block(index, offset, n_bytes)):
        cursor = _Cursor(handle)
        offset, n_bytes = cursor.varint(), cursor.varint()
        if offset < end:
            raise _damage(f"a block starts at {offset}, inside or before the one that ends at {end}")
        end = offset + n_bytes + _TRAILER_BYTES
        for key, value in _entries(_block(index, offset, n_bytes)):
            if previous is not None and key <= previous:
                raise _damage(f"the name {key!r} follows {previous!r}; names must ascend")
            n_entries += 1
            if n_entries > _MAX_ENTRIES:
                raise _damage(f"it has more than {_MAX_ENTRIES} tensors")
            previous = key
            yield key, value


def _block(index: bytes, offset: int, n_bytes: int) -> bytes:
    """Contents of one verified block."""
    end = offset + n_bytes
    if end + _TRAILER_BYTES > len(index) - _FOOTER_BYTES:
        raise _damage(f"a block ends at {end}, past the end of the index")
    compression = index[end]
    (found,) = struct.unpack("<I", index[end + 1 : end + _TRAILER_BYTES])
    if compression:
        raise _damage(f"a block is compressed (type {compression}); only uncompressed checkpoints are read")
    if found != mask_crc(crc32c(index[offset : end + 1])):
        raise _damage(f"the checksum of the block at {offset} does not fit its bytes")
    return index[offset:end]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of one block; a key repeats the first bytes of the one before it."""
    if len(block) < 4:
        raise _damage(f"a block has {len(block)} bytes, wanted at least 4")
    (n_restarts,) = struct.unpack("<I", block[-4:])
    n_bytes = len(block) - 4 - 4 * n_restarts
    if n_bytes < 0:
        raise _damage(f"a block of {len(block)} bytes claims {n_restarts} restart points")
    cursor = _Cursor(block[:n_bytes])
    key = b""
    while cursor:
        n_shared, n_new, n_value = cursor.varint(), cursor.varint(), cursor.varint()
        if n_shared > len(key) or n_shared + n_new > _MAX_KEY_BYTES:
            raise _damage(f"a name shares {n_shared} bytes with {key!r} and adds {n_new}")
        key = key[:n_shared] + cursor.take(n_new)
        yield key, cursor.take(n_value)


def _check_header(key: bytes, value: bytes) -> None:
    """BundleHeaderProto: num_shards = 1, endianness = 2."""
    if key:
        raise _damage(f"the first name is {key!r}, wanted the empty one of the header")
    fields = dict(_fields(value))
    if _number(fields, 1) != 1:
        raise _damage(f"it is spread over {_number(fields, 1)} data files; only one is supported")
    if _number(fields, 2) != 0:
        raise _damage("its tensors are big-endian; only little-endian ones are read")


def _tensor(name: str, value: bytes, data: bytes | memoryview) -> NDArray[np.generic]:
    """BundleEntryProto: dtype = 1, shape = 2, shard_id = 3, offset = 4, size = 5, slices = 7."""
    fields = dict(_fields(value))
    dtype_code, offset, n_bytes = _number(fields, 1), _number(fields, 4), _number(fields, 5)
    if dtype_code not in _DTYPES:
        raise _damage(f"{name} has the TensorFlow data type {dtype_code}, known are {sorted(_DTYPES)}")
    if _number(fields, 3) != 0 or 7 in fields:
        raise _damage(f"{name} is sliced or not in data file 0; only whole tensors of one file are read")
    dtype = np.dtype(_DTYPES[dtype_code])
    shape = _shape(name, _message(fields.get(2, b"")))
    wanted = math.prod(shape) * dtype.itemsize
    if wanted != n_bytes:
        raise _damage(f"{name} has {n_bytes} bytes, but its shape {shape} wants {wanted}")
    if offset + n_bytes > len(data):
        raise _damage(f"{name} ends at byte {offset + n_bytes} of {len(data)}; the data file is too short")
    tensor: NDArray[np.generic] = np.frombuffer(data, dtype, math.prod(shape), offset).reshape(shape)
    tensor.flags.writeable = False
    return tensor


def _shape(name: str, message: bytes) -> tuple[int, ...]:
    """TensorShapeProto: repeated dim = 2, each a message with size = 1."""
    dimensions = [dict(_fields(_message(part))) for number, part in _fields(message) if number == 2]
    shape = tuple(_number(dimension, 1) for dimension in dimensions)
    if len(shape) > _MAX_DIMENSIONS or not all(0 < size < 2**31 for size in shape):
        raise _damage(f"{name} has the shape {shape}, wanted at most {_MAX_DIMENSIONS} sizes from 1 to 2^31")
    return shape


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of a protobuf message; only the wire types that a bundle uses."""
    cursor = _Cursor(message)
    while cursor:
        number, wire_type = divmod(cursor.varint(), 8)
        if wire_type == 0:
            yield number, cursor.varint()
        elif wire_type == 2:
            yield number, cursor.take(cursor.varint())
        elif wire_type == 5:
            yield number, int.from_bytes(cursor.take(4), "little")
        else:
            raise _damage(f"field {number} of an entry has the wire type {wire_type}, wanted 0, 2 or 5")


def _number(fields: dict[int, int | bytes], number: int) -> int:
    value = fields.get(number, 0)
    if isinstance(value, bytes):
        raise _damage(f"field {number} of an entry holds a message, wanted a number")
    return value


def _message(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise _damage(f"a field of an entry holds the number {value}, wanted a message")
    return value


def _damage(what: str) -> ConfigError:
    return ConfigError(f"this TensorFlow checkpoint cannot be read: {what}; get the original files again")
