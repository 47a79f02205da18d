"""ResNet without the classifier: image → features of strides 8, 16, 32.

He et al., arXiv:1512.03385, in its version 1.5: a stage's stride is in the 3×3 convolution of its
first block, where the paper had it in the 1×1 before. torchvision, timm and google/automl agree.
"""

import dataclasses
import functools
from collections.abc import Iterator

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from effdet_jax.layers.batch_norm import BatchNorm
from effdet_jax.layers.convolution import Conv, call
from effdet_jax.ops.resample import max_pool


@dataclasses.dataclass(frozen=True)
class Variant:
    """What one ResNet differs in from the others.

    Attributes:
      blocks: of each of the four stages, whose strides are 4, 8, 16 and 32.
      width: channels of the stem and of the first stage's 3×3 convolutions; each stage doubles it.
    """

    blocks: tuple[int, int, int, int]
    width: int = 64


# arXiv:1512.03385, table 1.
VARIANTS = {
    "resnet50": Variant((3, 4, 6, 3)),
    "resnet101": Variant((3, 4, 23, 3)),
    "resnet-tiny": Variant((1, 1, 1, 1), width=8),  # Not published: a narrow one, for trials.
}
EXPANSION = 4  # A block puts out so many times its width.


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """One bottleneck: its stage and place in it, channels within, stride, whether it projects.

    Attributes:
      stage: 1 … 4, as torchvision counts them; the output's stride is 2 ** (stage + 1).
      repeat: 0 … in the stage.
      width: channels of the 3×3 convolution; it puts out four times as many.
      stride: of the 3×3 convolution, and of the shortcut's.
    """

    stage: int
    repeat: int
    width: int
    stride: int

    @property
    def name(self) -> str:
        """Its scope in the parameter tree, 'stage_2_block_0'."""
        return f"stage_{self.stage}_block_{self.repeat}"

    @property
    def projects(self) -> bool:
        """Whether its shortcut has a convolution: the first block of every stage has."""
        return self.repeat == 0


def block_specs(backbone: str) -> Iterator[BlockSpec]:
    """All blocks of a backbone of `VARIANTS`, in order."""
    variant = VARIANTS[backbone]
    for stage, blocks in enumerate(variant.blocks, start=1):
        for repeat in range(blocks):
            stride = 2 if stage > 1 and repeat == 0 else 1
            yield BlockSpec(stage, repeat, variant.width * 2 ** (stage - 1), stride)


class Bottleneck(nn.Module):
    """Residual block: 1×1 to fewer channels, 3×3, 1×1 to four times as many, add, ReLU.

    Attributes:
      spec: channels and stride.
      padding: of the 3×3 convolution, one of `ops.resample.PADDINGS`.
      epsilon: of the batch normalisations.
      dtype: of the computation.
    """

    spec: BlockSpec
    padding: str
    epsilon: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B h w D"]:
        spec = self.spec
        conv = functools.partial(Conv, padding=self.padding, dtype=self.dtype)
        norm = functools.partial(BatchNorm, epsilon=self.epsilon)
        conv_2 = conv(spec.width, kernel_size=3, stride=spec.stride, name="conv_2")
        conv_3 = conv(spec.width * EXPANSION, name="conv_3")

        y = conv(spec.width, name="conv_1")(x)
        y = norm("relu", after="conv_1", name="bn_1")(y, train=train, then=conv_2)
        y = norm("relu", after="conv_2", name="bn_2")(y, train=train, then=conv_3)
        y = norm(after="conv_3", name="bn_3")(y, train=train)
        if spec.projects:
            project = conv(spec.width * EXPANSION, stride=spec.stride, name="shortcut_conv")
            x = norm(after="shortcut_conv", name="shortcut_bn")(project(x), train=train)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Backbone of a detector; its activations are ReLUs whatever those of the detector are.

    Attributes:
      variant: a key of `VARIANTS`.
      padding: of convolutions and pooling, one of `ops.resample.PADDINGS`. All published weights
        pad 'symmetric'.
      epsilon: of the batch normalisations, 1e-5 in PyTorch's.
      dtype: of the computation.
      remat: computes the inside of every block again in the backward pass.
    """

    variant: str
    padding: str = "symmetric"
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W 3"], *, train: bool = False
    ) -> dict[int, Float[Array, "B h w C"]]:
        """Normalised images → {3, 4, 5: features of stride 8, 16, 32}, after the ReLU."""
        x = Conv(
            VARIANTS[self.variant].width,
            kernel_size=7,
            stride=2,
            padding=self.padding,
            dtype=self.dtype,
            name="stem_conv",
        )(images)
        norm = BatchNorm("relu", epsilon=self.epsilon, after="stem_conv", name="stem_bn")
        x = norm(x, train=train)
        x = max_pool(x, tuple((side + 1) // 2 for side in x.shape[1:3]), self.padding)
        features = {}
        for spec in block_specs(self.variant):
            block = Bottleneck(spec, self.padding, self.epsilon, self.dtype, name=spec.name)
            x = call(block, x, train=train, remat=self.remat)
            features[spec.stage + 1] = x
        return {level: features[level] for level in (3, 4, 5)}
