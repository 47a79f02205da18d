import pytest

from effdet_jax.ops.normalization import activation


def test_unknown_activation_lists_the_known():
    with pytest.raises(ValueError, match="'gelu' is unknown; there are swish, relu, relu6"):
        activation("gelu")
