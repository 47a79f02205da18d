"""Batch normalisation with the activation that follows it, and the layer that it may feed."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from effdet_jax.kernels.recompute import Normalization, normalize_then
from effdet_jax.ops.normalization import activation, batch_statistics, normalize


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, then an activation.

    Momentum 0.99 and ε 1e-3 as the reference. Under `jax.jit` over a mesh the batch is the global
    batch, so statistics are those of all devices. The running variance takes the unbiased batch
    variance n / (n - 1), as TensorFlow's fused kernel and PyTorch do; normalisation itself uses the
    biased one.

    Attributes:
      act: name of the activation, '' for none.
      momentum: what a running statistic keeps of itself per step.
      epsilon: added to the variance.
      after: path of the convolution before it, relative to the parent module ('conv/pointwise'):
        `inference.fold_batch_norm` folds into its kernel. '' folds into nothing.
      shared: whether other normalisations follow the same convolution, whose kernel then stays.
    """

    act: str = ""
    momentum: float = 0.99
    epsilon: float = 1e-3
    after: str = ""
    shared: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "*B C"], *, train: bool, then: Any = None
    ) -> Float[Array, "..."]:
        """act(norm(x)), or `then(act(norm(x)))` where `then` is a `layer.Layer`.

        With `then`, training doesn't keep the activated values for the backward pass: they are as
        large as x, which is kept anyway.
        """
        if self.has_variable("params", "shift"):
            y = self._folded(x, train=train)
            return y if then is None else then(y)
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        if not train:
            y = normalize(x, scale, bias, mean.value, var.value, self.epsilon, self.act)
            return y if then is None else then(y)
        batch_mean, batch_var = batch_statistics(x, mean.value)
        count = math.prod(x.shape[:-1])
        unbiased = batch_var * (count / max(count - 1, 1))
        mean.value = self.momentum * mean.value + (1 - self.momentum) * batch_mean
        var.value = self.momentum * var.value + (1 - self.momentum) * unbiased
        normalization = Normalization(
            x, scale, bias, batch_mean, batch_var, self.epsilon, activation(self.act)
        )
        if then is None:
            return normalize_then(_identity, normalization)
        function, weights = then.first(x.shape[-1])
        return then.rest(normalize_then(function, normalization, *weights))

    def _folded(self, x: Array, *, train: bool) -> Array:
        """What folding leaves: a shift, and a gain where the kernel is shared and stays."""
        if train:
            raise ValueError("a folded detector has no batch statistics and can't be trained")
        z = x.astype(np.promote_types(x.dtype, jnp.float32))
        if self.has_variable("params", "gain"):
            z *= self.get_variable("params", "gain")
        z += self.get_variable("params", "shift")
        return activation(self.act)(z).astype(x.dtype)


def _identity(x: Array) -> Array:
    return x
