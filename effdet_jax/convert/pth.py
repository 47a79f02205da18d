"""PyTorch's `.pth` files, read without torch and without running what a pickle says.

A `.pth` is a pickle of containers around tensors whose numbers lie beside it: since torch 1.6 in a
zip archive, before that behind it in one file. Training scripts put more into it (settings, numpy
numbers, dates): of whatever isn't a tensor or a plain container a placeholder is made. Nothing that
a pickle names is imported or called.
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


class _Placeholder:
    """Stands for an object of any class: what the pickle puts into it, and no code.

    Whatever a pickle does with its class, calling it, filling it or setting its state, gives or
    fills a placeholder.
    """

    items: dict[Any, Any]

    def __new__(cls, *_: Any, **__: Any) -> Any:  # Pickles skip an `__init__`.
        self = super().__new__(cls)
        self.items = {}
        return self

    def __call__(self, *_: Any, **__: Any) -> "_Placeholder":
        return _Placeholder()

    def __setstate__(self, state: Any):
        parts = state if isinstance(state, tuple) else (state,)  # Or with slots: a pair.
        for part in parts:
            self.items |= part if isinstance(part, dict) else {}

    def __setitem__(self, key: Any, value: Any):
        self.items[key] = value

    def append(self, value: Any):
        """Of a list's subclass; not needed."""

    add = extend = append

    def state_dict(self) -> dict[str, Any]:
        """Tensors by name, if it is a network saved whole; otherwise its items."""
        modules = self.items.get("_modules")
        if not isinstance(modules, dict):
            return self.items
        found = {}
        for kind in ("_parameters", "_buffers"):
            found |= self.items.get(kind) or {}
        for name, module in modules.items():
            inside = module.state_dict() if isinstance(module, _Placeholder) else {}
            found |= {f"{name}.{key}": value for key, value in inside.items()}
        return found


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

    def __setstate__(self, state: Any):
        """Nothing: a pickle has no say in what this class does."""

    def array(self) -> np.ndarray:
        numbers = self.storage.numbers
        last = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides))
        inside = self.offset >= 0 and min(self.strides, default=0) >= 0
        if all(self.shape) and not (inside and self.offset + last < len(numbers)):
            raise ConversionError(f"a tensor of shape {self.shape} reaches outside its storage")
        strides = [stride * numbers.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, strides).copy()


def _rebuild_from_type(rebuild: Any, _: Any, arguments: tuple, *__: Any) -> Any:
    """A tensor with attributes of its own, less those."""
    return rebuild(*arguments)


# What a pickle may name and really get, none of it able to do more than hold values.
_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): lambda *_: {},
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor"): _Tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("torch._utils", "_rebuild_parameter_with_state"): lambda tensor, *_: tensor,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
}


class _Unpickler(pickle.Unpickler):
    """Builds tensors, containers and placeholders, nothing else."""

    def __init__(self, file: Any, storage_of: Callable[[tuple], _Storage]):
        super().__init__(file)
        self._storage_of = storage_of

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return name
        return _KNOWN.get((module, name), _Placeholder)

    def persistent_load(self, identity: tuple) -> Any:
        if identity[1] not in _DTYPES:
            return _Placeholder()  # Numbers of a kind that no network here has.
        return self._storage_of(identity)


def read_pth(path: str | os.PathLike) -> Any:
    """What `torch.load` would give, with arrays for tensors and dicts for objects.

    A network saved whole gives its state dict, another object its attributes; where there is
    nothing to read, None.

    Raises:
      ConversionError: it isn't such a file, or is cut off.
    """
    try:
        found = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
        return _plain(found, {})
    except ConversionError as error:
        raise ConversionError(f"'{path}': {error}") from error
    except (
        pickle.UnpicklingError, EOFError, struct.error, zipfile.BadZipFile,
        AttributeError, IndexError, KeyError, RecursionError, TypeError, UnicodeDecodeError,
        ValueError,
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


def _plain(found: Any, done: dict[int, Any]) -> Any:
    """The same in dicts, lists and arrays; `done` by identity, as what is inside may hold itself."""
    if isinstance(found, str | int | float):
        return found
    if id(found) in done:
        return done[id(found)]
    done[id(found)] = None
    if isinstance(found, _Tensor) and isinstance(found.storage, _Storage):
        done[id(found)] = found.array()
    elif isinstance(found, _Placeholder | Mapping):
        items = found.state_dict() if isinstance(found, _Placeholder) else found
        plain = {name: _plain(value, done) for name, value in items.items()}
        done[id(found)] = plain or (None if isinstance(found, _Placeholder) else {})
    elif isinstance(found, list | tuple):
        done[id(found)] = [_plain(value, done) for value in found]
    return done[id(found)]
