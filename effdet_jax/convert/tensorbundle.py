"""TensorFlow checkpoints (TensorBundle: `PREFIX.index` and `PREFIX.data-…`) without TensorFlow.

The index is a table of LevelDB's format, uncompressed, from names to `BundleEntryProto`; the data
files hold the raw arrays. tensorflow/core/util/tensor_bundle, core/lib/io/table_format.txt and
core/protobuf/tensor_bundle.proto describe them.
"""

import dataclasses
import os
import struct
from collections.abc import Iterator, Mapping

import google_crc32c
import ml_dtypes
import numpy as np

from effdet_jax.convert.rules import ConversionError

_MAGIC = 0xDB4775248B80FB57  # Ends the index file.
_FOOTER_BYTES = 48
_TRAILER_BYTES = 5  # After each block: its compression and its CRC.
_STRING = 7
# Of tensorflow/core/framework/types.proto.
_DTYPES = {
    1: np.float32,
    2: np.float64,
    3: np.int32,
    4: np.uint8,
    5: np.int16,
    6: np.int8,
    9: np.int64,
    10: np.bool_,
    14: ml_dtypes.bfloat16,
    17: np.uint16,
    19: np.float16,
    22: np.uint32,
    23: np.uint64,
}


@dataclasses.dataclass(frozen=True)
class _Entry:
    """Where an array lies and what it is."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    partitioned: bool


class TensorBundle(Mapping[str, np.ndarray]):
    """The arrays of a checkpoint by name, read when asked for, each checked by its CRC.

    String tensors (a TF2 checkpoint's object graph, say) carry no numbers and aren't listed.

    Args:
      prefix: path without '.index'.

    Raises:
      ConversionError: it isn't such a checkpoint, or one that TensorFlow's own options made
        unreadable here (snappy, big-endian, partitioned variables); or a file is cut or damaged.
    """

    def __init__(self, prefix: str | os.PathLike):
        self.prefix = os.fspath(prefix)
        with open(f"{self.prefix}.index", "rb") as file:
            index = file.read()
        self._shards = 1
        self._entries: dict[str, _Entry] = {}
        self._files: dict[int, np.ndarray] = {}
        try:
            self._read_index(index)
        except (IndexError, struct.error) as error:
            raise self._error(
                ".index ends in the middle of an entry: it is cut or damaged"
            ) from error

    def _read_index(self, index: bytes):
        if len(index) < _FOOTER_BYTES or struct.unpack("<Q", index[-8:])[0] != _MAGIC:
            raise self._error(".index is no TensorFlow index: cut, or of another format")
        footer = index[-_FOOTER_BYTES:]
        position = 0
        for _ in range(2):  # Handle of the meta-index: not needed.
            _, position = _varint(footer, position)
        offset, position = _varint(footer, position)
        size, _ = _varint(footer, position)
        for _, handle in self._block(index, offset, size):
            start, position = _varint(handle, 0)
            length, _ = _varint(handle, position)
            for key, value in self._block(index, start, length):
                self._add(key, value)

    def _block(self, index: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values of one block of the table."""
        block = index[offset : offset + size]
        trailer = index[offset + size : offset + size + _TRAILER_BYTES]
        if len(trailer) < _TRAILER_BYTES:
            raise self._error(".index is cut off")
        if trailer[0]:
            raise self._error(
                ".index is compressed (snappy), which TensorFlow itself never does; save it again"
            )
        if _masked_crc(block + trailer[:1]) != struct.unpack("<I", trailer[1:])[0]:
            raise self._error(".index is damaged: a block's CRC differs")
        (restarts,) = struct.unpack("<I", block[-4:])
        end, position, key = size - 4 - 4 * restarts, 0, b""
        while position < end:
            shared, position = _varint(block, position)
            fresh, position = _varint(block, position)
            length, position = _varint(block, position)
            key = key[:shared] + block[position : position + fresh]
            position += fresh
            yield key, block[position : position + length]
            position += length

    def _add(self, key: bytes, value: bytes):
        fields = list(_fields(value))
        single = dict(fields)
        if not key:  # The bundle's header.
            self._shards = single.get(1, 1)
            if single.get(2, 0):
                raise self._error(" was written on a big-endian machine; save it again elsewhere")
            return
        if b"\0" in key or single.get(1, 0) == _STRING:
            return  # A slice of a partitioned variable; or text.
        sizes = [dict(_fields(size)) for number, size in _fields(single.get(2, b"")) if number == 2]
        self._entries[key.decode()] = _Entry(
            dtype=single.get(1, 0),
            shape=tuple(size.get(1, 0) for size in sizes),
            shard=single.get(3, 0),
            offset=single.get(4, 0),
            size=single.get(5, 0),
            crc=struct.unpack("<I", single.get(6, bytes(4)))[0],
            partitioned=7 in single,
        )

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self._entries[name]
        if entry.partitioned:
            raise self._error(f": '{name}' is a partitioned variable; save it in one piece")
        if entry.dtype not in _DTYPES:
            raise self._error(f": '{name}' has data type {entry.dtype}, which isn't read here")
        data = self._file(entry.shard)[entry.offset : entry.offset + entry.size]
        dtype = np.dtype(_DTYPES[entry.dtype])
        if data.size != entry.size or entry.size != dtype.itemsize * int(np.prod(entry.shape)):
            raise self._error(
                f": '{name}' {entry.shape} should have {entry.size} bytes, {data.size} are there: "
                "the data file is cut off"
            )
        data = data.tobytes()
        if _masked_crc(data) != entry.crc:
            raise self._error(f": '{name}' is damaged: its CRC differs")
        return np.frombuffer(data, dtype).reshape(entry.shape)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of an array, without reading it."""
        return self._entries[name].shape

    def _file(self, shard: int) -> np.ndarray:
        if shard not in self._files:
            path = f"{self.prefix}.data-{shard:05d}-of-{self._shards:05d}"
            if not os.path.exists(path):
                raise self._error(f": the data file '{os.path.basename(path)}' is missing")
            self._files[shard] = np.memmap(path, np.uint8, "r")
        return self._files[shard]

    def _error(self, what: str) -> ConversionError:
        return ConversionError(f"'{self.prefix}'{what}")


def _masked_crc(data: bytes) -> int:
    """CRC-32C, rotated and offset as LevelDB stores it."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A base-128 number and the position after it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a serialised protocol buffer."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        kind = tag & 7
        if kind == 0:
            value, position = _varint(message, position)
        else:
            length = {1: 8, 5: 4}.get(kind)
            if length is None:
                length, position = _varint(message, position)
            value = message[position : position + length]
            position += length
        yield tag >> 3, value
