import argparse
import collections
import datetime
import enum
import os
import pathlib
import pickle
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest

from effdet_jax.convert.pth import read_pth
from effdet_jax.convert.rules import ConversionError
from tests.convert.torch_files import View, legacy_pth, write_pth

TENSORS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "half": np.array([1.5, -2], np.float16),
    "brain": np.array([1.5, -2], ml_dtypes.bfloat16),
    "bn.num_batches_tracked": np.array(7, np.int64),
    "empty": np.zeros((0, 3), np.float32),
}


def assert_same(found):
    assert list(found) == list(TENSORS)
    for name, array in TENSORS.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


def test_files_of_today_and_of_before_torch_1_6_are_read(tmp_path):
    write_pth(tmp_path / "new.pth", TENSORS)
    (tmp_path / "old.pth").write_bytes(legacy_pth(TENSORS))
    assert_same(read_pth(tmp_path / "new.pth"))
    assert_same(read_pth(tmp_path / "old.pth"))


def test_torch_reads_the_files_of_these_tests(tmp_path):
    torch = pytest.importorskip("torch", reason="needs torch")
    write_pth(tmp_path / "new.pth", TENSORS)
    (tmp_path / "old.pth").write_bytes(legacy_pth(TENSORS))
    for name in ("new.pth", "old.pth"):
        found = torch.load(tmp_path / name, weights_only=True)
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


TWELVE = np.arange(12, dtype=np.float32)


def test_views_into_a_storage_are_read(tmp_path):
    view = {"w": View(TWELVE, (3, 2), (1, 3), offset=2)}
    write_pth(tmp_path / "new.pth", view)
    (tmp_path / "old.pth").write_bytes(legacy_pth(view))
    for name in ("new.pth", "old.pth"):
        np.testing.assert_array_equal(read_pth(tmp_path / name)["w"], [[2, 5], [3, 6], [4, 7]])


def test_tensors_outside_their_storage_are_refused(tmp_path):
    write_pth(tmp_path / "w.pth", {"w": View(TWELVE, (3, 5), (1, 3))})
    with pytest.raises(ConversionError, match=r"shape \(3, 5\) reaches outside its storage"):
        read_pth(tmp_path / "w.pth")


class Code:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def zipped_pickle(path, data):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", data)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_never_run(tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    if zipped:
        write_pth("evil.pth", {"w": Code(), "conv": TWELVE})
    else:
        (tmp_path / "evil.pth").write_bytes(legacy_pth({"w": Code(), "conv": TWELVE}))
    found = read_pth("evil.pth")
    assert found["w"] is None
    np.testing.assert_array_equal(found["conv"], TWELVE)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'touch pwned'\ntR.",  # REDUCE of a name.
        b"cos\nsystem\n)\x81(S'touch pwned'\ntR.",  # REDUCE of what NEWOBJ of it gave.
        b"(S'touch pwned'\nios\nsystem\n.",  # INST.
        b"cbuiltins\ngetattr\n(cos\nsystem\nS'__call__'\ntR(S'touch pwned'\ntR.",
        b"cno_such_module\nname\n)\x81}S'a'\ncos\nsystem\nsb.",  # BUILD.
        b"cno_such_module\nname\n)R(cos\nsystem\ne.",  # APPENDS to it.
        b"cno_such_module\nname\n)R(S'a'\ncos\nsystem\nu.",  # SETITEMS.
    ],
)
def test_whatever_a_pickle_does_with_a_name_gives_a_placeholder(tmp_path, monkeypatch, program):
    monkeypatch.chdir(tmp_path)
    imported = set(sys.modules)
    zipped_pickle("evil.pth", program)
    assert read_pth("evil.pth") in (None, {"a": None})
    assert not (tmp_path / "pwned").exists() and set(sys.modules) == imported


def test_a_pickle_cannot_change_what_reads_it(tmp_path):
    program = b"ctorch._utils\n_rebuild_tensor_v2\n(N}S'array'\nNstb."  # BUILD of the class.
    zipped_pickle(tmp_path / "evil.pth", program)
    with pytest.raises(ConversionError, match="can't be read as a PyTorch file"):
        read_pth(tmp_path / "evil.pth")
    test_views_into_a_storage_are_read(tmp_path)


class AttributeDict(dict):
    """As Lightning has it."""


class Colour(enum.Enum):
    RED = 1


def test_what_training_scripts_save_beside_the_tensors(tmp_path):
    counts = collections.defaultdict(list, {"loss": [1.0]})
    beside = {
        "metric": np.float64(0.25),
        "args": argparse.Namespace(model="tf_efficientdet_d0", output=pathlib.Path("out")),
        "hyper_parameters": AttributeDict(lr=0.1),
        "counts": counts,
        "seen": {1, 2},
        "raw": b"bytes",
        "started": datetime.datetime(2024, 2, 3),
        "dtype": np.dtype("float32"),
        "colour": Colour.RED,
        "itself": counts,
    }
    counts["itself"] = counts
    write_pth(tmp_path / "w.pth", {"state_dict": TENSORS, **beside})
    (tmp_path / "old.pth").write_bytes(legacy_pth({"state_dict": TENSORS, **beside}))
    for name in ("w.pth", "old.pth"):
        found = read_pth(tmp_path / name)
        assert_same(found["state_dict"])
        assert found["args"] == {"model": "tf_efficientdet_d0", "output": None}
        assert found["hyper_parameters"] == {"lr": 0.1}
        assert found["counts"]["loss"] == [1.0]
        assert all(found[key] is None for key in ("metric", "seen", "raw", "started", "colour"))


class Network:
    """As torch's modules keep their parts, saved whole."""

    def __init__(self, parameters, buffers, modules):
        self._parameters, self._buffers, self._modules = parameters, buffers, modules
        self.owner = self


def test_a_network_saved_whole_gives_its_state_dict(tmp_path):
    inner = Network({"weight": TWELVE, "bias": None}, {"running_mean": 2 * TWELVE}, {})
    write_pth(tmp_path / "w.pth", {"ema": Network({}, {}, {"bn": inner})})
    found = read_pth(tmp_path / "w.pth")["ema"]
    assert list(found) == ["bn.weight", "bn.bias", "bn.running_mean"]
    np.testing.assert_array_equal(found["bn.running_mean"], 2 * TWELVE)


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_cut_files_are_refused(tmp_path, kept):
    write_pth(tmp_path / "w.pth", TENSORS)
    for data in ((tmp_path / "w.pth").read_bytes(), legacy_pth({"w": TWELVE})):
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
