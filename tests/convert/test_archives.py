import tarfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from effdet_jax.convert.archives import archive_kind, read_npz, read_safetensors
from effdet_jax.convert.rules import ConversionError
from tests.convert.torch_files import legacy_pth, write_pth

ARRAYS = {"w": np.arange(3, dtype=np.float32)}


def test_the_content_says_the_kind_and_the_ending_nothing(tmp_path):
    path = tmp_path / "weights.jpg"
    save_file(ARRAYS, path, {"a": "b"})
    assert archive_kind(str(path)) == "safetensors"
    assert read_safetensors(str(path))[1] == {"a": "b"}
    write_pth(path, ARRAYS)
    assert archive_kind(str(path)) == "pytorch"
    path.write_bytes(legacy_pth(ARRAYS))
    assert archive_kind(str(path)) == "pytorch"
    with open(path, "wb") as file:
        np.savez(file, **ARRAYS)
    assert archive_kind(str(path)) == "npz" and list(read_npz(path)) == ["w"]
    for mode in ("w", "w:gz"):
        with tarfile.open(path, mode) as archive:
            archive.add(__file__)
        assert archive_kind(str(path)) == "tar"


def test_what_lies_in_the_place_of_weights_is_named(tmp_path):
    for content, what in (
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html>", "it is a web page"),
    ):
        (tmp_path / "w.pth").write_bytes(content)
        with pytest.raises(ConversionError, match=what):
            archive_kind(str(tmp_path / "w.pth"))
