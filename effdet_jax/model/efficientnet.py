"""EfficientNet and EfficientNet-Lite without the classifier: image → features of strides 8, 16, 32.

Tan & Le, arXiv:1905.11946; Lite: no squeeze-and-excitation, ReLU6, stem and ends not scaled.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from effdet_jax.layers.batch_norm import BatchNorm
from effdet_jax.layers.convolution import Conv, DepthwiseConv, call, drop_connect
from effdet_jax.ops.convolution import gated_pointwise_conv, pointwise_conv
from effdet_jax.ops.normalization import activation


@dataclasses.dataclass(frozen=True)
class Variant:
    """What one published EfficientNet differs in from the others.

    Attributes:
      width, depth: multipliers of channels and of blocks per stage.
      lite: no squeeze-and-excitation; stem, first and last stage aren't scaled.
    """

    width: float
    depth: float
    lite: bool = False


# arXiv:1905.11946 and google/automl's efficientnet_builder.
VARIANTS = {
    "efficientnet-b0": Variant(1.0, 1.0),
    "efficientnet-b1": Variant(1.0, 1.1),
    "efficientnet-b2": Variant(1.1, 1.2),
    "efficientnet-b3": Variant(1.2, 1.4),
    "efficientnet-b4": Variant(1.4, 1.8),
    "efficientnet-b5": Variant(1.6, 2.2),
    "efficientnet-b6": Variant(1.8, 2.6),
    "efficientnet-b7": Variant(2.0, 3.1),
    "efficientnet-lite0": Variant(1.0, 1.0, lite=True),
    "efficientnet-lite1": Variant(1.0, 1.1, lite=True),
    "efficientnet-lite2": Variant(1.1, 1.2, lite=True),
    "efficientnet-lite3": Variant(1.2, 1.4, lite=True),
    "efficientnet-lite4": Variant(1.4, 1.8, lite=True),
    "efficientnet-tiny": Variant(0.25, 0.1),  # Not published: a narrow block per stage, for trials.
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


def find_variant(name: str) -> Variant:
    """The variant of a backbone's name.

    Raises:
      ValueError: there is none of that name.
    """
    if name not in VARIANTS:
        raise ValueError(f"backbone '{name}' is unknown; there are {', '.join(VARIANTS)}")
    return VARIANTS[name]


def stem_features(backbone: str) -> int:
    """Channels of the first convolution; Lite doesn't scale them."""
    variant = find_variant(backbone)
    return round_features(STEM_FEATURES, 1.0 if variant.lite else variant.width)


def uses_squeeze_excite(backbone: str) -> bool:
    """Whether its blocks have a channel attention; Lite's don't."""
    return not find_variant(backbone).lite


def block_specs(backbone: str) -> tuple[BlockSpec, ...]:
    """All blocks of a backbone in order.

    Raises:
      ValueError: the backbone isn't in `VARIANTS`.
    """
    variant = find_variant(backbone)
    features = stem_features(backbone)
    blocks = []
    for stage, (repeats, kernel_size, stride, expansion, out) in enumerate(STAGES):
        # Lite keeps the first and the last stage at one block.
        if not (variant.lite and stage in (0, len(STAGES) - 1)):
            repeats = math.ceil(variant.depth * repeats)
        out = round_features(out, variant.width)
        for repeat in range(repeats):
            first = repeat == 0
            blocks.append(
                BlockSpec(stage, features, out, kernel_size, stride if first else 1, expansion)
            )
            features = out
    return tuple(blocks)


class SqueezeExcite(nn.Module):
    """Channel attention: what each channel of an image is multiplied with (arXiv:1709.01507).

    Attributes:
      squeezed: channels between its two convolutions.
      act: name of the activation between them.
      dtype: of the computation.
    """

    squeezed: int
    act: str
    dtype: DTypeLike

    @nn.compact
    def gate(self, channels: int) -> tuple[Callable[..., Array], Sequence[Array]]:
        """(function, weights): `function(x [B, H, W, C], *weights)` is the gate [B, 1, 1, C]."""
        reduce, reduce_weights = Conv(
            self.squeezed, use_bias=True, dtype=self.dtype, name="reduce"
        ).first(channels)
        expand, expand_weights = Conv(
            channels, use_bias=True, dtype=self.dtype, name="expand"
        ).first(self.squeezed)
        return _gate(reduce, expand, self.act), [*reduce_weights, *expand_weights]


@functools.cache
def _gate(reduce: Callable[..., Array], expand: Callable[..., Array], act: str):
    def gate(x, reduce_kernel, reduce_bias, expand_kernel, expand_bias):
        pooled = jnp.mean(x, (1, 2), keepdims=True)  # [B, 1, 1, C]
        hidden = activation(act)(reduce(pooled, reduce_kernel, reduce_bias))
        return nn.sigmoid(expand(hidden, expand_kernel, expand_bias))

    return gate


@dataclasses.dataclass
class GatedConv:
    """Squeeze-and-excitation, then the 1×1 convolution: one `Layer` of two modules.

    Inference on a CPU multiplies the gate into the convolution's kernel, which saves a pass.
    """

    attention: SqueezeExcite
    conv: Conv
    train: bool

    def first(self, channels: int) -> tuple[Callable[..., Array], Sequence[Array]]:
        gate, gate_weights = self.attention.gate(channels)
        _, (kernel,) = self.conv.first(channels)
        return _gated(gate, self.train), [kernel, *gate_weights]

    def rest(self, y: Array) -> Array:
        return y

    def __call__(self, x: Array) -> Array:
        function, weights = self.first(x.shape[-1])
        return function(x, *weights)


@functools.cache
def _gated(gate: Callable[..., Array], train: bool) -> Callable[..., Array]:
    def project(x, kernel, *gate_weights):
        if train:
            return pointwise_conv(x * gate(x, *gate_weights), kernel[0, 0])
        return gated_pointwise_conv(x, gate(x, *gate_weights), kernel[0, 0])

    return project


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
    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B h w D"]:
        spec = self.spec
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = functools.partial(BatchNorm, epsilon=self.epsilon)
        depthwise = DepthwiseConv(
            spec.kernel_size, spec.stride, self.padding, dtype=self.dtype, name="depthwise_conv"
        )
        project = conv(spec.out_features, name="project_conv")
        if self.squeezed:
            attention = SqueezeExcite(self.squeezed, self.act, self.dtype, name="se")
            project = GatedConv(attention, project, train)

        if spec.expansion == 1:
            y = depthwise(x)
        else:
            y = conv(self.expanded, name="expand_conv")(x)
            expand_bn = norm(self.act, after="expand_conv", name="expand_bn")
            y = expand_bn(y, train=train, then=depthwise)
        depthwise_bn = norm(self.act, after="depthwise_conv", name="depthwise_bn")
        y = depthwise_bn(y, train=train, then=project)
        y = norm(after="project_conv", name="project_bn")(y, train=train)
        if spec.stride != 1 or spec.in_features != spec.out_features:
            return y
        if train and self.survival_probability < 1.0:
            y = drop_connect(y, self.survival_probability, self.make_rng("drop_connect"))
        return x + y


class EfficientNet(nn.Module):
    """Backbone of a detector.

    Attributes:
      variant: a key of `VARIANTS`.
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
        norm = BatchNorm(self.act, epsilon=self.epsilon, after="stem_conv", name="stem_bn")
        x = norm(x, train=train)
        features, level = {}, 1
        blocks = block_specs(self.variant)
        for index, spec in enumerate(blocks):
            if spec.stride == 2:
                features[level] = x
                level += 1
            block = MBConv(
                spec,
                use_se=uses_squeeze_excite(self.variant),
                act=self.act,
                survival_probability=1 - (1 - self.survival_probability) * index / len(blocks),
                padding=self.padding,
                epsilon=self.epsilon,
                dtype=self.dtype,
                name=f"block_{index}",
            )
            x = call(block, x, train=train, remat=self.remat)
        features[level] = x
        return {level: features[level] for level in (3, 4, 5)}
