"""Files as `torch.save` writes them, by Python's own pickler: torch isn't needed."""

import collections
import contextlib
import dataclasses
import io
import pickle
import struct
import sys
import types
import zipfile
from collections.abc import Iterator
from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np

STORAGES = {
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.int64): "LongStorage",
}


@dataclasses.dataclass(frozen=True)
class View:
    """A tensor that is part of `numbers`; shape, strides and offset count numbers."""

    numbers: np.ndarray
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0


@dataclasses.dataclass(frozen=True)
class _Storage:
    numbers: np.ndarray


@contextlib.contextmanager
def torch_names() -> Iterator[types.ModuleType]:
    """Just enough of a module 'torch' for the pickler to write its names."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2(*_):
        raise AssertionError("only named, never called")

    _rebuild_tensor_v2.__module__ = utils.__name__
    _rebuild_tensor_v2.__qualname__ = _rebuild_tensor_v2.__name__
    utils._rebuild_tensor_v2, torch._utils = _rebuild_tensor_v2, utils
    for name in STORAGES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    with mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": utils}):
        yield torch


class _Pickler(pickle.Pickler):
    """Writes arrays and views as torch's tensors; their numbers gather in `storages`."""

    def __init__(self, file: Any, torch: types.ModuleType, *extra: None):
        super().__init__(file, protocol=2)
        self.storages: list[np.ndarray] = []
        self._torch, self._extra = torch, extra

    def reducer_override(self, item: Any) -> Any:
        if isinstance(item, np.ndarray):
            item = np.array(item, order="C")
            strides = tuple(stride // item.itemsize for stride in item.strides)
            item = View(item, item.shape, strides)
        if not isinstance(item, View):
            return NotImplemented
        hooks = collections.OrderedDict()
        arguments = (_Storage(item.numbers), item.offset, item.shape, item.strides, False, hooks)
        return self._torch._utils._rebuild_tensor_v2, arguments

    def persistent_id(self, item: Any) -> tuple | None:
        if not isinstance(item, _Storage):
            return None
        self.storages.append(item.numbers)
        kind = getattr(self._torch, STORAGES[item.numbers.dtype])
        key = str(len(self.storages) - 1)
        return ("storage", kind, key, "cpu", item.numbers.size, *self._extra)


def write_pth(path: Any, content: Any):
    """Containers around arrays and views, as torch writes them since 1.6: a zip archive."""
    file = io.BytesIO()
    with torch_names() as torch:
        pickler = _Pickler(file, torch)
        pickler.dump(content)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", file.getvalue())
        archive.writestr("archive/byteorder", b"little")
        for number, numbers in enumerate(pickler.storages):
            archive.writestr(f"archive/data/{number}", numbers.tobytes())
        archive.writestr("archive/version", b"3\n")


def legacy_pth(content: Any) -> bytes:
    """The same as torch wrote it before 1.6: five pickles, then the storages."""
    file = io.BytesIO()
    for item in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(item, file, protocol=2)
    with torch_names() as torch:
        pickler = _Pickler(file, torch, None)
        pickler.dump(content)
    pickle.dump([str(number) for number in range(len(pickler.storages))], file, protocol=2)
    for numbers in pickler.storages:
        file.write(struct.pack("<q", numbers.size) + numbers.tobytes())
    return file.getvalue()
