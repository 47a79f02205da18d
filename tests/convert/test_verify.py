import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effdet_jax.convert.detectors import detector_variables, guess_spec
from effdet_jax.convert.readers import read_weights
from effdet_jax.convert.rules import ConversionError
from effdet_jax.convert.verify import (
    Reference,
    compare,
    compare_detections,
    live_reference,
    recorded_reference,
    run_layers,
    table,
)
from effdet_jax.convert.write import tensors_for
from effdet_jax.model.detector import BACKBONES, Detector
from effdet_jax.model.initialize import initial_variables
from effdet_jax.spec import PYTORCH, model_spec
from tests.conftest import shared
from tests.plain_flax import plain_backbone
from tests.tiny import random_variables

SPEC = model_spec(
    "efficientdet-lite0", image_size=(64, 64), num_classes=3, pyramid_cells=1, head_depth=1
)
SHALLOW = {"pyramid_cells": 2, "head_depth": 1}


@functools.cache
def small():
    variables = random_variables(Detector(SPEC))
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    return images, run_layers(SPEC, variables, images)


def test_equal_layers_are_equal_and_detections_agree():
    images, layers = small()
    assert list(layers)[:5] == [f"backbone P{n}" for n in (3, 4, 5)] + ["input P6", "input P7"]
    assert list(layers)[-2:] == ["class P7", "box P7"]
    reference = Reference("itself", images, layers)
    rows = compare(layers, reference)
    assert len(rows) == len(layers) == 3 + 2 + 5 + 10
    assert all(row.equal and row.absolute == 0 for row in rows)
    equal, total, distance = compare_detections(SPEC, layers, reference)
    assert equal == total > 0 and distance == 0


def test_layers_of_any_backbone_are_found(monkeypatch):
    monkeypatch.setitem(BACKBONES, "plain", plain_backbone)
    spec = dataclasses.replace(SPEC, backbone="plain")
    variables = initial_variables(Detector(spec))
    layers = run_layers(spec, variables, np.zeros((1, 64, 64, 3), np.float32))
    shapes = {name: x.shape for name, x in layers.items() if name.startswith("backbone")}
    assert shapes == {
        "backbone P3": (1, 8, 8, 24),
        "backbone P4": (1, 4, 4, 32),
        "backbone P5": (1, 2, 2, 40),
    }
    with pytest.raises(ConversionError, match="backbone 'plain' has no names in other programs"):
        tensors_for("effdet", spec, variables)


def test_a_changed_layer_is_found():
    images, layers = small()
    changed = dict(layers)
    changed["cell 0 P5"] = layers["cell 0 P5"] + 0.01 * np.abs(layers["cell 0 P5"]).max()
    changed["class P3"] = layers["class P3"][..., ::-1]
    rows = compare(layers, Reference("other", images, changed))
    assert [row.layer for row in rows if not row.equal] == ["cell 0 P5", "class P3"]
    np.testing.assert_allclose(
        next(row.relative for row in rows if row.layer == "cell 0 P5"), 0.01, rtol=0.02
    )
    assert table(rows).count("DIFFERS") == 2
    equal, total, _ = compare_detections(SPEC, layers, Reference("other", images, changed))
    assert equal < total


def test_references_of_another_model_are_refused():
    images, layers = small()
    with pytest.raises(ConversionError, match=r"layers that aren't here: \['cell 9 P3'\]"):
        compare(layers, Reference("other", images, {"cell 9 P3": np.zeros(1)}))
    with pytest.raises(ConversionError, match=r"box P3 is \(1,\) in other, \(2, 8, 8, 9, 4\) here"):
        compare(layers, Reference("other", images, {"box P3": np.zeros(1)}))


@pytest.mark.parametrize("raw", [False, True])
def test_the_official_checkpoint_gives_its_recorded_activations(raw):
    """Moving averages by default, the variables with `raw`; within the recorded conditioning."""
    folder = shared("goldens/automl_d0_128")
    weights = read_weights(folder, raw=raw)
    spec = guess_spec(weights)
    assert spec == model_spec("efficientdet-d0")
    reference = recorded_reference(folder / "ref.npz", spec, raw=raw)
    assert len(reference.layers) == (10 if raw else 3 + 2 + 15 + 10)
    variables = detector_variables(weights, spec)
    found = run_layers(spec, variables, reference.images)
    rows = compare(found, reference)
    assert max(row.relative for row in rows) < 1e-4
    # meta.json: an input noise of 1e-6 moves a logit by up to 2.44e-4. Our logits and TensorFlow's
    # are at most so far from those in float64 (2.44e-4 and 1.84e-4, both at P7), to either side.
    assert max(row.absolute for row in rows if row.layer[:3] in ("cla", "box")) < 5e-4
    equal, total, distance = compare_detections(spec, found, reference)
    assert equal == total == 200 and distance < 0.05


def test_recorded_activations_of_effdet_are_read():
    folder = shared("goldens/tf_efficientdet_lite0")
    spec = guess_spec(read_weights(folder / "weights.safetensors"))
    reference = recorded_reference(folder / "ref_128.npz", spec)
    assert len(reference.layers) == 30 and reference.images.shape[-1] == 3
    assert reference.layers["class P3"].shape[-2:] == (9, 90)


def test_files_without_activations_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(1))
    with pytest.raises(ConversionError, match="holds no recorded activations"):
        recorded_reference(tmp_path / "a.npz", SPEC)
    with pytest.raises(ConversionError, match="can't be read as .npz"):
        recorded_reference(tmp_path / "missing.npz", SPEC)


def test_live_comparison_without_effdet_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "effdet", None)
    with pytest.raises(ConversionError, match=r"pip install 'effdet_jax\[parity\]'.*--reference="):
        live_reference(SPEC, {}, (64, 64))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes"),
    [(name, {}) for name in ("d0", "d1", "d3", "d6", "d7x", "lite0", "lite3x")]
    + [("d0", PYTORCH), ("d1", PYTORCH)]
    + [
        ("d0", {"pyramid": pyramid, "fusion": fusion, **SHALLOW})
        for pyramid in ("panet", "qufpn")
        for fusion in ("fast", "sum")
    ]
    + [("d0", {"fusion": "softmax", "conv": "dense", **SHALLOW})]
    + [("d0", {"pyramid": "qufpn", "max_level": 8, **SHALLOW, **PYTORCH})]
    + [("d0", {"pyramid": "panet", "max_level": 5, **SHALLOW})],
)
def test_parity_with_effdet_live(name, changes):
    """The same random weights in PyTorch's effdet, where that is installed (`.[parity]`)."""
    pytest.importorskip("torch", reason="needs torch")
    pytest.importorskip("effdet", reason="needs effdet", exc_type=ImportError)
    spec = model_spec(f"efficientdet-{name}", **changes)
    variables = lively_variables(spec)
    side = 2**spec.max_level
    reference = live_reference(spec, variables, (side, 2 * side))
    found = run_layers(spec, variables, reference.images)
    rows = compare(found, reference)
    levels = len(spec.levels)
    assert len(rows) == 3 + (levels - 3) + levels * spec.pyramid_cells + 2 * levels
    assert all(row.equal for row in rows), table(rows)
    equal, total, distance = compare_detections(spec, found, reference)
    assert equal == total == 100 and distance < 0.1
    print(f"\n{name} {changes}\n{table(rows)}\n{equal} of {total}, {distance}")


def lively_variables(spec):
    """Random variables with the statistics of a batch, so that activations keep their size."""
    size = (2**spec.max_level, 2 ** (spec.max_level + 1))
    model = Detector(dataclasses.replace(spec, image_size=size))
    variables = random_variables(model)
    # As in a trained detector: few scores near 1, where float32 can't tell them apart.
    for head, bias in (("class_head", -4.6), ("box_head", 0.0)):
        predict = variables["params"][head]["predict"]
        predict = predict.get("pointwise", predict)  # A dense convolution is one layer.
        predict["kernel"] = 0.3 * predict["kernel"]
        predict["bias"] = predict["bias"] + bias
    images = np.random.default_rng(1).normal(size=(2, *size, 3)).astype(np.float32)
    rngs = {"drop_connect": jax.random.key(0)}
    step = jax.jit(
        lambda variables, x: model.apply(
            variables, x, train=True, mutable=["batch_stats"], rngs=rngs
        )[1]["batch_stats"]
    )
    # A step goes 1 % of the way from the old statistics to the batch's: go all of it.
    old, new = variables["batch_stats"], step(variables, images)
    stats = jax.tree.map(lambda old, new: old + (new - old) / 0.01, old, new)
    # Coarse levels have few pixels: no channel may seem to stand still.
    stats = jax.tree.map_with_path(
        lambda path, x: jnp.maximum(x, x.mean()) if path[-1].key == "var" else x, stats
    )
    return {"params": variables["params"], "batch_stats": stats}
