"""PyTorch's `.pth` files, read without torch and without running what a pickle says.

A `.pth` is a pickle of containers around tensors whose numbers lie beside it: since torch 1.6 in a
zip archive, before that behind it in one file. Anything but tensors and containers is refused.
"""

import collections
import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike

from effdet_jax.convert.rules import ConversionError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class _Namespace:
    """Stands for `argparse.Namespace`, which training scripts save: attributes, no code."""


class _Storage:
    """The numbers of one or more tensors; in a legacy file they come after the pickle."""

    def __init__(self, dtype: DTypeLike, size: int):
        self.dtype, self.size = np.dtype(dtype), size
        self.numbers: np.ndarray | None = None

    def fill(self, data: bytes):
        if len(data) != self.size * self.dtype.itemsize:
            raise ConversionError(
                f"a tensor's storage has {len(data)} bytes instead of "
                f"{self.size * self.dtype.itemsize}: the file is cut off"
            )
        self.numbers = np.frombuffer(data, self.dtype)


class _Tensor:
    """A view into a storage, made an array once the numbers are there."""

    def __init__(self, storage: _Storage, offset: int, shape: tuple, strides: tuple, *_: Any):
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def array(self) -> np.ndarray:
        numbers = self.storage.numbers
        last = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides))
        inside = self.offset >= 0 and min(self.strides, default=0) >= 0
        if all(self.shape) and not (inside and self.offset + last < len(numbers)):
            raise ConversionError(f"a tensor of shape {self.shape} reaches outside its storage")
        strides = [stride * numbers.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, strides).copy()


class _Unpickler(pickle.Unpickler):
    """Builds tensors and containers, nothing else."""

    def __init__(self, file: Any, storage_of: Callable[[tuple], _Storage]):
        super().__init__(file)
        self._storage_of = storage_of

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("argparse", "Namespace"):
            return _Namespace
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if (module, name) == ("torch", "Size"):
            return tuple
        if module == "torch" and name in _DTYPES:
            return name
        raise ConversionError(
            f"it holds a '{module}.{name}', and only tensors and containers are read, since "
            "anything else could run code. Save the state dict alone: "
            "torch.save(model.state_dict(), path)"
        )

    def persistent_load(self, identity: tuple) -> _Storage:
        return self._storage_of(identity)


def read_pth(path: str | os.PathLike) -> Any:
    """What `torch.load` would give, with numpy arrays for tensors.

    Raises:
      ConversionError: it isn't such a file, is cut off, or holds more than tensors.
    """
    try:
        if zipfile.is_zipfile(path):
            return _arrays(_read_zip(path))
        return _arrays(_read_legacy(path))
    except ConversionError as error:
        raise ConversionError(f"'{path}': {error}") from error
    except (
        pickle.UnpicklingError, EOFError, struct.error, zipfile.BadZipFile,
        AttributeError, IndexError, KeyError, TypeError, UnicodeDecodeError, ValueError,
    ) as error:  # fmt: skip
        raise ConversionError(
            f"'{path}' can't be read as a PyTorch file (cut off, or of another kind): {error}"
        ) from error


def _read_zip(path: str | os.PathLike) -> Any:
    storages: dict[str, _Storage] = {}
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
        if len(pickles) != 1:
            raise ConversionError("it is a zip archive, but not one that torch.save wrote")
        root = pickles[0].removesuffix("data.pkl")
        order = f"{root}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise ConversionError("it was written on a big-endian machine")

        def storage_of(identity: tuple) -> _Storage:
            _, kind, key, _, size = identity
            if key not in storages:
                storages[key] = _Storage(_DTYPES[kind], size)
                storages[key].fill(archive.read(f"{root}data/{key}"))
            return storages[key]

        return _Unpickler(io.BytesIO(archive.read(pickles[0])), storage_of).load()


def _read_legacy(path: str | os.PathLike) -> Any:
    storages: dict[str, _Storage] = {}

    def storage_of(identity: tuple) -> _Storage:
        _, kind, key, _, size, *_ = identity
        return storages.setdefault(key, _Storage(_DTYPES[kind], size))

    with open(path, "rb") as file:
        if _Unpickler(file, storage_of).load() != _LEGACY_MAGIC:
            raise ConversionError("it is a pickle, but not one that torch.save wrote")
        for _ in ("protocol", "system"):
            _Unpickler(file, storage_of).load()
        found = _Unpickler(file, storage_of).load()
        for key in _Unpickler(file, storage_of).load():
            storage = storages[key]
            (size,) = struct.unpack("<q", file.read(8))
            if size != storage.size:
                raise ConversionError(f"a storage has {size} numbers instead of {storage.size}")
            storage.fill(file.read(size * storage.dtype.itemsize))
    return found


def _arrays(found: Any) -> Any:
    """The same containers with arrays for tensors."""
    if isinstance(found, _Tensor):
        return found.array()
    if isinstance(found, _Namespace):
        return {name: _arrays(value) for name, value in vars(found).items()}
    if isinstance(found, Mapping):
        return {name: _arrays(value) for name, value in found.items()}
    if isinstance(found, list | tuple):
        return [_arrays(value) for value in found]
    return found
