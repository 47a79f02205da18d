"""Batch normalisation and the activations that follow it.

Statistics are computed in float32 whatever a layer computes in (in float64 where that is float64,
as in tests).
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax import lax
from jaxtyping import Array, Float

from effdet_jax.distributed.rows import by_platform

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
    def __call__(
        self, x: Float[Array, "*B C"], *, train: bool, deferred: bool = False
    ) -> "Float[Array, '*B C'] | Normalized":
        """Args: deferred: in training, leave the values to what consumes them; see `Normalized`."""
        if self.has_variable("params", "shift"):
            return self._frozen(x, train=train)
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        if not train:
            return _normalize(x, scale, bias, mean.value, var.value, self.epsilon, self.act)
        batch_mean, batch_var = batch_statistics(x, mean.value)
        count = math.prod(x.shape[:-1])
        unbiased = batch_var * (count / max(count - 1, 1))
        mean.value = self.momentum * mean.value + (1 - self.momentum) * batch_mean
        var.value = self.momentum * var.value + (1 - self.momentum) * unbiased
        normalized = Normalized(x, scale, bias, batch_mean, batch_var, self.epsilon, self.act)
        return normalized if deferred else consume(_identity, normalized)

    def _frozen(self, x: Array, *, train: bool) -> Array:
        """What is left of it after `fold_batch_norm`: a shift, and a gain where a kernel couldn't take it."""
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


@jax.jit  # Equal ones are traced once.
def batch_statistics(x: Float[Array, "*B C"], near: Float[Array, " C"]) -> tuple[Array, Array]:
    """(mean, variance) of each channel; no gradient goes through them, `consume` accounts for it.

    Both come from one pass over `x`, and from one exchange where it is spread over devices: the
    variance is the mean square distance from `near`, a value not far from the mean (the running
    mean), less that of the mean itself.
    """
    axes = tuple(range(x.ndim - 1))
    wide = lax.stop_gradient(x).astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = jnp.mean(wide, axes)
    var = jnp.mean(jnp.square(wide - near), axes) - jnp.square(mean - near)
    return mean, jnp.maximum(var, 0.0)  # Equal values give a little less than 0 by rounding.


@struct.dataclass
class Normalized:
    """A batch normalisation and activation of `x` by its own statistics, not yet computed.

    What takes one passes it to `consume`. Its values then live only as long as the consumer needs
    them: of an activation as large as the convolutions' outputs, one copy is kept for the backward
    pass instead of two.

    Attributes:
      x: [*B, C], what is normalised.
      scale, bias: [C] parameters.
      mean, var: [C] statistics of x.
      epsilon: added to the variance.
      act: name of the activation.
    """

    x: Any
    scale: Any
    bias: Any
    mean: Any
    var: Any
    epsilon: float = struct.field(pytree_node=False)
    act: str = struct.field(pytree_node=False)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.x.shape

    @property
    def value(self) -> Array:
        return _normalize(
            self.x, self.scale, self.bias, self.mean, self.var, self.epsilon, self.act
        )


def consume(function: Callable[..., Any], x: "Array | Normalized", *others: Any) -> Any:
    """`function(x, *others)`; of a `Normalized`, its values, computed again in the backward pass.

    Args:
      function: pure; equal ones (the same object) of equal shapes are traced once.
      others: arrays, or trees of them.
    """
    if not isinstance(x, Normalized):
        return function(x, *others)
    return _consume_jitted(function, x, others)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _consume(function: Callable[..., Any], normalized: Normalized, others: tuple) -> Any:
    return function(normalized.value, *others)


def _consume_forward(function, normalized, others):
    return function(normalized.value, *others), (normalized, others)


def _consume_backward(function, residuals, grad):
    # The barrier stops XLA from keeping the forward pass's values instead of computing them again.
    (normalized, others), grad = lax.optimization_barrier((residuals, grad))
    normalized = normalized.replace(mean=_told_apart(normalized.mean, grad))
    _, function_vjp = jax.vjp(function, normalized.value, *others)
    value_grad, *other_grads = function_vjp(grad)
    return _normalize_backward(normalized, value_grad), tuple(other_grads)


_consume.defvjp(_consume_forward, _consume_backward)
_consume_jitted = jax.jit(_consume, static_argnums=0)  # Equal ones are traced once.


def _told_apart(mean: Array, grad: Array) -> Array:
    """`mean` in a form that XLA's compiler for CPUs doesn't recognise: it drops barriers early.

    A value of the gradient, times zero, is added. Not where the batch is spread over several
    devices: each would have to be told that value.
    """
    if jax.sharding.get_abstract_mesh().size > 1:
        return mean

    def on_cpu(mean, grad):
        return mean + 0.0 * grad[(0,) * grad.ndim].astype(mean.dtype)

    return by_platform(mean, grad, cpu=on_cpu, default=lambda mean, grad: mean)


def _normalize_backward(normalized: Normalized, grad: Array) -> Normalized:
    """Gradients of x (through its statistics, too), scale and bias; zero for the statistics."""
    x, mean, epsilon = normalized.x, normalized.mean, normalized.epsilon
    axes = tuple(range(x.ndim - 1))
    count = math.prod(x.shape[:-1])
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    inverse = lax.rsqrt(normalized.var + epsilon)
    gain = normalized.scale * inverse
    _, activation_vjp = jax.vjp(activation(normalized.act), (wide - mean) * gain + normalized.bias)
    (grad,) = activation_vjp(grad.astype(wide.dtype))
    bias_grad = jnp.sum(grad, axes)
    scale_grad = jnp.sum(grad * (wide - mean), axes) * inverse
    # d/dx of (x - mean) / deviation: the gradient less its mean and its component along x.
    x_grad = gain * (grad - bias_grad / count - (wide - mean) * (scale_grad * inverse / count))
    zeros = jnp.zeros_like(mean)
    return normalized.replace(
        x=x_grad.astype(x.dtype), scale=scale_grad, bias=bias_grad, mean=zeros, var=zeros
    )


def _identity(x: Array) -> Array:
    return x


def activation(name: str) -> Callable[[Array], Array]:
    """The activation function of a `ModelSpec`; '' is the identity.

    Raises:
      ValueError: there is none of that name.
    """
    if name not in ACTIVATIONS:
        known = ", ".join(filter(None, ACTIVATIONS))
        raise ValueError(f"activation '{name}' is unknown; there are {known}")
    return ACTIVATIONS[name]
