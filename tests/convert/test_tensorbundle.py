import os
import pathlib
import struct

import google_crc32c
import ml_dtypes
import numpy as np
import pytest

from effdet_jax.convert.rules import ConversionError
from effdet_jax.convert.tensorbundle import TensorBundle
from tests.conftest import shared

DTYPES = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "bool": 10, "bfloat16": 14}
ARRAYS = {
    "a/kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "a/kernel/Momentum": np.full((2, 3, 4), 7, np.float32),
    "b": np.array([1.5, -2.0], ml_dtypes.bfloat16),
    "scalar": np.array(12345, np.int64),
    "truth": np.array([True, False]),
    "wide": np.linspace(0, 1, 5),
}


def masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
    return out + bytes([number])


def field(number: int, value) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(rows, *, compression=0) -> bytes:
    """A table block of (key, value) rows; keys share prefixes as LevelDB has them."""
    body, previous = b"", b""
    for key, value in rows:
        common = len(os.path.commonprefix([key, previous]))
        tail = key[common:]
        body += varint(common) + varint(len(tail)) + varint(len(value)) + tail + value
        previous = key
    body += struct.pack("<II", 0, 1)
    kind = bytes([compression])
    return body + kind + masked_crc(body + kind)


def write_bundle(prefix, arrays, *, header=b"\x08\x01", compression=0, change_entry=None):
    """A one-shard bundle, as tensorflow/core/protobuf/tensor_bundle.proto describes it."""
    rows, data = [(b"", header)], b""
    for name in sorted(arrays):
        array = arrays[name]
        sizes = b"".join(field(2, field(1, size)) for size in array.shape)
        entry = field(1, DTYPES[array.dtype.name]) + field(2, sizes)
        entry += field(4, len(data)) + field(5, array.nbytes)
        entry += varint(6 << 3 | 5) + masked_crc(array.tobytes())
        rows.append((name.encode(), entry + (change_entry or (lambda name: b""))(name)))
        data += array.tobytes()
    first = block(rows, compression=compression)
    index = block([(b"\xff", varint(0) + varint(len(first) - 5))])
    handle = varint(len(first)) + varint(len(index) - 5)
    footer = (varint(0) + varint(0) + handle).ljust(40, b"\0")
    footer += struct.pack("<Q", 0xDB4775248B80FB57)
    pathlib.Path(f"{prefix}.index").write_bytes(first + index + footer)
    pathlib.Path(f"{prefix}.data-00000-of-00001").write_bytes(data)
    return prefix


def test_arrays_are_read_with_their_shapes_and_types(tmp_path):
    bundle = TensorBundle(write_bundle(tmp_path / "model", ARRAYS))
    assert sorted(bundle) == sorted(ARRAYS) and len(bundle) == len(ARRAYS)
    for name, array in ARRAYS.items():
        assert bundle[name].dtype == array.dtype and bundle[name].shape == array.shape
        np.testing.assert_array_equal(bundle[name], array)


def test_an_official_checkpoint_is_read_whole():
    """709 variables, as many moving averages, the step; every CRC is that TensorFlow wrote."""
    bundle = TensorBundle(shared("goldens/automl_d0_128") / "model")
    arrays = dict(bundle)
    assert len(arrays) == 2 * 709 + 1 and arrays["global_step"] == 12345
    raw = arrays["class_net/class-predict/bias"]
    average = arrays["class_net/class-predict/bias/ExponentialMovingAverage"]
    assert raw.shape == average.shape == (810,) and (raw != average).all()


def text(name):
    return field(1, 7) if name == "scalar" else b""  # The last field of a number wins.


def test_text_is_passed_over(tmp_path):
    bundle = TensorBundle(write_bundle(tmp_path / "model", ARRAYS, change_entry=text))
    assert set(bundle) == set(ARRAYS) - {"scalar"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compression": 1}, r"index is compressed \(snappy\)"),
        ({"header": b"\x08\x01\x10\x01"}, "big-endian"),
    ],
)
def test_bundles_of_other_options_are_refused(tmp_path, options, message):
    prefix = write_bundle(tmp_path / "model", ARRAYS, **options)
    with pytest.raises(ConversionError, match=message):
        TensorBundle(prefix)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (field(7, b""), "'a/kernel' is a partitioned variable"),
        (field(1, 8), "'a/kernel' has data type 8"),  # complex64
    ],
)
def test_variables_that_cannot_be_read_are_named(tmp_path, entry, message):
    bundle = TensorBundle(write_bundle(tmp_path / "model", ARRAYS, change_entry=lambda _: entry))
    with pytest.raises(ConversionError, match=message):
        bundle["a/kernel"]


def test_damaged_files_are_refused(tmp_path):
    prefix = write_bundle(tmp_path / "model", ARRAYS)
    index, data = prefix.with_suffix(".index"), prefix.with_suffix(".data-00000-of-00001")
    whole = index.read_bytes(), data.read_bytes()

    index.write_bytes(whole[0][:-60] + b"x" + whole[0][-59:])
    with pytest.raises(ConversionError, match="a block's CRC differs|cut or damaged"):
        TensorBundle(prefix)
    index.write_bytes(whole[0][:70])
    with pytest.raises(ConversionError, match="no TensorFlow index: cut"):
        TensorBundle(prefix)
    index.write_bytes(whole[0])

    data.write_bytes(whole[1][:40])
    with pytest.raises(ConversionError, match=r"'a/kernel' \(2, 3, 4\) should have 96 bytes, 40"):
        TensorBundle(prefix)["a/kernel"]
    data.write_bytes(b"\1" + whole[1][1:])
    with pytest.raises(ConversionError, match="'a/kernel' is damaged: its CRC differs"):
        TensorBundle(prefix)["a/kernel"]
    data.unlink()
    with pytest.raises(ConversionError, match="'model.data-00000-of-00001' is missing"):
        TensorBundle(prefix)["a/kernel"]
