import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effdet_jax.model.fpn import FPN

# A level of 8 channels, 4 to 1 pixels wide, of a constant each.
VALUES = {3: 2.0, 4: 3.0, 5: 5.0}
FEATURES = {n: jnp.full((1, 2 ** (5 - n), 2 ** (5 - n), 1), value) for n, value in VALUES.items()}


def identity(pyramid):
    """Variables with which every convolution passes on its middle pixel."""
    variables = pyramid.init(jax.random.key(0), FEATURES)
    params = {}
    for name, leaves in variables["params"].items():
        kernel = np.zeros_like(leaves["kernel"]) if "kernel" in leaves else None
        if kernel is not None:
            kernel[tuple(side // 2 for side in kernel.shape[:2])] = 1
        params[name] = leaves if kernel is None else {**leaves, "kernel": jnp.asarray(kernel)}
    return {**variables, "params": params}


def test_sums_run_over_features_without_a_convolution():
    """P4 doubled by its 3×3 convolution: P3 takes the sum before it."""
    pyramid = FPN(1, norm=False)
    variables = identity(pyramid)
    variables["params"]["P4_conv"]["kernel"] *= 2
    outputs = pyramid.apply(variables, FEATURES)
    assert {n: x.shape[1:3] for n, x in outputs.items()} == {
        3: (4, 4),
        4: (2, 2),
        5: (1, 1),
        6: (1, 1),
        7: (1, 1),
    }
    assert float(outputs[5][0, 0, 0, 0]) == 5 and float(outputs[4][0, 1, 0, 0]) == 2 * (3 + 5)
    assert (outputs[3] == 2 + 3 + 5).all()


@pytest.mark.parametrize(("extra_from", "expected"), [("output", -5.0), ("backbone", 5.0)])
def test_p6_is_of_p5_or_of_the_backbone(extra_from, expected):
    pyramid = FPN(1, norm=False, extra_from=extra_from)
    variables = identity(pyramid)
    variables["params"]["P5_conv"]["kernel"] *= -1
    outputs = pyramid.apply(variables, FEATURES)
    assert outputs[6].item() == expected
    assert outputs[7].item() == max(expected, 0.0)  # A ReLU is before it.


def test_normalised_outputs_pass_on_what_is_not():
    pyramid = FPN(1)
    variables = identity(pyramid)
    variables["params"]["P5_bn"]["bias"] += 100
    outputs = pyramid.apply(variables, FEATURES)
    assert outputs[5].item() > 100 > outputs[6].item()


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        # 1×1 of 512, 1024, 2048 channels, five 3×3 of 256 with biases; 2 · 256 per normalisation.
        ({}, 256 * (512 + 1024 + 2048 + 3) + 5 * (9 * 256 + 1) * 256 + 5 * 512),
        ({"norm": False}, 3_868_672),
        ({"norm": False, "extra_from": "backbone"}, 7_997_440),
    ],
)
def test_parameters(changes, count):
    features = {
        level: jax.ShapeDtypeStruct((1, 64 >> level, 64 >> level, 64 << level), jnp.float32)
        for level in (3, 4, 5)
    }
    params = jax.eval_shape(
        lambda x: FPN(256, **changes).init(jax.random.key(0), x)["params"], features
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_levels_below_the_finest_are_left_out():
    pyramid = FPN(1, min_level=4, norm=False)
    variables = pyramid.init(jax.random.key(0), FEATURES)
    assert set(pyramid.apply(variables, FEATURES)) == {4, 5, 6, 7}
    assert "P3_lateral" not in variables["params"]
