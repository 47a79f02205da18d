"""Weights of other programs: any of their files → tensors by name, and what kind they are."""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from effdet_jax.classes import ClassNames
from effdet_jax.convert.archives import (
    archive_kind,
    read_hdf5,
    read_npz,
    read_safetensors,
    unpacked,
)
from effdet_jax.convert.backbones import BACKBONES
from effdet_jax.convert.pth import read_pth
from effdet_jax.convert.pytorch import repeats_first
from effdet_jax.convert.rules import ConversionError, listed
from effdet_jax.convert.state_dict import find_tensors, named_architecture
from effdet_jax.convert.tensorbundle import TensorBundle
from effdet_jax.convert.torchvision import class_names_of, present_names
from effdet_jax.convert.zylo117 import unused_names
from effdet_jax.spec import ModelSpec

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
    "zylo117": "classifier.header.pointwise_conv.conv.weight",
    "torchvision": "head.classification_head.cls_logits.weight",
}
# What `write.write_tensors` adds to a file's metadata, and a folder of timm's on the hub.
SPEC, CLASS_NAMES = "effdet_jax.spec", "effdet_jax.labels"
SCORE_THRESHOLD = "effdet_jax.score_threshold"
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
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
      architecture: the network's name in its own program, 'tf_efficientdet_d0', if the file has it.
      spec, class_names, score_threshold: of a detector that was written by this package.
      classifier: tensors of an ImageNet classifier, which aren't among `tensors`.
      frozen_norms: whether a PyTorch file counts no batches: its normalisations were not trained.
    """

    path: str
    kind: str
    tensors: Mapping[str, np.ndarray]
    notes: tuple[str, ...]
    architecture: str = ""
    spec: ModelSpec | None = None
    class_names: ClassNames | None = None
    score_threshold: float | None = None
    frozen_norms: bool = False
    classifier: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def backbone_only(self) -> bool:
        """Whether there are no pyramid and no heads."""
        return self.kind not in DETECTORS


def read_weights(path: str | os.PathLike, *, raw: bool = False) -> Weights:
    """Reads a TensorFlow checkpoint, or a file of Keras, PyTorch, safetensors or numpy.

    Args:
      path: the file, whatever its ending; for TensorFlow a checkpoint's prefix, its folder or a
        `.tar.gz` of that; for timm a folder as on the Hugging Face hub.
      raw: the variables themselves instead of their moving averages, where both are there.

    Raises:
      ConversionError: it can't be read, or is nothing of an EfficientDet.
    """
    path = os.fspath(path)
    notes: list[str] = []
    tensors, about = _read(path, raw, notes)
    # PyTorch's counters of batches carry nothing else for us.
    counters = {name for name in tensors if name.endswith("num_batches_tracked")}
    tensors = {name: array for name, array in tensors.items() if name not in counters}
    tensors = _widened(tensors, notes)
    kind = _kind(path, tensors)
    if kind == "torchvision":
        tensors = present_names(tensors)
        about = {"class_names": class_names_of(tensors), "frozen_norms": not counters, **about}
    network = tensors
    for names in BACKBONES.values():
        if kind in names.rules:
            of_classifier = re.compile(names.classifier).search
            network = _without(network, of_classifier, "tensors of the ImageNet classifier", notes)
    classifier = {name: array for name, array in tensors.items() if name not in network}
    return Weights(path, kind, network, tuple(notes), classifier=classifier, **about)


def _read(
    path: str, raw: bool, notes: list[str]
) -> tuple[Mapping[str, np.ndarray], dict[str, Any]]:
    """Tensors by name, and what the file says of them as fields of `Weights`."""
    if prefix := _tensorflow_prefix(path):
        return _of_tensorflow(path, TensorBundle(prefix), raw, notes), {}
    if os.path.isdir(path):
        return _read_hub_folder(path, raw, notes)
    if not os.path.exists(path):
        raise ConversionError(
            f"there is no '{path}': no such file or folder in {os.getcwd()}, and no TensorFlow "
            "checkpoint of that prefix ('.index' and '.data-…' files)"
        )
    kind = archive_kind(path)
    if kind == "tar":
        return _read_tar(path, raw, notes)
    if kind == "hdf5":
        return read_hdf5(path), {}
    if kind == "npz":
        return _of_tensorflow(path, read_npz(path), raw, notes), {}
    if kind == "safetensors":
        tensors, metadata = read_safetensors(path)
        slashes = any("/" in name for name in tensors)
        tensors = (_of_tensorflow if slashes else _of_pytorch)(path, tensors, raw, notes)
        return tensors, _described(path, metadata)
    found = read_pth(path)
    return _of_pytorch(path, found, raw, notes), {"architecture": named_architecture(found)}


def _read_tar(
    path: str, raw: bool, notes: list[str]
) -> tuple[Mapping[str, np.ndarray], dict[str, Any]]:
    with unpacked(path) as folder:
        try:
            return _read(folder, raw, notes)
        except ConversionError as error:
            raise ConversionError(str(error).replace(folder, path)) from error


def hub_weights(path: str) -> str:
    """The file of weights in a folder as timm has it on the Hugging Face hub; '' if it is none."""
    config = os.path.join(path, "config.json")
    files = [os.path.join(path, name) for name in _HUB_FILES]
    there = [file for file in files if os.path.isfile(file)]
    return there[0] if there and os.path.isfile(config) else ""


def _read_hub_folder(
    path: str, raw: bool, notes: list[str]
) -> tuple[Mapping[str, np.ndarray], dict[str, Any]]:
    file = hub_weights(path)
    if not file:
        raise ConversionError(
            f"'{path}' holds no checkpoint: neither a training run's (checkpoints/best, "
            "checkpoints/last), nor a converted model (config.json, model.safetensors), nor "
            "TensorFlow's ('.index' and '.data-…' files)"
        )
    tensors, about = _read(file, raw, notes)
    try:
        with open(os.path.join(path, "config.json"), encoding="utf-8") as config:
            architecture = named_architecture(json.load(config))
    except ValueError as error:
        raise ConversionError(f"'{path}/config.json' isn't JSON: {error}") from error
    return tensors, {**about, "architecture": architecture or about.get("architecture", "")}


def _described(path: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Spec, class names and score threshold that this package wrote into a file's metadata."""
    try:
        about: dict[str, Any] = {}
        if SPEC in metadata:
            about["spec"] = ModelSpec.from_dict(json.loads(metadata[SPEC]))
        if CLASS_NAMES in metadata:
            about["class_names"] = ClassNames.from_dict(json.loads(metadata[CLASS_NAMES]))
        if SCORE_THRESHOLD in metadata:
            about["score_threshold"] = float(metadata[SCORE_THRESHOLD])
    except (KeyError, TypeError, ValueError) as error:
        raise ConversionError(f"'{path}' describes no model of effdet_jax: {error}") from error
    return about


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
    """The network's state dict inside, without what carries no weights."""
    tensors = find_tensors(path, found, list(_tells().values()), raw=raw, notes=notes)
    tensors = _without(
        tensors, lambda name: name.startswith("anchor"), "tensors of the anchors", notes
    )
    if DETECTORS["zylo117"] in tensors:
        tensors = _without(tensors, unused_names(tensors), "fusion weights without a use", notes)
    return repeats_first(tensors)


def _tells() -> dict[str, str]:
    """{kind: a tensor that all of it have}, detectors first: they hold a backbone, too."""
    backbones = (names.imagenet for names in BACKBONES.values())
    return {kind: name for kinds in (DETECTORS, *backbones) for kind, name in kinds.items()}


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
    for kind, telling in _tells().items():
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
