import os
import pickle
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
