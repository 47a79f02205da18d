"""A backbone of Flax's own layers, such as anyone may bring: no layer of this package in it."""

import jax.numpy as jnp
from flax import linen as nn


class LayerScale(nn.Module):
    """Multiplies each channel by a learned `gamma` that starts at 0.1."""

    @nn.compact
    def __call__(self, x):
        gamma = self.param("gamma", nn.initializers.constant(0.1), (x.shape[-1],), jnp.float32)
        return x * gamma.astype(x.dtype)


class PlainBackbone(nn.Module):
    """Five strided convolutions with `nn.BatchNorm`; the last three give levels 3, 4, 5."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images, *, train=False):
        x, features = images, {}
        for level in range(1, 6):
            x = nn.Conv(8 * level, (3, 3), strides=2, use_bias=False, dtype=self.dtype)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, dtype=self.dtype)(x))
            features[level] = LayerScale()(x)
        return {level: features[level] for level in (3, 4, 5)}


def plain_backbone(spec, *, dtype, remat, name):
    """An entry of `model.detector.BACKBONES`."""
    return PlainBackbone(dtype, name=name)
