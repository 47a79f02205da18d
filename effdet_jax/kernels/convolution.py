"""Convolutions and their gradients in the forms that are fast on a CPU.

XLA's grouped convolution is some 27 times slower on a CPU than the same sum written as k·k shifted
slices, its 1×1 convolution 1.8 times slower than a matrix product, and for a kernel's gradient it
transposes an activation in memory, which costs up to eight times the product itself.
`ops.convolution` chooses between these and the plain forms.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from effdet_jax.distributed.rows import sum_over_batch
from effdet_jax.kernels.platform import by_platform
from effdet_jax.kernels.slices import shifted_slices

BAND_ROWS = 16  # Rows of a band in a depthwise kernel's gradient.
Edges = tuple[tuple[int, int], ...]  # Padding (before, after) of height and width.


@jax.custom_vjp
def pointwise_conv(x: Float[Array, "B H W C"], kernel: Float[Array, "C D"]) -> Array:
    """1×1 convolution as a matrix product, with the kernel's gradient written out."""
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


pointwise_conv.defvjp(_pointwise_forward, _pointwise_backward)


def gated_pointwise_conv(
    x: Float[Array, "B H W C"], gate: Float[Array, "B 1 1 C"], kernel: Float[Array, "C D"]
) -> Float[Array, "B H W D"]:
    """1×1 convolution of x · gate; the gate joins the kernel, which saves a pass over `x`."""
    return jnp.einsum("bhwc,bcd->bhwd", x, gate[:, 0, 0, :, None] * kernel)


def convolve(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "k k c D"],
    stride: int,
    edges: Edges,
    groups: int = 1,
) -> Float[Array, "B h w D"]:
    """XLA's convolution, the plain form of the two below."""
    return lax.conv_general_dilated(
        x,
        kernel,
        [stride, stride],
        edges,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def dense_conv(x: Array, kernel: Array, stride: int, edges: Edges) -> Array:
    """k×k convolution whose kernel gradient is one matrix product over gathered patches."""
    return convolve(x, kernel, stride, edges)


def _convolve_forward(x, kernel, stride, edges):
    return convolve(x, kernel, stride, edges), (x, kernel)


def _convolve_backward(stride, edges, residuals, grad):
    x, kernel = residuals
    size, strides = kernel.shape[0], [stride, stride]
    _, input_vjp = jax.vjp(lambda x: convolve(x, kernel, stride, edges), x)
    padded = jnp.pad(x, ((0, 0), *edges, (0, 0)))
    views = shifted_slices(padded, grad.shape[1:3], [size, size], strides)
    patches = jnp.concatenate(views, axis=-1)
    kernel_grad = _pointwise_kernel_grad(patches, grad)
    return (*input_vjp(grad), kernel_grad.reshape(kernel.shape))


dense_conv.defvjp(_convolve_forward, _convolve_backward)


def sum_of_slices(x: Array, kernel: Array, stride: int, edges: Edges) -> Array:
    """Sum over the k×k taps of shifted `[B, H, W, C]` slices × `[C]` weights; `edges` of padding."""
    size, strides = kernel.shape[0], [stride, stride]
    out = tuple(-(-side // stride) for side in x.shape[1:3])
    # Else the tap that lies within the padding is taken from what was padded: an activation before
    # this would be computed for it alone, once more, and its sigmoid be kept for both.
    x = lax.optimization_barrier(jnp.pad(x, ((0, 0), *edges, (0, 0))))
    views = shifted_slices(x, out, [size, size], strides)
    return sum(view * tap for view, tap in zip(views, kernel.reshape(size * size, -1)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise_conv(x: Array, kernel: Array, stride: int, edges: Edges) -> Array:
    """The same; the gradients are written out because jax's keep all k·k slices in memory."""
    return sum_of_slices(x, kernel, stride, edges)


def _depthwise_forward(x, kernel, stride, edges):
    return depthwise_conv(x, kernel, stride, edges), (x, kernel)


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
    dtype = np.promote_types(grad.dtype, jnp.float32)
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


depthwise_conv.defvjp(_depthwise_forward, _depthwise_backward)
