"""Batch normalisation and the activations that follow it.

Statistics are computed in float32 whatever a layer computes in (in float64 where that is float64,
as in tests).
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

ACTIVATIONS = {"swish": nn.swish, "relu6": nn.relu6, "": lambda x: x}


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
    """

    act: str = ""
    momentum: float = 0.99
    epsilon: float = 1e-3

    @nn.compact
    def __call__(self, x: Float[Array, "*B C"], *, train: bool) -> Float[Array, "*B C"]:
        if self.has_variable("params", "shift"):
            return self._frozen(x, train=train)
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        if not train:
            return _normalize(x, scale, bias, mean.value, var.value, self.epsilon, self.act)
        y, batch_mean, batch_var = normalize_by_batch(
            x, scale, bias, mean.value, self.epsilon, self.act
        )
        count = math.prod(x.shape[:-1])
        unbiased = batch_var * (count / max(count - 1, 1))
        mean.value = self.momentum * mean.value + (1 - self.momentum) * batch_mean
        var.value = self.momentum * var.value + (1 - self.momentum) * unbiased
        return y

    def _frozen(self, x: Array, *, train: bool) -> Array:
        """What is left of it after `freeze`: a shift, and a gain where a kernel couldn't take it."""
        if train:
            raise ValueError("a frozen detector has no batch statistics and can't be trained")
        z = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if self.has_variable("params", "gain"):
            z *= self.get_variable("params", "gain")
        z += self.get_variable("params", "shift")
        return activation(self.act)(z).astype(x.dtype)


def _normalize(x, scale, bias, mean, var, epsilon, act):
    """act((x - mean) · scale / sqrt(var + ε) + bias), computed in float32 at least."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    z = (wide - mean) * (scale * lax.rsqrt(var + epsilon)) + bias
    return activation(act)(z).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def normalize_by_batch(
    x: Float[Array, "*B C"], scale: Array, bias: Array, near: Array, epsilon: float, act: str
) -> tuple[Array, Array, Array]:
    """`(y, mean, variance)` of a batch; the gradient through the two statistics' outputs is zero.

    Both statistics come from one pass over `x`, and from one exchange where it is spread over
    devices: the variance is the mean square distance from `near`, a value not far from the mean
    (the running mean), less that of the mean itself.

    The backward pass is written out so that only `x` is kept: normalised values and the activation
    are computed again from it, which costs less than reading them back.
    """
    axes = tuple(range(x.ndim - 1))
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = jnp.mean(wide, axes)
    var = jnp.mean(jnp.square(wide - near), axes) - jnp.square(mean - near)
    var = jnp.maximum(var, 0.0)  # Equal values give a little less by rounding.
    return _normalize(x, scale, bias, mean, var, epsilon, act), mean, var


def _normalize_forward(x, scale, bias, near, epsilon, act):
    y, mean, var = normalize_by_batch(x, scale, bias, near, epsilon, act)
    return (y, mean, var), (x, scale, bias, mean, var)


def _normalize_backward(epsilon, act, residuals, grads):
    # The barrier stops XLA from keeping the forward pass's values instead of computing them again.
    (x, scale, bias, mean, var), grads = lax.optimization_barrier((residuals, grads))
    axes = tuple(range(x.ndim - 1))
    count = math.prod(x.shape[:-1])
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    inverse = lax.rsqrt(var + epsilon)
    _, activation_vjp = jax.vjp(activation(act), (wide - mean) * (scale * inverse) + bias)
    (grad,) = activation_vjp(grads[0].astype(wide.dtype))
    bias_grad = jnp.sum(grad, axes)
    scale_grad = jnp.sum(grad * (wide - mean), axes) * inverse
    # d/dx of (x - mean) / deviation: the gradient less its mean and its component along x.
    x_grad = (scale * inverse) * (
        grad - bias_grad / count - (wide - mean) * (scale_grad * inverse / count)
    )
    return x_grad.astype(x.dtype), scale_grad, bias_grad, jnp.zeros_like(mean)


normalize_by_batch.defvjp(_normalize_forward, _normalize_backward)


def activation(name: str) -> Callable[[Array], Array]:
    """The activation function of a `ModelSpec`; '' is the identity.

    Raises:
      ValueError: there is none of that name.
    """
    if name not in ACTIVATIONS:
        known = ", ".join(filter(None, ACTIVATIONS))
        raise ValueError(f"activation '{name}' is unknown; there are {known}")
    return ACTIVATIONS[name]
