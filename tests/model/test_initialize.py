import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effdet_jax.convert.rules import flatten
from effdet_jax.model.detector import BACKBONES, Detector
from effdet_jax.model.initialize import (
    abstract_variables,
    describe,
    initial_variables,
    parameter_masks,
)
from tests.plain_flax import plain_backbone
from tests.tiny import tiny_spec

SPEC = tiny_spec("efficientdet-d0", num_classes=3, max_level=5)


def test_what_is_not_drawn_starts_as_flax_starts_it():
    model = Detector(SPEC)

    @jax.jit
    def by_flax(key):
        variables = flatten(model.init(key, jnp.zeros((1, 64, 64, 3))))
        return {path: leaf for path, leaf in variables.items() if not path.endswith("/kernel")}

    found, expected = flatten(initial_variables(model)), by_flax(jax.random.key(0))
    assert len(expected) > 100
    for path, values in expected.items():
        np.testing.assert_array_equal(found[path], values, err_msg=path)
    shapes = flatten(abstract_variables(model))
    assert {path: (x.shape, x.dtype) for path, x in found.items()} == {
        path: (leaf.shape, leaf.dtype) for path, leaf in shapes.items()
    }


@pytest.mark.parametrize(
    ("path", "deviation", "largest"),
    [  # The largest in deviations; of thousands of normal ones more than 3.
        ("backbone/block_6/project_conv/kernel", lambda c, d: (2 / d) ** 0.5, (3, 6)),
        ("backbone/block_6/se/expand/kernel", lambda c, d: (2 / d) ** 0.5, (3, 6)),
        (
            "pyramid/cell_0/P4_td/P4_in/conv/kernel",
            lambda c, d: (2 / (c + d)) ** 0.5,
            (1.7, 1.7321),
        ),
        ("class_head/conv_0/pointwise/kernel", lambda c, d: (1 / c) ** 0.5, (2.2, 2.2737)),
    ],
)
def test_every_part_draws_kernels_as_the_reference(path, deviation, largest):
    kernel = flatten(initial_variables(Detector(SPEC), seed=1))[f"params/{path}"]
    expected = deviation(*kernel.shape[2:])
    np.testing.assert_allclose(kernel.std(), expected, rtol=0.05)
    assert largest[0] < np.abs(kernel).max() / expected < largest[1]


def test_values_follow_from_the_seed_and_not_from_the_other_tensors():
    first, again, other = (flatten(initial_variables(Detector(SPEC), seed)) for seed in (0, 0, 1))
    more_classes = dataclasses.replace(SPEC, num_classes=9)
    wider = flatten(initial_variables(Detector(more_classes)))
    kernels = [path for path in first if path.endswith("/kernel")]
    for path in kernels:
        np.testing.assert_array_equal(first[path], again[path])
        assert (first[path] != other[path]).any()
        if "class_head/predict/pointwise" not in path:
            np.testing.assert_array_equal(first[path], wider[path])
    assert len({first[path].flat[0] for path in kernels}) == len(kernels)


@pytest.fixture
def plain_model(monkeypatch):
    monkeypatch.setitem(BACKBONES, "plain", plain_backbone)
    return Detector(tiny_spec(backbone="plain"))


def test_a_plain_flax_backbone_starts_from_its_own_initialisers(plain_model):
    """Every parameter is what `model.init` gives it, but for kernels of this package's layers."""
    found = flatten(initial_variables(plain_model, seed=3))
    init = jax.jit(plain_model.init)
    expected = flatten(init(jax.random.key(3), jnp.zeros((1, 64, 64, 3))))
    assert found.keys() == expected.keys()
    for path in found:
        if path.startswith(("params/backbone/", "batch_stats/")) or not path.endswith("/kernel"):
            np.testing.assert_array_equal(found[path], expected[path], err_msg=path)
    assert (found["params/backbone/LayerScale_0/gamma"] == np.float32(0.1)).all()
    assert found["params/backbone/Conv_1/kernel"].std() > 0


def test_layers_declare_what_decays_and_what_is_clipped_apart(plain_model):
    masks = {name: flatten(mask) for name, mask in parameter_masks(plain_model).items()}
    decayed = {path for path, value in masks["decayed"].items() if value}
    assert {"backbone/Conv_0/kernel", "class_head/predict/depthwise/kernel"} <= decayed
    assert all(path.endswith("/kernel") for path in decayed)
    assert not any(masks["separate"].values())  # Lite's nodes sum without weights.
    weighted = flatten(parameter_masks(Detector(SPEC))["separate"])
    assert [path for path, value in weighted.items() if value] == [
        path for path in weighted if path.endswith("fusion/weights")
    ]


def test_a_description_knows_modules_by_path():
    modules = describe(Detector(SPEC)).modules
    assert modules["backbone", "block_0", "depthwise_bn"].after == "depthwise_conv"
    assert modules["class_head", "bn_0_P3"].shared
