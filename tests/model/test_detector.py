import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from effdet_jax.detection.heads import CLASS_BIAS
from effdet_jax.model.detector import NECKS, Detector, check_spec
from effdet_jax.model.graphs import PYRAMIDS
from effdet_jax.model.initialize import abstract_variables
from effdet_jax.model.merge import MERGES
from effdet_jax.ops import convolution, resample
from effdet_jax.ops.resample import window_padding
from effdet_jax.spec import model_spec
from tests.quick import QUICK
from tests.tiny import random_variables, tiny_spec

TINY = tiny_spec()


def output_shapes(spec):
    model = Detector(spec)
    images = jax.ShapeDtypeStruct((2, *spec.image_size, 3), jnp.float32)
    return jax.eval_shape(model.apply, abstract_variables(model), images)


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        # Lite0's own size: P7 of 3 rows is brought up to P6's 5.
        ("efficientdet-lite0", (320, 320), [(40, 40), (20, 20), (10, 10), (5, 5), (3, 3)]),
        ("efficientdet-d0", (499, 333), [(63, 42), (32, 21), (16, 11), (8, 6), (4, 3)]),
        ("efficientdet-d0", (511, 513), [(64, 65), (32, 33), (16, 17), (8, 9), (4, 5)]),
        pytest.param(
            "efficientdet-d7x",
            (256, 384),
            [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3), (1, 2)],
            marks=pytest.mark.slow,
        ),
        ("efficientdet-d0", (64, 64), [(8, 8), (4, 4), (2, 2), (1, 1), (1, 1)]),
    ],
)
def test_any_image_size_works(name, size, expected):
    spec = model_spec(name, image_size=size, num_classes=5)
    outputs = output_shapes(spec)
    assert [x.shape for x in outputs.class_logits.values()] == [
        (2, *side, 9, 5) for side in expected
    ]
    assert [x.shape for x in outputs.box_deltas.values()] == [(2, *side, 9, 4) for side in expected]
    assert list(outputs.class_logits) == list(spec.levels)


@pytest.mark.parametrize("pyramid", NECKS)
def test_pyramids_that_are_no_graph_take_any_size(pyramid):
    changes = {"backbone": "resnet-tiny", "pyramid": pyramid, "pyramid_width": 8}
    outputs = output_shapes(tiny_spec("retinanet-r50", image_size=(499, 333), **changes))
    sides = [(63, 42), (32, 21), (16, 11), (8, 6), (4, 3)]
    assert [x.shape for x in outputs.class_logits.values()] == [(2, *side, 9, 2) for side in sides]


def test_a_neck_is_an_entry(monkeypatch):
    class Pooled(nn.Module):
        @nn.compact
        def __call__(self, features, *, train=False):
            x = nn.Conv(8, (1, 1))(features[5])
            levels = {
                n: jnp.repeat(jnp.repeat(x, 2 ** (5 - n), 1), 2 ** (5 - n), 2) for n in (3, 4)
            }
            return {**levels, 5: x}

    monkeypatch.setitem(NECKS, "pooled", lambda spec, *, dtype, remat, name: Pooled(name=name))
    spec = tiny_spec(pyramid="pooled", max_level=5)
    check_spec(spec)
    shapes = [x.shape[1:3] for x in output_shapes(spec).box_deltas.values()]
    assert shapes == [(8, 8), (4, 4), (2, 2)]
    assert "Conv_0" in abstract_variables(Detector(spec))["params"]["pyramid"]


def test_parameter_paths_are_the_documented_ones():
    params = abstract_variables(Detector(model_spec("efficientdet-d0")))["params"]
    assert params["pyramid"]["cell_0"]["P4_td"]["fusion"]["weights"].shape == (2,)
    # Every consumer of a backbone level has its own 1×1 convolution, in the first cell only.
    assert params["pyramid"]["cell_0"]["P4_td"]["P4_in"]["conv"]["kernel"].shape == (1, 1, 112, 64)
    assert params["pyramid"]["cell_0"]["P4_out"]["P4_in"]["conv"]["kernel"].shape == (1, 1, 112, 64)
    assert "P4_in" not in params["pyramid"]["cell_1"]["P4_out"]
    assert params["class_head"]["predict"]["pointwise"]["kernel"].shape == (1, 1, 64, 810)
    assert set(params["class_head"]) == {"predict", "conv_0", "conv_1", "conv_2"} | {
        f"bn_{repeat}_P{level}" for repeat in range(3) for level in range(3, 8)
    }


def test_sum_fusion_has_no_weights():
    variables = abstract_variables(Detector(model_spec("efficientdet-d6")))
    assert "fusion" not in variables["params"]["pyramid"]["cell_0"]["P4_td"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{"pyramid": graph, "fusion": "fast"} for graph in PYRAMIDS]
    + [{"fusion": fusion} for fusion in sorted(set(MERGES) - {"fast"})]
    + [{"pyramid": "nasfpn", "laterals": "level", "pooling": "disjoint", "max_level": 7}]
    + [{"pyramid": "qufpn", "fusion": "sum", "max_level": 8, "image_size": (256, 256)}],
)
def test_a_gradient_reaches_every_parameter_of_a_pyramid(changes):
    spec = tiny_spec("efficientdet-d0", **{"image_size": (128, 128), **changes})
    model, rng = Detector(spec), np.random.default_rng(1)
    variables = random_variables(model)
    images = jnp.asarray(rng.normal(size=(2, *spec.image_size, 3)), jnp.float32)

    def loss(params):
        found, _ = model.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        return sum(
            jnp.sum(x * jnp.cos(jnp.arange(x.size).reshape(x.shape)))
            for x in jax.tree.leaves(found)
        )

    gradients = jax.jit(jax.grad(loss), compiler_options=QUICK)(variables["params"])
    for path, gradient in flatten_dict(gradients["pyramid"], sep="/").items():
        assert np.isfinite(gradient).all(), path
        redundant = path.endswith(("conv/bias", "pointwise/bias"))
        assert redundant or np.any(gradient != 0), path


def test_class_bias_is_probability_one_hundredth():
    np.testing.assert_allclose(1 / (1 + np.exp(-CLASS_BIAS)), 0.01)
    np.testing.assert_allclose(CLASS_BIAS, -4.59511985)


def test_drop_connect_needs_training_and_changes_the_output():
    # The tiny backbone has no residual branch that could be dropped.
    model = Detector(dataclasses.replace(TINY, backbone="efficientnet-lite0"))
    variables = random_variables(model)
    images = jnp.ones((2, 64, 64, 3))

    @jax.jit
    def train(key):
        outputs, _ = model.apply(
            variables, images, train=True, mutable=["batch_stats"], rngs={"drop_connect": key}
        )
        return outputs.class_logits[3]

    first, again, other = (train(jax.random.key(seed)) for seed in (0, 0, 3))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_bfloat16_computes_near_float32():
    variables = random_variables(Detector(TINY))
    images = jnp.asarray(np.random.default_rng(1).normal(size=(1, 64, 64, 3)).astype(np.float32))
    wide, narrow = (
        jax.jit(Detector(TINY, dtype=dtype).apply, compiler_options=QUICK)(variables, images)
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert narrow.class_logits[3].dtype == jnp.bfloat16
    scale = np.abs(wide.class_logits[3]).max()
    difference = np.abs(narrow.class_logits[3].astype(jnp.float32) - wide.class_logits[3]).max()
    assert 0 < difference < 0.1 * scale


def test_symmetric_padding_reaches_every_strided_window(monkeypatch):
    kinds = []

    def recording(size, windows, strides, kind="same"):
        if strides != [1, 1]:
            kinds.append(kind)
        return window_padding(size, windows, strides, kind)

    jax.clear_caches()  # What has been traced isn't traced again.
    for module in (convolution, resample):
        monkeypatch.setattr(module, "window_padding", recording)
    output_shapes(model_spec("efficientdet-d0", image_size=(128, 128), padding="symmetric"))
    # Stem, four strided blocks; P6, P7; in each of three cells four nodes pool the level below.
    strided = 1 + 4 + 2 + 3 * 4
    assert set(kinds) == {"symmetric"} and len(kinds) >= strided


@pytest.mark.parametrize(
    ("field", "known"),
    [
        ("backbone", "efficientnet-b0"),
        ("pyramid", "bifpn"),
        ("fusion", "fast, softmax"),
        ("laterals", "node, level"),
        ("pooling", "overlapping, disjoint"),
        ("conv", "separable, dense"),
        ("activation", "swish, relu"),
        ("objective", "retina"),
    ],
)
def test_a_name_that_no_table_has_lists_the_known(field, known):
    with pytest.raises(ValueError, match=f"{field} 'nothing' is unknown; there are {known}"):
        check_spec(dataclasses.replace(TINY, **{field: "nothing"}))
