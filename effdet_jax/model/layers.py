"""Convolutions of the family, each in the form that is fast where it runs, and initialisers.

Parameters are float32; `dtype` is what a layer computes in.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from effdet_jax.ops.resample import shifted_slices, window_padding
from effdet_jax.ops.spatial import by_platform, split_rows

# Initialisers as TensorFlow counts fans: a depthwise kernel [k, k, C, 1] there has fan_in k·k·C and
# fan_out k·k, where Flax would count k·k for both (reference: keras VarianceScaling).


def conv_kernel_init(key, shape, dtype=jnp.float32):
    """Backbone convolutions: normal, variance 2 / (k·k·out); out is 1 for a depthwise kernel."""
    height, width, inputs, outputs = shape
    fan_out = height * width * (1 if inputs == 1 else outputs)
    return math.sqrt(2.0 / fan_out) * jax.random.normal(key, shape, dtype)


def glorot_uniform(key, shape, dtype=jnp.float32):
    """Pyramid convolutions: uniform, variance 2 / (fan_in + fan_out)."""
    fan_in, fan_out = _fans(shape)
    limit = math.sqrt(6.0 / (fan_in + fan_out))
    return jax.random.uniform(key, shape, dtype, -limit, limit)


def truncated_lecun_normal(key, shape, dtype=jnp.float32):
    """Head convolutions: normal cut at two deviations, variance 1 / fan_in after the cut."""
    fan_in, _ = _fans(shape)
    deviation = math.sqrt(1.0 / fan_in) / 0.87962566103423978  # std of a normal cut at ±2
    return deviation * jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype)


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    height, width, inputs, outputs = shape
    if inputs == 1:  # Depthwise, [k, k, 1, C].
        return height * width * outputs, height * width
    return height * width * inputs, height * width * outputs


class Conv(nn.Module):
    """Dense convolution to ⌈size / stride⌉ pixels.

    Attributes:
      features: output channels.
      kernel_size: side of the kernel.
      stride: of both axes.
      use_bias: whether a bias is added.
      padding: one of `ops.resample.PADDINGS`.
      kernel_init: initialiser of the `[k, k, in, out]` kernel.
      dtype: of the computation.
    """

    features: int
    kernel_size: int = 1
    stride: int = 1
    use_bias: bool = False
    padding: str = "same"
    kernel_init: nn.initializers.Initializer = conv_kernel_init
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], gate: Float[Array, "B 1 1 C"] | None = None
    ) -> Float[Array, "B h w D"]:
        """Args: gate: multiplies the input; for a 1×1 convolution, and inference (slow backwards)."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32).astype(self.dtype)
        x = x.astype(self.dtype)
        if gate is not None:
            y = _gated_pointwise_conv(x, gate, kernel[0, 0])
        elif self.kernel_size == 1 and self.stride == 1:
            y = pointwise_conv(x, kernel[0, 0])
        else:
            y = _dense_conv(x, kernel, self.stride, self.padding)
        if self.use_bias:
            y += self.param("bias", self.bias_init, (self.features,), jnp.float32).astype(y.dtype)
        return y


@jax.custom_vjp
def pointwise_conv(x: Float[Array, "B H W C"], kernel: Float[Array, "C D"]) -> Array:
    """1×1 convolution as a matrix product: XLA's CPU convolution is 1.8 times slower.

    Its kernel gradient is written out: left to itself XLA transposes an activation in memory for
    it, which costs up to eight times the product itself on a CPU.
    """
    return jnp.dot(x, kernel)


def _pointwise_forward(x, kernel):
    return pointwise_conv(x, kernel), (x, kernel)


def _pointwise_backward(residuals, grad):
    x, kernel = residuals
    return jnp.dot(grad, kernel.T), _pointwise_kernel_grad(x, grad)


def _pointwise_kernel_grad(x: Float[Array, "B H W C"], grad: Float[Array, "B H W D"]) -> Array:
    """[C, D]: the sum over all pixels of x · gradient."""

    def flattened(x, grad):
        return x.reshape(-1, x.shape[-1]).T @ grad.reshape(-1, grad.shape[-1])

    def unflattened(x, grad):
        return lax.dot_general(x, grad, (((0, 1, 2), (0, 1, 2)), ((), ())))

    return by_platform(x, grad, cpu=flattened, split_cpu=unflattened, default=unflattened)


pointwise_conv.defvjp(_pointwise_forward, _pointwise_backward)


def _gated_pointwise_conv(x: Array, gate: Array, kernel: Array) -> Array:
    """1×1 convolution of x · gate; on a CPU the gate joins the kernel, a pass over `x` less."""

    def gate_kernel(x, gate, kernel):  # One kernel [C, D] per image.
        return jnp.einsum("bhwc,bcd->bhwd", x, gate[:, 0, 0, :, None] * kernel)

    def gate_input(x, gate, kernel):
        return jnp.dot(x * gate, kernel)

    return by_platform(x, gate, kernel, cpu=gate_kernel, split_cpu=gate_input, default=gate_input)


def _dense_conv(x: Array, kernel: Array, stride: int, padding: str) -> Array:
    """k×k convolution, by XLA everywhere; on a CPU with a kernel gradient of its own."""
    size, strides = kernel.shape[0], [stride, stride]
    edges = window_padding(x.shape[1:3], [size, size], strides, padding)

    def with_own_gradient(x, kernel):
        return _convolve_on_cpu(x, kernel, stride, edges)

    def as_convolution(x, kernel):
        return _convolve(x, kernel, stride, edges)

    return split_rows(by_platform(x, kernel, cpu=with_own_gradient, default=as_convolution))


def _convolve(x: Array, kernel: Array, stride: int, edges: tuple, groups: int = 1) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        [stride, stride],
        edges,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve_on_cpu(x: Array, kernel: Array, stride: int, edges: tuple) -> Array:
    """The same; its kernel gradient is one matrix product over gathered patches."""
    return _convolve(x, kernel, stride, edges)


def _convolve_forward(x, kernel, stride, edges):
    return _convolve(x, kernel, stride, edges), (x, kernel)


def _convolve_backward(stride, edges, residuals, grad):
    x, kernel = residuals
    size, strides = kernel.shape[0], [stride, stride]
    _, input_vjp = jax.vjp(lambda x: _convolve(x, kernel, stride, edges), x)
    padded = jnp.pad(x, ((0, 0), *edges, (0, 0)))
    views = shifted_slices(padded, grad.shape[1:3], [size, size], strides)
    patches = jnp.concatenate(views, axis=-1)
    kernel_grad = _pointwise_kernel_grad(patches, grad)
    return (*input_vjp(grad), kernel_grad.reshape(kernel.shape))


_convolve_on_cpu.defvjp(_convolve_forward, _convolve_backward)


class DepthwiseConv(nn.Module):
    """One k×k filter per channel; kernel `[k, k, 1, C]`, no bias."""

    kernel_size: int
    stride: int = 1
    padding: str = "same"
    kernel_init: nn.initializers.Initializer = conv_kernel_init
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
        shape = (self.kernel_size, self.kernel_size, 1, x.shape[-1])
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        return depthwise_conv(x, kernel, self.stride, self.padding)


def depthwise_conv(
    x: Float[Array, "B H W C"], kernel: Float[Array, "k k 1 C"], stride: int, padding: str = "same"
) -> Float[Array, "B h w C"]:
    """Depthwise convolution to ⌈size / stride⌉ pixels, in the form that is fast where it runs.

    XLA's grouped convolution is right for TPU and GPU, and some 27 times slower on a CPU than the
    same sum written as k·k shifted slices times per-channel weights.
    """
    size, strides = kernel.shape[0], [stride, stride]
    edges = window_padding(x.shape[1:3], [size, size], strides, padding)

    def as_slices(x, kernel):
        return _depthwise_slices(x, kernel[:, :, 0], stride, edges)

    def as_plain_slices(x, kernel):  # Its derivative is left to jax: the loop over taps gathers.
        return _sum_of_slices(x, kernel[:, :, 0], stride, edges)

    def as_grouped_convolution(x, kernel):
        return _convolve(x, kernel, stride, edges, groups=x.shape[-1])

    y = by_platform(
        x, kernel, cpu=as_slices, split_cpu=as_plain_slices, default=as_grouped_convolution
    )
    return split_rows(y)


def _sum_of_slices(
    x: Array, kernel: Array, stride: int, edges: tuple[tuple[int, int], ...]
) -> Array:
    """Sum over the k×k taps of shifted `[B, H, W, C]` slices × `[C]` weights; `edges` of padding."""
    size, strides = kernel.shape[0], [stride, stride]
    out = tuple(-(-side // stride) for side in x.shape[1:3])
    # Else the tap that lies within the padding is taken from what was padded: an activation before
    # this would be computed for it alone, once more, and its sigmoid be kept for both.
    x = lax.optimization_barrier(jnp.pad(x, ((0, 0), *edges, (0, 0))))
    views = shifted_slices(x, out, [size, size], strides)
    return sum(view * tap for view, tap in zip(views, kernel.reshape(size * size, -1)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _depthwise_slices(
    x: Array, kernel: Array, stride: int, edges: tuple[tuple[int, int], ...]
) -> Array:
    """The same; the gradients are written out because jax's keep all k·k slices in memory."""
    return _sum_of_slices(x, kernel, stride, edges)


def _depthwise_forward(x, kernel, stride, edges):
    return _depthwise_slices(x, kernel, stride, edges), (x, kernel)


def _depthwise_backward(stride, edges, residuals, grad):
    x, kernel = residuals
    return (
        _depthwise_input_grad(grad, kernel, x.shape[1:3], stride, edges),
        _depthwise_kernel_grad(x, grad, kernel.shape[0], [stride, stride], edges),
    )


def _depthwise_input_grad(grad, kernel, input_size, stride, edges):
    """The transposed convolution: the gradient, spread by the stride, under the flipped kernel."""
    size = kernel.shape[0]
    margins = []
    for full, out, (before, _) in zip(input_size, grad.shape[1:3], edges):
        low = size - 1 - before
        margins.append((low, full + size - 1 - low - ((out - 1) * stride + 1), stride - 1))
    spread = lax.pad(grad, jnp.zeros((), grad.dtype), ((0, 0, 0), *margins, (0, 0, 0)))
    views = shifted_slices(spread, input_size, [size, size], [1, 1])
    taps = kernel[::-1, ::-1].reshape(size * size, -1)
    return sum(view * tap for view, tap in zip(views, taps))


def _depthwise_kernel_grad(x, grad, size, strides, edges):
    """[k, k, C]: per tap the sum over all pixels of slice × gradient.

    A loop over the taps: unrolled, XLA would compute the incoming gradient anew in every tap. Eight
    bands of rows are added before the sum over pixels, so that slice, product and most of the sum
    are one pass over memory; the rest is a product with ones, the fastest sum over rows.
    """
    batch, rows, columns, channels = grad.shape
    bands = math.gcd(rows, 8)
    height = rows // bands
    x = jnp.pad(x, ((0, 0), *edges, (0, 0)))
    reach = [(out - 1) * stride + 1 for out, stride in zip((rows, columns), strides)]

    def one_tap(tap):
        corner = (0, tap // size, tap % size, 0)
        view = lax.dynamic_slice(x, corner, (batch, *reach, channels))
        view = view[:, :: strides[0], :: strides[1]]
        products = [
            view[:, start : start + height] * grad[:, start : start + height]
            for start in range(0, rows, height)
        ]
        summed = sum(products[1:], start=products[0]).reshape(-1, channels)
        return jnp.ones((1, len(summed)), summed.dtype) @ summed

    return lax.map(one_tap, jnp.arange(size * size)).reshape(size, size, channels)


_depthwise_slices.defvjp(_depthwise_forward, _depthwise_backward)


class SeparableConv(nn.Module):
    """3×3 depthwise, then 1×1 pointwise; no normalisation, no activation."""

    features: int
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = glorot_uniform
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W D"]:
        x = DepthwiseConv(3, kernel_init=self.kernel_init, dtype=self.dtype, name="depthwise")(x)
        return Conv(
            self.features,
            use_bias=self.use_bias,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            dtype=self.dtype,
            name="pointwise",
        )(x)


def drop_connect(
    x: Float[Array, "B H W C"], survival_probability: float, key: Array
) -> Float[Array, "B H W C"]:
    """Zeroes whole examples of a residual branch and scales up the others (arXiv:1603.09382)."""
    shape = (x.shape[0], 1, 1, 1)
    keep = jax.random.bernoulli(key, survival_probability, shape)
    return jnp.where(keep, x / survival_probability, 0).astype(x.dtype)


def run(module: nn.Module, *arrays: Any, train: bool, remat: bool) -> Any:
    """`module(*arrays, train=train)`; `remat` keeps nothing of it for the backward pass.

    Its inner values are computed again there. Parameter paths and gradients are the same.
    """
    if not remat:
        return module(*arrays, train=train)
    return nn.remat(lambda module, *arrays: module(*arrays, train=train))(module, *arrays)
