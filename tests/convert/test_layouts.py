import numpy as np
import pytest

from effdet_jax.convert.layouts import (
    pytorch_batch_norm,
    pytorch_conv,
    tensorflow_batch_norm,
    tensorflow_conv,
    tensorflow_depthwise,
)


def test_pytorch_kernels_are_turned(rng):
    kernel, bias = pytorch_conv("a/conv", "x.conv", bias=True)
    assert (kernel.path, kernel.names) == ("params/a/conv/kernel", ("x.conv.weight",))
    assert (bias.path, bias.names) == ("params/a/conv/bias", ("x.conv.bias",))
    oihw = rng.normal(size=(5, 4, 3, 2)).astype(np.float32)
    found = kernel.from_source([oihw])
    assert found.shape == (3, 2, 4, 5) and found[2, 1, 3, 4] == oihw[4, 3, 2, 1]
    # Depthwise: one input per channel.
    assert kernel.from_source([oihw[:, :1]]).shape == (3, 2, 1, 5)
    assert len(list(pytorch_conv("a", "x"))) == 1


def test_tensorflow_depthwise_kernels_are_turned(rng):
    rule = tensorflow_depthwise("a/conv", "x/conv")
    assert (rule.path, rule.names) == ("params/a/conv/kernel", ("x/conv/depthwise_kernel",))
    array = rng.normal(size=(3, 2, 5, 1)).astype(np.float32)
    found = rule.from_source([array])
    assert found.shape == (3, 2, 1, 5) and found[2, 1, 0, 4] == array[2, 1, 4, 0]


def test_tensorflow_kernels_stay(rng):
    kernel, bias = tensorflow_conv("a", "x", bias=True)
    array = rng.normal(size=(3, 2, 4, 5)).astype(np.float32)
    np.testing.assert_array_equal(kernel.from_source([array]), array)
    assert (kernel.names, bias.names) == (("x/kernel",), ("x/bias",))


@pytest.mark.parametrize(
    ("rules_of", "names"),
    [
        (pytorch_batch_norm, ("x.weight", "x.bias", "x.running_mean", "x.running_var")),
        (tensorflow_batch_norm, ("x/gamma", "x/beta", "x/moving_mean", "x/moving_variance")),
    ],
)
def test_batch_normalisations(rules_of, names):
    assert [(rule.path, *rule.names) for rule in rules_of("a/bn", "x")] == [
        ("params/a/bn/scale", names[0]),
        ("params/a/bn/bias", names[1]),
        ("batch_stats/a/bn/mean", names[2]),
        ("batch_stats/a/bn/var", names[3]),
    ]
