"""Files of arrays by name: of which kind one is, told by its first bytes, and what it holds.

A file's ending says little: `.ckpt`, `.pth.tar` and none at all are given to the same content.
"""

import contextlib
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from effdet_jax.convert.rules import ConversionError

# Endings as they are usual, for files whose first bytes say nothing: the reader says what is wrong.
_USUAL = {
    ".tar.gz": "tar", ".tgz": "tar", ".h5": "hdf5", ".hdf5": "hdf5", ".npz": "npz",
    ".safetensors": "safetensors", ".pth": "pytorch", ".pt": "pytorch", ".bin": "pytorch",
    ".ckpt": "pytorch",
}  # fmt: skip
# What is found in the place of weights, by its first bytes.
_INSTEAD = {
    b"version https://git-lfs": "Git LFS's pointer to a file that wasn't fetched: git lfs pull",
    b"<": "a web page, so the download failed",
}


def archive_kind(path: str) -> str:
    """'tar', 'hdf5', 'npz', 'pytorch' or 'safetensors'; the ending counts if the content is none.

    Raises:
      ConversionError: it is nothing of these.
    """
    with open(path, "rb") as file:
        start = file.read(512)
    if not start:
        raise ConversionError(f"'{path}' is empty")
    if start.startswith(b"\x1f\x8b") or start[257:262] == b"ustar":
        return "tar"
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    if start.startswith(b"PK\x03\x04") and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            arrays = all(name.endswith(".npy") for name in archive.namelist())
        return "npz" if arrays else "pytorch"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < os.path.getsize(path):
        return "safetensors"
    if start[0] == 0x80 and start[1] <= 5:  # A pickle, and the version of its language.
        return "pytorch"
    instead = next((what for head, what in _INSTEAD.items() if start.startswith(head)), "")
    usual = [kind for suffix, kind in _USUAL.items() if path.lower().endswith(suffix)]
    if usual and not instead:
        return usual[0]
    raise ConversionError(
        f"'{path}' isn't of a kind that is read here: a TensorFlow checkpoint (its prefix, folder "
        "or .tar.gz), HDF5 (.h5), safetensors, PyTorch (.pth, .ckpt), .npz"
        + (f"; it is {instead}" if instead else "")
    )


@contextlib.contextmanager
def unpacked(path: str) -> Iterator[str]:
    """A folder with what a tar archive holds, for as long as the context lasts.

    Raises:
      ConversionError: it can't be unpacked.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            with tarfile.open(path) as archive:
                archive.extractall(folder, filter="data")
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ConversionError(f"'{path}' can't be unpacked: {error}") from error
        yield folder


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """All arrays of an `.npz`.

    Raises:
      ConversionError: it isn't one.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError) as error:
        raise ConversionError(f"'{path}' can't be read as .npz: {error}") from error


def read_safetensors(path: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All arrays of a `.safetensors` file, and its metadata.

    Raises:
      ConversionError: it isn't one.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return arrays, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ConversionError(f"'{path}' can't be read as safetensors: {error}") from error


def read_hdf5(path: str) -> dict[str, np.ndarray]:
    """Keras weights: their layer's name comes first, twice, and ':0' last; both are taken off.

    Raises:
      ConversionError: it isn't such a file, or h5py isn't installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise ConversionError(
            f"reading '{path}' needs h5py: pip install 'effdet_jax[h5]'"
        ) from error
    tensors = {}

    def visit(name: str, item: Any):
        if isinstance(item, h5py.Dataset):
            tensors[name.split("/", 1)[-1].removesuffix(":0")] = np.asarray(item)

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except OSError as error:
        raise ConversionError(f"'{path}' can't be read as HDF5: {error}") from error
    return tensors
