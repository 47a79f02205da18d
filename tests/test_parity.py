"""A tiny network against PyTorch's effdet 0.4.1: every activation, gradient, target and detection.

`goldens/record.py` made it and says what is recorded, on torch 2.13 in float64 with weights that
float16 holds exactly. So what differs is this package's rounding, and that of keeping float32: up
to 2e-6 of a tensor's largest magnitude in float32 (inference), 3e-7 in float64 (training).
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from effdet_jax.convert.detectors import detector_variables, rules_for
from effdet_jax.convert.readers import read_weights
from effdet_jax.convert.verify import run_layers
from effdet_jax.detection.heads import Outputs
from effdet_jax.detection.losses import detection_loss
from effdet_jax.detection.postprocess import detect
from effdet_jax.detection.targets import Targets, assign
from effdet_jax.model.detector import BACKBONES
from effdet_jax.model.efficientnet import VARIANTS, Variant
from tests.conftest import enable_x64
from tests.gradients import training_step
from tests.quick import QUICK
from tests.tiny import tiny_spec

GOLDENS = pathlib.Path(__file__).parent / "goldens"
BACKBONE = "efficientnet-golden"
SPEC_CHANGES = {
    "backbone": BACKBONE,
    "image_size": (72, 96),
    "num_classes": 3,
    "pyramid_width": 12,
    "pyramid_cells": 2,
    "head_depth": 2,
    "anchor_scale": 1.25,
}


@pytest.fixture(scope="module", autouse=True)
def golden_backbone():
    """Narrower than the package's narrowest, so that its weights and gradients are small files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, BACKBONE, Variant(0.09, 0.3))
        patch.setitem(BACKBONES, BACKBONE, BACKBONES["efficientnet-b0"])
        yield


@functools.cache
def golden():
    """(spec, variables, {name: array})."""
    spec = tiny_spec("efficientdet-d0", **SPEC_CHANGES)
    with np.load(GOLDENS / "results.npz") as file:
        arrays = dict(file)
    return spec, detector_variables(read_weights(GOLDENS / "weights.safetensors"), spec), arrays


def levels_of(prefix: str) -> dict[int, np.ndarray]:
    """{level: array} of the recorded 'prefix/P3' …"""
    _, _, arrays = golden()
    return {
        int(name.removeprefix(f"{prefix}/P")): array
        for name, array in arrays.items()
        if name.startswith(f"{prefix}/P")
    }


def network_images(count: int, dtype=np.float32):
    return golden()[2]["images"][:count].astype(dtype) / 128 - 1


def recorded_targets(count: int, dtype=np.float32) -> Targets:
    return jax.tree.map(
        lambda x: x[:count] if x.dtype == np.int8 else x[:count].astype(dtype),
        Targets(
            levels_of("targets/labels"),
            levels_of("targets/box_deltas"),
            golden()[2]["targets/num_positives"],
        ),
    )


def error_of(found, expected) -> float:
    """Largest difference, as a part of the largest magnitude."""
    found = np.asarray(found)
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def assert_levels_close(found, prefix: str, tolerance: float):
    expected = levels_of(prefix)
    assert found.keys() == expected.keys(), prefix
    for level, x in found.items():
        error = error_of(x, expected[level])
        assert error < tolerance, f"{prefix}/P{level}: off by {error:.1e} of its largest magnitude"


@functools.cache
def inference():
    """{'backbone P3': array, …} of the first two images, in float32."""
    spec, variables, _ = golden()
    return run_layers(spec, variables, network_images(2))


@pytest.mark.parametrize(
    ("layer", "prefix"),
    [
        ("backbone", "backbone"),
        ("input", "pyramid"),
        ("cell 0", "cell_0"),
        ("cell 1", "cell_1"),
        ("class", "class_logits"),
        ("box", "box_deltas"),
    ],
)
def test_every_activation(layer, prefix):
    start = f"{layer} P"
    found = {
        int(name.removeprefix(start)): x
        for name, x in inference().items()
        if name.startswith(start)
    }
    assert_levels_close(found, prefix, 1e-5)


def test_anchors():
    spec, _, arrays = golden()
    found = np.concatenate([x.reshape(-1, 4) for x in spec.anchors().values()])
    np.testing.assert_allclose(found, arrays["anchors"], rtol=1e-6, atol=1e-5)


def test_targets():
    spec, _, arrays = golden()
    found = jax.jit(functools.partial(assign, spec.anchors()), compiler_options=QUICK)(
        arrays["boxes"], arrays["labels"].astype(np.int32)
    )
    for level in spec.levels:
        labels, deltas = levels_of("targets/labels")[level], levels_of("targets/box_deltas")[level]
        np.testing.assert_array_equal(found.labels[level], labels)
        np.testing.assert_allclose(found.box_deltas[level], deltas, atol=1e-6)
        np.testing.assert_array_equal(found.box_deltas[level] != 0, deltas != 0)
        assert (labels >= 0).any()
    np.testing.assert_array_equal(found.num_positives, arrays["targets/num_positives"])


@pytest.mark.parametrize(("key", "smoothing"), [("losses", 0.0), ("losses/smoothed", 0.1)])
def test_losses(key, smoothing):
    outputs = Outputs(levels_of("class_logits"), levels_of("box_deltas"))
    _, parts = jax.jit(
        lambda outputs, targets: detection_loss(outputs, targets, {}, label_smoothing=smoothing),
        compiler_options=QUICK,
    )(outputs, recorded_targets(2))
    found = [parts[f"loss/{name}"] for name in ("total", "class", "box")]
    np.testing.assert_allclose(found, golden()[2][key], rtol=1e-5)


def test_detections():
    """Of the recorded outputs: those of another rounding may change places."""
    spec, _, arrays = golden()
    outputs = Outputs(levels_of("class_logits"), levels_of("box_deltas"))
    found = jax.jit(
        functools.partial(detect, anchors=spec.anchors(), pre_nms_top_k=1000, max_detections=100),
        compiler_options=QUICK,
    )(outputs)
    expected = arrays["detections"]
    assert found.valid.all()
    np.testing.assert_allclose(found.scores, expected[..., 4], atol=1e-6)
    np.testing.assert_array_equal(found.labels + 1, expected[..., 5])
    np.testing.assert_allclose(found.boxes[..., [1, 0, 3, 2]], expected[..., :4], atol=1e-4)


@functools.cache
def recorded_step():
    """(loss parts, outputs, updated statistics, gradients) of all four images, in float64."""
    spec, variables, _ = golden()
    with enable_x64(True):
        variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)
        images, targets = network_images(4, np.float64), recorded_targets(4, np.float64)
        return training_step(spec, variables, jnp.asarray(images), targets)


def test_loss_and_outputs_of_training():
    parts, outputs, _, _ = recorded_step()
    found = [parts[f"loss/{name}"] for name in ("total", "class", "box")]
    np.testing.assert_allclose(found, golden()[2]["train/losses"], rtol=1e-6)
    first = jax.tree.map(lambda x: x[:1], outputs)
    assert_levels_close(first.class_logits, "train/class_logits", 1e-6)
    assert_levels_close(first.box_deltas, "train/box_deltas", 1e-6)


def in_our_layout(key: str, *, statistics: bool) -> dict[str, np.ndarray]:
    """{path: array} of what is recorded one after another by effdet's names."""
    tensors = read_weights(GOLDENS / "weights.safetensors").tensors
    names = sorted(name for name in tensors if ("running" in name) == statistics)
    ends = np.cumsum([tensors[name].size for name in names])
    parts = np.split(golden()[2][key], ends)
    assert parts.pop().size == 0
    recorded = {name: part.reshape(tensors[name].shape) for name, part in zip(names, parts)}
    return {
        rule.path: rule.from_source([recorded[name] for name in rule.names])
        for rule in rules_for("effdet", golden()[0])
        if rule.names[0] in recorded
    }


def test_running_statistics_after_the_step():
    expected = in_our_layout("train/statistics", statistics=True)
    found = traverse_util.flatten_dict(recorded_step()[2], sep="/")
    assert found.keys() == expected.keys()
    for path, x in found.items():
        assert error_of(x, expected[path]) < 1e-6, path


def test_gradient_of_every_parameter():
    expected = in_our_layout("train/gradients", statistics=False)
    found = traverse_util.flatten_dict(recorded_step()[3], sep="/")
    assert found.keys() == expected.keys()
    for path, x in found.items():
        # Of a bias that a batch normalisation follows it is 0, and below 1e-14 in both; the
        # smallest of the others is 3e-6.
        np.testing.assert_allclose(
            x,
            expected[path],
            rtol=0,
            atol=1e-6 * np.abs(expected[path]).max() + 1e-12,
            err_msg=path,
        )
