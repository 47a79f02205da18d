import collections
import io
import os
import pickle
import struct
import sys
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest

from effdet_jax.convert.pth import read_pth, write_pth
from effdet_jax.convert.rules import ConversionError

TENSORS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "half": np.array([1.5, -2], np.float16),
    "brain": np.array([1.5, -2], ml_dtypes.bfloat16),
    "bn.num_batches_tracked": np.array(7, np.int64),
    "empty": np.zeros((0, 3), np.float32),
}


def test_written_and_read_is_the_same(tmp_path):
    write_pth(tmp_path / "w.pth", TENSORS)
    found = read_pth(tmp_path / "w.pth")
    assert list(found) == list(TENSORS)
    for name, array in TENSORS.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


def test_arrays_that_are_not_contiguous_are_written_right(tmp_path):
    turned = TENSORS["conv.weight"].transpose(3, 2, 1, 0)
    write_pth(tmp_path / "w.pth", {"w": turned})
    np.testing.assert_array_equal(read_pth(tmp_path / "w.pth")["w"], turned)


def test_torch_reads_what_is_written(tmp_path):
    torch = pytest.importorskip("torch", reason="needs torch")
    write_pth(tmp_path / "w.pth", TENSORS)
    found = torch.load(tmp_path / "w.pth", weights_only=True)
    for name, array in TENSORS.items():
        np.testing.assert_array_equal(found[name].float().numpy(), array.astype(np.float32))


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_writes_is_read(tmp_path, zipped):
    torch = pytest.importorskip("torch", reason="needs torch")
    base = torch.arange(12.0).reshape(3, 4)
    saved = {"state_dict": {"view": base.T, "part": base[1:, ::2]}, "epoch": 3}
    torch.save(saved, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    found = read_pth(tmp_path / "w.pth")
    assert found["epoch"] == 3
    for name, tensor in saved["state_dict"].items():
        np.testing.assert_array_equal(found["state_dict"][name], tensor.numpy())


@pytest.fixture
def torch_names(monkeypatch):
    """Just enough of a module 'torch' for Python's pickler to write its names."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2(*_):
        raise AssertionError("only named, never called")

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    storage = type("FloatStorage", (), {"__module__": "torch"})
    utils._rebuild_tensor_v2, torch._utils, torch.FloatStorage = _rebuild_tensor_v2, utils, storage
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return torch


def legacy_file(torch, shape, strides, offset, numbers, size=None) -> bytes:
    """A file as torch before 1.6 wrote it: five pickles, then the storages."""

    class Storage:
        pass

    class Tensor:
        def __reduce__(self):
            hooks = collections.OrderedDict()
            arguments = (Storage(), offset, shape, strides, False, hooks)
            return torch._utils._rebuild_tensor_v2, arguments

    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            identity = ("storage", torch.FloatStorage, "0", "cpu", len(numbers), None)
            return identity if isinstance(item, Storage) else None

    file = io.BytesIO()
    for item in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(item, file, protocol=2)
    Pickler(file, protocol=2).dump(collections.OrderedDict(w=Tensor()))
    pickle.dump(["0"], file, protocol=2)
    file.write(struct.pack("<q", len(numbers) if size is None else size) + numbers.tobytes())
    return file.getvalue()


def test_files_of_before_torch_1_6_are_read(tmp_path, torch_names):
    numbers = np.arange(12, dtype=np.float32)
    data = legacy_file(torch_names, (3, 2), (1, 3), 2, numbers)
    (tmp_path / "old.pth").write_bytes(data)
    found = read_pth(tmp_path / "old.pth")["w"]
    np.testing.assert_array_equal(found, [[2, 5], [3, 6], [4, 7]])


def test_tensors_outside_their_storage_are_refused(tmp_path, torch_names):
    data = legacy_file(torch_names, (3, 5), (1, 3), 0, np.arange(12, dtype=np.float32))
    (tmp_path / "old.pth").write_bytes(data)
    with pytest.raises(ConversionError, match=r"shape \(3, 5\) reaches outside its storage"):
        read_pth(tmp_path / "old.pth")


class Code:
    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_refused_by_name_and_never_run(tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps({"w": Code()})
    if zipped:
        with zipfile.ZipFile("evil.pth", "w") as archive:
            archive.writestr("evil/data.pkl", data)
    else:
        (tmp_path / "evil.pth").write_bytes(data)
    with pytest.raises(ConversionError, match=r"holds a '\w+.system'.*could run code"):
        read_pth("evil.pth")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_cut_files_are_refused(tmp_path, torch_names, kept):
    write_pth(tmp_path / "w.pth", TENSORS)
    old = legacy_file(torch_names, (3, 2), (1, 3), 2, np.arange(12, dtype=np.float32))
    for data in ((tmp_path / "w.pth").read_bytes(), old):
        (tmp_path / "cut.pth").write_bytes(data[: int(kept * len(data))])
        with pytest.raises(ConversionError, match="'.*cut.pth'.*cut off"):
            read_pth(tmp_path / "cut.pth")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ConversionError, match="can't be read as a PyTorch file"):
        read_pth(tmp_path / "text.pth")
    with zipfile.ZipFile(tmp_path / "zip.pth", "w") as archive:
        archive.writestr("readme.txt", "no weights")
    with pytest.raises(ConversionError, match="not one that torch.save wrote"):
        read_pth(tmp_path / "zip.pth")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ConversionError, match="a pickle, but not one that torch.save wrote"):
        read_pth(tmp_path / "pickle.pth")
