"""Parity: a converted detector against another implementation, layer by layer."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from effdet_jax.convert.archives import read_npz
from effdet_jax.convert.detectors import pytorch_kind
from effdet_jax.convert.pytorch import fpn_name
from effdet_jax.convert.rules import ConversionError
from effdet_jax.convert.torchvision_live import torchvision_layers
from effdet_jax.convert.write import tensors_for
from effdet_jax.detection.heads import Outputs
from effdet_jax.detection.objective import create_objective
from effdet_jax.model.detector import Detector
from effdet_jax.spec import ModelSpec

# Largest difference of a layer that counts as equal, as a share of its largest magnitude: float32
# sums in another order, through a hundred layers, stay below it.
TOLERANCE = 1e-3
SCORE_TIE = 1e-5  # Detections whose scores differ by less may change places.


@dataclasses.dataclass(frozen=True)
class Reference:
    """What another implementation computed with the same weights.

    Attributes:
      name: of the implementation.
      images: [B, H, W, 3] float32, normalised.
      layers: {'backbone P3': [B, h, w, C], …, 'class P7': [B, h, w, A, K]}; some may be missing.
    """

    name: str
    images: np.ndarray
    layers: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a parity table."""

    layer: str
    largest: float
    absolute: float

    @property
    def relative(self) -> float:
        """Largest difference, as a share of the largest magnitude."""
        return self.absolute / max(self.largest, 1e-30)

    @property
    def equal(self) -> bool:
        return self.relative <= TOLERANCE


def run_layers(
    spec: ModelSpec, variables: Mapping[str, Any], images: np.ndarray
) -> dict[str, np.ndarray]:
    """The layers of `Detector(spec)` under the names of `Reference.layers`."""
    run = _network_with_layers(dataclasses.replace(spec, image_size=images.shape[1:3]))
    outputs, extra = run(variables, jnp.asarray(images))
    found = extra["intermediates"]
    layers = {f"backbone P{n}": x for n, x in found["backbone"]["__call__"][0].items()}
    for level in spec.levels:
        if f"P{level}" in found["pyramid"]:
            layers[f"input P{level}"] = found["pyramid"][f"P{level}"]["__call__"][0]
    cells = [cell for cell in range(spec.pyramid_cells) if f"cell_{cell}" in found["pyramid"]]
    for cell in cells:
        for level, x in found["pyramid"][f"cell_{cell}"]["__call__"][0].items():
            layers[f"cell {cell} P{level}"] = x
    if not cells:  # No node list: what it puts out is all there is to see.
        for level, x in found["pyramid"]["__call__"][0].items():
            layers[f"pyramid P{level}"] = x
    for level in spec.levels:
        layers[f"class P{level}"] = outputs.class_logits[level]
        layers[f"box P{level}"] = outputs.box_deltas[level]
    return {name: np.asarray(x) for name, x in layers.items()}


@functools.lru_cache(maxsize=1)
def _network_with_layers(spec: ModelSpec) -> Callable[..., Any]:
    wanted = {
        ("backbone",),
        ("pyramid",),
        *(("pyramid", f"P{level}") for level in spec.levels),
        *(("pyramid", f"cell_{cell}") for cell in range(spec.pyramid_cells)),
    }
    return jax.jit(
        lambda variables, x: Detector(spec).apply(
            variables,
            x,
            capture_intermediates=lambda module, method: (
                method == "__call__" and module.path in wanted
            ),
        )
    )


def compare(layers: Mapping[str, np.ndarray], reference: Reference) -> list[Row]:
    """A row per layer of the reference, in the order of `layers`.

    Raises:
      ConversionError: the reference has a layer that isn't in `layers`, or of another shape.
    """
    if unknown := sorted(set(reference.layers) - set(layers)):
        raise ConversionError(f"{reference.name} has layers that aren't here: {unknown}")
    rows = []
    for name, array in layers.items():
        if name not in reference.layers:
            continue
        expected = reference.layers[name]
        if expected.shape != array.shape:
            raise ConversionError(
                f"{name} is {expected.shape} in {reference.name}, {array.shape} here"
            )
        difference = np.abs(array.astype(np.float64) - expected).max()
        rows.append(Row(name, float(np.abs(expected).max()), float(difference)))
    return rows


def compare_detections(
    spec: ModelSpec, layers: Mapping[str, np.ndarray], reference: Reference
) -> tuple[int, int, float]:
    """(equal, all, largest box difference in px) of the top 100 from both sides' predictions.

    Equal are the same class at the same rank, or at that of a score within `SCORE_TIE`.
    """
    spec = dataclasses.replace(spec, image_size=reference.images.shape[1:3])
    decode = create_objective(spec).decode
    run = jax.jit(lambda outputs: decode(outputs, score_threshold=0.0))
    a, b = (jax.device_get(run(_outputs(spec, side))) for side in (layers, reference.layers))
    equal, total, box_difference = 0, 0, 0.0
    for image in range(len(a.scores)):
        for rank in np.flatnonzero(b.valid[image]):
            total += 1
            near = np.abs(a.scores[image] - b.scores[image, rank]) <= SCORE_TIE
            near &= (a.labels[image] == b.labels[image, rank]) & a.valid[image]
            if not near.any():
                continue
            distances = np.abs(a.boxes[image] - b.boxes[image, rank]).max(-1)
            distance = distances[near].min()
            equal += bool(distance < 0.01 * max(spec.image_size))
            box_difference = max(box_difference, float(distance))
    return equal, total, box_difference


def _outputs(spec: ModelSpec, layers: Mapping[str, np.ndarray]) -> Outputs:
    return Outputs(
        {level: jnp.asarray(layers[f"class P{level}"]) for level in spec.levels},
        {level: jnp.asarray(layers[f"box P{level}"]) for level in spec.levels},
    )


def table(rows: Sequence[Row]) -> str:
    """The parity table."""
    lines = [f"{'layer':16s} {'largest':>10s} {'abs diff':>10s} {'rel diff':>10s}"]
    for row in rows:
        verdict = "" if row.equal else "  DIFFERS"
        lines.append(
            f"{row.layer:16s} {row.largest:10.3g} {row.absolute:10.2g} {row.relative:10.2g}{verdict}"
        )
    return "\n".join(lines)


def recorded_reference(path: str | os.PathLike, spec: ModelSpec, *, raw: bool = False) -> Reference:
    """A reference from an `.npz` of recorded activations.

    Two namings are known: effdet's ('eval_backbone_P3' …, NCHW) and google/automl's
    ('backbone/r3' …, NHWC, with 'raw/cls/p3' … for the raw variables); both hold 'input'.

    Raises:
      ConversionError: it is neither.
    """
    arrays = read_npz(path)
    if "eval_backbone_P3" in arrays:
        layers = {
            _effdet_name(name): _with_anchors(spec, _effdet_name(name), array.transpose(0, 2, 3, 1))
            for name, array in arrays.items()
            if name.startswith("eval_")
        }
        return Reference("recorded effdet", arrays["input"].transpose(0, 2, 3, 1), layers)
    if "cls/p3" in arrays:
        names = {_automl_name(name, raw): array for name, array in arrays.items()}
        layers = {name: _with_anchors(spec, name, array) for name, array in names.items() if name}
        return Reference("recorded google/automl", arrays["input"], layers)
    raise ConversionError(
        f"'{path}' holds no recorded activations: neither 'eval_backbone_P3' nor 'cls/p3'"
    )


def _effdet_name(name: str) -> str:
    """'eval_fpn_cell0_P3' → 'cell 0 P3'."""
    part, level = name.removeprefix("eval_").rsplit("_", 1)
    part = part.replace("fpn_in", "input").replace("fpn_cell", "cell ")
    return f"{part} {level}"


def _automl_name(name: str, raw: bool) -> str:
    """'fpn/cell_0/out_p3' → 'cell 0 P3'; '' for what isn't compared."""
    parts = name.split("/")
    if raw:
        parts = parts[1:] if parts[0] == "raw" else []
    kind, last = (parts or [""])[0], (parts or [""])[-1]
    if kind in ("cls", "box") and len(parts) == 2 and last[0] == "p":
        return f"{'class' if kind == 'cls' else 'box'} P{last[1:]}"
    if kind == "backbone" and last in ("r3", "r4", "r5"):
        return f"backbone P{last[1:]}"
    if kind == "fpn_in" and last not in ("p3", "p4", "p5"):
        return f"input P{last[1:]}"
    if kind == "fpn" and last.startswith("out_p"):
        return f"cell {parts[1].removeprefix('cell_')} P{last[5:]}"
    return ""


def _with_anchors(spec: ModelSpec, name: str, array: np.ndarray) -> np.ndarray:
    """Predictions with anchors and values apart: [B, h, w, A·K] → [B, h, w, A, K]."""
    if name.startswith(("class", "box")):
        return array.reshape(*array.shape[:3], spec.anchors_per_cell, -1)
    return array


def live_reference(
    spec: ModelSpec, variables: Mapping[str, Any], size: tuple[int, int], *, seed: int = 0
) -> Reference:
    """PyTorch's effdet or torchvision, run here with the same weights on a random image of `size`.

    Raises:
      ConversionError: torch and that program aren't installed, or have no such model.
    """
    images = np.random.default_rng(seed).normal(size=(1, *size, 3)).astype(np.float32)
    kind = pytorch_kind(spec)
    return Reference(kind, images, LIVE[kind](spec, variables, images))


def effdet_layers(
    spec: ModelSpec, variables: Mapping[str, Any], images: np.ndarray
) -> dict[str, np.ndarray]:
    """PyTorch effdet's layers under the names of `Reference.layers`.

    Raises:
      ConversionError: torch and effdet aren't installed, or have no such model.
    """
    network = _effdet_network(spec, variables, images.shape[1:3])
    return {
        f"{part} P{level}": _with_anchors(spec, part, x.numpy().transpose(0, 2, 3, 1))
        for part, levels, features in _effdet_layers(network, spec.levels, images)
        for level, x in zip(levels, features)
    }


# Kind of weights → (spec, variables, normalised images) → layers, by the program whose they are.
LIVE: dict[str, Callable[..., dict[str, np.ndarray]]] = {
    "effdet": effdet_layers,
    "torchvision": torchvision_layers,
}


def _effdet_network(spec: ModelSpec, variables: Mapping[str, Any], size: tuple[int, int]) -> Any:
    try:
        import torch
        from effdet import EfficientDet, get_efficientdet_config
    except (ImportError, RuntimeError) as error:  # torchvision's, if it isn't of this torch.
        raise ConversionError(
            f"comparing live needs PyTorch's effdet ({error}): pip install 'effdet_jax[parity]'; or "
            "compare with recorded activations: --reference=FILE.npz"
        ) from error
    family = "tf_" if spec.redundant_bias else ""
    name = family + spec.name.replace("-", "_")
    try:
        config = get_efficientdet_config(name)
    except KeyError as error:
        raise ConversionError(f"effdet has no model '{name}'") from error
    config.image_size, config.num_classes = size, spec.num_classes
    config.fpn_name, config.separable_conv = fpn_name(spec), spec.conv == "separable"
    config.fpn_channels, config.fpn_cell_repeats = spec.pyramid_width, spec.pyramid_cells
    config.box_class_repeats = spec.head_depth
    config.min_level, config.max_level = spec.min_level, spec.max_level
    config.num_levels = len(spec.levels)
    network = EfficientDet(config, pretrained_backbone=False).eval()
    tensors = tensors_for("effdet", spec, variables)
    network.load_state_dict({key: torch.from_numpy(x) for key, x in tensors.items()}, strict=True)
    return network


def _effdet_layers(
    network: Any, levels: Sequence[int], images: np.ndarray
) -> list[tuple[str, Sequence[int], Sequence[Any]]]:
    """(part, its levels, a tensor [B, C, h, w] for each) of effdet's network in order."""
    import torch

    with torch.no_grad():
        features = network.backbone(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        known = len(features)
        layers = [("backbone", levels[:known], tuple(features))]
        for resample in network.fpn.resample.values():
            features.append(resample(features[-1]))
        layers.append(("input", levels[known:], tuple(features[known:])))
        for number, cell in enumerate(network.fpn.cell):
            features = cell(features)
            layers.append((f"cell {number}", levels, tuple(features)))
        layers.append(("class", levels, network.class_net(features)))
        layers.append(("box", levels, network.box_net(features)))
    return layers
