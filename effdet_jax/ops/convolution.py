"""Convolutions, each behind one function, in the form that is fast where it runs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from effdet_jax.distributed.rows import by_platform, split_rows, sum_over_batch
from effdet_jax.ops.resample import shifted_slices, window_padding

BAND_ROWS = 16  # Of a depthwise kernel's gradient on a CPU.


@jax.jit  # Equal ones are traced once.
def pointwise_conv(x: Float[Array, "B H W C"], kernel: Float[Array, "C D"]) -> Array:
    """1×1 convolution as a matrix product: XLA's CPU convolution is 1.8 times slower.

    Its kernel gradient is written out: left to itself XLA transposes an activation in memory for
    it, which costs up to eight times the product itself on a CPU.
    """
    return _product(x, kernel)


@jax.custom_vjp
def _product(x: Array, kernel: Array) -> Array:
    return jnp.dot(x, kernel)


def _pointwise_forward(x, kernel):
    return jnp.dot(x, kernel), (x, kernel)


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


_product.defvjp(_pointwise_forward, _pointwise_backward)


def gated_pointwise_conv(
    x: Float[Array, "B H W C"], gate: Float[Array, "B 1 1 C"], kernel: Float[Array, "C D"]
) -> Float[Array, "B H W D"]:
    """1×1 convolution of x · gate; on a CPU the gate joins the kernel, a pass over `x` less.

    For inference: backwards a kernel per image is slow.
    """

    def gate_kernel(x, gate, kernel):  # One kernel [C, D] per image.
        return jnp.einsum("bhwc,bcd->bhwd", x, gate[:, 0, 0, :, None] * kernel)

    def gate_input(x, gate, kernel):
        return jnp.dot(x * gate, kernel)

    return by_platform(x, gate, kernel, cpu=gate_kernel, split_cpu=gate_input, default=gate_input)


@functools.partial(jax.jit, static_argnames=("stride", "padding"))  # Equal ones are traced once.
def dense_conv(
    x: Float[Array, "B H W C"], kernel: Float[Array, "k k C D"], stride: int, padding: str = "same"
) -> Float[Array, "B h w D"]:
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


@functools.partial(jax.jit, static_argnames=("stride", "padding"))  # Equal ones are traced once.
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
    kernel_grad = functools.partial(
        _depthwise_kernel_grad, size=kernel.shape[0], strides=[stride, stride], edges=edges
    )
    return (
        _depthwise_input_grad(grad, kernel, x.shape[1:3], stride, edges),
        sum_over_batch(kernel_grad, x, grad),
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

    Bands of up to `BAND_ROWS` rows of one image are small enough for a cache: all taps of a band are
    summed before the next one is read. A band's rows are added up pixel by pixel, which is what the
    compiler makes good code of; then a product with ones adds up its columns.
    """
    batch, rows, columns, channels = grad.shape
    height = max(height for height in range(1, BAND_ROWS + 1) if rows % height == 0)
    bands = rows // height
    reach = (height - 1) * strides[0] + 1
    dtype = np.promote_types(grad.dtype, np.float32)
    x = jnp.pad(x, ((0, 0), *edges, (0, 0)))
    ones = jnp.ones((columns,), dtype)

    def add_band(index, total):
        image, row = index // bands, index % bands * height
        rows_out = lax.dynamic_slice(grad, (image, row, 0, 0), (1, height, columns, channels))
        rows_out = rows_out[0].astype(dtype)

        def add_row_of_taps(tap, total):
            start = (image, row * strides[0] + tap, 0, 0)
            rows_in = lax.dynamic_slice(x, start, (1, reach, x.shape[2], channels))
            rows_in = rows_in.astype(dtype)
            views = shifted_slices(rows_in, (height, columns), [1, size], strides)
            products = [
                sum(view[0, row] * rows_out[row] for row in range(height)) for view in views
            ]
            return total.at[tap].add(jnp.stack([ones @ product for product in products]))

        return lax.fori_loop(0, size, add_row_of_taps, total)

    zeros = jnp.zeros((size, size, channels), dtype)
    return lax.fori_loop(0, batch * bands, add_band, zeros).astype(grad.dtype)


_depthwise_slices.defvjp(_depthwise_forward, _depthwise_backward)
