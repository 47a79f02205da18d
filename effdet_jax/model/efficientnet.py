"""EfficientNet and EfficientNet-Lite without the classifier: image → features of strides 8, 16, 32.

Tan & Le, arXiv:1905.11946; Lite: no squeeze-and-excitation, ReLU6, stem and ends not scaled.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from effdet_jax.layers.batch_norm import BatchNorm, Normalized, activation, consume
from effdet_jax.layers.convolution import Conv, DepthwiseConv, PointwiseWeights, drop_connect, run
from effdet_jax.ops.convolution import gated_pointwise_conv, pointwise_conv

# (width, depth) multipliers, arXiv:1905.11946 and google/automl's efficientnet_builder.
SCALING = {
    "efficientnet-b0": (1.0, 1.0),
    "efficientnet-b1": (1.0, 1.1),
    "efficientnet-b2": (1.1, 1.2),
    "efficientnet-b3": (1.2, 1.4),
    "efficientnet-b4": (1.4, 1.8),
    "efficientnet-b5": (1.6, 2.2),
    "efficientnet-b6": (1.8, 2.6),
    "efficientnet-b7": (2.0, 3.1),
    "efficientnet-lite0": (1.0, 1.0),
    "efficientnet-lite1": (1.0, 1.1),
    "efficientnet-lite2": (1.1, 1.2),
    "efficientnet-lite3": (1.2, 1.4),
    "efficientnet-lite4": (1.4, 1.8),
    "efficientnet-tiny": (0.25, 0.1),  # Not published: a narrow block per stage, to try things out.
}

# (blocks, kernel, stride, expansion, output channels) of B0's stages, arXiv:1905.11946 table 1.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM_FEATURES = 32


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """One MBConv block: its stage, channels in and out, depthwise kernel, stride, expansion."""

    stage: int
    in_features: int
    out_features: int
    kernel_size: int
    stride: int
    expansion: int


def round_features(features: int, width: float) -> int:
    """Channels scaled by `width` to a multiple of 8, never below 90 % of the exact value."""
    exact = features * width
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded


def stem_features(backbone: str) -> int:
    """Channels of the first convolution; Lite doesn't scale them."""
    width = 1.0 if "lite" in backbone else SCALING[backbone][0]
    return round_features(STEM_FEATURES, width)


def uses_squeeze_excite(backbone: str) -> bool:
    """Whether its blocks have a channel attention; Lite's don't."""
    return "lite" not in backbone


def block_specs(backbone: str) -> tuple[BlockSpec, ...]:
    """All blocks of a backbone in order.

    Raises:
      ValueError: the backbone isn't in `SCALING`.
    """
    if backbone not in SCALING:
        raise ValueError(f"backbone '{backbone}' is unknown; there are {', '.join(SCALING)}")
    width, depth = SCALING[backbone]
    features = stem_features(backbone)
    blocks = []
    for stage, (repeats, kernel_size, stride, expansion, out) in enumerate(STAGES):
        # Lite keeps the first and the last stage at one block.
        if not ("lite" in backbone and stage in (0, len(STAGES) - 1)):
            repeats = math.ceil(depth * repeats)
        out = round_features(out, width)
        for repeat in range(repeats):
            first = repeat == 0
            blocks.append(
                BlockSpec(stage, features, out, kernel_size, stride if first else 1, expansion)
            )
            features = out
    return tuple(blocks)


class SqueezeExciteWeights(nn.Module):
    """Parameters of a channel attention; see `squeeze_excite`."""

    channels: int
    squeezed: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        reduce = PointwiseWeights(
            self.channels, self.squeezed, True, dtype=self.dtype, name="reduce"
        )
        expand = PointwiseWeights(
            self.squeezed, self.channels, True, dtype=self.dtype, name="expand"
        )
        return reduce(), expand()


def squeeze_excite(
    x: Float[Array, "B H W C"], weights: tuple[tuple[Array, Array], ...], act: str
) -> Float[Array, "B 1 1 C"]:
    """What each channel of an image is to be multiplied with (arXiv:1709.01507)."""
    (reduce, reduce_bias), (expand, expand_bias) = weights
    pooled = jnp.mean(x, (1, 2), keepdims=True)  # [B, 1, 1, C]
    hidden = activation(act)(pointwise_conv(pooled, reduce) + reduce_bias)
    return nn.sigmoid(pointwise_conv(hidden, expand) + expand_bias)


@functools.cache
def _project(act: str, train: bool) -> Callable[..., Array]:
    """(x, kernel, weights of squeeze-and-excitation or None) → the end of a block."""

    def run(x, kernel, weights):
        if weights is None:
            return pointwise_conv(x, kernel)
        gate = squeeze_excite(x, weights, act)
        return pointwise_conv(x * gate, kernel) if train else gated_pointwise_conv(x, gate, kernel)

    return run


class MBConv(nn.Module):
    """Inverted residual block: expand, depthwise, squeeze-and-excite, project, add.

    Attributes:
      spec: channels, kernel, stride, expansion.
      use_se: False for Lite.
      act: name of the activation.
      survival_probability: of the residual branch in training; 1 never drops it.
      padding: of the depthwise convolution, one of `ops.resample.PADDINGS`.
      epsilon: of the batch normalisations.
      dtype: of the computation.
    """

    spec: BlockSpec
    use_se: bool
    act: str
    survival_probability: float
    padding: str
    epsilon: float
    dtype: DTypeLike

    @property
    def expanded(self) -> int:
        """Channels of the depthwise convolution."""
        return self.spec.in_features * self.spec.expansion

    @property
    def squeezed(self) -> int:
        """Of the attention: a quarter of the block's *input* channels; 0 without."""
        return max(1, self.spec.in_features // 4) if self.use_se else 0

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"] | Normalized, *, train: bool
    ) -> Float[Array, "B h w D"]:
        spec, y = self.spec, x
        batch_norm = functools.partial(BatchNorm, epsilon=self.epsilon)
        if spec.expansion != 1:
            y = Conv(self.expanded, dtype=self.dtype, name="expand_conv")(y)
            y = batch_norm(self.act, name="expand_bn")(y, train=train, deferred=True)
        y = DepthwiseConv(
            spec.kernel_size, spec.stride, self.padding, dtype=self.dtype, name="depthwise_conv"
        )(y)
        y = batch_norm(self.act, name="depthwise_bn")(y, train=train, deferred=True)
        weights = None
        if self.use_se:
            weights = SqueezeExciteWeights(self.expanded, self.squeezed, self.dtype, name="se")()
        kernel, _ = PointwiseWeights(
            self.expanded, spec.out_features, dtype=self.dtype, name="project_conv"
        )()
        y = consume(_project(self.act, train), y, kernel, weights)
        y = batch_norm(name="project_bn")(y, train=train)
        if spec.stride != 1 or spec.in_features != spec.out_features:
            return y
        if train and self.survival_probability < 1.0:
            y = drop_connect(y, self.survival_probability, self.make_rng("drop_connect"))
        return consume(jnp.add, x, y)


class EfficientNet(nn.Module):
    """Backbone of a detector.

    Attributes:
      variant: a key of `SCALING`.
      act: name of the activation.
      survival_probability: of the last block; earlier blocks survive more often, the first always.
        Training with less than 1 needs an rng named 'drop_connect'.
      padding: of the convolutions, one of `ops.resample.PADDINGS`.
      epsilon: of the batch normalisations.
      dtype: of the computation.
      remat: computes the inside of every block again in the backward pass.
    """

    variant: str
    act: str = "swish"
    survival_probability: float = 1.0
    padding: str = "same"
    epsilon: float = 1e-3
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W 3"], *, train: bool = False
    ) -> dict[int, Float[Array, "B h w C"]]:
        """Normalised images → {3, 4, 5: features of stride 8, 16, 32}, before any activation."""
        stem = stem_features(self.variant)
        x = Conv(
            stem,
            kernel_size=3,
            stride=2,
            padding=self.padding,
            dtype=self.dtype,
            name="stem_conv",
        )(images)
        norm = BatchNorm(self.act, epsilon=self.epsilon, name="stem_bn")
        x = norm(x, train=train, deferred=True)  # The first block starts with a depthwise one.
        features, level = {}, 1
        blocks = block_specs(self.variant)
        for index, spec in enumerate(blocks):
            if spec.stride == 2:
                features[level] = x
                level += 1
            block = MBConv(
                spec,
                use_se="lite" not in self.variant,
                act=self.act,
                survival_probability=1 - (1 - self.survival_probability) * index / len(blocks),
                padding=self.padding,
                epsilon=self.epsilon,
                dtype=self.dtype,
                name=f"block_{index}",
            )
            x = run(block, x, train=train, remat=self.remat)
        features[level] = x
        return {level: features[level] for level in (3, 4, 5)}
