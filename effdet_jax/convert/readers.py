"""Weights of other programs: any of their files → tensors by name, and what kind they are."""

import contextlib
import dataclasses
import itertools
import os
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from effdet_jax.convert.backbones import BACKBONES
from effdet_jax.convert.pth import read_pth
from effdet_jax.convert.rules import ConversionError, listed
from effdet_jax.convert.tensorbundle import TensorBundle

EMA = "/ExponentialMovingAverage"
# What a training run of TensorFlow keeps beside its variables.
_TF_EXTRA = re.compile(
    r"^(global_step|save_counter|optimizer/.*|learning_rate)$|/(Momentum|Adam|Adam_1|RMSProp|RMSProp_1)$"
    r"|/\.OPTIMIZER_SLOT/"
)
_TF_SCOPE = re.compile(r"^(efficientnet-\w+)/model/")
_TF2_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_TF2_AVERAGE = re.compile(r"^(.+)/\.OPTIMIZER_SLOT/.+/average$")

# Kinds of a detector's weights, each told by a tensor that all of it, and nothing else, has.
DETECTORS = {
    "effdet": "class_net.predict.conv_pw.weight",
    "automl": "class_net/class-predict/pointwise_kernel",
    "automl-tf2": "class_net/classes/pointwise_kernel",
}
# Names that betray what a file is, if it is nothing that can be read.
_LOOKS_LIKE = {
    r"FeatureExtractor|WeightSharedConvolutional": "TensorFlow's Object Detection API",
    r"backbone\.bottom_up|proposal_generator": "detectron2",
    r"^(model\.)?\d+\.(conv|cv\d|m)\b": "ultralytics' YOLO",
    r"^(backbone\.)?layer\d\.\d\.": "a ResNet",
    r"(^|\.)blocks\.\d+\.\d+\..*conv_dw": "an EfficientNet-like network of timm with other heads",
}


@dataclasses.dataclass(frozen=True)
class Weights:
    """Tensors as another program names and lays them out.

    Attributes:
      path: where they were read.
      kind: a key of `DETECTORS`, or of the `imagenet` of one of `BACKBONES`.
      tensors: by name; bookkeeping such as optimizer slots is left out.
      notes: what was found, chosen and left out on the way, a line each.
    """

    path: str
    kind: str
    tensors: Mapping[str, np.ndarray]
    notes: tuple[str, ...]

    @property
    def backbone_only(self) -> bool:
        """Whether there are no pyramid and no heads."""
        return self.kind not in DETECTORS


def read_weights(path: str | os.PathLike, *, raw: bool = False) -> Weights:
    """Reads a TensorFlow checkpoint, Keras `.h5`, `.safetensors`, `.pth` or `.npz`.

    Args:
      path: the file; for TensorFlow a checkpoint's prefix, its folder or a `.tar.gz` of that.
      raw: the variables themselves instead of their moving averages, where both are there.

    Raises:
      ConversionError: it can't be read, or is nothing of an EfficientDet.
    """
    path = os.fspath(path)
    notes: list[str] = []
    tensors = _widened(dict(_read(path, raw, notes)), notes)
    kind = _kind(path, tensors)
    for names in BACKBONES.values():
        if kind in names.rules:
            of_classifier = re.compile(names.classifier).search
            tensors = _without(tensors, of_classifier, "tensors of the ImageNet classifier", notes)
    return Weights(path, kind, tensors, tuple(notes))


def _read(path: str, raw: bool, notes: list[str]) -> Mapping[str, np.ndarray]:
    if path.endswith((".tar.gz", ".tgz")):
        with _unpacked(path) as folder:
            try:
                return _read(folder, raw, notes)
            except ConversionError as error:
                raise ConversionError(str(error).replace(folder, path)) from error
    if prefix := _tensorflow_prefix(path):
        return _of_tensorflow(path, TensorBundle(prefix), raw, notes)
    if os.path.isdir(path):
        raise ConversionError(
            f"'{path}' holds no checkpoint: neither a training run's (checkpoints/best, "
            "checkpoints/last), nor a converted model (config.json, model.safetensors), nor "
            "TensorFlow's ('.index' and '.data-…' files)"
        )
    if not os.path.exists(path):
        raise ConversionError(
            f"there is no '{path}': no such file or folder in {os.getcwd()}, and no TensorFlow "
            "checkpoint of that prefix ('.index' and '.data-…' files)"
        )
    if not os.path.getsize(path):
        raise ConversionError(f"'{path}' is empty")
    if path.endswith((".h5", ".hdf5")):
        return _read_keras(path)
    if path.endswith(".npz"):
        return _of_tensorflow(path, read_npz(path), raw, notes)
    if path.endswith(".safetensors"):
        tensors = _read_safetensors(path)
        slashes = any("/" in name for name in tensors)
        return (_of_tensorflow if slashes else _of_pytorch)(path, tensors, raw, notes)
    if path.endswith((".pth", ".pt", ".bin", ".pth.tar")):
        return _of_pytorch(path, read_pth(path), raw, notes)
    raise ConversionError(
        f"'{path}' isn't of a kind that is read here: a TensorFlow checkpoint (its prefix, folder "
        "or .tar.gz), .h5, .safetensors, .pth, .npz"
    )


def _tensorflow_prefix(path: str) -> str:
    """Prefix of the TensorFlow checkpoint at `path`; '' if there is none."""
    if os.path.isfile(f"{path}.index"):
        return path
    if path.endswith(".index") or re.search(r"\.data-\d{5}-of-\d{5}$", path):
        return re.sub(r"\.(index|data-\d{5}-of-\d{5})$", "", path)
    if not os.path.isdir(path):
        return ""
    found = sorted(
        os.path.join(folder, name.removesuffix(".index"))
        for folder, _, names in os.walk(path)
        for name in names
        if name.endswith(".index")
    )
    if len(found) < 2:
        return found[0] if found else ""
    folders = {os.path.dirname(prefix) for prefix in found}
    newest = os.path.join(min(folders), "checkpoint")  # TensorFlow's own note of the newest one.
    if len(folders) == 1 and os.path.isfile(newest):
        with open(newest, encoding="utf-8") as file:
            named = re.search(r'^model_checkpoint_path: "(.*)"', file.read(), re.MULTILINE)
        prefix = named and os.path.join(min(folders), os.path.basename(named[1]))
        if prefix in found:
            return prefix
    raise ConversionError(
        f"'{path}' holds {len(found)} checkpoints; give the prefix of one:\n  {listed(found)}"
    )


@contextlib.contextmanager
def _unpacked(path: str) -> Iterator[str]:
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


def _read_safetensors(path: str) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ConversionError(f"'{path}' can't be read as safetensors: {error}") from error


def _read_keras(path: str) -> dict[str, np.ndarray]:
    """Keras weights: their layer's name comes first, twice, and ':0' last."""
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


def _of_tensorflow(
    path: str, stored: Mapping[str, np.ndarray], raw: bool, notes: list[str]
) -> dict[str, np.ndarray]:
    """The network's variables: their moving averages, or the `raw` ones."""
    # Some ImageNet checkpoints have a scope more.
    names = {_TF_SCOPE.sub(r"\1/", name.removesuffix(_TF2_VALUE)): name for name in stored}
    averages, variables = {}, {}
    for name, key in names.items():
        tf2 = _TF2_AVERAGE.match(name)
        if name.endswith(EMA) or tf2:
            averages[tf2[1] if tf2 else name.removesuffix(EMA)] = key
        elif not _TF_EXTRA.search(name):
            variables[name] = key
    if not variables and not averages:
        raise ConversionError(
            f"'{path}' holds nothing but what an optimizer keeps "
            f"({', '.join(list(names)[:3])}, …): give the checkpoint of the model"
        )
    if averages and not raw:
        without = sorted(set(variables) - set(averages))
        variables |= averages
        notes.append(
            f"moving averages of {len(averages)} variables taken"
            + (f"; {len(without)} have none: {', '.join(without[:3])}, …" if without else "")
            + " (--raw takes the variables themselves)"
        )
    elif averages:
        notes.append("raw variables taken, not their moving averages")
    elif any(name.endswith("moving_mean") for name in variables):
        notes.append("no moving averages there: the variables themselves taken")
    left_out = len(names) - len(set(variables) | set(averages)) - len(averages)
    if left_out > 0:
        notes.append(f"left out: {left_out} of the optimizer's tensors and counters")
    return {name: stored[key] for name, key in variables.items()}


def _of_pytorch(path: str, found: Any, raw: bool, notes: list[str]) -> dict[str, np.ndarray]:
    """The state dict inside, without prefixes and without what carries no weights."""
    for key in ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict"):
        if raw and "ema" in key:
            continue
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            beside = sorted(str(name) for name in found if name != key)
            notes.append(f"'{key}' taken" + (f", not {', '.join(beside)}" if beside else ""))
            found = found[key]
            break
    if not isinstance(found, Mapping) or not any(
        isinstance(value, np.ndarray) for value in found.values()
    ):
        raise ConversionError(f"'{path}' holds no state dict: no tensors by name")
    tensors = {str(name): array for name, array in found.items() if isinstance(array, np.ndarray)}
    for prefix in ("module.", "model.", "module.", "model."):
        inside = [name for name in tensors if name.startswith(prefix)]
        # Training benches keep anchors beside the model they wrap.
        outside = [name for name in tensors if not name.startswith((prefix, "anchor"))]
        if inside and not outside:
            notes.append(f"prefix '{prefix}' removed from {len(inside)} names")
            tensors = {name.removeprefix(prefix): array for name, array in tensors.items()}
    tensors = _without(
        tensors, lambda name: name.startswith("anchor"), "tensors of the anchors", notes
    )
    # PyTorch's counters of batches carry nothing for us.
    return {n: array for n, array in tensors.items() if not n.endswith("num_batches_tracked")}


def _without(
    tensors: dict[str, np.ndarray], drop: Callable[[str], Any], what: str, notes: list[str]
) -> dict[str, np.ndarray]:
    dropped = [name for name in tensors if drop(name)]
    if dropped:
        notes.append(f"left out: {len(dropped)} {what} ({', '.join(dropped[:3])}, …)")
    return {name: array for name, array in tensors.items() if not drop(name)}


def _widened(tensors: dict[str, np.ndarray], notes: list[str]) -> dict[str, np.ndarray]:
    """All in float32; says what wasn't."""
    for dtype in sorted({array.dtype for array in tensors.values()}, key=str):
        if dtype != np.float32:
            count = sum(array.dtype == dtype for array in tensors.values())
            how = "exactly" if dtype.itemsize < 4 else "rounded"
            notes.append(f"stored as {dtype}: {count} tensors, made float32, {how}")
    return {name: np.asarray(array, np.float32) for name, array in tensors.items()}


def _kind(path: str, tensors: Mapping[str, np.ndarray]) -> str:
    tells = DETECTORS.items(), *(names.imagenet.items() for names in BACKBONES.values())
    for kind, telling in itertools.chain(*tells):
        if any(name == telling or name.endswith(f"/{telling}") for name in tensors):
            return kind
    looks = next(
        (
            what
            for pattern, what in _LOOKS_LIKE.items()
            if any(re.search(pattern, name) for name in tensors)
        ),
        "",
    )
    first = ", ".join(list(tensors)[:3])
    raise ConversionError(
        f"'{path}' holds no {' or '.join(('EfficientDet', *BACKBONES))} that is known here "
        f"({len(tensors)} tensors: {first}, …)" + (f"; it looks like {looks}" if looks else "")
    )
